//! Two kinds of user in one app: two `Auth`s with one secret and one store, kept apart by their realms.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use axum::Router;
use axum::body::Body;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{Request, StatusCode};
use axum::routing::get;
use axum_refresh::config::OnMaxSessions;
use axum_refresh::{
    Auth, AuthUser, ClientInfo, Error, MemoryStore, NoClaims, RevocationReason, Secret, SessionStore, Settings,
};
use tower::ServiceExt as _;

const SECRET: &str = "k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA";

fn auth(store: impl SessionStore, change: impl FnOnce(&mut Settings)) -> Auth {
    Auth::builder(Secret::new(SECRET), store).configure(change).build().unwrap()
}

/// The customers' `Auth`, without a realm, and the administrators', on one store.
fn both() -> (Auth, Auth) {
    let store = MemoryStore::new();
    let admins = auth(store.clone(), |settings| {
        settings.realm = Some("admin".to_owned());
        settings.audience = "admin".to_owned();
    });
    (auth(store, |_| {}), admins)
}

async fn log_in(auth: &Auth, user_id: &str) -> (String, String) {
    let tokens = auth.login(user_id, NoClaims {}).await.unwrap().tokens;
    (tokens.access_token, tokens.refresh_token.unwrap())
}

async fn refused(auth: &Auth, refresh_token: &str) -> &'static str {
    auth.refresh(refresh_token, ClientInfo::new()).await.unwrap_err().code()
}

#[tokio::test]
async fn a_refresh_token_of_one_realm_is_invalid_in_another() {
    let (users, admins) = both();
    let (_, token) = log_in(&users, "1").await;
    assert_eq!(refused(&admins, &token).await, "refresh_token_invalid");
    let (_, token) = log_in(&admins, "1").await;
    assert_eq!(refused(&users, &token).await, "refresh_token_invalid");
    admins.refresh(&token, ClientInfo::new()).await.unwrap();
}

#[tokio::test]
async fn an_access_token_of_one_realm_is_invalid_in_another_even_with_the_same_audience() {
    let store = MemoryStore::new();
    let realm = |realm: &'static str| auth(store.clone(), |settings| settings.realm = Some(realm.to_owned()));
    let realms = [realm("one"), realm("two"), auth(store.clone(), |_| {})];
    for (n, issuer) in realms.iter().enumerate() {
        let (token, _) = log_in(issuer, "1").await;
        for (m, other) in realms.iter().enumerate() {
            assert_eq!(other.authenticate(&token).await.is_ok(), n == m);
        }
    }
}

#[tokio::test]
async fn the_users_of_two_realms_with_one_id_have_separate_sessions() {
    let (users, admins) = both();
    log_in(&users, "1").await;
    let (access, _) = log_in(&admins, "1").await;
    let admins_session = admins.sessions("1").await.unwrap()[0].id;
    assert_eq!(users.sessions("1").await.unwrap().len(), 1);
    assert_eq!(&*admins.sessions("1").await.unwrap()[0].user_id, "1");
    let not_found = |result: Result<(), Error>| assert_eq!(result.unwrap_err().code(), "session_not_found");
    not_found(users.revoke_own_session("1", admins_session).await);
    not_found(users.revoke_session(admins_session, RevocationReason::RevokedByAdmin).await);
    assert_eq!(users.revoke_user("1", None, RevocationReason::RevokedByAdmin).await.unwrap(), 1);
    assert!(users.sessions("1").await.unwrap().is_empty());
    assert_eq!(admins.sessions("1").await.unwrap().len(), 1);
    assert_eq!(&*admins.authenticate(&access).await.unwrap().id, "1");
}

#[tokio::test]
async fn a_user_id_cannot_name_a_user_of_another_realm() {
    let (users, admins) = both();
    let (access, _) = log_in(&admins, "1").await;
    for id in ["admin\u{0}1", "\0", "1\0"] {
        assert!(matches!(users.login(id, NoClaims {}).await, Err(Error::InvalidUserId)), "{id:?}");
        assert!(users.sessions(id).await.unwrap().is_empty());
        assert_eq!(users.revoke_user(id, None, RevocationReason::Other).await.unwrap(), 0);
    }
    admins.authenticate(&access).await.unwrap();
}

#[tokio::test]
async fn the_id_of_an_access_token_revokes_it_in_its_own_realm_only() {
    let store = MemoryStore::new();
    let in_realm = |realm: Option<&str>| auth(store.clone(), |settings| settings.realm = realm.map(str::to_owned));
    let (access, _) = log_in(&in_realm(Some("admin")), "1").await;
    let admin = in_realm(Some("admin")).authenticate(&access).await.unwrap();
    for (realm, code) in [(None, None), (Some("other"), None), (Some("admin"), Some("access_token_revoked"))] {
        in_realm(realm).revoke_token_id(&admin.token_id(), admin.expires_at()).await.unwrap();
        // A new node reads the whole feed before it accepts a token.
        let result = in_realm(Some("admin")).authenticate(&access).await;
        assert_eq!(result.err().map(|error| error.code()), code, "{realm:?}");
    }
}

#[tokio::test]
async fn each_realm_has_its_own_session_limit() {
    let store = MemoryStore::new();
    let limited = |realm: Option<&str>| {
        auth(store.clone(), |settings| {
            settings.realm = realm.map(str::to_owned);
            settings.policy.max_sessions = Some(1);
            settings.policy.on_max_sessions = OnMaxSessions::Refuse;
        })
    };
    let (users, admins) = (limited(None), limited(Some("admin")));
    log_in(&users, "1").await;
    log_in(&admins, "1").await;
    for auth in [&users, &admins] {
        assert!(matches!(auth.login("1", NoClaims {}).await, Err(Error::SessionLimitReached)));
    }
}

#[tokio::test]
async fn the_cookies_of_a_realm_have_its_name_and_a_logout_clears_only_those() {
    let settings =
        |realm: Option<&str>| Settings { realm: realm.map(str::to_owned), hint_cookie: true, ..Settings::for_pages() };
    let names = async |realm: Option<&str>| {
        let auth: Auth =
            Auth::builder(Secret::random().unwrap(), MemoryStore::new()).settings(settings(realm)).build().unwrap();
        let suffix = realm.map(|realm| format!("-{realm}")).unwrap_or_default();
        assert_eq!(auth.hint_cookie_name(), Some(format!("__Secure-session-hint{suffix}").as_str()));
        let app = Router::new().nest("/auth", auth.router());
        let request = Request::post("/auth/logout").body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let cookies = response.headers().get_all(SET_COOKIE).iter();
        cookies.map(|cookie| cookie.to_str().unwrap().split('=').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(None).await, ["__Host-refresh", "__Secure-session-hint", "__Host-access"]);
    let of_realm = ["__Host-refresh-admin", "__Secure-session-hint-admin", "__Host-access-admin"];
    assert_eq!(names(Some("admin")).await, of_realm);
}

#[tokio::test]
async fn two_realms_share_a_browser_and_an_app() {
    let store = MemoryStore::new();
    let of_realm = |realm: Option<&str>| {
        Auth::<NoClaims>::builder(Secret::new(SECRET), store.clone())
            .settings(Settings { realm: realm.map(str::to_owned), ..Settings::for_pages() })
            .build()
            .unwrap()
    };
    let (users, admins) = (of_realm(None), of_realm(Some("admin")));
    let me = || get(|user: AuthUser| async move { user.id.to_string() });
    let app = Router::new()
        .merge(Router::new().route("/me", me()).route_layer(users.layer()))
        .merge(Router::new().route("/admin/me", me()).route_layer(admins.layer()));
    let (user, admin) = (log_in(&users, "user").await.0, log_in(&admins, "admin").await.0);
    let jar = format!("__Host-access={user}; __Host-access-admin={admin}");
    for (path, cookies, expected) in [
        ("/me", jar.as_str(), Some("user")),
        ("/admin/me", jar.as_str(), Some("admin")),
        ("/admin/me", &format!("__Host-access-admin={user}"), None),
        ("/me", &format!("__Host-access={admin}"), None),
    ] {
        let request = Request::get(path).header(COOKIE, cookies).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        assert_eq!(
            Some(&*body).filter(|body| !body.starts_with(b"{")),
            expected.map(str::as_bytes),
            "{path} {cookies}"
        );
    }
}

#[test]
fn a_realm_that_cannot_be_part_of_a_cookie_name_is_rejected() {
    let with = |realm: &str| Settings { realm: Some(realm.to_owned()), ..Settings::default() }.validate();
    for realm in ["a", "admin", "back-office_2", &"x".repeat(32)] {
        assert_eq!(with(realm), Ok(()), "{realm}");
    }
    for realm in ["", "Admin", "a b", "a;b", "a\0b", "é", &"x".repeat(33)] {
        assert_eq!(with(realm).unwrap_err().setting(), "realm", "{realm:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_revocation_in_one_realm_does_not_learn_of_those_in_another() {
    let (users, admins) = both();
    let (users_token, _) = log_in(&users, "1").await;
    let (admins_token, _) = log_in(&admins, "1").await;
    let user = users.authenticate(&users_token).await.unwrap();
    let admin = admins.authenticate(&admins_token).await.unwrap();
    let (mut of_user, mut of_admin) = (users.revoked(&user), admins.revoked(&admin));
    users.revoke_user("1", None, RevocationReason::Other).await.unwrap();
    assert!(completes(&mut of_user).await && !completes(&mut of_admin).await);
    users.revoke_all(RevocationReason::Other).await.unwrap();
    assert!(!completes(&mut of_admin).await);
    admins.revoke_all(RevocationReason::Other).await.unwrap();
    assert!(completes(&mut of_admin).await);
}

async fn completes(revoked: impl Future<Output = ()>) -> bool {
    tokio::time::timeout(std::time::Duration::from_millis(1_500), revoked).await.is_ok()
}
