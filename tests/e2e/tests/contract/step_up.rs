//! Authenticating again, the terms of a login, and acting for a user.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use axum_refresh_e2e::demo::{Answer, Browser, Demo, SHORT_GRACE, claims, grace_passes, now_millis};

/// A demo in which a transfer requires a password that was entered a second ago at most, and time to let it pass.
async fn demo() -> Demo {
    Demo::start(&[("TRANSFER_MAX_AGE", "1s")]).await
}

const TOO_LONG: Duration = Duration::from_millis(2_100);

async fn confirm(browser: &mut Browser, password: &str) -> Answer {
    let call = browser.request(Method::POST, "/auth/reauthenticate").json(&json!({ "password": password }));
    let answer = browser.send(call, "/auth/reauthenticate").await;
    if answer.status == 200 {
        browser.access = answer.tokens().access;
    }
    answer
}

fn auth_time(browser: &Browser) -> i64 {
    claims(&browser.access)["auth_time"].as_i64().unwrap()
}

#[tokio::test]
async fn an_access_token_has_the_time_of_the_login_and_no_refresh_moves_it() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let before = now_millis() / 1_000;
    let mut browser = demo.logged_in("alice").await;
    let began = auth_time(&browser);
    assert!((before..=now_millis() / 1_000).contains(&began));
    for _ in 0..3 {
        grace_passes().await;
        browser.refresh().await.is(200);
        assert_eq!(auth_time(&browser), began);
    }
}

#[tokio::test]
async fn a_transfer_requires_that_the_password_was_entered_a_short_time_ago() {
    let demo = demo().await;
    let mut browser = demo.logged_in("alice").await;
    browser.post("/transfer").await.is(200);
    let old = (browser.access.clone(), browser.refresh_token(), browser.session());
    sleep(TOO_LONG).await;
    let refused = browser.post("/transfer").await;
    refused.refused(401, "insufficient_user_authentication");
    let challenge = r#"Bearer error="insufficient_user_authentication", max_age="1""#;
    assert_eq!(refused.header("www-authenticate"), Some(challenge));
    browser.me().await.is(200);
    confirm(&mut browser, "wrong").await.refused(401, "bad_credentials");
    browser.me().await.is(200);
    let answer = confirm(&mut browser, "password").await;
    assert_ne!(answer.refresh_cookie().value, old.1);
    assert_ne!(browser.session(), old.2);
    browser.post("/transfer").await.is(200);
    // The old tokens have ended, and the session is one.
    demo.me(&old.0).await.refused(401, "access_token_revoked");
    demo.refresh(&old.1).await.refused(401, "session_revoked");
    assert_eq!(browser.sessions().await.len(), 1);
    browser.refresh().await.is(200);
}

#[tokio::test]
async fn an_idle_session_goes_on_with_the_password_and_its_cookie() {
    let settings = [("IDLE_TIMEOUT", "3s"), ("ACCESS_TTL", "2s"), ("GRACE", "1s")];
    let demo = Demo::start(&settings).await;
    let mut browser = demo.logged_in("alice").await;
    sleep(Duration::from_millis(3_200)).await;
    browser.refresh().await.refused(401, "session_idle");
    confirm(&mut browser, "wrong").await.refused(401, "bad_credentials");
    // By the cookie alone: the access token has expired, and a browser would not send it here.
    let call = browser.request(Method::POST, "/auth/reauthenticate").json(&json!({ "password": "password" }));
    let answer = browser.send(call, "/auth/reauthenticate").await;
    browser.access = answer.tokens().access;
    browser.me().await.is(200);
    browser.refresh().await.is(200);
    demo.post("/auth/reauthenticate")
        .json(&json!({ "password": "password" }))
        .send()
        .await
        .refused(401, "refresh_token_missing");
}

#[tokio::test]
async fn passive_requests_do_not_keep_a_session_from_becoming_idle() {
    // With seconds to spare, for a machine that has other things to do.
    let settings = [("IDLE_TIMEOUT", "7s"), ("ACCESS_TTL", "2s"), ("GRACE", "1s")];
    let demo = Demo::start(&settings).await;
    let (mut passive, mut active) = (demo.logged_in("alice").await, demo.logged_in("bob").await);
    for _ in 0..3 {
        sleep(Duration::from_millis(1_200)).await;
        let call = passive.request(Method::POST, "/auth/refresh").header("auth-passive", "?1");
        let answer = passive.send(call, "/auth/refresh").await;
        passive.access = answer.is(200).tokens().access;
        let call = passive.request(Method::GET, "/news").bearer(&passive.access);
        passive.send(call, "/news").await.is(200);
        active.refresh().await.is(200);
    }
    sleep(Duration::from_millis(3_600)).await;
    passive.refresh().await.refused(401, "session_idle");
    active.refresh().await.is(200);
}

#[tokio::test]
async fn a_login_that_is_not_to_be_remembered_keeps_a_session_cookie() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    for (remember, persistent) in [(json!(false), false), (json!(true), true), (Value::Null, true)] {
        let mut browser = demo.browser();
        let form = json!({ "username": "alice", "password": "password", "remember": remember });
        let call = browser.request(Method::POST, "/login").json(&form);
        let answer = browser.send(call, "/login").await;
        assert_eq!(
            answer.refresh_cookie().attributes.iter().any(|attribute| attribute.starts_with("Max-Age=")),
            persistent
        );
        grace_passes().await;
        let answer = browser.refresh().await;
        assert_eq!(
            answer.refresh_cookie().attributes.iter().any(|attribute| attribute.starts_with("Max-Age=")),
            persistent
        );
    }
}

#[tokio::test]
async fn whoever_acts_for_a_user_is_seen_and_stops_with_their_own_session() {
    let demo = Demo::new().await;
    let (mut admin, mut bob) = (demo.logged_in("alice").await, demo.logged_in("bob").await);
    let act = async |browser: &mut Browser, user: &str| {
        let call = browser.request(Method::POST, "/admin/act").bearer(&browser.access);
        browser.send(call.json(&json!({ "user": user })), "/admin/act").await
    };
    act(&mut bob, "alice").await.refused(403, "forbidden");
    act(&mut admin, "alice").await.refused(404, "unknown_user");
    let answer = act(&mut admin, "bob").await;
    answer.is(200).sets_no_cookie();
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    let says = claims(&token);
    assert_eq!((&says["sub"], &says["act"]["sub"]), (&json!("bob"), &json!("alice")));
    assert_eq!(says["act"]["sid"], admin.session());
    assert_eq!(demo.me(&token).await.is(200).json()["user"], "bob");
    let actors: Vec<_> = bob.sessions().await.iter().filter_map(|session| session.get("actor").cloned()).collect();
    assert_eq!(actors, ["alice"]);
    admin.logout().await.is(204);
    demo.me(&token).await.refused(401, "access_token_revoked");
    assert_eq!(bob.sessions().await.len(), 1);
    bob.me().await.is(200);
}

#[tokio::test]
async fn ending_other_sessions_may_require_the_password_again() {
    let demo = Demo::start(&[("REVOCATION_MAX_AGE", "1s")]).await;
    let mut browser = demo.logged_in("alice").await;
    let mut other = demo.logged_in("alice").await;
    sleep(TOO_LONG).await;
    let path = format!("/auth/sessions/{}", other.session());
    browser.delete(&path).await.refused(401, "insufficient_user_authentication");
    browser.post("/auth/logout/others").await.refused(401, "insufficient_user_authentication");
    other.me().await.is(200);
    confirm(&mut browser, "password").await.is(200);
    browser.delete(&path).await.is(204);
    other.me().await.refused(401, "access_token_revoked");
    sleep(TOO_LONG).await;
    browser.logout().await.is(204);
}

#[tokio::test]
async fn a_client_that_changes_may_be_asked_for_the_password() {
    let demo = Demo::start(&[("BIND_USER_AGENT", "step_up"), ("GRACE", "1s")]).await;
    let mut browser = demo.logged_in("alice").await;
    grace_passes().await;
    let token = browser.refresh_token();
    let refused = demo.post("/auth/refresh").refresh_cookie(&token).header("user-agent", "curl/8").send().await;
    refused.refused(401, "insufficient_user_authentication");
    browser.refresh().await.is(200);
    let token = browser.refresh_token();
    let confirm = demo.post("/auth/reauthenticate").refresh_cookie(&token).header("user-agent", "curl/8");
    let new = confirm.json(&json!({ "password": "password" })).send().await;
    let token = new.is(200).refresh_cookie().value;
    grace_passes().await;
    demo.post("/auth/refresh").refresh_cookie(&token).header("user-agent", "curl/8").send().await.is(200);
}
