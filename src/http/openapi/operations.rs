//! The operations of the routes: what each needs, does and returns.

use http::header::IF_NONE_MATCH;
use http::{Method, StatusCode};
use serde_json::json;
use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, Parameter};
use utoipa::openapi::{Content, ObjectBuilder, Required, ResponseBuilder};

use super::draft::{
    Draft, cached, fixed, header_parameter, in_realm, json_response, no_store, path_parameter, redirect, sets_cookies,
    with_header,
};
use super::refusals::Refusals;
use super::security::{by_access_token, by_refresh_token, by_verifier};
use super::{schemas, serve};
use crate::auth::{Auth, Claims};
use crate::config::ResolvedSettings;
use crate::error::Error;
use crate::http::passive::AUTH_PASSIVE;
use crate::http::revocations::{LAST_EVENT_ID, X_ACCEL_BUFFERING};
use crate::http::routes::{Route, Routes, admin};

impl<C: Claims> Auth<C> {
    /// The operation of a route, and its method.
    pub(super) fn operation(&self, route: Route, routes: &Routes, tag: &str) -> (HttpMethod, Operation) {
        let settings = &**self.resolved();
        let draft = |id, summary, description| Draft::new(settings, tag, id, summary, description);
        let layers = |method: &Method| Refusals::of_handler(!method.is_safe()).and_layers(self);
        match route {
            Route::Refresh => {
                let refusals = Refusals::of_handler(true).and_refresh(self);
                let draft = draft(
                    "auth_refresh",
                    "Exchanges the refresh token for new tokens",
                    "Races, lost responses and crashes are served: the same token may be sent again. Refresh once at a time per \
                     session, before the access token expires.",
                );
                let draft = draft.security(by_refresh_token(settings, false)).parameter(passive());
                let draft = with_body(settings, draft, schemas::refresh_request());
                let draft = draft.response(StatusCode::OK, with_tokens(settings, tokens()));
                (HttpMethod::Post, draft.refusals(refusals, &Method::POST).finish())
            }
            Route::Logout => {
                let draft = draft(
                    "auth_logout",
                    "Logs out: revokes the session of the tokens",
                    "Revokes the session of the refresh token, whatever its generation, and that of the access token if there is \
                     one. A missing, dead or invalid token is not an error.",
                );
                let security = by_refresh_token(settings, true);
                let draft = draft.security(security.into_iter().chain(by_access_token(settings)).collect());
                let draft = with_body(settings, draft, schemas::logout_request());
                let draft = logged_out(settings, draft, false);
                (HttpMethod::Post, draft.refusals(Refusals::of_handler(true), &Method::POST).finish())
            }
            Route::LogoutAll => {
                let draft = draft(
                    "auth_logout_all",
                    "Logs out everywhere: revokes all sessions of the user",
                    "Revokes every session of the user, the one of this request included.",
                );
                let draft = draft.security(by_access_token(settings)).parameter(passive());
                let draft = logged_out(settings, draft, true);
                (HttpMethod::Post, draft.refusals(layers(&Method::POST).and_recent(self, true), &Method::POST).finish())
            }
            Route::LogoutOthers => {
                let draft = draft(
                    "auth_logout_others",
                    "Revokes all other sessions of the user",
                    "Revokes every session of the user but the one of this request.",
                );
                let draft = draft.security(by_access_token(settings)).parameter(passive());
                let draft = draft.response(StatusCode::OK, revoked());
                (HttpMethod::Post, draft.refusals(layers(&Method::POST).and_recent(self, true), &Method::POST).finish())
            }
            Route::Sessions => {
                let draft =
                    draft("auth_sessions", "Lists the user's sessions", "A listing contains no token, hash or secret.");
                let draft = draft.security(by_access_token(settings)).parameter(passive());
                let revoke = routes.0.contains(&Route::RevokeSession).then_some("auth_revoke_session");
                let draft = draft.response(StatusCode::OK, sessions(settings, revoke));
                (HttpMethod::Get, draft.refusals(layers(&Method::GET), &Method::GET).finish())
            }
            Route::RevokeSession => {
                let refusals = layers(&Method::DELETE).and_recent(self, false).and_errors([Error::SessionNotFound]);
                let draft = draft(
                    "auth_revoke_session",
                    "Revokes one of the user's sessions",
                    "It may be the one of this request.",
                );
                let draft = draft.security(by_access_token(settings)).parameter(passive()).parameter(session_id());
                let draft = draft.response(StatusCode::NO_CONTENT, no_store("The session is revoked."));
                (HttpMethod::Delete, draft.refusals(refusals, &Method::DELETE).finish())
            }
            Route::Revocations => {
                let draft = draft(
                    "auth_revocations",
                    "Returns what is revoked, and goes on with what will be",
                    "Server-sent events, for services that verify access tokens without the store. The response does not end.",
                );
                let id = header_parameter(&LAST_EVENT_ID, "The `id` of the last event that was received.", "");
                let content = Content::new(Some(schemas::text()));
                let feed = with_header(
                    no_store("The feed.").content("text/event-stream", content),
                    &X_ACCEL_BUFFERING,
                    fixed("A proxy must not buffer it.", "no"),
                );
                let draft = draft.security(by_verifier(settings)).parameter(id).response(StatusCode::OK, feed);
                (HttpMethod::Get, draft.refusals(verifiers(), &Method::GET).finish())
            }
            Route::SessionState => {
                let draft = draft(
                    "auth_session_state",
                    "Says whether a session was revoked",
                    "For the services that follow the revocations.",
                );
                let example = json!({ "sid": schemas::SESSION_ID, "revoked": false });
                let found = json_response("The state of the session.", schemas::session_state(), example);
                let draft = draft.security(by_verifier(settings)).parameter(session_id());
                let draft = draft.response(StatusCode::OK, found);
                let refusals = verifiers().and_errors([Error::SessionNotFound]);
                (HttpMethod::Get, draft.refusals(refusals, &Method::GET).finish())
            }
            #[cfg(feature = "browser")]
            Route::Browser => {
                let draft = draft(
                    "auth_browser_module",
                    "Returns the module for browsers",
                    "An ES module that refreshes once for all tabs.",
                );
                let cache = crate::http::browser::CACHE;
                let module = Content::new(Some(schemas::text()));
                let found = cached("The module.", cache).content("text/javascript; charset=utf-8", module);
                (HttpMethod::Get, cached_operation(draft, found, unchanged(cache)))
            }
            Route::OpenApi => {
                let draft =
                    draft("auth_openapi", "Returns this document", "With the paths at which the routes are mounted.");
                let document = Content::new(Some(schemas::object("An OpenAPI 3.1 document.")));
                let found = cached("The document.", serve::CACHE).content("application/json", document);
                (HttpMethod::Get, cached_operation(draft, found, unchanged(serve::CACHE)))
            }
        }
    }

    /// The operations of the admin router, with their paths and methods.
    pub(super) fn admin_operations(&self, tag: &str) -> [(&'static str, HttpMethod, Operation); 5] {
        let settings = &**self.resolved();
        let draft = |id, summary, description| Draft::new(settings, tag, id, summary, description);
        let user = || path_parameter("user", schemas::described("The app's own id of the user."), "alice");
        let list = draft("auth_admin_sessions", "Lists a user's sessions", "Empty for an unknown user.")
            .parameter(user())
            .response(StatusCode::OK, sessions(settings, Some("auth_admin_revoke_session")))
            .refusals(Refusals::of_handler(false), &Method::GET);
        let revoke_user =
            draft("auth_admin_revoke_user", "Revokes all sessions of a user", "None for an unknown user.")
                .parameter(user())
                .response(StatusCode::OK, revoked())
                .refusals(Refusals::of_handler(true), &Method::DELETE);
        let revoke_all = draft(
            "auth_admin_revoke_all",
            "Revokes everybody's sessions",
            "The caller's own included. In force on every server within a second.",
        );
        let before = json_response(
            "All sessions are revoked.",
            schemas::revoked_before(),
            json!({ "revoked_before": "2026-01-05T08:12:31.417Z" }),
        );
        let revoke_all =
            revoke_all.response(StatusCode::OK, before).refusals(Refusals::of_handler(true), &Method::DELETE);
        let refusals = Refusals::of_handler(true).and_errors([Error::SessionNotFound]);
        let revoke = draft("auth_admin_revoke_session", "Revokes one session", "Whoever's session it is.")
            .parameter(session_id())
            .response(StatusCode::NO_CONTENT, no_store("The session is revoked."))
            .refusals(refusals, &Method::DELETE);
        let by_id = json!({ "jti": "AZtz1Pb0-0wkq8HHm0xq4A", "expires_at": "2026-01-05T08:15:00Z" });
        let examples = [("token", json!({ "token": "eyJhbGciOiJIUzI1NiIs..." })), ("jti", by_id)];
        let revoke_token = draft(
            "auth_admin_revoke_token",
            "Revokes one access token",
            "Its session lives on. A token that is not an access token of this app is not an error (RFC 7009 §2.2).",
        )
        .body(Required::True, schemas::revoke_token(), &examples)
        .response(StatusCode::NO_CONTENT, no_store("The access token is revoked."))
        .refusals(Refusals::of_handler(true).and_body(), &Method::POST);
        [
            (admin::USER_SESSIONS, HttpMethod::Get, list.finish()),
            (admin::USER_SESSIONS, HttpMethod::Delete, revoke_user.finish()),
            (admin::ALL_SESSIONS, HttpMethod::Delete, revoke_all.finish()),
            (admin::SESSION, HttpMethod::Delete, revoke.finish()),
            (admin::REVOKE_TOKEN, HttpMethod::Post, revoke_token.finish()),
        ]
    }

    /// The operation of the JWK set.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(super) fn jwks_operation(&self, tag: &str) -> utoipa::openapi::PathItem {
        use http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
        use utoipa::openapi::{ContentBuilder, PathItem};

        let cache = crate::http::jwks::cache_control();
        let content = ContentBuilder::new().schema(Some(schemas::jwks())).example(Some(self.jwks()));
        let found = cached("The JWK set.", &cache).content("application/json", content);
        let anybody = || fixed("Any page may read it.", "*");
        let found = with_header(found, &ACCESS_CONTROL_ALLOW_ORIGIN, anybody());
        let operation = Draft::new(
            self.resolved(),
            tag,
            "auth_jwks",
            "Returns the public keys that verify access tokens",
            "A new key is in the set for at least five minutes before it signs, and an old one until its last token is over.",
        );
        let unchanged = with_header(unchanged(&cache), &ACCESS_CONTROL_ALLOW_ORIGIN, anybody());
        PathItem::new(HttpMethod::Get, cached_operation(operation, found, unchanged))
    }
}

/// The refusals of the routes for services without the store.
fn verifiers() -> Refusals {
    Refusals::of_handler(false).and_errors([Error::AccessTokenMissing, Error::AccessTokenInvalid])
}

/// Completes the operation of a response that is the same for everybody.
fn cached_operation(draft: Draft<'_>, found: ResponseBuilder, unchanged: ResponseBuilder) -> Operation {
    let tag = header_parameter(&IF_NONE_MATCH, "The `ETag` of an earlier response.", schemas::TAG);
    draft
        .security(Vec::new())
        .parameter(tag)
        .response(StatusCode::OK, found)
        .response(StatusCode::NOT_MODIFIED, unchanged)
        .finish()
}

fn unchanged(cache: &str) -> ResponseBuilder {
    cached("The response with this `ETag` is still valid.", cache)
}

/// Adds the body of a client that keeps the refresh token by itself, if there may be any.
fn with_body<'a>(settings: &ResolvedSettings, draft: Draft<'a>, schema: ObjectBuilder) -> Draft<'a> {
    if !settings.transport.has_body() {
        return draft;
    }
    draft.body(Required::False, schema, &[("token", json!({ "refresh_token": schemas::REFRESH_TOKEN }))])
}

/// Adds the cookies with tokens.
pub(super) fn with_tokens(settings: &ResolvedSettings, response: ResponseBuilder) -> ResponseBuilder {
    if !settings.transport.has_cookie() {
        return response;
    }
    let others = [&settings.access_cookie, &settings.hint_cookie];
    let others: Vec<_> = others.into_iter().flatten().map(|cookie| format!(", and `{}`", cookie.name)).collect();
    let name = &settings.refresh_cookie.name;
    let description = format!("`{name}`, if the refresh token is new and travels in a cookie{}.", others.concat());
    let example = settings.refresh_cookie.header(schemas::REFRESH_TOKEN, settings.policy.lifetime, None);
    sets_cookies(response, &description, example.as_ref(), false)
}

/// Adds the responses to a logout, which clear the cookies.
fn logged_out<'a>(settings: &ResolvedSettings, draft: Draft<'a>, always: bool) -> Draft<'a> {
    let cookies =
        [settings.transport.has_cookie().then_some(&settings.refresh_cookie), settings.access_cookie.as_ref()];
    let first = cookies.into_iter().flatten().next();
    let clears = |response: ResponseBuilder| {
        let Some(cookie) = first else { return response };
        sets_cookies(response, "All cookies of this app's logins, cleared.", cookie.cleared().as_ref(), always)
    };
    let draft = draft.response(StatusCode::NO_CONTENT, clears(no_store("Logged out.")));
    match settings.login_page.as_ref().and_then(|page| page.to_str().ok()) {
        Some(page) => {
            draft.response(StatusCode::SEE_OTHER, clears(redirect("Logged out, by a form that accepts a page.", page)))
        }
        None => draft,
    }
}

/// The header of requests that are no activity.
fn passive() -> Parameter {
    header_parameter(
        &AUTH_PASSIVE,
        "`?1` if the request comes from nothing that the user does: it does not keep the session from becoming idle.",
        "?1",
    )
}

fn session_id() -> Parameter {
    path_parameter("id", schemas::session_id("The `id` of the session."), schemas::SESSION_ID)
}

pub(super) fn tokens() -> ResponseBuilder {
    json_response("The tokens.", schemas::reference(schemas::TOKENS), schemas::tokens_example())
}

/// A list of sessions, each of which the operation `revoke` ends.
fn sessions(settings: &ResolvedSettings, revoke: Option<&str>) -> ResponseBuilder {
    let list = json_response("The sessions.", schemas::reference(schemas::SESSIONS), schemas::sessions_example());
    let Some(revoke) = revoke else { return list };
    let link = LinkBuilder::new()
        .operation_id(in_realm(settings, revoke))
        .parameter("id", "$response.body#/sessions/0/id")
        .description("Revokes the first of them.");
    list.link("revoke", link.build())
}

fn revoked() -> ResponseBuilder {
    json_response("The sessions are revoked.", schemas::revoked(), json!({ "revoked": 2 }))
}
