//! Setups in which addresses cannot be compared: an app hears of each once, and not once per request.

use std::net::IpAddr;

use crate::config::{ForwardedHeader, Notice, ResolvedSettings, Settings};

/// What is wrong with the setup, as far as a request shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetupMistake {
    /// A login was not told who logs in.
    LoginWithoutClient,
    /// The server does not know its peers.
    NoPeer,
    /// The proxy at the other end of a socket without addresses sends no header.
    NoHeader,
    /// A trusted proxy names no address.
    Unreadable,
    /// A trusted proxy sends no header, or only the other one.
    MissingHeader {
        /// The proxy.
        peer: IpAddr,
        /// The header that was sent instead.
        other: Option<ForwardedHeader>,
    },
    /// What looks like a proxy is not trusted.
    UntrustedProxy {
        /// The proxy.
        peer: IpAddr,
    },
}

impl SetupMistake {
    const fn notice(self) -> Notice {
        match self {
            Self::LoginWithoutClient => Notice::LoginWithoutClient,
            Self::NoPeer => Notice::NoPeer,
            Self::NoHeader => Notice::NoForwardedHeader,
            Self::Unreadable => Notice::UnreadableForwardedHeader,
            Self::MissingHeader { .. } => Notice::MissingForwardedHeader,
            Self::UntrustedProxy { .. } => Notice::UntrustedProxy,
        }
    }

    /// Logs the mistake, the first time.
    pub(crate) fn report(self, settings: &ResolvedSettings) {
        if settings.notices.is_first(self.notice()) {
            tracing::warn!(target: "axum_refresh", realm = settings.realm.as_deref(), "{}", self.advice(settings));
        }
    }

    /// What happened, and what to do.
    fn advice(self, settings: &Settings) -> String {
        let header = settings.forwarded_header.name();
        match self {
            Self::LoginWithoutClient => {
                "a session is bound to its client, but a login names none, so every other request of the session counts \
                 as another client's: extract ClientInfo in the login handler and pass it to LoginBuilder::client"
                    .to_owned()
            }
            Self::NoPeer => format!(
                "binding.ip is on, but a request has no peer address, so its client is unknown and counts as another \
                 one: serve the app with into_make_service_with_connect_info::<SocketAddr>(); behind a proxy on a Unix \
                 socket, or on AWS Lambda, set `trust_unknown_peer` and let the proxy send {header}"
            ),
            Self::NoHeader => format!(
                "binding.ip is on, but a request has neither a peer address nor {header}, so its client is unknown and \
                 counts as another one: let the proxy send {header}, or set `forwarded_header` to the header that it sends"
            ),
            Self::Unreadable => format!(
                "binding.ip is on, but a trusted proxy has put something else than an address into {header}, so the \
                 client is unknown and counts as another one: let the proxy add the address of its peer"
            ),
            Self::MissingHeader { peer, other } => {
                let sent = other.map_or_else(String::new, |other| format!("{} and ", other.name()));
                format!(
                    "binding.ip is on, but a request from {peer}, one of `trusted_proxies`, has {sent}no {header}, so \
                     {peer} counts as the client: if it is a proxy, let it send {header}, or set `forwarded_header` to the \
                     header that it sends"
                )
            }
            Self::UntrustedProxy { peer } => format!(
                "binding.ip is on, but {header} from {peer} is ignored, so all clients behind {peer} have one address: if \
                 it is your proxy, add it to `trusted_proxies`"
            ),
        }
    }
}

/// Whether the peer is in this network, as most proxies are. A client on the internet that sends the header itself is not
/// taken for one.
pub(super) const fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // Shared address space, 100.64.0.0/10 (RFC 6598).
            let [first, second, ..] = ip.octets();
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || (first == 100 && second & 0xC0 == 64)
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
