//! Logout tokens of an identity provider: OpenID Connect Back-Channel Logout 1.0, with errata set 1.

mod error;
mod keys;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

pub use self::error::LogoutTokenError;
use self::keys::{PublicKey, asymmetric, public_keys};
use super::id::TokenId;
use crate::config::SettingsError;
use crate::time::Timestamp;

/// The longest logout token, in bytes. A usual one has less than a thousand.
pub(crate) const MAX_TOKEN: usize = 8 * 1024;
/// How far the clock of the provider may differ from this node's.
const MAX_SKEW: Duration = Duration::from_secs(60);
/// How long after its issue a token is accepted at most, whatever its `exp`.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// How long a token can be accepted by this node's clock.
pub(crate) const USABLE_FOR: Duration = Duration::from_secs(MAX_AGE.as_secs() + 2 * MAX_SKEW.as_secs());

/// The member of `events` that makes a token a logout token (§2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// Verifies the logout tokens that an identity provider sends when it ends a session: OpenID Connect Back-Channel
/// Logout 1.0. For [`Auth::back_channel_logout`](crate::Auth::back_channel_logout).
///
/// It is for one provider and one client id, and has the provider's public keys. Clones share the keys.
///
/// ```no_run
/// use axum_refresh::federation::LogoutVerifier;
///
/// # fn fetch(_: &str) -> serde_json::Value { serde_json::Value::Null }
/// // The `jwks_uri` and the `issuer` of the provider's configuration.
/// let jwks = fetch("https://id.example/jwks");
/// let verifier = LogoutVerifier::new("https://id.example", "my-client", &jwks)?;
/// # Ok::<_, axum_refresh::config::SettingsError>(())
/// ```
///
/// A token is accepted only if all of this holds:
///
/// - It is a signed JWT of at most 8192 bytes, by a key of the provider and with an asymmetric algorithm: RS256, RS384,
///   RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA (Ed25519). If the JWK names an algorithm, then with that one. A
///   token without `kid` needs exactly one key that fits (OpenID Connect Core §10.1).
/// - Its type is `logout+jwt` (OWASP ASVS 5.0, 10.5.5). The specification only recommends this, and for a provider that
///   does not type its tokens there is [`accept_untyped`](Self::accept_untyped).
/// - `iss` is the provider, and `aud` is the client alone (§2.6, as in an ID token).
/// - `exp` has not come yet, and `iat` is neither in the future nor more than 5 minutes ago, whatever `exp` says, because
///   the used tokens are remembered only so long. The clock of the provider may differ by 60 seconds.
/// - `jti` is there, and `sid`, `sub` or both.
/// - `events` has the member of a logout, and there is no `nonce`, so that no ID token passes for a logout token.
#[derive(Clone)]
pub struct LogoutVerifier {
    issuer: Arc<str>,
    client_id: Arc<str>,
    is_type_required: bool,
    shared: Arc<Shared>,
}

struct Shared {
    keys: RwLock<Arc<[PublicKey]>>,
    /// Which errors were reported since the keys were set.
    reported: AtomicU32,
}

/// A logout token that is valid as far as the token itself can show.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogoutToken {
    /// The identity provider (`iss`).
    pub issuer: Arc<str>,
    /// The provider's id of the user (`sub`).
    pub subject: Option<Box<str>>,
    /// The provider's id of the session (`sid`). If there is none, all sessions of the user are to end.
    pub session_id: Option<Box<str>>,
    /// Identifies the token (`jti`).
    pub jti: Box<str>,
    /// When it was issued (`iat`).
    pub issued_at: SystemTime,
    /// When it expires (`exp`).
    pub expires_at: SystemTime,
}

impl LogoutToken {
    /// The mark of a used token, as the id of an access token that nobody has: a `jti` is unique only for its issuer.
    pub(crate) fn mark(&self) -> TokenId {
        TokenId::hash(&["logout token", &self.issuer, &self.jti])
    }
}

impl LogoutVerifier {
    /// A verifier of the tokens that `issuer` sends to the client `client_id`.
    ///
    /// `jwks` is the provider's JWK set (RFC 7517 §5) as JSON. Keys that sign nothing, or of types that are not supported,
    /// are left out. RSA keys have to have at least 2048 bits.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if `issuer` or `client_id` is empty, or if [`set_jwks`](Self::set_jwks) would refuse the keys.
    pub fn new(issuer: &str, client_id: &str, jwks: &Value) -> Result<Self, SettingsError> {
        for (name, value) in [("issuer", issuer), ("client_id", client_id)] {
            if value.is_empty() {
                return Err(SettingsError::new(name, "empty; set it as it is registered with the identity provider"));
            }
        }
        let shared = Shared { keys: RwLock::new(public_keys(jwks)?), reported: AtomicU32::new(0) };
        Ok(Self {
            issuer: issuer.into(),
            client_id: client_id.into(),
            is_type_required: true,
            shared: Arc::new(shared),
        })
    }

    /// Accepts tokens without a type, or of the type `JWT`, as well.
    ///
    /// For a provider that cannot type them: the specification recommends `logout+jwt` and does not require it (§2.4). What
    /// tells them from ID tokens is then `events` and the missing `nonce`.
    #[must_use]
    pub fn accept_untyped(mut self) -> Self {
        self.is_type_required = false;
        self
    }

    /// Replaces the keys, in all clones: for a provider that rotates them. Fetch them from time to time, and after a
    /// [`LogoutTokenError::UnknownKey`].
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if `jwks` is not a JWK set, has a symmetric or a private key in it, or has no key that can be used.
    /// The keys stay as they are.
    pub fn set_jwks(&self, jwks: &Value) -> Result<(), SettingsError> {
        let keys = public_keys(jwks)?;
        *self.shared.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        self.shared.reported.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Verifies a logout token, except that it was not used before.
    ///
    /// # Errors
    ///
    /// [`LogoutTokenError`] for the first rule that it breaks.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<LogoutToken, LogoutTokenError> {
        if token.len() > MAX_TOKEN {
            return Err(LogoutTokenError::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(LogoutTokenError::Malformed);
        };
        match parts.count() {
            0 => {}
            2 => return Err(LogoutTokenError::Encrypted),
            _ => return Err(LogoutTokenError::Malformed),
        }
        let message = token.get(..header.len() + 1 + payload.len()).unwrap_or_default();
        let header = object(header)?;
        self.check_signature(&header, message, signature)?;
        // Whatever is wrong from here on, the provider has signed it.
        self.check_type(header.get("typ"))?;
        self.read(&object(payload)?, now.into())
    }

    /// Whether the error is to be reported: once since the keys were set, and only if the setup is wrong.
    pub(crate) fn is_first(&self, error: LogoutTokenError) -> bool {
        let bit = error.of_setup().map_or(0, |bit| 1 << bit);
        bit != 0 && self.shared.reported.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    fn check_signature(
        &self,
        header: &Map<String, Value>,
        message: &str,
        signature: &str,
    ) -> Result<(), LogoutTokenError> {
        if header.contains_key("crit") {
            return Err(LogoutTokenError::CriticalHeader);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(asymmetric);
        let algorithm = algorithm.ok_or(LogoutTokenError::Algorithm)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.as_str()),
            Some(_) => return Err(LogoutTokenError::Malformed),
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| LogoutTokenError::Malformed)?;
        let keys = Arc::clone(&self.shared.keys.read().unwrap_or_else(PoisonError::into_inner));
        let fitting = || {
            let has_id = |key: &&PublicKey| key_id.is_none() || key.id.as_deref() == key_id;
            keys.iter().filter(|key| key.algorithms.contains(&algorithm)).filter(has_id)
        };
        let count = fitting().count();
        if count == 0 || (key_id.is_none() && count > 1) {
            return Err(LogoutTokenError::UnknownKey);
        }
        let is_valid = fitting().any(|key| key.verifies(algorithm, message.as_bytes(), &signature));
        is_valid.then_some(()).ok_or(LogoutTokenError::Signature)
    }

    fn check_type(&self, found: Option<&Value>) -> Result<(), LogoutTokenError> {
        let is_accepted = match found {
            None => !self.is_type_required,
            Some(Value::String(found)) => {
                // The prefix may be left out, and case does not count (RFC 7515 §4.1.9).
                let found = found.to_ascii_lowercase();
                let found = found.strip_prefix("application/").unwrap_or(&found);
                found == "logout+jwt" || (!self.is_type_required && found == "jwt")
            }
            Some(_) => false,
        };
        is_accepted.then_some(()).ok_or(LogoutTokenError::WrongType)
    }

    fn read(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<LogoutToken, LogoutTokenError> {
        if claims.get("iss").and_then(Value::as_str) != Some(&*self.issuer) {
            return Err(LogoutTokenError::WrongIssuer);
        }
        let is_client = |audience: &Value| audience.as_str() == Some(&*self.client_id);
        let is_for_client = match claims.get("aud") {
            Some(Value::Array(audiences)) => !audiences.is_empty() && audiences.iter().all(is_client),
            audience => audience.is_some_and(is_client),
        };
        if !is_for_client {
            return Err(LogoutTokenError::WrongAudience);
        }
        let (expires_at, issued_at) = (time(claims, "exp")?, time(claims, "iat")?);
        if now >= expires_at.after(MAX_SKEW) {
            return Err(LogoutTokenError::Expired);
        }
        if issued_at > now.after(MAX_SKEW) {
            return Err(LogoutTokenError::FromFuture);
        }
        if now >= issued_at.after(MAX_AGE + MAX_SKEW) {
            return Err(LogoutTokenError::TooOld);
        }
        let jti = text(claims, "jti")?.ok_or(LogoutTokenError::Claim("jti"))?;
        if !claims.get("events").and_then(|events| events.get(EVENT)).is_some_and(Value::is_object) {
            return Err(LogoutTokenError::NoLogoutEvent);
        }
        if claims.contains_key("nonce") {
            return Err(LogoutTokenError::HasNonce);
        }
        let (subject, session_id) = (text(claims, "sub")?, text(claims, "sid")?);
        if subject.is_none() && session_id.is_none() {
            return Err(LogoutTokenError::NoSubject);
        }
        Ok(LogoutToken {
            issuer: Arc::clone(&self.issuer),
            subject,
            session_id,
            jti,
            issued_at: issued_at.into(),
            expires_at: expires_at.into(),
        })
    }
}

impl fmt::Debug for LogoutVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.shared.keys.read().unwrap_or_else(PoisonError::into_inner).len();
        let LogoutVerifier { issuer, client_id, is_type_required, .. } = self;
        f.debug_struct("LogoutVerifier")
            .field("issuer", issuer)
            .field("client_id", client_id)
            .field("is_type_required", is_type_required)
            .field("keys", &keys)
            .finish()
    }
}

/// A part of a JWT that is a JSON object.
fn object(part: &str) -> Result<Map<String, Value>, LogoutTokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| LogoutTokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| LogoutTokenError::Malformed)
}

/// A claim that is a text, and not an empty one.
fn text(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Box<str>>, LogoutTokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.as_str().into())),
        Some(_) => Err(LogoutTokenError::Claim(name)),
    }
}

/// A claim that is a number of seconds since the Unix epoch, which may have a fraction (RFC 7519 §2).
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Timestamp, LogoutTokenError> {
    let seconds = |value: &Value| match value.as_u64() {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => Duration::try_from_secs_f64(value.as_f64()?).ok(),
    };
    let since_epoch = claims.get(name).and_then(seconds).ok_or(LogoutTokenError::Claim(name))?;
    Ok(Timestamp::from_millis(0).after(since_epoch))
}
