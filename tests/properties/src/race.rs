//! Races on real threads, of two nodes on one store. All calls and replies are recorded, and a search as described by
//! Wing and Gong looks for an order of the calls that explains all replies, in which every call takes effect at one
//! instant between its beginning and its end.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum_refresh::store::{
    Activity, ExternalId, FeedCursor, FeedWindow, InsertOptions, Inserted, Revocation, RevocationBatch, RevokeTarget,
    Revoked, SessionRecord, StoreError, Timestamp,
};
use axum_refresh::{Auth, AuthUser, Policy, RevocationReason, Secret, SessionId, SessionStore};
use tokio::sync::Barrier;

use super::oracle::{Answer, GRACE, Millis, Row};
use super::{Claims, Clock, Open, SECRET, claims, client};

/// Deterministic pseudorandom numbers (SplitMix64).
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A store with a slow connection: other tasks run before and after every call.
#[derive(Clone)]
pub(crate) struct Slow {
    inner: Arc<dyn SessionStore>,
    calls: Arc<AtomicU64>,
}

impl Slow {
    pub(crate) fn over(inner: Arc<dyn SessionStore>) -> Self {
        Self { inner, calls: Arc::default() }
    }

    async fn pause(&self) {
        let mut random = Random(self.calls.fetch_add(1, Ordering::Relaxed));
        for _ in 0..random.below(4) {
            tokio::task::yield_now().await;
        }
        if random.one_in(16) {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    async fn with_pauses<T>(&self, work: impl Future<Output = T>) -> T {
        self.pause().await;
        let done = work.await;
        self.pause().await;
        done
    }
}

#[async_trait]
impl SessionStore for Slow {
    async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        self.with_pauses(self.inner.insert(new, options)).await
    }

    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        self.with_pauses(self.inner.load(id)).await
    }

    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        self.with_pauses(self.inner.compare_and_swap(expected, next)).await
    }

    async fn list(&self, user: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
        self.with_pauses(self.inner.list(user, limit)).await
    }

    async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        self.with_pauses(self.inner.find_external(id)).await
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
        self.with_pauses(self.inner.revoke(target, revocation)).await
    }

    async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
        self.inner.record_activity(batch).await
    }

    /// Without the clock of the store, which is not that of the schedule.
    async fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> Result<RevocationBatch, StoreError> {
        let batch = self.inner.read_revocations(since, window).await?;
        Ok(RevocationBatch { now: None, ..batch })
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.inner.purge(before, limit).await
    }
}

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// With the refresh token of this generation.
    Refresh(u32),
    Logout,
    /// By the user, from the list of sessions.
    Revoke,
    RevokeAll,
    /// With these claims.
    UpdateClaims(u32),
    IsListed,
    /// Reads the row from the store.
    Look,
    /// Removes the session if it has expired.
    Purge,
}

/// The reply to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    /// With the claims in the access token.
    Refresh(Answer, Option<u32>),
    /// Of a logout, a revocation or an update of the claims: whether it succeeded.
    Done(bool),
    /// The number of sessions.
    Revoked(usize),
    Listed(bool),
    Row(Option<Row>),
    Purged,
}

#[derive(Clone, Copy)]
struct Event {
    worker: usize,
    node: usize,
    call: Call,
    reply: Reply,
    /// When it began and ended, on a clock that counts beginnings and ends.
    span: (u64, u64),
    /// The time on the nodes' clock when it began and ended.
    clock: (Millis, Millis),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker, node, call, reply, span: (begin, end), clock } = self;
        write!(f, "[{begin:>3}..{end:>3}] worker {worker:>2}, node {node}: {call:?} -> {reply:?}")?;
        if clock.0 == clock.1 { Ok(()) } else { write!(f, "  (the clock was moved)") }
    }
}

/// `None` if the row was purged.
type State = Option<Row>;

/// Every state that the protocol allows after this call with this reply, if it takes effect now.
fn after(state: State, event: &Event) -> Vec<State> {
    let clocks = if event.clock.0 == event.clock.1 { vec![event.clock.0] } else { vec![event.clock.0, event.clock.1] };
    let next = |now: Millis| {
        let next = after_at(state, event, now);
        // A node's background task purges too, at any time.
        let purged = state.filter(|row| row.expires < now - GRACE).and_then(|_| after_at(None, event, now));
        // Live when it was looked up and expired when it was revoked: the row is marked all the same, and the reply is
        // "not found".
        let is_marked = (event.call, event.reply) == (Call::Revoke, Reply::Done(false));
        // Two calls that revoke a session at the same time may both count it: each looks for live sessions first.
        let is_counted = matches!(
            (event.call, event.reply),
            (Call::Revoke, Reply::Done(true)) | (Call::RevokeAll, Reply::Revoked(1))
        );
        let counted = state.filter(|row| is_counted && row.revoked && now < row.expires).map(Some);
        // Loaded before it was purged, and decided after a logout that found nothing, which the node remembers.
        let is_remembered = matches!(event.call, Call::Refresh(_))
            && event.reply == Reply::Refresh(Answer::Refused("session_revoked"), None);
        let remembered = (state.is_none() && is_remembered).then_some(None);
        let marked = state.filter(|row| is_marked && now >= row.expires).map(|row| Some(Row { revoked: true, ..row }));
        next.into_iter().chain(purged).chain(marked).chain(counted).chain(remembered)
    };
    clocks.into_iter().flat_map(next).collect()
}

fn after_at(state: State, event: &Event, now: Millis) -> Option<State> {
    let (reply, next) = match event.call {
        Call::Refresh(p) => match state {
            None => (Reply::Refresh(Answer::Refused("refresh_token_invalid"), None), None),
            Some(row) => {
                let (answer, next) = row.present(p, now);
                let claims = matches!(answer, Answer::Granted(..)).then_some(row.claims);
                (Reply::Refresh(answer, claims), Some(next.unwrap_or(row)))
            }
        },
        Call::Logout => (Reply::Done(true), state.map(|row| Row { revoked: true, ..row })),
        Call::Revoke => match state.filter(|row| row.is_live(now)) {
            None => (Reply::Done(false), state),
            Some(row) => (Reply::Done(true), Some(Row { revoked: true, ..row })),
        },
        Call::RevokeAll => {
            let revoked = state.filter(|row| !row.revoked && now < row.expires);
            (Reply::Revoked(usize::from(revoked.is_some())), state.map(|row| Row { revoked: true, ..row }))
        }
        Call::UpdateClaims(number) => match state.filter(|row| row.is_live(now)) {
            None => (Reply::Done(false), state),
            Some(row) => (Reply::Done(true), Some(Row { claims: number, ..row })),
        },
        Call::IsListed => (Reply::Listed(state.is_some_and(|row| row.is_live(now))), state),
        Call::Look => (Reply::Row(meaning(state)), state),
        Call::Purge => (Reply::Purged, state.filter(|row| row.expires >= now - GRACE)),
    };
    (reply == event.reply).then_some(next)
}

/// Whether some order of the events explains all replies. In a valid order, no event precedes one that ended before it
/// began.
fn is_linearizable(history: &[Event], start: State) -> bool {
    assert!(history.len() <= 128);
    let all = if history.len() == 128 { u128::MAX } else { (1 << history.len()) - 1 };
    let mut seen = HashSet::new();
    let mut open = vec![(0_u128, start)];
    while let Some((done, state)) = open.pop() {
        if done == all {
            return true;
        }
        if !seen.insert((done, state)) {
            continue;
        }
        let left = || history.iter().enumerate().filter(move |(n, _)| done & (1 << n) == 0);
        let first_end = left().map(|(_, event)| event.span.1).min().unwrap_or(u64::MAX);
        let may_be_next = left().filter(|(_, event)| event.span.0 < first_end);
        let nexts: Vec<_> = may_be_next
            .flat_map(|(n, event)| after(state, event).into_iter().map(move |next| (done | (1 << n), next)))
            .collect();
        // A call that only reads can be taken at once, because every continuation remains possible. (Excluded are calls
        // that change nothing in this state, but could change it later.)
        let writes = |call| matches!(call, Call::UpdateClaims(_) | Call::Revoke);
        let reads = |done: u128| !left().any(|(n, event)| done & (1 << n) != 0 && writes(event.call));
        match nexts.iter().find(|(done, next)| *next == state && reads(*done)) {
            Some(next) => open.push(*next),
            None => open.extend(nexts),
        }
    }
    false
}

fn report(history: &[Event], start: State) -> String {
    let mut lines: Vec<_> = history.to_vec();
    lines.sort_by_key(|event| event.span);
    let lines: Vec<_> = lines.iter().map(Event::to_string).collect();
    format!("no order of these calls explains their replies, starting from {start:?}:\n{}", lines.join("\n"))
}

struct Race {
    store: Slow,
    clock: Clock,
    nodes: [Auth<Claims>; 2],
    events: AtomicU64,
    session: SessionId,
    user: String,
    tokens: Vec<String>,
    caller: AuthUser<Claims>,
    start: State,
}

/// The history of a session before the race.
#[derive(Clone, Copy, Debug)]
struct Past {
    /// Refreshes that succeeded, followed by those whose response was lost.
    rotations: u32,
    recoveries: u32,
    acknowledged: bool,
    /// Whether the grace period is over at the start. `at_the_end`: the session is about to expire.
    late: bool,
    at_the_end: bool,
}

impl Race {
    async fn prepare(open: Open, number: usize, past: Past) -> Self {
        let store = Slow::over(open());
        let clock = Clock::new();
        let policy = Policy {
            lifetime: Duration::from_secs(4 * 3600),
            idle_timeout: Duration::from_secs(4 * 3600),
            ..Policy::default()
        };
        let node = |_| {
            let builder = Auth::<Claims>::builder(Secret::new(SECRET), store.clone())
                .configure(|settings| settings.policy = policy.clone());
            builder.clock(clock.reader()).build().unwrap()
        };
        let nodes = [0, 1].map(node);
        let user = format!("user{number}");
        let grace_and_more = Duration::from_millis(GRACE.unsigned_abs() + 1);
        let login = nodes[0].login(&user, claims("0")).client(client()).await.unwrap();
        let session = login.tokens.session_id;
        let mut tokens = vec![login.tokens.refresh_token.unwrap()];
        let mut pass = login.tokens.access_token;
        for turn in 0..past.rotations + past.recoveries {
            clock.advance(grace_and_more);
            let parent = tokens[usize::try_from(past.rotations.saturating_sub(1).min(turn)).unwrap()].clone();
            let refreshed = nodes[0].refresh(&parent, client()).await.unwrap();
            tokens.push(refreshed.tokens.refresh_token.unwrap());
            pass = refreshed.tokens.access_token;
        }
        // Before the grace period is over, so that this acknowledges nothing: an acknowledgement that only one node
        // knows is not linearizable with calls on the other node.
        let caller = nodes[0].authenticate(&pass).await.unwrap();
        if past.late {
            clock.advance(grace_and_more);
        }
        let row = store.inner.load(session).await.unwrap().unwrap();
        if past.at_the_end {
            clock.advance(row.rotation.expires_at.since(clock.now()) - Duration::from_millis(1));
        }
        if past.acknowledged {
            let seen = Activity { id: session, last_seen_at: clock.now(), acknowledged: Some(row.rotation.generation) };
            store.inner.record_activity(&[seen]).await.unwrap();
        }
        let start = look(&store, session).await;
        Self { store, clock, nodes, events: AtomicU64::new(0), session, user, tokens, caller, start }
    }

    async fn call(&self, worker: usize, node: usize, call: Call) -> Event {
        let auth = &self.nodes[node];
        let clock = self.clock.now().as_millis();
        let begin = self.events.fetch_add(1, Ordering::SeqCst);
        let reply = match call {
            Call::Refresh(p) => {
                let token = &self.tokens[usize::try_from(p).unwrap()];
                match auth.refresh(token, client()).await {
                    Ok(refreshed) => {
                        let rule = match format!("{:?}", refreshed.verdict).as_str() {
                            "Rotate" => "Rotate",
                            "Touch" => "Touch",
                            "Echo" => "Echo",
                            "Recover" => "Recover",
                            _ => "Ahead",
                        };
                        let (generation, role) = read(&refreshed.tokens.access_token);
                        let next = refreshed.tokens.refresh_token.map(|text| generation_of(&text));
                        Reply::Refresh(Answer::Granted(rule, generation, next), Some(role))
                    }
                    Err(error) => Reply::Refresh(Answer::Refused(error.code()), None),
                }
            }
            Call::Logout => Reply::Done(auth.logout(&self.tokens[0]).await.is_ok()),
            Call::Revoke => Reply::Done(auth.revoke_own_session(&self.user, self.session).await.is_ok()),
            Call::RevokeAll => {
                Reply::Revoked(auth.revoke_user(&self.user, None, RevocationReason::Logout).await.unwrap())
            }
            Call::UpdateClaims(number) => {
                Reply::Done(auth.update_claims(&self.caller, claims(&number.to_string())).await.is_ok())
            }
            Call::IsListed => Reply::Listed(!auth.sessions(&self.user).await.unwrap().is_empty()),
            Call::Look => Reply::Row(meaning(look(&self.store, self.session).await)),
            Call::Purge => {
                auth.purge().await.unwrap();
                Reply::Purged
            }
        };
        let end = self.events.fetch_add(1, Ordering::SeqCst);
        Event { worker, node, call, reply, span: (begin, end), clock: (clock, self.clock.now().as_millis()) }
    }

    /// Every worker makes its calls in sequence, and all workers start at once. Meanwhile the clock may leap, and the
    /// session is purged if it has expired. At the end, one more worker reads the row and the list.
    async fn run(self, work: Vec<Vec<(usize, Call)>>, leap: Option<Duration>, purges: bool) -> Vec<Event> {
        let race = Arc::new(self);
        let count = work.len();
        let barrier = Arc::new(Barrier::new(work.len() + usize::from(leap.is_some())));
        let leaping = leap.map(|leap| {
            let (race, barrier) = (Arc::clone(&race), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                race.store.pause().await;
                race.clock.advance(leap);
                if !purges {
                    return Vec::new();
                }
                vec![race.call(count, 0, Call::Purge).await, race.call(count, 0, Call::Look).await]
            })
        });
        let workers = work.into_iter().enumerate().map(|(worker, calls)| {
            let (race, barrier) = (Arc::clone(&race), Arc::clone(&barrier));
            tokio::spawn(async move {
                let mut events = Vec::new();
                barrier.wait().await;
                for (node, call) in calls {
                    events.push(race.call(worker, node, call).await);
                }
                events
            })
        });
        let workers: Vec<_> = workers.collect();
        let mut history = Vec::new();
        for worker in workers {
            history.extend(worker.await.unwrap());
        }
        if let Some(leaping) = leaping {
            history.extend(leaping.await.unwrap());
        }
        for call in [Call::Look, Call::IsListed] {
            history.push(race.call(count, 1, call).await);
        }
        history
    }
}

/// Only the columns that the calls of a race can change or read.
async fn look(store: &Slow, session: SessionId) -> State {
    let session = store.inner.load(session).await.unwrap()?;
    let rotation = session.rotation;
    let claims: Claims = serde_json::from_str(&session.claims).unwrap();
    Some(Row {
        user: 0,
        generation: rotation.generation,
        parent: rotation.parent,
        rotated_at: rotation.rotated_at.map(Timestamp::as_millis),
        acknowledged: rotation.acknowledged,
        // No session becomes idle during a race.
        seen: Millis::MAX,
        expires: rotation.expires_at.as_millis(),
        revoked: rotation.revoked.is_some(),
        claims: claims.role.parse().unwrap(),
        cutoff: 0,
    })
}

/// What a look at the row proves: a store may still write to a row whose session was revoked by a cutoff (see
/// `SessionStore::compare_and_swap`), for a call that took effect just before.
fn meaning(state: State) -> State {
    let row = state?;
    let revoked =
        Row { generation: 0, parent: None, rotated_at: None, acknowledged: None, expires: 0, claims: 0, ..row };
    Some(if row.revoked { revoked } else { row })
}

fn bytes_of(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}

fn generation_of(refresh_token: &str) -> u32 {
    u32::from_be_bytes(bytes_of(refresh_token)[18..22].try_into().unwrap())
}

/// Reads the generation and the claims of an access token.
fn read(access_token: &str) -> (u32, u32) {
    let payload = bytes_of(access_token.split('.').nth(1).unwrap());
    let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    let generation = u32::try_from(payload["gen"].as_u64().unwrap()).unwrap();
    (generation, payload["role"].as_str().unwrap().parse().unwrap())
}

fn past(random: &mut Random) -> Past {
    let rotations = u32::try_from(random.below(3)).unwrap();
    Past {
        rotations,
        recoveries: if rotations > 0 { u32::try_from(random.below(2)).unwrap() } else { 0 },
        acknowledged: random.one_in(3),
        late: !random.one_in(4),
        at_the_end: false,
    }
}

fn call(random: &mut Random, newest: u32) -> Call {
    match random.below(20) {
        0..=5 => Call::Refresh(newest),
        6..=8 => Call::Refresh(newest.saturating_sub(1)),
        9 => Call::Refresh(u32::try_from(random.below(usize::try_from(newest).unwrap() + 1)).unwrap()),
        10 | 11 => Call::Logout,
        12 => Call::Revoke,
        13 => Call::RevokeAll,
        14 | 15 => Call::UpdateClaims(u32::try_from(1 + random.below(9)).unwrap()),
        16 => Call::IsListed,
        _ => Call::Look,
    }
}

pub(crate) fn rounds(default: usize) -> usize {
    std::env::var("RACE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}

pub(crate) fn on_threads(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap().block_on(work);
}

async fn race(open: Open, number: usize, past: Past, work: Vec<Vec<(usize, Call)>>, leap: Option<Duration>) {
    let race = Race::prepare(open, number, past).await;
    let start = race.start;
    let history = race.run(work, leap, past.at_the_end).await;
    assert!(is_linearizable(&history, start), "round {number}, {past:?}: {}", report(&history, start));
}

/// A few workers with a few calls each.
pub(crate) fn small_races(open: Open, rounds: usize) {
    on_threads(async {
        for number in 0..rounds {
            let random = &mut Random(u64::try_from(number).unwrap() << 20);
            let mut past = past(random);
            past.at_the_end = past.late && random.one_in(4);
            let newest = past.rotations + past.recoveries;
            let workers = 2 + random.below(4);
            let work: Vec<Vec<_>> = (0..workers)
                .map(|_| (0..=random.below(3)).map(|_| (random.below(2), call(random, newest))).collect())
                .collect();
            let leap = if past.at_the_end {
                // The session expires during the race, and is purged.
                Some(Duration::from_millis(2 * GRACE.unsigned_abs()))
            } else {
                random.one_in(3).then(|| Duration::from_millis(GRACE.unsigned_abs() + 1))
            };
            race(open, number, past, work, leap).await;
        }
    });
}

/// Sixty-four workers with one call each.
pub(crate) fn large_races(open: Open, rounds: usize) {
    on_threads(async {
        for number in 0..rounds {
            let random = &mut Random((u64::try_from(number).unwrap() << 20) + 1);
            let past = past(random);
            let newest = past.rotations + past.recoveries;
            let mut work: Vec<_> = (0..64)
                .map(|_| {
                    let p = if random.one_in(4) { newest.saturating_sub(1) } else { newest };
                    vec![(random.below(2), Call::Refresh(p))]
                })
                .collect();
            if random.one_in(2) {
                work[random.below(64)] = vec![(random.below(2), Call::Logout), (random.below(2), Call::Look)];
            }
            race(open, number, past, work, None).await;
        }
    });
}

/// The search accepts a history that has a valid order and rejects one that has none.
#[cfg(test)]
pub(crate) fn check_the_search() {
    let start = Some(Row { seen: Millis::MAX, ..Row::new(0, 0, 0) });
    let event = |call, reply, span| Event { worker: 0, node: 0, call, reply, span, clock: (1, 1) };
    let rotate = Reply::Refresh(Answer::Granted("Rotate", 1, Some(1)), Some(0));
    let echo = Reply::Refresh(Answer::Granted("Echo", 0, None), Some(0));
    let revoked = Reply::Refresh(Answer::Refused("session_revoked"), None);
    let is = |events: &[Event]| is_linearizable(events, start);
    let refresh = Call::Refresh(0);
    // Concurrent calls explain either order, sequential ones only their own.
    assert!(is(&[event(refresh, echo, (0, 3)), event(refresh, rotate, (1, 2))]));
    assert!(!is(&[event(refresh, echo, (0, 1)), event(refresh, rotate, (2, 3))]));
    // The same refresh token was handed out twice.
    assert!(!is(&[event(refresh, rotate, (0, 3)), event(refresh, rotate, (1, 2))]));
    // A confirmed revocation is final; one under way may take effect later.
    let logout = |span| event(Call::Logout, Reply::Done(true), span);
    assert!(is(&[logout((0, 3)), event(refresh, rotate, (1, 2))]));
    assert!(!is(&[logout((0, 1)), event(refresh, rotate, (2, 3))]));
    assert!(is(&[logout((0, 1)), event(refresh, revoked, (2, 3))]));
    // An update of the claims that was overwritten.
    let updated = |number, span| event(Call::UpdateClaims(number), Reply::Done(true), span);
    assert!(!is(&[updated(1, (0, 1)), event(Call::Look, Reply::Row(start), (2, 3))]));
}
