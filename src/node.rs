//! One node's share of the work: its clock, its way to the store, what it knows is revoked, what it has seen and not
//! yet written, and the task that keeps these up to date.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::activity::Activity;
use crate::event::{Event, Events};
use crate::revocation::LiveRevocations;
use crate::session::{Reason, Revocation, Session, SessionId, Timestamp};
use crate::settings::Settings;
use crate::store::{Admission, Cursor, Ended, Inserted, Revoked, Seen, SessionStore, StoreError, Target};

pub(crate) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

const TICK: Duration = Duration::from_secs(1);
/// A store that pushes every change is read at most this often.
const PUSH_PAUSE: Duration = Duration::from_millis(50);
/// After a longer silence all of the feed is read: what a store reads again of it goes back less far.
const LONGEST_GAP: Duration = Duration::from_secs(5);
const BATCH: usize = 500;
const PURGE_EVERY: Duration = Duration::from_secs(60);
/// How often what the store knows to be revoked is compared with what this node knows. After a failure it is at once.
const COMPARE_EVERY: Duration = Duration::from_secs(60);
const PURGE_STEP: usize = 1_000;
const MOST_PURGE_STEPS: usize = 100_000;
const LONGEST_WRITE_BEHIND: Duration = Duration::from_secs(300);

pub(crate) struct Node {
    pub(crate) settings: Arc<Settings>,
    pub(crate) events: Events,
    pub(crate) activity: Activity,
    pub(crate) revoked: LiveRevocations,
    store: Arc<dyn SessionStore>,
    clock: Clock,
    /// Where to read on in the feed, and when it was last read. Locked while it is read, so that many who need it read
    /// it once.
    place: tokio::sync::Mutex<Place>,
    stop: watch::Receiver<()>,
    /// Whether the tasks are running. They stop with their runtime, and are started again on another.
    running: AtomicBool,
    /// Whether the store is being told again what it has lost.
    telling: AtomicBool,
}

struct Place {
    cursor: Cursor,
    read_at: Timestamp,
    /// When it was last compared with what this node knows; none since a call has failed.
    compared_at: Option<Timestamp>,
}

impl Node {
    /// The node works until the sender's other half, which it answers beside itself, is dropped.
    pub(crate) fn new(
        settings: Arc<Settings>,
        store: Arc<dyn SessionStore>,
        clock: Clock,
        events: Events,
    ) -> (Arc<Self>, watch::Sender<()>) {
        let (sender, receiver) = watch::channel(());
        let node = Self {
            revoked: LiveRevocations::new(settings.max_staleness),
            settings,
            events,
            activity: Activity::new(),
            store,
            clock,
            place: tokio::sync::Mutex::new(Place {
                cursor: Cursor::START,
                read_at: Timestamp::from_millis(0),
                compared_at: None,
            }),
            stop: receiver,
            running: AtomicBool::new(false),
            telling: AtomicBool::new(false),
        };
        (Arc::new(node), sender)
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)().into()
    }

    /// For how long a revocation of now has to be remembered: until the last access token has expired that could be
    /// out, on a node whose clock is behind by as much as `grace` allows for.
    pub(crate) fn revocation(&self, at: Timestamp, reason: Reason) -> Revocation {
        let policy = &self.settings.policy;
        let until = at.after(policy.access_ttl).after(policy.grace).after(self.settings.leeway);
        Revocation { at, until, reason }
    }

    async fn call<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let result = self.within_timeout(call, work).await.and_then(|result| result);
        if let Err(error) = &result {
            self.events.emit(Event::StoreFailed { call, error: error.to_string() });
        }
        result
    }

    /// Whatever may have to wait for others who wait for the store waits no longer than for the store itself.
    pub(crate) async fn within_timeout<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        let timeout = self.settings.store_timeout;
        let late = || StoreError::new(format!("{call}: no answer within {}", humantime::format_duration(timeout)));
        tokio::time::timeout(timeout, work).await.map_err(|_| late())
    }

    pub(crate) async fn insert(&self, new: &Session, admission: Admission) -> Result<Inserted, StoreError> {
        let inserted = self.call("insert", self.store.insert(new, admission)).await?;
        if let Inserted::Done(ended) = &inserted {
            self.note_ended(ended, admission.until);
        }
        Ok(inserted)
    }

    /// The session as the store has it, with what this node has seen and knows to be revoked.
    pub(crate) async fn load(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        let Some(mut session) = self.call("load", self.store.load(id)).await? else { return Ok(None) };
        if session.id != id {
            let error = StoreError::new("asked for one session, it answered another");
            self.events.emit(Event::StoreFailed { call: "load", error: error.to_string() });
            return Err(error);
        }
        self.complete(&mut session);
        Ok(Some(session))
    }

    fn complete(&self, session: &mut Session) {
        self.activity.add_to(session.id, &mut session.chain);
        if session.chain.revoked.is_none() && self.revoked.has_session(session.id) {
            // The store has lost it; we have not.
            session.chain.revoked = Some(self.revocation(self.now(), Reason::Other));
        }
    }

    pub(crate) async fn list(&self, user: &str) -> Result<Vec<Session>, StoreError> {
        let mut sessions = self.call("list", self.store.list(user)).await?;
        sessions.iter_mut().for_each(|session| self.complete(session));
        Ok(sessions)
    }

    pub(crate) async fn swap(&self, expected: u64, next: &Session) -> Result<bool, StoreError> {
        let swapped = self.call("swap", self.store.swap(expected, next)).await?;
        if let (true, Some(revocation)) = (swapped, next.chain.revoked) {
            self.note_ended(&[next.id], revocation.until);
        }
        Ok(swapped)
    }

    pub(crate) async fn revoke(&self, target: Target<'_>, reason: Reason) -> Result<Vec<SessionId>, StoreError> {
        let revocation = self.revocation(self.now(), reason);
        let ended = self.call("revoke", self.store.revoke(target, revocation)).await?;
        self.note_ended(&ended, revocation.until);
        match target {
            Target::Session(id) => self.revoked.end_session(id, revocation.until),
            Target::Token(jti) => {
                self.revoked.apply(&Revoked { what: Ended::Token(jti.into()), until: revocation.until });
                self.events.emit(Event::TokenRevoked { jti: jti.into() });
            }
            Target::User { .. } => {}
        }
        for session in &ended {
            self.events.emit(Event::Ended { session: *session, reason });
        }
        Ok(ended)
    }

    fn note_ended(&self, ended: &[SessionId], until: Timestamp) {
        for id in ended {
            self.revoked.end_session(*id, until);
        }
    }

    /// Reads the feed, unless somebody else has just done so. What it says is in force when this returns.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        let read = async {
            let mut place = self.place.lock().await;
            if self.revoked.is_current(self.now()) {
                return Ok(());
            }
            self.read_feed(&mut place).await
        };
        self.within_timeout("revocations", read).await?
    }

    async fn read_feed(&self, place: &mut Place) -> Result<(), StoreError> {
        self.read_on(place).await.map(|_| ())
    }

    /// What is new in the feed, after it has come into force here.
    async fn read_on(&self, place: &mut Place) -> Result<Vec<Revoked>, StoreError> {
        let now = self.now();
        if now < place.read_at || now.is_past(place.read_at, LONGEST_GAP) {
            // The clock was turned back, and what was forgotten for being over may not be; or nothing was read for so
            // long that a transaction may have been committed behind our back.
            place.cursor = Cursor::START;
        }
        match self.call("revocations", self.store.revocations(place.cursor)).await {
            Ok(feed) => {
                feed.revoked.iter().for_each(|revoked| self.revoked.apply(revoked));
                *place = Place { cursor: feed.next, read_at: now, compared_at: place.compared_at };
                self.revoked.caught_up(now);
                Ok(feed.revoked)
            }
            Err(error) => {
                // Who knows what was missed: the next one asks for everything.
                place.cursor = Cursor::START;
                place.compared_at = None;
                Err(error)
            }
        }
    }

    /// Reads the feed on or, now and then and after every failure, all of it. Then a store that has lost something (a
    /// failover to a replica that lagged behind) is told again what this node knows, so that others learn of it too.
    async fn follow_feed(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut place = self.place.lock().await;
        let now = self.now();
        if place.compared_at.is_some_and(|at| at <= now && !now.is_past(at, COMPARE_EVERY)) {
            return self.read_feed(&mut place).await;
        }
        // Taken first: what is revoked from now on need not be in what is read.
        let known = self.revoked.all();
        place.cursor = Cursor::START;
        let told: HashSet<Ended> = self.read_on(&mut place).await?.into_iter().map(|revoked| revoked.what).collect();
        let lost = known.into_iter().filter(|known| known.until > now && !told.contains(&known.what));
        let lost: Vec<_> = lost.collect();
        if lost.is_empty() {
            place.compared_at = Some(now);
        } else if !self.telling.swap(true, Ordering::Relaxed) {
            self.events.emit(Event::RevocationsLost { count: lost.len() });
            // Aside: the feed is followed meanwhile. Whether it has helped is seen when all of it is read the next time.
            let node = Arc::clone(self);
            tokio::spawn(async move {
                let _ = node.tell(lost).await;
                node.telling.store(false, Ordering::Relaxed);
            });
        }
        Ok(())
    }

    /// Revokes once more what the store has lost.
    async fn tell(&self, lost: Vec<Revoked>) -> Result<(), StoreError> {
        let now = self.now();
        for Revoked { what, until } in &lost {
            if self.stop.has_changed().is_err() {
                break;
            }
            let target = match what {
                Ended::Session(id) => Target::Session(*id),
                Ended::Token(jti) => Target::Token(jti),
            };
            let revocation = Revocation { at: now, until: *until, reason: Reason::Other };
            self.call("revoke", self.store.revoke(target, revocation)).await?;
        }
        Ok(())
    }

    /// Writes what has been seen and not written yet.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        self.write(self.activity.all()).await
    }

    async fn write(&self, seen: Vec<Seen>) -> Result<(), StoreError> {
        let mut result = Ok(());
        for batch in seen.chunks(BATCH) {
            if result.is_ok() {
                result = self.call("seen", self.store.seen(batch)).await;
            }
            if result.is_ok() {
                self.activity.written(batch);
            } else {
                self.activity.not_written(batch);
            }
        }
        result
    }

    pub(crate) async fn purge(&self) -> Result<usize, StoreError> {
        // A client that comes a little late is told what happened, and not that its session never was.
        let before = self.now().before(self.settings.policy.grace);
        let mut purged = 0;
        // A store that always has more is not believed for ever.
        for _ in 0..MOST_PURGE_STEPS {
            let step = self.call("purge", self.store.purge(before, PURGE_STEP)).await?;
            purged += step;
            if step < PURGE_STEP {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(purged)
    }

    /// Starts the tasks that keep this node up to date, once there is a runtime to start them on. They are two, because
    /// nobody may have to wait to be told of a revocation until something else is written; and one tokio task.
    pub(crate) fn start(self: &Arc<Self>) {
        if self.running.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.running.swap(true, Ordering::Relaxed) {
            let running = Running(Arc::clone(self));
            // One task, so that they end together. Neither waits for the other.
            runtime.spawn(async move { tokio::join!(running.0.follow(), running.0.keep_house()) });
        }
    }

    /// Reads the feed every second, and whenever the store says that there is something new. A failure is an event, and
    /// what failed is tried again a second later.
    async fn follow(self: &Arc<Self>) {
        let mut stop = self.stop.clone();
        let mut tick = ticks();
        let mut changed = self.store.changed();
        let mut at_once = false;
        loop {
            let pushed = tokio::select! {
                biased;
                _ = stop.changed() => return,
                () = std::future::ready(()), if at_once => true,
                () = &mut changed => true,
                _ = tick.tick() => false,
            };
            if pushed {
                changed = self.store.changed();
            }
            // Begins to wait before it reads: what is written meanwhile is read next.
            at_once = poll_fn(|context| Poll::Ready(changed.as_mut().poll(context).is_ready())).await;
            let _ = self.follow_feed().await;
            if pushed {
                tokio::time::sleep(PUSH_PAUSE).await;
            }
        }
    }

    /// Writes behind, forgets and purges.
    async fn keep_house(self: &Arc<Self>) {
        let mut stop = self.stop.clone();
        let every = (self.settings.policy.idle_timeout / 20).min(LONGEST_WRITE_BEHIND);
        let mut tick = ticks();
        let mut written_at = tokio::time::Instant::now();
        let mut purged_at = None;
        let mut purging: Option<tokio::task::JoinHandle<_>> = None;
        loop {
            tokio::select! {
                _ = stop.changed() => break,
                _ = tick.tick() => {}
            }
            if written_at.elapsed() >= every {
                written_at = tokio::time::Instant::now();
                let _ = self.flush().await;
            } else {
                let _ = self.write(self.activity.urgent()).await;
            }
            if purged_at.is_none_or(|at: tokio::time::Instant| at.elapsed() >= PURGE_EVERY) {
                purged_at = Some(tokio::time::Instant::now());
                self.revoked.forget(self.now());
                let node = Arc::clone(self);
                // Aside, so that acknowledgements do not wait for it.
                if purging.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                    purging = Some(tokio::spawn(async move { node.purge().await }));
                }
            }
        }
        let _ = self.flush().await;
    }
}

fn ticks() -> tokio::time::Interval {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick
}

/// Held by the task, and dropped with it, also when it panics or its runtime ends.
struct Running(Arc<Node>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("settings", &self.settings).finish_non_exhaustive()
    }
}
