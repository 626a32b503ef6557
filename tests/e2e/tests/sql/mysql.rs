use axum_refresh::store::RevokeTarget;
use axum_refresh::{MySqlStore, SessionStore as _};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, Row as _};

use crate::common::{MANY, assert_refused_at_once, elsewhere, every_error, insert, revocation, unique};
use axum_refresh_e2e::stores::{fresh_url_of, server};

async fn execute(url: &str, sql: &str) {
    let mut connection = MySqlConnection::connect(url).await.unwrap();
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    connection.close().await.unwrap();
}

/// The URL of an empty database.
async fn empty() -> String {
    fresh_url_of("mysql", "SQL").await
}

async fn migrated() -> (MySqlStore, String) {
    let url = empty().await;
    let store = MySqlStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    (store, url)
}

async fn count(url: &str, sql: &str) -> i64 {
    let mut connection = MySqlConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap()
}

for_every_database!(MySqlStore, empty, migrated, execute, count, "UNHEX(MD5(CONCAT(RAND(), RAND())))", "BINARY");

#[tokio::test]
async fn connection_errors_are_reported_at_once_without_the_password() {
    let cases = [
        (elsewhere("TEST_MYSQL_URL", "root", "no_such_database"), "Unknown database"),
        (elsewhere("TEST_MYSQL_URL", "nobody_at_all:hunter2", "mysql"), "denied"),
        ("mysql://app:hunter2@127.0.0.1:1/x".to_owned(), "refused"),
        ("mysql://app:hunter2@127.0.0.1:notaport/x".to_owned(), "port"),
    ];
    assert_refused_at_once(cases, async |url| MySqlStore::connect(&url).await).await;
}

#[tokio::test]
async fn migrating_without_privileges_is_an_error_and_existing_tables_require_few() {
    let (_, url) = migrated().await;
    let (user, database) = (unique(), url.rsplit('/').next().unwrap().to_owned());
    let empty = empty().await;
    let empty = empty.rsplit('/').next().unwrap();
    let server = server("TEST_MYSQL_URL");
    execute(&server, &format!("CREATE USER {user}")).await;
    execute(&server, &format!("GRANT SELECT ON {empty}.* TO {user}")).await;
    let store = MySqlStore::connect(&elsewhere("TEST_MYSQL_URL", &user, empty)).await.unwrap();
    let error = store.migrate().await.unwrap_err().to_string();
    assert!(error.contains("denied"), "{error}");
    assert_eq!(every_error(&store).await.len(), 8);
    execute(&server, &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO {user}")).await;
    let store = MySqlStore::connect(&elsewhere("TEST_MYSQL_URL", &user, &database)).await.unwrap();
    store.migrate().await.unwrap();
    let session = insert(&store, "alice").await;
    store.revoke(RevokeTarget::Session(session.id), revocation()).await.unwrap();
}

#[tokio::test]
async fn no_statement_scans_a_large_table() {
    let (store, url) = migrated().await;
    execute(
        &url,
        &format!(
            "INSERT INTO axum_refresh_sessions (id, user_id, everyone, secret_hash, created_at, expires_at, client, login, is_limited, claims, \
             generation, recoveries, last_seen_at, acknowledged, version, user_cutoff, everyone_cutoff) SELECT UNHEX(MD5(seq)), seq DIV 3, '', '', seq, seq, '', '', 1, '', \
             0, 0, seq, -1, 0, 0, 0 \
             FROM seq_1_to_{MANY}; \
             INSERT INTO axum_refresh_revocations (written_at, kind, subject) SELECT seq, 1, '' \
             FROM seq_1_to_{MANY}; \
             INSERT INTO axum_refresh_cutoffs (scope, cutoff, revoked_at, revoked_reason) SELECT seq, seq, seq, '' \
             FROM seq_1_to_{MANY}; \
             ANALYZE TABLE axum_refresh_sessions, axum_refresh_revocations, axum_refresh_cutoffs"
        ),
    )
    .await;
    let mut connection = MySqlConnection::connect(&url).await.unwrap();
    for sql in store.statements() {
        // A value for each parameter, of the right type for the plan of a limit or a batch.
        let sql = sql
            .replace("JSON_TABLE(?", "JSON_TABLE('[[\"00\",1,1]]'")
            .replace("LIMIT ?", "LIMIT 10")
            .replace("OFFSET ?", "OFFSET 10")
            .replace("written_at > ?", "written_at > 99990")
            .replace("written_at <= ?", "written_at <= 1000000")
            .replace("scope < ?", "scope < '50'")
            .replace('?', "'5'");
        let plan = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN {sql}")))).await.unwrap();
        for row in plan {
            let table: Option<String> = row.try_get("table").unwrap_or_default();
            let kind: Option<String> = row.try_get("type").unwrap_or_default();
            let is_ours = table.is_some_and(|table| table.starts_with("axum_refresh") || table == "session");
            assert!(!is_ours || kind.as_deref() != Some("ALL"), "{sql}");
        }
    }
}
