//! Who a request comes from: tables of forwarding headers as they are really sent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::Request;
use axum::routing::get;
use axum_refresh::config::{BindingMode, ForwardedHeader};
use axum_refresh::{Auth, ClientInfo, MemoryStore, NoClaims, Secret, Settings};
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
