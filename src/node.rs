//! One node's share of the work: its clock, its way to the store, what it knows is revoked, what it has seen and not
//! yet written, and the task that keeps these up to date.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
const PUSH_PAUSE: Duration = Duration::from_millis(5);
const BATCH: usize = 500;
const PURGE_EVERY: u32 = 60;
const PURGE_STEP: usize = 1_000;
const LONGEST_WRITE_BEHIND: Duration = Duration::from_secs(300);

pub(crate) struct Node {
    pub(crate) settings: Arc<Settings>,
    pub(crate) events: Events,
    pub(crate) activity: Activity,
    pub(crate) revoked: LiveRevocations,
    store: Arc<dyn SessionStore>,
    clock: Clock,
    /// Where to read on in the feed. Locked while it is read, so that many who need it read it once.
    cursor: tokio::sync::Mutex<Cursor>,
    stop: Mutex<Option<watch::Receiver<()>>>,
    started: AtomicBool,
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
            cursor: tokio::sync::Mutex::new(Cursor::START),
            stop: Mutex::new(Some(receiver)),
            started: AtomicBool::new(false),
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
        let timeout = self.settings.store_timeout;
        let result = match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::new(format!("no answer within {}", humantime::format_duration(timeout)))),
        };
        if let Err(error) = &result {
            self.events.emit(Event::StoreFailed { call, error: error.to_string() });
        }
        result
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
        let asked_at = self.now();
        let mut cursor = self.cursor.lock().await;
        if self.revoked.is_current(asked_at) && *cursor != Cursor::START {
            return Ok(());
        }
        self.read_feed(&mut cursor).await
    }

    async fn read_feed(&self, cursor: &mut Cursor) -> Result<(), StoreError> {
        let asked_at = self.now();
        match self.call("revocations", self.store.revocations(*cursor)).await {
            Ok(feed) => {
                feed.revoked.iter().for_each(|revoked| self.revoked.apply(revoked));
                *cursor = feed.next;
                self.revoked.caught_up(asked_at);
                Ok(())
            }
            Err(error) => {
                // Who knows what was missed: the next one asks for everything.
                *cursor = Cursor::START;
                Err(error)
            }
        }
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
        loop {
            let step = self.call("purge", self.store.purge(before, PURGE_STEP)).await?;
            purged += step;
            if step < PURGE_STEP {
                return Ok(purged);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Starts the task that keeps this node up to date, once there is a runtime to start it on.
    pub(crate) fn start(self: &Arc<Self>) {
        if self.started.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.started.store(true, Ordering::Relaxed);
        if let Some(stop) = stop {
            runtime.spawn(Arc::clone(self).run(stop));
        }
    }

    /// Failures are events, and what failed is tried again a second later.
    async fn run(self: Arc<Self>, mut stop: watch::Receiver<()>) {
        let every = (self.settings.policy.idle_timeout / 20).min(LONGEST_WRITE_BEHIND);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut written_at = tokio::time::Instant::now();
        let mut ticks = 0;
        loop {
            let pushed = tokio::select! {
                _ = stop.changed() => break,
                _ = tick.tick() => false,
                () = self.store.changed() => true,
            };
            {
                let mut cursor = self.cursor.lock().await;
                let _ = self.read_feed(&mut cursor).await;
            }
            if pushed {
                tokio::time::sleep(PUSH_PAUSE).await;
                continue;
            }
            if written_at.elapsed() >= every {
                written_at = tokio::time::Instant::now();
                let _ = self.flush().await;
            } else {
                let _ = self.write(self.activity.urgent()).await;
            }
            if ticks % PURGE_EVERY == 0 {
                self.revoked.forget(self.now());
                let node = Arc::clone(&self);
                // Beside this task, which others wait for.
                tokio::spawn(async move { node.purge().await });
            }
            ticks = ticks.wrapping_add(1);
        }
        let _ = self.flush().await;
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("settings", &self.settings).finish_non_exhaustive()
    }
}
