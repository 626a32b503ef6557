//! The components of a document: its schemas, and the security schemes that the operations require.

use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, ComponentsBuilder, SecurityRequirement};

use super::draft::in_realm;
use super::schemas;
use crate::config::{ResolvedCookie, ResolvedSettings};

const BEARER: &str = "auth_bearer";
const ACCESS_COOKIE: &str = "auth_access_cookie";
const VERIFIER: &str = "auth_verifier";
const REFRESH_COOKIE: &str = "auth_refresh_cookie";

pub(super) fn components(settings: &ResolvedSettings) -> Components {
    let schemas = [schemas::TOKENS, schemas::SESSION, schemas::SESSIONS, schemas::PROBLEM];
    let components = ComponentsBuilder::new().schemas_from_iter(schemas.map(|name| (name, schemas::named(name))));
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("The access token."))
        .build();
    let components = components.security_scheme(BEARER, SecurityScheme::Http(bearer));
    let refresh = settings.transport.has_cookie().then_some(&settings.refresh_cookie);
    let cookies = [
        (ACCESS_COOKIE, settings.access_cookie.as_ref(), "The access token, where no header can be set."),
        (REFRESH_COOKIE, refresh, "The refresh token of a browser."),
    ];
    let components = cookies.into_iter().fold(components, |components, (name, cookie, description)| {
        let Some(ResolvedCookie { name: cookie, .. }) = cookie else { return components };
        let key = ApiKeyValue::with_description(cookie.as_str(), description);
        components.security_scheme(in_realm(settings, name), SecurityScheme::ApiKey(ApiKey::Cookie(key)))
    });
    components.build()
}

/// Adds the scheme of services without the store.
pub(super) fn add_verifier(components: &mut Components, settings: &ResolvedSettings) {
    let scheme =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The token of a verifier.")).build();
    components.add_security_scheme(in_realm(settings, VERIFIER), SecurityScheme::Http(scheme));
}

fn requirement(name: impl Into<String>) -> SecurityRequirement {
    SecurityRequirement::new(name, Vec::<String>::new())
}

pub(super) fn by_access_token(settings: &ResolvedSettings) -> Vec<SecurityRequirement> {
    let cookie = settings.access_cookie.as_ref().map(|_| requirement(in_realm(settings, ACCESS_COOKIE)));
    std::iter::once(requirement(BEARER)).chain(cookie).collect()
}

pub(super) fn by_verifier(settings: &ResolvedSettings) -> Vec<SecurityRequirement> {
    vec![requirement(in_realm(settings, VERIFIER))]
}

/// A refresh token in the body is not a security scheme of OpenAPI.
pub(super) fn by_refresh_token(settings: &ResolvedSettings, optional: bool) -> Vec<SecurityRequirement> {
    let (cookie, body) = (settings.transport.has_cookie(), settings.transport.has_body());
    let cookie = cookie.then(|| requirement(in_realm(settings, REFRESH_COOKIE)));
    let without = (optional || body).then(SecurityRequirement::default);
    without.into_iter().chain(cookie).collect()
}
