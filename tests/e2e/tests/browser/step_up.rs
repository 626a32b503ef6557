//! The password again: the dialog, the request that is repeated, and sessions that go on; and what an idle page does.

use std::time::Duration;

use tokio::time::sleep;

use crate::scene::Scene;

const IS_OPEN: &str = "document.getElementById('confirm').open";
const IS_CLOSED: &str = "!document.getElementById('confirm').open";

/// A demo in which a transfer soon requires the password again.
const SOON: [(&str, &str); 1] = [("TRANSFER_MAX_AGE", "1s")];

/// Logged in as alice, long enough ago.
async fn logged_in(scene: &Scene) {
    scene.open().await;
    scene.log_in("alice").await;
    sleep(Duration::from_millis(2_100)).await;
}

async fn transfer(scene: &Scene, amount: &str) {
    let script = format!(
        "document.getElementById('amount').value = '{amount}'; document.querySelector('#transfer-form button').click()"
    );
    scene.browser.run(&script).await;
}

async fn confirm(scene: &Scene, password: &str) {
    let script = format!(
        "document.getElementById('confirm-password').value = '{password}';
        document.querySelector('#confirm-form button').click()"
    );
    scene.browser.run(&script).await;
}

async fn session(scene: &Scene) -> String {
    scene.text("sid").await
}

async fn has_notice(scene: &Scene, text: &str) {
    scene.browser.until(&format!("document.getElementById('notice').textContent.includes('{text}')")).await;
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_transfer_asks_for_the_password_again_and_is_then_sent() {
    let scene = Scene::with("password again before a transfer", &SOON).await;
    logged_in(&scene).await;
    let before = session(&scene).await;
    transfer(&scene, "12.50").await;
    scene.browser.until(IS_OPEN).await;
    confirm(&scene, "wrong").await;
    scene.browser.until("document.getElementById('confirm-error').textContent.includes('Wrong')").await;
    assert_eq!(scene.browser.run(&format!("return {IS_OPEN}")).await, true);
    assert_eq!(scene.browser.run("return document.getElementById('amount').value").await, "12.50");
    confirm(&scene, "password").await;
    has_notice(&scene, "Transferred 12.50.").await;
    scene.browser.until(IS_CLOSED).await;
    scene.is_in("alice").await;
    assert_ne!(session(&scene).await, before);
    // It goes on with the new cookie.
    scene.browser.reload().await;
    scene.is_in("alice").await;
    scene.row(&[]).await;
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn who_does_not_confirm_stays_logged_in_and_keeps_the_form() {
    let scene = Scene::with("password again, canceled", &SOON).await;
    logged_in(&scene).await;
    let before = session(&scene).await;
    transfer(&scene, "3").await;
    scene.browser.until(IS_OPEN).await;
    scene.click("confirm-cancel").await;
    scene.browser.until(IS_CLOSED).await;
    has_notice(&scene, "requires your password").await;
    scene.is_in("alice").await;
    assert_eq!(scene.browser.run("return document.getElementById('amount').value").await, "3");
    assert_eq!(session(&scene).await, before);
    scene.row(&[]).await;
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn all_windows_go_on_with_the_session_that_one_of_them_has_begun() {
    let scene = Scene::with("password again, three windows", &SOON).await;
    let windows = scene.windows(3).await;
    sleep(Duration::from_millis(2_100)).await;
    let before = session(&scene).await;
    transfer(&scene, "1").await;
    scene.browser.until(IS_OPEN).await;
    confirm(&scene, "password").await;
    has_notice(&scene, "Transferred").await;
    let after = session(&scene).await;
    assert_ne!(after, before);
    for window in &windows {
        scene.browser.switch(window).await;
        scene.browser.until(&format!("document.getElementById('sid').textContent === '{after}'")).await;
        scene.click("refresh").await;
        scene.is_in("alice").await;
    }
    assert_eq!(scene.row(&windows).await.logouts, 0);
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_page_that_nobody_uses_becomes_idle_although_it_polls_and_the_password_is_enough_to_go_on() {
    let settings = [("ACCESS_TTL", "2s"), ("IDLE_TIMEOUT", "6s")];
    let scene = Scene::with("idle page, then the password", &settings).await;
    scene.open().await;
    scene.log_in("alice").await;
    let before = session(&scene).await;
    // No key is pressed and nothing is clicked by a user. The page refreshes and polls by itself.
    scene.browser.until(IS_OPEN).await;
    assert!(scene.text("confirm-reason").await.contains("not used"));
    assert!(scene.proxy.refreshes() > 1);
    confirm(&scene, "password").await;
    scene.browser.until(IS_CLOSED).await;
    scene.is_in("alice").await;
    assert_ne!(session(&scene).await, before);
    scene.row(&[]).await;
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_login_that_is_not_to_be_remembered_has_a_session_cookie_however_often_it_is_refreshed() {
    let scene = Scene::new("remember me").await;
    scene.open().await;
    for remember in [false, true] {
        let script = format!("document.getElementById('remember').checked = {remember}");
        scene.browser.until("!document.getElementById('login').hidden").await;
        scene.browser.run(&script).await;
        scene.log_in("alice").await;
        for _ in 0..2 {
            let cookie = scene.cookie().await;
            assert_eq!(cookie["expires"].as_f64().unwrap() > 0.0, remember, "{cookie}");
            scene.grace_passes().await;
            let generation = scene.generation().await;
            scene.click("refresh").await;
            scene.browser.until(&format!("document.getElementById('gen').textContent === '{}'", generation + 1)).await;
        }
        scene.click("logout").await;
        scene.is_out().await;
    }
    scene.row(&[]).await;
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn an_administrator_looks_into_an_account_and_ends_everybodys_sessions() {
    let scene = Scene::new("acting, and the end of all sessions").await;
    let mut bob = scene.demo.browser();
    bob.login("bob").await;
    scene.open().await;
    scene.log_in("alice").await;
    let look_up =
        "document.getElementById('admin-user').value = 'bob'; document.querySelector('#admin-form button').click()";
    scene.browser.run(look_up).await;
    scene.browser.until("!document.getElementById('admin-result').hidden").await;
    scene.click("admin-act").await;
    has_notice(&scene, "You (alice) act for bob").await;
    scene.browser.until("document.getElementById('admin-sessions').textContent.includes('alice acts for you')").await;
    scene.browser.run("window.confirm = () => true").await;
    scene.click("end-everybody").await;
    scene.is_out().await;
    bob.refresh().await.refused(401, "session_revoked");
    scene.row(&[]).await;
}
