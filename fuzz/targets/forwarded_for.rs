//! The client's address: it is one of the addresses in the request, and a trusted proxy has vouched for it. For
//! `X-Forwarded-For` and for `Forwarded`.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum_refresh::config::{ForwardedHeader, IpNet};
use axum_refresh::fuzz::client_ip;
use axum_refresh::{ClientInfo, Settings};
use axum_refresh_fuzz::{Input, bounded};
use libfuzzer_sys::fuzz_target;

/// Nodes that name no address.
const GARBAGE: [&str; 8] = ["unknown", "_hidden", "203.0.113", "[", "::1]:", "1.2.3.4:99999", "fe80::1%", "1.2.3.4%a"];
/// Elements of `Forwarded` that name no address.
const NOBODY: [&str; 8] = [
    "proto=https",
    ";",
    "for",
    "for=1.2.3.4;for=1.2.3.4",
    "for = 1.2.3.4",
    "for=1.2.3.4;x",
    "for='1.2.3.4'",
    "=1.2.3.4",
];

fn find(peer: Option<IpAddr>, header: &str, settings: &Settings) -> Option<IpAddr> {
    let client = match settings.forwarded_header {
        ForwardedHeader::XForwardedFor => ClientInfo::new().forwarded_for(header).forwarded("for=192.0.2.77"),
        ForwardedHeader::Forwarded => ClientInfo::new().forwarded(header).forwarded_for("192.0.2.77"),
    };
    let client = peer.map_or(client.clone(), |peer| client.ip(peer));
    // The content of quoted strings is copied, and grows by doubling.
    bounded(4 * header.len() + 256, || client_ip(&client, settings))
}

/// Every address in a text, in all its spellings.
fn addresses(text: &str) -> impl Iterator<Item = IpAddr> {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
    // An escaped character stands for itself.
    let plain = text.replace('\\', "");
    let runs: Vec<String> = plain.split(|c| !is_part(c)).map(str::to_owned).collect();
    runs.into_iter()
        .flat_map(|run| {
            let without_port = run.rsplit_once(':').map(|(address, _)| address.to_owned());
            [run.parse().ok(), without_port.and_then(|address| address.parse().ok())].into_iter().flatten()
        })
        .map(|ip: IpAddr| ip.to_canonical())
}

/// Lines of text: the peer, the trusted networks, the header.
fn raw(settings: &mut Settings, mut input: Input<'_>) {
    let mut text = || String::from_utf8_lossy(input.line()).into_owned();
    let peer: Option<IpAddr> = text().trim().parse().ok();
    settings.trusted_proxies = text().split(',').take(8).filter_map(|net| net.trim().parse().ok()).collect();
    let header = String::from_utf8_lossy(input.rest());
    let found = find(peer, &header, settings);
    let is_trusted = |ip: &IpAddr| settings.trusted_proxies.iter().any(|net| net.contains(ip));
    let peer = peer.map(|peer| peer.to_canonical());
    match peer {
        Some(peer) if !is_trusted(&peer) => assert_eq!(found, Some(peer), "an untrusted peer has an effect"),
        None if !settings.trust_unknown_peer => assert_eq!(found, None, "an address without a known peer"),
        _ => {}
    }
    let Some(found) = found else { return };
    assert_eq!(found, found.to_canonical());
    if Some(found) != peer {
        assert!(addresses(&header).any(|ip| ip == found), "{found} is not in the header");
    }
    // Anything further left than the client has no effect, even a quotation mark that is left open.
    if !is_trusted(&found) {
        for forged in ["192.0.2.1, garbage,, ", "for=192.0.2.1, for=\"x, ", "for=192.0.2.1;x=\"\\, "] {
            assert_eq!(find(peer, &format!("{forged}{header}"), settings), Some(found));
        }
    }
}

fn address(input: &mut Input<'_>) -> IpAddr {
    match input.byte() % 5 {
        // Two trusted networks, and other addresses.
        0 => IpAddr::V4(Ipv4Addr::from([10, 0, 0, input.byte()])),
        1 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, input.byte().into())),
        2 => IpAddr::V6(Ipv4Addr::from([10, 0, 0, input.byte()]).to_ipv6_mapped()),
        3 => IpAddr::V4(Ipv4Addr::from(input.array::<4>())),
        _ => IpAddr::V6(Ipv6Addr::from(input.array::<16>())),
    }
}

/// A node with a known address, or with none.
fn node(style: u8, ip: IpAddr, port: u16) -> (Option<IpAddr>, String) {
    match style % 8 {
        0 => (None, GARBAGE[usize::from(style / 8) % GARBAGE.len()].to_owned()),
        1 => (Some(ip), SocketAddr::from((ip, port)).to_string()),
        2 => (Some(ip), format!("[{ip}]")),
        3 => (Some(ip), format!("[{ip}]:_x{port}")),
        4 if ip.is_ipv6() => (Some(ip), format!("[{ip}%eth{port}]:{port}")),
        _ => (Some(ip), ip.to_string()),
    }
}

/// An element of `Forwarded` with this node.
fn element(style: u8, node: &str) -> String {
    let node = match style % 3 {
        0 => format!("\"{node}\""),
        1 => format!("\"{}\"", node.chars().map(|c| format!("\\{c}")).collect::<String>()),
        _ => node.to_owned(),
    };
    match style / 3 % 6 {
        0 => format!("proto=https;For={node}"),
        1 => format!("FOR={node} ; host=\"a,b;for=192.0.2.1\""),
        2 => format!("host=\"\\\",for=192.0.2.1\\\\\";for={node};by=_x"),
        3 => format!(";for={node};"),
        _ => format!("for={node}"),
    }
}

/// Hops with known addresses, in every spelling.
fn spelled(settings: &mut Settings, mut input: Input<'_>) {
    settings.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    let has_peer = input.byte() % 4 != 0;
    let peer = Some(address(&mut input)).filter(|_| has_peer);
    // From right to left. The inner option is what a hop says, and an empty element is no hop.
    let mut hops: Vec<(Option<Option<IpAddr>>, String)> = Vec::new();
    while !input.is_empty() && hops.len() < 32 {
        let [style, spelling] = input.array();
        let ip = address(&mut input);
        let port = u16::from_le_bytes(input.array());
        hops.push(match (style % 8, settings.forwarded_header) {
            (0, _) => (None, " \t".to_owned()),
            (1, ForwardedHeader::Forwarded) => (Some(None), NOBODY[usize::from(spelling) % NOBODY.len()].to_owned()),
            (_, ForwardedHeader::Forwarded) => {
                let (ip, node) = node(style / 8, ip, port);
                (Some(ip), element(spelling, &node))
            }
            (_, ForwardedHeader::XForwardedFor) => {
                let (ip, node) = node(style / 8, ip, port);
                let node = match spelling % 4 {
                    0 => format!("\"{node}\""),
                    1 => format!(" \t{node} "),
                    _ => node,
                };
                (Some(ip), node)
            }
        });
    }
    let is_trusted = |ip: IpAddr| settings.trusted_proxies.iter().any(|net: &IpNet| net.contains(&ip));
    let mut expected = peer.map(|ip| ip.to_canonical());
    if has_peer || settings.trust_unknown_peer {
        for said in hops.iter().filter_map(|(said, _)| *said) {
            if expected.is_some_and(|ip| !is_trusted(ip)) {
                break;
            }
            expected = said.map(|ip| ip.to_canonical());
            if expected.is_none() {
                break;
            }
        }
    }
    let header: Vec<_> = hops.into_iter().rev().map(|hop| hop.1).collect();
    assert_eq!(find(peer, &header.join(","), settings), expected);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let mode = input.byte();
    let mut settings = Settings {
        forwarded_header: if mode & 2 == 0 { ForwardedHeader::XForwardedFor } else { ForwardedHeader::Forwarded },
        trust_unknown_peer: mode & 4 != 0,
        ..Settings::default()
    };
    match mode % 2 {
        0 => raw(&mut settings, input),
        _ => spelled(&mut settings, input),
    }
});
