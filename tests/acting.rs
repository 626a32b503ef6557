//! Acting for a user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::routing::get;
use axum_refresh::config::{Binding, BindingMode, OnMaxSessions};
use axum_refresh::rejection::LoginError;
use axum_refresh::step_up::Recent;
use axum_refresh::{AuthUser, Error, Event, Login, Policy, RevocationReason, SessionId};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::{Claims, Clock, FaultyStore, Node, claims, client, code};
use tower::ServiceExt as _;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

async fn user(node: &Node, login: &Login) -> AuthUser<Claims> {
    node.auth.authenticate(&login.tokens.access_token).await.unwrap()
}

/// An administrator, and a session in which they act for bob.
async fn acting(node: &Node) -> (AuthUser<Claims>, Login) {
    let admin = node.auth.login("alice", claims("admin")).client(client()).amr(["pwd", "otp"]).await.unwrap();
    let admin = user(node, &admin).await;
    let login = node.auth.login("bob", claims("user")).client(client()).acting(&admin).await.unwrap();
    (admin, login)
}

fn payload(token: &str) -> Value {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn the_token_names_the_user_and_the_actor_whose_authentication_it_rests_on() {
    let node = Node::new();
    let began = node.clock.now().as_secs();
    let admin = node.auth.login("alice", claims("admin")).client(client()).amr(["pwd", "otp"]).await.unwrap();
    let admin = user(&node, &admin).await;
    node.clock.advance(5 * MINUTE);
    let login = node.auth.login("bob", claims("user")).client(client()).acting(&admin).await.unwrap();
    let says = payload(&login.tokens.access_token);
    assert_eq!((&says["sub"], &says["auth_time"]), (&json!("bob"), &json!(began)));
    assert_eq!(says["act"], json!({"sub": "alice", "sid": admin.session_id}));
    assert_eq!(says["amr"], json!(["pwd", "otp"]));
    let acting = user(&node, &login).await;
    assert_eq!((&*acting.id, &*acting.claims.role), ("bob", "user"));
    let actor = acting.actor().unwrap();
    assert_eq!((&*actor.user_id, actor.session_id), ("alice", admin.session_id));
    assert_eq!(code(node.auth.check(&acting, Recent(MINUTE))), "insufficient_user_authentication");
    assert!(admin.actor().is_none());
}

#[tokio::test]
async fn whoever_acts_gets_no_refresh_token_unless_the_app_asks_for_it_and_an_hour_at_most() {
    let node = Node::with_policy(Policy { access_ttl: 2 * HOUR, ..Policy::default() });
    let (admin, login) = acting(&node).await;
    assert_eq!((login.tokens.refresh_token, login.tokens.refresh_in), (None, None));
    assert_eq!(login.tokens.expires_in, HOUR);
    let act = || node.auth.login("bob", claims("user")).client(client()).acting(&admin).with_refresh();
    let tokens = act().await.unwrap().tokens;
    assert_eq!(tokens.session_expires_in, HOUR);
    assert_eq!(act().lifetime(10 * MINUTE).await.unwrap().tokens.session_expires_in, 10 * MINUTE);
    node.clock.advance(30 * MINUTE);
    let refreshed = node.refresh(&tokens.refresh_token.unwrap()).await.unwrap().tokens;
    assert_eq!(payload(&refreshed.access_token)["act"]["sub"], "alice");
    assert_eq!(refreshed.expires_in, 30 * MINUTE);
    node.clock.advance(30 * MINUTE);
    assert_eq!(code(node.refresh(&refreshed.refresh_token.unwrap()).await), "session_expired");
}

#[tokio::test]
async fn a_session_does_not_outlive_the_actors() {
    let node = Node::new();
    let admin = node.auth.login("alice", claims("admin")).client(client()).lifetime(HOUR).await.unwrap();
    node.clock.advance(5 * MINUTE);
    let admin = user(&node, &admin).await;
    let acting = node.auth.login("bob", claims("user")).client(client()).acting(&admin).with_refresh().await.unwrap();
    assert_eq!(acting.tokens.session_expires_in, 55 * MINUTE);
}

/// What ends a session.
#[derive(Clone, Copy, Debug)]
enum End {
    Session,
    User,
    Everyone,
    Reauthentication,
}

#[tokio::test]
async fn whatever_ends_the_actors_session_ends_the_one_in_which_they_act_on_every_node() {
    for end in [End::Session, End::User, End::Everyone, End::Reauthentication] {
        let (store, clock) = (FaultyStore::default(), Clock::new());
        let node = Node::on(store.clone(), clock.clone(), |builder| builder);
        let other = Node::on(store, clock, |builder| builder);
        let (admin, login) = acting(&node).await;
        let with_refresh = node.auth.login("carol", claims("user")).client(client()).acting(&admin).with_refresh();
        let refresh = with_refresh.await.unwrap().tokens.refresh_token.unwrap();
        let token = &login.tokens.access_token;
        let here = user(&node, &login).await;
        let waiting = node.auth.revoked(&here);
        other.auth.authenticate(token).await.unwrap();
        match end {
            End::Session => node.auth.revoke_session(admin.session_id, RevocationReason::Logout).await.unwrap(),
            End::User => drop(node.auth.revoke_user("alice", None, RevocationReason::Other).await.unwrap()),
            End::Everyone => drop(node.auth.revoke_all(RevocationReason::Other).await.unwrap()),
            End::Reauthentication => drop(node.auth.reauthenticated(&admin).await.unwrap()),
        }
        assert_eq!(code(node.auth.authenticate(token).await), "access_token_revoked", "{end:?}");
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap();
        assert_eq!(code(node.refresh(&refresh).await), "session_revoked", "{end:?}");
        assert!(node.auth.sessions("bob").await.unwrap().is_empty(), "{end:?}");
        // The other node reads the feed within a second.
        let told = async {
            while other.auth.authenticate(token).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), told).await.unwrap();
    }
}

#[tokio::test]
async fn an_actor_whose_session_has_become_idle_acts_no_longer_and_acting_keeps_it_from_that() {
    let node = Node::with_policy(Policy::aal2());
    let (admin, _) = acting(&node).await;
    let act = || node.auth.login("bob", claims("user")).client(client()).acting(&admin).with_refresh();
    let mut token = act().await.unwrap().tokens.refresh_token.unwrap();
    for _ in 0..3 {
        node.clock.advance(14 * MINUTE);
        token = node.rotate(&token).await;
    }
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 1);
    // Another one, of an actor who does nothing.
    node.clock.advance(HOUR);
    assert_eq!(code(node.refresh(&token).await), "session_revoked");
    assert!(matches!(act().await, Err(Error::AccessTokenRevoked)));
}

#[tokio::test]
async fn the_end_of_the_session_does_not_move_with_what_the_actor_does() {
    let node = Node::with_policy(Policy { idle_timeout: 30 * MINUTE, ..Policy::default() });
    let (admin, _) = acting(&node).await;
    let began = node.clock.now();
    let login = node.auth.login("bob", claims("user")).client(client()).acting(&admin).with_refresh().await.unwrap();
    let mut token = login.tokens.refresh_token.unwrap();
    for minutes in [20, 40] {
        node.clock.advance(20 * MINUTE);
        let sessions = node.auth.sessions("bob").await.unwrap();
        let session = sessions.iter().find(|session| session.id == login.tokens.session_id).unwrap();
        assert_eq!(session.expires_at, SystemTime::from(began.after(HOUR)));
        let tokens = node.refresh(&token).await.unwrap().tokens;
        assert_eq!(tokens.session_expires_in, HOUR - minutes * MINUTE);
        token = tokens.refresh_token.unwrap();
    }
}

#[tokio::test]
async fn a_session_that_has_become_idle_does_not_come_back_by_what_its_user_does_for_another() {
    let node = Node::with_policy(Policy { idle_timeout: 30 * MINUTE, ..Policy::default() });
    let admin = node.login("alice").await;
    let admin = user(&node, &admin).await;
    node.clock.advance(25 * MINUTE);
    // A poll, for example.
    let login = node.auth.login("bob", claims("user")).client(client()).acting(&admin).await.unwrap();
    node.clock.advance(6 * MINUTE);
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 0);
    assert_eq!(code(node.auth.authenticate(&login.tokens.access_token).await), "access_token_expired");
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 0);
}

#[tokio::test]
async fn the_end_at_the_identity_provider_counts_also_where_the_actor_seems_to_be_idle() {
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let policy = Policy { idle_timeout: 30 * MINUTE, ..Policy::default() };
    let start = || {
        Node::on(store.clone(), clock.clone(), |builder| builder.configure(|settings| settings.policy = policy.clone()))
    };
    let (node, other) = (start(), start());
    let admin = node.login("alice").await;
    let login = node.auth.login("bob", claims("user")).client(client()).acting(&user(&node, &admin).await);
    let tokens = login.with_refresh().external("https://idp.example", "s1").await.unwrap().tokens;
    node.clock.advance(14 * MINUTE);
    // Only this node knows so far that the actor is active.
    node.auth.authenticate(&admin.tokens.access_token).await.unwrap();
    node.clock.advance(20 * MINUTE);
    assert_eq!(other.auth.sessions("bob").await.unwrap().len(), 0);
    assert_eq!(other.auth.revoke_external("https://idp.example", "s1").await.unwrap(), 1);
    assert_eq!(code(node.refresh(&tokens.refresh_token.unwrap()).await), "session_revoked");
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 1);
}

#[tokio::test]
async fn nobody_acts_for_themselves_or_while_they_act_or_after_their_session_has_ended() {
    let node = Node::new();
    let (admin, login) = acting(&node).await;
    let act = async |user_id: &str, actor: &AuthUser<Claims>| {
        node.auth.login(user_id, claims("user")).client(client()).acting(actor).await.map(drop)
    };
    assert!(matches!(act("alice", &admin).await, Err(Error::Login(LoginError::ActsForSelf))));
    let acting_user = user(&node, &login).await;
    assert!(matches!(act("carol", &acting_user).await, Err(Error::Login(LoginError::ActorActs))));
    let again = node.auth.reauthenticated(&acting_user).await.map(drop);
    assert!(matches!(again, Err(Error::Login(LoginError::Acting))));
    node.auth.revoke_session(admin.session_id, RevocationReason::Other).await.unwrap();
    assert!(matches!(act("carol", &admin).await, Err(Error::AccessTokenRevoked)));
    assert!(node.auth.sessions("carol").await.unwrap().is_empty());
}

#[tokio::test]
async fn acting_ends_no_session_of_the_user_and_none_of_the_actor() {
    let limits = |on_max_sessions| Policy { max_sessions: Some(1), on_max_sessions, ..Policy::default() };
    for policy in [limits(OnMaxSessions::EvictOldest), limits(OnMaxSessions::Refuse)] {
        let node = Node::with_policy(policy);
        let own = node.login("bob").await;
        let (admin, _) = acting(&node).await;
        user(&node, &own).await;
        node.auth.revoke_session(own.tokens.session_id, RevocationReason::Logout).await.unwrap();
        // And does not keep the user from logging in.
        user(&node, &node.login("bob").await).await;
        // Nor is it an end to the actor's, although it came from the same browser.
        let login = node.auth.login("carol", claims("user")).client(client()).replacing(admin.session_id);
        user(&node, &login.acting(&admin).await.unwrap()).await;
        assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_session_does_not_outlive_the_idle_time_of_the_actors_either() {
    let node = Node::with_policy(Policy { idle_timeout: 30 * MINUTE, ..Policy::default() });
    let admin = node.login("alice").await;
    let admin = user(&node, &admin).await;
    node.clock.advance(28 * MINUTE);
    // In a passive request, so that the actor's session is still about to become idle.
    let login = node.auth.login("bob", claims("user")).client(client()).acting(&admin).await.unwrap();
    assert_eq!(login.tokens.expires_in, 2 * MINUTE);
}

#[tokio::test]
async fn what_nobody_may_do_while_they_act_is_their_fault_and_not_the_servers() {
    let node = Node::new();
    let (admin, login) = acting(&node).await;
    let acting_user = user(&node, &login).await;
    let own = user(&node, &node.login("bob").await).await;
    let status = |refused: Result<Login, Error>| {
        let response = axum::response::IntoResponse::into_response(refused.unwrap_err());
        let problem = response.extensions().get::<axum_refresh::rejection::Problem>().unwrap().clone();
        (problem.status().as_u16(), problem.code())
    };
    let act =
        async |user_id: &str, actor| node.auth.login(user_id, claims("user")).client(client()).acting(actor).await;
    assert_eq!(status(act("alice", &admin).await), (403, "acting"));
    assert_eq!(status(act("carol", &acting_user).await), (403, "acting"));
    assert_eq!(status(node.auth.reauthenticated(&acting_user).await), (403, "acting"));
    // A user's own session does not become somebody else's.
    assert_eq!(status(node.auth.reauthenticated(&own).acting(&admin).await), (403, "acting"));
    node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    assert_eq!(node.auth.sessions("bob").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_logout_of_whoever_acts_spares_their_own_session_and_its_cookies() {
    let node = Node::new();
    let admin = node.auth.login("alice", claims("admin")).client(client()).await.unwrap().tokens;
    let admin_user = node.auth.authenticate(&admin.access_token).await.unwrap();
    let login = node.auth.login("bob", claims("user")).client(client()).acting(&admin_user).await.unwrap().tokens;
    let app = Router::new().nest("/auth", node.auth.router::<()>());
    let request = Request::post("/auth/logout")
        .header("authorization", format!("Bearer {}", login.access_token))
        .header("cookie", format!("__Secure-refresh={}", admin.refresh_token.as_deref().unwrap()));
    let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("set-cookie")), (204, None));
    assert_eq!(code(node.auth.authenticate(&login.access_token).await), "access_token_revoked");
    node.auth.authenticate(&admin.access_token).await.unwrap();
    node.rotate(&{
        node.after_grace();
        admin.refresh_token.unwrap()
    })
    .await;
}

#[tokio::test]
async fn the_user_sees_who_acts_and_can_end_it() {
    let node = Node::new();
    let own = node.login("bob").await;
    let (admin, login) = acting(&node).await;
    let app = Router::new().nest("/auth", node.auth.router::<()>());
    let send = async |token: &str, method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        let response: Response<Body> = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice::<Value>(&body).unwrap_or_default())
    };
    let (_, list) = send(&own.tokens.access_token, "GET", "/auth/sessions").await;
    let listed = |id: SessionId| {
        list["sessions"].as_array().unwrap().iter().find(|session| session["id"] == id.to_string()).unwrap().clone()
    };
    assert_eq!(listed(login.tokens.session_id)["actor"], "alice");
    assert!(listed(own.tokens.session_id).get("actor").is_none());
    let path = format!("/auth/sessions/{}", login.tokens.session_id);
    assert_eq!(send(&own.tokens.access_token, "DELETE", &path).await.0, 204);
    assert_eq!(code(node.auth.authenticate(&login.tokens.access_token).await), "access_token_revoked");
    user(&node, &own).await;
    node.auth.authenticate(&node.auth.reauthenticated(&admin).await.unwrap().tokens.access_token).await.unwrap();
}

#[tokio::test]
async fn every_event_that_an_acting_session_causes_names_the_actor() {
    let node = Node::with(|builder| {
        builder.configure(|settings| {
            settings.policy.binding = Binding { user_agent: BindingMode::Observe, ..Binding::default() };
            settings.policy.detect_new_devices = true;
        })
    });
    let (admin, login) = acting(&node).await;
    let with_refresh = node.auth.login("bob", claims("user")).client(client()).acting(&admin).with_refresh();
    let refresh = with_refresh.await.unwrap().tokens.refresh_token.unwrap();
    node.after_grace();
    node.rotate(&refresh).await;
    async fn name(user: AuthUser<Claims>) -> String {
        user.id.to_string()
    }
    let app =
        Router::new().route("/", get(name)).route_layer(node.auth.guard()).nest("/auth", node.auth.router::<()>());
    for (method, path) in [("GET", "/"), ("POST", "/auth/logout/others"), ("POST", "/auth/logout")] {
        let bearer = format!("Bearer {}", login.tokens.access_token);
        let request = Request::builder().method(method).uri(path).header("authorization", bearer);
        let request = request.header("user-agent", "another client").body(Body::empty()).unwrap();
        assert!(app.clone().oneshot(request).await.unwrap().status().is_success(), "{path}");
    }
    let events: Vec<_> = node.events().into_iter().filter(|event| event.user_id() == Some("bob")).collect();
    let kinds: std::collections::BTreeSet<_> = events.iter().map(Event::name).collect();
    let expected = ["client_mismatch", "logged_in", "refreshed", "session_revoked", "user_revoked"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
    for event in &events {
        let actor = event.client().and_then(|client| client.actor.as_ref());
        assert_eq!(actor.map(|actor| &*actor.user_id), Some("alice"), "{event}");
        assert_eq!(serde_json::to_value(event).unwrap()["actor"]["sub"], "alice");
        assert!(event.to_string().contains(r#""alice" acts for the user"#), "{event}");
    }
}
