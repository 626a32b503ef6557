//! What an app chooses for one login: how long the session lasts, whether its cookies outlive the browser, and to which
//! session of an identity provider it belongs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use axum::response::IntoResponse as _;
use axum_refresh::config::{BindingMode, ClientChange};
use axum_refresh::ratchet::{BindingVerdict, Verdict};
use axum_refresh::rejection::LoginError;
use axum_refresh::{ClientInfo, Error, Event, LoginBuilder, Policy, RevocationReason, Settings};
use std::sync::{Arc, Mutex};
use support::{Claims, Clock, Fault, FaultyStore, Node, claims, client, code};
use tower::ServiceExt as _;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn login(node: &Node) -> LoginBuilder<Claims> {
    node.auth.login("alice", claims("user")).client(client())
}

fn cookies(response: &Response<Body>) -> Vec<String> {
    response.headers().get_all("set-cookie").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_session_may_have_cookies_that_end_with_the_browser_and_every_refresh_keeps_them_so() {
    let node = Node::with(|builder| builder.settings(Settings { hint_cookie: true, ..Settings::for_pages() }));
    let app = axum::Router::new().nest("/auth", node.auth.router::<()>());
    for (persistent, has_max_age) in [(Some(false), false), (Some(true), true), (None, true)] {
        let mut login = login(&node);
        if let Some(persistent) = persistent {
            login = login.persistent(persistent);
        }
        let login = login.await.unwrap();
        let mut token = login.tokens.refresh_token.clone().unwrap();
        let mut set = cookies(&login.into_response());
        for round in 0..3 {
            assert_eq!(set.len(), 3, "{set:?}");
            assert!(set.iter().all(|cookie| cookie.contains("Max-Age=") == has_max_age), "{round}: {set:?}");
            node.after_grace();
            let cookie = format!("__Host-refresh={token}");
            let request = Request::post("/auth/refresh").header("cookie", cookie).body(Body::empty()).unwrap();
            set = cookies(&app.clone().oneshot(request).await.unwrap());
            token = set[0].split(['=', ';']).nth(1).unwrap().to_owned();
        }
    }
}

#[tokio::test]
async fn a_session_may_have_a_lifetime_of_its_own_that_no_refresh_moves() {
    let node = Node::new();
    let tokens = login(&node).lifetime(HOUR).await.unwrap().tokens;
    assert_eq!(tokens.session_expires_in, HOUR);
    let mut token = tokens.refresh_token.unwrap();
    for _ in 0..5 {
        node.clock.advance(10 * MINUTE);
        token = node.rotate(&token).await;
    }
    node.clock.advance(10 * MINUTE - Duration::from_millis(1));
    let last = node.refresh(&token).await.unwrap().tokens;
    assert_eq!(last.expires_in, Duration::from_millis(1));
    node.clock.advance(Duration::from_millis(1));
    assert_eq!(code(node.refresh(&last.refresh_token.unwrap()).await), "session_expired");
}

#[tokio::test]
async fn a_session_may_have_an_idle_timeout_of_its_own() {
    let node = Node::new();
    let short = login(&node).idle_timeout(2 * HOUR).await.unwrap().tokens;
    let usual = login(&node).await.unwrap().tokens;
    let token = node
        .rotate(&{
            node.clock.advance(2 * HOUR - Duration::from_millis(1));
            short.refresh_token.unwrap()
        })
        .await;
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 2);
    node.clock.advance(2 * HOUR);
    let listed = node.auth.sessions("alice").await.unwrap();
    assert_eq!(listed.iter().map(|session| session.id).collect::<Vec<_>>(), [usual.session_id]);
    assert_eq!(code(node.refresh(&token).await), "session_idle");
    node.rotate(&usual.refresh_token.unwrap()).await;
}

#[tokio::test]
async fn a_policy_that_became_stricter_counts_for_sessions_from_before() {
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let before = Node::on(store.clone(), clock.clone(), |builder| builder);
    let tokens = login(&before).idle_timeout(24 * HOUR).await.unwrap().tokens;
    let after = Node::on(store, clock, |builder| {
        builder.configure(|settings| settings.policy = Policy { idle_timeout: 2 * HOUR, ..Policy::default() })
    });
    after.clock.advance(2 * HOUR);
    assert_eq!(code(after.refresh(&tokens.refresh_token.unwrap()).await), "session_idle");
}

#[tokio::test]
async fn terms_out_of_bounds_are_typed_errors_that_name_the_bounds_and_write_nothing() {
    let node = Node::new();
    let policy = Policy::default();
    let (least, most) = (100 * MINUTE, policy.idle_timeout);
    let millis = Duration::from_millis(1);
    for asked in [Duration::ZERO, policy.lifetime + millis, Duration::MAX] {
        let error = login(&node).lifetime(asked).await.unwrap_err();
        let expected = LoginError::Lifetime { asked, max: policy.lifetime };
        assert!(matches!(error, Error::Login(error) if error == expected), "{asked:?}");
    }
    for asked in [Duration::ZERO, least - millis, most + millis] {
        let error = login(&node).idle_timeout(asked).await.unwrap_err();
        let expected = LoginError::IdleTimeout { asked, min: least, max: most };
        assert!(matches!(error, Error::Login(error) if error == expected), "{asked:?}");
    }
    assert!(node.auth.sessions("alice").await.unwrap().is_empty());
    for (idle_timeout, lifetime) in [(least, policy.lifetime), (most, millis)] {
        assert!(login(&node).idle_timeout(idle_timeout).lifetime(lifetime).await.is_ok());
    }
}

#[tokio::test]
async fn the_policy_may_allow_shorter_idle_timeouts() {
    let policy = Policy { min_idle_timeout: Some(16 * MINUTE), ..Policy::default() };
    let node = Node::with_policy(policy);
    assert!(login(&node).idle_timeout(16 * MINUTE).await.is_ok());
    assert!(login(&node).idle_timeout(15 * MINUTE).await.is_err());
}

// ---- sessions of an identity provider ----

#[tokio::test]
async fn a_session_of_an_identity_provider_ends_all_sessions_that_belong_to_it_and_no_others() {
    let node = Node::with_policy(Policy::aal2());
    let external = |user: &str, issuer: &str, sid: &str| {
        node.auth.login(user, claims("user")).client(client()).external(issuer, sid)
    };
    let idle = external("alice", "https://idp.example", "1").await.unwrap().tokens;
    node.clock.advance(HOUR);
    let first = external("alice", "https://idp.example", "1").await.unwrap().tokens;
    let second = external("bob", "https://idp.example", "1").await.unwrap().tokens;
    let others = [
        external("alice", "https://idp.example", "2").await.unwrap().tokens,
        external("alice", "https://idp.example1", "").await.unwrap().tokens,
        external("alice", "https://other.example", "1").await.unwrap().tokens,
        node.login("alice").await.tokens,
    ];
    assert_eq!(node.auth.revoke_external("https://idp.example", "3").await.unwrap(), 0);
    assert_eq!(node.auth.revoke_external("https://idp.example", "1").await.unwrap(), 3);
    assert_eq!(node.auth.revoke_external("https://idp.example", "1").await.unwrap(), 0);
    for tokens in [&first, &second] {
        assert_eq!(code(node.auth.authenticate(&tokens.access_token).await), "access_token_revoked");
    }
    // It could have been resumed.
    assert_eq!(code(node.refresh(&idle.refresh_token.unwrap()).await), "session_revoked");
    for tokens in &others {
        node.auth.authenticate(&tokens.access_token).await.unwrap();
    }
    let revoked = |event: &Event| {
        matches!(event, Event::SessionRevoked { reason: RevocationReason::IdentityProvider, user_id: Some(_), .. })
    };
    assert_eq!(node.events().iter().filter(|event| revoked(event)).count(), 3);
    node.store.set(Fault::Fails);
    assert_eq!(code(node.auth.revoke_external("https://idp.example", "2").await), "store_unavailable");
}

#[tokio::test]
async fn an_identity_providers_session_in_one_realm_ends_nothing_in_another() {
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let realm = |name: &str| {
        let realm = Some(name.to_owned());
        Node::on(store.clone(), clock.clone(), |builder| builder.configure(|settings| settings.realm = realm))
    };
    let (staff, customers) = (realm("staff"), realm("customers"));
    let tokens = login(&customers).external("https://idp.example", "1").await.unwrap().tokens;
    assert_eq!(staff.auth.revoke_external("https://idp.example", "1").await.unwrap(), 0);
    customers.auth.authenticate(&tokens.access_token).await.unwrap();
}

// ---- the app's own judgment of clients ----

/// A node whose app answers each change of a client with this mode, and the changes that it was asked about.
fn judging(mode: BindingMode) -> (Node, Arc<Mutex<Vec<ClientChange>>>) {
    let asked: Arc<Mutex<Vec<ClientChange>>> = Arc::default();
    let log = Arc::clone(&asked);
    let node = Node::with(|builder| {
        builder.risk_hook(move |change| {
            log.lock().unwrap().push(change.clone());
            mode
        })
    });
    (node, asked)
}

fn from(ip: [u8; 4]) -> ClientInfo {
    client().ip(ip.into())
}

#[tokio::test]
async fn the_app_judges_each_change_of_a_client_against_the_last_that_it_has_let_through() {
    for (mode, verdict) in [(BindingMode::Off, None), (BindingMode::Observe, Some(BindingVerdict::Observed))] {
        let (node, asked) = judging(mode);
        let mut token = node
            .auth
            .login("alice", claims("user"))
            .client(from([192, 0, 2, 1]))
            .await
            .unwrap()
            .tokens
            .refresh_token
            .unwrap();
        for last in [1, 2, 2, 3, 3] {
            node.after_grace();
            let refreshed = node.auth.refresh(&token, from([192, 0, 2, last])).await.unwrap();
            assert_eq!(refreshed.verdict, Verdict::Rotate);
            token = refreshed.tokens.refresh_token.unwrap();
        }
        let ip = |client: &axum_refresh::store::Client| client.ip.unwrap().to_string();
        let asked: Vec<_> = asked.lock().unwrap().iter().map(|change| (ip(&change.before), ip(&change.now))).collect();
        assert_eq!(asked, [("192.0.2.1".into(), "192.0.2.2".into()), ("192.0.2.2".into(), "192.0.2.3".into())]);
        let told = node.events().into_iter().filter_map(|event| match event {
            Event::ClientMismatch { verdict, .. } => Some(verdict),
            _ => None,
        });
        assert_eq!(told.collect::<Vec<_>>(), verdict.into_iter().cycle().take(2).collect::<Vec<_>>());
        // The list shows the client at login.
        assert_eq!(node.auth.sessions("alice").await.unwrap()[0].ip, Some([192, 0, 2, 1].into()));
    }
}

#[tokio::test]
async fn what_the_app_says_about_a_client_has_the_consequences_of_a_binding() {
    for (mode, expected, lives) in [
        (BindingMode::StepUp, "insufficient_user_authentication", true),
        (BindingMode::Reject, "client_mismatch", true),
        (BindingMode::Revoke, "client_mismatch", false),
    ] {
        let (node, asked) = judging(mode);
        let token = node.refresh_token("alice").await;
        node.after_grace();
        for _ in 0..2 {
            let refused = code(node.auth.refresh(&token, from([192, 0, 2, 9])).await);
            assert_eq!(refused, if asked.lock().unwrap().len() == 1 { expected } else { "session_revoked" });
            if lives {
                asked.lock().unwrap().clear();
            }
        }
        assert_eq!(node.refresh(&token).await.is_ok(), lives, "{mode:?}");
    }
}

#[tokio::test]
async fn the_guard_asks_the_app_once_for_each_token_and_client() {
    async fn name(user: axum_refresh::AuthUser<Claims>) -> String {
        user.id.to_string()
    }
    let (node, asked) = judging(BindingMode::Observe);
    let app = axum::Router::new().route("/", axum::routing::get(name)).route_layer(node.auth.guard());
    let tokens = node.login("alice").await.tokens;
    let send = async |ip: [u8; 4], token: &str| {
        let bearer = format!("Bearer {token}");
        let mut request = Request::get("/")
            .header("authorization", bearer)
            .header("user-agent", "curl/8.5.0")
            .body(Body::empty())
            .unwrap();
        let peer = std::net::SocketAddr::from((ip, 1234));
        request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
        app.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    let count = || std::mem::take(&mut *asked.lock().unwrap()).len();
    for (ip, expected) in [([203, 0, 113, 7], 0), ([192, 0, 2, 1], 1), ([192, 0, 2, 1], 0), ([192, 0, 2, 2], 1)] {
        assert_eq!(send(ip, &tokens.access_token).await, 200);
        assert_eq!(count(), expected, "{ip:?}");
    }
    // The client of the refresh is the last one from then on, also for the guard.
    node.after_grace();
    let next = node.auth.refresh(&tokens.refresh_token.unwrap(), from([192, 0, 2, 3])).await.unwrap().tokens;
    assert_eq!(count(), 1);
    assert_eq!(send([192, 0, 2, 3], &next.access_token).await, 200);
    assert_eq!(count(), 0);
}

#[tokio::test]
async fn the_app_is_not_asked_about_tokens_that_are_forged_and_the_stricter_verdict_counts() {
    let (node, asked) = judging(BindingMode::Revoke);
    let other = Node::on(FaultyStore::default(), node.clock.clone(), |builder| builder);
    let foreign = other.refresh_token("alice").await;
    assert_eq!(code(node.auth.refresh(&foreign, from([192, 0, 2, 9])).await), "refresh_token_invalid");
    assert!(asked.lock().unwrap().is_empty());
    let strict = Node::with(|builder| {
        let binding = axum_refresh::config::Binding { ip: BindingMode::Reject, ..Default::default() };
        builder.configure(|settings| settings.policy.binding = binding).risk_hook(|_| BindingMode::Observe)
    });
    let token = strict.refresh_token("alice").await;
    assert_eq!(code(strict.auth.refresh(&token, from([192, 0, 2, 9])).await), "client_mismatch");
}
