//! A node that is partitioned from its store for longer than its staleness limit, and reconnects.

use std::sync::Arc;
use std::time::Duration;

use axum_refresh_e2e::proxy::tcp::Condition;
use tokio::time::sleep;

use super::checker::{self, Conditions, Outage};
use super::clients::{Client, Net, Transport};
use super::log::{Exchange, Millis, Request};
use super::nodes::{GRACE, Node, Settings};
use super::server::{Kind, Server};

/// Longer than the test: no token is refused because it expired.
const ACCESS_TTL: Duration = Duration::from_secs(120);
/// The default, which the demo does not change.
const MAX_STALENESS: Millis = 30_000;
const HERE: usize = 0;
const PARTITIONED: usize = 1;

/// For 30 seconds the node relies on the revocations that it has read. Then it returns 503 and neither accepts nor
/// refuses tokens. When it reaches its store again, it reads the revocations that it missed.
pub(crate) async fn a_node(kind: Kind) {
    let store = Server::start(kind).await;
    let mut nodes = Vec::new();
    for _ in 0..2 {
        nodes.push(Node::start(&store, Settings::with_access_ttl(ACCESS_TTL), 0).await);
    }
    let net = Net::new(nodes);
    let client = Client::new(&net, 0, Transport::Body).without_mishaps();
    let (leaving_token, leaving) = client.login().await.unwrap();
    let (_, staying) = client.login().await.unwrap();
    for node in [HERE, PARTITIONED] {
        for access in [&leaving, &staying] {
            assert!(client.send_to(node, Request::Use(access.clone())).await.unwrap().is_success());
        }
    }
    let line = &net.nodes[PARTITIONED].line;
    let from = net.log.now();
    line.set_condition(Condition::Stalled);
    assert!(client.send_to(HERE, Request::Logout(leaving_token)).await.unwrap().is_success());
    // A request waits five seconds for the store before it fails.
    while net.log.now() < from + MAX_STALENESS + 8_000 {
        for access in [&leaving, &staying] {
            tokio::spawn({
                let (client, access) = (client.clone(), access.clone());
                async move { client.send_to(PARTITIONED, Request::Use(access)).await }
            });
        }
        sleep(Duration::from_millis(500)).await;
    }
    line.set_condition(Condition::Fine);
    line.cut();
    let until = net.log.now();
    while net.log.now() < until + 12_000 {
        for access in [&leaving, &staying] {
            client.send_to(PARTITIONED, Request::Use(access.clone())).await;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let outage = Outage { node: Some(PARTITIONED), from, until };
    let conditions = Conditions {
        grace: GRACE.as_millis().try_into().unwrap(),
        longest_grace: GRACE.as_millis().try_into().unwrap(),
        max_staleness: MAX_STALENESS,
        outages: vec![outage],
        ..Conditions::default()
    };
    let log = net.log.take();
    let findings = checker::check(&log, &conditions);
    assert!(findings.violations().is_empty(), "{:#?}", findings.violations());
    let answers = |from: Millis, until: Millis, text: &Arc<str>| -> Vec<u16> {
        let is_it = |exchange: &&Exchange| {
            let is_between = from <= exchange.start && exchange.end < until;
            is_between
                && exchange.node == PARTITIONED
                && matches!(&exchange.request, Request::Use(used) if used.text == *text)
        };
        log.iter().filter(is_it).filter_map(|exchange| Some(exchange.answer.as_ref()?.status)).collect()
    };
    let never = Millis::MAX;
    assert!(
        answers(from, from + 20_000, &staying.text).contains(&200),
        "the node relies on the revocations that it has read"
    );
    for access in [&leaving, &staying] {
        let answers = answers(from + MAX_STALENESS, until, &access.text);
        assert!(!answers.is_empty() && answers.iter().all(|status| *status == 503), "{answers:?}");
    }
    assert_eq!(answers(until, never, &leaving.text).last(), Some(&401));
    assert_eq!(answers(until, never, &staying.text).last(), Some(&200));
}
