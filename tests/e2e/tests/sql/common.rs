//! Tests and helpers for every SQL store.

use std::time::Duration;

use axum_refresh::store::conformance::session;
use axum_refresh::store::{InsertOptions, Revocation, RevokeTarget, SessionRecord, Timestamp};
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
    InsertOptions { limit: None, replacing: None, revocation_expires_at: NOW.after(Duration::from_secs(900)) }
}

pub(crate) fn new(user: &str) -> SessionRecord {
    session(user, NOW, 3_600_000)
}

pub(crate) fn revocation() -> Revocation {
    Revocation { at: NOW, expires_at: NOW.after(Duration::from_secs(900)), reason: RevocationReason::Logout }
}

pub(crate) async fn insert(store: &impl SessionStore, user: &str) -> SessionRecord {
    let session = new(user);
    store.insert(&session, alone()).await.unwrap();
    session
}

/// The error of every call of a store. Panics if a call succeeds.
pub(crate) async fn every_error(store: &impl SessionStore) -> Vec<String> {
    let session = new("alice");
    let errors = [
        store.insert(&session, alone()).await.err(),
        store.load(session.id).await.err(),
        store.compare_and_swap(0, &session).await.err(),
        store.list("alice").await.err(),
        store.revoke(RevokeTarget::User { user_id: "alice", except: None }, revocation()).await.err(),
        store.read_revocations(axum_refresh::store::FeedCursor::START).await.err(),
        store.purge(NOW, 10).await.err(),
    ];
    errors.into_iter().map(|error| error.expect("every call fails").to_string()).collect()
}

/// Tests for every dialect. `$new` returns a new, migrated store and its URL; `$execute` runs a statement at a URL.
macro_rules! for_every_database {
    ($Store:ident, $empty:ident, $new:ident, $execute:ident) => {
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
            assert_eq!(axum_refresh::SessionStore::list(&store, "alice").await.unwrap().len(), 1);
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
            for change in ["rotation = '{}'", "client = 'garbage'", "acknowledged = -7", "version = -1"] {
                let (store, url) = $new().await;
                let session = crate::common::insert(&store, "alice").await;
                $execute(&url, &format!("UPDATE axum_refresh_sessions SET {change}")).await;
                let error = axum_refresh::SessionStore::load(&store, session.id).await.unwrap_err().to_string();
                assert!(error.contains("axum_refresh_sessions"), "{error}");
                assert!(axum_refresh::SessionStore::list(&store, "alice").await.is_err());
            }
            let (store, url) = $new().await;
            let target = axum_refresh::store::RevokeTarget::Token("some-jti");
            axum_refresh::SessionStore::revoke(&store, target, crate::common::revocation()).await.unwrap();
            $execute(&url, "UPDATE axum_refresh_revocations SET kind = 9").await;
            assert!(
                axum_refresh::SessionStore::read_revocations(&store, axum_refresh::store::FeedCursor::START)
                    .await
                    .is_err()
            );
        }

        #[tokio::test]
        async fn additions_of_a_later_version_to_a_row_are_ignored() {
            let (store, url) = $new().await;
            let session = crate::common::insert(&store, "alice").await;
            $execute(
                &url,
                "UPDATE axum_refresh_sessions SET client = '{\"ip\":null,\"newer\":[1]}', \
                 revoked_at = 5, revocation_expires_at = 6, revoked_reason = 'a_newer_one'",
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
            let seen = store.read_revocations(FeedCursor::START).await.unwrap().next;
            store.revoke(RevokeTarget::Token("last"), revocation).await.unwrap();
            // As if the second one was committed just now, with an earlier number than the last one that was read.
            let feed = store.read_revocations(seen).await.unwrap();
            let named: Vec<_> = feed.entries.iter().map(|revoked| revoked.item.clone()).collect();
            assert!(named.contains(&RevokedItem::Token("slow".into())), "{named:?}");
            assert!(named.contains(&RevokedItem::Token("last".into())), "{named:?}");
            // Entries that were written long ago are not returned repeatedly.
            $execute(&url, "UPDATE axum_refresh_revocations SET written_at = written_at - 60000").await;
            assert_eq!(store.read_revocations(feed.next).await.unwrap().entries, []);
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
            let sessions = store.list("alice").await.unwrap();
            assert!(sessions.iter().all(|session| session.rotation.acknowledged == Some(3)));
        }

        #[tokio::test]
        async fn a_cancelled_call_leaves_no_lock_behind() {
            use axum_refresh::SessionStore as _;
            use axum_refresh::store::RevokeTarget;
            let (store, _) = $new().await;
            for n in 0..200_u64 {
                let session = crate::common::insert(&store, "alice").await;
                let target = RevokeTarget::User { user_id: "alice", except: None };
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
