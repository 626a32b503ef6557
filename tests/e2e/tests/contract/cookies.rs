//! The refresh cookie: its attributes, where browsers send it, and which one takes precedence.

use axum_refresh_e2e::demo::{COOKIE, Demo, SHORT_GRACE, SetCookie, base64url, from_base64url, grace_passes};

fn has_exactly_its_attributes(cookie: &SetCookie) {
    let others: Vec<_> =
        cookie.attributes.iter().filter(|attribute| !attribute.starts_with("Max-Age=")).map(String::as_str).collect();
    assert_eq!(others, ["HttpOnly", "Path=/auth", "SameSite=Strict", "Secure"]);
    assert_eq!(cookie.attributes.len(), 5, "{cookie:?}");
}

#[tokio::test]
async fn the_refresh_cookie_of_a_login_has_exactly_its_attributes() {
    let demo = Demo::new().await;
    has_exactly_its_attributes(&demo.browser().login("alice").await.refresh_cookie());
}

#[tokio::test]
async fn the_refresh_cookie_of_a_login_expires_with_the_session() {
    let demo = Demo::start(&[("IDLE_TIMEOUT", "1h"), ("MAX_LIFETIME", "2h")]).await;
    let cookie = demo.browser().login("alice").await.refresh_cookie();
    assert!((7_199..=7_200).contains(&cookie.max_age()), "{}", cookie.max_age());
}

#[tokio::test]
async fn a_rotated_cookie_has_the_same_attributes_and_the_same_expiry() {
    let demo = Demo::start(&[SHORT_GRACE, ("IDLE_TIMEOUT", "1h"), ("MAX_LIFETIME", "2h")]).await;
    let mut browser = demo.logged_in("alice").await;
    grace_passes().await;
    let cookie = browser.refresh().await.refresh_cookie();
    has_exactly_its_attributes(&cookie);
    // The expiry of the session does not move: more than a second has passed, so `Max-Age` is at least one less.
    assert!((7_190..=7_199).contains(&cookie.max_age()), "{}", cookie.max_age());
}

#[tokio::test]
async fn the_refresh_cookie_is_sent_to_auth_and_nowhere_else() {
    let demo = Demo::new().await;
    let browser = demo.logged_in("alice").await;
    for path in ["/auth/refresh", "/auth/logout", "/auth"] {
        assert!(browser.cookies_for(path).is_some(), "{path}");
    }
    for path in ["/", "/me", "/login", "/authentic", "/admin/users/bob/sessions"] {
        assert_eq!(browser.cookies_for(path), None, "{path}");
    }
}

#[tokio::test]
async fn a_cookie_of_another_name_is_not_read() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    for name in ["refresh", "__Host-refresh", "__secure-refresh", "x__Secure-refresh", "__Secure-refresh2"] {
        let call = demo.post("/auth/refresh").header("cookie", format!("{name}={token}"));
        call.send().await.refused(401, "refresh_token_missing");
    }
}

#[tokio::test]
async fn the_refresh_cookie_is_found_among_others() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    for cookies in [
        format!("theme=dark; {COOKIE}={token}; lang=en"),
        format!("broken; {COOKIE}={token}"),
        format!("={COOKIE}; {COOKIE}={token}; ;"),
    ] {
        demo.post("/auth/refresh").header("cookie", &cookies).send().await.is(200);
    }
}

#[tokio::test]
async fn a_planted_cookie_before_the_real_one_is_ignored() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    let cookies = format!("{COOKIE}=planted; {COOKIE}={token}");
    demo.post("/auth/refresh").header("cookie", cookies).send().await.is(200);
}

#[tokio::test]
async fn a_planted_cookie_after_the_real_one_is_ignored() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    let cookies = format!("{COOKIE}={token}; {COOKIE}=planted; {COOKIE}=");
    demo.post("/auth/refresh").header("cookie", cookies).send().await.is(200);
}

#[tokio::test]
async fn several_cookie_headers_are_read_as_one() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    for (first, second) in [("planted", token.as_str()), (token.as_str(), "planted")] {
        let call = demo.post("/auth/refresh").refresh_cookie(first).refresh_cookie(second);
        call.send().await.is(200);
    }
}

#[tokio::test]
async fn a_planted_cookie_with_a_high_generation_is_ignored() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    let mut bytes = from_base64url(&token);
    bytes[18..22].copy_from_slice(&1_000_u32.to_be_bytes());
    let planted = base64url(bytes);
    demo.refresh(&planted).await.refused(401, "refresh_token_invalid");
    let both = [format!("{COOKIE}={planted}; {COOKIE}={token}"), format!("{COOKIE}={token}; {COOKIE}={planted}")];
    // The first request rotates, and the second is its echo.
    for (cookies, generation) in both.into_iter().zip([1, 0]) {
        let answer = demo.post("/auth/refresh").header("cookie", cookies).send().await;
        assert_eq!(answer.tokens().generation(), generation);
    }
}

#[tokio::test]
async fn of_several_refresh_cookies_the_highest_generation_takes_precedence() {
    let demo = Demo::start(&[SHORT_GRACE]).await;
    let mut browser = demo.logged_in("alice").await;
    let old = browser.refresh_token();
    grace_passes().await;
    browser.refresh().await.refresh_cookie();
    let new = browser.refresh_token();
    for cookies in [
        format!("{COOKIE}={old}; {COOKIE}={new}"),
        format!("{COOKIE}={new}; {COOKIE}={old}"),
        format!("{COOKIE}=x; {COOKIE}={old}; {COOKIE}={new}; {COOKIE}=y"),
    ] {
        let answer = demo.post("/auth/refresh").header("cookie", cookies).send().await;
        assert_eq!(answer.tokens().generation(), 1);
    }
}

#[tokio::test]
async fn several_invalid_refresh_cookies_are_refused_like_a_single_one() {
    let demo = Demo::new().await;
    let cookies = format!("{COOKIE}=one; {COOKIE}=two; {COOKIE}=three");
    demo.post("/auth/refresh").header("cookie", cookies).send().await.refused(401, "refresh_token_invalid");
}
