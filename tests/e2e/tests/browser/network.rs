//! A network that loses messages, an unreachable server, a sleeping computer.

use std::time::Duration;

use tokio::time::sleep;

use crate::scene::{Row, Scene, print};
use axum_refresh_e2e::demo::{Demo, run_to_end};
use axum_refresh_e2e::proxy::http::Action;

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn lost_responses_log_nobody_out() {
    let scene = Scene::new("two responses lost, then a rotation").await;
    let windows = scene.windows(2).await;
    scene.proxy.plan(|nth| if nth < 2 { Action::Lose } else { Action::Pass });
    scene.click("refresh").await;
    scene.refreshes(3).await;
    scene.is_in("alice").await;
    // A successor was issued and lost; the jar may contain its parent, and the grace period is over.
    for count in 4..=5 {
        sleep(Duration::from_millis(1_200)).await;
        scene.click("refresh").await;
        scene.refreshes(count).await;
        scene.is_in("alice").await;
    }
    sleep(Duration::from_millis(300)).await;
    let row = scene.row(&windows).await;
    assert_eq!((row.refreshes, row.logouts), (5, 0));
    // The first and the last two rotate; so do the repeated ones if they came after the grace period.
    assert!((3..=5).contains(&row.rotations), "{row:?}");
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn late_responses_log_nobody_out() {
    let scene = Scene::new("a response after seven seconds").await;
    let windows = scene.windows(3).await;
    let generation = scene.generation().await;
    // Much later than the grace period: a second refresh meanwhile would get another successor, and the late one would
    // count as stolen.
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
#[ignore = "needs a browser; tests/run runs it"]
async fn an_offline_browser_is_logged_in_again_when_the_network_is_back() {
    let scene = Scene::with("offline, and back", &[("ACCESS_TTL", "3s")]).await;
    let windows = scene.windows(1).await;
    scene.browser.set_offline(true).await;
    scene.proxy.down(true);
    scene.browser.until("document.getElementById('state').textContent === 'Reconnecting'").await;
    let expired = "document.getElementById('expiry').textContent === 'expired'";
    scene.browser.until(expired).await;
    let sent = scene.proxy.refreshes();
    scene.proxy.down(false);
    scene.browser.set_offline(false).await;
    scene.is_in("alice").await;
    assert!(scene.proxy.refreshes() > sent);
    assert_eq!(scene.row(&windows).await.logouts, 0);
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_computer_that_slept_for_an_hour_refreshes_once() {
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
        scene.browser.run("const { Date } = window, now = Date.now; Date.now = () => now() + 3600e3").await;
    }
    for window in &windows {
        scene.browser.switch(window).await;
        scene.browser.run("window.dispatchEvent(new window.Event('focus'))").await;
    }
    scene.have(&windows, generation + 1).await;
    assert_eq!(scene.row(&windows).await, Row { refreshes: 1, rotations: 1, logouts: 0 });
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_server_that_sends_retry_after_logs_nobody_out() {
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
#[ignore = "needs a browser; tests/run runs it"]
async fn a_server_that_restarts_without_its_sessions_logs_out_with_a_notice() {
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
    // Both windows share one refusal of the missing session.
    assert_eq!(scene.row(&[]).await, Row { refreshes: 1, rotations: 0, logouts: 1 });
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_server_that_restarts_with_its_sessions_logs_nobody_out() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("browser-{}.sqlite", std::process::id()));
    let url = format!("sqlite:{}", file.display());
    let settings = [("STORE_URL", url.as_str()), ("GRACE", "1s")];
    // A demo without such a store prints an error and exits; one with it is stopped after a moment.
    let probe = tokio::time::timeout(Duration::from_secs(2), run_to_end(&settings)).await;
    if let Ok(output) = probe
        && String::from_utf8_lossy(&output.stderr).contains("no feature `sqlite`")
    {
        print("a restart, sessions in SQLite", "skipped: this demo has no such store (DEMO_BIN names one with it)");
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
