//! The verdicts of a refresh, as far as they are visible in HTTP.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use axum_refresh_e2e::demo::{Answer, Browser, Demo, OTHER_SECRET, SHORT_GRACE, altered, claims, grace_passes, millis};

/// A browser whose session was refreshed once, and the refresh token it had before.
async fn rotated_once(demo: &Demo) -> (Browser, String) {
    let mut browser = demo.logged_in("alice").await;
    let first = browser.refresh_token();
    grace_passes().await;
    browser.refresh().await.refresh_cookie();
    (browser, first)
}

#[tokio::test]
async fn a_refresh_without_a_token_is_refused_as_such() {
    let demo = Demo::new().await;
    demo.post("/auth/refresh").send().await.refused(401, "refresh_token_missing");
}

#[tokio::test]
async fn garbage_is_not_accepted_as_a_refresh_token() {
    let demo = Demo::new().await;
    for garbage in ["x", "null", "AAAA", "eyJhbGciOiJub25lIn0.e30.", &"A".repeat(94), &"A".repeat(4_000)] {
        demo.refresh(garbage).await.refused(401, "refresh_token_invalid");
    }
}

#[tokio::test]
async fn a_refresh_token_altered_in_any_character_is_refused() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    for index in 0..token.len() {
        demo.refresh(&altered(&token, index)).await.refused(401, "refresh_token_invalid");
    }
    demo.refresh(&token).await.is(200);
}

#[tokio::test]
async fn a_refresh_token_that_is_too_short_or_too_long_is_refused() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    for length in [1, 22, 69, 93] {
        demo.refresh(&token[..length]).await.refused(401, "refresh_token_invalid");
    }
    for tail in ["A", "AAAA", "=", "==", ".", &token] {
        demo.refresh(&format!("{token}{tail}")).await.refused(401, "refresh_token_invalid");
    }
}

#[tokio::test]
async fn a_refresh_token_has_one_spelling_only() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    // The last of 94 characters carries two bits; the server always writes the other four as zeros.
    let (rest, last) = token.split_at(93);
    let same_bits = match last {
        "A" => "B",
        "Q" => "R",
        "g" => "h",
        "w" => "x",
        other => panic!("not the last character of 70 bytes: {other}"),
    };
    demo.refresh(&format!("{rest}{same_bits}")).await.refused(401, "refresh_token_invalid");
}

#[tokio::test]
async fn a_refresh_token_of_a_server_with_another_key_is_refused() {
    let (ours, theirs) = (Demo::new().await, Demo::start(&[("AUTH_SECRET", OTHER_SECRET)]).await);
    let token = theirs.logged_in("alice").await.refresh_token();
    theirs.refresh(&token).await.is(200);
    ours.refresh(&token).await.refused(401, "refresh_token_invalid");
}

#[tokio::test]
async fn a_refresh_token_of_an_unknown_session_is_refused() {
    // The same key with an empty store, as after the loss of a database.
    let (before, after) = (Demo::new().await, Demo::new().await);
    let token = before.logged_in("alice").await.refresh_token();
    before.refresh(&token).await.is(200);
    after.refresh(&token).await.refused(401, "refresh_token_invalid");
}

#[tokio::test]
async fn the_first_refresh_after_a_login_returns_the_next_generation_at_once() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    let (first, session) = (browser.refresh_token(), browser.session());
    let answer = browser.refresh().await;
    assert_ne!(answer.refresh_cookie().value, first);
    assert_eq!((answer.tokens().generation(), answer.tokens().session()), (1, session));
    demo.me(&answer.tokens().access).await.is(200);
}

#[tokio::test]
async fn a_refresh_after_the_grace_period_returns_the_next_generation() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut browser = demo.logged_in("alice").await;
    let (first, session) = (browser.refresh_token(), browser.session());
    grace_passes().await;
    let answer = browser.refresh().await;
    assert_ne!(answer.refresh_cookie().value, first);
    assert_eq!((answer.tokens().generation(), answer.tokens().session()), (1, session));
    demo.me(&answer.tokens().access).await.is(200);
}

#[tokio::test]
async fn a_refresh_with_a_fresh_successor_is_a_touch() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let (mut browser, _) = rotated_once(&demo).await;
    let answer = browser.refresh().await;
    assert_eq!(answer.sets_no_cookie().tokens().generation(), 1);
}

#[tokio::test]
async fn a_refresh_does_not_invalidate_earlier_access_tokens() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut browser = demo.logged_in("alice").await;
    let earlier = browser.access.clone();
    grace_passes().await;
    browser.refresh().await.refresh_cookie();
    demo.me(&earlier).await.is(200);
}

// Hole 27: the successor never has siblings.
#[tokio::test]
async fn the_loser_of_a_race_gets_an_access_token_of_its_own_generation_and_no_cookie() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let (browser, first) = rotated_once(&demo).await;
    let answer = demo.refresh(&first).await;
    let tokens = answer.sets_no_cookie().tokens();
    assert_eq!((tokens.generation(), tokens.session()), (0, browser.session()));
    demo.me(&tokens.access).await.is(200);
}

// Hole 26.
#[tokio::test]
async fn presenting_the_parent_repeatedly_does_not_extend_its_grace_period() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let (_, first) = rotated_once(&demo).await;
    let rotated = Instant::now();
    let mut echoes = 0;
    // Nothing acknowledged the successor, so the refresh after the echoes returns a new successor.
    let answer = loop {
        let answer = demo.refresh(&first).await;
        if !answer.set_cookies().is_empty() {
            break answer;
        }
        assert_eq!(answer.tokens().generation(), 0);
        assert!(rotated.elapsed() < Duration::from_secs(3), "the window is extended");
        echoes += 1;
        sleep(Duration::from_millis(50)).await;
    };
    assert!(echoes > 0, "there was no window");
    assert_eq!(answer.tokens().generation(), 2);
}

// Hole 28: an older ancestor gets no access token, not even within the window.
#[tokio::test]
async fn a_refresh_two_generations_late_within_the_grace_period_is_busy() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let (mut browser, first) = rotated_once(&demo).await;
    grace_passes().await;
    browser.refresh().await.refresh_cookie();
    let answer = demo.refresh(&first).await;
    answer.refused(409, "refresh_busy");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    browser.refresh().await.is(200);
}

#[tokio::test]
async fn a_refresh_two_generations_late_after_the_grace_period_revokes_the_session() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let (mut browser, first) = rotated_once(&demo).await;
    grace_passes().await;
    browser.refresh().await.refresh_cookie();
    grace_passes().await;
    demo.refresh(&first).await.refused(401, "refresh_token_reused");
    browser.refresh().await.refused(401, "session_revoked");
}

// Hole 4.
#[tokio::test]
async fn a_client_that_never_received_the_response_can_retry_with_the_old_token() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut browser = demo.logged_in("alice").await;
    let session = browser.session();
    grace_passes().await;
    let lost = demo.refresh(&browser.refresh_token()).await;
    assert_eq!(lost.tokens().generation(), 1);
    grace_passes().await;
    let answer = browser.refresh().await;
    assert_ne!(answer.refresh_cookie().value, lost.refresh_cookie().value);
    assert_eq!((answer.tokens().generation(), answer.tokens().session()), (2, session));
    demo.me(&answer.tokens().access).await.is(200);
}

#[tokio::test]
async fn a_lost_successor_that_was_replaced_revokes_the_session_when_it_is_presented() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut browser = demo.logged_in("alice").await;
    grace_passes().await;
    let lost = demo.refresh(&browser.refresh_token()).await.refresh_cookie().value;
    grace_passes().await;
    browser.refresh().await.refresh_cookie();
    grace_passes().await;
    demo.refresh(&lost).await.refused(401, "refresh_token_reused");
    browser.refresh().await.refused(401, "session_revoked");
}

/// A session in which an old refresh token was presented after its successor was in use.
async fn stolen_and_detected(demo: &Demo) -> (Browser, Answer) {
    let (mut browser, first) = rotated_once(demo).await;
    grace_passes().await;
    browser.me().await.is(200);
    let answer = demo.refresh(&first).await;
    (browser, answer)
}

#[tokio::test]
async fn an_old_refresh_token_after_acknowledgement_revokes_the_session() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let (mut browser, answer) = stolen_and_detected(&demo).await;
    answer.refused(401, "refresh_token_reused");
    browser.refresh().await.refused(401, "session_revoked");
}

// Hole 11.
#[tokio::test]
async fn the_access_tokens_of_a_session_that_reuse_revoked_are_refused_at_once() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let (mut browser, answer) = stolen_and_detected(&demo).await;
    answer.refused(401, "refresh_token_reused");
    browser.me().await.refused(401, "access_token_revoked");
    browser.get("/stateless").await.refused(401, "access_token_revoked");
}

// Holes 5 and 9: another session of the user neither hides the theft nor is revoked.
#[tokio::test]
async fn reuse_in_one_session_is_detected_despite_an_active_other_one_and_does_not_affect_it() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut other = demo.logged_in("alice").await;
    let (mut browser, first) = rotated_once(&demo).await;
    other.refresh().await.refresh_cookie();
    grace_passes().await;
    browser.me().await.is(200);
    other.refresh().await.refresh_cookie();
    demo.refresh(&first).await.refused(401, "refresh_token_reused");
    for _ in 0..3 {
        demo.refresh(&first).await.refused(401, "session_revoked");
    }
    other.refresh().await.is(200);
    other.me().await.is(200);
}

#[tokio::test]
async fn using_the_new_access_token_at_once_does_not_prove_that_the_cookie_arrived() {
    let demo = Demo::start(&[("GRACE", "2s")]).await;
    let wait = Duration::from_millis(2_150);
    let mut browser = demo.logged_in("alice").await;
    sleep(wait).await;
    let lost = demo.refresh(&browser.refresh_token()).await;
    demo.me(&lost.tokens().access).await.is(200);
    sleep(wait).await;
    let answer = browser.refresh().await;
    assert_eq!(answer.tokens().generation(), 2);
    answer.refresh_cookie();
}

// Hole 20.
#[tokio::test]
async fn a_refused_refresh_does_not_clear_the_cookie() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let (mut browser, first) = rotated_once(&demo).await;
    grace_passes().await;
    browser.refresh().await.refresh_cookie();
    let winner = browser.refresh_token();
    for (token, status) in [(first.as_str(), 409), ("garbage", 401)] {
        let answer = demo.refresh(token).await;
        answer.is(status);
        browser.keep(&answer, "/auth/refresh");
    }
    assert_eq!(browser.refresh_token(), winner);
    browser.refresh().await.is(200);
}

// Hole 14: the listed id remains the one that revokes the session.
#[tokio::test]
async fn a_session_keeps_its_id_and_its_expiry_however_often_it_is_refreshed() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut browser = demo.logged_in("alice").await;
    let before = browser.sessions().await;
    for _ in 0..2 {
        grace_passes().await;
        browser.refresh().await.refresh_cookie();
    }
    let after = browser.sessions().await;
    assert_eq!((before.len(), after.len()), (1, 1));
    for same in ["id", "created_at", "expires_at"] {
        assert_eq!(before[0][same], after[0][same], "{same}");
    }
    assert!(millis(&after[0]["last_seen_at"]) > millis(&before[0]["last_seen_at"]));
    let path = format!("/auth/sessions/{}", before[0]["id"].as_str().unwrap());
    browser.delete(&path).await.is(204);
    browser.refresh().await.refused(401, "session_revoked");
}

// Hole 8.
#[tokio::test]
async fn a_session_that_reaches_its_lifetime_expires_alone() {
    let settings = [SHORT_GRACE, ("ACCESS_TTL", "2s"), ("IDLE_TIMEOUT", "3s"), ("MAX_LIFETIME", "3s")];
    let demo = Demo::start(&settings).await;
    let mut first = demo.logged_in("alice").await;
    sleep(Duration::from_millis(1_600)).await;
    let mut second = demo.logged_in("alice").await;
    first.refresh().await.is(200);
    let token = first.refresh_token();
    sleep(Duration::from_millis(1_500)).await;
    demo.refresh(&token).await.refused(401, "session_expired");
    second.refresh().await.is(200);
}

#[tokio::test]
async fn neither_an_access_token_nor_a_cookie_outlives_its_session() {
    let settings = [SHORT_GRACE, ("ACCESS_TTL", "3s"), ("IDLE_TIMEOUT", "4s"), ("MAX_LIFETIME", "4s")];
    let demo = Demo::start(&settings).await;
    let mut browser = demo.logged_in("alice").await;
    let ends = millis(&browser.sessions().await[0]["expires_at"]);
    sleep(Duration::from_millis(2_500)).await;
    let answer = browser.refresh().await;
    let tokens = answer.tokens();
    assert!(claims(&tokens.access)["exp"].as_i64().unwrap() * 1_000 <= ends);
    assert!(tokens.expires_in <= 1, "{}", tokens.expires_in);
    assert!(answer.refresh_cookie().max_age() <= 2, "{}", answer.refresh_cookie().max_age());
}

#[tokio::test]
async fn an_unused_session_expires_as_idle() {
    let demo = Demo::start(&[SHORT_GRACE, ("ACCESS_TTL", "1500ms"), ("IDLE_TIMEOUT", "2s")]).await;
    let mut browser = demo.logged_in("alice").await;
    sleep(Duration::from_millis(2_150)).await;
    browser.refresh().await.refused(401, "session_idle");
}

#[tokio::test]
async fn a_refresh_keeps_a_session_from_becoming_idle() {
    let demo = Demo::start(&[SHORT_GRACE, ("ACCESS_TTL", "2s"), ("IDLE_TIMEOUT", "3s")]).await;
    let mut browser = demo.logged_in("alice").await;
    for _ in 0..3 {
        grace_passes().await;
        browser.refresh().await.is(200);
    }
}

#[tokio::test]
async fn using_an_access_token_keeps_a_session_from_becoming_idle() {
    // Each step has two seconds to spare.
    let demo = Demo::start(&[SHORT_GRACE, ("ACCESS_TTL", "6s"), ("IDLE_TIMEOUT", "7s")]).await;
    let mut browser = demo.logged_in("alice").await;
    sleep(Duration::from_millis(3_500)).await;
    browser.me().await.is(200);
    sleep(Duration::from_millis(5_000)).await;
    browser.refresh().await.is(200);
}

#[tokio::test]
async fn no_response_of_the_router_may_be_stored() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    let answers = [
        ("a refresh", browser.refresh().await, 200),
        ("a listing", browser.get("/auth/sessions").await, 200),
        ("ending an unknown session", browser.delete("/auth/sessions/unknown").await, 404),
        ("ending the others", browser.post("/auth/logout/others").await, 200),
        ("a refresh without a token", demo.post("/auth/refresh").send().await, 401),
        ("a refresh with garbage", demo.refresh("garbage").await, 401),
        ("a listing without a token", demo.get("/auth/sessions").send().await, 401),
        ("a foreign page", demo.post("/auth/refresh").header("sec-fetch-site", "cross-site").send().await, 403),
        ("a wrong method", demo.get("/auth/refresh").send().await, 405),
        ("a logout", browser.logout().await, 204),
        ("a logout without a token", demo.post("/auth/logout").send().await, 204),
    ];
    for (what, answer, status) in answers {
        assert_eq!(answer.status, status, "{what}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
    }
    let mut browser = demo.logged_in("alice").await;
    assert_eq!(browser.post("/auth/logout/all").await.is(204).header("cache-control"), Some("no-store"));
}
