//! Concurrent requests.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use axum_refresh_e2e::demo::{Answer, Browser, Call, Demo, SHORT_GRACE, credentials, grace_passes};

/// Sends all of them at once.
async fn send_at_once(calls: impl IntoIterator<Item = Call>) -> Vec<Answer> {
    let mut set = JoinSet::new();
    for call in calls {
        set.spawn(call.send());
    }
    set.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_refreshes_of_one_token_return_one_successor_and_all_succeed() {
    // A race on a busy machine may take seconds, and has to end within the grace period.
    let demo = Demo::start(&[("GRACE", "5s")]).await;
    let mut browsers = Vec::new();
    for _ in 0..5 {
        browsers.push(demo.logged_in("alice").await);
    }
    sleep(Duration::from_millis(5_150)).await;
    for mut browser in browsers {
        let token = browser.refresh_token();
        let answers = send_at_once((0..64).map(|_| demo.post("/auth/refresh").refresh_cookie(&token))).await;
        let mut winners = 0;
        for answer in &answers {
            if answer.status == 409 {
                answer.refused(409, "refresh_busy");
                continue;
            }
            let tokens = answer.tokens();
            assert_eq!(tokens.session(), browser.session());
            assert_eq!(tokens.generation(), u64::from(!answer.set_cookies().is_empty()));
            winners += answer.set_cookies().len();
            browser.keep(answer, "/auth/refresh");
        }
        assert_eq!(winners, 1);
        assert!(answers.iter().filter(|answer| answer.status == 200).count() > 32, "most requests got refresh_busy");
        assert_ne!(browser.refresh_token(), token);
        assert_eq!(browser.refresh().await.sets_no_cookie().tokens().generation(), 1);
    }
}

// Hole 7.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_logout_wins_against_concurrent_refreshes() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut browsers = Vec::new();
    for _ in 0..30 {
        browsers.push(demo.logged_in("alice").await);
    }
    grace_passes().await;
    for browser in browsers {
        let token = browser.refresh_token();
        let post = |path: &str| demo.post(path).refresh_cookie(&token);
        let calls = [post("/auth/refresh"), post("/auth/refresh"), post("/auth/logout"), post("/auth/refresh")];
        let answers = send_at_once(calls).await;
        assert!(answers.iter().any(|answer| answer.status == 204));
        is_revoked(&demo, &token, &answers).await;
    }
}

// Hole 7.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn logging_out_everywhere_wins_against_concurrent_refreshes() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut browsers = Vec::new();
    for _ in 0..24 {
        browsers.push(demo.logged_in("alice").await);
    }
    grace_passes().await;
    let mut calls: Vec<Call> =
        browsers.iter().map(|browser| demo.post("/auth/refresh").refresh_cookie(&browser.refresh_token())).collect();
    calls.insert(12, demo.post("/auth/logout/all").bearer(&browsers[0].access));
    let answers = send_at_once(calls).await;
    for browser in &browsers {
        is_revoked(&demo, &browser.refresh_token(), &answers).await;
    }
}

/// Asserts that the old token and all tokens that the race returned are revoked.
async fn is_revoked(demo: &Demo, token: &str, answers: &[Answer]) {
    demo.refresh(token).await.refused(401, "session_revoked");
    for answer in answers.iter().filter(|answer| answer.status == 200) {
        demo.me(&answer.tokens().access).await.refused(401, "access_token_revoked");
        for cookie in answer.set_cookies() {
            demo.refresh(&cookie.value).await.refused(401, "session_revoked");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_logins_do_not_exceed_the_session_limit() {
    let demo = Demo::start(&[("MAX_SESSIONS", "3")]).await;
    let answers = send_at_once((0..24).map(|_| demo.post("/login").json(&credentials("alice")))).await;
    let mut alive = Vec::new();
    for answer in &answers {
        answer.tokens();
        let refreshed = demo.refresh(&answer.refresh_cookie().value).await;
        if refreshed.status == 200 {
            alive.push(refreshed.tokens());
        } else {
            refreshed.refused(401, "session_revoked");
        }
    }
    assert_eq!(alive.len(), 3);
    let listing = demo.get("/auth/sessions").bearer(&alive[0].access).send().await;
    assert_eq!(listing.is(200).json()["sessions"].as_array().unwrap().len(), 3);
}

/// Six tabs refresh at once. In every other round all the responses are lost, the new cookie among them.
async fn refresh_in_six_tabs(demo: &Demo, browser: &mut Browser, round: usize) {
    let token = browser.refresh_token();
    let answers = send_at_once((0..6).map(|_| demo.post("/auth/refresh").refresh_cookie(&token))).await;
    for (tab, answer) in answers.iter().enumerate() {
        assert!(
            answer.status == 200 || answer.status == 409,
            "an honest tab was logged out in round {round}: {}",
            answer.text()
        );
        if answer.status == 200 && round.is_multiple_of(2) {
            browser.keep(answer, "/auth/refresh");
            if tab.is_multiple_of(2) {
                demo.me(&answer.tokens().access).await.is(200);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tabs_that_share_a_jar_and_lose_responses_stay_logged_in() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut browser = demo.logged_in("alice").await;
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < Duration::from_secs(6) {
        refresh_in_six_tabs(&demo, &mut browser, round).await;
        round += 1;
        sleep(Duration::from_millis(350)).await;
    }
    browser.refresh().await.is(200);
    browser.me().await.is(200);
}
