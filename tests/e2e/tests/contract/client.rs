//! The client of a session: its address and browser, and the proxies that may name the client's address.

use axum_refresh_e2e::demo::{Browser, CHROME, CHROME_UPDATED, Demo, FIREFOX};

const HOME: &str = "203.0.113.7";
const ELSEWHERE: &str = "198.51.100.9";
const PROXIED: (&str, &str) = ("TRUSTED_PROXIES", "127.0.0.0/8");

/// A demo behind a proxy, and a browser at [`HOME`] that is logged in.
async fn at_home(mode: Option<&str>) -> (Demo, Browser) {
    let mut settings = vec![PROXIED];
    settings.extend(mode.map(|mode| ("BIND_IP", mode)));
    let demo = Demo::start(&settings).await;
    let mut browser = demo.browser().at(HOME);
    browser.login("alice").await;
    (demo, browser)
}

/// A demo, and a logged-in Chrome.
async fn in_chrome(mode: Option<&str>) -> (Demo, Browser) {
    let settings: Vec<_> = mode.map(|mode| ("BIND_USER_AGENT", mode)).into_iter().collect();
    let demo = Demo::start(&settings).await;
    let mut browser = demo.browser().with_user_agent(CHROME);
    browser.login("alice").await;
    (demo, browser)
}

async fn is_accepted(browser: &mut Browser) {
    browser.refresh().await.is(200);
    browser.me().await.is(200);
}

#[tokio::test]
async fn by_default_a_session_is_not_bound_to_an_address() {
    let (_demo, browser) = at_home(None).await;
    is_accepted(&mut browser.at(ELSEWHERE)).await;
}

#[tokio::test]
async fn with_the_address_binding_off_a_session_is_not_bound_to_an_address() {
    let (_demo, browser) = at_home(Some("off")).await;
    is_accepted(&mut browser.at(ELSEWHERE)).await;
}

#[tokio::test]
async fn with_the_observe_mode_another_address_is_accepted() {
    let (_demo, browser) = at_home(Some("observe")).await;
    is_accepted(&mut browser.at(ELSEWHERE)).await;
}

#[tokio::test]
async fn a_refresh_from_another_address_is_refused_and_the_session_stays_live() {
    let (_demo, browser) = at_home(Some("reject")).await;
    let mut browser = browser.at(ELSEWHERE);
    browser.refresh().await.refused(401, "client_mismatch");
    is_accepted(&mut browser.at(HOME)).await;
}

#[tokio::test]
async fn a_guarded_route_is_refused_from_another_address_and_the_session_stays_live() {
    let (_demo, browser) = at_home(Some("reject")).await;
    let mut browser = browser.at(ELSEWHERE);
    browser.me().await.refused(401, "client_mismatch");
    is_accepted(&mut browser.at(HOME)).await;
}

#[tokio::test]
async fn a_route_without_the_guard_does_not_check_the_address() {
    let (_demo, browser) = at_home(Some("reject")).await;
    browser.at(ELSEWHERE).get("/stateless").await.is(200);
}

#[tokio::test]
async fn with_the_revoke_mode_a_refresh_from_another_address_revokes_the_session() {
    let (_demo, browser) = at_home(Some("revoke")).await;
    let mut browser = browser.at(ELSEWHERE);
    browser.refresh().await.refused(401, "client_mismatch");
    let mut browser = browser.at(HOME);
    browser.refresh().await.refused(401, "session_revoked");
    browser.me().await.refused(401, "access_token_revoked");
}

#[tokio::test]
async fn with_the_revoke_mode_a_guarded_route_from_another_address_revokes_the_session() {
    let (_demo, browser) = at_home(Some("revoke")).await;
    let mut browser = browser.at(ELSEWHERE);
    browser.me().await.refused(401, "client_mismatch");
    let mut browser = browser.at(HOME);
    browser.refresh().await.refused(401, "session_revoked");
    browser.me().await.refused(401, "access_token_revoked");
}

#[tokio::test]
async fn a_neighboring_address_is_the_same_client() {
    let (_demo, browser) = at_home(Some("reject")).await;
    is_accepted(&mut browser.at("203.0.113.99")).await;
}

#[tokio::test]
async fn another_address_of_the_same_ipv6_network_is_the_same_client() {
    let demo = Demo::start(&[PROXIED, ("BIND_IP", "reject")]).await;
    let mut browser = demo.browser().at("2001:db8:1:2::1");
    browser.login("alice").await;
    let mut browser = browser.at("2001:db8:1:2:a:b:c:d");
    is_accepted(&mut browser).await;
    browser.at("2001:db8:ffff::1").refresh().await.refused(401, "client_mismatch");
}

#[tokio::test]
async fn an_address_of_the_other_family_is_another_client() {
    let (_demo, browser) = at_home(Some("reject")).await;
    browser.at("2001:db8::1").refresh().await.refused(401, "client_mismatch");
}

#[tokio::test]
async fn by_default_a_session_is_not_bound_to_a_browser() {
    let (_demo, browser) = in_chrome(None).await;
    is_accepted(&mut browser.with_user_agent(FIREFOX)).await;
}

#[tokio::test]
async fn with_the_browser_binding_off_a_session_is_not_bound_to_a_browser() {
    let (_demo, browser) = in_chrome(Some("off")).await;
    is_accepted(&mut browser.with_user_agent(FIREFOX)).await;
}

#[tokio::test]
async fn with_the_observe_mode_another_browser_is_accepted() {
    let (_demo, browser) = in_chrome(Some("observe")).await;
    is_accepted(&mut browser.with_user_agent(FIREFOX)).await;
}

#[tokio::test]
async fn a_refresh_from_another_browser_is_refused_and_the_session_stays_live() {
    let (_demo, browser) = in_chrome(Some("reject")).await;
    let mut browser = browser.with_user_agent(FIREFOX);
    browser.refresh().await.refused(401, "client_mismatch");
    is_accepted(&mut browser.with_user_agent(CHROME)).await;
}

#[tokio::test]
async fn a_guarded_route_is_refused_from_another_browser_and_the_session_stays_live() {
    let (_demo, browser) = in_chrome(Some("reject")).await;
    let mut browser = browser.with_user_agent(FIREFOX);
    browser.me().await.refused(401, "client_mismatch");
    is_accepted(&mut browser.with_user_agent(CHROME)).await;
}

#[tokio::test]
async fn with_the_revoke_mode_a_refresh_from_another_browser_revokes_the_session() {
    let (_demo, browser) = in_chrome(Some("revoke")).await;
    let mut browser = browser.with_user_agent(FIREFOX);
    browser.refresh().await.refused(401, "client_mismatch");
    let mut browser = browser.with_user_agent(CHROME);
    browser.refresh().await.refused(401, "session_revoked");
    browser.me().await.refused(401, "access_token_revoked");
}

// Hole 30.
#[tokio::test]
async fn a_browser_that_was_updated_stays_logged_in() {
    for mode in ["reject", "revoke"] {
        let (_demo, browser) = in_chrome(Some(mode)).await;
        is_accepted(&mut browser.with_user_agent(CHROME_UPDATED)).await;
    }
}

// Hole 22: omitting the header does not bypass the binding.
#[tokio::test]
async fn a_request_without_a_user_agent_is_another_client() {
    let (_demo, mut browser) = in_chrome(Some("reject")).await;
    browser.set_header("user-agent", None);
    browser.refresh().await.refused(401, "client_mismatch");
    browser.me().await.refused(401, "client_mismatch");
    is_accepted(&mut browser.with_user_agent(CHROME)).await;
}

#[tokio::test]
async fn an_empty_user_agent_is_another_client() {
    let (_demo, browser) = in_chrome(Some("reject")).await;
    browser.with_user_agent("").refresh().await.refused(401, "client_mismatch");
}

#[tokio::test]
async fn a_user_agent_that_is_added_later_is_another_client() {
    let demo = Demo::start(&[("BIND_USER_AGENT", "reject")]).await;
    let browser = demo.logged_in("alice").await;
    browser.with_user_agent(CHROME).refresh().await.refused(401, "client_mismatch");
}

/// The address of a new session with these `X-Forwarded-For` headers.
async fn address(demo: &Demo, forwarded: &[&str]) -> String {
    let mut call = demo.post("/login").json(&axum_refresh_e2e::demo::credentials("alice"));
    for value in forwarded {
        call = call.header("x-forwarded-for", value);
    }
    let mut browser = demo.browser();
    browser.access = call.send().await.tokens().access;
    let session = browser.session();
    let sessions = browser.sessions().await;
    let own = sessions.iter().find(|listed| listed["id"] == session.as_str()).unwrap();
    own["ip"].as_str().unwrap_or_default().to_owned()
}

// Hole 22.
#[tokio::test]
async fn a_forwarded_address_is_ignored_unless_a_trusted_proxy_sent_it() {
    let demo = Demo::new().await;
    assert_eq!(address(&demo, &[HOME]).await, "127.0.0.1");
    let demo = Demo::start(&[("TRUSTED_PROXIES", "10.0.0.0/8")]).await;
    assert_eq!(address(&demo, &[HOME]).await, "127.0.0.1");
}

#[tokio::test]
async fn a_forwarded_address_from_an_untrusted_sender_does_not_affect_the_binding() {
    let demo = Demo::start(&[("BIND_IP", "reject")]).await;
    let mut browser = demo.browser().at(HOME);
    browser.login("alice").await;
    // Both requests came from the same loopback address, whatever their headers contain.
    is_accepted(&mut browser.at(ELSEWHERE)).await;
}

#[tokio::test]
async fn the_address_from_a_trusted_proxy_is_used() {
    let demo = Demo::start(&[PROXIED]).await;
    assert_eq!(address(&demo, &[HOME]).await, HOME);
    assert_eq!(address(&demo, &["2001:db8::7"]).await, "2001:db8::7");
}

#[tokio::test]
async fn without_the_header_the_peer_is_the_client() {
    let demo = Demo::start(&[PROXIED]).await;
    assert_eq!(address(&demo, &[]).await, "127.0.0.1");
}

#[tokio::test]
async fn addresses_that_the_client_sent_itself_are_ignored() {
    let demo = Demo::start(&[PROXIED]).await;
    assert_eq!(address(&demo, &[&format!("{ELSEWHERE}, {HOME}")]).await, HOME);
    assert_eq!(address(&demo, &[&format!("127.0.0.1,{ELSEWHERE},{HOME}")]).await, HOME);
}

#[tokio::test]
async fn several_forwarding_headers_are_read_as_one() {
    let demo = Demo::start(&[PROXIED]).await;
    assert_eq!(address(&demo, &[ELSEWHERE, HOME]).await, HOME);
}

#[tokio::test]
async fn a_chain_of_trusted_proxies_is_read_from_the_right() {
    let demo = Demo::start(&[("TRUSTED_PROXIES", "127.0.0.1/32,10.0.0.0/8,2001:db8:beef::/48")]).await;
    let chain = format!("{ELSEWHERE}, {HOME}, 10.1.2.3, 2001:db8:beef::1, 10.255.0.1");
    assert_eq!(address(&demo, &[&chain]).await, HOME);
}

#[tokio::test]
async fn addresses_to_the_left_of_an_invalid_one_are_ignored() {
    let demo = Demo::start(&[PROXIED]).await;
    for garbage in ["unknown", "999.1.1.1", "203.0.113", "for=203.0.113.7", "::::", "127.0.0.1.", "💥"] {
        assert_ne!(address(&demo, &[&format!("{ELSEWHERE}, {garbage}")]).await, ELSEWHERE, "{garbage}");
    }
}
