//! The access token: a JWT (RFC 7519) of type `at+jwt` (RFC 9068), with one fixed header per key.
//!
//! Verifying looks at nothing of the sender's before the signature holds: the header segment has to be, byte for byte,
//! the one that belongs to one of our keys, so there is no algorithm to confuse and no key id to look up
//! (RFC 8725 §3.1).

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::Mac as _;
use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::keys::{HmacSha256, Purpose, Secret, hmac};
use crate::policy::ConfigError;
use crate::session::{SessionId, Timestamp};
use crate::settings::Settings;

/// The names in an access token that are ours; the app's claims may not use them. `nbf` is not written, but other
/// verifiers would act on it.
pub(crate) const RESERVED: [&str; 9] = ["iss", "aud", "sub", "sid", "gen", "jti", "iat", "exp", "nbf"];

/// A life below this keeps its milliseconds: whole seconds would cost it more than the 5 % that chance may take.
const SHORT_LIFE: Duration = Duration::from_secs(20);

/// Names one access token (`jti`): when it was issued and for how long, both in milliseconds, and 64 random bits.
///
/// The JWT's own `iat` and `exp` are whole seconds, rounded down, as every library expects them; what is decided by them
/// here (acknowledgement after the grace, a life of 1500 ms) needs more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenId([u8; 18]);

impl TokenId {
    fn new(issued_at: Timestamp, life: Duration) -> Result<Self, getrandom::Error> {
        let issued = u64::try_from(issued_at.as_millis()).unwrap_or(0).to_be_bytes();
        let life = u32::try_from(life.as_millis()).unwrap_or(u32::MAX).to_be_bytes();
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let mut bytes = [0; 18];
        let parts = issued.iter().skip(2).chain(&life).chain(&random);
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        Ok(Self(bytes))
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 18];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        (length == bytes.len()).then_some(Self(bytes))
    }

    pub(crate) fn issued_at(&self) -> Timestamp {
        let millis = self.0.iter().take(6).fold(0, |sum, byte| sum << 8 | i64::from(*byte));
        Timestamp::from_millis(millis)
    }

    pub(crate) fn expires_at(&self) -> Timestamp {
        let life = self.0.iter().skip(6).take(4).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        self.issued_at().after(Duration::from_millis(life))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// A verified access token.
#[derive(Clone, Debug)]
pub(crate) struct AccessToken<C> {
    pub(crate) user: Arc<str>,
    pub(crate) session: SessionId,
    pub(crate) generation: u32,
    pub(crate) id: TokenId,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) claims: C,
}

/// What an access token is issued for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant<'a> {
    pub(crate) user: &'a str,
    pub(crate) session: SessionId,
    pub(crate) generation: u32,
    pub(crate) now: Timestamp,
    pub(crate) ttl: Duration,
    pub(crate) session_ends: Timestamp,
    /// The text of a JSON object without any of the [`RESERVED`] names.
    pub(crate) claims: &'a str,
}

/// The token and how long it is good for.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) expires_at: Timestamp,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Invalid,
    Expired,
}

/// One key: the header that goes with it, and how to sign and to verify.
pub(crate) struct Key {
    /// The encoded header and the dot behind it.
    header: String,
    algorithm: Algorithm,
}

enum Algorithm {
    /// The HMAC state with the key and the header in it.
    Hs256(HmacSha256),
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    Asymmetric(super::asymmetric::KeyPair),
}

impl Key {
    fn header(algorithm: &str, key_id: &str) -> String {
        let header = serde_json::json!({"typ": "at+jwt", "alg": algorithm, "kid": key_id});
        URL_SAFE_NO_PAD.encode(header.to_string()) + "."
    }

    pub(crate) fn hs256(secret: &Secret, issuer: &str) -> Self {
        let id = secret.derive(issuer, Purpose::AccessKeyId);
        let id: Vec<u8> = id.iter().copied().take(6).collect();
        let header = Self::header("HS256", &URL_SAFE_NO_PAD.encode(id));
        let mut mac = hmac(&secret.derive(issuer, Purpose::AccessHs256));
        mac.update(header.as_bytes());
        Self { header, algorithm: Algorithm::Hs256(mac) }
    }

    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    pub(crate) fn asymmetric(keys: super::asymmetric::KeyPair) -> Self {
        let header = Self::header(keys.algorithm_name(), &keys.thumbprint());
        Self { header, algorithm: Algorithm::Asymmetric(keys) }
    }

    /// The public half, for a JWKS; a symmetric key has none.
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    pub(crate) fn jwk(&self) -> Option<serde_json::Value> {
        match &self.algorithm {
            Algorithm::Hs256(_) => None,
            Algorithm::Asymmetric(keys) => Some(keys.jwk()),
        }
    }

    /// The signature over `header.payload`, where `message` begins with this key's header.
    fn sign(&self, message: &str) -> Option<Vec<u8>> {
        match &self.algorithm {
            Algorithm::Hs256(mac) => {
                let mut mac = mac.clone();
                mac.update(message.strip_prefix(&self.header)?.as_bytes());
                Some(mac.finalize().into_bytes().to_vec())
            }
            #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
            Algorithm::Asymmetric(keys) => keys.sign(message.as_bytes()),
        }
    }

    fn verify(&self, message: &str, payload: &str, signature: &[u8]) -> bool {
        match &self.algorithm {
            Algorithm::Hs256(mac) => {
                let _ = message;
                let mut mac = mac.clone();
                mac.update(payload.as_bytes());
                mac.verify_slice(signature).is_ok()
            }
            #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
            Algorithm::Asymmetric(keys) => {
                let _ = payload;
                keys.verify(message.as_bytes(), signature)
            }
        }
    }
}

/// Signs with one key and verifies with several.
pub(crate) struct AccessKeys {
    signing: Key,
    others: Vec<Key>,
    issuer: String,
    audience: String,
    leeway: Duration,
    /// How far another node's clock may be ahead of this one's.
    skew: Duration,
    /// No token lives longer than this, whatever it says of itself.
    ttl: Duration,
}

impl AccessKeys {
    pub(crate) fn new(signing: Key, others: Vec<Key>, settings: &Settings) -> Result<Self, ConfigError> {
        let keys = Self {
            signing,
            others,
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            leeway: settings.leeway,
            skew: settings.policy.grace,
            ttl: settings.policy.access_ttl,
        };
        // A key that cannot sign shows now, not at the first login.
        let probe = keys.signing.header.clone() + "e30";
        let holds = keys.signing.sign(&probe).is_some_and(|signature| keys.signing.verify(&probe, "e30", &signature));
        holds.then_some(keys).ok_or_else(|| ConfigError::new("signing_key", "it does not sign what it verifies"))
    }

    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    pub(crate) fn jwks(&self) -> serde_json::Value {
        let keys: Vec<_> = std::iter::once(&self.signing).chain(&self.others).filter_map(Key::jwk).collect();
        serde_json::json!({ "keys": keys })
    }

    /// Signs an access token that expires `ttl` from now or with its session, whichever comes first.
    pub(crate) fn issue(&self, grant: Grant<'_>) -> Option<Issued> {
        let mut expires_at = grant.now.after(grant.ttl).min(grant.session_ends);
        // The random shortening of the ttl has room for the rest of a second; a short life has not.
        if expires_at.since(grant.now) >= SHORT_LIFE {
            expires_at = Timestamp::from_millis(expires_at.as_secs().saturating_mul(1000));
        }
        let id = TokenId::new(grant.now, expires_at.since(grant.now)).ok()?;
        let registered = Registered {
            iss: &self.issuer,
            aud: &self.audience,
            sub: grant.user,
            sid: grant.session,
            r#gen: grant.generation,
            jti: id.to_string(),
            iat: grant.now.as_secs(),
            exp: expires_at.as_secs(),
        };
        let mut payload = serde_json::to_string(&registered).ok()?;
        // Two JSON objects become one: the app's members follow ours.
        let members = grant.claims.trim().strip_prefix('{')?.trim_start();
        if !members.starts_with('}') {
            payload.pop();
            payload.push(',');
            payload.push_str(members);
        }
        let mut token = String::with_capacity(self.signing.header.len() + payload.len() * 4 / 3 + 92);
        token.push_str(&self.signing.header);
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = self.signing.sign(&token)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Some(Issued { token, expires_at })
    }

    /// Whether we issued this, and for how long it is good. Times are judged by [`check_times`](Self::check_times).
    pub(crate) fn verify<C: DeserializeOwned>(&self, token: &str) -> Result<AccessToken<C>, Refused> {
        let (message, signature) = token.rsplit_once('.').ok_or(Refused::Invalid)?;
        // The longest signature there is (ES256, EdDSA) has 64 bytes.
        let mut bytes = [0; 66];
        let length = URL_SAFE_NO_PAD.decode_slice(signature, &mut bytes).map_err(|_| Refused::Invalid)?;
        let signature = bytes.get(..length).unwrap_or_default();
        let payload = std::iter::once(&self.signing)
            .chain(&self.others)
            .filter_map(|key| Some((key, message.strip_prefix(key.header.as_str())?)))
            .find(|(key, payload)| key.verify(message, payload, signature))
            .map(|(_, payload)| payload)
            .ok_or(Refused::Invalid)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Refused::Invalid)?;
        let payload: Payload<C> = serde_json::from_slice(&payload).map_err(|_| Refused::Invalid)?;
        if payload.iss != self.issuer || payload.aud != self.audience {
            return Err(Refused::Invalid);
        }
        let id = TokenId::parse(&payload.jti).ok_or(Refused::Invalid)?;
        Ok(AccessToken {
            user: payload.sub.into(),
            session: payload.sid,
            generation: payload.r#gen,
            id,
            issued_at: id.issued_at(),
            expires_at: id
                .expires_at()
                .min(Timestamp::from_millis(payload.exp.saturating_mul(1000).saturating_add(999))),
            claims: payload.claims,
        })
    }

    /// Neither expired nor from a future that clock skew does not explain.
    pub(crate) fn check_times<C>(&self, token: &AccessToken<C>, now: Timestamp) -> Result<(), Refused> {
        // Revocations are remembered for one ttl: a token from before a deploy that shortened it must not outlive them.
        if now.before(self.leeway) >= token.expires_at.min(token.issued_at.after(self.ttl)) {
            return Err(Refused::Expired);
        }
        if now.after(self.skew) < token.issued_at {
            return Err(Refused::Invalid);
        }
        Ok(())
    }
}

/// Our claims, in the order in which they are written and read.
#[derive(Serialize)]
struct Registered<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    sid: SessionId,
    r#gen: u32,
    jti: String,
    iat: i64,
    exp: i64,
}

struct Payload<C> {
    iss: String,
    aud: String,
    sub: String,
    sid: SessionId,
    r#gen: u32,
    jti: String,
    exp: i64,
    claims: C,
}

/// Ours first, in order, because that is how we write them; then the app's type reads the rest of the object itself.
/// So nothing is buffered, and every type works that reads a JSON object.
impl<'de, C: DeserializeOwned> Deserialize<'de> for Payload<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<C>(PhantomData<C>);

        fn member<'de, M: MapAccess<'de>, T: Deserialize<'de>>(map: &mut M, name: &'static str) -> Result<T, M::Error> {
            // As we wrote it, without escapes, so it can be read where it stands.
            match map.next_key::<&'de str>()? {
                Some(key) if key == name => map.next_value(),
                _ => Err(M::Error::missing_field(name)),
            }
        }

        impl<'de, C: DeserializeOwned> Visitor<'de> for Reader<C> {
            type Value = Payload<C>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the claims of an access token")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let iss = member(&mut map, "iss")?;
                let aud = member(&mut map, "aud")?;
                let sub = member(&mut map, "sub")?;
                let sid = member(&mut map, "sid")?;
                let r#gen = member(&mut map, "gen")?;
                let jti = member(&mut map, "jti")?;
                let _iat: i64 = member(&mut map, "iat")?;
                let exp = member(&mut map, "exp")?;
                let claims = C::deserialize(Rest(Others(map)))?;
                Ok(Payload { iss, aud, sub, sid, r#gen, jti, exp, claims })
            }
        }

        deserializer.deserialize_map(Reader(PhantomData))
    }
}

/// The members behind ours. None of them may have a name of ours: there is one of each (RFC 7519 §4), and an `nbf` would
/// want to be looked at.
struct Others<M>(M);

impl<'de, M: MapAccess<'de>> MapAccess<'de> for Others<M> {
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, M::Error> {
        self.0.next_key_seed(Foreign(seed))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, M::Error> {
        self.0.next_value_seed(seed)
    }
}

struct Foreign<K>(K);

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Foreign<K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for Foreign<K> {
    type Value = K::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, name: &'de str) -> Result<K::Value, E> {
        if RESERVED.contains(&name) {
            return Err(E::custom("a name of ours among the app's claims"));
        }
        self.0.deserialize(BorrowedStrDeserializer::new(name))
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<K::Value, E> {
        if RESERVED.contains(&name) {
            return Err(E::custom("a name of ours among the app's claims"));
        }
        self.0.deserialize(StrDeserializer::new(name))
    }
}

/// What is left of an object. serde's own deserializer of it knows neither `struct Claims(Inner)` nor `Option<Claims>`.
struct Rest<M>(M);

impl<'de, M: MapAccess<'de>> Deserializer<'de> for Rest<M> {
    type Error = M::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, M::Error> {
        visitor.visit_map(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, M::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, M::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, M::Error> {
        MapAccessDeserializer::new(self.0).deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Claims {
        role: String,
    }

    #[derive(Debug, Deserialize)]
    struct NoClaims {}

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_250);

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

    fn grant(claims: &str) -> Grant<'_> {
        Grant {
            user: "alice",
            session: SessionId::from_bytes([7; 16]),
            generation: 3,
            now: NOW,
            ttl: Duration::from_millis(900_000),
            session_ends: Timestamp::MAX,
            claims,
        }
    }

    const ROLE: &str = r#"{"role":"admin"}"#;

    fn refused(token: &str) -> Option<Refused> {
        keys().verify::<Claims>(token).err()
    }

    fn segment(token: &str, n: usize) -> serde_json::Value {
        let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(n).unwrap()).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// A token with these segments, signed with our own key.
    fn sign(header: &serde_json::Value, payload: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
        let mut mac = hmac(&secret().derive("app", Purpose::AccessHs256));
        mac.update(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    #[test]
    fn a_token_reads_back_what_it_writes() {
        let issued = keys().issue(grant(ROLE)).unwrap();
        let token: AccessToken<Claims> = keys().verify(&issued.token).unwrap();
        assert_eq!(&*token.user, "alice");
        assert_eq!((token.session, token.generation), (SessionId::from_bytes([7; 16]), 3));
        assert_eq!((token.issued_at, token.expires_at), (NOW, issued.expires_at));
        assert_eq!(issued.expires_at, Timestamp::from_millis(1_700_000_900_000));
        assert_eq!((token.id.issued_at(), token.id.expires_at()), (NOW, issued.expires_at));
        assert_eq!(token.claims.role, "admin");
    }

    #[test]
    fn header_and_claims_are_the_documented_ones() {
        let issued = keys().issue(grant(ROLE)).unwrap();
        let header = segment(&issued.token, 0);
        assert_eq!((&header["typ"], &header["alg"]), (&"at+jwt".into(), &"HS256".into()));
        assert_eq!(header["kid"].as_str().unwrap().len(), 8);
        let expected = serde_json::json!({
            "iss": "app", "aud": "web", "sub": "alice", "sid": SessionId::from_bytes([7; 16]), "gen": 3,
            "jti": segment(&issued.token, 1)["jti"], "iat": 1_700_000_000, "exp": 1_700_000_900, "role": "admin",
        });
        assert_eq!(segment(&issued.token, 1), expected);
    }

    #[test]
    fn claims_may_be_any_type_that_reads_an_object() {
        for claims in ["{}", " { } ", ROLE, r#"{"a":{"b":[1,null]},"c":"\"}"}"#] {
            let issued = keys().issue(grant(claims)).unwrap();
            assert!(keys().verify::<NoClaims>(&issued.token).is_ok());
            let value = keys().verify::<serde_json::Value>(&issued.token).unwrap().claims;
            assert_eq!(value, serde_json::from_str::<serde_json::Value>(claims).unwrap());
        }
        assert!(keys().issue(grant("null")).is_none());
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

        let token = keys().issue(grant(ROLE)).unwrap().token;
        let admin = || Claims { role: "admin".to_owned() };
        assert_eq!(keys().verify::<Wrapped>(&token).unwrap().claims, Wrapped(admin()));
        assert_eq!(keys().verify::<Option<Claims>>(&token).unwrap().claims, Some(admin()));
        assert_eq!(keys().verify::<Option<Box<Wrapped>>>(&token).unwrap().claims, Some(Box::new(Wrapped(admin()))));
        assert_eq!(keys().verify::<Several>(&token).unwrap().claims, Several::Role("admin".to_owned()));
    }

    #[test]
    fn a_token_ends_with_its_session_at_the_latest_and_exp_never_says_later() {
        for ends in [1_700_000_001_000, 1_700_000_001_700, 1_700_000_000_251, 1_700_000_000_250] {
            let session_ends = Timestamp::from_millis(ends);
            let issued = keys().issue(Grant { session_ends, ..grant(ROLE) }).unwrap();
            let exp = segment(&issued.token, 1)["exp"].as_i64().unwrap();
            assert!(exp * 1000 <= ends && issued.expires_at <= session_ends);
            let token = keys().verify::<Claims>(&issued.token).unwrap();
            assert_eq!(keys().check_times(&token, session_ends), Err(Refused::Expired));
        }
    }

    #[test]
    fn a_life_of_a_second_and_a_half_is_just_that() {
        let issued = keys().issue(Grant { ttl: Duration::from_millis(1_500), ..grant(ROLE) }).unwrap();
        let token = keys().verify::<Claims>(&issued.token).unwrap();
        assert_eq!(token.expires_at, NOW.after(Duration::from_millis(1_500)));
        assert_eq!(keys().check_times(&token, NOW.after(Duration::from_millis(1_499))), Ok(()));
        assert_eq!(keys().check_times(&token, NOW.after(Duration::from_millis(1_500))), Err(Refused::Expired));
    }

    #[test]
    fn a_token_from_before_the_ttl_was_shortened_lives_no_longer_than_a_new_one() {
        let mut keys = keys();
        let token = keys.verify::<Claims>(&keys.issue(grant(ROLE)).unwrap().token).unwrap();
        keys.ttl = Duration::from_secs(60);
        assert_eq!(keys.check_times(&token, NOW.after(Duration::from_millis(59_999))), Ok(()));
        assert_eq!(keys.check_times(&token, NOW.after(Duration::from_secs(60))), Err(Refused::Expired));
    }

    #[test]
    fn leeway_is_given_only_where_it_was_configured() {
        let mut keys = keys();
        let token = keys.verify::<Claims>(&keys.issue(grant(ROLE)).unwrap().token).unwrap();
        let end = token.expires_at;
        assert_eq!(keys.check_times(&token, end), Err(Refused::Expired));
        keys.leeway = Duration::from_secs(5);
        assert_eq!(keys.check_times(&token, end.after(Duration::from_millis(4_999))), Ok(()));
        assert_eq!(keys.check_times(&token, end.after(Duration::from_secs(5))), Err(Refused::Expired));
    }

    #[test]
    fn a_token_from_the_future_is_taken_only_within_clock_skew() {
        let token = keys().verify::<Claims>(&keys().issue(grant(ROLE)).unwrap().token).unwrap();
        assert_eq!(keys().check_times(&token, NOW.before(Duration::from_secs(30))), Ok(()));
        assert_eq!(keys().check_times(&token, NOW.before(Duration::from_millis(30_001))), Err(Refused::Invalid));
    }

    #[test]
    fn hole_2_another_header_is_refused_though_its_signature_is_ours() {
        let good = keys().issue(grant(ROLE)).unwrap().token;
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
            assert_eq!(refused(&sign(&header, &payload)), Some(Refused::Invalid), "{header}");
        }
    }

    #[test]
    fn hole_2_a_signed_token_without_one_of_our_claims_is_refused() {
        let good = keys().issue(grant(ROLE)).unwrap().token;
        let (header, payload) = (segment(&good, 0), segment(&good, 1));
        for name in ["iss", "aud", "sub", "sid", "gen", "jti", "iat", "exp"] {
            let mut payload = payload.clone();
            payload.as_object_mut().unwrap().remove(name);
            assert_eq!(refused(&sign(&header, &payload.to_string())), Some(Refused::Invalid), "{name}");
        }
        let good = String::from_utf8(URL_SAFE_NO_PAD.decode(good.split('.').nth(1).unwrap()).unwrap()).unwrap();
        for name in ["iss", "aud", "sub", "sid", "gen", "jti", "iat", "exp"] {
            let renamed = good.replacen(&format!("\"{name}\":"), "\"x\":", 1);
            assert_eq!(refused(&sign(&header, &renamed)), Some(Refused::Invalid), "{name} by another name");
        }
        for payload in ["", "null", "[]", "{}", "{\"iss\":\"app\"", "\u{fffd}"] {
            assert_eq!(refused(&sign(&header, payload)), Some(Refused::Invalid), "{payload}");
        }
    }

    #[test]
    fn a_signed_token_that_has_a_name_of_ours_among_the_apps_is_refused() {
        let good = keys().issue(grant(ROLE)).unwrap().token;
        let (header, payload) = (segment(&good, 0), good.split('.').nth(1).unwrap());
        let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        let ours = payload.trim_end_matches('}');
        assert!(refused(&sign(&header, &format!(r#"{ours},"more":1}}"#))).is_some(), "Claims knows no more");
        let accepts = |payload: &str| keys().verify::<serde_json::Value>(&sign(&header, payload)).is_ok();
        assert!(accepts(&format!(r#"{ours},"more":1}}"#)));
        for name in RESERVED {
            assert!(!accepts(&format!(r#"{ours},"{name}":1}}"#)), "{name}");
            let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
            assert!(!accepts(&format!(r#"{ours},"{escaped}":1}}"#)), "{escaped}");
            assert!(keys().verify::<NoClaims>(&sign(&header, &format!(r#"{ours},"{name}":1}}"#))).is_err(), "{name}");
        }
    }

    #[test]
    fn another_issuer_audience_or_secret_is_refused() {
        let key = || Key::hs256(&secret(), "app");
        for (issuer, audience) in [("other", "web"), ("app", "other")] {
            let other = AccessKeys::new(key(), vec![], &settings(issuer, audience)).unwrap();
            assert_eq!(refused(&other.issue(grant(ROLE)).unwrap().token), Some(Refused::Invalid));
        }
        let other = keys_of(&Secret::new("another secret"), &[]);
        assert_eq!(refused(&other.issue(grant(ROLE)).unwrap().token), Some(Refused::Invalid));
    }

    #[test]
    fn not_one_character_may_differ() {
        let good = keys().issue(grant(ROLE)).unwrap().token;
        for at in 0..good.len() {
            for other in ['A', 'B', '_', '.', '='] {
                let mut bad: Vec<char> = good.chars().collect();
                if std::mem::replace(&mut bad[at], other) == other {
                    continue;
                }
                let bad: String = bad.into_iter().collect();
                assert_eq!(refused(&bad), Some(Refused::Invalid), "{at} {other}");
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        let good = keys().issue(grant(ROLE)).unwrap().token;
        let (message, _) = good.rsplit_once('.').unwrap();
        let long = format!("{message}.{}", "A".repeat(100_000));
        for bad in
            ["", ".", "..", "...", "a.b.c", message, &format!("{message}."), &format!("{good}.{good}"), &long, "é.é.é"]
        {
            assert_eq!(refused(bad), Some(Refused::Invalid));
        }
    }

    #[test]
    fn a_verify_only_key_accepts() {
        let (old, new) = (secret(), Secret::new("the next secret"));
        let (before, after) = (keys_of(&old, std::slice::from_ref(&new)), keys_of(&new, &[old]));
        let token = after.issue(grant(ROLE)).unwrap().token;
        assert!(before.verify::<Claims>(&token).is_ok());
        let token = before.issue(grant(ROLE)).unwrap().token;
        assert!(after.verify::<Claims>(&token).is_ok());
        assert_eq!(keys_of(&new, &[]).verify::<Claims>(&token).err(), Some(Refused::Invalid));
    }

    #[test]
    fn two_tokens_never_share_an_id() {
        let keys = keys();
        let id = || keys.verify::<NoClaims>(&keys.issue(grant(ROLE)).unwrap().token).unwrap().id;
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| id()).collect();
        assert_eq!(ids.len(), 1000);
        let id = id();
        assert_eq!(id.to_string().len(), 24);
        assert_eq!(TokenId::parse(&id.to_string()), Some(id));
        for bad in ["", "AAAA", &"A".repeat(25), &"A".repeat(32), &"!".repeat(24)] {
            assert_eq!(TokenId::parse(bad), None);
        }
    }
}
