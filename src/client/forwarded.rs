//! The client's address behind reverse proxies.

use std::net::{IpAddr, Ipv6Addr};

use crate::config::{ForwardedHeader, Settings};

/// Why the client's address is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// There is no peer address, and no proxy is trusted without one.
    NoPeer,
    /// There is no peer address, and the proxy in its place has named nobody.
    NoHeader,
    /// A trusted proxy has added something that names no address.
    Unreadable,
}

/// Reads the forwarding header from right to left: every trusted proxy vouches for the address to its left, and the first
/// address that is not a trusted proxy's is the client's. Anything further left may be forged and is ignored.
pub(super) fn client_ip(peer: Option<IpAddr>, header: &str, settings: &Settings) -> Result<IpAddr, Unknown> {
    if peer.is_none() && !settings.trust_unknown_peer {
        return Err(Unknown::NoPeer);
    }
    let mut hop = peer;
    for element in (Elements { header: settings.forwarded_header, rest: Some(header) }) {
        if hop.is_some_and(|ip| !is_trusted(ip, settings)) {
            break;
        }
        let ip = match settings.forwarded_header {
            ForwardedHeader::XForwardedFor => parse_node(without_quotes(element)),
            ForwardedHeader::Forwarded => node_of(element).and_then(|node| parse_node(&node)),
        };
        hop = Some(ip.ok_or(Unknown::Unreadable)?);
    }
    hop.ok_or(Unknown::NoHeader)
}

/// Whether this is the address of a trusted proxy.
pub(super) fn is_trusted(ip: IpAddr, settings: &Settings) -> bool {
    settings.trusted_proxies.iter().any(|net| net.contains(&ip))
}

/// Whether a header has any element.
pub(super) fn has_elements(kind: ForwardedHeader, header: &str) -> bool {
    Elements { header: kind, rest: Some(header) }.next().is_some()
}

/// The elements of a header from right to left. Empty ones are skipped (RFC 9110 §5.6.1).
struct Elements<'a> {
    header: ForwardedHeader,
    rest: Option<&'a str>,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let rest = self.rest?;
            let (before, element) = match self.header {
                // An address contains no comma, so a quotation mark has no power over one.
                ForwardedHeader::XForwardedFor => {
                    rest.rsplit_once(',').map_or((None, rest), |(before, last)| (Some(before), last))
                }
                ForwardedHeader::Forwarded => split_last(rest, b','),
            };
            self.rest = before;
            let element = trim(element);
            if !element.is_empty() {
                return Some(element);
            }
        }
    }
}

/// Splits at the last delimiter that is not in a quoted string (RFC 9110 §5.6.4).
///
/// Quotation marks are paired from the right, so that one that a client has left open reaches no element of a proxy.
fn split_last(text: &str, delimiter: u8) -> (Option<&str>, &str) {
    let bytes = text.as_bytes();
    let mut is_quoted = false;
    for (at, byte) in bytes.iter().enumerate().rev() {
        match byte {
            b'"' if is_quoted => {
                let before = bytes.get(..at).unwrap_or_default();
                let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
                is_quoted = backslashes % 2 == 1;
            }
            b'"' => is_quoted = true,
            byte if *byte == delimiter && !is_quoted => {
                return (text.get(..at), text.get(at + 1..).unwrap_or_default());
            }
            _ => {}
        }
    }
    (None, text)
}

/// Removes optional whitespace (RFC 9110 §5.6.3), and no other.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Some proxies quote addresses in `X-Forwarded-For` as in `Forwarded`.
fn without_quotes(element: &str) -> &str {
    element.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(element)
}

/// Returns the value of `for` in an element of `Forwarded` (RFC 7239 §4): pairs in any order, with names in any case.
///
/// Returns `None` if the element is malformed, names nobody, or names somebody twice.
fn node_of(element: &str) -> Option<String> {
    let (mut node, mut rest) = (None, Some(element));
    while let Some(pairs) = rest {
        let (before, pair) = split_last(pairs, b';');
        rest = before;
        let pair = trim(pair);
        if pair.is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=')?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return None;
        }
        let value = unquote(value)?;
        if name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
            return None;
        }
    }
    node
}

/// Returns the content of a quoted string, or a value that is not quoted. Proxies forget to quote `:` and brackets, so
/// these are allowed without.
fn unquote(value: &str) -> Option<String> {
    let Some(quoted) = value.strip_prefix('"') else {
        return (!value.contains(['"', ' ', '\t'])).then(|| value.to_owned());
    };
    let quoted = quoted.strip_suffix('"')?;
    let mut content = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return None,
            '\\' => content.push(characters.next()?),
            _ => content.push(character),
        }
    }
    Some(content)
}

/// Parses a node (RFC 7239 §6): an address with an optional port, such as `203.0.113.7`, `203.0.113.7:4711`,
/// `2001:db8::1` or `[2001:db8::1]:4711`. A zone, as in `fe80::1%eth0`, names an interface of the proxy and is dropped.
///
/// Returns `None` for `unknown`, for an obfuscated identifier such as `_hidden`, and for anything else.
fn parse_node(node: &str) -> Option<IpAddr> {
    let (address, port) = match node.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            (address, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        // With more than one colon it is an IPv6 address, and without brackets that has no port.
        None => match node.split_once(':') {
            Some((address, port)) if !port.contains(':') => (address, Some(port)),
            _ => (node, None),
        },
    };
    if !port.is_none_or(is_port) {
        return None;
    }
    let ip = match address.split_once('%') {
        Some((address, zone)) => address.parse::<Ipv6Addr>().ok().filter(|_| is_zone(zone))?.into(),
        None => address.parse().ok()?,
    };
    Some(IpAddr::to_canonical(&ip))
}

/// A port, or an obfuscated one such as `_http` (RFC 7239 §6).
fn is_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)),
        None => port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok(),
    }
}

fn is_zone(zone: &str) -> bool {
    !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-%".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientInfo;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn trusting(trusted: &[&str]) -> Settings {
        Settings { trusted_proxies: trusted.iter().map(|net| net.parse().unwrap()).collect(), ..Settings::default() }
    }

    fn resolve(peer: &str, forwarded_for: &str, trusted: &[&str]) -> Option<IpAddr> {
        ClientInfo::new().ip(ip(peer)).forwarded_for(forwarded_for).locate(&trusting(trusted)).0
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

    #[test]
    fn quotation_marks_are_paired_from_the_right() {
        let split = |text| split_last(text, b',');
        assert_eq!(split("a,b"), (Some("a"), "b"));
        assert_eq!(split(r#"a,b="x,y""#), (Some("a"), r#"b="x,y""#));
        assert_eq!(split(r#"a,b="x\",y""#), (Some("a"), r#"b="x\",y""#));
        assert_eq!(split(r#"a,b="x,\\""#), (Some("a"), r#"b="x,\\""#));
        assert_eq!(split(r#"a=",b=c"#), (Some(r#"a=""#), "b=c"));
        assert_eq!(split(r#"a=",b="c""#), (Some(r#"a=""#), r#"b="c""#));
        assert_eq!(split(r#"a,b""#), (None, r#"a,b""#));
    }
}
