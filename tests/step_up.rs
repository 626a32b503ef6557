//! How the user was authenticated: what a login says about it, what a route may require of it, and authenticating again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use axum_refresh::config::{Binding, BindingMode, SettingsError, Transport};
use axum_refresh::rejection::LoginError;
use axum_refresh::step_up::{Acr, Recent, Required, Requirement, Rule};
use axum_refresh::{Auth, AuthUser, ClientInfo, Error, Event, Login, Policy, RevocationReason, SessionId, Settings};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::{Claims, Clock, Fault, FaultyStore, Node, claims, client, code};
use tower::ServiceExt as _;

const MINUTE: Duration = Duration::from_secs(60);
const HTML: (&str, &str) = ("accept", "text/html");

fn levels(settings: &mut Settings) {
    settings.acr_values = ["aal1", "aal2", "aal3"].map(str::to_owned).into();
}

fn node() -> Node {
    Node::with(|builder| builder.configure(levels))
}

/// The claims of an access token.
fn payload(token: &str) -> Value {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

async fn user(node: &Node, login: &Login) -> AuthUser<Claims> {
    node.auth.authenticate(&login.tokens.access_token).await.unwrap()
}

fn seconds(node: &Node) -> i64 {
    node.clock.now().as_secs()
}

// ---- what a login says ----

#[tokio::test]
async fn an_access_token_says_when_and_how_the_user_was_authenticated_and_a_refresh_moves_nothing() {
    let node = node();
    let login =
        node.auth.login("alice", claims("user")).client(client()).acr("aal2").amr(["pwd", "otp"]).await.unwrap();
    let began = seconds(&node);
    let mut token = login.tokens.refresh_token.clone().unwrap();
    let mut access = login.tokens.access_token.clone();
    for _ in 0..20 {
        let says = payload(&access);
        let how = json!([says["auth_time"], says["acr"], says["amr"]]);
        assert_eq!(how, json!([began, "aal2", ["pwd", "otp"]]));
        let user = node.auth.authenticate(&access).await.unwrap();
        assert_eq!((user.auth_time(), user.acr()), (login_time(began), Some("aal2")));
        assert_eq!(user.amr().collect::<Vec<_>>(), ["pwd", "otp"]);
        node.clock.advance(14 * MINUTE);
        let refreshed = node.refresh(&token).await.unwrap().tokens;
        (token, access) = (refreshed.refresh_token.unwrap(), refreshed.access_token);
    }
    let [session] = &node.auth.sessions("alice").await.unwrap()[..] else { panic!("one session") };
    assert_eq!((session.auth_time, session.acr.as_deref()), (login_time(began), Some("aal2")));
    assert_eq!(session.amr, ["pwd", "otp"].map(Box::<str>::from));
}

fn login_time(seconds: i64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap())
}

#[tokio::test]
async fn a_login_without_more_says_only_when_it_was() {
    let node = node();
    let says = payload(&node.login("alice").await.tokens.access_token);
    assert_eq!(says["auth_time"], seconds(&node));
    assert!(["acr", "amr", "act"].iter().all(|name| says.get(name).is_none()), "{says}");
}

#[tokio::test]
async fn an_update_of_the_claims_is_no_authentication() {
    let node = node();
    let login = node.login("alice").await;
    let began = seconds(&node);
    node.clock.advance(5 * MINUTE);
    let updated = node.auth.update_claims(&user(&node, &login).await, claims("admin")).await.unwrap();
    assert_eq!(payload(&updated.tokens.access_token)["auth_time"], began);
}

#[tokio::test]
async fn the_time_of_the_authentication_may_be_that_of_an_identity_provider_but_not_in_the_future() {
    let node = node();
    let login = |ago: i64| {
        let time = login_time(seconds(&node) - ago);
        let login = node.auth.login("alice", claims("user")).client(client()).auth_time(time);
        async { payload(&login.await.unwrap().tokens.access_token)["auth_time"].as_i64().unwrap() }
    };
    assert_eq!(login(7200).await, seconds(&node) - 7200);
    assert_eq!(login(-90).await, seconds(&node));
}

#[tokio::test]
async fn a_class_that_is_not_listed_is_an_error_and_nothing_is_written() {
    let node = node();
    let error = node.auth.login("alice", claims("user")).client(client()).acr("aal4").await.unwrap_err();
    assert!(matches!(error, Error::Login(LoginError::UnknownAcr(acr)) if acr == "aal4"));
    assert!(node.auth.sessions("alice").await.unwrap().is_empty());
}

#[test]
fn a_list_of_classes_that_no_challenge_could_show_is_rejected() {
    for (values, fits) in [
        (vec!["aal1", "urn:mace:incommon:iap:silver"], true),
        (vec![""], false),
        (vec!["a b"], false),
        (vec!["a\"b"], false),
        (vec!["é"], false),
        (vec!["a", "b", "a"], false),
    ] {
        let acr_values = values.iter().map(|value| (*value).to_owned()).collect();
        let result = Settings { acr_values, ..Settings::default() }.validate();
        assert_eq!(
            result.map_err(|error| error.setting()),
            if fits { Ok(()) } else { Err("acr_values") },
            "{values:?}"
        );
    }
}

// ---- authenticating again ----

#[tokio::test]
async fn whoever_authenticates_again_gets_another_session_and_the_old_one_ends_in_the_same_step() {
    let node = node();
    let old = node.auth.login("alice", claims("admin")).client(client()).label("laptop").acr("aal2").await.unwrap();
    let old_user = user(&node, &old).await;
    let bystander = node.login("alice").await;
    node.clock.advance(5 * MINUTE);
    node.events();
    let new = node.auth.reauthenticated(&old_user).amr(["pwd"]).await.unwrap();
    let new_user = user(&node, &new).await;
    assert_ne!(new_user.session_id, old_user.session_id);
    assert_eq!((&*new_user.id, &*new_user.claims.role), ("alice", "admin"));
    assert_eq!(payload(&new.tokens.access_token)["auth_time"], seconds(&node));
    // What says how the user was authenticated is of this authentication.
    assert_eq!((new_user.acr(), new_user.amr().collect::<Vec<_>>()), (None, vec!["pwd"]));
    let sessions = node.auth.sessions("alice").await.unwrap();
    let session = sessions.iter().find(|session| session.id == new_user.session_id).unwrap();
    assert_eq!(session.label.as_deref(), Some("laptop"));
    assert_eq!((session.user_agent.as_deref(), session.ip), (Some("curl/8.5.0"), Some([203, 0, 113, 7].into())));
    assert_eq!(sessions.len(), 2);
    assert_eq!(code(node.auth.authenticate(&old.tokens.access_token).await), "access_token_revoked");
    assert_eq!(code(node.refresh(&old.tokens.refresh_token.unwrap()).await), "session_revoked");
    user(&node, &bystander).await;
    let events = node.events();
    let reauthenticated = events.iter().filter(|event| {
        matches!(event, Event::Reauthenticated { session_id, replaced, .. }
            if *session_id == new_user.session_id && *replaced == old_user.session_id)
    });
    assert_eq!(reauthenticated.count(), 1);
    let replaced = |event: &&Event| {
        matches!(event, Event::SessionRevoked { session_id, reason: RevocationReason::Replaced, .. }
            if *session_id == old_user.session_id)
    };
    assert_eq!(events.iter().filter(replaced).count(), 1);
    assert!(!events.iter().any(|event| matches!(event, Event::LoggedIn { .. } | Event::NewDevice { .. })));
}

#[tokio::test]
async fn a_session_goes_on_with_the_terms_that_its_login_was_given() {
    let node = Node::with_policy(Policy::aal2());
    let day = Duration::from_secs(12 * 3600);
    let login = node.auth.login("alice", claims("user")).client(client());
    let login = login.persistent(false).lifetime(day).external("https://idp.example", "s1").await.unwrap();
    node.clock.advance(5 * MINUTE);
    let new = node.auth.reauthenticated(&user(&node, &login).await).await.unwrap();
    assert_eq!(new.tokens.session_expires_in, day - 5 * MINUTE, "its end does not move");
    assert!(!set_cookie(new).contains("Max-Age"));
    assert_eq!(node.auth.revoke_external("https://idp.example", "s1").await.unwrap(), 1);
    assert!(node.auth.sessions("alice").await.unwrap().is_empty());
}

fn set_cookie(login: Login) -> String {
    let response: Response<Body> = axum::response::IntoResponse::into_response(login);
    response.headers()["set-cookie"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_session_without_a_refresh_token_goes_on_without_one() {
    let node = node();
    let login = node.auth.login("alice", claims("user")).client(client()).without_refresh().await.unwrap();
    let new = node.auth.reauthenticated(&user(&node, &login).await).await.unwrap();
    assert_eq!((new.tokens.refresh_token, new.tokens.refresh_in), (None, None));
}

#[tokio::test]
async fn the_claims_of_a_session_that_goes_on_come_from_the_hook_if_there_is_one() {
    let node = Node::with(|builder| {
        builder.claims_hook(async |request| {
            assert_eq!(request.claims, Some(claims("user")));
            Ok::<_, std::io::Error>((&*request.session.user_id != "mallory").then(|| claims("from the hook")))
        })
    });
    let login = node.login("alice").await;
    let new = node.auth.reauthenticated(&user(&node, &login).await).await.unwrap();
    assert_eq!(user(&node, &new).await.claims.role, "from the hook");
    let refused = node.login("mallory").await;
    let refused = node.auth.reauthenticated(&user(&node, &refused).await).await;
    assert_eq!(code(refused), "user_refused");
    assert_eq!(node.auth.sessions("mallory").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_revoked_an_expired_and_an_unknown_session_cannot_go_on_and_an_idle_one_can() {
    let node = Node::with_policy(Policy::aal2());
    let again = async |id| node.auth.reauthenticated(id).client(client()).await.map(|login| login.tokens.session_id);
    assert_eq!(code(again(SessionId::from_bytes([7; 16])).await), "session_not_found");
    let revoked = node.login("alice").await.tokens.session_id;
    node.auth.revoke_session(revoked, RevocationReason::Other).await.unwrap();
    assert_eq!(code(again(revoked).await), "session_not_found");
    let idle = node.login("alice").await.tokens;
    node.clock.advance(60 * MINUTE);
    assert_eq!(code(node.refresh(&idle.refresh_token.unwrap()).await), "session_idle");
    let new = again(idle.session_id).await.unwrap();
    assert_eq!(node.auth.sessions("alice").await.unwrap().iter().map(|session| session.id).collect::<Vec<_>>(), [new]);
    // It has replaced the idle one.
    assert_eq!(code(again(idle.session_id).await), "session_not_found");
    node.clock.advance(24 * 60 * MINUTE);
    assert_eq!(code(again(new).await), "session_not_found");
}

#[tokio::test]
async fn a_session_that_is_revoked_at_the_last_moment_does_not_go_on() {
    let node = node();
    let login = node.login("alice").await;
    let caller = user(&node, &login).await;
    node.store.set(Fault::RevokesBeforeInsert);
    assert_eq!(code(node.auth.reauthenticated(&caller).await), "session_not_found");
    node.store.set(Fault::None);
    assert!(node.auth.sessions("alice").await.unwrap().is_empty());
    assert!(!node.has_event(|event| matches!(event, Event::Reauthenticated { .. })));
}

#[tokio::test]
async fn a_session_that_goes_on_does_not_count_twice_for_the_session_limit() {
    let node = Node::with_policy(Policy {
        max_sessions: Some(1),
        on_max_sessions: axum_refresh::config::OnMaxSessions::Refuse,
        ..Policy::default()
    });
    let login = node.login("alice").await;
    assert!(node.auth.reauthenticated(&user(&node, &login).await).await.is_ok());
}

#[tokio::test]
async fn if_the_store_fails_the_old_session_stays() {
    let node = node();
    let login = node.login("alice").await;
    let caller = user(&node, &login).await;
    node.store.set(Fault::Fails);
    assert_eq!(code(node.auth.reauthenticated(&caller).await), "store_unavailable");
    node.store.set(Fault::None);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    node.refresh(&login.tokens.refresh_token.unwrap()).await.unwrap();
}

#[tokio::test]
async fn the_session_of_a_refresh_token_is_found_as_long_as_the_token_is_current() {
    let node = Node::with_policy(Policy { binding: bound(BindingMode::Reject), ..Policy::aal2() });
    let found = async |token: &str| node.auth.session_of_refresh_token(token).await.unwrap().map(|session| session.id);
    let login = node.login("alice").await.tokens;
    let first = login.refresh_token.unwrap();
    assert_eq!(found(&first).await, Some(login.session_id));
    node.after_grace();
    let second = node.rotate(&first).await;
    // The response may be lost.
    node.after_grace();
    assert_eq!(found(&first).await, Some(login.session_id));
    let third = node.rotate(&second).await;
    node.after_grace();
    assert_eq!(found(&first).await, None, "superseded");
    node.clock.advance(60 * MINUTE);
    assert_eq!(code(node.refresh(&third).await), "session_idle");
    assert_eq!(found(&third).await, Some(login.session_id), "idle");
    assert_eq!(found(&third.replace(third.get(20..22).unwrap(), "__")).await, None, "forged");
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 0);
    node.clock.advance(24 * 60 * MINUTE);
    assert_eq!(found(&third).await, None, "expired");
    let ended = node.login("alice").await.tokens;
    node.auth.revoke_session(ended.session_id, RevocationReason::Other).await.unwrap();
    assert_eq!(found(&ended.refresh_token.unwrap()).await, None, "revoked");
}

#[tokio::test]
async fn one_factor_does_not_prolong_a_session_however_often_it_is_entered() {
    let node = Node::with_policy(Policy::aal2());
    let mut session = node.login("alice").await.tokens.session_id;
    for _ in 0..23 {
        node.clock.advance(60 * MINUTE);
        session = node.auth.reauthenticated(session).client(client()).await.unwrap().tokens.session_id;
    }
    let full = node.auth.reauthenticated(session).client(client()).lifetime(24 * 60 * MINUTE).await.unwrap().tokens;
    assert_eq!(full.session_expires_in, 24 * 60 * MINUTE, "a full authentication may");
    let other = node.login("bob").await.tokens.session_id;
    node.clock.advance(24 * 60 * MINUTE);
    for session in [full.session_id, other] {
        assert_eq!(code(node.auth.reauthenticated(session).await), "session_not_found");
    }
}

#[tokio::test]
async fn a_superseded_token_finds_no_session_also_while_a_race_is_not_decided() {
    let node = node();
    let mut token = node.refresh_token("alice").await;
    let first = token.clone();
    for _ in 0..3 {
        node.after_grace();
        token = node.rotate(&token).await;
    }
    assert_eq!(code(node.auth.session_of_refresh_token(&first).await), "refresh_busy");
    node.after_grace();
    assert_eq!(node.auth.session_of_refresh_token(&first).await.unwrap(), None);
    assert!(node.auth.session_of_refresh_token(&token).await.unwrap().is_some());
}

#[tokio::test]
async fn a_session_that_ends_while_its_user_authenticates_again_does_not_go_on() {
    for everyone in [false, true] {
        let node = Arc::new(std::sync::OnceLock::<Node>::new());
        let inner = Arc::clone(&node);
        let built = Node::with(move |builder| {
            builder.claims_hook(move |request| {
                let node = inner.get().unwrap().clone();
                async move {
                    match everyone {
                        true => drop(node.auth.revoke_all(RevocationReason::Other).await.unwrap()),
                        false => drop(
                            node.auth
                                .revoke_user(&request.session.user_id, None, RevocationReason::Logout)
                                .await
                                .unwrap(),
                        ),
                    }
                    Ok::<_, Error>(request.claims)
                }
            })
        });
        let node = node.get_or_init(|| built);
        let old = node.login("alice").await.tokens;
        assert_eq!(code(node.auth.reauthenticated(old.session_id).client(client()).await), "session_not_found");
        assert!(node.auth.sessions("alice").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn of_two_that_authenticate_again_at_once_one_session_goes_on() {
    for _ in 0..200 {
        let node = node();
        let id = node.login("alice").await.tokens.session_id;
        let again = || async { node.auth.reauthenticated(id).client(client()).await };
        let (one, other) = tokio::join!(again(), again());
        assert!(one.is_ok() != other.is_ok());
        let live: Vec<_> = node.auth.sessions("alice").await.unwrap().iter().map(|session| session.id).collect();
        assert_eq!(live, [one.or(other).unwrap().tokens.session_id]);
    }
}

#[tokio::test]
async fn a_client_with_its_refresh_token_in_the_body_goes_on_with_it_in_the_body() {
    let node = Node::with(|builder| builder.configure(|settings| settings.transport = Transport::Both));
    for transport in [Transport::Body, Transport::Cookie] {
        let login = node.auth.login("alice", claims("user")).client(client()).transport(transport).await.unwrap();
        let caller = user(&node, &login).await;
        let updated: Response<Body> = node.auth.update_claims(&caller, claims("admin")).await.unwrap().into_response();
        assert!(!updated.headers().contains_key("set-cookie"));
        let new = node.auth.reauthenticated(&caller).client(client()).await.unwrap().into_response();
        assert_eq!(new.headers().contains_key("set-cookie"), transport == Transport::Cookie);
        let body = new.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["refresh_token"].is_string(), transport == Transport::Body);
    }
}

#[tokio::test]
async fn a_short_session_with_a_refresh_token_keeps_one() {
    let node = node();
    let login = node.auth.login("alice", claims("user")).client(client()).lifetime(10 * MINUTE).await.unwrap();
    let caller = user(&node, &login).await;
    assert!(node.auth.update_claims(&caller, claims("admin")).await.unwrap().tokens.refresh_in.is_some());
    assert!(node.auth.reauthenticated(&caller).await.unwrap().tokens.refresh_token.is_some());
}

// ---- routes ----

struct Fresh;

impl Rule for Fresh {
    fn requirement() -> Requirement {
        Recent(MINUTE).into()
    }
}

struct Unreachable;

impl Rule for Unreachable {
    fn requirement() -> Requirement {
        Acr::new("aal9").into()
    }
}

async fn by_rule<R: Rule>(user: Required<R, Claims>) -> String {
    user.user.id.to_string()
}

async fn by_check(State(auth): State<Auth<Claims>>, user: AuthUser<Claims>) -> Result<String, Error> {
    auth.check(&user, Recent(MINUTE))?;
    Ok(user.id.to_string())
}

async fn name(user: AuthUser<Claims>) -> String {
    user.id.to_string()
}

fn app(node: &Node) -> Router {
    let auth = &node.auth;
    let require = |requirement: Requirement| auth.require(requirement).unwrap();
    let recent = || require(Recent(MINUTE).into());
    let plain = Router::new()
        .route("/rule", get(by_rule::<Fresh>))
        .route("/unreachable", get(by_rule::<Unreachable>))
        .route("/check", get(by_check))
        .route_layer(auth.layer());
    Router::new()
        .route("/alone", get(name).post(name).layer(recent()))
        .route("/inside", get(name).layer((auth.layer(), recent())))
        .route("/outside", get(name).layer((recent(), auth.layer(), auth.guard())))
        .route("/strong", get(name).layer(require(Acr::new("aal2").into())))
        .route("/both", get(name).layer(require((Recent(MINUTE), Acr::new("aal2")).into())))
        .route("/confirm", get(name).layer(recent()))
        .merge(plain)
        .nest("/auth", auth.router())
        .with_state(auth.clone())
}

async fn send(app: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path).header("host", "app.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response: Response<Body> = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    (parts.status.as_u16(), parts.headers, String::from_utf8(body).unwrap())
}

/// A GET with an access token: the code, or the body if it is no refusal, and the challenge.
async fn get_with(app: &Router, token: &str, path: &str) -> (String, String) {
    let bearer = format!("Bearer {token}");
    let (status, headers, body) =
        send(app, "GET", path, &[("authorization", &bearer), ("user-agent", "curl/8.5.0")]).await;
    let challenge = headers.get("www-authenticate").map_or("", |value| value.to_str().unwrap()).to_owned();
    if status == 200 {
        return (body, challenge);
    }
    let body: Value = serde_json::from_str(&body).unwrap();
    (format!("{status} {}", body["code"].as_str().unwrap()), challenge)
}

const REFUSED: &str = "401 insufficient_user_authentication";

#[tokio::test]
async fn a_route_may_require_a_recent_authentication_by_layer_by_extractor_and_by_check() {
    let node = node();
    let app = app(&node);
    let token = node.login("alice").await.tokens.access_token;
    let paths = ["/alone", "/inside", "/outside", "/rule", "/check"];
    for (elapsed, allowed) in [(0, true), (60, true), (62, false), (600, false)] {
        node.clock.advance(Duration::from_secs(elapsed).saturating_sub(node.clock.now().since(START)));
        for path in paths {
            let (answer, challenge) = get_with(&app, &token, path).await;
            if allowed {
                assert_eq!((answer.as_str(), challenge.as_str()), ("alice", ""), "{path} after {elapsed} s");
            } else {
                let expected = r#"Bearer error="insufficient_user_authentication", max_age="60""#;
                assert_eq!((answer.as_str(), challenge.as_str()), (REFUSED, expected), "{path} after {elapsed} s");
            }
        }
    }
    let old = node.auth.authenticate(&token).await.unwrap();
    let new = node.auth.reauthenticated(&old).client(client()).await.unwrap().tokens.access_token;
    for path in paths {
        assert_eq!(get_with(&app, &new, path).await.0, "alice", "{path}");
        assert_eq!(get_with(&app, &token, path).await.0, "401 access_token_revoked", "{path}");
        let (status, headers, _) = send(&app, "GET", path, &[]).await;
        assert_eq!((status, headers["www-authenticate"].to_str().unwrap()), (401, "Bearer"), "{path}");
    }
}

const START: axum_refresh::store::Timestamp = axum_refresh::store::Timestamp::from_millis(1_800_000_000_000);

#[tokio::test]
async fn the_leeway_between_clocks_is_added_to_the_age() {
    let node = Node::with(|builder| builder.configure(|settings| settings.leeway = MINUTE));
    let app = app_with_recent(&node);
    let token = node.login("alice").await.tokens.access_token;
    for (elapsed, expected) in [(120, "alice"), (2, REFUSED)] {
        node.clock.advance(Duration::from_secs(elapsed));
        assert_eq!(get_with(&app, &token, "/").await.0, expected);
    }
}

fn app_with_recent(node: &Node) -> Router {
    Router::new().route("/", get(name)).route_layer(node.auth.require(Recent(MINUTE)).unwrap())
}

#[tokio::test]
async fn a_clock_that_was_ahead_at_the_authentication_refuses_nobody() {
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let (behind, ahead) = (clock.clone(), Clock::new());
    ahead.advance(Duration::from_secs(20));
    let node = Node::on(store.clone(), behind, |builder| builder);
    let other = Node::on(store, ahead, |builder| builder);
    let token = other.login("alice").await.tokens.access_token;
    assert_eq!(get_with(&app_with_recent(&node), &token, "/").await.0, "alice");
}

#[tokio::test]
async fn a_route_may_require_a_class_and_accepts_the_stronger_ones() {
    let node = node();
    let app = app(&node);
    let strong = r#"Bearer error="insufficient_user_authentication", acr_values="aal2 aal3""#;
    for (acr, allowed) in [(None, false), (Some("aal1"), false), (Some("aal2"), true), (Some("aal3"), true)] {
        let mut login = node.auth.login("alice", claims("user")).client(client());
        if let Some(acr) = acr {
            login = login.acr(acr);
        }
        let token = login.await.unwrap().tokens.access_token;
        let expected = if allowed { ("alice", "") } else { (REFUSED, strong) };
        let (answer, challenge) = get_with(&app, &token, "/strong").await;
        assert_eq!((answer.as_str(), challenge.as_str()), expected, "{acr:?}");
        // All that is required is in one challenge, whichever is missing.
        node.clock.advance(2 * MINUTE);
        let both = format!("{strong}, max_age=\"60\"");
        assert_eq!(get_with(&app, &token, "/both").await, (REFUSED.to_owned(), both), "{acr:?}");
    }
}

#[tokio::test]
async fn what_nobody_can_reach_is_an_error_and_not_a_refusal_forever() {
    let node = node();
    let setting = |error: SettingsError| error.setting();
    assert_eq!(node.auth.require(Acr::new("aal4")).map(drop).map_err(setting), Err("acr_values"));
    assert_eq!(node.auth.require(Recent(Duration::from_millis(999))).map(drop).map_err(setting), Err("require"));
    let login = node.login("alice").await;
    let caller = user(&node, &login).await;
    assert!(matches!(node.auth.check(&caller, Acr::new("aal4")), Err(Error::Requirement(_))));
    assert_eq!(get_with(&app(&node), &login.tokens.access_token, "/unreachable").await.0, "500 internal");
}

fn with_page(settings: &mut Settings) {
    *settings =
        Settings { login_page: Some("/login".into()), step_up_page: Some("/confirm".into()), ..Settings::for_pages() };
    levels(settings);
}

#[tokio::test]
async fn a_page_is_redirected_to_the_one_where_the_user_confirms_and_back() {
    let node = Node::with(|builder| builder.configure(with_page));
    let app = app(&node);
    let token = node.login("alice").await.tokens.access_token;
    let cookie = format!("__Host-access={token}");
    node.clock.advance(2 * MINUTE);
    let location = async |method, path, more: &[(&str, &str)]| {
        let headers = [&[("cookie", cookie.as_str())], more].concat();
        let (status, headers, _) = send(&app, method, path, &headers).await;
        let target = headers.get("location").or(headers.get("hx-redirect"));
        (status, target.map(|value| value.to_str().unwrap().to_owned()))
    };
    let to = |status, target: &str| (status, Some(target.to_owned()));
    assert_eq!(location("GET", "/alone?a=1", &[HTML]).await, to(303, "/confirm?next=/alone%3Fa%3D1"));
    assert_eq!(location("GET", "/alone", &[]).await, (401, None));
    // A form leads back to the page with the form, and to nowhere else.
    let form = [HTML, ("origin", "https://app.example"), ("referer", "https://app.example/form?x=1")];
    assert_eq!(location("POST", "/alone", &form).await, to(303, "/confirm?next=/form%3Fx%3D1"));
    assert_eq!(location("POST", "/alone", &form[..2]).await, to(303, "/confirm"));
    let htmx = [("hx-request", "true"), ("hx-current-url", "https://app.example/form")];
    assert_eq!(location("GET", "/alone", &htmx).await, to(401, "/confirm?next=/form"));
    // The page itself must not redirect to itself.
    assert_eq!(location("GET", "/confirm", &[HTML]).await, (401, None));
    // Who is not logged in logs in.
    let (status, headers, _) = send(&app, "GET", "/alone", &[HTML]).await;
    assert_eq!((status, headers["location"].to_str().unwrap()), (303, "/login?next=/alone"));
}

// ---- ending sessions ----

#[tokio::test]
async fn ending_other_sessions_may_require_a_recent_authentication_and_logging_out_never_does() {
    let node = Node::with(|builder| builder.configure(|settings| settings.revocation_max_age = Some(5 * MINUTE)));
    let app = Router::new().nest("/auth", node.auth.router::<()>());
    let other = node.login("alice").await.tokens.session_id;
    let login = node.login("alice").await;
    node.clock.advance(6 * MINUTE);
    let token = login.tokens.access_token.clone();
    let ask = async |token: &str, method, path: &str| {
        let bearer = format!("Bearer {token}");
        let (status, _, body) = send(&app, method, path, &[("authorization", &bearer)]).await;
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    let refused = (401, "insufficient_user_authentication".to_owned());
    let of_other = format!("/auth/sessions/{other}");
    for (method, path) in [("POST", "/auth/logout/all"), ("POST", "/auth/logout/others"), ("DELETE", &*of_other)] {
        assert_eq!(ask(&token, method, path).await, refused, "{path}");
    }
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 2);
    let new = node.auth.reauthenticated(&user(&node, &login).await).client(client()).await.unwrap().tokens;
    assert_eq!(ask(&new.access_token, "DELETE", &of_other).await.0, 204);
    node.clock.advance(6 * MINUTE);
    assert_eq!(ask(&new.access_token, "POST", "/auth/logout").await.0, 204);
    // One's own session is one's own.
    let own = node.login("alice").await.tokens;
    node.clock.advance(6 * MINUTE);
    assert_eq!(ask(&own.access_token, "DELETE", &format!("/auth/sessions/{}", own.session_id)).await.0, 204);
}

// ---- another client ----

fn bound(user_agent: BindingMode) -> Binding {
    Binding { user_agent, ..Binding::default() }
}

fn firefox() -> ClientInfo {
    let header = "Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0";
    ClientInfo::new().ip("203.0.113.7".parse().unwrap()).user_agent(header)
}

#[tokio::test]
async fn a_session_that_another_client_uses_goes_on_once_the_user_has_authenticated_again() {
    let node = Node::with_policy(Policy { binding: bound(BindingMode::StepUp), ..Policy::default() });
    let guarded = Router::new().route("/", get(name)).route_layer(node.auth.guard());
    let challenge = r#"Bearer error="insufficient_user_authentication", max_age="0""#;
    let login = node.login("alice").await;
    let token = login.tokens.access_token.clone();
    assert_eq!(get_with(&guarded, &token, "/").await.0, "alice");
    let as_firefox = async |token: &str| {
        let bearer = format!("Bearer {token}");
        let user_agent = "Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0";
        let (status, headers, _) =
            send(&guarded, "GET", "/", &[("authorization", &bearer), ("user-agent", user_agent)]).await;
        (status, headers.get("www-authenticate").map_or("", |value| value.to_str().unwrap()).to_owned())
    };
    for _ in 0..2 {
        assert_eq!(as_firefox(&token).await, (401, challenge.to_owned()));
    }
    // A refresh by it is refused too, and nothing moves.
    let refresh = login.tokens.refresh_token.clone().unwrap();
    node.after_grace();
    assert_eq!(code(node.auth.refresh(&refresh, firefox()).await), "insufficient_user_authentication");
    assert!(node.has_event(|event| {
        matches!(event, Event::ClientMismatch { verdict: axum_refresh::ratchet::BindingVerdict::StepUp, .. })
    }));
    let next = node.rotate(&refresh).await;
    let session = node.auth.session_of_refresh_token(&next).await.unwrap().unwrap();
    let new = node.auth.reauthenticated(&session).client(firefox()).await.unwrap().tokens;
    assert_eq!(as_firefox(&new.access_token).await.0, 200);
    node.after_grace();
    node.auth.refresh(&new.refresh_token.unwrap(), firefox()).await.unwrap();
}

#[tokio::test]
async fn a_planted_cookie_of_another_client_does_not_hide_the_browsers_own() {
    let node = Node::with_policy(Policy { binding: bound(BindingMode::StepUp), ..Policy::default() });
    let app = Router::new().nest("/auth", node.auth.router::<()>());
    let planted = node.auth.login("mallory", claims("user")).client(firefox()).await.unwrap().tokens;
    let own = node.login("alice").await.tokens;
    node.after_grace();
    let cookie = |token: &Option<String>| format!("__Secure-refresh={}", token.as_deref().unwrap());
    let cookies = format!("{}; {}", cookie(&planted.refresh_token), cookie(&own.refresh_token));
    let (status, _, body) =
        send(&app, "POST", "/auth/refresh", &[("cookie", &cookies), ("user-agent", "curl/8.5.0")]).await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(payload(body["access_token"].as_str().unwrap())["sub"], "alice");
}

#[tokio::test]
async fn a_visitor_whose_client_has_changed_confirms_and_need_not_log_in_again() {
    let node = Node::with(|builder| {
        builder.configure(|settings| {
            with_page(settings);
            settings.policy.binding = bound(BindingMode::StepUp);
        })
    });
    let app = Router::new().route("/", get(name)).route_layer((
        node.auth.pages().unwrap(),
        node.auth.layer(),
        node.auth.guard(),
    ));
    let tokens = node.login("alice").await.tokens;
    let (access, refresh) = (tokens.access_token, tokens.refresh_token.unwrap());
    node.after_grace();
    // Whether the access cookie is there or has expired.
    for cookie in [format!("__Host-access={access}; __Host-refresh={refresh}"), format!("__Host-refresh={refresh}")] {
        let headers = [("cookie", cookie.as_str()), HTML, ("user-agent", "another browser")];
        let (status, headers, _) = send(&app, "GET", "/", &headers).await;
        assert_eq!((status, headers["location"].to_str().unwrap()), (303, "/confirm?next=/"));
    }
}

#[tokio::test]
async fn a_request_that_an_optional_guard_lets_through_as_anonymous_is_refused_by_a_layer_inside_that_is_not_optional()
{
    let node = Node::with(|builder| {
        builder.configure(|settings| {
            *settings = Settings::for_pages();
            settings.policy.binding = bound(BindingMode::Reject);
        })
    });
    let auth = &node.auth;
    async fn who(user: Option<AuthUser<Claims>>) -> String {
        user.map_or_else(|| "nobody".to_owned(), |user| user.id.to_string())
    }
    let optional = || auth.guard().optional();
    let app = Router::new()
        .route("/optional", get(who).layer((optional(), auth.layer().optional())))
        .route("/layer", get(who).layer((optional(), auth.layer())))
        .route("/require", get(who).layer((optional(), auth.require(Recent(MINUTE)).unwrap())))
        .route("/user", get(name).layer(optional()));
    let cookie = format!("__Host-access={}", node.login("alice").await.tokens.access_token);
    let ask = async |path, user_agent| {
        let (status, _, body) = send(&app, "GET", path, &[("cookie", &cookie), ("user-agent", user_agent)]).await;
        let code = serde_json::from_str::<Value>(&body).map(|body| body["code"].as_str().unwrap().to_owned());
        (status, code.unwrap_or(body))
    };
    for path in ["/layer", "/require", "/user"] {
        assert_eq!(ask(path, "curl/8.5.0").await, (200, "alice".to_owned()), "{path}");
        assert_eq!(ask(path, "another").await, (401, "client_mismatch".to_owned()), "{path}");
    }
    assert_eq!(ask("/optional", "another").await, (200, "nobody".to_owned()));
}

#[tokio::test]
async fn any_age_is_a_requirement_that_everybody_meets() {
    let node = Node::with(|builder| builder.configure(|settings| settings.revocation_max_age = Some(Duration::MAX)));
    let app = Router::new()
        .route("/", get(name).layer(node.auth.require(Recent(Duration::MAX)).unwrap()))
        .nest("/auth", node.auth.router::<()>());
    let token = node.login("alice").await.tokens.access_token;
    assert_eq!(get_with(&app, &token, "/").await.0, "alice");
    let bearer = format!("Bearer {token}");
    assert_eq!(send(&app, "POST", "/auth/logout/others", &[("authorization", &bearer)]).await.0, 200);
}

#[tokio::test]
async fn a_slow_page_does_not_overwrite_the_cookies_of_the_session_that_goes_on() {
    let node = Node::with(|builder| builder.configure(with_page));
    let tokens = node.login("alice").await.tokens;
    let (reauthenticating, id) = (node.auth.clone(), tokens.session_id);
    let slow = async move || {
        drop(reauthenticating.reauthenticated(id).await.unwrap());
        "slow"
    };
    let app = Router::new().route("/", get(slow)).layer(node.auth.pages().unwrap());
    node.after_grace();
    let cookie = format!("__Host-refresh={}", tokens.refresh_token.unwrap());
    let (status, headers, _) = send(&app, "GET", "/", &[("cookie", &cookie)]).await;
    assert_eq!((status, headers.get("set-cookie")), (200, None));
}

#[tokio::test]
async fn a_planted_cookie_of_another_browser_is_not_the_session_to_confirm() {
    let node = Node::with_policy(Policy { binding: bound(BindingMode::Reject), ..Policy::default() });
    let mut planted =
        node.auth.login("mallory", claims("user")).client(firefox()).await.unwrap().tokens.refresh_token.unwrap();
    for _ in 0..3 {
        node.after_grace();
        planted = node.auth.refresh(&planted, firefox()).await.unwrap().tokens.refresh_token.unwrap();
    }
    let own = node.refresh_token("alice").await;
    let mut headers = HeaderMap::new();
    headers.insert("cookie", format!("__Secure-refresh={planted}; __Secure-refresh={own}").parse().unwrap());
    headers.insert("user-agent", "curl/8.5.0".parse().unwrap());
    assert_eq!(&*node.auth.session_of_cookies(&headers).await.unwrap().unwrap().user_id, "alice");
}

#[tokio::test]
async fn whoever_authenticates_again_may_do_so_by_the_refresh_cookie() {
    async fn again(State(auth): State<Auth<Claims>>, client: ClientInfo, headers: HeaderMap) -> Result<Login, Error> {
        let session = auth.session_of_cookies(&headers).await?.ok_or(Error::RefreshTokenInvalid)?;
        auth.reauthenticated(&session).client(client).await
    }
    let node = Node::with_policy(Policy::aal2());
    let app = Router::new().route("/auth/again", post(again)).with_state(node.auth.clone());
    let login = node.login("alice").await.tokens;
    node.clock.advance(60 * MINUTE);
    let cookie = format!("__Secure-refresh={}", login.refresh_token.unwrap());
    assert_eq!(send(&app, "POST", "/auth/again", &[]).await.0, 401);
    let (status, headers, body) = send(&app, "POST", "/auth/again", &[("cookie", &cookie)]).await;
    assert_eq!(status, 200, "{body}");
    assert!(headers["set-cookie"].to_str().unwrap().starts_with("__Secure-refresh="));
    assert_eq!(send(&app, "POST", "/auth/again", &[("cookie", &cookie)]).await.0, 401, "it was replaced");
}
