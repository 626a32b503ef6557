//! The PostgreSQL store behind PgBouncer, in each of its modes.

use std::time::Duration;

use axum_refresh::store::{FeedCursor, RevokeTarget};
use axum_refresh::{PostgresStore, SessionStore as _};
use axum_refresh_e2e::server::Server;
use axum_refresh_e2e::stores::server;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use crate::common::{WINDOW, elsewhere, insert, revocation, unique};

const SESSION: &str = "pool_mode = session; ignore_startup_parameters = options,extra_float_digits";
const TRANSACTION: &str = "pool_mode = transaction; ignore_startup_parameters = options,extra_float_digits";
const STATEMENT: &str = "pool_mode = statement; ignore_startup_parameters = options,extra_float_digits";
/// Uses the connections to the server in turn, not the last one again.
const IN_TURN: &str = "pool_mode = transaction; ignore_startup_parameters = options; server_round_robin = 1";
/// Whatever a client leaves behind is there for the next one.
const WITHOUT_RESET: &str = "pool_mode = session; ignore_startup_parameters = options,extra_float_digits; \
                             default_pool_size = 4; server_reset_query =";
const ONE: &str = "pool_mode = session; ignore_startup_parameters = options; default_pool_size = 1";

async fn start(settings: &'static [(&'static str, &'static str)]) -> Server {
    let mut pooler = Server::new("pgbouncer", settings);
    restart(&mut pooler).await;
    pooler
}

async fn restart(pooler: &mut Server) {
    pooler.run(async |port| TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
}

macro_rules! start {
    ($settings:expr) => {
        start(&[("POOLER_SETTINGS", $settings)]).await
    };
}

/// The URL of a new database behind the pooler. A schema is not enough: the pooler ignores `search_path` in the URL.
async fn empty(pooler: &Server) -> String {
    let database = unique();
    let mut connection = PgConnection::connect(&server("TEST_POSTGRES_URL")).await.unwrap();
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE {database}"))).await.unwrap();
    format!("postgres://anyone@127.0.0.1:{}/{database}", pooler.port)
}

async fn migrated(pooler: &Server) -> (PostgresStore, String) {
    let url = empty(pooler).await;
    let store = PostgresStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    (store, url)
}

/// What a query returns to each of four connections that another application opens at once.
async fn ask(url: &str, sql: &'static str) -> Vec<String> {
    let mut connections = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..4 {
        let mut connection = PgConnection::connect(url).await.unwrap();
        answers.push(sqlx::raw_sql(sql).fetch_one(&mut connection).await.unwrap().get(0));
        connections.push(connection);
    }
    for connection in connections {
        connection.close().await.unwrap();
    }
    answers
}

fn assert_one_line(error: &str, words: &[&str]) {
    assert!(error.starts_with("session store: postgres://127.0.0.1:") && !error.contains('\n'), "{error}");
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
}

mod session_mode {
    use super::*;

    static POOLER: OnceCell<Server> = OnceCell::const_new();

    axum_refresh::store_conformance!(async { migrated(POOLER.get_or_init(async || start!(SESSION)).await).await.0 });
}

#[tokio::test]
async fn in_session_mode_revocations_are_pushed_to_other_nodes() {
    let pooler = start!(SESSION);
    let (store, url) = migrated(&pooler).await;
    store.check().await.unwrap();
    let other = PostgresStore::connect(&url).await.unwrap().push();
    let mut is_pushed = false;
    for n in 0..100 {
        let wait = timeout(Duration::from_millis(200), other.changed());
        let revoke = async {
            sleep(Duration::from_millis(20)).await;
            store.revoke(RevokeTarget::Token(&format!("jti-{n}")), revocation()).await.unwrap();
        };
        is_pushed = tokio::join!(wait, revoke).0.is_ok();
        if is_pushed {
            break;
        }
    }
    assert!(is_pushed);
    assert!(!other.read_revocations(FeedCursor::START, WINDOW).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn a_pooler_that_refuses_session_settings_is_an_error_that_says_what_to_do() {
    let pooler = start!("pool_mode = session");
    let error = PostgresStore::connect(&empty(&pooler).await).await.unwrap_err().to_string();
    assert_one_line(&error, &["unsupported startup parameter: options", "ignore_startup_parameters = options"]);
}

#[tokio::test]
async fn a_pooler_in_session_mode_only_has_to_ignore_options() {
    let pooler = start!("ignore_startup_parameters = options");
    let (store, _) = migrated(&pooler).await;
    insert(&store, "alice").await;
}

async fn assert_refused(settings: &'static [(&'static str, &'static str)]) {
    let pooler = start(settings).await;
    let url = empty(&pooler).await;
    // With other clients' connections in the pool of the pooler.
    let mut busy = Vec::new();
    for _ in 0..3 {
        busy.push(PgConnection::connect(&url).await.unwrap_or_else(|error| panic!("{error}")));
    }
    for _ in 0..5 {
        let error = PostgresStore::connect(&url).await.unwrap_err().to_string();
        assert_one_line(&error, &["transaction mode", "connect to the server directly", "session mode"]);
    }
    for max in [1, 4] {
        let store = PostgresStore::new(PgPoolOptions::new().max_connections(max).connect(&url).await.unwrap());
        for result in [store.check().await, store.migrate().await] {
            assert_one_line(&result.unwrap_err().to_string(), &["transaction mode", "session mode"]);
        }
    }
    assert_eq!(ask(&url, "SHOW statement_timeout").await, ["0"; 4]);
    assert_eq!(ask(&url, "SELECT CAST(COUNT(*) AS TEXT) FROM pg_prepared_statements").await, ["0"; 4]);
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused_at_start_up_and_nothing_is_left_on_its_connections() {
    assert_refused(&[("POOLER_SETTINGS", TRANSACTION)]).await;
}

#[tokio::test]
async fn a_pooler_in_statement_mode_is_refused_at_start_up() {
    assert_refused(&[("POOLER_SETTINGS", STATEMENT)]).await;
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_that_uses_its_connections_in_turn_is_refused() {
    let pooler = start!(IN_TURN);
    let url = empty(&pooler).await;
    // Five connections to the server at once.
    let mut others = Vec::new();
    for _ in 0..5 {
        let options = url.parse::<PgConnectOptions>().unwrap().extra_float_digits(None);
        let mut other = PgConnection::connect_with(&options).await.unwrap();
        other.execute(sqlx::raw_sql("BEGIN")).await.unwrap();
        others.push(other);
    }
    for other in &mut others {
        other.execute(sqlx::raw_sql("ROLLBACK")).await.unwrap();
    }
    let error = PostgresStore::connect(&url).await.unwrap_err().to_string();
    assert_one_line(&error, &["transaction mode"]);
}

#[tokio::test]
async fn other_applications_do_not_get_the_settings_of_the_store() {
    let pooler = start!(WITHOUT_RESET);
    let (store, url) = migrated(&pooler).await;
    insert(&store, "alice").await;
    drop(store);
    for (sql, default) in [
        ("SHOW statement_timeout", "0"),
        ("SHOW idle_in_transaction_session_timeout", "0"),
        ("SHOW enable_bitmapscan", "on"),
    ] {
        assert_eq!(ask(&url, sql).await, [default; 4], "{sql}");
    }
    // Among them are the connections that the store has used.
    let prepared = ask(&url, "SELECT CAST(COUNT(*) AS TEXT) FROM pg_prepared_statements").await;
    assert!(prepared.iter().any(|count| count != "0"), "{prepared:?}");
}

#[tokio::test]
async fn a_pooler_in_session_mode_whose_only_connection_is_in_use_is_not_mistaken_for_one_in_transaction_mode() {
    let pooler = start!(ONE);
    PostgresStore::connect(&empty(&pooler).await).await.unwrap();
}

#[tokio::test]
async fn after_a_restart_of_the_pooler_calls_work_again() {
    let mut pooler = start!(SESSION);
    let (store, url) = migrated(&pooler).await;
    let other = PostgresStore::connect(&url).await.unwrap().push();
    let session = insert(&store, "alice").await;
    pooler.kill();
    store.load(session.id).await.unwrap_err();
    restart(&mut pooler).await;
    let loaded = async {
        loop {
            // A connection from before the restart fails once, and is then replaced.
            if let Ok(loaded) = store.load(session.id).await {
                return loaded;
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(10), loaded).await.unwrap(), Some(session));
    for _ in 0..20 {
        insert(&store, "alice").await;
    }
    let wait = timeout(Duration::from_secs(10), other.changed());
    let revoke = async {
        loop {
            store.revoke(RevokeTarget::Token("jti"), revocation()).await.unwrap();
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        pushed = wait => pushed.unwrap(),
        () = revoke => {}
    }
}

#[tokio::test]
async fn without_a_pooler_the_settings_apply_and_a_pool_of_one_connection_is_enough() {
    let url = elsewhere("TEST_POSTGRES_URL", "postgres", "postgres");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let database = unique();
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE {database}"))).await.unwrap();
    let url = elsewhere("TEST_POSTGRES_URL", "postgres", &database);
    let store = PostgresStore::new(PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap());
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    let session = insert(&store, "alice").await;

    let ours = PostgresStore::connect(&url).await.unwrap();
    let theirs = PostgresStore::connect(&format!("{url}?options[statement_timeout]=200ms")).await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    connection.execute(sqlx::raw_sql("BEGIN; LOCK TABLE axum_refresh_sessions")).await.unwrap();
    for (store, seconds) in [(theirs, 0.0..3.0), (ours, 4.5..8.0)] {
        let started = std::time::Instant::now();
        let error = store.load(session.id).await.unwrap_err().to_string();
        assert!(error.contains("statement timeout"), "{error}");
        assert!(seconds.contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
    }
}
