//! Two kinds of user in one browser.

use axum_refresh_e2e::app::{App, Setup};

use crate::{Visitor, access_tokens_expire, stores};

#[tokio::test]
async fn a_customer_and_one_of_the_staff_share_a_browser() {
    for store in stores() {
        let origin = App::new(&Setup::new(store)).await.on_tcp().await;
        let mut browser = Visitor::new(&origin);
        let customer = browser.log_in("/api/login", "alice").await;
        let staff = browser.log_in("/staff/login", "alice").await;
        assert_eq!(browser.with_token("/me", &customer).await.text(), "alice");
        assert_eq!(browser.with_token("/staff/me", &staff).await.text(), "alice, manager");

        access_tokens_expire().await;
        browser.with_token("/me", &customer).await.refused(401, "access_token_expired");
        let customer = browser.refresh("/auth/refresh").await;
        let staff = browser.refresh("/staff/auth/refresh").await;

        // Each ends its own session only.
        browser.post("/staff/auth/logout").await.is(204);
        browser.with_token("/staff/me", &staff).await.refused(401, "access_token_revoked");
        assert_eq!(browser.with_token("/me", &customer).await.text(), "alice", "{store}");
        browser.post("/staff/auth/refresh").await.refused(401, "refresh_token_missing");
        browser.post("/auth/refresh").await.is(200);
    }
}

#[tokio::test]
async fn no_token_of_one_kind_of_user_is_accepted_for_the_other() {
    for store in stores() {
        let app = App::new(&Setup::new(store)).await;
        let origin = app.on_tcp().await;
        let mut browser = Visitor::new(&origin);
        let customer = browser.log_in("/api/login", "alice").await;
        let mut other = Visitor::new(&origin);
        let staff = other.log_in("/staff/login", "alice").await;
        browser.with_token("/staff/me", &customer).await.refused(401, "access_token_invalid");
        other.with_token("/me", &staff).await.refused(401, "access_token_invalid");

        // Under the name of the other's cookie.
        let value = |cookies: Option<String>, name: &str| {
            let cookies = cookies.unwrap();
            let value = cookies.split("; ").find_map(|cookie| cookie.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_else(|| panic!("{name} in {cookies}")).to_owned()
        };
        let customer = value(browser.browser.cookies_for("/auth/refresh"), "__Secure-refresh");
        let staff = value(other.browser.cookies_for("/staff/auth/refresh"), "__Secure-refresh-staff");
        let mut thief = Visitor::new(&origin);
        for (path, name, token) in
            [("/staff/auth/refresh", "__Secure-refresh-staff", customer), ("/auth/refresh", "__Secure-refresh", staff)]
        {
            let cookie = format!("{name}={token}");
            let answer = thief.call(reqwest::Method::POST, path, &[("cookie", &cookie)]).await;
            answer.refused(401, "refresh_token_invalid");
        }

        // Nor does one see or end the other's sessions, whose user has the same id.
        assert_eq!(app.customers.sessions("alice").await.unwrap().len(), 1);
        assert_eq!(app.staff.sessions("alice").await.unwrap().len(), 1);
        browser.post("/auth/logout").await.is(204);
        assert_eq!(app.customers.sessions("alice").await.unwrap().len(), 0);
        assert_eq!(app.staff.sessions("alice").await.unwrap().len(), 1);
    }
}
