use std::str::FromStr as _;

use axum_refresh::store::RevokeTarget;
use axum_refresh::{SessionStore as _, SqliteStore};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _};

use crate::common::{MANY, alone, insert, new, revocation};
use axum_refresh_e2e::stores::{folder, fresh_url_of};

async fn empty() -> String {
    fresh_url_of("sqlite", "SQL").await
}

async fn migrated() -> (SqliteStore, String) {
    let url = empty().await;
    let store = SqliteStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    (store, url)
}

async fn execute(url: &str, sql: &str) {
    let options = SqliteConnectOptions::from_str(url).unwrap().create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    connection.close().await.unwrap();
}

async fn count(url: &str, sql: &str) -> i64 {
    let mut connection = SqliteConnectOptions::from_str(url).unwrap().connect().await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap()
}

for_every_database!(SqliteStore, empty, migrated, execute, count, "randomblob(16)", "BLOB");

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_reported_at_once() {
    for url in ["sqlite:/nowhere/at/all.db", "sqlite:/", "sqlite::memory:", "nonsense:x"] {
        assert!(SqliteStore::connect(url).await.is_err(), "{url}");
    }
    let path = folder().join("sessions.db");
    std::fs::write(&path, "this is no database, and long enough to be looked at. ".repeat(40)).unwrap();
    let error = SqliteStore::connect(&format!("sqlite:{}", path.display())).await.unwrap_err().to_string();
    assert!(error.contains("not a database"), "{error}");
}

#[tokio::test]
async fn sessions_survive_a_restart() {
    let (store, url) = migrated().await;
    let session = insert(&store, "alice").await;
    drop(store);
    let store = SqliteStore::connect(&url).await.unwrap();
    assert_eq!(store.load(session.id).await.unwrap(), Some(session));
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_loses_nothing() {
    let (store, url) = migrated().await;
    let session = insert(&store, "alice").await;
    drop(store);
    let options = SqliteConnectOptions::from_str(&url).unwrap().pragma("max_page_count", "40");
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let store = SqliteStore::new(pool);
    let mut error = None;
    for n in 0..10_000 {
        if let Err(full) = store.insert(&new(&format!("user{n}")), alone()).await {
            error = Some(full.to_string());
            break;
        }
    }
    let error = error.expect("the disk becomes full");
    assert!(error.contains("full"), "{error}");
    assert_eq!(store.load(session.id).await.unwrap(), Some(session));
}

#[tokio::test]
async fn a_read_only_file_serves_reads_and_refuses_writes() {
    let (store, url) = migrated().await;
    let session = insert(&store, "alice").await;
    let options = SqliteConnectOptions::from_str(&url).unwrap().read_only(true);
    let read_only = SqliteStore::new(SqlitePoolOptions::new().connect_with(options).await.unwrap());
    assert_eq!(read_only.load(session.id).await.unwrap(), Some(session.clone()));
    let error = read_only.compare_and_swap(0, &session).await.unwrap_err().to_string();
    assert!(error.contains("readonly"), "{error}");
    assert!(read_only.revoke(RevokeTarget::Session(session.id), revocation()).await.is_err());
    assert_eq!(store.load(session.id).await.unwrap(), Some(session));
}

#[tokio::test]
async fn no_statement_scans_a_large_table() {
    let (store, url) = migrated().await;
    execute(
        &url,
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY}) \
             INSERT INTO axum_refresh_sessions (id, user_id, everyone, secret_hash, created_at, expires_at, client, login, is_limited, claims, \
             generation, recoveries, last_seen_at, acknowledged, version, user_cutoff, everyone_cutoff) SELECT randomblob(16), CAST(i / 3 AS BLOB), x'', randomblob(32), i, i, '', \
             '', 1, '', 0, 0, i, -1, 0, 0, 0 FROM n; \
             INSERT INTO axum_refresh_revocations (written_at, kind, subject) \
             SELECT i, 1, id FROM (SELECT created_at AS i, id FROM axum_refresh_sessions); \
             INSERT INTO axum_refresh_cutoffs (scope, cutoff, revoked_at, revoked_reason) \
             SELECT id, created_at, created_at, '' FROM axum_refresh_sessions; ANALYZE"
        ),
    )
    .await;
    let mut connection = SqliteConnectOptions::from_str(&url).unwrap().connect().await.unwrap();
    for sql in store.statements() {
        let plan = connection.fetch_all(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        let scans: Vec<_> =
            plan.iter().filter(|line| line.starts_with("SCAN") && line.contains("axum_refresh")).collect();
        assert!(scans.is_empty(), "{sql}\n{plan:#?}");
    }
}
