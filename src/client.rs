//! Who is calling: the address behind the proxies that the app trusts, and the browser's family.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::session::Client;

/// What a request says of its client.
///
/// An axum handler takes it as an extractor; without HTTP it is put together by hand:
///
/// ```
/// use axum_refresh::ClientInfo;
///
/// let client = ClientInfo::new().ip("203.0.113.7".parse().unwrap()).user_agent("Mozilla/5.0").label("kitchen");
/// ```
///
/// The address that counts is found by [`Auth`](crate::Auth), which knows the trusted proxies:
/// [`Auth::client_ip`](crate::Auth::client_ip).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    peer: Option<IpAddr>,
    forwarded_for: Option<Box<str>>,
    user_agent: Option<Arc<str>>,
    label: Option<Box<str>>,
}

const LONGEST_USER_AGENT: usize = 512;
const LONGEST_LABEL: usize = 128;

impl ClientInfo {
    /// Nothing known.
    pub fn new() -> Self {
        Self::default()
    }

    /// The address at the other end of the connection.
    #[must_use]
    pub fn ip(mut self, peer: IpAddr) -> Self {
        self.peer = Some(peer.to_canonical());
        self
    }

    /// The `X-Forwarded-For` header, all its lines joined by commas. Believed only as far as trusted proxies reach.
    #[must_use]
    pub fn forwarded_for(mut self, header: impl Into<Box<str>>) -> Self {
        self.forwarded_for = Some(header.into());
        self
    }

    /// The `User-Agent` header. All but the first 512 bytes are dropped; an empty one is none.
    #[must_use]
    pub fn user_agent(mut self, header: &str) -> Self {
        self.user_agent = Some(cut(header, LONGEST_USER_AGENT)).filter(|text| !text.is_empty()).map(Arc::from);
        self
    }

    /// A name for the session's device, shown in listings. All but the first 128 bytes are dropped.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.label = Some(cut(label, LONGEST_LABEL)).filter(|text| !text.is_empty()).map(Box::from);
        self
    }

    pub(crate) fn client_ip(&self, trusted: &[IpNet]) -> Option<IpAddr> {
        client_ip(self.peer, self.forwarded_for.as_deref(), trusted)
    }

    pub(crate) fn resolve(self, trusted: &[IpNet]) -> Client {
        Client { ip: self.client_ip(trusted), user_agent: self.user_agent, label: self.label }
    }
}

fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or(text).trim()
}

/// Walks `X-Forwarded-For` from the right: every trusted proxy vouches for the address to its left, and the first
/// address that is not a trusted proxy is the client's. What stands further left is the client's own invention.
///
/// A trusted proxy that vouches for something that is no address leaves the client unknown.
fn client_ip(peer: Option<IpAddr>, forwarded_for: Option<&str>, trusted: &[IpNet]) -> Option<IpAddr> {
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

/// `203.0.113.7`, `203.0.113.7:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let ip = bare.parse().or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip())).ok()?;
    Some(IpAddr::to_canonical(&ip))
}

/// The browser and its platform, without their versions, so that an update changes nothing. A client that is no
/// browser is known by the words of its User-Agent, again without versions.
pub(crate) fn family(user_agent: &str) -> String {
    // The first match counts: Edge and Opera also say Chrome, Chrome also says Safari, everybody says Mozilla.
    const BROWSERS: [(&str, &str); 12] = [
        ("Edg/", "Edge"),
        ("EdgA/", "Edge"),
        ("EdgiOS/", "Edge"),
        ("OPR/", "Opera"),
        ("SamsungBrowser/", "Samsung Internet"),
        ("Vivaldi/", "Vivaldi"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("CriOS/", "Chrome"),
        ("HeadlessChrome/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ];
    const PLATFORMS: [(&str, &str); 9] = [
        ("Windows", "Windows"),
        ("iPhone", "iOS"),
        ("iPad", "iOS"),
        ("iPod", "iOS"),
        ("Android", "Android"),
        ("CrOS", "ChromeOS"),
        ("Macintosh", "macOS"),
        ("Linux", "Linux"),
        ("X11", "Unix"),
    ];
    let find = |table: &[(&str, &'static str)]| {
        table.iter().find(|(mark, _)| user_agent.contains(mark)).map(|(_, name)| *name)
    };
    if let (true, Some(browser)) = (user_agent.starts_with("Mozilla/"), find(&BROWSERS)) {
        return format!("{browser} on {}", find(&PLATFORMS).unwrap_or("something"));
    }
    let is_version = |word: &str| {
        let word = word.trim_matches(|c: char| c.is_ascii_punctuation());
        let word = word.strip_prefix('v').unwrap_or(word);
        word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
    };
    let words = user_agent.split_whitespace().filter(|word| !is_version(word));
    let names = words.map(|word| word.split_once('/').map_or(word, |(name, _version)| name));
    names.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn seen_as(peer: &str, forwarded_for: &str, trusted: &[&str]) -> Option<IpAddr> {
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        ClientInfo::new().ip(ip(peer)).forwarded_for(forwarded_for).client_ip(&trusted)
    }

    #[test]
    fn hole_22_nobody_is_believed_who_is_not_a_trusted_proxy() {
        assert_eq!(seen_as("203.0.113.7", "198.51.100.1", &[]), Some(ip("203.0.113.7")));
        assert_eq!(seen_as("203.0.113.7", "198.51.100.1", &["10.0.0.0/8"]), Some(ip("203.0.113.7")));
    }

    #[test]
    fn a_trusted_proxy_vouches_for_the_address_to_its_left_only() {
        let trusted = ["10.0.0.0/8"];
        assert_eq!(seen_as("10.0.0.1", "203.0.113.7", &trusted), Some(ip("203.0.113.7")));
        assert_eq!(seen_as("10.0.0.1", "6.6.6.6, 203.0.113.7", &trusted), Some(ip("203.0.113.7")));
        assert_eq!(seen_as("10.0.0.1", "6.6.6.6, 203.0.113.7, 10.2.2.2", &trusted), Some(ip("203.0.113.7")));
        assert_eq!(seen_as("10.0.0.1", "10.3.3.3, 10.2.2.2", &trusted), Some(ip("10.3.3.3")));
        assert_eq!(seen_as("10.0.0.1", "", &trusted), Some(ip("10.0.0.1")));
    }

    #[test]
    fn a_hop_may_have_a_port_and_brackets() {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"];
        for hop in ["203.0.113.7", "203.0.113.7:80", "::ffff:203.0.113.7", "[::ffff:203.0.113.7]:80"] {
            assert_eq!(seen_as("10.0.0.1", hop, &trusted), Some(ip("203.0.113.7")), "{hop}");
        }
        for hop in ["2a00::1", "[2a00::1]", "[2a00::1]:443"] {
            assert_eq!(seen_as("2001:db8::9", hop, &trusted), Some(ip("2a00::1")), "{hop}");
        }
    }

    #[test]
    fn a_proxy_that_vouches_for_garbage_leaves_the_client_unknown() {
        for hop in ["unknown", "_hidden", "203.0.113", "203.0.113.7:99999", "[::1", "é"] {
            assert_eq!(seen_as("10.0.0.1", hop, &["10.0.0.0/8"]), None, "{hop}");
        }
        assert_eq!(seen_as("10.0.0.1", "garbage, 203.0.113.7", &["10.0.0.0/8"]), Some(ip("203.0.113.7")));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_the_same_address() {
        assert_eq!(seen_as("::ffff:10.0.0.1", "203.0.113.7", &["10.0.0.0/8"]), Some(ip("203.0.113.7")));
    }

    #[test]
    fn long_values_are_cut_between_two_characters() {
        let client = ClientInfo::new().user_agent(&"é".repeat(1000)).label(&"x".repeat(1000)).resolve(&[]);
        assert_eq!(client.user_agent.unwrap().len(), 512);
        assert_eq!(client.label.unwrap().len(), 128);
        let odd = ClientInfo::new().user_agent(&format!("a{}", "é".repeat(1000))).resolve(&[]);
        assert_eq!(odd.user_agent.unwrap().len(), 511);
        assert_eq!(ClientInfo::new().user_agent("").label(" ").resolve(&[]), Client::default());
    }

    const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36";

    #[test]
    fn hole_30_a_browser_update_stays_in_the_family() {
        assert_eq!(family(CHROME), "Chrome on Windows");
        assert_eq!(family(&CHROME.replace("120.0.0.0", "156.0.8078.73")), family(CHROME));
        assert_eq!(family(&CHROME.replace("NT 10.0", "NT 11.0")), family(CHROME));
        let safari = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1";
        assert_eq!(family(safari), "Safari on iOS");
        assert_eq!(family(&safari.replace("17_2", "18_0").replace("15E148", "22A1")), family(safari));
        assert_eq!(family("MyApp/1.2.3 (iOS 17.2) CFNetwork/1474"), family("MyApp/2.0 (iOS 18.0) CFNetwork/1500.1"));
        assert_eq!(family("curl/7.88.1"), family("curl/8.5.0"));
    }

    #[test]
    fn another_browser_or_platform_is_another_family() {
        let others = [
            CHROME.to_owned(),
            CHROME.replace("Windows NT 10.0; Win64; x64", "X11; Linux x86_64"),
            CHROME.replace("Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10_15_7"),
            format!("{CHROME} Edg/120.0"),
            format!("{CHROME} OPR/106.0"),
            "Mozilla/5.0 (Windows NT 10.0; rv:120.0) Gecko/20100101 Firefox/120.0".to_owned(),
            "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Mobile Safari/537.36".to_owned(),
            "curl/8.5.0".to_owned(),
            "agent-1".to_owned(),
            "agent-2".to_owned(),
            "kitchen tablet".to_owned(),
            String::new(),
        ];
        let families: std::collections::HashSet<_> = others.iter().map(|agent| family(agent)).collect();
        assert_eq!(families.len(), others.len());
    }
}
