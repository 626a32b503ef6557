//! What befalls the servers while the clients go about their business.

use std::sync::Arc;
use std::time::Duration;

use axum_refresh_e2e::proxy::tcp::Weather;
use tokio::time::{sleep, sleep_until};

use super::checker::{Circumstances, Failover, Outage};
use super::clients::Net;
use super::log::Millis;
use super::nodes::GRACE;
use super::server::redis::Replica;
use super::server::{Kind, Server};

/// The default of the settings, which the demo leaves as it is.
const MAX_STALENESS: Duration = Duration::from_secs(30);
/// How long one round of it takes.
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
enum Blow {
    /// A node is killed and, after this many milliseconds, started again.
    KillNode(u64),
    /// The store is killed and started again.
    RestartStore,
    /// The store is stopped for five seconds; meanwhile a node is killed and started again.
    PauseStore,
    /// Every connection to the store is reset.
    Cut,
    /// One node's connections to the store are reset.
    CutOne,
    /// Nothing gets through between one node and the store for two seconds.
    StallOne,
    /// What passes between one node and the store takes a tenth of a second longer, for two seconds.
    SlowOne,
    /// The store is lost, and with it what its replica does not have yet. Without a replica it is another restart.
    Failover,
}

/// When, in milliseconds of a round, what happens. The blows that keep every node from the store for a while are as far
/// apart as [`GRACE`] requires. No node is killed around a failover, because then only the nodes know what was
/// revoked.
const SCHEDULE: [(u64, Blow); 13] = [
    (1_500, Blow::KillNode(300)),
    (2_500, Blow::Cut),
    (3_500, Blow::RestartStore),
    (5_500, Blow::KillNode(1_000)),
    (7_000, Blow::SlowOne),
    (7_500, Blow::CutOne),
    (9_000, Blow::PauseStore),
    (15_000, Blow::StallOne),
    (15_500, Blow::KillNode(100)),
    (17_500, Blow::Cut),
    (20_000, Blow::Failover),
    (23_500, Blow::KillNode(500)),
    (24_000, Blow::CutOne),
];

pub(crate) struct Chaos {
    net: Arc<Net>,
    store: Server,
    replica: Option<Replica>,
    circumstances: Circumstances,
    pub(crate) tally: Tally,
}

impl Chaos {
    pub(crate) async fn new(net: &Arc<Net>, store: Server) -> Self {
        let millis = |duration: Duration| Millis::try_from(duration.as_millis()).unwrap();
        let circumstances =
            Circumstances { grace: millis(GRACE), max_staleness: millis(MAX_STALENESS), ..Circumstances::default() };
        Self {
            net: Arc::clone(net),
            replica: if store.kind == Kind::Redis { Some(Replica::of(store.port).await) } else { None },
            store,
            circumstances,
            tally: Tally::default(),
        }
    }

    /// What is to be known of it for a judgement. Ends the store.
    pub(crate) fn end(self) -> (Circumstances, Tally) {
        (self.circumstances, self.tally)
    }

    /// Goes on for this long, and leaves everything in order.
    pub(crate) async fn run(&mut self, duration: Duration) {
        let began = tokio::time::Instant::now();
        for round in 0.. {
            for (at, blow) in SCHEDULE {
                let at = ROUND * round + Duration::from_millis(at);
                if at >= duration {
                    sleep_until(began + duration).await;
                    return;
                }
                // A slow machine is late; then the blows keep their distance all the same.
                sleep_until(began + at).await;
                self.strike(blow).await;
            }
        }
    }

    async fn strike(&mut self, blow: Blow) {
        let net = Arc::clone(&self.net);
        let index = fastrand::usize(0..net.nodes.len());
        let node = &net.nodes[index];
        let from = net.log.now();
        let by = match blow {
            Blow::KillNode(millis) => {
                self.tally.kills += 1;
                node.kill().await;
                sleep(Duration::from_millis(millis)).await;
                return node.run().await;
            }
            Blow::RestartStore => {
                self.tally.restarts += 1;
                self.store.kill();
                sleep(Duration::from_millis(200)).await;
                self.store.run().await;
                None
            }
            Blow::PauseStore => {
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
            Blow::Cut => {
                self.tally.cuts += 1;
                net.nodes.iter().for_each(|node| node.line.cut());
                None
            }
            Blow::CutOne => {
                self.tally.cuts += 1;
                node.line.cut();
                Some(index)
            }
            Blow::StallOne => {
                self.tally.stalls += 1;
                node.line.weather(Weather::Stalled);
                sleep(Duration::from_secs(2)).await;
                node.line.weather(Weather::Fine);
                Some(index)
            }
            Blow::SlowOne => {
                self.tally.stalls += 1;
                node.line.weather(Weather::Slow(Duration::from_millis(100)));
                sleep(Duration::from_secs(2)).await;
                node.line.weather(Weather::Fine);
                Some(index)
            }
            Blow::Failover if self.replica.is_some() => {
                self.fail_over().await;
                None
            }
            Blow::Failover => {
                self.tally.restarts += 1;
                self.store.kill();
                sleep(Duration::from_millis(500)).await;
                self.store.run().await;
                None
            }
        };
        self.circumstances.outages.push(Outage { node: by, from, until: net.log.now() });
    }

    /// The replica falls behind by a second, the primary is lost, the replica takes its place and gets a replica of its
    /// own.
    async fn fail_over(&mut self) {
        let Some(replica) = self.replica.take() else { return };
        self.tally.failovers += 1;
        replica.keeps_up().await;
        // What was answered just before may not have reached the replica either.
        let from = self.net.log.now() - 200;
        replica.fall_behind();
        sleep(Duration::from_secs(1)).await;
        self.store.kill();
        sleep(Duration::from_millis(300)).await;
        self.store = replica.promote().await;
        self.net.nodes.iter().for_each(|node| node.line.lead_to(self.store.port));
        self.circumstances.failovers.push(Failover { from, until: self.net.log.now() });
        self.replica = Some(Replica::of(self.store.port).await);
    }
}
