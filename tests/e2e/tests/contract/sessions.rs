//! Listing and revoking sessions.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use axum_refresh_e2e::demo::{
    CHROME, Demo, SHORT_GRACE, base64url, claims, from_base64url, grace_passes, members, millis, now_millis,
};

fn ids(sessions: &[Value]) -> Vec<&str> {
    sessions.iter().map(|session| session["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_listed_session_has_exactly_these_members() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    let session = browser.sessions().await.remove(0);
    let expected = ["created_at", "current", "expires_at", "id", "ip", "label", "last_seen_at", "user_agent"];
    assert_eq!(members(&session), expected);
    assert_eq!(session["id"], browser.session());
}

#[tokio::test]
async fn a_listing_contains_no_token_and_no_secret() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    let listing = browser.get("/auth/sessions").await.text();
    let token = browser.refresh_token();
    let secret = &from_base64url(&token)[22..54];
    let hexadecimal: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let signature = browser.access.rsplit_once('.').unwrap().1.to_owned();
    for hidden in [token, base64url(secret), hexadecimal, signature, claims(&browser.access)["jti"].to_string()] {
        assert!(!listing.contains(hidden.trim_matches('"')), "{hidden} in {listing}");
    }
}

#[tokio::test]
async fn the_times_of_a_session_are_plausible_and_in_rfc_3339() {
    let demo = Demo::start(&[("IDLE_TIMEOUT", "1h"), ("MAX_LIFETIME", "2h")]).await;
    let before = now_millis();
    let mut browser = demo.logged_in("alice").await;
    let after = now_millis();
    let session = browser.sessions().await.remove(0);
    let [created, seen, ends] = ["created_at", "last_seen_at", "expires_at"].map(|name| millis(&session[name]));
    // The list has times in whole seconds.
    assert!((before - 1_000..=after).contains(&created), "{session}");
    assert!((created..=now_millis()).contains(&seen), "{session}");
    assert!((ends - created - 7_200_000).abs() <= 1_000, "{session}");
}

#[tokio::test]
async fn exactly_the_callers_own_session_is_marked_current() {
    let demo = Demo::new().await;
    let (_, mut browser, _) =
        (demo.logged_in("alice").await, demo.logged_in("alice").await, demo.logged_in("alice").await);
    let sessions = browser.sessions().await;
    assert_eq!(sessions.len(), 3);
    for session in sessions {
        assert_eq!(session["current"], session["id"] == browser.session().as_str());
    }
}

#[tokio::test]
async fn a_listing_starts_with_the_latest_activity() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut first = demo.logged_in("alice").await;
    sleep(Duration::from_millis(20)).await;
    let mut second = demo.logged_in("alice").await;
    assert_eq!(ids(&second.sessions().await), [second.session(), first.session()]);
    grace_passes().await;
    first.refresh().await.refresh_cookie();
    // The request for the list is activity as well.
    assert_eq!(ids(&first.sessions().await), [first.session(), second.session()]);
}

#[tokio::test]
async fn a_listing_contains_only_the_sessions_of_the_user() {
    let demo = Demo::new().await;
    let (mut alice, mut bob) = (demo.logged_in("alice").await, demo.logged_in("bob").await);
    assert_eq!(ids(&alice.sessions().await), [alice.session()]);
    assert_eq!(ids(&bob.sessions().await), [bob.session()]);
}

#[tokio::test]
async fn a_session_has_the_user_agent_and_the_address_of_its_login() {
    let demo = Demo::new().await;
    let mut browser = demo.browser().with_user_agent(CHROME);
    browser.login("alice").await;
    let session = browser.sessions().await.remove(0);
    assert_eq!(session["user_agent"], CHROME);
    assert_eq!(session["ip"], "127.0.0.1");
}

#[tokio::test]
async fn a_session_without_a_user_agent_lists_null() {
    let demo = Demo::new().await;
    let session = demo.logged_in("alice").await.sessions().await.remove(0);
    assert_eq!(session["user_agent"], Value::Null);
}

#[tokio::test]
async fn an_idle_session_is_not_listed() {
    let demo = Demo::start(&[SHORT_GRACE, ("ACCESS_TTL", "1500ms"), ("IDLE_TIMEOUT", "2s")]).await;
    demo.logged_in("alice").await;
    sleep(Duration::from_millis(2_150)).await;
    let mut browser = demo.logged_in("alice").await;
    assert_eq!(ids(&browser.sessions().await), [browser.session()]);
}

#[tokio::test]
async fn listing_and_revoking_sessions_requires_an_access_token() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    let one = format!("/auth/sessions/{}", browser.session());
    for (method, path) in [
        (Method::GET, "/auth/sessions"),
        (Method::POST, "/auth/logout/all"),
        (Method::POST, "/auth/logout/others"),
        (Method::DELETE, &one),
    ] {
        let answer = browser.request(method, path).send().await;
        answer.refused(401, "access_token_missing");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{path}");
    }
    browser.refresh().await.is(200);
}

// Hole 15: the browser sends no access token with a logout.
#[tokio::test]
async fn a_logout_requires_the_refresh_token_and_nothing_else() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    let token = browser.refresh_token();
    let answer = browser.logout().await;
    assert_eq!(answer.is(204).text(), "");
    demo.refresh(&token).await.refused(401, "session_revoked");
}

#[tokio::test]
async fn a_logout_clears_the_cookie() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    browser.logout().await.is(204).clears_the_cookie();
    assert!(!browser.has_a_refresh_token());
}

#[tokio::test]
async fn a_logout_revokes_this_session_only() {
    let demo = Demo::new().await;
    let (mut one, mut two, mut bob) =
        (demo.logged_in("alice").await, demo.logged_in("alice").await, demo.logged_in("bob").await);
    one.logout().await.is(204);
    assert_eq!(ids(&two.sessions().await), [two.session()]);
    two.refresh().await.is(200);
    bob.refresh().await.is(200);
}

#[tokio::test]
async fn a_logout_without_a_token_succeeds() {
    let demo = Demo::new().await;
    demo.post("/auth/logout").send().await.is(204).clears_the_cookie();
}

#[tokio::test]
async fn a_logout_with_an_invalid_token_succeeds() {
    let demo = Demo::new().await;
    for garbage in ["", "garbage", &"A".repeat(94)] {
        demo.post("/auth/logout").refresh_cookie(garbage).send().await.is(204).clears_the_cookie();
    }
}

#[tokio::test]
async fn a_second_logout_succeeds_too() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    for _ in 0..2 {
        demo.post("/auth/logout").refresh_cookie(&token).send().await.is(204).clears_the_cookie();
    }
    demo.refresh(&token).await.refused(401, "session_revoked");
}

#[tokio::test]
async fn a_logout_with_a_refresh_token_of_an_older_generation_revokes_the_session() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut browser = demo.logged_in("alice").await;
    let first = browser.refresh_token();
    for _ in 0..2 {
        grace_passes().await;
        browser.refresh().await.refresh_cookie();
    }
    demo.post("/auth/logout").refresh_cookie(&first).send().await.is(204);
    browser.refresh().await.refused(401, "session_revoked");
    browser.me().await.refused(401, "access_token_revoked");
}

#[tokio::test]
async fn a_logout_with_a_forged_refresh_token_revokes_nothing() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    let mut forged = from_base64url(&browser.refresh_token());
    *forged.last_mut().unwrap() ^= 1;
    demo.post("/auth/logout").refresh_cookie(&base64url(forged)).send().await.is(204);
    browser.refresh().await.is(200);
}

// Hole 33: the response to a refresh arrives after the logout and puts its cookie back into the jar.
#[tokio::test]
async fn a_cookie_that_arrives_after_the_logout_does_not_undo_it() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut browser = demo.logged_in("alice").await;
    grace_passes().await;
    let late = demo.refresh(&browser.refresh_token()).await;
    browser.logout().await.is(204);
    browser.keep(&late, "/auth/refresh");
    assert_eq!(browser.refresh_token(), late.refresh_cookie().value);
    browser.refresh().await.refused(401, "session_revoked");
    demo.me(&late.tokens().access).await.refused(401, "access_token_revoked");
}

// Hole 29: activity is written behind, and such a write must not restore a session.
#[tokio::test]
async fn activity_that_is_written_after_the_logout_does_not_undo_it() {
    let demo = Demo::start(&[SHORT_GRACE, ("ACCESS_TTL", "4s"), ("IDLE_TIMEOUT", "5s")]).await;
    let (mut ended, mut witness) = (demo.logged_in("alice").await, demo.logged_in("alice").await);
    let token = ended.refresh_token();
    grace_passes().await;
    ended.me().await.is(200);
    ended.logout().await.is(204);
    ended.me().await.refused(401, "access_token_revoked");
    // Activity is written within a second.
    grace_passes().await;
    demo.refresh(&token).await.refused(401, "session_revoked");
    ended.me().await.refused(401, "access_token_revoked");
    assert_eq!(ids(&witness.sessions().await), [witness.session()]);
}

#[tokio::test]
async fn logging_out_everywhere_revokes_every_session_of_the_user() {
    let demo = Demo::new().await;
    let (mut one, mut two, mut bob) =
        (demo.logged_in("alice").await, demo.logged_in("alice").await, demo.logged_in("bob").await);
    let tokens = [one.refresh_token(), two.refresh_token()];
    assert_eq!(one.post("/auth/logout/all").await.is(204).text(), "");
    for token in tokens {
        demo.refresh(&token).await.refused(401, "session_revoked");
    }
    one.me().await.refused(401, "access_token_revoked");
    two.me().await.refused(401, "access_token_revoked");
    two.get("/stateless").await.refused(401, "access_token_revoked");
    bob.refresh().await.is(200);
    bob.me().await.is(200);
}

#[tokio::test]
async fn logging_out_everywhere_clears_the_cookie() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    browser.post("/auth/logout/all").await.is(204).clears_the_cookie();
    assert!(!browser.has_a_refresh_token());
}

#[tokio::test]
async fn logging_in_again_after_logging_out_everywhere_works() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    browser.post("/auth/logout/all").await.is(204);
    browser.login("alice").await;
    browser.me().await.is(200);
    browser.refresh().await.is(200);
}

#[tokio::test]
async fn logging_out_the_others_revokes_them_and_keeps_this_one() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    let mut others = [demo.logged_in("alice").await, demo.logged_in("alice").await];
    let mut bob = demo.logged_in("bob").await;
    let answer = browser.post("/auth/logout/others").await;
    assert_eq!(answer.is(200).json(), json!({ "revoked": 2 }));
    answer.sets_no_cookie();
    for other in &mut others {
        other.refresh().await.refused(401, "session_revoked");
        other.me().await.refused(401, "access_token_revoked");
    }
    browser.refresh().await.is(200);
    browser.me().await.is(200);
    bob.refresh().await.is(200);
}

#[tokio::test]
async fn logging_out_the_others_without_any_revokes_none() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    assert_eq!(browser.post("/auth/logout/others").await.is(200).json(), json!({ "revoked": 0 }));
    browser.refresh().await.is(200);
}

#[tokio::test]
async fn a_user_revokes_one_of_their_other_sessions_by_its_id() {
    let demo = Demo::new().await;
    let (mut here, mut there) = (demo.logged_in("alice").await, demo.logged_in("alice").await);
    let answer = here.delete(&format!("/auth/sessions/{}", there.session())).await;
    assert_eq!(answer.is(204).text(), "");
    answer.sets_no_cookie();
    there.refresh().await.refused(401, "session_revoked");
    there.me().await.refused(401, "access_token_revoked");
    assert_eq!(ids(&here.sessions().await), [here.session()]);
    here.refresh().await.is(200);
}

#[tokio::test]
async fn a_user_revokes_their_current_session_by_its_id() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    let token = browser.refresh_token();
    browser.delete(&format!("/auth/sessions/{}", browser.session())).await.is(204);
    demo.refresh(&token).await.refused(401, "session_revoked");
    browser.me().await.refused(401, "access_token_revoked");
}

#[tokio::test]
async fn another_users_session_is_not_found() {
    let demo = Demo::new().await;
    let (mut alice, mut bob) = (demo.logged_in("alice").await, demo.logged_in("bob").await);
    bob.delete(&format!("/auth/sessions/{}", alice.session())).await.refused(404, "session_not_found");
    alice.refresh().await.is(200);
    alice.me().await.is(200);
}

#[tokio::test]
async fn a_session_that_does_not_exist_is_not_found() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    let length = browser.session().len();
    for id in ["x", "0", "null", "*", "%20", "a%2Fb", &"A".repeat(length), &"A".repeat(4_000)] {
        browser.delete(&format!("/auth/sessions/{id}")).await.refused(404, "session_not_found");
    }
    browser.refresh().await.is(200);
}
