//! Several windows of one browser.

use std::time::Duration;

use tokio::time::sleep;

use crate::browser::Browser;
use crate::scene::{Row, Scene, print};
use axum_refresh_e2e::proxy::http::Action;

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_reload_continues_with_the_refresh_cookie() {
    let scene = Scene::new("login and reload").await;
    let windows = scene.windows(1).await;
    scene.browser.reload().await;
    scene.is_in("alice").await;
    assert_eq!(scene.generation().await, 1);
    assert_eq!(scene.row(&windows).await, Row { refreshes: 1, rotations: 1, logouts: 0 });
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn ten_windows_replace_their_token_with_one_refresh() {
    let scene = Scene::new("ten windows when the token expires").await;
    let windows = scene.windows(10).await;
    let generation = scene.generation().await;
    // The token expires in all of them within the same millisecond.
    let at = scene.browser.run("return Date.now() + 3000").await;
    let end = format!(
        "setTimeout(() => {{
            const {{ Date }} = window, now = Date.now;
            Date.now = () => now() + 890e3;
            window.dispatchEvent(new window.Event('focus'));
        }}, {at} - Date.now())"
    );
    for window in &windows {
        scene.browser.switch(window).await;
        scene.browser.run(&end).await;
    }
    scene.have(&windows, generation + 1).await;
    assert_eq!(scene.row(&windows).await, Row { refreshes: 1, rotations: 1, logouts: 0 });
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn ten_windows_without_locks_and_channels_rotate_once() {
    let scene = Scene::with_grace("ten windows at once, no locks, no channel", 5, &[]).await;
    let Browser::Chromium(browser) = &scene.browser else {
        // Marionette has no script that runs before those of a page. The Node tests cover the same.
        print("ten windows at once, no locks, no channel", "skipped: Chromium alone can do this");
        return;
    };
    let mut windows = scene.windows(1).await;
    let without = "delete window.BroadcastChannel; Object.defineProperty(navigator, 'locks', { value: undefined });";
    while windows.len() < 10 {
        let window = scene.browser.open("about:blank").await;
        let script = serde_json::json!({ "source": without });
        browser.devtools("Page.addScriptToEvaluateOnNewDocument", script).await;
        scene.browser.go(&scene.url("/")).await;
        scene.is_in("alice").await;
        windows.push(window);
    }
    scene.grace_passes().await;
    // All requests are sent before the first response.
    scene.proxy.plan(|nth| Action::Delay(Duration::from_millis(1_500 - 150 * nth.min(9) as u64)));
    for window in &windows {
        scene.browser.switch(window).await;
        scene.browser.run("setTimeout(() => document.getElementById('refresh').click(), 0)").await;
    }
    scene.refreshes(10).await;
    sleep(Duration::from_millis(1_700)).await;
    assert_eq!(scene.row(&windows).await, Row { refreshes: 10, rotations: 1, logouts: 0 });
    scene.grace_passes().await;
    scene.browser.reload().await;
    scene.is_in("alice").await;
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_window_that_is_closed_during_a_refresh_affects_no_other() {
    let scene = Scene::new("a window closed during a refresh").await;
    let windows = scene.windows(2).await;
    scene.proxy.plan(|nth| if nth == 0 { Action::Delay(Duration::from_millis(800)) } else { Action::Pass });
    scene.browser.switch(&windows[0]).await;
    let (before, generation) = (scene.cookie().await, scene.generation().await);
    scene.click("refresh").await;
    scene.refreshes(1).await;
    scene.browser.close().await;
    scene.browser.switch(&windows[1]).await;
    sleep(Duration::from_millis(2_500)).await;
    assert_ne!(scene.cookie().await["value"], before["value"], "the response still set its cookie");
    scene.click("refresh").await;
    scene.have(&windows[1..], generation + 2).await;
    assert_eq!(scene.row(&windows[1..]).await, Row { refreshes: 2, rotations: 2, logouts: 0 });
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_logout_in_one_window_logs_out_all_windows() {
    let scene = Scene::new("a logout in one of three windows").await;
    let windows = scene.windows(3).await;
    scene.browser.switch(&windows[1]).await;
    scene.click("logout").await;
    for window in &windows {
        scene.browser.switch(window).await;
        scene.is_out().await;
    }
    assert_eq!(scene.text("notice").await, "You logged out in another tab.");
    scene.browser.reload().await;
    scene.is_out().await;
    // Windows that are expected to be logged out do not count.
    assert_eq!(scene.row(&[]).await, Row { refreshes: 1, rotations: 0, logouts: 0 });
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn an_old_window_follows_a_new_login_and_does_not_bring_the_old_one_back() {
    let scene = Scene::new("an old window after another user's login").await;
    let windows = scene.windows(2).await;
    // The response to the old window's refresh is delayed until after the login of another user was sent.
    scene.proxy.plan(|nth| if nth == 0 { Action::Delay(Duration::from_secs(2)) } else { Action::Pass });
    scene.browser.switch(&windows[0]).await;
    scene.click("refresh").await;
    scene.refreshes(1).await;
    scene.browser.switch(&windows[1]).await;
    let login = "import('/auth/client.js').then(async ({ createAuth }) => {
        const auth = createAuth();
        const answer = await auth.login('/login', { username: 'bob', password: 'password' });
        auth.close();
        return answer.status;
    })";
    assert_eq!(scene.browser.wait_for(login).await, 200);
    for window in &windows {
        scene.browser.switch(window).await;
        scene.is_in("bob").await;
    }
    sleep(Duration::from_millis(1_500)).await;
    for window in &windows {
        scene.browser.switch(window).await;
        scene.click("refresh").await;
        scene.browser.reload().await;
        scene.is_in("bob").await;
    }
    assert_eq!(scene.row(&windows).await.logouts, 0);
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn an_idle_user_is_warned_and_logged_out_but_not_while_active_in_another_window() {
    let scene = Scene::new("idle in one window, active in another").await;
    let idle = scene.url("/?idle=6&warn=3");
    let left = scene.browser.open(&idle).await;
    scene.log_in("alice").await;
    let working = scene.browser.open(&idle).await;
    scene.is_in("alice").await;
    for _ in 0..9 {
        scene.browser.run("window.dispatchEvent(new window.KeyboardEvent('keydown'))").await;
        sleep(Duration::from_secs(1)).await;
    }
    for window in [&working, &left] {
        scene.browser.switch(window).await;
        assert!(scene.browser.run("return document.getElementById('idle').hidden").await.as_bool().unwrap());
        scene.is_in("alice").await;
    }
    let row = scene.row(&[working.clone(), left.clone()]).await;
    assert_eq!(row.logouts, 0);
    scene.browser.until("!document.getElementById('idle').hidden").await;
    for window in [&working, &left] {
        scene.browser.switch(window).await;
        scene.is_out().await;
    }
    assert!(scene.browser.run("return document.getElementById('idle').hidden").await.as_bool().unwrap());
}
