//! The client's address behind reverse proxies.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Reads `X-Forwarded-For` from right to left: every trusted proxy vouches for the address to its left, and the first
/// address that is not a trusted proxy's is the client's. Anything further left may be forged and is ignored.
///
/// Returns `None` if a trusted proxy has added something that is not an address.
pub(super) fn client_ip(peer: Option<IpAddr>, forwarded_for: Option<&str>, trusted: &[IpNet]) -> Option<IpAddr> {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
    let mut client = peer?;
    for hop in forwarded_for.unwrap_or_default().rsplit(',').map(str::trim) {
        if !is_trusted(client) || hop.is_empty() {
            break;
        }
        client = parse_hop(hop)?;
    }
    Some(client)
}

/// Parses `203.0.113.7`, `203.0.113.7:4711`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:4711`.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let ip = bare.parse().or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip())).ok()?;
    Some(IpAddr::to_canonical(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientInfo;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn resolve(peer: &str, forwarded_for: &str, trusted: &[&str]) -> Option<IpAddr> {
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        ClientInfo::new().ip(ip(peer)).forwarded_for(forwarded_for).client_ip(&trusted)
    }

    #[test]
    fn hole_22_the_header_is_ignored_if_the_peer_is_not_a_trusted_proxy() {
        assert_eq!(resolve("203.0.113.7", "198.51.100.1", &[]), Some(ip("203.0.113.7")));
        assert_eq!(resolve("203.0.113.7", "198.51.100.1", &["10.0.0.0/8"]), Some(ip("203.0.113.7")));
    }

    #[test]
    fn a_trusted_proxy_vouches_for_the_address_to_its_left_only() {
        let trusted = ["10.0.0.0/8"];
        assert_eq!(resolve("10.0.0.1", "203.0.113.7", &trusted), Some(ip("203.0.113.7")));
        assert_eq!(resolve("10.0.0.1", "6.6.6.6, 203.0.113.7", &trusted), Some(ip("203.0.113.7")));
        assert_eq!(resolve("10.0.0.1", "6.6.6.6, 203.0.113.7, 10.2.2.2", &trusted), Some(ip("203.0.113.7")));
        assert_eq!(resolve("10.0.0.1", "10.3.3.3, 10.2.2.2", &trusted), Some(ip("10.3.3.3")));
        assert_eq!(resolve("10.0.0.1", "", &trusted), Some(ip("10.0.0.1")));
    }

    #[test]
    fn a_hop_may_have_a_port_and_brackets() {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"];
        for hop in ["203.0.113.7", "203.0.113.7:80", "::ffff:203.0.113.7", "[::ffff:203.0.113.7]:80"] {
            assert_eq!(resolve("10.0.0.1", hop, &trusted), Some(ip("203.0.113.7")), "{hop}");
        }
        for hop in ["2a00::1", "[2a00::1]", "[2a00::1]:443"] {
            assert_eq!(resolve("2001:db8::9", hop, &trusted), Some(ip("2a00::1")), "{hop}");
        }
    }

    #[test]
    fn a_proxy_that_vouches_for_garbage_leaves_the_client_unknown() {
        for hop in ["unknown", "_hidden", "203.0.113", "203.0.113.7:99999", "[::1", "é"] {
            assert_eq!(resolve("10.0.0.1", hop, &["10.0.0.0/8"]), None, "{hop}");
        }
        assert_eq!(resolve("10.0.0.1", "garbage, 203.0.113.7", &["10.0.0.0/8"]), Some(ip("203.0.113.7")));
    }

    #[test]
    fn an_ipv4_mapped_ipv6_address_is_the_ipv4_address() {
        assert_eq!(resolve("::ffff:10.0.0.1", "203.0.113.7", &["10.0.0.0/8"]), Some(ip("203.0.113.7")));
    }
}
