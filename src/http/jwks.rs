//! The route of the JWK set.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use axum_core::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, StatusCode};

use super::etag;
use crate::auth::{Auth, Claims};
use crate::config::SettingsError;
use crate::token::ring::JWKS_MAX_AGE;

pub(super) const PATH: &str = "/.well-known/jwks.json";

/// # Routers
impl<C: Claims> Auth<C> {
    /// A router with `GET /.well-known/jwks.json`: the public keys that verify access tokens, as [`jwks`](Self::jwks) returns
    /// them. Other services verify access tokens with it, without the secret and without the store.
    ///
    /// Merge it at the root of the app, outside all layers that refuse requests. If two `Auth`s of an app have keys, nest the
    /// second one at a path of its own.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use axum_refresh::keys::SigningKey;
    /// use axum_refresh::{Auth, MemoryStore, Secret};
    ///
    /// let key = SigningKey::from_pem(&std::fs::read("key.pem")?)?; // openssl genpkey -algorithm ed25519
    /// let auth: Auth = Auth::builder(Secret::from_env("AUTH_SECRET")?, MemoryStore::new()).signing_key(key).build()?;
    /// let app: axum::Router = axum::Router::new().nest("/auth", auth.router()).merge(auth.jwks_router()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// - `Cache-Control: public, max-age=300` and a strong `ETag`; 304 if `If-None-Match` has it.
    /// - `Content-Type: application/json`. RFC 7517 §8.5.2 also registers `application/jwk-set+json`, but some clients
    ///   require `application/json`, and none is known that refuses it.
    /// - `Access-Control-Allow-Origin: *`, because the keys are public, and no cookie is looked at.
    ///
    /// # Errors
    ///
    /// If there is no public key, because access tokens are signed with the secret (HS256): a verifier that fetches an empty set
    /// would refuse every token. An app that will change from its secret to a key names that key in
    /// [`next_signing_key`](crate::AuthBuilder::next_signing_key), or awaits [`rotate_to`](Self::rotate_to) before it calls this.
    pub fn jwks_router<S: Clone + Send + Sync + 'static>(&self) -> Result<Router<S>, SettingsError> {
        self.check_public_keys()?;
        Ok(Router::new().route(PATH, get(jwks::<C>)).with_state(self.clone()))
    }

    pub(super) fn check_public_keys(&self) -> Result<(), SettingsError> {
        if self.has_public_keys() {
            return Ok(());
        }
        Err(SettingsError::new(
            "signing_key",
            "missing, and the JWK set of an `Auth` that signs with its secret is empty; call `AuthBuilder::signing_key`, or \
             `AuthBuilder::next_signing_key` to change to a key later, or do not mount `jwks_router`",
        ))
    }
}

pub(super) fn cache_control() -> String {
    format!("public, max-age={}", JWKS_MAX_AGE.as_secs())
}

async fn jwks<C: Claims>(State(auth): State<Auth<C>>, headers: HeaderMap) -> Response {
    let body = auth.jwks().to_string();
    let tag = etag::of(&body);
    let cache = cache_control();
    let common: [(HeaderName, &str); 4] = [
        (ETAG, &tag),
        (CACHE_CONTROL, &cache),
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    if etag::matches(&headers, &tag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(CONTENT_TYPE, "application/json")], body).into_response()
}
