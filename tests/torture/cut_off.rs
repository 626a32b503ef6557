//! A node that is cut off from its store for longer than it may believe itself, and comes back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::checker::{self, Circumstances, Outage};
use super::clients::{Client, Net, Transport};
use super::log::{Exchange, Millis, Request};
use super::nodes::{GRACE, Node};
use super::proxy::Weather;
use super::server::{Kind, Server};

/// Longer than all this takes: what is refused is not refused for its age.
const ACCESS_TTL: Duration = Duration::from_secs(120);
/// The default of the settings, which the demo leaves as it is.
const MAX_STALENESS: Millis = 30_000;
const HERE: usize = 0;
const CUT_OFF: usize = 1;

/// Until 30 seconds have passed the node goes by what it knew; then nobody is let in, and nobody is told that their token
/// is bad; and when it has its store back, it knows what was ended meanwhile.
pub(crate) async fn a_node(kind: Kind) {
    let store = Server::start(kind).await;
    let mut nodes = Vec::new();
    for _ in 0..2 {
        nodes.push(Node::start(kind, store.port, ACCESS_TTL).await);
    }
    let net = Net::new(nodes);
    let client = Client::new(&net, 0, Transport::Body).spared();
    let (leaving_token, leaving) = client.login().await.unwrap();
    let (_, staying) = client.login().await.unwrap();
    for node in [HERE, CUT_OFF] {
        for access in [&leaving, &staying] {
            assert!(client.send_to(node, Request::Use(access.clone())).await.unwrap().is_success());
        }
    }
    let line = &net.nodes[CUT_OFF].line;
    let from = net.log.now();
    line.weather(Weather::Stalled);
    assert!(client.send_to(HERE, Request::Logout(leaving_token)).await.unwrap().is_success());
    // The store is asked for five seconds before a request fails.
    while net.log.now() < from + MAX_STALENESS + 8_000 {
        for access in [&leaving, &staying] {
            tokio::spawn({
                let (client, access) = (client.clone(), access.clone());
                async move { client.send_to(CUT_OFF, Request::Use(access)).await }
            });
        }
        sleep(Duration::from_millis(500)).await;
    }
    line.weather(Weather::Fine);
    line.cut();
    let until = net.log.now();
    while net.log.now() < until + 12_000 {
        for access in [&leaving, &staying] {
            client.send_to(CUT_OFF, Request::Use(access.clone())).await;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let outage = Outage { node: Some(CUT_OFF), from, until };
    let circumstances = Circumstances {
        grace: GRACE.as_millis().try_into().unwrap(),
        max_staleness: MAX_STALENESS,
        outages: vec![outage],
        ..Circumstances::default()
    };
    let log = net.log.take();
    let findings = checker::check(&log, &circumstances);
    assert!(findings.violations().is_empty(), "{:#?}", findings.violations());
    let answers = |from: Millis, until: Millis, text: &Arc<str>| -> Vec<u16> {
        let is_it = |exchange: &&Exchange| {
            let is_between = from <= exchange.start && exchange.end < until;
            is_between
                && exchange.node == CUT_OFF
                && matches!(&exchange.request, Request::Use(used) if used.text == *text)
        };
        log.iter().filter(is_it).filter_map(|exchange| Some(exchange.answer.as_ref()?.status)).collect()
    };
    let never = Millis::MAX;
    assert!(answers(from, from + 20_000, &staying.text).contains(&200), "it goes by what it knew");
    for access in [&leaving, &staying] {
        let answers = answers(from + MAX_STALENESS, until, &access.text);
        assert!(!answers.is_empty() && answers.iter().all(|status| *status == 503), "{answers:?}");
    }
    assert_eq!(answers(until, never, &leaving.text).last(), Some(&401));
    assert_eq!(answers(until, never, &staying.text).last(), Some(&200));
}
