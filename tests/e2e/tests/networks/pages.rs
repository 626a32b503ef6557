//! Pages with fragments, the event stream, and the way through the login page.

use std::time::Duration;

use axum_refresh_e2e::app::{App, Setup};
use axum_refresh_e2e::nginx::{Nginx, PREFIX};
use reqwest::Method;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::Visitor;

const HTML: (&str, &str) = ("accept", "text/html");

/// Submits the login form. Returns where the browser is redirected.
async fn submit(visitor: &mut Visitor, path: &str) -> String {
    let form = "username=alice&password=password";
    let call = visitor.browser.request(Method::POST, path).header("origin", &visitor.origin);
    let call = call.body("application/x-www-form-urlencoded", form);
    let answer = visitor.browser.send(call, path).await;
    answer.is(303).header("location").unwrap().to_owned()
}

/// A visitor asks for a page and for a part of one, is sent to the login page both times, and gets back.
async fn get_in(visitor: &mut Visitor, prefix: &str) {
    let page = format!("{prefix}/page");
    let refused = visitor.call(Method::GET, &format!("{page}?tab=2"), &[HTML]).await;
    let login = refused.is(303).header("location").unwrap().to_owned();
    assert!(login.starts_with(&format!("{prefix}/login?next=")), "{login}");
    visitor.call(Method::GET, &login, &[HTML]).await.is(200);
    assert_eq!(submit(visitor, &login).await, format!("{page}?tab=2"));
    assert!(visitor.call(Method::GET, &format!("{page}?tab=2"), &[HTML]).await.is(200).text().contains("alice"));
    visitor.post(&format!("{prefix}/auth/logout")).await.is(204);

    // The page is still open, and asks for its part.
    let current = format!("{}{page}?tab=3", visitor.origin);
    let htmx = [("hx-request", "true"), ("hx-current-url", &*current)];
    let part = format!("{page}/part");
    let refused = visitor.call(Method::GET, &part, &htmx).await;
    let login = refused.is(401).header("hx-redirect").unwrap().to_owned();
    visitor.call(Method::GET, &login, &[HTML]).await.is(200);
    assert_eq!(submit(visitor, &login).await, format!("{page}?tab=3"));
    assert_eq!(visitor.call(Method::GET, &part, &htmx).await.is(200).text(), "<p>a part for alice</p>");
}

#[tokio::test]
async fn the_login_page_leads_back_to_the_page_that_was_asked_for() {
    let origin = App::new(&Setup::new("sqlite")).await.on_tcp().await;
    get_in(&mut Visitor::new(&origin), "").await;
}

#[tokio::test]
async fn the_login_page_leads_back_through_a_proxy_that_strips_a_prefix() {
    let (app, nginx) = (App::new(&Setup::behind_proxy(PREFIX)).await, Nginx::start().await);
    app.on_socket(&nginx.socket());
    get_in(&mut Visitor::new(&nginx.origin()), PREFIX).await;
}

#[tokio::test]
async fn a_login_redirects_nobody_to_another_site() {
    let origin = App::new(&Setup::new("sqlite")).await.on_tcp().await;
    for next in ["https://evil.example/", "//evil.example", "/%5Cevil.example", "/%09/evil.example"] {
        assert_eq!(submit(&mut Visitor::new(&origin), &format!("/login?next={next}")).await, "/page", "{next}");
    }
}

#[tokio::test]
async fn a_stream_opens_by_the_access_cookie_for_pages_of_the_app_and_ends_at_the_logout() {
    let origin = App::new(&Setup::new("sqlite")).await.on_tcp().await;
    let mut visitor = Visitor::new(&origin);
    let stream = ("accept", "text/event-stream");
    visitor.call(Method::GET, "/events", &[stream]).await.refused(401, "access_token_missing");
    visitor.log_in("/api/login", "alice").await;
    let foreign = [stream, ("origin", "https://evil.example")];
    visitor.call(Method::GET, "/events", &foreign).await.refused(403, "cross_origin");
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let foreign = [&upgrade[..], &[("origin", "https://evil.example")]].concat();
    visitor.call(Method::GET, "/ws", &foreign).await.refused(403, "cross_origin");

    // These go on until the logout.
    let cookies = visitor.browser.cookies_for("/events").unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = |path: &str| client.get(format!("{origin}{path}")).header("cookie", &cookies).header("origin", &origin);
    let mut events = get("/events").header(stream.0, stream.1).send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    assert_eq!(events.chunk().await.unwrap().unwrap(), "data: hello alice\n\n");
    let socket = upgrade.into_iter().fold(get("/ws"), |request, (name, value)| request.header(name, value));
    let socket = socket.send().await.unwrap();
    assert_eq!(socket.status(), 101);
    let mut socket = socket.upgrade().await.unwrap();
    // A frame with text, and after the logout one that closes (RFC 6455 §5.2).
    let hello = b"\x81\x0bhello alice";
    let mut frame = vec![0; hello.len()];
    socket.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame, hello);

    visitor.post("/auth/logout").await.is(204);
    let rest = async {
        let mut frames = Vec::new();
        socket.read_to_end(&mut frames).await.unwrap();
        (events.chunk().await.unwrap(), frames)
    };
    let (event, frames) = timeout(Duration::from_secs(10), rest).await.expect("a stream goes on after the logout");
    assert_eq!((event, frames), (None, b"\x88\x00".to_vec()));
}
