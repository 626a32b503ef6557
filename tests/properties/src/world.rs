//! The real implementation and the oracle side by side: two nodes on one store. Both receive the same calls, and the
//! results are compared immediately.
//!
//! Each node has its own runtime, whose time is paused. A call of the memory store never waits, so after a node's start its
//! background task runs only in [`World::rest`], and a schedule always runs in the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum_refresh::store::{
    Activity, ExternalId, FeedCursor, FeedWindow, InsertOptions, Inserted, Revocation, RevocationBatch, RevokeTarget,
    Revoked, SessionRecord, StoreError, Timestamp,
};
use axum_refresh::{
    Auth, Error, MemoryStore, Policy, RevocationReason, Secret, Session, SessionId, SessionStore, Tokens,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::runtime::{Builder, Runtime};

use super::oracle::{ACCESS_TTL, Access, Answer, Fault, GRACE, IDLE, LIFETIME, Millis, Oracle};
use super::{Claims, Clock, Open, SECRET, claims, client};

/// A store that fails on request and counts calls.
#[derive(Clone)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn SessionStore>,
    fault: Arc<Mutex<Fault>>,
    inserted: Arc<Mutex<Vec<SessionId>>>,
    loads: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
}

impl FaultyStore {
    pub(crate) fn over(inner: Arc<dyn SessionStore>) -> Self {
        Self { inner, fault: Arc::default(), inserted: Arc::default(), loads: Arc::default(), writes: Arc::default() }
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The sessions that it was asked to insert, in this order.
    pub(crate) fn inserted(&self) -> Vec<SessionId> {
        self.inserted.lock().unwrap().clone()
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    async fn read<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if self.fault() == Fault::Fails { Err(StoreError::new("connection refused")) } else { work.await }
    }

    async fn write<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let done = self.read(work).await?;
        if self.fault() == Fault::LosesReplies { Err(StoreError::new("connection reset")) } else { Ok(done) }
    }
}

#[async_trait]
impl SessionStore for FaultyStore {
    async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        if self.fault() != Fault::Fails {
            self.inserted.lock().unwrap().push(new.id);
        }
        self.write(self.inner.insert(new, options)).await
    }

    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.read(self.inner.load(id)).await
    }

    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.write(self.inner.compare_and_swap(expected, next)).await
    }

    async fn list(&self, user: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
        self.read(self.inner.list(user, limit)).await
    }

    async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        self.read(self.inner.find_external(id)).await
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
        self.write(self.inner.revoke(target, revocation)).await
    }

    async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
        self.write(self.inner.record_activity(batch)).await
    }

    /// Without the clock of the store, which is not that of the schedule.
    async fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> Result<RevocationBatch, StoreError> {
        let batch = self.read(self.inner.read_revocations(since, window)).await?;
        Ok(RevocationBatch { now: None, ..batch })
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.write(self.inner.purge(before, limit)).await
    }

    /// Never: a node reads the feed when the schedule says so.
    async fn changed(&self) {
        std::future::pending().await
    }
}

/// A refresh token of a client or the thief.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    text: Arc<str>,
    pub(crate) session: usize,
    pub(crate) generation: u32,
}

/// An access token of a client or the thief.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    text: Arc<str>,
    pub(crate) what: Access,
}

/// An `Auth` on a runtime of its own.
pub(crate) struct RealNode<C = Claims> {
    auth: Auth<C>,
    /// Dropped first, without running any further: pending writes are lost.
    runtime: Option<Runtime>,
    clock: Clock,
}

impl<C> Drop for RealNode<C> {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl<C> RealNode<C> {
    pub(crate) fn start(clock: Clock, build: impl FnOnce(&Clock) -> Auth<C>) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let entered = runtime.enter();
        let auth = build(&clock);
        drop(entered);
        Self { auth, runtime: Some(runtime), clock }
    }

    pub(crate) fn run<T>(&self, work: impl AsyncFnOnce(&Auth<C>) -> T) -> T {
        self.runtime.as_ref().unwrap().block_on(work(&self.auth))
    }

    fn now(&self) -> Millis {
        self.clock.now().as_millis()
    }
}

impl RealNode {
    fn new(store: &FaultyStore, clock: Clock) -> Self {
        let seconds = |millis: Millis| Duration::from_millis(millis.unsigned_abs());
        let policy = Policy {
            access_ttl: seconds(ACCESS_TTL),
            idle_timeout: seconds(IDLE),
            lifetime: seconds(LIFETIME),
            grace: seconds(GRACE),
            ..Policy::default()
        };
        Self::start(clock, |clock| {
            let builder = Auth::<Claims>::builder(Secret::new(SECRET), store.clone());
            builder.configure(|settings| settings.policy = policy).clock(clock.reader()).build().unwrap()
        })
    }
}

/// The generation of a refresh token.
pub(crate) fn generation_of(text: &str) -> Check<u32> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| error.to_string())?;
    Ok(bytes[18..22].try_into().map(u32::from_be_bytes).unwrap())
}

pub(crate) type Check<T = ()> = Result<T, String>;

pub(crate) struct World {
    pub(crate) oracle: Oracle,
    store: FaultyStore,
    nodes: [RealNode; 2],
    /// A refresh token of a session that no store has: presenting it wakes a node up and has no other effect.
    unknown: String,
    ids: Vec<SessionId>,
    /// How often the refresh token of each generation was handed out.
    handed_out: BTreeSet<(usize, u32)>,
    /// When each session expires, from its first response.
    ends: BTreeMap<usize, Millis>,
    /// Sessions that a caller tried to revoke, with or without success.
    pub(crate) asked_to_revoke: BTreeSet<usize>,
    /// Sessions whose revocation was confirmed: their refresh tokens are invalid everywhere, and their access tokens on
    /// these nodes.
    revoked: BTreeMap<usize, [bool; 2]>,
    claims_updates: u32,
    /// The trace, for a reader.
    trace: Vec<String>,
    start: Millis,
}

pub(crate) const fn name(user: usize) -> &'static str {
    if user == 0 { "alice" } else { "bob" }
}

pub(crate) fn code<T>(result: Result<T, Error>) -> Result<T, &'static str> {
    result.map_err(|error| error.code())
}

impl World {
    /// The second node's clock is ahead by `skew`.
    pub(crate) fn new(open: Open, skew: Millis) -> Self {
        let store = FaultyStore::over(open());
        let clocks = [Clock::new(), Clock::new()];
        clocks[1].advance(Duration::from_millis(skew.unsigned_abs()));
        let start = clocks[0].now().as_millis();
        let nodes = clocks.map(|clock| RealNode::new(&store, clock));
        let elsewhere = RealNode::new(&FaultyStore::over(Arc::new(MemoryStore::new())), Clock::new());
        let unknown = elsewhere.run(async |auth| auth.login("unknown", claims("0")).await).unwrap();
        let mut world = Self {
            oracle: Oracle::default(),
            nodes,
            unknown: unknown.tokens.refresh_token.unwrap(),
            store,
            ids: Vec::new(),
            handed_out: BTreeSet::new(),
            ends: BTreeMap::new(),
            asked_to_revoke: BTreeSet::new(),
            revoked: BTreeMap::new(),
            claims_updates: 0,
            trace: Vec::new(),
            start,
        };
        (0..2).for_each(|node| world.begin(node));
        world
    }

    /// Lets a new node's background task do what it does at once, until it waits for time to pass.
    fn begin(&mut self, node: usize) {
        let unknown = &self.unknown;
        self.nodes[node].run(async |auth| {
            let _ = auth.refresh(unknown, client()).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        });
        let now = self.nodes[node].now();
        self.read_feed(node, now);
        self.oracle.purge(now);
    }

    /// Records that the node's background task has read the feed.
    fn read_feed(&mut self, node: usize, now: Millis) {
        if self.oracle.read_feed(node, now).is_ok() {
            self.revoked.values_mut().for_each(|known| known[node] = true);
        }
    }

    /// The true time, which is that of the first node's clock.
    pub(crate) fn now(&self) -> Millis {
        self.nodes[0].now()
    }

    pub(crate) fn advance(&mut self, by: Millis) {
        self.nodes.iter().for_each(|node| node.clock.advance(Duration::from_millis(by.unsigned_abs())));
    }

    pub(crate) fn log(&mut self, what: impl FnOnce() -> String) {
        let at = self.now() - self.start;
        self.trace.push(format!("{:>6}.{:03} s  {}", at / 1000, at % 1000, what()));
    }

    pub(crate) fn trace(&self) -> String {
        self.trace.join("\n")
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: impl Fn() -> String, real: T, expected: &T) -> Check<T> {
        self.log(|| format!("{}: {real:?}", what()));
        if real == *expected {
            Ok(real)
        } else {
            Err(format!("{}: {real:?}, but the protocol requires {expected:?}", what()))
        }
    }

    pub(crate) fn set_fault(&mut self, fault: Fault) {
        self.log(|| format!("store: {fault:?}"));
        self.store.set(fault);
        self.oracle.fault = fault;
    }

    pub(crate) fn login(&mut self, node: usize, user: usize, replacing: Option<usize>) -> Check<Option<(Token, Pass)>> {
        let now = self.nodes[node].now();
        let session = self.ids.len();
        let old = replacing.map(|old| self.ids[old]);
        let real = self.nodes[node].run(async |auth| {
            let login = auth.login(name(user), claims("0")).client(client());
            let login = match old {
                Some(old) => login.replacing(old),
                None => login,
            };
            code(login.await)
        });
        if let Some(id) = self.store.inserted().get(session) {
            self.ids.push(*id);
        }
        self.asked_to_revoke.extend(replacing);
        let expected = self.oracle.login(node, session, user, replacing, now);
        let what = || format!("node {node}: {} opens session {session}, replacing {replacing:?}", name(user));
        let _ = self.same(what, real.as_ref().map(drop).map_err(|code| *code), &expected)?;
        let Ok(login) = real else { return Ok(None) };
        replacing.into_iter().for_each(|old| self.record_revocation(node, old));
        let (pass, token) = self.take(session, &login.tokens, now)?;
        Ok(Some((token.ok_or("a login without a refresh token")?, pass)))
    }

    pub(crate) fn refresh(&mut self, node: usize, token: &Token) -> Check<(Answer, Option<Pass>, Option<Token>)> {
        let now = self.nodes[node].now();
        let &Token { session, generation, .. } = token;
        self.store.loads.store(0, Ordering::SeqCst);
        self.store.writes.store(0, Ordering::SeqCst);
        let before = self.oracle.row(session);
        let real = self.nodes[node].run(async |auth| auth.refresh(&token.text, client()).await);
        let mut got = (None, None);
        let answer = match real {
            Ok(refreshed) => {
                let (pass, next) = self.take(session, &refreshed.tokens, now)?;
                let rule = format!("{:?}", refreshed.verdict);
                let rule = ["Touch", "Rotate", "Ahead", "Echo", "Recover"].into_iter().find(|known| **known == rule);
                let answer = Answer::Granted(
                    rule.ok_or("granted by a rule that refuses")?,
                    pass.what.generation,
                    next.as_ref().map(|next| next.generation),
                );
                got = (Some(pass), next);
                answer
            }
            Err(error) => Answer::Refused(error.code()),
        };
        let expected = self.oracle.refresh(node, session, generation, now);
        let what = || format!("node {node}: refresh with token {generation} of session {session}");
        let answer = self.same(what, answer, &expected)?;
        if self.revoked.contains_key(&session) && matches!(answer, Answer::Granted(..)) {
            return Err(format!("{}: its revocation was confirmed", what()));
        }
        if answer == Answer::Refused("refresh_token_reused") {
            self.record_revocation(node, session);
        }
        // One load, and a write only if the oracle's row has changed.
        let calls = (self.store.loads.load(Ordering::SeqCst), self.store.writes.load(Ordering::SeqCst));
        let wrote = self.oracle.row(session) != before;
        if calls != (1, usize::from(wrote)) {
            return Err(format!("{}: {answer:?} cost {calls:?} loads and writes", what()));
        }
        Ok((answer, got.0, got.1))
    }

    /// [`refresh`](Self::refresh), while the node's clock is ahead by so much. Afterwards it is right again.
    pub(crate) fn refresh_ahead(
        &mut self,
        node: usize,
        token: &Token,
        by: Millis,
    ) -> Check<(Answer, Option<Pass>, Option<Token>)> {
        self.log(|| format!("node {node}: clock ahead by {by} ms"));
        let by = Duration::from_millis(by.unsigned_abs());
        self.nodes[node].clock.advance(by);
        let response = self.refresh(node, token);
        self.nodes[node].clock.set_back(by);
        response
    }

    /// Checks the tokens of a response: their content, their lifetime, and that no generation is handed out twice.
    fn take(&mut self, session: usize, tokens: &Tokens, now: Millis) -> Check<(Pass, Option<Token>)> {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap();
        let ends = now + millis(tokens.session_expires_in);
        if *self.ends.entry(session).or_insert(ends) != ends {
            return Err(format!("the expiry of session {session} has moved"));
        }
        let life = millis(tokens.expires_in);
        let full = ACCESS_TTL - ACCESS_TTL / 20 - 1_000;
        if life > ACCESS_TTL || life > ends - now || life < full.min(ends - now) {
            return Err(format!("an access token of session {session} that is valid for {life} ms"));
        }
        let payload = tokens.access_token.split('.').nth(1).ok_or("the access token is not a JWT")?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|error| error.to_string())?;
        let payload: serde_json::Value = serde_json::from_slice(&payload).map_err(|error| error.to_string())?;
        if payload["sid"] != self.ids[session].to_string() || tokens.session_id != self.ids[session] {
            return Err(format!("session {session} got another session's token"));
        }
        if payload["exp"].as_i64().is_none_or(|exp| exp * 1000 > ends) {
            return Err(format!("an access token outlives session {session}"));
        }
        let role = payload["role"].as_str().and_then(|role| role.parse::<u32>().ok());
        if let (Some(row), Some(role)) = (self.oracle.row(session), role)
            && row.claims != role
        {
            return Err(format!("session {session} has claims {}, the access token has {role}", row.claims));
        }
        let generation = payload["gen"].as_u64().and_then(|generation| u32::try_from(generation).ok());
        let generation = generation.ok_or("an access token without a generation")?;
        let what = Access { session, generation, issued: now, expires: now + life };
        let pass = Pass { text: tokens.access_token.as_str().into(), what };
        let Some(text) = &tokens.refresh_token else { return Ok((pass, None)) };
        let generation = generation_of(text)?;
        if !self.handed_out.insert((session, generation)) {
            return Err(format!("refresh token {generation} of session {session} was handed out twice"));
        }
        Ok((pass, Some(Token { text: text.as_str().into(), session, generation })))
    }

    pub(crate) fn authenticate(&mut self, node: usize, pass: &Pass) -> Check<bool> {
        let now = self.nodes[node].now();
        let real = self.nodes[node].run(async |auth| code(auth.authenticate(&pass.text).await).map(drop));
        let expected = self.oracle.authenticate(node, pass.what, now);
        let Access { session, generation, .. } = pass.what;
        let what = || format!("node {node}: access token of generation {generation} of session {session}");
        let passed = self.same(what, real, &expected)?.is_ok();
        if passed && self.revoked.get(&session).is_some_and(|known| known[node]) {
            return Err(format!("{}: accepted on a node that knows the revocation", what()));
        }
        if passed && self.ends.get(&session).is_some_and(|ends| now >= *ends) {
            return Err(format!("{}: outlives its session", what()));
        }
        Ok(passed)
    }

    pub(crate) fn update_claims(&mut self, node: usize, pass: &Pass) -> Check<Option<Pass>> {
        if !self.authenticate(node, pass)? {
            return Ok(None);
        }
        let now = self.nodes[node].now();
        self.claims_updates += 1;
        let number = self.claims_updates;
        let real = self.nodes[node].run(async |auth| {
            let caller = auth.authenticate(&pass.text).await?;
            auth.update_claims(&caller, claims(&number.to_string())).await
        });
        let real = code(real);
        let Access { session, generation, .. } = pass.what;
        let expected = self.oracle.update_claims(node, session, number, now);
        let what = || format!("node {node}: session {session} gets claims {number}");
        let _ = self.same(what, real.as_ref().map(drop).map_err(|code| *code), &expected)?;
        let Ok(login) = real else { return Ok(None) };
        let (pass, token) = self.take(session, &login.tokens, now)?;
        if token.is_some() || pass.what.generation != generation {
            return Err(format!("{}: the generation has moved", what()));
        }
        Ok(Some(pass))
    }

    /// Records a confirmed revocation. From now on the refresh token is invalid everywhere. The access tokens are
    /// invalid on this node, unless the session had been revoked on another node before: then this node learns it from
    /// the feed.
    fn record_revocation(&mut self, node: usize, session: usize) {
        self.revoked.entry(session).or_default()[node] |= self.oracle.knows_revocation(node, session);
    }

    pub(crate) fn logout(&mut self, node: usize, token: &Token) -> Check<bool> {
        let now = self.nodes[node].now();
        let session = token.session;
        self.asked_to_revoke.insert(session);
        let real = self.nodes[node].run(async |auth| code(auth.logout(&token.text).await));
        let mut expected = self.oracle.logout(node, session, now);
        if self.oracle.is_gone(session) && self.oracle.fault == Fault::LosesReplies && expected.is_ok() {
            // The session is revoked once more, unless the node remembers that it was; this reply may be lost.
            expected = real;
        }
        let done = self.same(|| format!("node {node}: logout of session {session}"), real, &expected)?.is_ok();
        if done {
            self.record_revocation(node, session);
        }
        Ok(done)
    }

    pub(crate) fn revoke(&mut self, node: usize, user: usize, session: usize) -> Check {
        let now = self.nodes[node].now();
        let id = self.ids[session];
        self.asked_to_revoke.insert(session);
        let real = self.nodes[node].run(async |auth| code(auth.revoke_own_session(name(user), id).await));
        let expected = self.oracle.revoke(node, session, now);
        if self.same(|| format!("node {node}: revocation of session {session}"), real, &expected)?.is_ok() {
            self.record_revocation(node, session);
        }
        Ok(())
    }

    pub(crate) fn revoke_all(&mut self, node: usize, user: usize, except: Option<usize>) -> Check {
        let now = self.nodes[node].now();
        let id = except.map(|session| self.ids[session]);
        let all = (0..self.ids.len()).filter(|session| Some(*session) != except);
        let all: Vec<_> = all.filter(|session| self.oracle.row(*session).is_some_and(|row| row.user == user)).collect();
        self.asked_to_revoke.extend(&all);
        let is_needless = !self.oracle.has_open_session(user);
        let real =
            self.nodes[node].run(async |auth| code(auth.revoke_user(name(user), id, RevocationReason::Logout).await));
        let revoked = self.oracle.revoke_all(node, user, except, now);
        let what = || format!("node {node}: revocation of all sessions of {} but {except:?}", name(user));
        let _ = self.same(what, real, &revoked.as_ref().map(Vec::len).map_err(|code| *code))?;
        if revoked.is_ok() {
            all.into_iter().for_each(|session| self.record_revocation(node, session));
            if is_needless {
                // A store may write a revocation that revokes nothing, or not, so the node may know now what others have
                // revoked before. After reading the feed it does.
                self.rest(node);
            }
        }
        Ok(())
    }

    pub(crate) fn list(&mut self, node: usize, user: usize) -> Check {
        let now = self.nodes[node].now();
        let sessions = code(self.nodes[node].run(async |auth| auth.sessions(name(user)).await));
        let number = |session: &Session| self.ids.iter().position(|id| *id == session.id).unwrap();
        let listed = sessions.as_ref().map(|sessions| sessions.iter().map(number).collect::<BTreeSet<_>>());
        let expected = self.oracle.list(node, user, now);
        let listed =
            self.same(|| format!("node {node}: sessions of {}", name(user)), listed.map_err(|code| *code), &expected)?;
        if let Some(revoked) = listed.into_iter().flatten().find(|session| self.revoked.contains_key(session)) {
            return Err(format!("session {revoked} is listed after its revocation was confirmed"));
        }
        for session in sessions.into_iter().flatten() {
            let number = self.ids.iter().position(|id| *id == session.id).unwrap();
            let ends = Timestamp::from(session.expires_at).as_millis();
            if *self.ends.entry(number).or_insert(ends) != ends {
                return Err(format!("the expiry of session {number} has moved"));
            }
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self, node: usize) -> Check {
        let real = self.nodes[node].run(async |auth| code(auth.flush().await));
        let expected = self.oracle.flush(node, real);
        self.same(|| format!("node {node}: flush"), real, &expected).map(drop)
    }

    /// Lets one second pass for the node's background task (and for nothing else), which also purges.
    pub(crate) fn rest(&mut self, node: usize) {
        self.log(|| format!("node {node}: rest"));
        let now = self.nodes[node].now();
        let unknown = &self.unknown;
        let flushed = self.nodes[node].run(async |auth| {
            let _ = auth.refresh(unknown, client()).await;
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            let flushed = code(auth.flush().await);
            let _ = auth.purge().await;
            flushed
        });
        self.read_feed(node, now);
        let _ = self.oracle.flush(node, flushed);
        self.oracle.purge(now);
    }

    /// The node crashes and another takes its place: pending activity is lost.
    pub(crate) fn restart(&mut self, node: usize) {
        self.log(|| format!("node {node}: restart"));
        let clock = self.nodes[node].clock.clone();
        self.nodes[node] = RealNode::new(&self.store, clock);
        self.oracle.restart(node);
        self.revoked.values_mut().for_each(|known| known[node] = false);
        self.begin(node);
    }
}
