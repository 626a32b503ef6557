//! The access token: a JWT (RFC 7519) of type `at+jwt` (RFC 9068), with one fixed header per key.
//!
//! Nothing in a token is interpreted before its signature is verified: the header segment has to equal, byte for byte,
//! the fixed header of one of the keys, so there is no algorithm to confuse and no key id to look up (RFC 8725 §3.1).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;

use super::claims::{Context, Payload, Registered, Scope};
use super::id::TokenId;
use super::ring::{Key, KeyRing};
use crate::config::{Settings, SettingsError};
use crate::session::{Actor, Authentication, SessionId};
use crate::time::Timestamp;

/// A lifetime below this keeps its milliseconds: rounding it down to whole seconds would shorten it by more than the 5%
/// of the random shortening.
const SHORT_LIFETIME: Duration = Duration::from_secs(20);

/// The lengths of signatures, encoded: 32 bytes of HS256, 64 of ES256 and EdDSA.
const SIGNATURE_CHARS: [usize; 2] = [43, 86];
/// With room for what the decoder expects.
const MAX_SIGNATURE_BYTES: usize = 66;
/// A payload up to this length is read on the stack.
const USUAL_PAYLOAD_BYTES: usize = 512;

/// A verified access token.
#[derive(Clone, Debug)]
pub(crate) struct AccessToken<C> {
    pub(crate) user_id: Arc<str>,
    pub(crate) session_id: SessionId,
    pub(crate) generation: u32,
    pub(crate) id: TokenId,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    /// When the user was actively authenticated.
    pub(crate) auth_time: Timestamp,
    /// None if nothing else is known about the authentication, and nobody acts for the user.
    pub(crate) context: Option<Arc<Context>>,
    /// The times between which it is valid by the clock of this node.
    valid: (Timestamp, Timestamp),
    /// That of the key that has signed it, which may be dropped.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    key: Option<Arc<super::ring::KeyLife>>,
    pub(crate) claims: C,
}

/// The parameters of a new access token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessTokenParams<'a> {
    pub(crate) user_id: &'a str,
    pub(crate) session_id: SessionId,
    pub(crate) generation: u32,
    pub(crate) now: Timestamp,
    pub(crate) ttl: Duration,
    pub(crate) session_expires_at: Timestamp,
    pub(crate) authentication: &'a Authentication,
    pub(crate) actor: Option<&'a Actor>,
    /// Tells tokens of the same millisecond apart.
    pub(crate) random: [u8; 8],
    /// The text of a JSON object without any of the [`RESERVED`](super::claims::RESERVED) names.
    pub(crate) claims: &'a str,
}

/// A new access token and its expiry.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) expires_at: Timestamp,
}

/// A new access token without its signature.
pub(crate) struct Unsigned {
    key: Arc<Key>,
    /// Its header and its payload.
    message: String,
    expires_at: Timestamp,
}

impl Unsigned {
    /// Signs it. None if the private key is not in this process.
    pub(crate) fn sign(self) -> Option<Issued> {
        let signature = self.key.sign(&self.message)?;
        Some(self.signed(&signature))
    }

    /// Has it signed by the app's signer.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(crate) async fn sign_by_app(
        self,
        time_limit: Duration,
        meter: crate::metrics::Meter,
    ) -> Result<Issued, super::signer::BoxError> {
        let key = Arc::clone(&self.key);
        let signature = key.sign_by_app(self.message.as_bytes(), time_limit, meter).await?;
        Ok(self.signed(&signature))
    }

    /// Whether the private key is not in this process.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(crate) fn is_signed_by_app(&self) -> bool {
        self.key.is_of_app()
    }

    fn signed(self, signature: &[u8]) -> Issued {
        let mut token = self.message;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Issued { token, expires_at: self.expires_at }
    }
}

/// Why an access token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Invalid,
    Expired,
}

/// The keys of access tokens, and the rules that a token has to meet.
pub(crate) struct AccessKeys {
    pub(crate) ring: KeyRing,
    scope: Scope,
    leeway: Duration,
    /// How far the clock of another node may be ahead of this node's.
    skew: Duration,
    /// The longest lifetime of a token, whatever its `exp`.
    ttl: Duration,
}

impl AccessKeys {
    pub(crate) fn new(signing: Key, others: Vec<Key>, settings: &Settings) -> Result<Self, SettingsError> {
        // Detects a key that cannot sign now rather than at the first login.
        signing.check_here()?;
        let ring = KeyRing::new(
            signing,
            others,
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            super::ring::Rotation::new(settings),
        );
        Ok(Self::of(ring, settings))
    }

    /// The keys of an issuer, none of which is known yet.
    #[cfg(feature = "verifier")]
    pub(crate) fn verifying(settings: &Settings) -> Self {
        Self::of(KeyRing::verifying(super::ring::Rotation::published(settings)), settings)
    }

    fn of(ring: KeyRing, settings: &Settings) -> Self {
        Self {
            ring,
            scope: Scope::new(&settings.issuer, &settings.audience),
            leeway: settings.leeway,
            skew: settings.policy.grace,
            ttl: settings.policy.access_ttl,
        }
    }

    /// Identifies all keys: each header has the id of its key in it.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.ring.keys().entries.iter().map(|entry| entry.key.header.clone()).collect()
    }

    /// Issues an access token with a key of this process.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn issue(&self, params: AccessTokenParams<'_>) -> Option<Issued> {
        self.prepare(params)?.sign()
    }

    /// An access token that expires after `ttl` or with its session, whichever comes first, to be signed.
    pub(crate) fn prepare(&self, params: AccessTokenParams<'_>) -> Option<Unsigned> {
        let key = self.ring.signer(params.now)?;
        let mut expires_at = params.now.after(params.ttl).min(params.session_expires_at);
        // The random shortening of the ttl leaves room for rounding down to a second, unless the lifetime is short.
        if expires_at.since(params.now) >= SHORT_LIFETIME {
            expires_at = Timestamp::from_millis(expires_at.as_secs().saturating_mul(1000));
        }
        let id = TokenId::new(params.now, expires_at.since(params.now), params.random);
        let registered = Registered {
            sub: params.user_id,
            sid: params.session_id,
            r#gen: params.generation,
            jti: id,
            iat: params.now.as_secs(),
            exp: expires_at.as_secs(),
            authentication: params.authentication,
            actor: params.actor,
        };
        let payload = registered.payload(&self.scope, params.claims)?;
        let mut message = String::with_capacity(key.header.len() + payload.len() * 4 / 3 + 92);
        message.push_str(&key.header);
        URL_SAFE_NO_PAD.encode_string(payload, &mut message);
        Some(Unsigned { key, message, expires_at })
    }

    /// Verifies that the token was issued with one of the keys, by this issuer and for this audience. The times are
    /// checked by [`check_times`](AccessToken::check_times).
    pub(crate) fn verify<C: DeserializeOwned>(&self, token: impl AsRef<[u8]>) -> Result<AccessToken<C>, Refused> {
        let token = token.as_ref();
        let (message, signature) = SIGNATURE_CHARS
            .iter()
            .filter_map(|chars| token.split_at_checked(token.len().checked_sub(chars + 1)?))
            .find_map(|(message, signature)| Some((message, signature.strip_prefix(b".")?)))
            .ok_or(Refused::Invalid)?;
        let mut bytes = [0; MAX_SIGNATURE_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(signature, &mut bytes).map_err(|_| Refused::Invalid)?;
        let signature = bytes.get(..length).unwrap_or_default();
        let keys = self.ring.keys();
        let mut fitting = keys
            .entries
            .iter()
            .filter_map(|entry| Some((&entry.key, message.strip_prefix(entry.key.header.as_bytes())?)))
            .peekable();
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
        if fitting.peek().is_none() {
            self.ring.report_unknown_key(&keys, message);
        }
        let (key, payload) =
            fitting.find(|(key, payload)| key.verify(message, payload, signature)).ok_or(Refused::Invalid)?;
        #[cfg(not(any(feature = "aws_lc_rs", feature = "signing")))]
        let _ = key;
        let (mut usual, mut long) = ([0; USUAL_PAYLOAD_BYTES], Vec::new());
        let buffer = if base64::decoded_len_estimate(payload.len()) <= usual.len() {
            usual.as_mut_slice()
        } else {
            long.resize(base64::decoded_len_estimate(payload.len()), 0);
            &mut long
        };
        let length = URL_SAFE_NO_PAD.decode_slice(payload, buffer).map_err(|_| Refused::Invalid)?;
        let payload = buffer.get_mut(..length).unwrap_or_default();
        let Some(payload) = Payload::<C>::read(payload, &self.scope) else {
            #[cfg(feature = "verifier")]
            self.ring.report_unfit(|| Payload::<C>::problem(payload, &self.scope));
            return Err(Refused::Invalid);
        };
        let id = payload.jti;
        let issued_at = id.issued_at();
        let expires_at =
            id.expires_at().min(Timestamp::from_millis(payload.exp.saturating_mul(1000).saturating_add(999)));
        // Revocations are kept for one ttl: a token from before a deployment that shortened the ttl must not outlive
        // them.
        let valid_until = expires_at.min(issued_at.after(self.ttl)).after(self.leeway);
        Ok(AccessToken {
            user_id: payload.sub,
            session_id: payload.sid,
            generation: payload.r#gen,
            id,
            issued_at,
            expires_at,
            auth_time: Timestamp::from_millis(payload.auth_time.saturating_mul(1000)),
            context: payload.context,
            valid: (issued_at.before(self.skew), valid_until),
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            key: key.life.clone(),
            claims: payload.claims,
        })
    }
}

impl<C> AccessToken<C> {
    /// Who acts for the user.
    pub(crate) fn actor(&self) -> Option<&Arc<Actor>> {
        self.context.as_ref().and_then(|context| context.actor.as_ref())
    }

    /// Checks that the token has not expired, was not issued further in the future than clock skew explains, and that its key
    /// was not dropped since it was verified.
    pub(crate) fn check_times(&self, now: Timestamp) -> Result<(), Refused> {
        let (from, until) = self.valid;
        if now >= until {
            return Err(Refused::Expired);
        }
        if now < from {
            return Err(Refused::Invalid);
        }
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
        if self.key.as_ref().is_some_and(|key| !key.is_accepted(now)) {
            return Err(Refused::Invalid);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use hmac::Mac as _;

    use super::super::claims::RESERVED;
    use super::super::keys::{Purpose, Secret, hmac};
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Claims {
        role: String,
    }

    #[derive(Debug, Deserialize)]
    struct NoClaims {}

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_250);
    static AUTHENTICATION: Authentication = Authentication::at(Timestamp::from_millis(1_600_000_000_999));

    fn secret() -> Secret {
        Secret::new("k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA")
    }

    fn keys_of(secret: &Secret, others: &[Secret]) -> AccessKeys {
        let others = others.iter().map(|secret| Key::hs256(secret, "app")).collect();
        AccessKeys::new(Key::hs256(secret, "app"), others, &settings("app", "web")).unwrap()
    }

    fn settings(issuer: &str, audience: &str) -> Settings {
        Settings { issuer: issuer.to_owned(), audience: audience.to_owned(), ..Settings::default() }
    }

    fn keys() -> AccessKeys {
        keys_of(&secret(), &[])
    }

    fn params(claims: &str) -> AccessTokenParams<'_> {
        AccessTokenParams {
            user_id: "alice",
            session_id: SessionId::from_bytes([7; 16]),
            generation: 3,
            now: NOW,
            ttl: Duration::from_millis(900_000),
            session_expires_at: Timestamp::MAX,
            authentication: &AUTHENTICATION,
            actor: None,
            random: [9; 8],
            claims,
        }
    }

    const ROLE: &str = r#"{"role":"admin"}"#;

    fn refusal(token: &str) -> Option<Refused> {
        keys().verify::<Claims>(token).err()
    }

    fn segment(token: &str, n: usize) -> serde_json::Value {
        let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(n).unwrap()).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// A token with these segments, signed with the right key.
    fn sign(header: &serde_json::Value, payload: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
        let mut mac = hmac(&secret().derive("app", Purpose::AccessHs256));
        mac.update(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    #[test]
    fn a_token_is_read_back_as_it_was_issued() {
        let issued = keys().issue(params(ROLE)).unwrap();
        let token: AccessToken<Claims> = keys().verify(&issued.token).unwrap();
        assert_eq!(&*token.user_id, "alice");
        assert_eq!((token.session_id, token.generation), (SessionId::from_bytes([7; 16]), 3));
        assert_eq!((token.issued_at, token.expires_at), (NOW, issued.expires_at));
        assert_eq!(issued.expires_at, Timestamp::from_millis(1_700_000_900_000));
        assert_eq!((token.id.issued_at(), token.id.expires_at()), (NOW, issued.expires_at));
        assert_eq!((token.auth_time, token.context), (Timestamp::from_millis(1_600_000_000_000), None));
        assert_eq!(token.claims.role, "admin");
    }

    #[test]
    fn the_header_and_the_claims_are_the_documented_ones() {
        let issued = keys().issue(params(ROLE)).unwrap();
        let header = segment(&issued.token, 0);
        assert_eq!((&header["typ"], &header["alg"]), (&"at+jwt".into(), &"HS256".into()));
        assert_eq!(header["kid"].as_str().unwrap().len(), 8);
        let expected = serde_json::json!({
            "iss": "app", "aud": "web", "sub": "alice", "sid": SessionId::from_bytes([7; 16]), "gen": 3,
            "jti": segment(&issued.token, 1)["jti"], "iat": 1_700_000_000, "exp": 1_700_000_900,
            "auth_time": 1_600_000_000, "role": "admin",
        });
        assert_eq!(segment(&issued.token, 1), expected);
    }

    #[test]
    fn claims_may_be_any_type_that_reads_an_object() {
        for claims in ["{}", " { } ", ROLE, r#"{"a":{"b":[1,null]},"c":"\"}"}"#] {
            let issued = keys().issue(params(claims)).unwrap();
            assert!(keys().verify::<NoClaims>(&issued.token).is_ok());
            let value = keys().verify::<serde_json::Value>(&issued.token).unwrap().claims;
            assert_eq!(value, serde_json::from_str::<serde_json::Value>(claims).unwrap());
        }
        assert!(keys().issue(params("null")).is_none());
    }

    #[test]
    fn claims_may_be_wrapped_optional_or_one_of_several() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Wrapped(Claims);

        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Several {
            Role(String),
        }

        let token = keys().issue(params(ROLE)).unwrap().token;
        let admin = || Claims { role: "admin".to_owned() };
        assert_eq!(keys().verify::<Wrapped>(&token).unwrap().claims, Wrapped(admin()));
        assert_eq!(keys().verify::<Option<Claims>>(&token).unwrap().claims, Some(admin()));
        assert_eq!(keys().verify::<Option<Box<Wrapped>>>(&token).unwrap().claims, Some(Box::new(Wrapped(admin()))));
        assert_eq!(keys().verify::<Several>(&token).unwrap().claims, Several::Role("admin".to_owned()));
    }

    #[test]
    fn a_token_and_its_exp_never_outlast_the_session() {
        for session_end in [1_700_000_001_000, 1_700_000_001_700, 1_700_000_000_251, 1_700_000_000_250] {
            let session_expires_at = Timestamp::from_millis(session_end);
            let issued = keys().issue(AccessTokenParams { session_expires_at, ..params(ROLE) }).unwrap();
            let exp = segment(&issued.token, 1)["exp"].as_i64().unwrap();
            assert!(exp * 1000 <= session_end && issued.expires_at <= session_expires_at);
            let token = keys().verify::<Claims>(&issued.token).unwrap();
            assert_eq!(token.check_times(session_expires_at), Err(Refused::Expired));
        }
    }

    #[test]
    fn a_lifetime_of_one_and_a_half_seconds_is_exact() {
        let issued = keys().issue(AccessTokenParams { ttl: Duration::from_millis(1_500), ..params(ROLE) }).unwrap();
        let token = keys().verify::<Claims>(&issued.token).unwrap();
        assert_eq!(token.expires_at, NOW.after(Duration::from_millis(1_500)));
        assert_eq!(token.check_times(NOW.after(Duration::from_millis(1_499))), Ok(()));
        assert_eq!(token.check_times(NOW.after(Duration::from_millis(1_500))), Err(Refused::Expired));
    }

    #[test]
    fn a_token_from_before_the_ttl_was_shortened_lives_no_longer_than_a_new_one() {
        let keys = AccessKeys { ttl: Duration::from_secs(60), ..keys() };
        let token = keys.verify::<Claims>(&keys.issue(params(ROLE)).unwrap().token).unwrap();
        assert_eq!(token.check_times(NOW.after(Duration::from_millis(59_999))), Ok(()));
        assert_eq!(token.check_times(NOW.after(Duration::from_secs(60))), Err(Refused::Expired));
    }

    #[test]
    fn there_is_no_leeway_unless_it_is_configured() {
        let issued = keys().issue(params(ROLE)).unwrap().token;
        let token = keys().verify::<Claims>(&issued).unwrap();
        let end = token.expires_at;
        assert_eq!(token.check_times(end), Err(Refused::Expired));
        let keys = AccessKeys { leeway: Duration::from_secs(5), ..keys() };
        let token = keys.verify::<Claims>(&issued).unwrap();
        assert_eq!(token.check_times(end.after(Duration::from_millis(4_999))), Ok(()));
        assert_eq!(token.check_times(end.after(Duration::from_secs(5))), Err(Refused::Expired));
    }

    #[test]
    fn a_token_from_the_future_is_accepted_only_within_clock_skew() {
        let token = keys().verify::<Claims>(&keys().issue(params(ROLE)).unwrap().token).unwrap();
        assert_eq!(token.check_times(NOW.before(Duration::from_secs(30))), Ok(()));
        assert_eq!(token.check_times(NOW.before(Duration::from_millis(30_001))), Err(Refused::Invalid));
    }

    #[test]
    fn hole_2_another_header_is_refused_even_with_a_valid_signature() {
        let good = keys().issue(params(ROLE)).unwrap().token;
        let (header, payload) = (segment(&good, 0), segment(&good, 1).to_string());
        let change = |name: &str, value: serde_json::Value| {
            let mut header = header.clone();
            header[name] = value;
            header
        };
        for header in [
            change("alg", "none".into()),
            change("alg", "HS512".into()),
            change("typ", "JWT".into()),
            change("kid", "other".into()),
            change("jku", "https://evil.example".into()),
            change("crit", serde_json::json!(["exp"])),
        ] {
            assert_eq!(refusal(&sign(&header, &payload)), Some(Refused::Invalid), "{header}");
        }
    }

    #[test]
    fn hole_2_a_signed_token_without_a_registered_claim_is_refused() {
        let good = keys().issue(params(ROLE)).unwrap().token;
        let (header, payload) = (segment(&good, 0), segment(&good, 1));
        for name in ["iss", "aud", "sub", "sid", "gen", "jti", "iat", "exp"] {
            let mut payload = payload.clone();
            payload.as_object_mut().unwrap().remove(name);
            assert_eq!(refusal(&sign(&header, &payload.to_string())), Some(Refused::Invalid), "{name}");
        }
        let good = String::from_utf8(URL_SAFE_NO_PAD.decode(good.split('.').nth(1).unwrap()).unwrap()).unwrap();
        for name in ["iss", "aud", "sub", "sid", "gen", "jti", "iat", "exp"] {
            let renamed = good.replacen(&format!("\"{name}\":"), "\"x\":", 1);
            assert_eq!(refusal(&sign(&header, &renamed)), Some(Refused::Invalid), "{name} under another name");
        }
        for payload in ["", "null", "[]", "{}", "{\"iss\":\"app\"", "\u{fffd}"] {
            assert_eq!(refusal(&sign(&header, payload)), Some(Refused::Invalid), "{payload}");
        }
    }

    #[test]
    fn a_signed_token_with_a_reserved_name_among_the_apps_claims_is_refused() {
        let good = keys().issue(params(ROLE)).unwrap().token;
        let (header, payload) = (segment(&good, 0), good.split('.').nth(1).unwrap());
        let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        let registered = payload.trim_end_matches('}');
        assert!(
            refusal(&sign(&header, &format!(r#"{registered},"more":1}}"#))).is_some(),
            "Claims rejects unknown members"
        );
        let accepts = |payload: &str| keys().verify::<serde_json::Value>(&sign(&header, payload)).is_ok();
        assert!(accepts(&format!(r#"{registered},"more":1}}"#)));
        for name in RESERVED {
            assert!(!accepts(&format!(r#"{registered},"{name}":1}}"#)), "{name}");
            let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
            assert!(!accepts(&format!(r#"{registered},"{escaped}":1}}"#)), "{escaped}");
            assert!(
                keys().verify::<NoClaims>(&sign(&header, &format!(r#"{registered},"{name}":1}}"#))).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn another_issuer_audience_or_secret_is_refused() {
        let key = || Key::hs256(&secret(), "app");
        for (issuer, audience) in [("other", "web"), ("app", "other")] {
            let other = AccessKeys::new(key(), vec![], &settings(issuer, audience)).unwrap();
            assert_eq!(refusal(&other.issue(params(ROLE)).unwrap().token), Some(Refused::Invalid));
        }
        let other = keys_of(&Secret::new("another secret"), &[]);
        assert_eq!(refusal(&other.issue(params(ROLE)).unwrap().token), Some(Refused::Invalid));
    }

    #[test]
    fn not_one_character_may_differ() {
        let good = keys().issue(params(ROLE)).unwrap().token;
        for at in 0..good.len() {
            for other in ['A', 'B', '_', '.', '='] {
                let mut bad: Vec<char> = good.chars().collect();
                if std::mem::replace(&mut bad[at], other) == other {
                    continue;
                }
                let bad: String = bad.into_iter().collect();
                assert_eq!(refusal(&bad), Some(Refused::Invalid), "{at} {other}");
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        let good = keys().issue(params(ROLE)).unwrap().token;
        let (message, _) = good.rsplit_once('.').unwrap();
        let long = format!("{message}.{}", "A".repeat(100_000));
        for bad in
            ["", ".", "..", "...", "a.b.c", message, &format!("{message}."), &format!("{good}.{good}"), &long, "é.é.é"]
        {
            assert_eq!(refusal(bad), Some(Refused::Invalid));
        }
    }

    #[test]
    fn a_verify_only_key_verifies() {
        let (old, new) = (secret(), Secret::new("the next secret"));
        let (before, after) = (keys_of(&old, std::slice::from_ref(&new)), keys_of(&new, &[old]));
        let token = after.issue(params(ROLE)).unwrap().token;
        assert!(before.verify::<Claims>(&token).is_ok());
        let token = before.issue(params(ROLE)).unwrap().token;
        assert!(after.verify::<Claims>(&token).is_ok());
        assert_eq!(keys_of(&new, &[]).verify::<Claims>(&token).err(), Some(Refused::Invalid));
    }

    #[test]
    fn a_token_id_is_read_back_as_it_was_written() {
        let id = keys().verify::<NoClaims>(&keys().issue(params("{}")).unwrap().token).unwrap().id;
        assert_eq!(id.to_string().len(), 24);
        assert_eq!(TokenId::parse(&id.to_string()), Some(id));
        for bad in ["", "AAAA", &"A".repeat(25), &"A".repeat(32), &"!".repeat(24)] {
            assert_eq!(TokenId::parse(bad), None);
        }
    }
}
