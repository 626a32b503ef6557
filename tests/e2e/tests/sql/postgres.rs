use std::time::Duration;

use axum_refresh::store::RevokeTarget;
use axum_refresh::{PostgresStore, SessionStore as _};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use crate::common::{MANY, alone, assert_refused_at_once, elsewhere, every_error, insert, new, revocation, unique};
use axum_refresh_e2e::stores::{fresh_url_of, server};

async fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    connection.close().await.unwrap();
}

/// The URL of an empty schema.
async fn empty() -> String {
    fresh_url_of("postgres", "SQL").await
}

async fn migrated() -> (PostgresStore, String) {
    let url = empty().await;
    let store = PostgresStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    (store, url)
}

async fn count(url: &str, sql: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap()
}

for_every_database!(
    PostgresStore,
    empty,
    migrated,
    execute,
    count,
    "decode(md5(random()::text || random()::text), 'hex')",
    "BYTEA"
);

#[tokio::test]
async fn connection_errors_are_reported_at_once_without_the_password() {
    let cases = [
        (elsewhere("TEST_POSTGRES_URL", "postgres", "no_such_database"), "does not exist"),
        (elsewhere("TEST_POSTGRES_URL", "nobody_at_all:hunter2", "postgres"), "does not exist"),
        ("postgres://app:hunter2@127.0.0.1:1/x".to_owned(), "refused"),
        ("postgres://app:hunter2@127.0.0.1:notaport/x".to_owned(), "port"),
    ];
    assert_refused_at_once(cases, async |url| PostgresStore::connect(&url).await).await;
}

#[tokio::test]
async fn migrating_without_the_privilege_to_create_tables_is_an_error_and_existing_tables_do_not_require_it() {
    let (_, url) = migrated().await;
    let user = unique();
    let schema = url.rsplit('=').next().unwrap();
    execute(&server("TEST_POSTGRES_URL"), &format!("CREATE USER {user}")).await;
    let theirs = format!("{}?options[search_path]={schema}", elsewhere("TEST_POSTGRES_URL", &user, "postgres"));
    execute(&url, &format!("GRANT USAGE ON SCHEMA {schema} TO {user}")).await;
    let store = PostgresStore::connect(&theirs).await.unwrap();
    let error = store.migrate().await.unwrap_err().to_string();
    assert!(error.contains("permission denied"), "{error}");
    for error in every_error(&store).await {
        assert!(error.contains("permission denied"), "{error}");
    }
    execute(&url, &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user}")).await;
    store.migrate().await.unwrap();
    insert(&store, "alice").await;
}

#[tokio::test]
async fn a_read_only_server_refuses_writes_and_loses_nothing() {
    let (store, url) = migrated().await;
    let session = insert(&store, "alice").await;
    let read_only = PostgresStore::connect(&format!("{url}&options[default_transaction_read_only]=on")).await.unwrap();
    assert_eq!(read_only.load(session.id).await.unwrap(), Some(session.clone()));
    for error in [
        read_only.compare_and_swap(0, &session).await.unwrap_err(),
        read_only.revoke(RevokeTarget::Session(session.id), revocation()).await.unwrap_err(),
        read_only.insert(&new("alice"), alone()).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("read-only"), "{error}");
    }
    assert_eq!(store.load(session.id).await.unwrap(), Some(session));
}

#[tokio::test]
async fn a_revocation_is_pushed_to_other_nodes_and_again_after_the_connection_was_lost() {
    let (store, url) = migrated().await;
    let name = unique();
    let other = PostgresStore::connect(&format!("{url}&application_name={name}")).await.unwrap().push();
    let pushed = async |after: Duration| tokio::time::timeout(after, other.changed()).await.is_ok();
    for round in 0..3 {
        // Until the store listens: from then on every revocation is pushed.
        let mut woken = false;
        for n in 0..100 {
            let wait = pushed(Duration::from_millis(200));
            let revoke = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                store.revoke(RevokeTarget::Token(&format!("jti-{round}-{n}")), revocation()).await.unwrap();
            };
            let (is_pushed, ()) = tokio::join!(wait, revoke);
            woken |= is_pushed;
            if woken {
                break;
            }
        }
        assert!(woken, "round {round}");
        close_connections(&name).await;
    }
    let polled = PostgresStore::connect(&url).await.unwrap();
    store.revoke(RevokeTarget::Token("jti"), revocation()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), polled.changed()).await.is_err());
}

/// Closes all connections of an application from the server's side.
async fn close_connections(application: &str) {
    let all =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{application}'");
    execute(&server("TEST_POSTGRES_URL"), &all).await;
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_not_used_again() {
    let (store, url) = migrated().await;
    let session = insert(&store, "alice").await;
    let name = unique();
    let store = PostgresStore::connect(&format!("{url}&application_name={name}")).await.unwrap();
    assert_eq!(store.load(session.id).await.unwrap().as_ref(), Some(&session));
    close_connections(&name).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(store.load(session.id).await.unwrap(), Some(session));
}

#[tokio::test]
async fn a_refresh_writes_no_index() {
    let (store, url) = migrated().await;
    for n in 0..50 {
        let mut session = insert(&store, &format!("user{n}")).await;
        for _ in 0..4 {
            session.rotation.generation += 1;
            assert!(store.compare_and_swap(session.version, &session).await.unwrap());
            session.version += 1;
        }
    }
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let mut counts = (0, 0);
    for _ in 0..100 {
        let sql = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables \
                   WHERE relname = 'axum_refresh_sessions' AND schemaname = current_schema()";
        let row = connection.fetch_one(sql).await.unwrap();
        counts = (row.get::<i64, _>(0), row.get::<i64, _>(1));
        if counts.0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(counts.0, 200);
    assert!(counts.1 >= 190, "{} of 200 updates were heap-only", counts.1);
}

#[tokio::test]
async fn no_statement_scans_a_large_table() {
    let (store, url) = migrated().await;
    execute(
        &url,
        &format!(
            "INSERT INTO axum_refresh_sessions (id, user_id, everyone, secret_hash, created_at, expires_at, client, login, is_limited, claims, \
             generation, recoveries, last_seen_at, acknowledged, version, user_cutoff, everyone_cutoff) SELECT decode(md5(i::text), 'hex'), (i / 3)::text::bytea, '', '', i, i, \
             '', '', 1, '', 0, 0, i, -1, 0, 0, 0 FROM generate_series(1, {MANY}) AS i; \
             INSERT INTO axum_refresh_revocations (written_at, kind, subject) SELECT i, 1, '' \
             FROM generate_series(1, {MANY}) AS i; \
             INSERT INTO axum_refresh_cutoffs (scope, cutoff, revoked_at, revoked_reason) SELECT i::text::bytea, i, i, '' \
             FROM generate_series(1, {MANY}) AS i; \
             ANALYZE axum_refresh_sessions; ANALYZE axum_refresh_revocations; ANALYZE axum_refresh_cutoffs"
        ),
    )
    .await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    // The generic plan, which is made once and used for every value.
    connection.execute("SET plan_cache_mode = force_generic_plan").await.unwrap();
    for (n, sql) in store.statements().into_iter().enumerate() {
        connection.execute(AssertSqlSafe(format!("PREPARE s{n} AS {sql}"))).await.unwrap();
        let count = sql.matches('$').count();
        let values = vec!["NULL"; count].join(", ");
        let values = if count == 0 { String::new() } else { format!("({values})") };
        let plan = connection.fetch_all(AssertSqlSafe(format!("EXPLAIN EXECUTE s{n}{values}"))).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(!plan.contains("Seq Scan on axum_refresh"), "{sql}\n{plan}");
    }
}
