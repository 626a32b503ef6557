//! The example on hyper, as a process.

use axum_refresh_e2e::example::Process;

use crate::Visitor;

#[tokio::test]
async fn the_hyper_example_logs_in_refreshes_and_logs_out() {
    let example = Process::start_hyper(&[("PORT", "0")]).await.unwrap_or_else(|problem| panic!("{problem}"));
    let origin = format!("http://127.0.0.1:{}", example.port);
    let mut browser = Visitor::new(&origin);
    browser.get("/me").await.refused(401, "access_token_missing");
    let token = browser.log_in("/login", "alice").await;
    assert_eq!(browser.with_token("/me", &token).await.text(), "alice");
    let token = browser.refresh("/auth/refresh").await;
    let list = browser.with_token("/auth/sessions", &token).await.json();
    assert_eq!(list["sessions"][0]["ip"], "127.0.0.1", "{list}");
    browser.post("/auth/logout").await.is(204);
    browser.with_token("/me", &token).await.refused(401, "access_token_revoked");
    browser.post("/auth/refresh").await.refused(401, "refresh_token_missing");
    browser.get("/nowhere").await.is(404);
}
