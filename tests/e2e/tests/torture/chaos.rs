//! The faults of the servers during the test.

use std::sync::Arc;
use std::time::Duration;

use axum_refresh_e2e::proxy::tcp::Condition;
use tokio::time::{sleep, sleep_until};

use super::checker::{Conditions, Failover, Outage};
use super::clients::Net;
use super::log::Millis;
use super::nodes::GRACE;
use super::server::redis::Replica;
use super::server::{Kind, Server};

/// The default, which the demo does not change.
const MAX_STALENESS: Duration = Duration::from_secs(30);
/// The length of one round.
const ROUND: Duration = Duration::from_secs(25);

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) kills: usize,
    pub(crate) restarts: usize,
    pub(crate) pauses: usize,
    pub(crate) cuts: usize,
    pub(crate) stalls: usize,
    pub(crate) failovers: usize,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A node is killed and, after this many milliseconds, started again.
    KillNode(u64),
    /// The store is killed and started again.
    RestartStore,
    /// The store is paused for five seconds; meanwhile a node is killed and started again.
    PauseStore,
    /// Every connection to the store is reset.
    Cut,
    /// One node's connections to the store are reset.
    CutOne,
    /// No data gets through between one node and the store for two seconds.
    StallOne,
    /// Data between one node and the store is delayed by a tenth of a second, for two seconds.
    SlowOne,
    /// The store is lost together with the writes that its replica does not have yet. Without a replica, it is
    /// restarted.
    Failover,
}

/// When each fault happens, in milliseconds of a round. Faults that keep every node from the store for a while are as
/// far apart as [`GRACE`] requires. No node is killed around a failover, because then only the nodes know the latest
/// revocations.
const SCHEDULE: [(u64, Fault); 13] = [
    (1_500, Fault::KillNode(300)),
    (2_500, Fault::Cut),
    (3_500, Fault::RestartStore),
    (5_500, Fault::KillNode(1_000)),
    (7_000, Fault::SlowOne),
    (7_500, Fault::CutOne),
    (9_000, Fault::PauseStore),
    (15_000, Fault::StallOne),
    (15_500, Fault::KillNode(100)),
    (17_500, Fault::Cut),
    (20_000, Fault::Failover),
    (23_500, Fault::KillNode(500)),
    (24_000, Fault::CutOne),
];

pub(crate) struct Chaos {
    net: Arc<Net>,
    store: Server,
    replica: Option<Replica>,
    conditions: Conditions,
    pub(crate) tally: Tally,
}

impl Chaos {
    pub(crate) async fn new(net: &Arc<Net>, store: Server) -> Self {
        let millis = |duration: Duration| Millis::try_from(duration.as_millis()).unwrap();
        let conditions =
            Conditions { grace: millis(GRACE), max_staleness: millis(MAX_STALENESS), ..Conditions::default() };
        Self {
            net: Arc::clone(net),
            replica: if store.kind == Kind::Redis { Some(Replica::of(store.port).await) } else { None },
            store,
            conditions,
            tally: Tally::default(),
        }
    }

    /// Stops the store, and returns the conditions for the checker.
    pub(crate) fn end(self) -> (Conditions, Tally) {
        (self.conditions, self.tally)
    }

    /// Runs rounds for this long, and leaves everything running.
    pub(crate) async fn run(&mut self, duration: Duration) {
        let began = tokio::time::Instant::now();
        for round in 0.. {
            for (at, blow) in SCHEDULE {
                let at = ROUND * round + Duration::from_millis(at);
                if at >= duration {
                    sleep_until(began + duration).await;
                    return;
                }
                // A slow machine is late; the distance between the faults is kept all the same.
                sleep_until(began + at).await;
                self.inject(blow).await;
            }
        }
    }

    async fn inject(&mut self, blow: Fault) {
        let net = Arc::clone(&self.net);
        let index = fastrand::usize(0..net.nodes.len());
        let node = &net.nodes[index];
        let from = net.log.now();
        let by = match blow {
            Fault::KillNode(millis) => {
                self.tally.kills += 1;
                node.kill().await;
                sleep(Duration::from_millis(millis)).await;
                return node.run().await;
            }
            Fault::RestartStore => {
                self.tally.restarts += 1;
                self.store.kill();
                sleep(Duration::from_millis(200)).await;
                self.store.run().await;
                None
            }
            Fault::PauseStore => {
                self.tally.pauses += 1;
                self.tally.kills += 1;
                self.store.pause();
                sleep(Duration::from_secs(2)).await;
                node.kill().await;
                sleep(Duration::from_secs(3)).await;
                self.store.resume();
                node.run().await;
                None
            }
            Fault::Cut => {
                self.tally.cuts += 1;
                net.nodes.iter().for_each(|node| node.line.cut());
                None
            }
            Fault::CutOne => {
                self.tally.cuts += 1;
                node.line.cut();
                Some(index)
            }
            Fault::StallOne => {
                self.tally.stalls += 1;
                node.line.set_condition(Condition::Stalled);
                sleep(Duration::from_secs(2)).await;
                node.line.set_condition(Condition::Fine);
                Some(index)
            }
            Fault::SlowOne => {
                self.tally.stalls += 1;
                node.line.set_condition(Condition::Slow(Duration::from_millis(100)));
                sleep(Duration::from_secs(2)).await;
                node.line.set_condition(Condition::Fine);
                Some(index)
            }
            Fault::Failover if self.replica.is_some() => {
                self.fail_over().await;
                None
            }
            Fault::Failover => {
                self.tally.restarts += 1;
                self.store.kill();
                sleep(Duration::from_millis(500)).await;
                self.store.run().await;
                None
            }
        };
        self.conditions.outages.push(Outage { node: by, from, until: net.log.now() });
    }

    /// The replica falls behind by a second, the primary is lost, the replica takes its place and gets a replica of its
    /// own.
    async fn fail_over(&mut self) {
        let Some(replica) = self.replica.take() else { return };
        self.tally.failovers += 1;
        replica.keeps_up().await;
        // Writes that were confirmed just before may not have reached the replica either.
        let from = self.net.log.now() - 200;
        replica.fall_behind();
        sleep(Duration::from_secs(1)).await;
        self.store.kill();
        sleep(Duration::from_millis(300)).await;
        self.store = replica.promote().await;
        self.net.nodes.iter().for_each(|node| node.line.lead_to(self.store.port));
        self.conditions.failovers.push(Failover { from, until: self.net.log.now() });
        self.replica = Some(Replica::of(self.store.port).await);
    }
}
