//! Every store over TLS, with a certificate that is trusted only if the settings name it. `tests/run tls` installs the
//! servers.

#![cfg(unix)]

use axum_refresh_e2e::demo::{Demo, run_to_end};
use axum_refresh_e2e::server::Server;
use sqlx::{Connection as _, Executor as _, MySqlConnection, PgConnection};
use tokio::net::TcpStream;

const WITH_TLS: &[(&str, &str)] = &[("SERVE_TLS", "yes")];

/// Asserts that the demo works with the settings that name the certificate, and reports the error with the others.
async fn a_demo_trusts_only_the_certificate_in_its_settings(with: &[(&str, &str)], without: &[(&str, &str)]) {
    let demo = Demo::start(with).await;
    let mut browser = demo.logged_in("alice").await;
    let refreshed = browser.refresh().await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());

    let output = run_to_end(without).await;
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
    let trusting = format!("{checked}&sslrootcert={}", certificate(&server));
    a_demo_trusts_only_the_certificate_in_its_settings(&[("STORE_URL", &trusting)], &[("STORE_URL", &checked)]).await;
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
    let trusting = format!("{checked}&ssl-ca={}", certificate(&server));
    a_demo_trusts_only_the_certificate_in_its_settings(&[("STORE_URL", &trusting)], &[("STORE_URL", &checked)]).await;
}

#[tokio::test]
async fn redis() {
    let mut server = Server::new("redis", WITH_TLS);
    server.run(async |port| TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let roots = certificate(&server);
    let trusting = [("STORE_URL", url.as_str()), ("SSL_CERT_FILE", roots.as_str())];
    a_demo_trusts_only_the_certificate_in_its_settings(&trusting, &[("STORE_URL", &url)]).await;
}
