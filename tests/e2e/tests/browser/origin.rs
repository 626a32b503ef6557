//! What pages of other sites can do, and what scripts can read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::time::sleep;

use crate::scene::{Row, Scene};
use axum_refresh_e2e::demo::COOKIE;

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_page_of_another_site_can_neither_refresh_nor_log_out() {
    let scene = Scene::new("a page of another site tries to refresh").await;
    let windows = scene.windows(1).await;
    let before = scene.cookie().await;
    // The same machine under another name is another site, and this page has no policy that would block the requests.
    scene.browser.open(&format!("http://localhost:{}/health", scene.proxy.port())).await;
    for path in ["/auth/refresh", "/auth/logout"] {
        let target = scene.url(path);
        let fetch = |options: &str| {
            format!(
                "fetch('{target}', {{ method: 'POST', credentials: 'include', {options} }}).then(r => r.type, e => 'failed')"
            )
        };
        assert_eq!(scene.browser.wait_for(&fetch("mode: 'no-cors'")).await, "opaque");
        assert_eq!(scene.browser.wait_for(&fetch("mode: 'cors'")).await, "failed");
        let form = format!(
            "const frame = document.createElement('iframe'); frame.name = 'frame'; document.body.append(frame);
            const form = document.createElement('form');
            form.method = 'post'; form.action = '{target}'; form.target = 'frame';
            document.body.append(form); form.submit();"
        );
        scene.browser.run(&form).await;
    }
    // And once as a navigation of the whole window.
    scene.browser.run(&format!("const form = document.createElement('form'); form.method = 'post'; form.action = '{}'; document.body.append(form); form.submit();", scene.url("/auth/refresh"))).await;
    scene.browser.until("document.body.innerText.includes('cross_origin')").await;
    sleep(Duration::from_millis(300)).await;
    for refresh in &scene.proxy.answered() {
        assert_eq!((refresh.status, refresh.presented, refresh.rotated), (403, false, false));
    }
    assert_eq!(scene.proxy.answered().len(), 4);
    scene.browser.switch(&windows[0]).await;
    assert_eq!(scene.cookie().await, before);
    let tried = scene.proxy.refreshes();
    scene.browser.reload().await;
    scene.is_in("alice").await;
    assert_eq!(scene.row(&windows).await, Row { refreshes: tried + 1, rotations: 1, logouts: 0 });
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn the_refresh_cookie_has_its_attributes_and_scripts_cannot_read_it() {
    let scene = Scene::new("the cookie, and what scripts can read").await;
    let windows = scene.windows(1).await;
    let cookie = scene.cookie().await;
    assert_eq!(cookie["name"], COOKIE);
    assert_eq!(cookie["path"], "/auth");
    assert_eq!(cookie["domain"], "127.0.0.1");
    assert_eq!(cookie["httpOnly"], true);
    assert_eq!(cookie["secure"], true);
    assert_eq!(cookie["sameSite"], "Strict");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let days = (cookie["expires"].as_f64().unwrap() - now) / 86_400.0;
    assert!((29.9..=30.0).contains(&days), "{days}");
    assert_eq!(scene.browser.cookies(&scene.url("/")).await, [json!(null); 0]);
    let seen = "return [document.cookie, localStorage.length, sessionStorage.length]";
    assert_eq!(scene.browser.run(seen).await, json!(["", 0, 0]));
    assert_eq!(scene.browser.wait_for("indexedDB.databases().then(all => all.length)").await, 0);
    scene.row(&windows).await;
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_page_that_finds_no_hint_asks_once_and_one_that_does_is_logged_in() {
    let scene = Scene::with("the hint cookie", &[("HINT_COOKIE", "true")]).await;
    let windows = [scene.open().await];
    scene.is_out().await;
    assert_eq!(scene.proxy.refreshes(), 1);
    scene.browser.console().await; // has the 401
    scene.browser.reload().await;
    scene.is_out().await;
    assert_eq!(scene.proxy.refreshes(), 1);
    scene.log_in("alice").await;
    let seen = "return document.cookie";
    assert_eq!(scene.browser.run(seen).await, "__Secure-session-hint=1");
    scene.grace_passes().await;
    scene.browser.reload().await;
    scene.is_in("alice").await;
    assert_eq!(scene.row(&windows).await, Row { refreshes: 1, rotations: 1, logouts: 0 });
    scene.click("logout").await;
    scene.is_out().await;
    assert_eq!(scene.browser.run(seen).await, "");
    scene.browser.reload().await;
    scene.is_out().await;
    assert_eq!(scene.proxy.refreshes(), 1);
    assert_eq!(scene.browser.console().await, [""; 0]);
}
