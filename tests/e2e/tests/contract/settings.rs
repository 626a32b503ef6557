//! The demo's settings, valid and invalid, and how it starts and stops.

use std::net::TcpListener;
use std::process::Output;
use std::time::Duration;

use axum_refresh_e2e::demo::{
    Demo, SECRET, SHORT_GRACE, credentials, grace_passes, run_to_end, run_to_end_with_default_features,
};
use tokio::net::TcpStream;

/// The demo does not start: exit code 2, and one line on stderr that names the setting. Returns that line.
async fn is_rejected(settings: &[(&str, &str)], name: &str) -> String {
    does_not_start(&run_to_end(settings).await, settings, name)
}

fn does_not_start(run: &Output, settings: &[(&str, &str)], name: &str) -> String {
    let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
    let ready = String::from_utf8_lossy(&run.stdout);
    assert_eq!(run.status.code(), Some(2), "{settings:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{settings:?}: {stderr}");
    assert!(stderr.to_lowercase().contains(&name.to_lowercase()), "{settings:?} does not mention {name}: {stderr}");
    assert!(!ready.contains("listening"), "{settings:?}: {ready}");
    stderr
}

/// Asserts that each of these values alone prevents the start.
async fn all_are_rejected(name: &str, values: &[&str], mentions: &str) {
    for value in values {
        is_rejected(&[(name, value)], mentions).await;
    }
}

async fn starts(settings: &[(&str, &str)]) -> Demo {
    let demo = Demo::start(settings).await;
    demo.logged_in("alice").await.me().await.is(200);
    demo
}

#[tokio::test]
async fn the_demo_listens_on_the_configured_port() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let demo = starts(&[("PORT", &port.to_string())]).await;
    assert_eq!(demo.port(), port);
}

#[tokio::test]
async fn the_demo_prints_once_that_it_is_ready() {
    let demo = starts(&[]).await;
    let ready = format!("listening on http://127.0.0.1:{}", demo.port());
    assert_eq!(demo.output().iter().filter(|line| line.contains("listening")).collect::<Vec<_>>(), [&ready]);
}

#[tokio::test]
async fn an_invalid_port_prevents_the_start() {
    all_are_rejected("PORT", &["http", "-1", "65536", "3000.5"], "port").await;
}

#[tokio::test]
async fn a_port_in_use_prevents_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = run_to_end(&[("PORT", &port)]).await;
    assert!(!run.status.success());
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(stderr.contains(&port) && !stderr.contains("panicked"), "{stderr}");
}

#[tokio::test]
async fn the_memory_store_can_be_configured() {
    starts(&[("STORE_URL", "memory:")]).await;
}

#[tokio::test]
async fn an_unknown_store_prevents_the_start() {
    all_are_rejected("STORE_URL", &["mongodb://127.0.0.1/x", "nonsense", "://"], "store").await;
}

#[tokio::test]
async fn a_store_without_its_feature_is_reported_with_the_feature() {
    for (url, feature) in [
        ("sqlite:sessions.db", "sqlite"),
        ("postgres://127.0.0.1:1/x", "postgres"),
        ("mysql://127.0.0.1:1/x", "mysql"),
        ("redis://127.0.0.1:1", "redis"),
    ] {
        let output = run_to_end_with_default_features(&[("STORE_URL", url)]).await;
        let stderr = does_not_start(&output, &[("STORE_URL", url)], "feature");
        assert!(stderr.contains(feature), "{stderr}");
    }
}

#[tokio::test]
async fn an_unreachable_store_prevents_the_start_and_its_password_is_not_printed() {
    for url in [
        "sqlite:/nowhere/at/all/sessions.db",
        "postgres://app:hunter2@127.0.0.1:1/x",
        "mysql://app:hunter2@127.0.0.1:1/x",
        "redis://app:hunter2@127.0.0.1:1",
    ] {
        let stderr = is_rejected(&[("STORE_URL", url)], "store_url").await;
        assert!(!stderr.contains("hunter2") && stderr.trim_end().lines().count() == 1, "{stderr}");
    }
}

#[tokio::test]
async fn a_weak_secret_prevents_the_start_and_is_not_printed() {
    let repeated = "a".repeat(64);
    for secret in ["hunter2", "changeme-changeme-changeme-changeme", &repeated, "your-secret-key-your-secret-key-"] {
        let stderr = is_rejected(&[("AUTH_SECRET", secret)], "secret").await;
        assert!(!stderr.contains(secret), "{stderr}");
    }
}

#[tokio::test]
async fn without_a_secret_the_demo_warns_and_generates_one() {
    let demo = Demo::start_exactly(&[("PORT", "0")]).await;
    demo.logged_in("alice").await.me().await.is(200);
    assert!(demo.output().iter().any(|line| line.contains("AUTH_SECRET")), "{:?}", demo.output());
}

// Hole 23.
#[tokio::test]
async fn two_demos_never_have_the_same_default_secret() {
    let (one, two) = (Demo::start_exactly(&[("PORT", "0")]).await, Demo::start_exactly(&[("PORT", "0")]).await);
    let browser = one.logged_in("alice").await;
    one.me(&browser.access).await.is(200);
    two.me(&browser.access).await.refused(401, "access_token_invalid");
    two.refresh(&browser.refresh_token()).await.refused(401, "refresh_token_invalid");
}

#[tokio::test]
async fn durations_have_units() {
    let demo =
        starts(&[("GRACE", "1500ms"), ("ACCESS_TTL", "15m"), ("IDLE_TIMEOUT", "1h 30m"), ("MAX_LIFETIME", "2days")])
            .await;
    let tokens = demo.browser().login("alice").await.tokens();
    assert!((854..=900).contains(&tokens.expires_in), "{}", tokens.expires_in);
}

// Hole 17: an invalid duration is reported at the start and not at the first refresh.
#[tokio::test]
async fn an_invalid_access_ttl_prevents_the_start() {
    all_are_rejected("ACCESS_TTL", &["soon", "15", "-15m", "0s", "15 parsecs"], "access").await;
}

#[tokio::test]
async fn an_invalid_grace_period_prevents_the_start() {
    all_are_rejected("GRACE", &["short", "30", "-1s", "0s", "999ms", "121s"], "grace").await;
}

#[tokio::test]
async fn an_invalid_idle_timeout_prevents_the_start() {
    all_are_rejected("IDLE_TIMEOUT", &["late", "7", "-7d", "0s"], "idle").await;
}

#[tokio::test]
async fn an_invalid_lifetime_prevents_the_start() {
    all_are_rejected("MAX_LIFETIME", &["for ever", "30", "-30d", "0s"], "lifetime").await;
}

#[tokio::test]
async fn a_grace_period_as_long_as_the_access_ttl_prevents_the_start() {
    is_rejected(&[("GRACE", "60s"), ("ACCESS_TTL", "60s")], "grace").await;
}

// Hole 35.
#[tokio::test]
async fn an_idle_timeout_as_short_as_the_access_ttl_prevents_the_start() {
    is_rejected(&[("IDLE_TIMEOUT", "15m"), ("ACCESS_TTL", "15m")], "idle").await;
}

#[tokio::test]
async fn a_lifetime_shorter_than_the_idle_timeout_prevents_the_start() {
    is_rejected(&[("MAX_LIFETIME", "59m"), ("IDLE_TIMEOUT", "60m")], "lifetime").await;
}

#[tokio::test]
async fn an_invalid_session_limit_prevents_the_start() {
    all_are_rejected("MAX_SESSIONS", &["many", "-1", "1.5", "0"], "sessions").await;
}

#[tokio::test]
async fn an_unknown_binding_mode_prevents_the_start() {
    all_are_rejected("BIND_IP", &["on", "OFF?", "reject,revoke"], "bind").await;
    all_are_rejected("BIND_USER_AGENT", &["on", "OFF?", "reject,revoke"], "bind").await;
}

#[tokio::test]
async fn invalid_trusted_proxies_prevent_the_start() {
    all_are_rejected("TRUSTED_PROXIES", &["localhost", "10.0.0.0/33", "10.0.0.0/8,everybody"], "prox").await;
}

#[tokio::test]
async fn invalid_trusted_origins_prevent_the_start() {
    all_are_rejected("TRUSTED_ORIGINS", &["app.example", "https://app.example/path", "*"], "origin").await;
}

#[tokio::test]
async fn an_http_library_that_sends_no_secure_cookie_over_http_stays_logged_in_with_insecure_dev_cookies() {
    for (insecure, status) in [("false", 401), ("true", 200)] {
        let demo = starts(&[("INSECURE_DEV_COOKIES", insecure)]).await;
        let login = demo.post("/login").json(&credentials("alice")).send().await;
        let cookie = login.is(200).header("set-cookie").unwrap();
        // Such a library takes no loopback address for a secure one.
        let is_kept = !cookie.split("; ").any(|attribute| attribute == "Secure");
        let cookie = cookie.split(';').next().filter(|_| is_kept).unwrap_or_default();
        assert_eq!(demo.post("/auth/refresh").header("cookie", cookie).send().await.status, status);
    }
}

#[tokio::test]
async fn an_invalid_choice_of_insecure_dev_cookies_prevents_the_start() {
    all_are_rejected("INSECURE_DEV_COOKIES", &["1", "yes", "True"], "INSECURE_DEV_COOKIES").await;
}

#[tokio::test]
async fn an_unknown_transport_prevents_the_start() {
    all_are_rejected("TRANSPORT", &["pigeon", "cookie,body"], "transport").await;
}

#[tokio::test]
async fn a_login_beyond_the_session_limit_revokes_the_oldest_session() {
    let demo = Demo::start(&[("MAX_SESSIONS", "2")]).await;
    let mut bob = demo.logged_in("bob").await;
    let mut first = demo.logged_in("alice").await;
    let mut second = demo.logged_in("alice").await;
    first.refresh().await.is(200);
    let mut third = demo.logged_in("alice").await;
    first.refresh().await.refused(401, "session_revoked");
    first.me().await.refused(401, "access_token_revoked");
    assert_eq!(third.sessions().await.len(), 2);
    second.refresh().await.is(200);
    third.refresh().await.is(200);
    bob.refresh().await.is(200);
}

#[tokio::test]
async fn a_revoked_session_does_not_count_towards_the_session_limit() {
    let demo = Demo::start(&[("MAX_SESSIONS", "2")]).await;
    let mut first = demo.logged_in("alice").await;
    demo.logged_in("alice").await.logout().await.is(204);
    demo.logged_in("alice").await;
    first.refresh().await.is(200);
}

#[tokio::test]
async fn without_a_session_limit_a_user_can_have_any_number_of_sessions() {
    let demo = Demo::new().await;
    for _ in 0..30 {
        demo.logged_in("alice").await;
    }
    assert_eq!(demo.logged_in("alice").await.sessions().await.len(), 31);
}

#[tokio::test]
async fn the_demo_stops_cleanly_on_sigterm() {
    let demo = starts(&[]).await;
    assert_eq!(demo.terminate().await, Some(0));
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_the_exit() {
    let demo = starts(&[]).await;
    let silent = TcpStream::connect(("127.0.0.1", demo.port())).await.unwrap();
    let kept_alive = TcpStream::connect(("127.0.0.1", demo.port())).await.unwrap();
    kept_alive.writable().await.unwrap();
    assert!(kept_alive.try_write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap() > 0);
    kept_alive.readable().await.unwrap();
    assert_eq!(demo.terminate().await, Some(0));
    drop(silent);
}

#[tokio::test]
async fn no_secret_is_ever_printed() {
    let demo = Demo::start(&[SHORT_GRACE, ("RUST_LOG", "trace"), ("BIND_USER_AGENT", "observe")]).await;
    let mut browser = demo.logged_in("alice").await;
    let first = browser.refresh_token();
    let mut tokens = vec![(first.clone(), browser.access.clone())];
    for _ in 0..2 {
        grace_passes().await;
        browser.refresh().await.refresh_cookie();
        tokens.push((browser.refresh_token(), browser.access.clone()));
    }
    browser.sessions().await;
    // Every event that makes the demo log something: another browser, a theft, invalid tokens.
    browser.set_header("user-agent", Some("another"));
    browser.refresh().await.is(200);
    demo.refresh(&first).await.refused(409, "refresh_busy");
    grace_passes().await;
    demo.refresh(&first).await.refused(401, "refresh_token_reused");
    browser.refresh().await.refused(401, "session_revoked");
    browser.me().await.refused(401, "access_token_revoked");
    demo.refresh("garbage-of-a-token").await.refused(401, "refresh_token_invalid");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let output = demo.output().join("\n");
    assert!(output.lines().count() > 1, "the demo logs nothing, so this test shows nothing");
    assert!(!output.contains(SECRET), "the secret was printed");
    for (refresh, access) in tokens {
        // A piece of the secret, and of the tag; the beginning of a token is not secret.
        assert!(!output.contains(&refresh[32..52]) && !output.contains(&refresh[74..]), "{refresh}");
        assert!(!output.contains(access.rsplit_once('.').unwrap().1), "{access}");
    }
}
