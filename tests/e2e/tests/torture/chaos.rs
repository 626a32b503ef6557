//! The faults of the servers during the test.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum_refresh_e2e::proxy::tcp::Condition;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::checker::{Conditions, Crowded, Deployed, Failover, Outage};
use super::clients::{Crowd, Net};
use super::log::Millis;
use super::nodes::{DEPLOYS, GRACE, LONGEST_GRACE, Settings};
use super::server::redis::Replica;
use super::server::{Kind, Pooler, Server};

/// The default, which the demo does not change.
const MAX_STALENESS: Duration = Duration::from_secs(30);
/// The length of one round.
const ROUND: Duration = Duration::from_secs(25);
/// The part of a round in which no deploy stops a node, because then only the nodes know the latest revocations.
const FAILING_OVER: std::ops::Range<u128> = 18_000..24_000;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) kills: usize,
    pub(crate) restarts: usize,
    pub(crate) pauses: usize,
    pub(crate) cuts: usize,
    pub(crate) stalls: usize,
    pub(crate) failovers: usize,
    /// Nodes that were stopped and started with other settings.
    pub(crate) deploys: usize,
    pub(crate) pooler_restarts: usize,
    pub(crate) crowds: usize,
    /// Responses of the store that the network has delayed.
    pub(crate) delayed: u64,
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
    /// One node after the other is stopped and started with other settings, beside the next faults.
    Deploy,
    /// The pooler is killed and started again.
    RestartPooler,
    /// A user with very many sessions is revoked.
    EndCrowd,
}

impl Fault {
    /// Whether it concerns the store itself or the network to it.
    const fn needs_server(self) -> bool {
        !matches!(self, Self::KillNode(_) | Self::Deploy | Self::RestartPooler | Self::EndCrowd)
    }
}

/// When each fault happens, in milliseconds of a round. Faults that keep every node from the store for a while are as
/// far apart as [`GRACE`] requires. No node is killed around a failover, because then only the nodes know the latest
/// revocations.
const SCHEDULE: [(u64, Fault); 17] = [
    (1_500, Fault::KillNode(300)),
    (2_500, Fault::Cut),
    (3_500, Fault::RestartStore),
    (4_600, Fault::Deploy),
    (5_500, Fault::KillNode(1_000)),
    (7_000, Fault::SlowOne),
    (7_500, Fault::CutOne),
    (9_000, Fault::PauseStore),
    (14_100, Fault::Deploy),
    (14_300, Fault::RestartPooler),
    (15_000, Fault::StallOne),
    (15_500, Fault::KillNode(100)),
    (17_500, Fault::Cut),
    (18_300, Fault::EndCrowd),
    (20_000, Fault::Failover),
    (23_500, Fault::KillNode(500)),
    (24_000, Fault::CutOne),
];

pub(crate) struct Chaos {
    net: Arc<Net>,
    store: Server,
    replica: Option<Replica>,
    pooler: Option<Pooler>,
    crowd: Option<Crowd>,
    conditions: Conditions,
    /// The settings of the nodes, which deploys change beside the other faults.
    deployed: Arc<Mutex<Vec<Deployed>>>,
    deploys: JoinSet<usize>,
    /// Whether no deploy stops another node.
    is_over: Arc<AtomicBool>,
    deploys_begun: usize,
    pub(crate) tally: Tally,
}

impl Chaos {
    pub(crate) async fn new(net: &Arc<Net>, store: Server, pooler: Option<Pooler>, crowd: Crowd) -> Self {
        let millis = |duration: Duration| Millis::try_from(duration.as_millis()).unwrap();
        let conditions = Conditions {
            grace: millis(GRACE),
            longest_grace: millis(LONGEST_GRACE),
            max_staleness: millis(MAX_STALENESS),
            clocks: net.nodes.iter().map(|node| node.clock).collect(),
            ..Conditions::default()
        };
        let deployed = (0..net.nodes.len()).map(|node| record(node, Millis::MIN, DEPLOYS[0])).collect();
        Self {
            net: Arc::clone(net),
            replica: if store.kind == Kind::Redis { Some(Replica::of(store.port).await) } else { None },
            store,
            pooler,
            crowd: Some(crowd),
            conditions,
            deployed: Arc::new(Mutex::new(deployed)),
            deploys: JoinSet::new(),
            is_over: Arc::default(),
            deploys_begun: 0,
            tally: Tally::default(),
        }
    }

    /// Stops the store, and returns the conditions for the checker.
    pub(crate) fn end(mut self) -> (Conditions, Tally) {
        self.conditions.deployed = std::mem::take(&mut *self.deployed.lock().unwrap());
        self.tally.delayed = self.net.nodes.iter().map(|node| node.line.delayed()).sum();
        (self.conditions, self.tally)
    }

    /// Waits until every node that a deploy has stopped runs again. The others keep their settings.
    pub(crate) async fn deploys_end(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(nodes) = self.deploys.join_next().await {
            self.tally.deploys += nodes.unwrap();
        }
    }

    fn deploy(&mut self, began: tokio::time::Instant) {
        self.deploys_begun += 1;
        let settings = DEPLOYS[1 + (self.deploys_begun - 1) % (DEPLOYS.len() - 1)];
        // Only half of the nodes each second time: those with different settings stay side by side.
        let nodes = if self.deploys_begun.is_multiple_of(2) { self.net.right / 2 } else { self.net.right };
        let (net, deployed, is_over) = (Arc::clone(&self.net), Arc::clone(&self.deployed), Arc::clone(&self.is_over));
        self.deploys.spawn(async move {
            for index in 0..nodes {
                while !is_over.load(Ordering::Relaxed)
                    && FAILING_OVER.contains(&(began.elapsed().as_millis() % ROUND.as_millis()))
                {
                    sleep(Duration::from_millis(100)).await;
                }
                let node = &net.nodes[index];
                let _down = node.downtime().await;
                if is_over.load(Ordering::Relaxed) {
                    return index;
                }
                let before = {
                    let mut deployed = deployed.lock().unwrap();
                    let before = deployed.iter().rposition(|deployed| deployed.node == index).unwrap();
                    deployed.push(record(index, net.log.now(), settings));
                    before
                };
                node.deploy(settings).await;
                deployed.lock().unwrap()[before].until = net.log.now();
            }
            nodes
        });
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
                if self.store.kind == Kind::Sqlite && blow.needs_server() {
                    continue;
                }
                if matches!(blow, Fault::Deploy) {
                    self.deploy(began);
                } else {
                    self.inject(blow).await;
                }
            }
        }
    }

    async fn inject(&mut self, blow: Fault) {
        let net = Arc::clone(&self.net);
        let index = fastrand::usize(0..net.right);
        let node = &net.nodes[index];
        let from = net.log.now();
        let by = match blow {
            Fault::Deploy => return,
            Fault::EndCrowd => {
                let Some(crowd) = self.crowd.take() else { return };
                self.tally.crowds += 1;
                let (from, until) = crowd.end().await;
                self.conditions.crowded = Some(Crowded { from, until });
                return;
            }
            Fault::RestartPooler => {
                let Some(pooler) = &mut self.pooler else { return };
                self.tally.pooler_restarts += 1;
                pooler.kill();
                sleep(Duration::from_millis(300)).await;
                pooler.run().await;
                None
            }
            Fault::KillNode(millis) => {
                self.tally.kills += 1;
                let _down = node.downtime().await;
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
                let _down = node.downtime().await;
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

/// The settings of a node from now on.
fn record(node: usize, from: Millis, settings: Settings) -> Deployed {
    let millis = |duration: Duration| Millis::try_from(duration.as_millis()).unwrap();
    let (access_ttl, leeway) = (millis(settings.access_ttl), millis(settings.leeway));
    Deployed { node, from, until: Millis::MAX, access_ttl, leeway }
}
