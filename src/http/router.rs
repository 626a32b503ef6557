//! The routes that an app mounts under `/auth`.

use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::routing::{delete, get, post};
use axum_core::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tower_http::sensitive_headers::SetSensitiveHeadersLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use super::extract::client_info;
use super::gate::wants_html;
use super::transport;
use crate::auth::{Auth, AuthUser, Claims};
use crate::error::Error;
use crate::session::{Reason, Session, SessionId, Timestamp};

/// A route of [`Auth::router`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Route {
    /// `POST /refresh`
    Refresh,
    /// `POST /logout`
    Logout,
    /// `POST /logout/all`
    LogoutAll,
    /// `POST /logout/others`
    LogoutOthers,
    /// `GET /sessions`
    Sessions,
    /// `DELETE /sessions/{id}`
    EndSession,
    /// `GET /client.js`
    #[cfg(feature = "client")]
    #[cfg_attr(docsrs, doc(cfg(feature = "client")))]
    Client,
}

/// Which routes [`Auth::router_with`] has.
///
/// ```
/// use axum_refresh::{Route, Routes};
///
/// let routes = Routes::all().without(Route::LogoutAll).without(Route::LogoutOthers);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// All of them.
    pub fn all() -> Self {
        use Route::{EndSession, Logout, LogoutAll, LogoutOthers, Refresh, Sessions};
        Self(vec![
            Refresh,
            Logout,
            LogoutAll,
            LogoutOthers,
            Sessions,
            EndSession,
            #[cfg(feature = "client")]
            Route::Client,
        ])
    }

    /// All but this one.
    #[must_use]
    pub fn without(mut self, route: Route) -> Self {
        self.0.retain(|other| *other != route);
        self
    }
}

impl<C: Claims> Auth<C> {
    /// The routes that keep a client logged in and let a user end sessions, to be mounted where the refresh cookie's
    /// path says: `.nest("/auth", auth.router())`. The [HTTP contract](crate::docs::http) describes them.
    ///
    /// Works in a router of any state. Foreign pages cannot call the unsafe ones, and no cache keeps an answer but the
    /// browser's module, which is the same for everybody.
    pub fn router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        self.router_with(&Routes::all())
    }

    /// [`router`](Self::router) with some routes left out.
    pub fn router_with<S: Clone + Send + Sync + 'static>(&self, routes: &Routes) -> Router<S> {
        let mut open = Router::new();
        let mut closed = Router::new();
        for route in &routes.0 {
            match route {
                Route::Refresh => open = open.route("/refresh", post(refresh::<C>)),
                Route::Logout => open = open.route("/logout", post(logout::<C>)),
                Route::LogoutAll => closed = closed.route("/logout/all", post(logout_all::<C>)),
                Route::LogoutOthers => closed = closed.route("/logout/others", post(logout_others::<C>)),
                Route::Sessions => closed = closed.route("/sessions", get(sessions::<C>)),
                Route::EndSession => closed = closed.route("/sessions/{id}", delete(end_session::<C>)),
                #[cfg(feature = "client")]
                Route::Client => {}
            }
        }
        if closed.has_routes() {
            closed = closed.route_layer((self.layer(), self.guard()));
        }
        let router = self.finish(open.merge(closed));
        // The same for everybody: neither the origin check nor no-store is around it.
        #[cfg(feature = "client")]
        if routes.0.contains(&Route::Client) {
            return router.route("/client.js", get(super::script::script));
        }
        router
    }

    /// What all our routers have around them, from the outside in: word to every cache to keep nothing, marks on the
    /// headers that no log should show, and the origin check. All in one, because axum boxes each layer.
    pub(super) fn finish<S>(&self, router: Router<Self>) -> Router<S> {
        router
            .layer((
                SetResponseHeaderLayer::overriding(CACHE_CONTROL, HeaderValue::from_static("no-store")),
                SetSensitiveHeadersLayer::new([AUTHORIZATION, COOKIE, SET_COOKIE]),
                self.csrf_layer(),
            ))
            .with_state(self.clone())
    }
}

async fn refresh<C: Claims>(State(auth): State<Auth<C>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let brought = match transport::read(auth.settings(), &parts.headers, body).await {
        Ok(brought) => brought,
        Err(problem) => return problem.into_response(),
    };
    let tokens = brought.tokens.iter().map(Vec::as_slice);
    match auth.refresh_newest(tokens, || client_info(&parts), &[]).await {
        Ok(refreshed) => transport::answer(auth.settings(), &refreshed.tokens, brought.transport),
        Err(error) => error.into_response(),
    }
}

/// Whatever came, the client is logged out afterwards, unless the store could not be asked to remember it.
async fn logout<C: Claims>(State(auth): State<Auth<C>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let brought = transport::read(auth.settings(), &parts.headers, body).await;
    let tokens = brought.map(|brought| brought.tokens).unwrap_or_default();
    // All that are ours, not the newest alone: one of them may have been planted to be logged out in place of it.
    if let Err(error) = auth.logout_each(tokens.iter().map(Vec::as_slice)).await {
        return error.into_response();
    }
    logged_out(&auth, &parts.headers)
}

async fn logout_all<C: Claims>(
    State(auth): State<Auth<C>>,
    user: AuthUser<C>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    auth.logout_everywhere(&user).await?;
    Ok(logged_out(&auth, &headers))
}

/// Takes the cookies back; a form that somebody has sent from a page leads to the login page.
fn logged_out<C>(auth: &Auth<C>, headers: &HeaderMap) -> Response {
    let settings = auth.settings();
    let page = settings.login_page.as_deref().filter(|_| wants_html(headers));
    let response = page.and_then(|page| HeaderValue::try_from(page).ok()).map_or_else(
        || StatusCode::NO_CONTENT.into_response(),
        |page| (StatusCode::SEE_OTHER, [(LOCATION, page)]).into_response(),
    );
    transport::clear(settings, response)
}

async fn logout_others<C: Claims>(State(auth): State<Auth<C>>, user: AuthUser<C>) -> Result<Response, Error> {
    let revoked = auth.revoke_user(&user.id, Some(user.session), Reason::EndedByUser).await?;
    Ok(json_response(&json!({ "revoked": revoked })))
}

async fn sessions<C: Claims>(State(auth): State<Auth<C>>, user: AuthUser<C>) -> Result<Response, Error> {
    listing(&auth, &user.id, Some(user.session)).await
}

async fn end_session<C: Claims>(
    State(auth): State<Auth<C>>,
    user: AuthUser<C>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Error> {
    auth.end_session(&user.id, session_id(id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is no session id names no session.
pub(super) fn session_id(id: Result<Path<String>, PathRejection>) -> Result<SessionId, Error> {
    id.ok().and_then(|Path(id)| id.parse().ok()).ok_or(Error::SessionNotFound)
}

pub(super) async fn listing<C: Claims>(
    auth: &Auth<C>,
    user: &str,
    current: Option<SessionId>,
) -> Result<Response, Error> {
    let sessions = auth.sessions(user).await?;
    let sessions: Vec<_> = sessions.iter().map(|session| describe(session, current)).collect();
    Ok(json_response(&json!({ "sessions": sessions })))
}

/// The last millisecond of the year 9999, the last one that RFC 3339 can write.
const LAST_OF_9999: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// What a listing shows of a session: no token, no hash, no secret.
fn describe(session: &Session, current: Option<SessionId>) -> Value {
    json!({
        "id": session.id,
        "label": session.client.label,
        "user_agent": session.client.user_agent,
        "ip": session.client.ip,
        "created_at": rfc3339(session.created_at),
        "last_seen_at": rfc3339(session.chain.last_seen_at),
        "expires_at": rfc3339(session.chain.expires_at),
        "current": current == Some(session.id),
    })
}

fn rfc3339(time: Timestamp) -> String {
    // A row from who knows where may have a time that has no such spelling.
    let time = time.clamp(Timestamp::from_millis(0), LAST_OF_9999);
    humantime::format_rfc3339_millis(SystemTime::from(time)).to_string()
}

pub(super) fn json_response(value: &Value) -> Response {
    ([(http::header::CONTENT_TYPE, "application/json")], Body::from(value.to_string())).into_response()
}
