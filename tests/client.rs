//! Who a request comes from: tables of forwarding headers and of `User-Agent`s as they are really sent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::Request;
use axum::routing::get;
use axum_refresh::config::{Binding, BindingMode, ForwardedHeader};
use axum_refresh::{Auth, ClientInfo, MemoryStore, NoClaims, Policy, Secret, Settings};
use tower::ServiceExt as _;

const SECRET: &str = "k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA";

fn auth(realm: &str, change: impl FnOnce(&mut Settings)) -> Auth {
    let realm = Some(realm.to_owned());
    let builder = Auth::builder(Secret::new(SECRET), MemoryStore::new());
    builder.settings(Settings { realm, ..Settings::default() }).configure(change).build().unwrap()
}

// ---- addresses ------------------------------------------------------------------------------------------------------

/// Two trusted networks.
fn trust_proxies(settings: &mut Settings) {
    settings.trusted_proxies = ["10.0.0.0/8", "2001:db8:beef::/48"].map(|net| net.parse().unwrap()).to_vec();
}

/// What a header from the trusted peer 10.0.0.1 says about the client. `-` is an unknown client.
#[rustfmt::skip]
const X_FORWARDED_FOR: &[(&str, &str)] = &[
    // One address, in every spelling.
    ("203.0.113.7", "203.0.113.7"),
    ("  203.0.113.7  ", "203.0.113.7"),
    ("\t203.0.113.7\t", "203.0.113.7"),
    ("203.0.113.7:4711", "203.0.113.7"),
    ("203.0.113.7:0", "203.0.113.7"),
    ("2a00::1", "2a00::1"),
    ("2A00:0:0:0:0:0:0:1", "2a00::1"),
    ("[2a00::1]", "2a00::1"),
    ("[2a00::1]:4711", "2a00::1"),
    ("::ffff:203.0.113.7", "203.0.113.7"),
    ("[::ffff:203.0.113.7]:4711", "203.0.113.7"),
    ("\"203.0.113.7\"", "203.0.113.7"),
    ("\"203.0.113.7:4711\"", "203.0.113.7"),
    ("\"[2a00::1]:4711\"", "2a00::1"),
    ("fe80::1%eth0", "fe80::1"),
    ("[fe80::1%eth0]", "fe80::1"),
    ("[fe80::1%25eth0]:4711", "fe80::1"),
    ("fe80::1%3", "fe80::1"),
    // Empty elements are skipped (RFC 9110 §5.6.1).
    ("203.0.113.7,", "203.0.113.7"),
    ("203.0.113.7, ", "203.0.113.7"),
    ("203.0.113.7,,", "203.0.113.7"),
    ("203.0.113.7,\t,", "203.0.113.7"),
    (",203.0.113.7", "203.0.113.7"),
    (", , 203.0.113.7 , ,", "203.0.113.7"),
    ("203.0.113.7,,10.2.2.2", "203.0.113.7"),
    ("", "10.0.0.1"),
    (" , ,\t", "10.0.0.1"),
    // The first address from the right that is not a trusted proxy's.
    ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
    ("198.51.100.1,203.0.113.7,10.2.2.2", "203.0.113.7"),
    ("198.51.100.1, 203.0.113.7, [2001:db8:beef::9]:443, 10.2.2.2:80", "203.0.113.7"),
    ("203.0.113.7, ::ffff:10.2.2.2", "203.0.113.7"),
    ("10.3.3.3, 10.2.2.2", "10.3.3.3"),
    ("unknown, 203.0.113.7", "203.0.113.7"),
    ("garbage,\"', 203.0.113.7", "203.0.113.7"),
    ("\", 203.0.113.7", "203.0.113.7"),
    // A trusted proxy that names no address.
    ("unknown", "-"),
    ("Unknown", "-"),
    ("_hidden", "-"),
    ("_SEVKISEK", "-"),
    ("203.0.113.7, unknown", "-"),
    ("203.0.113.7, unknown,", "-"),
    ("203.0.113.7, _hidden", "-"),
    ("203.0.113.7, unknown, 10.2.2.2", "-"),
    ("localhost", "-"),
    ("client.example", "-"),
    ("203.0.113", "-"),
    ("203.0.113.7.", "-"),
    ("203.0.113.07", "-"),
    ("203.0.113.256", "-"),
    ("203.0.113.7:", "-"),
    ("203.0.113.7:99999", "-"),
    ("203.0.113.7:http", "-"),
    ("203.0.113.7:+80", "-"),
    ("203.0.113.7%eth0", "-"),
    ("203.0.113.7 198.51.100.1", "-"),
    ("203.0.113.7;", "-"),
    ("\u{a0}203.0.113.7", "-"),
    ("\u{b}203.0.113.7", "-"),
    ("2a00::1::2", "-"),
    ("[2a00::1", "-"),
    ("2a00::1]", "-"),
    ("[2a00::1]4711", "-"),
    ("[2a00::1]:", "-"),
    ("fe80::1%", "-"),
    ("\"203.0.113.7", "-"),
    ("for=203.0.113.7", "-"),
];

/// As above, for `Forwarded`.
#[rustfmt::skip]
const FORWARDED: &[(&str, &str)] = &[
    // The examples of RFC 7239 §4.
    ("for=\"_gazonk\"", "-"),
    ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
    ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
    ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
    ("for=_hidden, for=_SEVKISEK", "-"),
    // Parameters in any order and case, quoted or not.
    ("FOR=203.0.113.7", "203.0.113.7"),
    ("fOr=\"203.0.113.7\"", "203.0.113.7"),
    ("by=10.0.0.1;for=203.0.113.7;host=app.example;proto=https", "203.0.113.7"),
    ("proto=https;host=\"app.example:8443\";for=\"203.0.113.7:4711\"", "203.0.113.7"),
    ("for=203.0.113.7;secret=\"a,b;for=198.51.100.1\"", "203.0.113.7"),
    ("host=\"a\\\",for=198.51.100.1;\\\"\";for=203.0.113.7", "203.0.113.7"),
    ("host=\"\\\\\";for=203.0.113.7", "203.0.113.7"),
    ("for=203.0.113.7;host=\"\"", "203.0.113.7"),
    ("for=\"203.0.113.\\7\"", "203.0.113.7"),
    ("for=203.0.113.7 ; proto=https", "203.0.113.7"),
    (";for=203.0.113.7;", "203.0.113.7"),
    ("for=\"203.0.113.7:_http\"", "203.0.113.7"),
    ("for=\"[2a00::1]\"", "2a00::1"),
    ("for=\"[2a00::1]:_x\"", "2a00::1"),
    ("for=\"[fe80::1%eth0]\"", "fe80::1"),
    ("for=\"[::ffff:203.0.113.7]\"", "203.0.113.7"),
    // Proxies forget the quotation marks that a colon and brackets need.
    ("for=203.0.113.7:4711", "203.0.113.7"),
    ("for=[2a00::1]:4711;proto=https", "2a00::1"),
    ("for=2a00::1", "2a00::1"),
    // Empty elements, and chains.
    ("for=203.0.113.7,", "203.0.113.7"),
    (", ,for=203.0.113.7,\t,", "203.0.113.7"),
    ("", "10.0.0.1"),
    (" , ", "10.0.0.1"),
    ("for=198.51.100.1, for=203.0.113.7;by=10.9.9.9, for=10.2.2.2", "203.0.113.7"),
    ("for=203.0.113.7, for=\"[2001:db8:beef::9]:443\";proto=https", "203.0.113.7"),
    ("for=10.3.3.3, for=10.2.2.2", "10.3.3.3"),
    // What stands further left may be forged, also to be read with what the proxy has added.
    ("garbage, for=203.0.113.7", "203.0.113.7"),
    ("for=198.51.100.1;x=\", for=203.0.113.7", "203.0.113.7"),
    ("for=198.51.100.1;x=\", for=\"203.0.113.7\"", "203.0.113.7"),
    ("for=198.51.100.1;x=\"\\, for=203.0.113.7;host=\"a\"", "203.0.113.7"),
    ("for=198.51.100.1;x=\", for=203.0.113.7, for=10.2.2.2", "203.0.113.7"),
    // A trusted proxy that names no address.
    ("for=unknown", "-"),
    ("for=\"unknown\"", "-"),
    ("for=\"unknown:4711\"", "-"),
    ("for=_hidden", "-"),
    ("for=203.0.113.7, for=unknown", "-"),
    ("for=203.0.113.7, for=_hidden, for=10.2.2.2", "-"),
    ("for=203.0.113.7, proto=https", "-"),
    ("proto=https;by=10.0.0.1", "-"),
    ("by=203.0.113.7", "-"),
    ("for=", "-"),
    ("for=\"\"", "-"),
    ("for", "-"),
    ("=203.0.113.7", "-"),
    (";", "-"),
    ("for=203.0.113.7;for=198.51.100.1", "-"),
    ("for=203.0.113.7;FOR=203.0.113.7", "-"),
    ("for = 203.0.113.7", "-"),
    ("for=203.0.113.7;garbage", "-"),
    ("for=\"203.0.113.7", "-"),
    ("for=203.0.113.7\"", "-"),
    ("for=\"203.0.113.7\"x", "-"),
    ("for=\"203.0.113.7\\\"", "-"),
    ("for=\"203.0.113.7\\", "-"),
    ("for='203.0.113.7'", "-"),
    ("for=\"203.0.113.7:99999\"", "-"),
    ("for=\"203.0.113.7:_\"", "-"),
    ("203.0.113.7", "-"),
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Reports every wrong row, and not only the first.
fn check(auth: &Auth, client: impl Fn(&str) -> ClientInfo, cases: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (header, expected) in cases {
        let found = auth.client_ip(&client(header)).map_or("-".to_owned(), |ip| ip.to_string());
        if found != *expected {
            wrong.push(format!("{header:?} is {found} instead of {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn every_element_of_x_forwarded_for_has_one_meaning() {
    let auth = auth("x-forwarded-for", trust_proxies);
    check(&auth, |header| ClientInfo::new().ip(ip("10.0.0.1")).forwarded_for(header), X_FORWARDED_FOR);
}

#[test]
fn every_element_of_forwarded_has_one_meaning() {
    let auth = auth("forwarded", |settings| {
        trust_proxies(settings);
        settings.forwarded_header = ForwardedHeader::Forwarded;
    });
    check(&auth, |header| ClientInfo::new().ip(ip("10.0.0.1")).forwarded(header), FORWARDED);
}

#[test]
fn only_the_chosen_forwarding_header_counts() {
    let client = |x_forwarded_for: &str, forwarded: &str| {
        ClientInfo::new().ip(ip("10.0.0.1")).forwarded_for(x_forwarded_for).forwarded(forwarded)
    };
    let both = client("203.0.113.7", "for=198.51.100.1");
    let (only_x, only_forwarded) = (client("203.0.113.7", ""), client("", "for=198.51.100.1"));
    for (header, expected) in
        [(ForwardedHeader::XForwardedFor, "203.0.113.7"), (ForwardedHeader::Forwarded, "198.51.100.1")]
    {
        let auth = auth(&format!("chosen-{}", header as u8), |settings| {
            trust_proxies(settings);
            settings.forwarded_header = header;
        });
        assert_eq!(auth.client_ip(&both), Some(ip(expected)));
        let (own, other) = match header {
            ForwardedHeader::XForwardedFor => (&only_x, &only_forwarded),
            ForwardedHeader::Forwarded => (&only_forwarded, &only_x),
        };
        assert_eq!(auth.client_ip(own), Some(ip(expected)));
        assert_eq!(auth.client_ip(other), Some(ip("10.0.0.1")));
    }
}

#[test]
fn the_header_of_an_unknown_peer_counts_only_if_it_is_trusted() {
    let client = |header: &str| ClientInfo::new().forwarded_for(header);
    let with = |trust| {
        auth(&format!("unknown-peer-{trust}"), |settings| {
            trust_proxies(settings);
            settings.trust_unknown_peer = trust;
        })
    };
    let distrusting = with(false);
    assert_eq!(distrusting.client_ip(&client("203.0.113.7")), None);
    let trusting = with(true);
    check(
        &trusting,
        client,
        &[
            ("203.0.113.7", "203.0.113.7"),
            ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
            ("198.51.100.1, 203.0.113.7, 10.2.2.2,", "203.0.113.7"),
            ("10.2.2.2", "10.2.2.2"),
            ("203.0.113.7, unknown", "-"),
            ("", "-"),
            (",", "-"),
        ],
    );
    assert_eq!(trusting.client_ip(&ClientInfo::new()), None);
    // A known peer is trusted by its address alone.
    assert_eq!(trusting.client_ip(&client("203.0.113.7").ip(ip("192.0.2.1"))), Some(ip("192.0.2.1")));
}

/// The address that a handler sees.
async fn seen(auth: &Auth, peer: Option<&str>, lines: &[(&str, &[u8])]) -> String {
    let address = async |State(auth): State<Auth>, client: ClientInfo| {
        auth.client_ip(&client).map_or("-".to_owned(), |ip| ip.to_string())
    };
    let app: Router = Router::new().route("/", get(address)).with_state(auth.clone());
    let mut request = Request::get("/");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::empty()).unwrap();
    if let Some(peer) = peer {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((ip(peer), 4711))));
    }
    let response = app.oneshot(request).await.unwrap();
    String::from_utf8(axum::body::to_bytes(response.into_body(), 1000).await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn several_lines_of_a_forwarding_header_are_one_list() {
    let peer = Some("10.0.0.1");
    let x = auth("lines-x", trust_proxies);
    let name = "x-forwarded-for";
    assert_eq!(seen(&x, peer, &[(name, b"198.51.100.1"), (name, b"203.0.113.7")]).await, "203.0.113.7");
    assert_eq!(seen(&x, peer, &[(name, b"203.0.113.7"), (name, b"10.2.2.2")]).await, "203.0.113.7");
    assert_eq!(seen(&x, peer, &[(name, b"203.0.113.7"), (name, b"")]).await, "203.0.113.7");
    assert_eq!(seen(&x, peer, &[(name, b"203.0.113.7,"), (name, b" ,"), (name, b"10.2.2.2,")]).await, "203.0.113.7");
    assert_eq!(seen(&x, peer, &[(name, b"203.0.113.7"), (name, b"unknown")]).await, "-");
    assert_eq!(seen(&x, peer, &[(name, b"203.0.113.7"), (name, b"\xff")]).await, "-");
    assert_eq!(seen(&x, peer, &[(name, b"\xff"), (name, b"203.0.113.7")]).await, "203.0.113.7");
    assert_eq!(seen(&x, peer, &[("forwarded", b"for=203.0.113.7")]).await, "10.0.0.1");
    let forwarded = auth("lines-forwarded", |settings| {
        trust_proxies(settings);
        settings.forwarded_header = ForwardedHeader::Forwarded;
    });
    let name = "forwarded";
    let lines: &[(&str, &[u8])] =
        &[(name, b"for=198.51.100.1;x=\""), (name, b"for=203.0.113.7"), (name, b"for=10.2.2.2")];
    assert_eq!(seen(&forwarded, peer, lines).await, "203.0.113.7");
    assert_eq!(seen(&forwarded, peer, &[("x-forwarded-for", b"203.0.113.7")]).await, "10.0.0.1");
}

#[tokio::test]
async fn a_session_keeps_the_address_from_a_proxy_on_a_unix_socket() {
    let auth = auth("unix-socket", |settings| {
        settings.trust_unknown_peer = true;
        settings.policy.binding.ip = BindingMode::Reject;
    });
    let client = |header: &str| ClientInfo::new().forwarded_for(header);
    let login = auth.login("alice", NoClaims {}).client(client("203.0.113.7")).await.unwrap();
    assert_eq!(auth.sessions("alice").await.unwrap()[0].ip, Some(ip("203.0.113.7")));
    let token = login.tokens.refresh_token.unwrap();
    assert_eq!(auth.refresh(&token, client("198.51.100.1")).await.unwrap_err().code(), "client_mismatch");
    // What the client sends itself stands further left.
    let forged = client("203.0.113.7, 198.51.100.1");
    assert_eq!(auth.refresh(&token, forged).await.unwrap_err().code(), "client_mismatch");
    auth.refresh(&token, client("203.0.113.9,")).await.unwrap();
}

/// What a server on a Unix socket knows of its peer.
#[cfg(unix)]
#[derive(Clone)]
struct UnixPeer;

#[cfg(unix)]
impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, tokio::net::UnixListener>> for UnixPeer {
    fn connect_info(_: axum::serve::IncomingStream<'_, tokio::net::UnixListener>) -> Self {
        Self
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_on_a_unix_socket_knows_its_clients_by_the_word_of_the_proxy() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    let path = std::env::temp_dir().join(format!("axum-refresh-{}.sock", std::process::id()));
    drop(std::fs::remove_file(&path));
    let auth = auth("unix-server", |settings| settings.trust_unknown_peer = true);
    let address = async |State(auth): State<Auth>, _: ConnectInfo<UnixPeer>, client: ClientInfo| {
        auth.client_ip(&client).map_or("-".to_owned(), |ip| ip.to_string())
    };
    let app = Router::new().route("/", get(address)).with_state(auth);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<UnixPeer>());
    tokio::spawn(server.into_future());
    for (header, expected) in [("", "-"), ("X-Forwarded-For: 198.51.100.1, 203.0.113.7\r\n", "203.0.113.7")] {
        let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n");
        let mut stream = UnixStream::connect(&path).unwrap();
        let response = tokio::task::spawn_blocking(move || {
            let mut response = String::new();
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_to_string(&mut response).unwrap();
            response
        });
        let response = response.await.unwrap();
        assert!(response.ends_with(&format!("\r\n\r\n{expected}")), "{response}");
    }
    std::fs::remove_file(&path).unwrap();
}

// ---- browsers and apps ----------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    /// The same install, after an update or with another setting: must not be logged out.
    Same,
    /// Another program, or the same one on another platform.
    Other,
}
use Is::{Other, Same};

const CHROME_WINDOWS: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36";
const CHROME_MAC: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36";
const CHROME_LINUX: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36";
const CHROME_ANDROID: &str =
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36";
const CHROME_IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/120.0.6099.119 Mobile/15E148 Safari/604.1";
const SAFARI_IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1";
const SAFARI_MAC: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Safari/605.1.15";
const WEBVIEW_IPHONE: &str =
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148";
const WEBVIEW_ANDROID: &str = "Mozilla/5.0 (Linux; Android 13; SM-S911B Build/TP1A.220624.014; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/120.0.6099.144 Mobile Safari/537.36";
const FIREFOX_WINDOWS: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:120.0) Gecko/20100101 Firefox/120.0";
const FIREFOX_LINUX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0";
const FIREFOX_IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/120.0  Mobile/15E148 Safari/605.1.15";
const EDGE_WINDOWS: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/120.0.2210.91";
const APP_IOS: &str = "MyApp/1.2 (com.example.myapp; build:41; iOS 17.2.0) Alamofire/5.8.1";

#[rustfmt::skip]
const USER_AGENTS: &[(&str, &str, Is, &str)] = &[
    // Browser updates.
    (CHROME_WINDOWS, "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36", Same, "Chrome update"),
    ("Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/109.0.5414.120 Safari/537.36", CHROME_WINDOWS, Same, "Windows 7 to 10, 32 to 64 bits"),
    ("Mozilla/5.0 (Linux; Android 12; Pixel 6 Build/SD1A.210817.023) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/94.0.4606.71 Mobile Safari/537.36", CHROME_ANDROID, Same, "Chrome's reduced User-Agent hides version, model and build"),
    ("Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", Same, "Firefox no longer names Ubuntu"),
    ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Ubuntu Chromium/80.0.3987.87 Chrome/80.0.3987.87 Safari/537.36", CHROME_LINUX, Same, "Ubuntu's Chromium became a snap"),
    ("Mozilla/5.0 (X11; Linux armv7l) AppleWebKit/537.36 (KHTML, like Gecko) Raspbian Chromium/78.0.3904.108 Chrome/78.0.3904.108 Safari/537.36", "Mozilla/5.0 (X11; Linux aarch64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36", Same, "Raspbian's Chromium on 64 bits"),
    (FIREFOX_WINDOWS, "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:109.0) Gecko/20100101 Firefox/119.0", Same, "Firefox froze rv at 109 for a while"),
    ("Mozilla/5.0 (Android 13; Mobile; rv:109.0) Gecko/118.0 Firefox/118.0", "Mozilla/5.0 (Android 14; Mobile; rv:120.0) Gecko/120.0 Firefox/120.0", Same, "Firefox and Android update"),
    (SAFARI_IPHONE, "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0.1 Mobile/22A3370 Safari/604.1", Same, "iOS update"),
    (SAFARI_IPHONE, "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1", Same, "iOS 26 with the frozen version of the system"),
    ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/14.1.2 Safari/605.1.15", SAFARI_MAC, Same, "macOS update; newer ones are frozen at 10_15_7"),
    ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10.14; rv:102.0) Gecko/20100101 Firefox/102.0", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:120.0) Gecko/20100101 Firefox/120.0", Same, "Firefox on macOS"),
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/64.0.3282.140 Safari/537.36 Edge/18.17763", EDGE_WINDOWS, Same, "Edge became Chromium"),
    (EDGE_WINDOWS, "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0", Same, "Edge update"),
    ("Opera/9.80 (Windows NT 6.1; WOW64) Presto/2.12.388 Version/12.18", "Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/95.0.4638.69 Safari/537.36 OPR/81.0.4196.60", Same, "Opera became Chromium"),
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/119.0.0.0 Safari/537.36 OPR/105.0.0.0 (Edition Campaign 34)", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 OPR/106.0.0.0", Same, "Opera's edition"),
    ("Mozilla/5.0 (Linux; Android 13; SM-S901B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/22.0 Chrome/111.0.5563.116 Mobile Safari/537.36", "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/23.0 Chrome/115.0.0.0 Mobile Safari/537.36", Same, "Samsung Internet update"),
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/116.0.5845.837 YaBrowser/23.9.1.837 Yowser/2.5 Safari/537.36", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/118.0.0.0 YaBrowser/23.11.0.0 Safari/537.36", Same, "Yandex Browser update"),
    ("Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/119.0.0.0 Safari/537.36", "Mozilla/5.0 (X11; CrOS aarch64 15572.50.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36", Same, "ChromeOS update"),
    ("Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; WOW64; Trident/4.0; SLCC2; .NET CLR 2.0.50727)", "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko", Same, "Internet Explorer update"),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 Mobile/15E148 DuckDuckGo/7 Safari/605.1.15", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1 Ddg/17.2", Same, "DuckDuckGo renamed its product"),
    ("Mozilla/5.0 (Windows; U; Windows NT 6.1; en-US; rv:1.9.2.28) Gecko/20120306 Firefox/3.6.28", "Mozilla/5.0 (Windows; U; Windows NT 6.1; de; rv:1.9.2.28) Gecko/20120306 Firefox/3.6.28", Same, "another language"),

    // Desktop sites.
    ("Mozilla/5.0 (iPad; CPU OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1", SAFARI_MAC, Same, "Safari on an iPad asks for the desktop site"),
    (SAFARI_MAC, "Mozilla/5.0 (iPad; CPU OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1", Same, "and for the mobile one"),
    ("Mozilla/5.0 (iPad; CPU OS 12_5_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/12.1.2 Mobile/15E148 Safari/604.1", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.0 Safari/605.1.15", Same, "iPadOS 13 made desktop sites the default"),
    (SAFARI_IPHONE, SAFARI_MAC, Same, "Safari on an iPhone asks for the desktop site"),
    (CHROME_IPHONE, "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/120 Version/11.1.1 Safari/605.1.15", Same, "Chrome on an iPhone asks for the desktop site"),
    (FIREFOX_IPHONE, "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/120.0 Safari/605.1.15", Same, "Firefox on an iPhone asks for the desktop site"),
    (CHROME_ANDROID, CHROME_LINUX, Same, "Chrome on Android asks for the desktop site"),
    (CHROME_LINUX, CHROME_ANDROID, Same, "and for the mobile one"),
    ("Mozilla/5.0 (Linux; Android 13; SM-X906C) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/118.0.0.0 Safari/537.36", CHROME_LINUX, Same, "Chrome made desktop sites the default on large tablets"),
    ("Mozilla/5.0 (Android 14; Mobile; rv:120.0) Gecko/120.0 Firefox/120.0", FIREFOX_LINUX, Same, "Firefox on Android asks for the desktop site"),
    ("Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/23.0 Chrome/115.0.0.0 Mobile Safari/537.36", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/23.0 Chrome/115.0.0.0 Safari/537.36", Same, "Samsung Internet asks for the desktop site"),
    ("Mozilla/5.0 (iPad; CPU OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)", Same, "a web view on an iPad does the same"),

    // Other browsers and platforms.
    (CHROME_WINDOWS, CHROME_MAC, Other, "Windows and macOS"),
    (CHROME_WINDOWS, CHROME_LINUX, Other, "Windows and Linux"),
    (CHROME_WINDOWS, CHROME_ANDROID, Other, "Windows and Android"),
    (CHROME_MAC, CHROME_LINUX, Other, "macOS and Linux"),
    (CHROME_LINUX, "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36", Other, "Linux and ChromeOS"),
    (SAFARI_IPHONE, CHROME_ANDROID, Other, "an iPhone and Android"),
    (CHROME_WINDOWS, FIREFOX_WINDOWS, Other, "Chrome and Firefox"),
    (CHROME_WINDOWS, EDGE_WINDOWS, Other, "Chrome and Edge"),
    (CHROME_WINDOWS, "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 OPR/106.0.0.0", Other, "Chrome and Opera"),
    (CHROME_WINDOWS, "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Vivaldi/6.5.3206.39", Other, "Chrome and Vivaldi"),
    (CHROME_WINDOWS, "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Whale/3.24.223.18 Safari/537.36", Other, "Chrome and a browser that we do not know"),
    (CHROME_ANDROID, "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/23.0 Chrome/115.0.0.0 Mobile Safari/537.36", Other, "Chrome and Samsung Internet"),
    (CHROME_WINDOWS, CHROME_WINDOWS, Same, "Brave sends Chrome's header"),
    (SAFARI_MAC, CHROME_MAC, Other, "Safari and Chrome"),
    (SAFARI_IPHONE, CHROME_IPHONE, Other, "Safari and Chrome on an iPhone"),
    (SAFARI_IPHONE, FIREFOX_IPHONE, Other, "Safari and Firefox on an iPhone"),
    (CHROME_IPHONE, CHROME_MAC, Other, "Chrome on an iPhone and on a Mac, although both may say Macintosh"),
    (CHROME_WINDOWS, "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", Other, "a bot"),
    (CHROME_ANDROID, "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.6099.71 Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", Other, "a bot that looks like Chrome"),
    ("Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Googlebot/2.1; +http://www.google.com/bot.html) Chrome/119.0.6045.123 Safari/537.36", "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Googlebot/2.1; +http://www.google.com/bot.html) Chrome/120.0.6099.71 Safari/537.36", Same, "an update of a bot"),
    ("Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Googlebot/2.1; +http://www.google.com/bot.html) Chrome/119.0.6045.123 Safari/537.36", "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) Chrome/116.0.1938.76 Safari/537.36", Other, "two bots"),
    (CHROME_WINDOWS, "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1.19041.1682", Other, "PowerShell"),

    // Web views, in-app browsers, Electron.
    (WEBVIEW_ANDROID, "Mozilla/5.0 (Linux; Android 14; SM-S911B Build/UP1A.231005.007; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/131.0.6778.39 Mobile Safari/537.36", Same, "update of WebView and Android"),
    (CHROME_ANDROID, WEBVIEW_ANDROID, Other, "a web view keeps its own cookies"),
    (SAFARI_IPHONE, WEBVIEW_IPHONE, Other, "a web view keeps its own cookies"),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 13_3_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 [FBAN/FBIOS;FBDV/iPhone11,8;FBMD/iPhone;FBSN/iOS;FBSV/13.3.1;FBSS/2;FBID/phone;FBLC/en_US;FBOP/5;FBCR/Verizon Wireless]", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 [FBAN/FBIOS;FBAV/443.0.0.23.229;FBBV/540057130;FBDV/iPhone11,8;FBMD/iPhone;FBSN/iOS;FBSV/17.2;FBSS/2;FBID/phone;FBLC/de_DE;FBOP/80]", Same, "Facebook update, another carrier and language"),
    ("Mozilla/5.0 (Linux; Android 13; SM-S911B Build/TP1A.220624.014; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/119.0.6045.66 Mobile Safari/537.36 [FB_IAB/FB4A;FBAV/441.0.0.23.113;]", "Mozilla/5.0 (Linux; Android 13; SM-S911B Build/TP1A.220624.014; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/120.0.6099.144 Mobile Safari/537.36 [FB_IAB/FB4A;FBAV/443.0.0.30.116;IABMV/1;]", Same, "Facebook update on Android"),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Instagram 309.1.1.28.108 (iPhone13,2; iOS 17_2; en_US; en; scale=3.00; 1170x2532; 537288535)", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Instagram 312.0.0.19.112 (iPhone13,2; iOS 17_3; de_DE; de; scale=3.00; 1170x2532; 548339486)", Same, "Instagram update"),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Instagram 309.1.1.28.108 (iPhone13,2; iOS 17_2; en_US; en; scale=3.00; 1170x2532; 537288535)", SAFARI_IPHONE, Other, "Instagram and Safari"),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Safari Line/13.16.0", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Safari Line/13.20.0", Same, "Line update"),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.44(0x18002c2f) NetType/WIFI Language/zh_CN", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.45(0x18002d2b) NetType/4G Language/zh_CN", Same, "WeChat on another network"),
    ("Mozilla/5.0 (Linux; Android 11; M2007J3SC Build/RKQ1.200826.002; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/86.0.4240.99 XWEB/3211 MMWEBSDK/20220303 Mobile Safari/537.36 MMWEBID/1234 MicroMessenger/8.0.21.2120(0x28001557) Process/toolsmp WeChat/arm64 Weixin NetType/WIFI Language/zh_CN ABI/arm64", "Mozilla/5.0 (Linux; Android 12; M2007J3SC Build/SKQ1.211006.001; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/116.0.0.0 Mobile Safari/537.36 XWEB/1160065 MMWEBSDK/20231202 MMWEBID/1234 MicroMessenger/8.0.47.2560(0x28002F30) WeChat/arm64 Weixin NetType/5G Language/zh_CN ABI/arm64", Same, "WeChat moved its products"),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) GSA/297.0.595435837 Mobile/15E148 Safari/604.1", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) GSA/300.0.598994205 Mobile/15E148 Safari/604.1", Same, "Google app update"),
    ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Slack/4.35.126 Chrome/116.0.5845.188 Electron/26.2.1 Safari/537.36", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Slack/4.36.134 Chrome/120.0.6099.56 Electron/28.0.0 Safari/537.36", Same, "Electron app update"),
    ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Slack/4.35.126 Chrome/116.0.5845.188 Electron/26.2.1 Safari/537.36", CHROME_MAC, Other, "Electron app and Chrome"),
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Code/1.85.1 Chrome/114.0.5735.289 Electron/25.9.7 Safari/537.36", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Teams/1.6.00.4472 Chrome/85.0.4183.121 Electron/10.4.7 Safari/537.36", Other, "two Electron apps"),

    // Apps.
    (APP_IOS, "MyApp/1.2 (com.example.myapp; build:42; iOS 17.2.0) Alamofire/5.8.1", Same, "another build"),
    (APP_IOS, "MyApp/2.0 (com.example.myapp; build:107; iOS 18.0.1) Alamofire/5.9.1", Same, "update of app, system and library"),
    ("ViaFree-DK/3.8.3 (com.MTGx.ViaFree.dk; build:7383; iOS 12.1.0) Alamofire/4.7.0", "Viafree-tvOS-DK/3.7.1 (com.MTGx.ViaFree.dk; build:7341; tvOS 12.1.0) Alamofire/4.7.0", Other, "two apps of one company"),
    ("MyApp/1.2 build:41", "MyApp/1.2 build:42", Same, "a build number outside a comment"),
    ("MyApp 1.2.3 rv:41 (iPhone; iOS 17.2; en_US)", "MyApp 1.3.0 rv:42 (iPhone; iOS 17.3; de_DE)", Same, "ASIHTTPRequest's form"),
    ("MyApp/41 CFNetwork/1474 Darwin/23.0.0", "MyApp/42 CFNetwork/1490.0.4 Darwin/23.2.0", Same, "CFNetwork's default"),
    ("My%20App/41 CFNetwork/1474 Darwin/23.0.0", "My%20App/42 CFNetwork/1490.0.4 Darwin/23.2.0", Same, "a space in the name"),
    ("My%20App/41 CFNetwork/1474 Darwin/23.0.0", "My%20Notes/41 CFNetwork/1474 Darwin/23.0.0", Other, "two apps with a space in their names"),
    ("MyApp/41 CFNetwork/1474 Darwin/23.0.0", "MyApp/41 CFNetwork/1474 Darwin/23.0.0 (arm64)", Same, "a processor"),
    ("Expo/1017699 CFNetwork/1399 Darwin/22.1.0", "Expo/1017756 CFNetwork/1410.0.3 Darwin/22.6.0", Same, "React Native on iOS"),
    ("okhttp/3.12.13", "okhttp/4.12.0", Same, "React Native on Android"),
    ("okhttp/4.12.0", "okhttp/5.0.0-alpha.11", Same, "a version with a word in it"),
    ("Dalvik/2.1.0 (Linux; U; Android 13; Pixel 7 Build/TQ3A.230805.001)", "Dalvik/2.1.0 (Linux; U; Android 14; Pixel 7 Build/UQ1A.240105.004)", Same, "Android update with its build"),
    ("com.example.myapp/2.3.1 (Linux; U; Android 13; en_US; Pixel 7; Build/TQ3A.230805.001; Cronet/117.0.5938.61)", "com.example.myapp/2.4.0 (Linux; U; Android 14; de_DE; Pixel 7; Build/UQ1A.240105.004; Cronet/119.0.6045.31)", Same, "Cronet, with another language"),
    ("MyApp/2.3.1 (Android 13; SM-G991B) okhttp/4.9.3", "MyApp/2.4.0 (Android 14; SM-G991B) okhttp/4.12.0", Same, "a model with digits"),
    ("MyApp/2.3.1 (Android 13; SM-G991B) okhttp/4.9.3", "MyApp/2.3.1 (iOS 17.2; iPhone14,5) okhttp/4.9.3", Other, "an app on Android and on iOS"),
    ("MyApp/2.3.1 (Windows NT 10.0)", "MyApp/2.3.1 (Macintosh; Intel Mac OS X 14_2)", Other, "an app on Windows and on macOS"),
    ("MyApp/2.3.1 (Linux)", "MyApp/2.3.1 (Android 14)", Other, "an app has no desktop sites"),
    ("MyApp/1.2 en-US", "MyApp/1.3 pt-BR", Same, "a language outside a comment"),
    ("MyApp/1.2 zh-Hans-CN", "MyApp/1.2 sr_Latn_RS", Same, "as above, with a script"),
    ("mytool/1.4.0 (darwin; arm64) node/20", "mytool/1.4.0 (linux; x64) node/20", Other, "a command on macOS and on Linux"),
    ("mytool/1.4.0 (win32; x64) node/20", "mytool/1.5.0 (win32; arm64) node/22", Same, "another processor"),
    ("Dart/3.1 (dart:io)", "Dart/3.2 (dart:io)", Same, "Flutter"),
    ("Spotify/8.8.92 Android/33 (SM-S911B)", "Spotify/8.8.96 Android/34 (SM-S911B)", Same, "a platform that is a product"),
    ("Spotify/8.8.96 Android/33 (SM-S911B)", "Spotify/8.8.96 iOS/17.2 (iPhone14,5)", Other, "as above, on another platform"),
    ("kitchen tablet", "kitchen tablet v2", Same, "a name that got a version"),
    ("kitchen tablet", "living room tablet", Other, "two names"),

    // HTTP libraries and tools.
    ("curl/7.88.1", "curl/8.5.0", Same, "curl update"),
    ("curl/7.29.0 (x86_64-redhat-linux-gnu) libcurl/7.29.0 NSS/3.15.4", "curl/7.29.0 (x86_64-redhat-linux-gnu) libcurl/7.29.0 NSS/3.53.1", Same, "curl's libraries"),
    ("Wget/1.20.3 (linux-gnu)", "Wget/1.21.3", Same, "Wget no longer names its platform"),
    ("curl/8.5.0", "Wget/1.21.3", Other, "two tools"),
    ("python-requests/2.28.2", "python-requests/2.31.0", Same, "requests update"),
    ("python-httpx/0.25.2", "python-httpx/0.27.0", Same, "httpx update"),
    ("Python/3.11 aiohttp/3.8.6", "Python/3.12 aiohttp/3.9.1", Same, "aiohttp and Python update"),
    ("Python/3.11 aiohttp/3.8.6", "Python-urllib/3.11", Other, "two libraries of Python"),
    ("Go-http-client/1.1", "Go-http-client/2.0", Same, "Go over HTTP/2"),
    ("Java/1.8.0_392", "Java/17.0.9", Same, "Java update"),
    ("Apache-HttpClient/4.5.13 (Java/11.0.20)", "Apache-HttpClient/4.5.14 (Java/17.0.9)", Same, "Java in a comment"),
    ("PostmanRuntime/7.35.0", "PostmanRuntime/7.36.1", Same, "Postman update"),
    ("aws-sdk-java/1.12.1 Linux/5.10.0-1029-aws OpenJDK_64-Bit_Server_VM/11.0.8+10 java/11.0.8 vendor/AdoptOpenJDK", "aws-sdk-java/1.12.600 Linux/6.1.0-15-amd64 OpenJDK_64-Bit_Server_VM/17.0.9+9 java/17.0.9 vendor/Eclipse_Adoptium", Same, "an SDK that names kernel, runtime and vendor"),
    ("Boto3/1.28.85 md/Botocore#1.31.85 ua/2.0 os/linux#5.10.0 md/arch#x86_64 lang/python#3.11.4 md/pyimpl#CPython cfg/retry-mode#legacy Botocore/1.31.85", "Boto3/1.34.11 md/Botocore#1.34.11 md/awscrt#0.19.19 ua/2.0 os/linux#6.1.0 md/arch#x86_64 lang/python#3.12.1 md/pyimpl#CPython cfg/retry-mode#legacy Botocore/1.34.11", Same, "an SDK with metadata"),
    ("Faraday v1.10.3", "Faraday v2.7.12", Same, "a version with v"),
    ("npm/9.8.1 node/v18.18.0 linux x64 workspaces/false", "npm/10.2.3 node/v20.10.0 linux x64 workspaces/false", Same, "npm and Node update"),
    (CHROME_WINDOWS, "curl/8.5.0", Other, "a stolen cookie in curl"),
    (CHROME_WINDOWS, "python-requests/2.31.0", Other, "a stolen cookie in a script"),
    (APP_IOS, "okhttp/4.12.0", Other, "an app's token in another library"),
    (APP_IOS, CHROME_WINDOWS, Other, "an app's token in a browser"),
    (CHROME_WINDOWS, "", Other, "a header that is left out"),
    ("", "curl/8.5.0", Other, "a header that is added"),
    ("", "", Same, "a client that never sent one"),
];

#[tokio::test]
async fn an_update_logs_nobody_out_and_another_client_is_noticed() {
    let binding = Binding { user_agent: BindingMode::Reject, ..Binding::default() };
    let auth = auth("user-agents", |settings| settings.policy = Policy { binding, ..Policy::default() });
    let client = |user_agent: &str| ClientInfo::new().ip(ip("203.0.113.7")).user_agent(user_agent);
    let mut wrong = Vec::new();
    for (at_login, now, expected, why) in USER_AGENTS {
        let login = auth.login("alice", NoClaims {}).client(client(at_login)).await.unwrap();
        let found = match auth.refresh(&login.tokens.refresh_token.unwrap(), client(now)).await {
            Ok(_) => Same,
            Err(error) if error.code() == "client_mismatch" => Other,
            Err(error) => panic!("{error}"),
        };
        if found != *expected {
            wrong.push(format!("{why}: {found:?} instead of {expected:?}\n    {at_login}\n    {now}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), USER_AGENTS.len(), wrong.join("\n"));
}

#[tokio::test]
async fn it_does_not_matter_which_of_two_clients_has_logged_in() {
    let binding = Binding { user_agent: BindingMode::Reject, ..Binding::default() };
    let auth = auth("user-agents-swapped", |settings| settings.policy = Policy { binding, ..Policy::default() });
    let client = |user_agent: &str| ClientInfo::new().ip(ip("203.0.113.7")).user_agent(user_agent);
    for (at_login, now, expected, why) in USER_AGENTS {
        let login = auth.login("alice", NoClaims {}).client(client(now)).await.unwrap();
        let is_accepted = auth.refresh(&login.tokens.refresh_token.unwrap(), client(at_login)).await.is_ok();
        assert_eq!(is_accepted, *expected == Same, "{why}");
    }
}
