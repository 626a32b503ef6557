//! The torture test: eight nodes on one store and 64 clients that lose responses, log out, revoke sessions and steal
//! tokens, while nodes and the store are killed, paused and partitioned, deploys change the settings, and a user with
//! 50,000 sessions is revoked. Every call of a store takes 3 ms longer than it would, because the network delays each
//! response by that much. Half of the nodes on PostgreSQL reach it through PgBouncer.
//!
//! Two more nodes have a wrong clock, and clients of their own. On SQLite there are none, because the processes of one
//! machine have one clock; nor has it a server that could fail.
//!
//! Afterwards a checker decides from the clients' logs alone whether every guarantee held.
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
use clients::{Browser, Client, Crowd, Net, Phase, Transport};
use log::Millis;
use nodes::{DEPLOYS, Node};
use server::{Kind, Pooler, Server};

const NODES: usize = 8;
const BROWSERS: usize = 36;
const NATIVES: usize = 20;
const THEFTS: usize = 8;
/// By how much the clocks of two more nodes are ahead: a month, and minus five minutes.
const WRONG_CLOCKS: [Millis; 2] = [31 * 24 * 3_600_000, -300_000];
/// Clients of each of these nodes alone.
const REGULARS: usize = 2;
/// Clients that meet these nodes and the others.
const VISITORS: usize = 4;
/// Other requests take no longer while a user with very many sessions is revoked. The median is allowed to double, and
/// this much more, because the machine has other things to do; `benches/volume.rs` measures it.
const USUAL: Millis = 50;
/// After the storm: enough time for a theft that started in it to take its last turn.
const CALM: Duration = Duration::from_secs(9);

/// One store at a time: the machine is too small for two.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn start_nodes(store: &Server, pooler: Option<&Pooler>) -> Vec<Node> {
    let mut nodes = Vec::new();
    for index in 0..NODES {
        let port = pooler.filter(|_| index >= NODES / 2).map_or(store.port, Pooler::port);
        nodes.push(Node::start_behind(store, port, DEPLOYS[0], 0).await);
    }
    if store.kind != Kind::Sqlite {
        for clock in WRONG_CLOCKS {
            nodes.push(Node::start(store, DEPLOYS[0], clock).await);
        }
    }
    nodes
}

async fn torture(kind: Kind) {
    let _alone = ALONE.lock().await;
    let seconds = std::env::var("TORTURE_SECONDS").ok().map_or(25, |text| text.parse().expect("TORTURE_SECONDS"));
    let store = Server::start(kind).await;
    let pooler = if kind == Kind::Postgres { Some(Pooler::start(&store).await) } else { None };
    let net = Net::new(start_nodes(&store, pooler.as_ref()).await);
    let mut ids = 0..;
    let mut new_ids = |count| ids.by_ref().take(count).collect::<Vec<_>>();
    let crowd = Crowd::gather(&net, new_ids(2)[0], &store).await;
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for id in new_ids(BROWSERS) {
        clients.spawn(Browser::run(Arc::clone(&net), id));
    }
    for id in new_ids(NATIVES) {
        clients.spawn(clients::native(Client::new(&net, id, Transport::Body)));
    }
    for id in new_ids(THEFTS) {
        clients.spawn(clients::theft(Arc::clone(&net), id));
    }
    let has_wrong_clocks = net.right < net.nodes.len();
    if has_wrong_clocks {
        for node in net.right..net.nodes.len() {
            for id in new_ids(REGULARS) {
                clients.spawn(clients::native(Client::new(&net, id, Transport::Body).only_on(node)));
            }
        }
        for id in new_ids(VISITORS) {
            clients.spawn(clients::visitor(Arc::clone(&net), id));
        }
    }
    let mut chaos = Chaos::new(&net, store, pooler, crowd).await;
    chaos.run(Duration::from_secs(seconds)).await;
    chaos.deploys_end().await;
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
    let has_server = kind != Kind::Sqlite;
    let happened = [
        counts.rotations,
        counts.recovers,
        counts.touches_and_echoes,
        counts.broken,
        counts.revocations,
        counts.tries_after_revocation,
        counts.thefts_detected,
        tally.kills,
        tally.deploys,
        tally.crowds,
    ];
    assert!(happened.iter().all(|count| *count > 0), "{counts:?} {tally:?}");
    let happened = [counts.unavailable, tally.restarts, tally.pauses, tally.cuts, tally.stalls];
    assert!(!has_server || happened.iter().all(|count| *count > 0) && tally.delayed > 0, "{counts:?} {tally:?}");
    let happened = [counts.across_clocks, counts.refused_by_clock, counts.restored];
    assert!(!has_wrong_clocks || happened.iter().all(|count| *count > 0), "{counts:?}");
    assert_eq!(tally.pooler_restarts > 0, kind == Kind::Postgres);
    assert_eq!(tally.failovers > 0, kind == Kind::Redis);
    assert!(counts.crowd_sessions >= Crowd::SESSIONS as u64, "{counts:?}");
    let sampled = Crowd::SAMPLE * NODES;
    assert_eq!(counts.crowd_refused, sampled, "every node refused every session of the sample");
    // On a slow machine some of these have expired before.
    assert!(counts.crowd_refused_by_access_token >= sampled / 2, "{counts:?}");
    assert!(counts.median_then <= 2 * counts.median_otherwise + USUAL, "{counts:?}");
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

mod sqlite {
    use super::{Kind, torture};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs a few minutes; tests/run runs it"]
    async fn every_guarantee_holds_during_a_storm() {
        torture(Kind::Sqlite).await;
    }
}
