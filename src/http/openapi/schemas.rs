//! The schemas that operations refer to, and what they consist of.

use serde_json::{Value, json};
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, SchemaType, Type};
use utoipa::openapi::{KnownFormat, ObjectBuilder, Ref, RefOr, Schema, SchemaFormat};

use super::refusals;

pub(super) const TOKENS: &str = "AuthTokens";
pub(super) const SESSION: &str = "AuthSession";
pub(super) const SESSIONS: &str = "AuthSessions";
pub(super) const PROBLEM: &str = "AuthProblem";

pub(super) fn reference(name: &str) -> RefOr<Schema> {
    Ref::from_schema_name(name).into()
}

/// A schema of this name. They do not depend on the settings: documents of two `Auth`s have the same.
pub(super) fn named(name: &str) -> RefOr<Schema> {
    match name {
        TOKENS => tokens().into(),
        SESSION => session().into(),
        SESSIONS => object(
            "The user's live sessions, most recent activity first; of more than a thousand, those that began last.",
        )
        .property("sessions", ArrayBuilder::new().items(Ref::from_schema_name(SESSION)))
        .required("sessions")
        .into(),
        _ => problem(None, refusals::all().iter().map(|problem| problem.code()))
            .description(Some("A refusal (RFC 9457). Clients go by `code`."))
            .into(),
    }
}

pub(super) fn object(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Object).description(Some(description))
}

pub(super) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

pub(super) fn described(description: &str) -> ObjectBuilder {
    text().description(Some(description))
}

fn nullable_text(description: &str) -> ObjectBuilder {
    described(description).schema_type(SchemaType::Array(vec![Type::String, Type::Null]))
}

fn time(description: &str) -> ObjectBuilder {
    described(description).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
}

pub(super) fn count(description: &str) -> ObjectBuilder {
    described(description).schema_type(Type::Integer).minimum(Some(0))
}

pub(super) fn one_of<V: Into<Value>>(values: impl IntoIterator<Item = V>) -> ObjectBuilder {
    text().enum_values(Some(values))
}

/// The only spelling of 16 bytes in base64url.
pub(super) fn session_id(description: &str) -> ObjectBuilder {
    described(description).pattern(Some("^[A-Za-z0-9_-]{21}[AQgw]$"))
}

fn tokens() -> ObjectBuilder {
    object("The tokens of a login or a refresh (RFC 6749 §5.1).")
        .property("access_token", described("The access token, for `Authorization: Bearer`: a JWT (RFC 9068)."))
        .property("token_type", one_of(["Bearer"]))
        .property("expires_in", count("How many seconds the access token is valid."))
        .property("refresh_in", count("After how many seconds to refresh. Missing if the client has no refresh token."))
        .property(
            "refresh_token",
            described("The refresh token, if it travels in the body. A response to a refresh leaves it out if it has not changed."),
        )
        .required("access_token")
        .required("token_type")
        .required("expires_in")
}

fn session() -> ObjectBuilder {
    let members: [(&str, ObjectBuilder); 8] = [
        ("id", session_id("Identifies the session: the `sid` of its access tokens.")),
        ("label", nullable_text("The name of the session's device, as given at login.")),
        ("user_agent", nullable_text("The `User-Agent` at login.")),
        ("ip", nullable_text("The client's IP address at login.")),
        ("created_at", time("When the session began.")),
        ("last_seen_at", time("When the client last used a token of the session.")),
        ("expires_at", time("When the session ends at the latest.")),
        ("current", text().schema_type(Type::Boolean).description(Some("Whether it is the session of this request."))),
    ];
    let session = members
        .into_iter()
        .fold(object("A live session."), |session, (name, member)| session.property(name, member).required(name));
    session.property("actor", described("The id of whoever acts for the user in this session, if somebody does."))
}

/// Problem details with one of these codes, and this status if it is one.
pub(super) fn problem<'a>(status: Option<u16>, codes: impl Iterator<Item = &'a str>) -> ObjectBuilder {
    let number = text().schema_type(Type::Integer);
    let status = match status {
        Some(status) => number.enum_values(Some([status])),
        None => number.minimum(Some(400)).maximum(Some(599)),
    };
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("type", one_of(["about:blank"]))
        .property("title", text())
        .property("status", status)
        .property("code", one_of(codes))
        .required("type")
        .required("title")
        .required("status")
        .required("code")
}

/// The body of a refresh or a logout. A token of the wrong form is refused as a token, not as a body.
pub(super) fn refresh_request() -> ObjectBuilder {
    object("The refresh token of a client that keeps it by itself.")
        .property("refresh_token", nullable_text("The refresh token."))
}

/// A logout ignores whatever is no token.
pub(super) fn logout_request() -> ObjectBuilder {
    let token = ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some("The refresh token."));
    let request = "The refresh token of a client that keeps it by itself. Whatever is no token is ignored.";
    object(request).schema_type(SchemaType::AnyValue).property("refresh_token", token)
}

pub(super) fn revoked() -> ObjectBuilder {
    object(
        "How many sessions were revoked: exact up to a thousand, above that it may include sessions that had expired.",
    )
    .property("revoked", count("The number of sessions."))
    .required("revoked")
}

pub(super) fn session_state() -> ObjectBuilder {
    object("Whether a session was revoked.")
        .property("sid", session_id("The session."))
        .property("revoked", ObjectBuilder::new().schema_type(Type::Boolean))
        .required("sid")
        .required("revoked")
}

pub(super) fn revoked_before() -> ObjectBuilder {
    object("The time of the revocation.")
        .property("revoked_before", time("All sessions that began before it are revoked."))
        .required("revoked_before")
}

/// The body that names an access token: the token itself, or its id.
pub(super) fn revoke_token() -> AnyOfBuilder {
    let expires_at = AnyOfBuilder::new()
        .item(time("A time in RFC 3339."))
        .item(
            described("Unix seconds, as in a JWT, up to the year 9999.")
                .schema_type(Type::Number)
                .minimum(Some(0))
                .maximum(Some(253_402_300_799.0_f64)),
        )
        .description(Some("When the access token expires: its `exp`."));
    let by_id = object("The id of an access token.")
        .property("jti", described("The `jti` of the access token."))
        .property("expires_at", expires_at)
        .required("jti")
        .required("expires_at");
    let by_token = object("An access token.").property("token", described("The access token.")).required("token");
    AnyOfBuilder::new().item(by_token).item(by_id)
}

#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
pub(super) fn jwks() -> ObjectBuilder {
    let key = object("A public key (RFC 7517 §4).")
        .property("kid", described("Identifies the key."))
        .property("kty", one_of(["OKP", "EC"]))
        .property("alg", one_of(["EdDSA", "ES256"]))
        .property("use", one_of(["sig"]))
        .property("crv", one_of(["Ed25519", "P-256"]))
        .property("x", text())
        .property("y", text());
    let key = ["kid", "kty", "alg", "use", "crv", "x"].into_iter().fold(key, ObjectBuilder::required);
    object("The public keys that verify access tokens (RFC 7517 §5).")
        .property("keys", ArrayBuilder::new().items(key))
        .required("keys")
}

pub(super) const REFRESH_TOKEN: &str = "AZtz1Pb00wkq8HHm0xq4Ak3Jx0pQm1vN...";
pub(super) const TAG: &str = "\"5c9b0a4f7d3e1286a1f0c8e2b7d94f03\"";
pub(super) const SESSION_ID: &str = "k3Jx0pQm1vN8sT2wZ7yB5A";

pub(super) fn tokens_example() -> Value {
    json!({ "access_token": "eyJhbGciOiJIUzI1NiIs...", "token_type": "Bearer", "expires_in": 877, "refresh_in": 781 })
}

pub(super) fn sessions_example() -> Value {
    json!({ "sessions": [{
        "id": SESSION_ID,
        "label": "Anna's laptop",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
        "ip": "203.0.113.7",
        "created_at": "2026-01-05T08:00:00.000Z",
        "last_seen_at": "2026-01-05T08:12:31.417Z",
        "expires_at": "2026-02-04T08:00:00.000Z",
        "current": true,
    }] })
}
