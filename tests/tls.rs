//! Every server over TLS, by a certificate that nobody believes who was not told of it. `tests/run` installs the servers.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that finds something else than it expects has to stop"
)]

#[path = "contract/support.rs"]
#[allow(dead_code, reason = "the contract tests ask a demo more")]
mod demo;
#[path = "support/server.rs"]
#[allow(dead_code, reason = "nobody kills these servers")]
mod server;

use demo::{Demo, run_to_end};
use server::Server;
use sqlx::{Connection as _, Executor as _, MySqlConnection, PgConnection};
use tokio::net::TcpStream;

const WITH_TLS: &[(&str, &str)] = &[("SERVE_TLS", "yes")];

/// The demo works where it is told of the certificate, and says what is wrong where it is not.
async fn a_demo_believes_what_it_was_told(told: &[(&str, &str)], not_told: &[(&str, &str)]) {
    let demo = Demo::start(told).await;
    let mut browser = demo.logged_in("alice").await;
    let refreshed = browser.refresh().await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());

    let output = run_to_end(not_told).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("STORE_URL: ") && said.contains("certificate"), "{said}");
}

fn certificate(server: &Server) -> String {
    server.data().join("certificate.pem").display().to_string()
}

#[tokio::test]
async fn postgres() {
    let mut server = Server::new("postgres", WITH_TLS);
    let url = |port: u16| format!("postgres://postgres@127.0.0.1:{port}/postgres");
    server.run(async |port| PgConnection::connect(&format!("{}?sslmode=disable", url(port))).await.is_ok()).await;
    let checked = format!("{}?sslmode=verify-full", url(server.port));
    let told = format!("{checked}&sslrootcert={}", certificate(&server));
    a_demo_believes_what_it_was_told(&[("STORE_URL", &told)], &[("STORE_URL", &checked)]).await;
}

#[tokio::test]
async fn mysql() {
    let mut server = Server::new("mysql", WITH_TLS);
    let url = |port: u16, database: &str| format!("mysql://root@127.0.0.1:{port}/{database}");
    let answers = async |port| {
        let server = format!("{}?ssl-mode=DISABLED", url(port, "mysql"));
        let Ok(mut connection) = MySqlConnection::connect(&server).await else { return false };
        connection.execute("CREATE DATABASE IF NOT EXISTS sessions").await.is_ok()
    };
    server.run(answers).await;
    let checked = format!("{}?ssl-mode=VERIFY_IDENTITY", url(server.port, "sessions"));
    let told = format!("{checked}&ssl-ca={}", certificate(&server));
    a_demo_believes_what_it_was_told(&[("STORE_URL", &told)], &[("STORE_URL", &checked)]).await;
}

#[tokio::test]
async fn redis() {
    let mut server = Server::new("redis", WITH_TLS);
    server.run(async |port| TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let roots = certificate(&server);
    let told = [("STORE_URL", url.as_str()), ("SSL_CERT_FILE", roots.as_str())];
    a_demo_believes_what_it_was_told(&told, &[("STORE_URL", &url)]).await;
}
