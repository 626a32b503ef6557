//! Tests and helpers for every SQL store.

use std::time::Duration;

use axum_refresh::store::conformance::session;
use axum_refresh::store::{
    ExternalId, FeedCursor, FeedWindow, InsertOptions, Revocation, RevokeTarget, SessionRecord, Timestamp,
};
use axum_refresh::{RevocationReason, SessionStore};

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// The server's URL with another user and database.
pub(crate) fn elsewhere(variable: &str, user: &str, database: &str) -> String {
    let server = axum_refresh_e2e::stores::server(variable);
    let (scheme, _) = server.split_once("://").unwrap();
    let (_, host) = server.split_once('@').unwrap();
    let (host, _) = host.split_once('/').unwrap();
    format!("{scheme}://{user}@{host}/{database}")
}

/// Asserts that connecting to each URL fails within seconds, with an error that contains the word and not the password.
pub(crate) async fn assert_refused_at_once<T: std::fmt::Debug>(
    cases: [(String, &str); 4],
    connect: impl AsyncFn(String) -> Result<T, axum_refresh::store::StoreError>,
) {
    for (url, word) in cases {
        let started = std::time::Instant::now();
        let error = connect(url.clone()).await.unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains("hunter2"), "{url}: {error}");
        assert!(started.elapsed() < Duration::from_secs(8));
    }
}

/// A unique name.
pub(crate) fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("stores_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Enough rows for a query planner to avoid a full scan.
pub(crate) const MANY: usize = 100_000;

pub(crate) fn alone() -> InsertOptions {
    InsertOptions { limit: None, replacing: None }
}

pub(crate) fn new(user: &str) -> SessionRecord {
    session(user, NOW, 3_600_000)
}

pub(crate) fn revocation() -> Revocation {
    Revocation { at: NOW, reason: RevocationReason::Logout }
}

pub(crate) const ALICE: RevokeTarget<'_> = RevokeTarget::Users { scope: "alice", except: None, created_until: None };

pub(crate) const WINDOW: FeedWindow =
    FeedWindow { max_age: Duration::from_secs(3600), overlap: Duration::from_secs(10), limit: 1_000 };

/// How often the number of sessions is doubled for a test with more than 100,000 of them.
pub(crate) const DOUBLINGS: u32 = 17;

/// A statement that adds as many sessions as there are, with ids by this expression.
pub(crate) fn double(random_id: &str) -> String {
    format!(
        "INSERT INTO axum_refresh_sessions (id, user_id, everyone, secret_hash, created_at, expires_at, client, login, \
         is_limited, claims, generation, recoveries, last_seen_at, acknowledged, version, user_cutoff, everyone_cutoff) SELECT {random_id}, user_id, everyone, \
         secret_hash, created_at, expires_at, client, login, is_limited, claims, generation, recoveries, last_seen_at, acknowledged, version, user_cutoff, \
         everyone_cutoff FROM axum_refresh_sessions"
    )
}

pub(crate) async fn insert(store: &impl SessionStore, user: &str) -> SessionRecord {
    let session = new(user);
    store.insert(&session, alone()).await.unwrap();
    session
}

/// A session at an identity provider.
pub(crate) const EXTERNAL: ExternalId = ExternalId::from_bytes([7; 32]);

/// The error of every call of a store. Panics if a call succeeds.
pub(crate) async fn every_error(store: &impl SessionStore) -> Vec<String> {
    let session = new("alice");
    let errors = [
        store.insert(&session, alone()).await.err(),
        store.load(session.id).await.err(),
        store.compare_and_swap(0, &session).await.err(),
        store.list("alice", 10).await.err(),
        store.find_external(EXTERNAL).await.err(),
        store.revoke(ALICE, revocation()).await.err(),
        store.read_revocations(FeedCursor::START, WINDOW).await.err(),
        store.purge(NOW, 10).await.err(),
    ];
    errors.into_iter().map(|error| error.expect("every call fails").to_string()).collect()
}

/// Tests for every dialect. `$new` returns a new, migrated store and its URL; `$execute` runs a statement at a URL;
/// `$count` runs a query that returns a number. `$random_id` is an expression
/// of the dialect, and `$bytes` the type to cast text to.
macro_rules! for_every_database {
    ($Store:ident, $empty:ident, $new:ident, $execute:ident, $count:ident, $random_id:expr, $bytes:expr) => {
        mod contract {
            axum_refresh::store_conformance!(async { super::$new().await.0 });
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn many_processes_may_migrate_at_once() {
            let url = $empty().await;
            let migrations: Vec<_> = (0..8)
                .map(|_| {
                    let url = url.clone();
                    tokio::spawn(async move { $Store::connect(&url).await.unwrap().migrate().await })
                })
                .collect();
            for migration in migrations {
                migration.await.unwrap().unwrap();
            }
            let store = $Store::connect(&url).await.unwrap();
            store.check().await.unwrap();
            crate::common::insert(&store, "alice").await;
            store.migrate().await.unwrap();
            assert_eq!(axum_refresh::SessionStore::list(&store, "alice", 10).await.unwrap().len(), 1);
        }

        #[tokio::test]
        async fn without_its_tables_the_store_reports_what_to_do_and_every_call_fails() {
            let store = $Store::connect(&$empty().await).await.unwrap();
            let error = store.check().await.unwrap_err().to_string();
            assert!(error.contains("migrate()"), "{error}");
            for error in crate::common::every_error(&store).await {
                assert!(error.contains("axum_refresh_"), "{error}");
            }
        }

        #[tokio::test]
        async fn the_schema_can_be_applied_by_other_tools() {
            let url = $empty().await;
            $execute(&url, &$Store::schema()).await;
            let store = $Store::connect(&url).await.unwrap();
            store.check().await.unwrap();
            store.migrate().await.unwrap();
            crate::common::insert(&store, "alice").await;
        }

        #[tokio::test]
        async fn tables_of_a_later_version_are_refused() {
            let (store, url) = $new().await;
            $execute(&url, "INSERT INTO axum_refresh_schema (version) VALUES (99)").await;
            for error in [store.check().await, store.migrate().await] {
                let error = error.unwrap_err().to_string();
                assert!(error.contains("99"), "{error}");
            }
        }

        #[tokio::test]
        async fn a_row_of_another_version_is_an_error_and_never_a_missing_session() {
            for change in [
                "generation = -1",
                "parent = -1",
                "recoveries = -1",
                "client = 'garbage'",
                "login = 'garbage'",
                "idle_timeout = -1",
                "last_client = 'garbage'",
                "acknowledged = -7",
                "version = -1",
            ] {
                let (store, url) = $new().await;
                let session = crate::common::insert(&store, "alice").await;
                $execute(&url, &format!("UPDATE axum_refresh_sessions SET {change}")).await;
                let error = axum_refresh::SessionStore::load(&store, session.id).await.unwrap_err().to_string();
                assert!(error.contains("axum_refresh_sessions"), "{error}");
                assert!(axum_refresh::SessionStore::list(&store, "alice", 10).await.is_err());
            }
            let (store, url) = $new().await;
            let target = axum_refresh::store::RevokeTarget::Token("some-jti");
            axum_refresh::SessionStore::revoke(&store, target, crate::common::revocation()).await.unwrap();
            $execute(&url, "UPDATE axum_refresh_revocations SET kind = 9").await;
            let start = axum_refresh::store::FeedCursor::START;
            assert!(axum_refresh::SessionStore::read_revocations(&store, start, crate::common::WINDOW).await.is_err());
        }

        #[tokio::test]
        async fn a_column_of_a_later_version_survives_the_writes_of_this_one() {
            use axum_refresh::SessionStore as _;
            let (store, url) = $new().await;
            let session = crate::common::insert(&store, "alice").await;
            $execute(&url, "ALTER TABLE axum_refresh_sessions ADD COLUMN newer BIGINT").await;
            $execute(&url, "UPDATE axum_refresh_sessions SET newer = 7").await;
            let mut next = session.clone();
            next.rotation.generation = 3;
            next.rotation.parent = Some(2);
            assert!(store.compare_and_swap(session.version, &next).await.unwrap());
            // A row without the value could not be read any more.
            $execute(&url, "UPDATE axum_refresh_sessions SET generation = -1 WHERE newer IS NULL OR newer <> 7").await;
            assert_eq!(store.load(session.id).await.unwrap().unwrap().rotation, next.rotation);
            crate::common::insert(&store, "alice").await;
        }

        #[tokio::test]
        async fn additions_of_a_later_version_to_a_row_are_ignored() {
            let (store, url) = $new().await;
            let session = crate::common::insert(&store, "alice").await;
            $execute(
                &url,
                "UPDATE axum_refresh_sessions SET client = '{\"ip\":null,\"newer\":[1]}', \
                 revoked_at = 5, revoked_reason = 'a_newer_one'",
            )
            .await;
            let read = axum_refresh::SessionStore::load(&store, session.id).await.unwrap().unwrap();
            assert_eq!(read.client, session.client);
            assert_eq!(read.rotation.revoked.unwrap().reason, axum_refresh::RevocationReason::Other);
        }

        #[tokio::test]
        async fn a_revocation_whose_transaction_was_slow_to_commit_is_not_missed() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::{FeedCursor, RevokeTarget, RevokedItem};
            let (store, url) = $new().await;
            let revocation = crate::common::revocation();
            store.revoke(RevokeTarget::Token("first"), revocation).await.unwrap();
            store.revoke(RevokeTarget::Token("slow"), revocation).await.unwrap();
            let seen = store.read_revocations(FeedCursor::START, crate::common::WINDOW).await.unwrap().next;
            store.revoke(RevokeTarget::Token("last"), revocation).await.unwrap();
            // As if the second one was committed just now, with an earlier number than the last one that was read.
            let feed = store.read_revocations(seen, crate::common::WINDOW).await.unwrap();
            let named: Vec<_> = feed.entries.iter().map(|revoked| revoked.item.clone()).collect();
            assert!(named.contains(&RevokedItem::Token("slow".into())), "{named:?}");
            assert!(named.contains(&RevokedItem::Token("last".into())), "{named:?}");
            // Entries that were written long ago are not returned repeatedly.
            $execute(&url, "UPDATE axum_refresh_revocations SET written_at = written_at - 60000").await;
            assert_eq!(store.read_revocations(feed.next, crate::common::WINDOW).await.unwrap().entries, []);
        }

        #[tokio::test]
        async fn late_commits_are_not_missed_between_the_pages_of_the_feed() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::{FeedCursor, FeedWindow, RevokeTarget, RevokedItem};
            let (store, url) = $new().await;
            for n in 0..25 {
                let target = RevokeTarget::Token(&format!("jti-{n}"));
                store.revoke(target, crate::common::revocation()).await.unwrap();
            }
            let window = FeedWindow { limit: 10, ..crate::common::WINDOW };
            let first = store.read_revocations(FeedCursor::START, window).await.unwrap();
            assert!(first.has_more && first.entries.len() == 10);
            // Whatever became visible before the cursor meanwhile is returned with each page.
            let second = store.read_revocations(first.next, window).await.unwrap();
            assert!(second.has_more && second.entries.len() == 20);
            assert_eq!(second.entries[0].item, RevokedItem::Token("jti-0".into()));
            let third = store.read_revocations(second.next, window).await.unwrap();
            assert!(!third.has_more && third.entries.len() == 25);
            $execute(&url, "UPDATE axum_refresh_revocations SET written_at = written_at - 60000").await;
            let again = store.read_revocations(second.next, window).await.unwrap();
            assert_eq!((again.entries.len(), again.next), (5, third.next));
            assert!(again.entries.iter().all(|entry| entry.age >= std::time::Duration::from_secs(60)));
            // Entries that are too old are not read again after a start that has skipped them.
            let window = FeedWindow { max_age: std::time::Duration::from_secs(30), ..window };
            let start = store.read_revocations(FeedCursor::START, window).await.unwrap();
            assert_eq!((start.entries.len(), start.next, start.has_more), (0, third.next, false));
        }

        #[tokio::test]
        async fn purge_goes_by_the_clock_of_the_database() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::Timestamp;
            use std::time::{Duration, SystemTime};
            let (store, _) = $new().await;
            let now = Timestamp::from(SystemTime::now());
            let session = axum_refresh::store::conformance::session("alice", now, 3_600_000);
            store.insert(&session, crate::common::alone()).await.unwrap();
            let ahead = now.after(Duration::from_secs(31 * 24 * 3600));
            assert_eq!(store.purge(ahead, 10).await.unwrap(), 0);
            assert_eq!(store.load(session.id).await.unwrap(), Some(session));
            let expired = crate::common::insert(&store, "alice").await;
            assert_eq!(store.purge(ahead, 10).await.unwrap(), 1);
            assert_eq!(store.load(expired.id).await.unwrap(), None);
        }

        #[tokio::test]
        async fn entries_of_the_feed_are_purged_after_their_retention() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::{FEED_RETENTION, RevokeTarget};
            let (store, url) = $new().await;
            let feed = "SELECT COUNT(*) FROM axum_refresh_revocations";
            store.revoke(RevokeTarget::Token("some-jti"), crate::common::revocation()).await.unwrap();
            let move_back =
                |millis: u128| format!("UPDATE axum_refresh_revocations SET written_at = written_at - {millis}");
            $execute(&url, &move_back(FEED_RETENTION.as_millis() - 60_000)).await;
            store.purge(axum_refresh::store::Timestamp::MAX, 10).await.unwrap();
            assert_eq!($count(&url, feed).await, 1);
            $execute(&url, &move_back(60_001)).await;
            store.purge(crate::common::NOW, 10).await.unwrap();
            assert_eq!($count(&url, feed).await, 0);
        }

        #[tokio::test]
        async fn cutoffs_are_purged_a_day_after_the_last_session_of_their_user() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::{RevokeTarget, Timestamp, everyone};
            let (store, url) = $new().await;
            let bob = axum_refresh::store::conformance::session("bob", std::time::SystemTime::now().into(), 3_600_000);
            store.insert(&bob, crate::common::alone()).await.unwrap();
            crate::common::insert(&store, "alice").await;
            for scope in ["alice", "bob", "", &everyone("alice")] {
                let target = RevokeTarget::Users { scope, except: None, created_until: None };
                store.revoke(target, crate::common::revocation()).await.unwrap();
            }
            let cutoffs = "SELECT COUNT(*) FROM axum_refresh_cutoffs";
            assert_eq!(store.purge(Timestamp::MAX, 10).await.unwrap(), 1);
            assert_eq!($count(&url, cutoffs).await, 4);
            $execute(&url, "UPDATE axum_refresh_cutoffs SET cutoff = cutoff - 90000000").await;
            store.purge(Timestamp::MAX, 10).await.unwrap();
            assert_eq!($count(&url, cutoffs).await, 2);
        }

        #[tokio::test]
        async fn cutoffs_are_purged_in_bounded_steps() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::Timestamp;
            let (store, url) = $new().await;
            let values: Vec<_> =
                (0..2_500).map(|n| format!("(CAST('user{n}' AS {}), 1, 1, 'logout')", $bytes)).collect();
            let columns = "scope, cutoff, revoked_at, revoked_reason";
            let values = values.join(", ");
            $execute(&url, &format!("INSERT INTO axum_refresh_cutoffs ({columns}) VALUES {values}")).await;
            for left in [1_500, 500, 0] {
                store.purge(Timestamp::MAX, 10).await.unwrap();
                assert_eq!($count(&url, "SELECT COUNT(*) FROM axum_refresh_cutoffs").await, left);
            }
        }

        #[tokio::test]
        async fn the_sessions_of_a_user_with_very_many_are_revoked_evicted_and_listed_in_no_time() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::{InsertOptions, Inserted, OnMaxSessions, RevokeTarget, SessionLimit};
            use std::time::{Duration, Instant};
            let (store, url) = $new().await;
            let first = crate::common::insert(&store, "alice").await;
            for _ in 0..crate::common::DOUBLINGS {
                $execute(&url, &crate::common::double($random_id)).await;
            }
            let timed = |what: &str, started: Instant| {
                println!("{what}: {:?}", started.elapsed());
                assert!(started.elapsed() < Duration::from_secs(2), "{what}: {:?}", started.elapsed());
            };
            let started = Instant::now();
            assert_eq!(store.list("alice", 100).await.unwrap().len(), 100);
            timed("list", started);
            let limit = SessionLimit {
                max: 1_000,
                on_max_sessions: OnMaxSessions::EvictOldest,
                idle_timeout: Duration::from_secs(600),
            };
            let options = InsertOptions { limit: Some(limit), ..crate::common::alone() };
            let started = Instant::now();
            let Inserted::Done(evicted) = store.insert(&crate::common::new("alice"), options).await.unwrap() else {
                panic!("the login is refused")
            };
            timed("evict", started);
            assert!(evicted.users.is_some() && evicted.count >= 100_000);
            assert_eq!(store.list("alice", 2_000).await.unwrap().len(), 1_000);
            assert!(store.load(first.id).await.unwrap().unwrap().rotation.revoked.is_some());
            let spared = store.list("alice", 1).await.unwrap()[0].id;
            $execute(&url, "DELETE FROM axum_refresh_cutoffs").await;
            $execute(&url, "UPDATE axum_refresh_sessions SET user_cutoff = 0").await;
            let target = RevokeTarget::Users { scope: "alice", except: Some(spared), created_until: None };
            let started = Instant::now();
            let revoked = store.revoke(target, crate::common::revocation()).await.unwrap();
            timed("revoke", started);
            assert!(revoked.count >= 100_000);
            let started = Instant::now();
            let listed = store.list("alice", 10).await.unwrap();
            timed("list what was spared", started);
            assert_eq!(listed.iter().map(|session| session.id).collect::<Vec<_>>(), [spared]);
        }

        #[tokio::test]
        async fn a_session_in_which_somebody_acts_outlives_a_login_that_evicts_hundreds() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::{Actor, InsertOptions, Inserted, OnMaxSessions, SessionLimit};
            let (store, _) = $new().await;
            let mut last = crate::common::insert(&store, "alice").await;
            for _ in 0..299 {
                last = crate::common::insert(&store, "alice").await;
            }
            let mut acting = crate::common::new("alice");
            acting.client.actor = Some(Actor { user_id: "admin".into(), session_id: last.id }.into());
            store.insert(&acting, crate::common::alone()).await.unwrap();
            let newest = crate::common::new("alice");
            let idle_timeout = std::time::Duration::from_secs(600);
            let limit = SessionLimit { max: 2, on_max_sessions: OnMaxSessions::EvictOldest, idle_timeout };
            let login = InsertOptions { limit: Some(limit), ..crate::common::alone() };
            let Inserted::Done(evicted) = store.insert(&newest, login).await.unwrap() else { panic!("refused") };
            assert_eq!((evicted.count, evicted.users.is_some()), (299, true));
            let listed = store.list("alice", 10).await.unwrap();
            let listed: Vec<_> = listed.iter().map(|session| session.id).collect();
            assert_eq!(listed, [newest.id, acting.id, last.id]);
        }

        #[tokio::test]
        async fn sessions_that_ended_with_everyone_are_outside_the_part_of_the_index_that_is_read() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::{RevokeTarget, everyone};
            let (store, url) = $new().await;
            for _ in 0..10 {
                crate::common::insert(&store, "alice").await;
            }
            for scope in ["alice", &everyone("alice")] {
                let target = RevokeTarget::Users { scope, except: None, created_until: None };
                store.revoke(target, crate::common::revocation()).await.unwrap();
            }
            let after = crate::common::insert(&store, "alice").await;
            let read = "SELECT COUNT(*) FROM axum_refresh_sessions \
                        WHERE user_cutoff >= (SELECT MAX(cutoff) FROM axum_refresh_cutoffs)";
            assert_eq!($count(&url, read).await, 1);
            assert_eq!(store.list("alice", 10).await.unwrap(), std::slice::from_ref(&after));
            // A revocation of the user exceeds the cutoff of everyone, also if the clock was set back meanwhile.
            $execute(&url, "UPDATE axum_refresh_cutoffs SET cutoff = cutoff + 3600000").await;
            $execute(
                &url,
                "UPDATE axum_refresh_sessions SET user_cutoff = user_cutoff + 3600000, \
                            everyone_cutoff = everyone_cutoff + 3600000",
            )
            .await;
            assert_eq!(store.list("alice", 10).await.unwrap(), [after]);
            store.revoke(crate::common::ALICE, crate::common::revocation()).await.unwrap();
            assert_eq!(store.list("alice", 10).await.unwrap(), []);
            let last = crate::common::insert(&store, "alice").await;
            assert_eq!(store.list("alice", 10).await.unwrap(), [last]);
        }

        #[tokio::test]
        async fn a_login_that_reaches_the_limit_drops_thousands_of_idle_sessions() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::{InsertOptions, Inserted, OnMaxSessions, SessionLimit, Timestamp};
            let (store, url) = $new().await;
            let old = crate::common::insert(&store, "alice").await;
            for _ in 0..14 {
                $execute(&url, &crate::common::double($random_id)).await;
            }
            let at = Timestamp::from_millis(old.created_at.as_millis() + 1_000_000);
            let login = async |on_max_sessions| {
                let idle_timeout = std::time::Duration::from_secs(600);
                let limit = SessionLimit { max: 3, on_max_sessions, idle_timeout };
                let session = axum_refresh::store::conformance::session("alice", at, 3_600_000);
                let options = InsertOptions { limit: Some(limit), ..crate::common::alone() };
                let Inserted::Done(revoked) = store.insert(&session, options).await.unwrap() else { panic!("refused") };
                (session.id, revoked)
            };
            // Nobody else's login ends a session where the limit refuses, not even an idle one.
            let (first, revoked) = login(OnMaxSessions::Refuse).await;
            assert_eq!((revoked.count, revoked.users), (0, None));
            assert!(store.load(old.id).await.unwrap().unwrap().rotation.revoked.is_none());
            // Nor where the limit is not reached.
            let (second, revoked) = login(OnMaxSessions::EvictOldest).await;
            assert_eq!((revoked.count, revoked.users), (0, None));
            let (third, _) = login(OnMaxSessions::EvictOldest).await;
            let (fourth, revoked) = login(OnMaxSessions::EvictOldest).await;
            assert_eq!((revoked.count, revoked.users.is_some()), (1, true));
            assert!(store.load(first).await.unwrap().unwrap().rotation.revoked.is_some());
            let listed = store.list("alice", 10).await.unwrap();
            assert_eq!(listed.iter().map(|session| session.id).collect::<Vec<_>>(), [fourth, third, second]);
            let (_, revoked) = login(OnMaxSessions::EvictOldest).await;
            assert_eq!((revoked.sessions, revoked.users), (vec![second], None));
        }

        #[tokio::test]
        async fn a_batch_of_thousands_is_written() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::Activity;
            let (store, _) = $new().await;
            let mut batch = Vec::new();
            for _ in 0..1_200 {
                let session = crate::common::insert(&store, "alice").await;
                batch.push(Activity {
                    id: session.id,
                    last_seen_at: axum_refresh::store::Timestamp::MAX,
                    acknowledged: Some(3),
                });
            }
            store.record_activity(&batch).await.unwrap();
            let sessions = store.list("alice", 2_000).await.unwrap();
            assert_eq!(sessions.len(), 1_200);
            assert!(sessions.iter().all(|session| session.rotation.acknowledged == Some(3)));
        }

        #[tokio::test]
        async fn a_cancelled_call_leaves_no_lock_behind() {
            use axum_refresh::SessionStore as _;
            let (store, _) = $new().await;
            for n in 0..200_u64 {
                let session = crate::common::insert(&store, "alice").await;
                let target = crate::common::ALICE;
                let revoke = store.revoke(target, crate::common::revocation());
                let _ = tokio::time::timeout(std::time::Duration::from_micros(n * 20), revoke).await;
                // With or without effect: the store keeps working, and no lock is left behind.
                let read = tokio::time::timeout(std::time::Duration::from_secs(4), store.load(session.id)).await;
                read.expect("no lock is left behind").unwrap().unwrap();
                let all = store.revoke(target, crate::common::revocation());
                tokio::time::timeout(std::time::Duration::from_secs(4), all)
                    .await
                    .expect("no lock is left behind")
                    .unwrap();
            }
        }
    };
}
