//! The app of the recipes in a browser: its streams end with their session, and a page of another origin uses it.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use axum_refresh_e2e::app::{ACCESS_TTL, App, Setup};
use axum_refresh_e2e::demo::credentials;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::browser::Browser;
use crate::scene::{alone, print};

/// An expression that creates the module, logs alice in, and keeps the module in `window.auth`.
fn logged_in(base: &str) -> String {
    format!(
        "(async () => {{
            const {{ createAuth }} = await import('{base}/auth/client.js');
            window.auth = createAuth({{ base: '{base}/auth' }});
            const login = await auth.login('{base}/api/login', {{ username: 'alice', password: 'password' }});
            return [login.status, auth.state];
        }})()"
    )
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn streams_end_within_a_second_of_a_logout_on_another_node() {
    let _alone = alone().await;
    let [here, elsewhere] = App::nodes(&Setup::new("sqlite")).await;
    let (base, other) = (here.on_tcp().await, elsewhere.on_tcp().await);
    let browser = Browser::start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    browser.open(&format!("{base}/login")).await;
    for all in [false, true] {
        assert_eq!(browser.wait_for(&logged_in(&base)).await, json!([200, "in"]));
        browser
            .wait_for(
                "new Promise(resolve => {
                    window.open_streams = 0;
                    window.ended = {};
                    const opened = () => { if (++window.open_streams === 2) resolve(true); };
                    const socket = new WebSocket(`ws://${location.host}/ws`);
                    socket.onmessage = opened;
                    socket.onclose = () => window.ended.socket ??= Date.now();
                    const events = new EventSource('/events');
                    events.onmessage = opened;
                    events.onerror = () => window.ended.events ??= Date.now();
                })",
            )
            .await;
        // Another device of the same user, on another node.
        let login = http.post(format!("{other}/api/login")).json(&credentials("alice")).send().await.unwrap();
        let bearer = login.json::<Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned();
        let logout = if all { "/auth/logout/all" } else { "/auth/logout/others" };
        let request = http.post(format!("{other}{logout}"));
        assert_eq!(browser.run("return Object.keys(ended)").await, json!([]));
        let before = now();
        assert!(request.bearer_auth(&bearer).send().await.unwrap().status().is_success());
        browser.until("window.ended.socket && window.ended.events").await;
        for stream in ["socket", "events"] {
            let after = browser.run(&format!("return window.ended.{stream}")).await.as_f64().unwrap() - before;
            // A second until the other node knows, and what a busy machine takes to tell the page.
            assert!(after < 1_500.0, "{stream}: {after} ms");
            print(&format!("the {stream} ends after a logout elsewhere"), &format!("{after:>5.0} ms"));
        }
        // A new stream is refused.
        assert_eq!(browser.wait_for("fetch('/events').then(r => r.status)").await, 401);
    }
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_page_of_another_origin_logs_in_refreshes_and_logs_out() {
    let _alone = alone().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let page = Router::new().route("/", get(async || Html("<!doctype html><title>page</title>")));
    tokio::spawn(async move { axum::serve(listener, page).await });
    let api = App::new(&Setup { spa_origin: Some(origin.clone()), ..Setup::new("sqlite") }).await.on_tcp().await;
    let browser = Browser::start().await;
    browser.open(&format!("{origin}/")).await;
    assert_eq!(browser.wait_for(&logged_in(&api)).await, json!([200, "in"]));
    let me = format!("auth.fetch('{api}/me').then(async r => [r.status, await r.text()])");
    assert_eq!(browser.wait_for(&me).await, json!([200, "alice"]));
    sleep(ACCESS_TTL).await;
    assert_eq!(browser.wait_for(&me).await, json!([200, "alice"]));
    // A new page is still logged in, by the refresh cookie alone.
    browser.reload().await;
    let returned = format!(
        "(async () => {{
            const {{ createAuth }} = await import('{api}/auth/client.js');
            window.auth = createAuth({{ base: '{api}/auth' }});
            return [(await auth.token()) !== null, auth.user()?.sub];
        }})()"
    );
    assert_eq!(browser.wait_for(&returned).await, json!([true, "alice"]));
    assert_eq!(browser.wait_for("auth.logout().then(() => auth.state)").await, "out");
    browser.reload().await;
    let state = returned.replace("auth.user()?.sub", "auth.state");
    assert_eq!(browser.wait_for(&state).await, json!([false, "out"]));
}
