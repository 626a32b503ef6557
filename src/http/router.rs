//! The router that an app mounts under `/auth`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::routing::{MethodRouter, delete, get, post};
use axum_core::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tower_http::sensitive_headers::SetSensitiveHeadersLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use super::extract::client_info;
use super::identify::access_tokens;
use super::layers::{CsrfLayer, MountLayer, RequireLayer};
use super::negotiate::wants_html;
use super::passive::use_of;
use super::routes::{Route, Routes};
use super::step_up::Recent;
use super::{revocations, tokens};
use crate::auth::{Auth, AuthUser, Claims, LoggedOut};
use crate::client::ClientInfo;
use crate::error::Error;
use crate::session::{RevocationReason, Session, SessionId};

/// # Routers
impl<C: Claims> Auth<C> {
    /// The routes that refresh tokens, log out, and list and revoke the user's sessions. The
    /// [HTTP contract](crate::guide::http) describes them.
    ///
    /// Mount it at the path of the [refresh cookie](crate::Settings::refresh_cookie), by default
    /// `.nest("/auth", auth.router())`: the browser sends the cookie only there. If it is mounted elsewhere, or a proxy adds or
    /// removes a prefix, set [`refresh_cookie.path`](crate::config::CookieSettings::path) to the path as browsers see it; a
    /// warning in the log says so otherwise. It fits into a router of any state.
    ///
    /// Unsafe methods have to pass the origin check of [`Auth::csrf`]. If refresh tokens may travel
    /// [in the body](crate::Settings::transport), a request that carries no cookie of this `Auth` needs no check if it has a
    /// bearer token or a JSON body: browsers do not send these to another origin unasked.
    ///
    /// Every response but those that are the same for everybody (the module for browsers, and the OpenAPI document) has
    /// `Cache-Control: no-store`.
    pub fn router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        self.router_with(&Routes::all())
    }

    /// [`router`](Self::router) with a choice of routes.
    ///
    /// ```
    /// use axum_refresh::Auth;
    /// use axum_refresh::router::{Route, Routes};
    ///
    /// fn app(auth: &Auth) -> axum::Router {
    ///     let routes = Routes::all().without(Route::LogoutAll).without(Route::LogoutOthers);
    ///     axum::Router::new().nest("/auth", auth.router_with(&routes))
    /// }
    /// ```
    pub fn router_with<S: Clone + Send + Sync + 'static>(&self, routes: &Routes) -> Router<S> {
        let mut open = Router::new();
        let mut closed = Router::new();
        // Public and cacheable: no origin check and no `no-store` for these.
        #[cfg_attr(
            not(any(feature = "browser", feature = "openapi")),
            allow(unused_mut, reason = "there is none without these features")
        )]
        let mut public = Router::new();
        let recent = self.revocation_requirement();
        for route in routes.0.iter().filter(|route| self.has_route(**route)) {
            let path = route.path();
            match route {
                Route::Refresh => open = open.route(path, post(refresh::<C>)),
                Route::Logout => open = open.route(path, post(logout::<C>)),
                Route::LogoutAll => closed = closed.route(path, required(post(logout_all::<C>), &recent)),
                Route::LogoutOthers => closed = closed.route(path, required(post(logout_others::<C>), &recent)),
                Route::Sessions => closed = closed.route(path, get(sessions::<C>)),
                Route::RevokeSession => closed = closed.route(path, delete(revoke_own_session::<C>)),
                Route::Revocations => open = open.route(path, get(revocations::feed::<C>)),
                Route::SessionState => open = open.route(path, get(revocations::session::<C>)),
                #[cfg(feature = "browser")]
                Route::Browser => public = public.route(path, get(super::browser::script)),
                #[cfg(feature = "openapi")]
                Route::OpenApi => public = public.route(path, super::openapi::route(self, routes)),
            }
        }
        if closed.has_routes() {
            closed = closed.route_layer((self.layer(), self.guard()));
        }
        let mount = MountLayer { settings: Arc::clone(self.resolved()) };
        self.finish(open.merge(closed), self.router_csrf()).merge(public).layer(mount)
    }

    /// Whether a route is there if it is chosen.
    pub(super) fn has_route(&self, route: Route) -> bool {
        !matches!(route, Route::Revocations | Route::SessionState) || self.has_verifiers()
    }

    /// What the routes require that end sessions. The setting is valid, so the requirement can be met.
    fn revocation_requirement(&self) -> Option<RequireLayer<C>> {
        self.settings().revocation_max_age.and_then(|max_age| self.require(Recent(max_age)).ok())
    }

    /// Adds what all our routers have around them, outermost first: `Cache-Control: no-store`, sensitive headers marked for
    /// logs, and the origin check. One `layer` call, because axum boxes each.
    pub(super) fn finish<S>(&self, router: Router<Self>, csrf: CsrfLayer) -> Router<S> {
        router
            .layer((
                SetResponseHeaderLayer::overriding(CACHE_CONTROL, HeaderValue::from_static("no-store")),
                SetSensitiveHeadersLayer::new([AUTHORIZATION, COOKIE, SET_COOKIE]),
                csrf,
            ))
            .with_state(self.clone())
    }
}

async fn refresh<C: Claims>(State(auth): State<Auth<C>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let presented = match tokens::read(auth.resolved(), &parts.headers, body).await {
        Ok(presented) => presented,
        Err(problem) => return problem.into_response(),
    };
    let tokens = presented.tokens.iter().map(Vec::as_slice);
    match auth.refresh_newest(tokens, || client_info(&parts), use_of(&parts)).await {
        // Its cookie would replace that of the session that has replaced this one.
        Ok(refreshed) if auth.is_revoked(refreshed.tokens.session_id) => Error::SessionRevoked.into_response(),
        Ok(refreshed) => tokens::respond(auth.resolved(), &refreshed.tokens, presented.transport),
        Err(error) => error.into_response(),
    }
}

/// Logs the client out, whatever tokens it has presented, unless the store fails: every session that one of them belongs to,
/// because another site may have planted some to be revoked instead.
async fn logout<C: Claims>(State(auth): State<Auth<C>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let refresh_tokens = tokens::read_all(auth.resolved(), &parts.headers, body).await;
    let refresh_tokens = refresh_tokens.iter().map(Vec::as_slice);
    let access_tokens = access_tokens(auth.resolved(), &parts.headers);
    match auth.logout_each(refresh_tokens, access_tokens, Some(client_info(&parts))).await {
        Ok(LoggedOut::User) => logged_out(&auth, &parts.headers),
        Ok(LoggedOut::Actor) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => error.into_response(),
    }
}

async fn logout_all<C: Claims>(
    State(auth): State<Auth<C>>,
    user: AuthUser<C>,
    client: ClientInfo,
    headers: HeaderMap,
) -> Result<Response, Error> {
    auth.logout_everywhere(&user, by(&user, client)).await?;
    Ok(logged_out(&auth, &headers))
}

/// Clears the cookies. A form that was submitted from a page is redirected to the login page.
fn logged_out<C>(auth: &Auth<C>, headers: &HeaderMap) -> Response {
    let settings = auth.resolved();
    let response = match &settings.login_page {
        Some(page) if wants_html(headers) => (StatusCode::SEE_OTHER, [(LOCATION, page.clone())]).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    };
    tokens::clear(settings, response)
}

async fn logout_others<C: Claims>(
    State(auth): State<Auth<C>>,
    user: AuthUser<C>,
    client: ClientInfo,
) -> Result<Response, Error> {
    let (reason, client) = (RevocationReason::RevokedByUser, by(&user, client));
    let revoked = auth.revoke_user_by(&user.id, Some(user.session_id), reason, Some(client)).await?;
    Ok(json_response(&json!({ "revoked": revoked })))
}

/// A route that requires a recent authentication, if the settings say so.
fn required<C: Claims>(route: MethodRouter<Auth<C>>, recent: &Option<RequireLayer<C>>) -> MethodRouter<Auth<C>> {
    match recent {
        Some(recent) => route.layer(recent.clone()),
        None => route,
    }
}

/// The client of a request, with whoever acts for the user.
fn by<C>(user: &AuthUser<C>, client: ClientInfo) -> ClientInfo {
    client.acting(user.actor_arc())
}

async fn sessions<C: Claims>(State(auth): State<Auth<C>>, user: AuthUser<C>) -> Result<Response, Error> {
    listing(&auth, &user.id, Some(user.session_id)).await
}

async fn revoke_own_session<C: Claims>(
    State(auth): State<Auth<C>>,
    user: AuthUser<C>,
    client: ClientInfo,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Error> {
    let id = session_id(id)?;
    // One's own session may be ended like by a logout.
    if let Some(max_age) = auth.settings().revocation_max_age.filter(|_| id != user.session_id) {
        auth.check(&user, Recent(max_age))?;
    }
    auth.revoke_own_session_by(&user.id, id, Some(by(&user, client))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads the session id of a path. Anything else identifies no session.
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

/// The last second of the year 9999, the last one that RFC 3339 can write.
pub(super) const MAX_RFC3339: Duration = Duration::from_secs(253_402_300_799);

/// A session as it is listed: no token, no hash, no secret.
fn describe(session: &Session, current: Option<SessionId>) -> Value {
    let mut listed = json!({
        "id": session.id,
        "label": session.label,
        "user_agent": session.user_agent,
        "ip": session.ip,
        "created_at": rfc3339(session.created_at),
        "last_seen_at": rfc3339(session.last_seen_at),
        "expires_at": rfc3339(session.expires_at),
        "current": current == Some(session.id),
    });
    if let (Some(actor), Some(members)) = (&session.actor, listed.as_object_mut()) {
        members.insert("actor".to_owned(), json!(actor.user_id));
    }
    listed
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    // A damaged row may have a time that RFC 3339 cannot write.
    let time = time.clamp(UNIX_EPOCH, UNIX_EPOCH + MAX_RFC3339);
    humantime::format_rfc3339_millis(time).to_string()
}

pub(super) fn json_response(value: &Value) -> Response {
    ([(http::header::CONTENT_TYPE, "application/json")], Body::from(value.to_string())).into_response()
}
