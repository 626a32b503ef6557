//! The client's address: it is one of the addresses in the request, and a trusted proxy has vouched for it.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum_refresh::ClientInfo;
use axum_refresh::config::IpNet;
use axum_refresh::fuzz::client_ip;
use axum_refresh_fuzz::{Input, bounded};
use libfuzzer_sys::fuzz_target;

const GARBAGE: [&str; 6] = ["unknown", "_hidden", "203.0.113", "[", "::1]:", "1.2.3.4:99999"];

fn find(peer: Option<IpAddr>, header: &str, trusted: &[IpNet]) -> Option<IpAddr> {
    let client = ClientInfo::new().forwarded_for(header);
    let client = peer.map_or(client.clone(), |peer| client.ip(peer));
    bounded(0, || client_ip(&client, trusted))
}

/// Every address that a hop may be read as.
fn addresses(hop: &str) -> impl Iterator<Item = IpAddr> {
    let hop = hop.trim();
    let bare = hop.trim_start_matches('[').trim_end_matches(']');
    let found = [bare.parse().ok(), hop.parse::<SocketAddr>().ok().map(|address| address.ip())];
    found.into_iter().flatten().map(|ip| ip.to_canonical())
}

/// Lines of text: the peer, the trusted networks, the header.
fn raw(mut input: Input<'_>) {
    let mut text = || String::from_utf8_lossy(input.line()).into_owned();
    let peer: Option<IpAddr> = text().trim().parse().ok();
    let trusted: Vec<IpNet> = text().split(',').take(8).filter_map(|net| net.trim().parse().ok()).collect();
    let header = String::from_utf8_lossy(input.rest());
    let found = find(peer, &header, &trusted);
    let Some(peer) = peer.map(|peer| peer.to_canonical()) else {
        assert_eq!(found, None, "an address without a known peer");
        return;
    };
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    if !is_trusted(&peer) {
        assert_eq!(found, Some(peer), "an untrusted peer has an effect");
    }
    let Some(found) = found else { return };
    assert_eq!(found, found.to_canonical());
    if found != peer {
        // The address is in the header, and all hops to its right are trusted.
        let hops: Vec<_> = header.rsplit(',').collect();
        let vouched = hops.iter().take_while(|hop| addresses(hop).any(|ip| is_trusted(&ip))).count();
        let place =
            hops.iter().position(|hop| addresses(hop).any(|ip| ip == found)).expect("the address is in the header");
        assert!(place <= vouched, "no trusted proxy vouched for {found}");
    }
    // Anything further left than the client has no effect.
    if !is_trusted(&found) {
        assert_eq!(find(Some(peer), &format!("192.0.2.1, garbage,, {header}"), &trusted), Some(found));
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

/// Hops with known addresses, in every spelling.
fn spelled(mut input: Input<'_>) {
    let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    let peer = address(&mut input);
    let mut hops = Vec::new();
    while !input.is_empty() && hops.len() < 32 {
        let style = input.byte();
        let ip = address(&mut input);
        let port = u16::from_le_bytes(input.array());
        hops.push(match style % 8 {
            0 => (None, String::new()),
            1 => (None, GARBAGE[usize::from(style / 8) % GARBAGE.len()].to_owned()),
            2 => (Some(ip), SocketAddr::from((ip, port)).to_string()),
            3 => (Some(ip), format!("[{ip}]")),
            4 => (Some(ip), format!(" \t{ip} ")),
            _ => (Some(ip), ip.to_string()),
        });
    }
    let mut expected = Some(peer.to_canonical());
    for (ip, text) in &hops {
        let is_proxy = expected.is_some_and(|ip| trusted.iter().any(|net: &IpNet| net.contains(&ip)));
        if !is_proxy || text.is_empty() {
            break;
        }
        expected = ip.map(|ip| ip.to_canonical());
    }
    let header: Vec<_> = hops.into_iter().rev().map(|hop| hop.1).collect();
    assert_eq!(find(Some(peer), &header.join(","), &trusted), expected);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    match input.byte() % 2 {
        0 => raw(input),
        _ => spelled(input),
    }
});
