//! A network that loses, a server that is away, a computer that sleeps.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::scene::{Row, Scene, say};
use axum_refresh_e2e::demo::{Demo, run_to_end};
use axum_refresh_e2e::proxy::http::Action;

#[tokio::test]
#[ignore = "needs Chromium; tests/run runs it"]
async fn answers_that_are_lost_log_nobody_out() {
    let scene = Scene::new("two answers lost, then a rotation").await;
    let windows = scene.windows(2).await;
    scene.proxy.plan(|nth| if nth < 2 { Action::Lose } else { Action::Pass });
    scene.click("refresh").await;
    scene.refreshes(3).await;
    scene.is_in("alice").await;
    // A successor was handed out and is lost; what the jar has may be its parent, and grace is over.
    for count in 4..=5 {
        sleep(Duration::from_millis(1_200)).await;
        scene.click("refresh").await;
        scene.refreshes(count).await;
        scene.is_in("alice").await;
    }
    sleep(Duration::from_millis(300)).await;
    let row = scene.row(&windows).await;
    assert_eq!((row.refreshes, row.logouts), (5, 0));
    // The first and the last two; the repeated ones too, if they came after grace.
    assert!((3..=5).contains(&row.rotations), "{row:?}");
}

#[tokio::test]
#[ignore = "needs Chromium; tests/run runs it"]
async fn answers_that_are_late_log_nobody_out() {
    let scene = Scene::new("an answer that comes after seven seconds").await;
    let windows = scene.windows(3).await;
    let generation = scene.generation().await;
    // Far later than grace: a second refresh meanwhile would get another successor, and the late one be taken for stolen.
    scene.proxy.plan(|nth| if nth == 0 { Action::Delay(Duration::from_secs(7)) } else { Action::Pass });
    for window in &windows[..2] {
        scene.browser.switch(window).await;
        scene.click("refresh").await;
    }
    scene.have(&windows, generation + 1).await;
    assert_eq!(scene.row(&windows).await, Row { refreshes: 1, rotations: 1, logouts: 0 });
    scene.grace_passes().await;
    scene.click("refresh").await;
    scene.have(&windows, generation + 2).await;
    for window in &windows {
        scene.browser.switch(window).await;
        scene.browser.reload().await;
        scene.is_in("alice").await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium; tests/run runs it"]
async fn a_browser_that_is_offline_is_logged_in_again_when_it_is_back() {
    let scene = Scene::with("offline, and back", &[("ACCESS_TTL", "3s")]).await;
    let windows = scene.windows(1).await;
    let network =
        |offline: bool| json!({ "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
    scene.browser.devtools("Network.enable", json!({})).await;
    scene.browser.devtools("Network.emulateNetworkConditions", network(true)).await;
    scene.proxy.down(true);
    scene.browser.until("document.getElementById('state').textContent === 'Reconnecting'").await;
    let expired = "document.getElementById('expiry').textContent === 'expired'";
    scene.browser.until(expired).await;
    let sent = scene.proxy.refreshes();
    scene.proxy.down(false);
    scene.browser.devtools("Network.emulateNetworkConditions", network(false)).await;
    scene.is_in("alice").await;
    assert!(scene.proxy.refreshes() > sent);
    assert_eq!(scene.row(&windows).await.logouts, 0);
}

#[tokio::test]
#[ignore = "needs Chromium; tests/run runs it"]
async fn a_computer_that_slept_for_an_hour_renews_its_token_once() {
    let scene = Scene::new("an hour of sleep, three windows").await;
    let windows = scene.windows(3).await;
    for window in &windows {
        scene.browser.switch(window).await;
        scene.browser.go(&scene.url("/?idle=86400")).await;
        scene.is_in("alice").await;
    }
    scene.grace_passes().await;
    let generation = scene.generation().await;
    for window in &windows {
        scene.browser.switch(window).await;
        scene.browser.run("const now = Date.now; Date.now = () => now() + 3600e3").await;
    }
    for window in &windows {
        scene.browser.switch(window).await;
        scene.browser.run("dispatchEvent(new Event('focus'))").await;
    }
    scene.have(&windows, generation + 1).await;
    assert_eq!(scene.row(&windows).await, Row { refreshes: 1, rotations: 1, logouts: 0 });
}

#[tokio::test]
#[ignore = "needs Chromium; tests/run runs it"]
async fn a_server_that_wants_to_be_left_alone_for_a_while_logs_nobody_out() {
    let scene = Scene::new("429, 503, 500 and a closed connection").await;
    let windows = scene.windows(2).await;
    scene.proxy.plan(|nth| match nth {
        0 => Action::Answer(429),
        1 => Action::Answer(503),
        2 => Action::Answer(500),
        3 => Action::Refuse,
        _ => Action::Pass,
    });
    scene.click("refresh").await;
    scene.browser.until("document.getElementById('state').textContent === 'Reconnecting'").await;
    scene.refreshes(5).await;
    scene.is_in("alice").await;
    assert_eq!(scene.row(&windows).await, Row { refreshes: 5, rotations: 1, logouts: 0 });
}

#[tokio::test]
#[ignore = "needs Chromium; tests/run runs it"]
async fn a_server_that_was_restarted_without_its_memory_logs_out_and_says_so() {
    let scene = Scene::new("a restart, sessions in memory").await;
    let windows = scene.windows(2).await;
    let next = Demo::start(&[("GRACE", "1s")]).await;
    scene.proxy.lead_to(next.port());
    scene.click("refresh").await;
    for window in &windows {
        scene.browser.switch(window).await;
        scene.is_out().await;
        assert_eq!(scene.text("notice").await, "The server does not know this session any more. Log in again.");
    }
    // One refusal of a session that is gone, heard by both windows.
    assert_eq!(scene.row(&[]).await, Row { refreshes: 1, rotations: 0, logouts: 1 });
}

#[tokio::test]
#[ignore = "needs Chromium; tests/run runs it"]
async fn a_server_that_was_restarted_with_its_sessions_logs_nobody_out() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("browser-{}.sqlite", std::process::id()));
    let url = format!("sqlite:{}", file.display());
    let settings = [("STORE_URL", url.as_str()), ("GRACE", "1s")];
    // A demo that has no such store says so and ends; one that has it is stopped after a moment.
    let probe = tokio::time::timeout(Duration::from_secs(2), run_to_end(&settings)).await;
    if let Ok(output) = probe
        && String::from_utf8_lossy(&output.stderr).contains("no feature `sqlite`")
    {
        say("a restart, sessions in SQLite", "left out: this demo has no such store (DEMO_BIN names one that has)");
        return;
    }
    let scene = Scene::with("a restart, sessions in SQLite", &settings).await;
    let windows = scene.windows(2).await;
    let next = Demo::start(&settings).await;
    scene.proxy.lead_to(next.port());
    let generation = scene.generation().await;
    scene.click("refresh").await;
    scene.have(&windows, generation + 1).await;
    scene.browser.reload().await;
    scene.is_in("alice").await;
    assert_eq!(scene.row(&windows).await.logouts, 0);
    drop(next);
    for end in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{end}", file.display())).ok();
    }
}
