//! The client behind a request: its address behind trusted proxies, its browser and platform, and whether they still
//! match those at login.

pub(crate) mod binding;
mod forwarded;
mod setup;
pub(crate) mod user_agent;

use std::net::IpAddr;
use std::sync::Arc;

use self::forwarded::Unknown;
pub(crate) use self::setup::SetupMistake;
use crate::config::{ForwardedHeader, Settings};
use crate::session::{Actor, Client};

/// What is known about the client of a request: its address, its `User-Agent` and a label.
///
/// An axum handler takes it as an extractor. Without HTTP, create it yourself:
///
/// ```
/// use axum_refresh::ClientInfo;
///
/// let client = ClientInfo::new().ip("203.0.113.7".parse().unwrap()).user_agent("Mozilla/5.0").label("kitchen");
/// ```
///
/// [`Auth::client_ip`](crate::Auth::client_ip) returns the client's address behind the
/// [trusted proxies](crate::Settings::trusted_proxies).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    peer: Option<IpAddr>,
    forwarded_for: Option<Box<str>>,
    forwarded: Option<Box<str>>,
    user_agent: Option<Arc<str>>,
    label: Option<Box<str>>,
    /// Who acts for the user.
    actor: Option<Arc<Actor>>,
    is_cross_site: bool,
}

const MAX_USER_AGENT_BYTES: usize = 512;
const MAX_LABEL_BYTES: usize = 128;

impl ClientInfo {
    /// Creates a `ClientInfo` without any information.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the address at the other end of the connection: the client's, or that of the nearest proxy.
    #[must_use]
    pub fn ip(mut self, peer: IpAddr) -> Self {
        self.peer = Some(peer.to_canonical());
        self
    }

    /// Sets the `X-Forwarded-For` header, all its lines joined by commas. It is trusted only as far as the
    /// [trusted proxies](crate::Settings::trusted_proxies) reach, and counts unless
    /// [`forwarded_header`](crate::Settings::forwarded_header) is `forwarded`.
    #[must_use]
    pub fn forwarded_for(mut self, header: impl Into<Box<str>>) -> Self {
        self.forwarded_for = Some(header.into());
        self
    }

    /// Sets the `Forwarded` header (RFC 7239), all its lines joined by commas. It is trusted only as far as the
    /// [trusted proxies](crate::Settings::trusted_proxies) reach, and counts only if
    /// [`forwarded_header`](crate::Settings::forwarded_header) is `forwarded`.
    #[must_use]
    pub fn forwarded(mut self, header: impl Into<Box<str>>) -> Self {
        self.forwarded = Some(header.into());
        self
    }

    /// Sets the `User-Agent` header, cut to 512 bytes. An empty header counts as missing.
    #[must_use]
    pub fn user_agent(mut self, header: &str) -> Self {
        self.user_agent = Some(truncate(header, MAX_USER_AGENT_BYTES)).filter(|text| !text.is_empty()).map(Arc::from);
        self
    }

    /// Sets a name for the client's device, cut to 128 bytes. It is shown in lists of sessions. An empty name counts as
    /// missing.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.label = Some(truncate(label, MAX_LABEL_BYTES)).filter(|text| !text.is_empty()).map(Box::from);
        self
    }

    /// Somebody who acts for the user has sent the request.
    pub(crate) fn acting(mut self, actor: Option<Arc<Actor>>) -> Self {
        self.actor = actor;
        self
    }

    /// The request was sent by a script of another site's page.
    pub(crate) fn cross_site(mut self) -> Self {
        self.is_cross_site = true;
        self
    }

    pub(crate) const fn is_cross_site(&self) -> bool {
        self.is_cross_site
    }

    /// The client's address, if it is known, and what is wrong with the setup if addresses cannot be compared.
    pub(crate) fn locate(&self, settings: &Settings) -> (Option<IpAddr>, Option<SetupMistake>) {
        let chosen = settings.forwarded_header;
        match forwarded::client_ip(self.peer, self.header(chosen), settings) {
            Ok(ip) => (Some(ip), self.peer.and_then(|peer| self.mistake(peer, settings))),
            Err(Unknown::NoPeer) => (None, Some(SetupMistake::NoPeer)),
            Err(Unknown::NoHeader) => (None, Some(SetupMistake::NoHeader)),
            Err(Unknown::Unreadable) => (None, Some(SetupMistake::Unreadable)),
        }
    }

    /// Whether the address of a proxy is taken for that of its clients.
    fn mistake(&self, peer: IpAddr, settings: &Settings) -> Option<SetupMistake> {
        let has = |kind: &ForwardedHeader| forwarded::has_elements(*kind, self.header(*kind));
        if has(&settings.forwarded_header) {
            // Whoever has set `trusted_proxies` has decided whom to trust.
            let is_forgotten = settings.trusted_proxies.is_empty() && setup::is_local(peer);
            return is_forgotten.then_some(SetupMistake::UntrustedProxy { peer });
        }
        let other = [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded].into_iter().find(has);
        forwarded::is_trusted(peer, settings).then_some(SetupMistake::MissingHeader { peer, other })
    }

    fn header(&self, kind: ForwardedHeader) -> &str {
        let header = match kind {
            ForwardedHeader::XForwardedFor => &self.forwarded_for,
            ForwardedHeader::Forwarded => &self.forwarded,
        };
        header.as_deref().unwrap_or_default()
    }

    /// Whether the request may have been sent by a proxy of the app's, as far as the setup tells.
    pub(crate) fn is_from_proxy(&self, settings: &Settings) -> bool {
        let is_local = |peer| settings.trusted_proxies.is_empty() && setup::is_local(peer);
        self.peer.is_none_or(|peer| forwarded::is_trusted(peer, settings) || is_local(peer))
    }

    /// What a session keeps of the client.
    pub(crate) fn resolve(self, settings: &Settings) -> (Client, Option<SetupMistake>) {
        let (ip, mistake) = self.locate(settings);
        (Client { ip, user_agent: self.user_agent, label: self.label, actor: self.actor }, mistake)
    }
}

/// Cuts a text to at most `max_bytes`, between two characters, and trims it.
fn truncate(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_between_two_characters() {
        let resolve = |client: ClientInfo| client.resolve(&Settings::default()).0;
        let client = resolve(ClientInfo::new().user_agent(&"é".repeat(1000)).label(&"x".repeat(1000)));
        assert_eq!(client.user_agent.unwrap().len(), 512);
        assert_eq!(client.label.unwrap().len(), 128);
        let odd_boundary = resolve(ClientInfo::new().user_agent(&format!("a{}", "é".repeat(1000))));
        assert_eq!(odd_boundary.user_agent.unwrap().len(), 511);
        assert_eq!(resolve(ClientInfo::new().user_agent("").label(" ")), Client::default());
    }
}
