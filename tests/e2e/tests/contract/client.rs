//! Whose session it is: the client's address and browser, and the proxies that may speak for a client.

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

/// A demo, and a Chrome that is logged in.
async fn in_chrome(mode: Option<&str>) -> (Demo, Browser) {
    let settings: Vec<_> = mode.map(|mode| ("BIND_USER_AGENT", mode)).into_iter().collect();
    let demo = Demo::start(&settings).await;
    let mut browser = demo.browser().with_user_agent(CHROME);
    browser.login("alice").await;
    (demo, browser)
}

async fn goes_on(browser: &mut Browser) {
    browser.refresh().await.is(200);
    browser.me().await.is(200);
}

#[tokio::test]
async fn a_session_is_bound_to_no_address_by_default() {
    let (_demo, browser) = at_home(None).await;
    goes_on(&mut browser.at(ELSEWHERE)).await;
}

#[tokio::test]
async fn a_session_is_bound_to_no_address_where_that_is_off() {
    let (_demo, browser) = at_home(Some("off")).await;
    goes_on(&mut browser.at(ELSEWHERE)).await;
}

#[tokio::test]
async fn another_address_is_let_in_where_it_is_only_observed() {
    let (_demo, browser) = at_home(Some("observe")).await;
    goes_on(&mut browser.at(ELSEWHERE)).await;
}

#[tokio::test]
async fn a_refresh_from_another_address_is_refused_and_the_session_stays() {
    let (_demo, browser) = at_home(Some("reject")).await;
    let mut browser = browser.at(ELSEWHERE);
    browser.refresh().await.refused(401, "client_mismatch");
    goes_on(&mut browser.at(HOME)).await;
}

#[tokio::test]
async fn a_guarded_route_is_refused_from_another_address_and_the_session_stays() {
    let (_demo, browser) = at_home(Some("reject")).await;
    let mut browser = browser.at(ELSEWHERE);
    browser.me().await.refused(401, "client_mismatch");
    goes_on(&mut browser.at(HOME)).await;
}

#[tokio::test]
async fn a_route_without_the_guard_does_not_look_at_the_address() {
    let (_demo, browser) = at_home(Some("reject")).await;
    browser.at(ELSEWHERE).get("/stateless").await.is(200);
}

#[tokio::test]
async fn a_refresh_from_another_address_ends_the_session_where_that_is_the_rule() {
    let (_demo, browser) = at_home(Some("revoke")).await;
    let mut browser = browser.at(ELSEWHERE);
    browser.refresh().await.refused(401, "client_mismatch");
    let mut browser = browser.at(HOME);
    browser.refresh().await.refused(401, "session_revoked");
    browser.me().await.refused(401, "access_token_revoked");
}

#[tokio::test]
async fn a_guarded_route_from_another_address_ends_the_session_where_that_is_the_rule() {
    let (_demo, browser) = at_home(Some("revoke")).await;
    let mut browser = browser.at(ELSEWHERE);
    browser.me().await.refused(401, "client_mismatch");
    let mut browser = browser.at(HOME);
    browser.refresh().await.refused(401, "session_revoked");
    browser.me().await.refused(401, "access_token_revoked");
}

#[tokio::test]
async fn a_neighbouring_address_is_the_same_client() {
    let (_demo, browser) = at_home(Some("reject")).await;
    goes_on(&mut browser.at("203.0.113.99")).await;
}

#[tokio::test]
async fn another_address_of_the_same_ipv6_network_is_the_same_client() {
    let demo = Demo::start(&[PROXIED, ("BIND_IP", "reject")]).await;
    let mut browser = demo.browser().at("2001:db8:1:2::1");
    browser.login("alice").await;
    let mut browser = browser.at("2001:db8:1:2:a:b:c:d");
    goes_on(&mut browser).await;
    browser.at("2001:db8:ffff::1").refresh().await.refused(401, "client_mismatch");
}

#[tokio::test]
async fn an_address_of_the_other_family_is_another_client() {
    let (_demo, browser) = at_home(Some("reject")).await;
    browser.at("2001:db8::1").refresh().await.refused(401, "client_mismatch");
}

#[tokio::test]
async fn a_session_is_bound_to_no_browser_by_default() {
    let (_demo, browser) = in_chrome(None).await;
    goes_on(&mut browser.with_user_agent(FIREFOX)).await;
}

#[tokio::test]
async fn a_session_is_bound_to_no_browser_where_that_is_off() {
    let (_demo, browser) = in_chrome(Some("off")).await;
    goes_on(&mut browser.with_user_agent(FIREFOX)).await;
}

#[tokio::test]
async fn another_browser_is_let_in_where_it_is_only_observed() {
    let (_demo, browser) = in_chrome(Some("observe")).await;
    goes_on(&mut browser.with_user_agent(FIREFOX)).await;
}

#[tokio::test]
async fn a_refresh_from_another_browser_is_refused_and_the_session_stays() {
    let (_demo, browser) = in_chrome(Some("reject")).await;
    let mut browser = browser.with_user_agent(FIREFOX);
    browser.refresh().await.refused(401, "client_mismatch");
    goes_on(&mut browser.with_user_agent(CHROME)).await;
}

#[tokio::test]
async fn a_guarded_route_is_refused_from_another_browser_and_the_session_stays() {
    let (_demo, browser) = in_chrome(Some("reject")).await;
    let mut browser = browser.with_user_agent(FIREFOX);
    browser.me().await.refused(401, "client_mismatch");
    goes_on(&mut browser.with_user_agent(CHROME)).await;
}

#[tokio::test]
async fn a_refresh_from_another_browser_ends_the_session_where_that_is_the_rule() {
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
        goes_on(&mut browser.with_user_agent(CHROME_UPDATED)).await;
    }
}

// Hole 22: leaving the header out is no way around the binding.
#[tokio::test]
async fn a_request_that_names_no_browser_is_another_client() {
    let (_demo, mut browser) = in_chrome(Some("reject")).await;
    browser.set_header("user-agent", None);
    browser.refresh().await.refused(401, "client_mismatch");
    browser.me().await.refused(401, "client_mismatch");
    goes_on(&mut browser.with_user_agent(CHROME)).await;
}

#[tokio::test]
async fn an_empty_browser_name_is_another_client() {
    let (_demo, browser) = in_chrome(Some("reject")).await;
    browser.with_user_agent("").refresh().await.refused(401, "client_mismatch");
}

#[tokio::test]
async fn a_browser_name_that_turns_up_later_is_another_client() {
    let demo = Demo::start(&[("BIND_USER_AGENT", "reject")]).await;
    let browser = demo.logged_in("alice").await;
    browser.with_user_agent(CHROME).refresh().await.refused(401, "client_mismatch");
}

/// The address a session began with, given these `X-Forwarded-For` headers.
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
async fn nobody_is_believed_about_an_address_unless_they_are_a_trusted_proxy() {
    let demo = Demo::new().await;
    assert_eq!(address(&demo, &[HOME]).await, "127.0.0.1");
    let demo = Demo::start(&[("TRUSTED_PROXIES", "10.0.0.0/8")]).await;
    assert_eq!(address(&demo, &[HOME]).await, "127.0.0.1");
}

#[tokio::test]
async fn an_address_from_an_untrusted_sender_does_not_pass_the_binding() {
    let demo = Demo::start(&[("BIND_IP", "reject")]).await;
    let mut browser = demo.browser().at(HOME);
    browser.login("alice").await;
    // Both requests came from the same loopback address, whatever they claim.
    goes_on(&mut browser.at(ELSEWHERE)).await;
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
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
async fn what_a_client_wrote_in_front_of_the_proxys_word_is_not_believed() {
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
async fn a_chain_of_trusted_proxies_is_walked_from_the_right() {
    let demo = Demo::start(&[("TRUSTED_PROXIES", "127.0.0.1/32,10.0.0.0/8,2001:db8:beef::/48")]).await;
    let chain = format!("{ELSEWHERE}, {HOME}, 10.1.2.3, 2001:db8:beef::1, 10.255.0.1");
    assert_eq!(address(&demo, &[&chain]).await, HOME);
}

#[tokio::test]
async fn garbage_in_the_chain_does_not_lead_to_what_stands_in_front_of_it() {
    let demo = Demo::start(&[PROXIED]).await;
    for garbage in ["unknown", "999.1.1.1", "203.0.113", "for=203.0.113.7", "::::", "127.0.0.1.", "💥"] {
        assert_ne!(address(&demo, &[&format!("{ELSEWHERE}, {garbage}")]).await, ELSEWHERE, "{garbage}");
    }
}
