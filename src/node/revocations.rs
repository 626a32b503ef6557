//! The revocations in force: a set in memory, filled from the store's feed, and checked on every request.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::quality::RandomState;
use tokio::time::Instant;

use super::freshness::Freshness;
use super::log::{Log, Subject};
use super::waiters::Waiters;
use crate::session::SessionId;
use crate::store::{RevokedItem, RevokedUsers, Spared};
use crate::time::Timestamp;
use crate::token::id::TokenId;

/// Whoever follows the revocations is told of one again if it is kept for so much longer.
const MUCH_LONGER: Duration = Duration::from_secs(60);

/// The scope of everyone in the realm of this node.
pub(crate) const EVERYONE: &str = "\0\0";

/// The revoked sessions, access tokens and users whose access tokens may not have expired yet.
///
/// Each is kept until a time by the clock of this node: no access token from before is valid here any more by then, whatever
/// the settings of the node that revoked it.
#[derive(Debug)]
pub(crate) struct LiveRevocations {
    sessions: DashMap<SessionId, Kept, RandomState>,
    tokens: DashMap<TokenId, Kept, RandomState>,
    /// Users of whom many sessions were revoked at once, as the app knows them, and [`EVERYONE`].
    users: DashMap<Box<str>, Cutoff>,
    /// The size of `users`, never less. Nearly always it is 0, and no request has to look.
    user_count: AtomicUsize,
    /// Sessions of such users that the store has reported as live, and the standing as of then.
    spared: DashMap<SessionId, Standing>,
    /// How often anything became known as revoked.
    additions: AtomicU64,
    /// The number of the last comparison with the store's feed.
    comparison: AtomicU32,
    created_at: Instant,
    freshness: Freshness,
    /// Those who wait for a revocation.
    waiters: Waiters,
    /// For services without the store.
    pub(super) log: Log,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    until: Timestamp,
    /// The number of the comparison in or after which it was last added.
    added_in: u32,
    /// When it was written to the store, in seconds since `created_at`: by a clock that nobody sets.
    written: i32,
}

/// What adding a revocation has changed. The feed is read again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    New,
    /// It is kept for much longer than before.
    Longer,
    Nothing,
}

impl Added {
    fn again(before: Timestamp, until: Timestamp) -> Self {
        if until > before.after(MUCH_LONGER) { Self::Longer } else { Self::Nothing }
    }

    /// Whether those who follow have to know.
    fn is_news(self) -> bool {
        self != Self::Nothing
    }
}

/// Instead of the number of a comparison: the store's feed need not have it.
const NOT_IN_FEED: u32 = u32::MAX;

impl Kept {
    fn add(&mut self, again: Self) {
        self.until = self.until.max(again.until);
        if again.added_in != NOT_IN_FEED {
            // When it was found says nothing about when it was written.
            self.written = if self.added_in == NOT_IN_FEED { again.written } else { self.written.max(again.written) };
            self.added_in = again.added_in;
        }
    }
}

/// The newest revocation of a user, or of everyone.
#[derive(Clone, Copy, Debug)]
struct Cutoff {
    mark: Mark,
    revoked_at: Timestamp,
    spared: Spared,
    kept: Kept,
}

/// Changes with every revocation of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Mark {
    number: i64,
    /// How often this node has revoked the scope itself. A store that has lost writes may give a number that is lower than
    /// the known one, and a revocation that has not reached it has none.
    here: u32,
}

/// The newest revocations of a user and of everyone. The store's word on a session counts until one is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    user: Option<Mark>,
    everyone: Option<Mark>,
}

/// What this node knows about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Live,
    Revoked,
    /// Its user was revoked, and perhaps the session was spared or is newer: the store knows.
    Unknown(Standing),
}

impl LiveRevocations {
    pub(crate) fn new(max_staleness: Duration) -> Self {
        Self {
            sessions: DashMap::default(),
            tokens: DashMap::default(),
            users: DashMap::new(),
            user_count: AtomicUsize::new(0),
            spared: DashMap::new(),
            additions: AtomicU64::new(0),
            comparison: AtomicU32::new(0),
            created_at: Instant::now(),
            freshness: Freshness::new(max_staleness),
            waiters: Waiters::new(),
            log: Log::new(),
        }
    }

    /// Revocations that nobody announces: what is known is never too old.
    #[cfg(feature = "verifier")]
    pub(crate) fn unannounced() -> Self {
        Self { freshness: Freshness::unlimited(), ..Self::new(Duration::ZERO) }
    }

    /// How recent all of this is.
    pub(crate) const fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// Records that the feed was read as of `now`, by both clocks.
    pub(crate) fn caught_up(&self, now: Timestamp, as_of: Instant) {
        self.freshness.caught_up(now, as_of);
        self.log.was_read();
    }

    pub(crate) const fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// Adds an entry of the feed, written so long ago. Adding it again changes nothing but how long it is kept. Returns whether
    /// it is new here.
    pub(crate) fn apply(&self, item: &RevokedItem, kept_until: Timestamp, age: Duration) -> bool {
        let kept = self.kept(kept_until, age);
        match item {
            RevokedItem::Session(id) => self.keep_session(*id, kept),
            RevokedItem::Token(jti) => {
                let Some(id) = TokenId::parse(jti) else { return false };
                let added = self.keep(&self.tokens, id, kept);
                self.waiters.token_revoked(id);
                if added.is_news() {
                    self.log.add(|| Subject::Token(id));
                }
                added == Added::New
            }
            RevokedItem::Users(users) => self.keep_users(users, kept, false),
        }
    }

    /// Adds a session that was revoked just now.
    pub(crate) fn revoke_session(&self, id: SessionId, kept_until: Timestamp) {
        self.keep_session(id, self.kept(kept_until, Duration::ZERO));
    }

    /// Adds a session that was found to be revoked, by whatever: the feed need not name it.
    pub(crate) fn found_revoked(&self, id: SessionId, kept_until: Timestamp) {
        self.keep_session(id, Kept { added_in: NOT_IN_FEED, ..self.kept(kept_until, Duration::ZERO) });
    }

    /// Adds a revocation of many sessions that this node has made just now.
    pub(crate) fn revoke_users(&self, users: &RevokedUsers, kept_until: Timestamp) {
        self.keep_users(users, self.kept(kept_until, Duration::ZERO), true);
    }

    fn keep_session(&self, id: SessionId, new: Kept) -> bool {
        let added = self.keep(&self.sessions, id, new);
        self.waiters.session_revoked(id);
        if added.is_news() {
            self.log.add(|| Subject::Session(id));
        }
        added == Added::New
    }

    fn keep<K: Eq + Hash>(&self, map: &DashMap<K, Kept, RandomState>, id: K, new: Kept) -> Added {
        match map.entry(id) {
            Entry::Occupied(mut known) => {
                let before = known.get().until;
                known.get_mut().add(new);
                Added::again(before, known.get().until)
            }
            Entry::Vacant(entry) => {
                let _locked = entry.insert(new);
                self.added();
                Added::New
            }
        }
    }

    /// Something is in one of the maps that was not there before. Its entry is still locked: whoever finds it there, and
    /// reports it as revoked, must not be ahead of this.
    fn added(&self) {
        self.additions.fetch_add(1, Ordering::AcqRel);
    }

    fn keep_users(&self, users: &RevokedUsers, kept: Kept, is_from_here: bool) -> bool {
        let added = self.add_users(users, kept, is_from_here);
        if added == Added::New {
            self.waiters.users_revoked((*users.scope != *EVERYONE).then_some(&users.scope));
        }
        if added.is_news() {
            self.log.add(|| Subject::Users(users.scope.clone()));
        }
        added == Added::New
    }

    fn add_users(&self, users: &RevokedUsers, kept: Kept, is_from_here: bool) -> Added {
        let mark = Mark { number: users.cutoff, here: u32::from(is_from_here) };
        match self.users.entry(users.scope.clone()) {
            Entry::Vacant(entry) => {
                self.user_count.fetch_add(1, Ordering::AcqRel);
                let _locked = entry.insert(Cutoff { mark, revoked_at: users.revoked_at, spared: users.spared, kept });
                self.added();
                Added::New
            }
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                let before = known.kept.until;
                let is_new = is_from_here || known.mark.number < mark.number;
                if known.mark.number <= mark.number {
                    known.mark.number = mark.number;
                    // An eviction is not repeated, but what was revoked before it is.
                    if users.spared != Spared::Newest || known.spared == Spared::Newest {
                        (known.revoked_at, known.spared) = (users.revoked_at, users.spared);
                    }
                    known.kept.add(kept);
                }
                known.mark.here = known.mark.here.wrapping_add(mark.here);
                known.kept.until = known.kept.until.max(kept.until);
                if is_new {
                    self.added();
                    return Added::New;
                }
                Added::again(before, known.kept.until)
            }
        }
    }

    fn kept(&self, until: Timestamp, age: Duration) -> Kept {
        let seconds = |duration: Duration| i32::try_from(duration.as_secs()).unwrap_or(i32::MAX);
        let written = seconds(self.created_at.elapsed()).saturating_sub(seconds(age));
        Kept { until, added_in: self.comparison.load(Ordering::Relaxed), written }
    }

    /// Changes whenever something becomes known as revoked. Read before what is known is looked up, it says until when the
    /// answer "nothing" holds.
    pub(crate) fn additions(&self) -> u64 {
        self.additions.load(Ordering::Acquire)
    }

    pub(crate) fn has_session(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    pub(crate) fn has_token(&self, id: TokenId) -> bool {
        self.tokens.contains_key(&id)
    }

    /// What is known about a session.
    pub(crate) fn known(&self, id: SessionId, user_id: &str) -> Known {
        if self.has_session(id) {
            return Known::Revoked;
        }
        if self.user_count.load(Ordering::Acquire) == 0 {
            return Known::Live;
        }
        let cutoff = |scope: &str| self.users.get(scope).map(|cutoff| cutoff.mark);
        let standing = Standing { user: cutoff(user_id), everyone: cutoff(EVERYONE) };
        if standing == (Standing { user: None, everyone: None }) || self.is_spared(id, standing) {
            return Known::Live;
        }
        Known::Unknown(standing)
    }

    /// Whether only the store can tell that a session is live.
    pub(crate) fn may_be_revoked(&self, id: SessionId, user_id: &str) -> bool {
        self.known(id, user_id) != Known::Live
    }

    fn is_spared(&self, id: SessionId, standing: Standing) -> bool {
        self.spared.get(&id).is_some_and(|spared| *spared == standing)
    }

    /// Records that the store, asked after this standing was known, has the session as live.
    pub(crate) fn spare(&self, id: SessionId, standing: Standing) {
        self.spared.insert(id, standing);
    }

    /// Begins a comparison with the store's feed: all of it is now added again.
    pub(crate) fn begin_comparison(&self) {
        self.comparison.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns what was not added since the comparison began, and was written less than `max_age` ago.
    pub(crate) fn missing(&self, max_age: Duration) -> Vec<RevokedItem> {
        let comparison = self.comparison.load(Ordering::Relaxed);
        let oldest = self.kept(Timestamp::MAX, max_age).written;
        let is_missing = |kept: &Kept| ![comparison, NOT_IN_FEED].contains(&kept.added_in) && kept.written > oldest;
        let sessions = self.sessions.iter().filter(|entry| is_missing(entry.value()));
        let sessions = sessions.map(|entry| RevokedItem::Session(*entry.key()));
        let tokens = self.tokens.iter().filter(|entry| is_missing(entry.value()));
        let tokens = tokens.map(|entry| RevokedItem::Token(entry.key().to_string().into()));
        let is_repeated = |cutoff: &Cutoff| is_missing(&cutoff.kept) && cutoff.spared != Spared::Newest;
        let users = self.users.iter().filter(|entry| is_repeated(entry)).map(|entry| {
            let scope = entry.key().clone();
            let Cutoff { mark, revoked_at, spared, .. } = *entry;
            RevokedItem::Users(RevokedUsers { scope, cutoff: mark.number, revoked_at, spared })
        });
        sessions.chain(tokens).chain(users).collect()
    }

    /// How many revocations are kept.
    pub(crate) fn len(&self) -> usize {
        let (sessions, users, tokens) = self.numbers();
        sessions + users + tokens
    }

    /// How many sessions, users and tokens are kept.
    pub(super) fn numbers(&self) -> (usize, usize, usize) {
        (self.sessions.len(), self.users.len(), self.tokens.len())
    }

    /// All that is in force.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        let sessions = self.sessions.iter().map(|entry| Subject::Session(*entry.key()));
        let tokens = self.tokens.iter().map(|entry| Subject::Token(*entry.key()));
        let users = self.users.iter().map(|entry| Subject::Users(entry.key().clone()));
        sessions.chain(tokens).chain(users).collect()
    }

    pub(super) fn session_until(&self, id: SessionId) -> Option<Timestamp> {
        Some(self.sessions.get(&id)?.until)
    }

    pub(super) fn token_until(&self, id: TokenId) -> Option<Timestamp> {
        Some(self.tokens.get(&id)?.until)
    }

    /// What tells the newest revocation of a user from others: its number, and how often this node has revoked the user. And
    /// until when it is kept.
    pub(crate) fn users_mark(&self, scope: &str) -> Option<(i64, u32, Timestamp)> {
        let cutoff = self.users.get(scope)?;
        Some((cutoff.mark.number, cutoff.mark.here, cutoff.kept.until))
    }

    /// Drops what is kept until a time before `now`.
    pub(crate) fn forget(&self, now: Timestamp) {
        self.sessions.retain(|_, kept| kept.until >= now);
        self.tokens.retain(|_, kept| kept.until >= now);
        self.users.retain(|_, cutoff| {
            let is_kept = cutoff.kept.until >= now;
            if !is_kept {
                self.user_count.fetch_sub(1, Ordering::AcqRel);
            }
            is_kept
        });
        if !self.spared.is_empty() {
            let marks: HashSet<Mark> = self.users.iter().map(|cutoff| cutoff.mark).collect();
            let is_current = |mark: &Option<Mark>| mark.is_none_or(|mark| marks.contains(&mark));
            self.spared.retain(|_, standing| {
                *standing != Standing { user: None, everyone: None }
                    && is_current(&standing.user)
                    && is_current(&standing.everyone)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const ID: SessionId = SessionId::from_bytes([7; 16]);
    const AGE: Duration = Duration::from_secs(5);

    fn revocations() -> LiveRevocations {
        LiveRevocations::new(Duration::from_secs(30))
    }

    fn users(scope: &str, cutoff: i64) -> RevokedItem {
        RevokedItem::Users(RevokedUsers { scope: scope.into(), cutoff, revoked_at: NOW, spared: Spared::Nothing })
    }

    #[test]
    fn an_entry_is_in_force_until_it_is_forgotten() {
        let revocations = revocations();
        let jti = "A".repeat(24);
        let token = TokenId::parse(&jti).unwrap();
        assert!(!revocations.has_session(ID) && !revocations.has_token(token));
        revocations.apply(&RevokedItem::Session(ID), NOW, AGE);
        revocations.apply(&RevokedItem::Token(jti.as_str().into()), NOW, AGE);
        revocations.apply(&RevokedItem::Token("not a token id".into()), NOW, AGE);
        revocations.apply(&users("alice", 1), NOW, AGE);
        revocations.forget(NOW);
        assert!(revocations.has_session(ID) && revocations.has_token(token));
        assert_ne!(revocations.known(SessionId::from_bytes([8; 16]), "alice"), Known::Live);
        revocations.forget(NOW.after(Duration::from_millis(1)));
        assert!(!revocations.has_session(ID) && !revocations.has_token(token));
        assert_eq!(revocations.known(SessionId::from_bytes([8; 16]), "alice"), Known::Live);
    }

    #[test]
    fn a_revocation_that_has_returned_is_counted_whoever_has_added_it() {
        const ROUNDS: u128 = 200_000;
        let revocations = revocations();
        let round = std::sync::atomic::AtomicU64::new(0);
        let id = |round: u128| SessionId::from_bytes(round.to_ne_bytes());
        std::thread::scope(|scope| {
            // The feed, which reads the same at the same time.
            scope.spawn(|| {
                for n in 1..=ROUNDS {
                    while u128::from(round.load(Ordering::Acquire)) < n {
                        std::hint::spin_loop();
                    }
                    revocations.apply(&RevokedItem::Session(id(n)), Timestamp::MAX, AGE);
                }
            });
            let mut missed = 0;
            for n in 1..=ROUNDS {
                let before = revocations.additions();
                round.store(u64::try_from(n).unwrap(), Ordering::Release);
                (0..n % 60).for_each(|_| std::hint::spin_loop());
                revocations.revoke_session(id(n), Timestamp::MAX);
                missed += u32::from(revocations.additions() == before);
            }
            assert_eq!(missed, 0);
        });
    }

    #[test]
    fn applying_an_entry_again_never_shortens_it() {
        let revocations = revocations();
        let (late, token) = (NOW.after(Duration::from_secs(9)), TokenId::parse(&"A".repeat(24)).unwrap());
        for kept_until in [late, NOW] {
            revocations.revoke_session(ID, kept_until);
            revocations.apply(&RevokedItem::Token(token.to_string().into()), kept_until, AGE);
            revocations.apply(&users("alice", 1), kept_until, AGE);
        }
        revocations.forget(late);
        assert!(revocations.has_session(ID) && revocations.has_token(token));
        revocations.begin_comparison();
        assert_eq!(revocations.missing(Duration::from_secs(60)).len(), 3);
    }

    #[test]
    fn what_a_comparison_has_not_seen_is_missing() {
        let revocations = revocations();
        let late = NOW.after(Duration::from_secs(9));
        let other = SessionId::from_bytes([8; 16]);
        revocations.revoke_session(ID, late);
        revocations.revoke_session(other, late);
        let old = RevokedItem::Session(SessionId::from_bytes([9; 16]));
        revocations.apply(&old, late, Duration::from_secs(61));
        revocations.found_revoked(SessionId::from_bytes([10; 16]), late);
        revocations.apply(&users("alice", 2), late, AGE);
        revocations.apply(&users("bob", 2), late, AGE);
        revocations.begin_comparison();
        revocations.revoke_session(other, NOW);
        revocations.apply(&users("alice", 1), NOW, AGE);
        revocations.apply(&users("bob", 2), NOW, AGE);
        let missing = revocations.missing(Duration::from_secs(60));
        assert_eq!(missing, [RevokedItem::Session(ID), users("alice", 2)]);
    }

    #[test]
    fn what_was_found_and_then_read_is_as_old_as_the_feed_says() {
        let revocations = revocations();
        let late = NOW.after(Duration::from_secs(9));
        revocations.found_revoked(ID, late);
        revocations.apply(&RevokedItem::Session(ID), late, Duration::from_secs(61));
        revocations.begin_comparison();
        assert_eq!(revocations.missing(Duration::from_secs(60)), []);
        assert_eq!(revocations.missing(Duration::from_secs(62)), [RevokedItem::Session(ID)]);
    }

    #[test]
    fn an_eviction_that_is_lost_is_not_repeated_and_what_was_revoked_before_it_is() {
        let revocations = revocations();
        let late = NOW.after(Duration::from_secs(9));
        let evicted = |scope: &str| {
            let RevokedItem::Users(users) = users(scope, 7) else { panic!() };
            RevokedItem::Users(RevokedUsers { spared: Spared::Newest, ..users })
        };
        revocations.apply(&users("alice", 2), late, AGE);
        revocations.apply(&evicted("alice"), late, AGE);
        revocations.apply(&evicted("bob"), late, AGE);
        revocations.begin_comparison();
        assert_eq!(revocations.missing(Duration::from_secs(60)), [users("alice", 7)]);
    }

    #[test]
    fn a_session_of_a_revoked_user_is_unknown_until_the_store_was_asked_and_again_after_the_next_revocation() {
        for scope in ["alice", EVERYONE] {
            let revocations = revocations();
            assert_eq!(revocations.known(ID, "alice"), Known::Live);
            revocations.apply(&users(scope, 3), NOW, AGE);
            let Known::Unknown(standing) = revocations.known(ID, "alice") else { panic!("{scope:?}") };
            assert_eq!(revocations.known(ID, "bob") == Known::Live, scope == "alice");
            revocations.spare(ID, standing);
            // Read again, and an older one.
            revocations.apply(&users(scope, 3), NOW, AGE);
            revocations.apply(&users(scope, 2), NOW, AGE);
            assert_eq!(revocations.known(ID, "alice"), Known::Live);
            revocations.apply(&users(scope, 4), NOW, AGE);
            assert_ne!(revocations.known(ID, "alice"), Known::Live);
            // The store was asked before the newer one was known.
            revocations.spare(ID, standing);
            let Known::Unknown(standing) = revocations.known(ID, "alice") else { panic!("{scope:?}") };
            revocations.spare(ID, standing);
            // A revocation by this node counts, whatever its number.
            let RevokedItem::Users(lower) = users(scope, 1) else { panic!() };
            revocations.revoke_users(&lower, NOW);
            assert_ne!(revocations.known(ID, "alice"), Known::Live);
        }
    }
}
