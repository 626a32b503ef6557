//! The torture test: eight nodes on one store and 64 clients that lose responses, log out, revoke sessions and steal
//! tokens, while nodes and the store are killed, paused and partitioned. Afterwards a checker decides from the clients'
//! logs alone whether every guarantee held.
//!
//! `tests/run torture` runs it on servers of its own. `TORTURE_SECONDS` sets the length of the storm on each store (25).
#![cfg(target_os = "linux")]

mod chaos;
mod checker;
mod clients;
mod log;
mod nodes;
mod partition;
mod report;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use chaos::Chaos;
use clients::{Browser, Net, Phase};
use nodes::{ACCESS_TTL, Node};
use server::{Kind, Server};

const NODES: usize = 8;
const BROWSERS: usize = 36;
const NATIVES: usize = 20;
const THEFTS: usize = 8;
/// After the storm: enough time for a theft that started in it to take its last turn.
const CALM: Duration = Duration::from_secs(9);

/// One store at a time: the machine is too small for two.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn start_nodes(kind: Kind, store: &Server, count: usize, access_ttl: Duration) -> Vec<Node> {
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(Node::start(kind, store.port, access_ttl).await);
    }
    nodes
}

async fn torture(kind: Kind) {
    let _alone = ALONE.lock().await;
    let seconds = std::env::var("TORTURE_SECONDS").ok().map_or(25, |text| text.parse().expect("TORTURE_SECONDS"));
    let store = Server::start(kind).await;
    let net = Net::new(start_nodes(kind, &store, NODES, ACCESS_TTL).await);
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for id in 0..BROWSERS {
        clients.spawn(Browser::run(Arc::clone(&net), id));
    }
    for id in BROWSERS..BROWSERS + NATIVES {
        clients.spawn(clients::native(Arc::clone(&net), id));
    }
    for id in BROWSERS + NATIVES..BROWSERS + NATIVES + THEFTS {
        clients.spawn(clients::theft(Arc::clone(&net), id));
    }
    let mut chaos = Chaos::new(&net, store).await;
    chaos.run(Duration::from_secs(seconds)).await;
    net.enter(Phase::Calm);
    sleep(CALM).await;
    net.enter(Phase::Over);
    clients.join_all().await;
    net.probes_end().await;
    let mut panics = 0;
    for node in &net.nodes {
        panics += node.panics().await;
    }
    let (conditions, tally) = chaos.end();
    let log = net.log.take();
    let findings = checker::check(&log, &conditions);
    report::print(kind.name(), began.elapsed(), &tally, &findings);
    let found: Vec<_> = findings.violations().into_iter().map(|(what, found)| (what, found.len())).collect();
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(panics, 0, "a node panicked");
    // A test in which nothing happened shows nothing.
    let counts = &findings.counts;
    let happened = [
        counts.rotations,
        counts.recovers,
        counts.touches_and_echoes,
        counts.unavailable,
        counts.broken,
        counts.revocations,
        counts.tries_after_revocation,
        counts.thefts_detected,
    ];
    assert!(happened.iter().all(|count| *count > 0), "{counts:?}");
}

mod postgres {
    use super::{Kind, partition, torture};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs servers; tests/run runs them"]
    async fn every_guarantee_holds_during_a_storm() {
        torture(Kind::Postgres).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs servers; tests/run runs them"]
    async fn a_partitioned_node_trusts_its_revocations_until_they_are_stale() {
        partition::a_node(Kind::Postgres).await;
    }
}

mod mysql {
    use super::{Kind, partition, torture};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs servers; tests/run runs them"]
    async fn every_guarantee_holds_during_a_storm() {
        torture(Kind::MySql).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs servers; tests/run runs them"]
    async fn a_partitioned_node_trusts_its_revocations_until_they_are_stale() {
        partition::a_node(Kind::MySql).await;
    }
}

mod redis {
    use super::{Kind, partition, torture};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs servers; tests/run runs them"]
    async fn every_guarantee_holds_during_a_storm() {
        torture(Kind::Redis).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs servers; tests/run runs them"]
    async fn a_partitioned_node_trusts_its_revocations_until_they_are_stale() {
        partition::a_node(Kind::Redis).await;
    }
}
