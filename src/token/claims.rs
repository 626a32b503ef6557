//! Writing and reading the claims of an access token.

use std::fmt;
use std::io::Write as _;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::id::TokenId;
use crate::session::{Actor, Authentication, SessionId};

/// The names of the registered claims, which the app's claims must not use. `nbf` is never written, but other verifiers
/// would act on it.
pub(crate) const RESERVED: [&str; 13] =
    ["iss", "aud", "sub", "sid", "gen", "jti", "iat", "exp", "nbf", "auth_time", "acr", "amr", "act"];

/// What few access tokens say beside the time of the authentication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) acr: Option<Box<str>>,
    pub(crate) amr: Vec<Box<str>>,
    pub(crate) actor: Option<Arc<Actor>>,
}

impl Context {
    /// None if there is nothing in it.
    fn kept(self) -> Option<Arc<Self>> {
        (self != Self::default()).then(|| Arc::new(self))
    }
}

/// The registered claims of one access token.
pub(super) struct Registered<'a> {
    pub(super) sub: &'a str,
    pub(super) sid: SessionId,
    pub(super) r#gen: u32,
    pub(super) jti: TokenId,
    pub(super) iat: i64,
    pub(super) exp: i64,
    pub(super) authentication: &'a Authentication,
    pub(super) actor: Option<&'a Actor>,
}

impl Registered<'_> {
    /// Writes a payload of this scope: the registered claims, and after them the members of the app's object. None if `app` is
    /// not the text of an object.
    pub(super) fn payload(&self, scope: &Scope, app: &str) -> Option<Vec<u8>> {
        let members = app.trim().strip_prefix('{')?.trim_start();
        let mut text = Vec::with_capacity(scope.start.len() + self.sub.len() + members.len() + 150);
        text.extend_from_slice(&scope.start);
        // It begins in the middle of the text of `sub`.
        if self.sub.bytes().any(|byte| ends_plain_text(&byte)) {
            text.pop();
            serde_json::to_writer(&mut text, self.sub).ok()?;
        } else {
            text.extend_from_slice(self.sub.as_bytes());
            text.push(b'"');
        }
        let Self { sid, r#gen, jti, iat, exp, authentication: Authentication { time, acr, amr }, actor, .. } = self;
        let auth_time = time.as_secs();
        write!(text, r#","sid":"{sid}","gen":{gen},"jti":"{jti}","iat":{iat},"exp":{exp},"auth_time":{auth_time}"#)
            .ok()?;
        if let Some(acr) = acr {
            text.extend_from_slice(ACR);
            serde_json::to_writer(&mut text, acr).ok()?;
        }
        if !amr.is_empty() {
            text.extend_from_slice(AMR);
            serde_json::to_writer(&mut text, amr).ok()?;
        }
        if let Some(actor) = actor {
            text.extend_from_slice(ACT);
            serde_json::to_writer(&mut text, actor).ok()?;
        }
        if !members.starts_with('}') {
            text.push(b',');
        }
        text.extend_from_slice(members.as_bytes());
        Some(text)
    }
}

/// The optional claims, in this order.
const ACR: &[u8] = br#","acr":"#;
const AMR: &[u8] = br#","amr":"#;
const ACT: &[u8] = br#","act":"#;

/// Whose access tokens are read, and for whom they are.
pub(super) struct Scope {
    pub(super) issuer: String,
    pub(super) audience: String,
    /// How the payload of all of them begins, up to the user id.
    start: Vec<u8>,
}

impl Scope {
    pub(super) fn new(issuer: &str, audience: &str) -> Self {
        let text = |value: &str| serde_json::Value::from(value).to_string();
        let start = format!(r#"{{"iss":{},"aud":{},"sub":""#, text(issuer), text(audience));
        Self { issuer: issuer.to_owned(), audience: audience.to_owned(), start: start.into_bytes() }
    }
}

/// The payload of an access token: the registered claims and the app's claims.
pub(super) struct Payload<C> {
    pub(super) sub: Arc<str>,
    pub(super) sid: SessionId,
    pub(super) r#gen: u32,
    pub(super) jti: TokenId,
    pub(super) exp: i64,
    pub(super) auth_time: i64,
    pub(super) context: Option<Arc<Context>>,
    pub(super) claims: C,
}

impl<C: DeserializeOwned> Payload<C> {
    /// Reads a payload of this scope.
    pub(super) fn read(text: &mut [u8], scope: &Scope) -> Option<Self> {
        Self::read_as_issued(text, scope).or_else(|| Self::read_any(text, scope))
    }

    fn read_any(text: &[u8], scope: &Scope) -> Option<Self> {
        let AnyPayload { iss, aud, payload } = serde_json::from_slice(text).ok()?;
        (iss == scope.issuer && aud == scope.audience).then_some(payload)
    }

    /// Why a payload that was signed with a known key cannot be read, for the log.
    #[cfg(feature = "verifier")]
    pub(super) fn problem(text: &[u8], scope: &Scope) -> String {
        match serde_json::from_slice::<AnyPayload<C>>(text) {
            Ok(AnyPayload { iss, aud, .. }) => format!(
                "it is of the issuer {iss:?} for the audience {aud:?}, and {:?} and {:?} are expected; set `issuer` and \
                 `audience` as at the issuer",
                scope.issuer, scope.audience
            ),
            Err(error) => format!("its claims cannot be read as `{}`: {error}", std::any::type_name::<C>()),
        }
    }

    /// Reads a payload whose registered claims are byte for byte as [`issue`](super::access::AccessKeys::issue) writes them,
    /// in a fraction of the time. None if it is another one.
    fn read_as_issued(text: &mut [u8], scope: &Scope) -> Option<Self> {
        let mut rest = Rest(text.strip_prefix(scope.start.as_slice())?);
        let sub = rest.string()?.into();
        rest.literal(br#","sid":""#)?;
        let sid = rest.string()?.parse().ok()?;
        rest.literal(br#","gen":"#)?;
        let r#gen = rest.number()?.try_into().ok()?;
        rest.literal(br#","jti":""#)?;
        let jti = TokenId::parse(rest.string()?)?;
        rest.literal(br#","iat":"#)?;
        rest.number()?;
        rest.literal(br#","exp":"#)?;
        let exp = rest.number()?;
        rest.literal(br#","auth_time":"#)?;
        let auth_time = rest.number()?;
        let context = rest.context()?;
        let claims = match rest.0 {
            b"}" => read_app_claims(b"{}").ok()?,
            remaining @ [b',', b'"', ..] => {
                // The app's members, and the brace that ends the object: a brace instead of the comma begins another.
                let start = text.len() - remaining.len();
                let object = text.get_mut(start..)?;
                *object.first_mut()? = b'{';
                let claims = read_app_claims(object);
                *object.first_mut()? = b',';
                claims.ok()?
            }
            _ => return None,
        };
        Some(Self { sub, sid, r#gen, jti, exp, auth_time, context, claims })
    }
}

/// Whether a byte ends a JSON string, or has to be escaped in one (RFC 8259 §7).
const fn ends_plain_text(byte: &u8) -> bool {
    matches!(byte, b'"' | b'\\' | ..b' ')
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn literal(&mut self, text: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// The rest of a string, if there is no escape in it.
    fn string(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(ends_plain_text)?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.strip_prefix(b"\"")?;
        std::str::from_utf8(text).ok()
    }

    /// The optional claims. The outer option is for what the general parser has to read.
    #[expect(clippy::option_option, reason = "a token with none of them is usual, and no failure")]
    fn context(&mut self) -> Option<Option<Arc<Context>>> {
        let mut context = Context::default();
        if self.literal(ACR).is_some() {
            self.literal(b"\"")?;
            context.acr = Some(self.string()?.into());
        }
        if self.literal(AMR).is_some() {
            self.literal(b"[")?;
            loop {
                self.literal(b"\"")?;
                context.amr.push(self.string()?.into());
                if self.literal(b",").is_none() {
                    break;
                }
            }
            self.literal(b"]")?;
        }
        if self.literal(ACT).is_some() {
            self.literal(br#"{"sub":""#)?;
            let user_id = self.string()?.into();
            self.literal(br#","sid":""#)?;
            let session_id = self.string()?.parse().ok()?;
            self.literal(b"}")?;
            context.actor = Some(Arc::new(Actor { user_id, session_id }));
        }
        Some(context.kept())
    }

    /// A number that is not negative, has no fraction, and is far below the limit of its type.
    fn number(&mut self) -> Option<i64> {
        const MAX_DIGITS: usize = 18;
        let mut number = 0;
        let mut digits = 0;
        while let Some((digit @ b'0'..=b'9', rest)) = self.0.split_first() {
            // A leading zero is for the general parser to refuse.
            if digits == MAX_DIGITS || digits > 0 && number == 0 {
                return None;
            }
            number = number * 10 + i64::from(digit - b'0');
            digits += 1;
            self.0 = rest;
        }
        (digits > 0).then_some(number)
    }
}

/// Any payload with the registered claims in their order.
struct AnyPayload<C> {
    iss: String,
    aud: String,
    payload: Payload<C>,
}

/// Reads the registered claims first, in the order in which they are written. The app's type then reads the rest of the
/// object itself. So nothing is buffered, and every type that reads a JSON object works.
impl<'de, C: DeserializeOwned> Deserialize<'de> for AnyPayload<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<C>(PhantomData<C>);

        fn member<'de, M: MapAccess<'de>, T: Deserialize<'de>>(map: &mut M, name: &'static str) -> Result<T, M::Error> {
            // The names were written without escapes, so they can be borrowed.
            match map.next_key::<&'de str>()? {
                Some(key) if key == name => map.next_value(),
                _ => Err(M::Error::missing_field(name)),
            }
        }

        impl<'de, C: DeserializeOwned> Visitor<'de> for Reader<C> {
            type Value = AnyPayload<C>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the claims of an access token")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let iss = member(&mut map, "iss")?;
                let aud = member(&mut map, "aud")?;
                let sub: String = member(&mut map, "sub")?;
                let sid = member(&mut map, "sid")?;
                let r#gen = member(&mut map, "gen")?;
                let jti: String = member(&mut map, "jti")?;
                let jti = TokenId::parse(&jti).ok_or_else(|| M::Error::custom("not a token id"))?;
                let _iat: i64 = member(&mut map, "iat")?;
                let exp = member(&mut map, "exp")?;
                let auth_time = member(&mut map, "auth_time")?;
                let mut context = Context::default();
                let mut next: Option<String> = map.next_key()?;
                if next.as_deref() == Some("acr") {
                    context.acr = Some(map.next_value()?);
                    next = map.next_key()?;
                }
                if next.as_deref() == Some("amr") {
                    context.amr = map.next_value()?;
                    next = map.next_key()?;
                }
                if next.as_deref() == Some("act") {
                    context.actor = Some(map.next_value()?);
                    next = map.next_key()?;
                }
                let claims = app_claims(AppMembers { next, rest: map })?;
                let (sub, context) = (sub.into(), context.kept());
                Ok(AnyPayload { iss, aud, payload: Payload { sub, sid, r#gen, jti, exp, auth_time, context, claims } })
            }
        }

        deserializer.deserialize_map(Reader(PhantomData))
    }
}

/// Reads the app's claims from the text of a JSON object, as they are read from a token that was issued with this text.
pub(crate) fn read_app_claims<C: DeserializeOwned>(text: &[u8]) -> Result<C, serde_json::Error> {
    struct Reader<C>(PhantomData<C>);

    impl<'de, C: DeserializeOwned> Visitor<'de> for Reader<C> {
        type Value = C;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the app's claims")
        }

        fn visit_map<M: MapAccess<'de>>(self, rest: M) -> Result<C, M::Error> {
            app_claims(AppMembers { next: None, rest })
        }
    }

    let mut text = serde_json::Deserializer::from_slice(text);
    let claims = text.deserialize_map(Reader(PhantomData))?;
    text.end()?;
    Ok(claims)
}

fn app_claims<'de, C: DeserializeOwned, M: MapAccess<'de>>(members: AppMembers<M>) -> Result<C, M::Error> {
    C::deserialize(RemainingObject(members))
}

/// The app's members, which follow the registered claims. None of them may have a reserved name: names must be unique
/// (RFC 7519 §4), and an `nbf` would have to be checked.
struct AppMembers<M> {
    /// The name of the first one, if it was read.
    next: Option<String>,
    rest: M,
}

impl<'de, M: MapAccess<'de>> MapAccess<'de> for AppMembers<M> {
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, M::Error> {
        match self.next.take() {
            Some(name) => AppName(seed).visit_str(&name).map(Some),
            None => self.rest.next_key_seed(AppName(seed)),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, M::Error> {
        self.rest.next_value_seed(seed)
    }
}

/// Reads the name of an app's member and rejects reserved names.
struct AppName<K>(K);

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for AppName<K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for AppName<K> {
    type Value = K::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a claim")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, name: &'de str) -> Result<K::Value, E> {
        reject_reserved(name)?;
        self.0.deserialize(BorrowedStrDeserializer::new(name))
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<K::Value, E> {
        reject_reserved(name)?;
        self.0.deserialize(StrDeserializer::new(name))
    }
}

fn reject_reserved<E: serde::de::Error>(name: &str) -> Result<(), E> {
    if RESERVED.contains(&name) {
        return Err(E::custom("a reserved name among the app's claims"));
    }
    Ok(())
}

/// The rest of an object, as a deserializer. serde's own one for it supports neither `struct Claims(Inner)` nor
/// `Option<Claims>`.
struct RemainingObject<M>(M);

impl<'de, M: MapAccess<'de>> Deserializer<'de> for RemainingObject<M> {
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
    use crate::time::Timestamp;

    type AnyClaims = serde_json::Map<String, serde_json::Value>;

    fn scope() -> Scope {
        Scope::new("app \"1\"", "wéb")
    }

    fn issued(sub: &str, members: &str) -> Vec<u8> {
        issued_with(&Authentication::at(Timestamp::from_millis(1_600_000_000_999)), None, sub, members)
    }

    fn issued_with(authentication: &Authentication, actor: Option<&Actor>, sub: &str, members: &str) -> Vec<u8> {
        let registered = Registered {
            sub,
            sid: SessionId::from_bytes([7; 16]),
            r#gen: 3,
            jti: TokenId::parse(&"A".repeat(24)).unwrap(),
            iat: 1_700_000_000,
            exp: 1_700_000_900,
            authentication,
            actor,
        };
        registered.payload(&scope(), &format!("{{{members}}}")).unwrap()
    }

    fn as_issued(text: &[u8]) -> Option<Payload<AnyClaims>> {
        let (mut copy, scope) = (text.to_vec(), scope());
        let payload = Payload::read_as_issued(&mut copy, &scope);
        assert_eq!(copy, text, "it stays as it was");
        payload
    }

    fn any(text: &[u8]) -> Option<Payload<AnyClaims>> {
        Payload::read_any(text, &scope())
    }

    type Parts<C> = (Arc<str>, SessionId, u32, String, i64, i64, Option<Arc<Context>>, C);

    fn parts<C>(payload: Payload<C>) -> Parts<C> {
        let Payload { sub, sid, r#gen, jti, exp, auth_time, context, claims } = payload;
        (sub, sid, r#gen, jti.to_string(), exp, auth_time, context, claims)
    }

    fn actor() -> Actor {
        Actor { user_id: "admin".into(), session_id: SessionId::from_bytes([9; 16]) }
    }

    fn aal2() -> Authentication {
        let time = Timestamp::from_millis(1_600_000_000_999);
        Authentication { time, acr: Some("urn:aal:2".into()), amr: vec!["pwd".into(), "otp".into()] }
    }

    #[test]
    fn an_issued_payload_says_how_the_user_was_authenticated_and_who_acts() {
        for (acr, amr, acts) in (0..8).map(|n| (n & 1 > 0, n & 2 > 0, n & 4 > 0)) {
            let mut authentication = aal2();
            authentication.acr = authentication.acr.filter(|_| acr);
            authentication.amr.retain(|_| amr);
            let actor = acts.then(actor);
            for members in ["", r#""role":"admin""#] {
                let text = issued_with(&authentication, actor.as_ref(), "alice", members);
                let (.., auth_time, context, _) = as_issued(&text).map(parts).unwrap();
                assert_eq!(auth_time, 1_600_000_000);
                let expected = Context {
                    acr: authentication.acr.clone(),
                    amr: authentication.amr.clone(),
                    actor: actor.clone().map(Arc::new),
                };
                assert_eq!(context.as_deref(), (acr || amr || acts).then_some(&expected));
                assert_eq!(as_issued(&text).map(parts), any(&text).map(parts));
            }
        }
    }

    #[test]
    fn names_of_authentication_with_escapes_are_read_by_the_general_parser() {
        let mut authentication = aal2();
        authentication.amr.push("a\"b\n".into());
        let mut text = issued_with(&authentication, None, "alice", r#""role":"admin""#);
        assert!(as_issued(&text).is_none());
        let payload = Payload::<AnyClaims>::read(&mut text, &scope()).unwrap();
        assert_eq!(payload.context.unwrap().amr, authentication.amr);
        assert_eq!(payload.claims["role"], "admin");
    }

    #[test]
    fn an_issued_payload_is_read_without_the_general_parser() {
        for members in ["", r#""role":"admin""#, r#""a":{"b":[1,null," \" "]} , "c" : "\n""#] {
            for sub in ["alice", "", "jürgen", "a/b@c"] {
                let text = issued(sub, members);
                let payload = as_issued(&text).map(parts);
                assert!(payload.is_some(), "{sub} {members}");
                assert_eq!(payload, any(&text).map(parts));
            }
        }
    }

    #[test]
    fn a_user_id_with_escapes_is_read_by_the_general_parser() {
        let mut text = issued("a\"b\\c\u{1}", r#""role":"admin""#);
        assert!(as_issued(&text).is_none());
        let payload = Payload::<AnyClaims>::read(&mut text, &scope()).unwrap();
        assert_eq!(&*payload.sub, "a\"b\\c\u{1}");
    }

    #[test]
    fn whatever_byte_is_changed_both_parsers_read_the_same() {
        let text = issued_with(&aal2(), Some(&actor()), "alice", r#""role":"admin","exp2":1"#);
        let mut read = 0;
        for at in 0..text.len() {
            for byte in [b'"', b'\\', b',', b':', b'{', b'}', b' ', b'0', b'1', b'9', b'-', b'.', b'e', b'A', 0, 0xff] {
                let changed: Vec<_> =
                    text.iter().enumerate().map(|(n, old)| if n == at { byte } else { *old }).collect();
                let (fast, general) = (as_issued(&changed).map(parts), any(&changed).map(parts));
                read += usize::from(fast.is_some());
                assert!(fast.is_none() || fast == general, "{}", String::from_utf8_lossy(&changed));
            }
            let shorter = [&text[..at], &text[at + 1..]].concat();
            let fast = as_issued(&shorter).map(parts);
            assert!(fast.is_none() || fast == any(&shorter).map(parts), "{}", String::from_utf8_lossy(&shorter));
        }
        assert!(read > 500, "{read}");
    }

    #[test]
    fn what_follows_the_registered_claims_is_a_member_or_the_end() {
        let text = String::from_utf8(issued("alice", "")).unwrap();
        let start = text.strip_suffix('}').unwrap();
        for end in [
            "}",
            "} ",
            " }",
            ",}",
            ", }",
            ",  \"a\":1}",
            ",\"a\":1,}",
            ",\"a\":1} ",
            "",
            ",",
            ",\"a\":1}}",
            "}}",
            ",{}}",
        ] {
            let text = format!("{start}{end}").into_bytes();
            let fast = as_issued(&text).map(parts);
            assert!(fast.is_none() || fast == any(&text).map(parts), "{end}");
        }
    }

    #[test]
    fn reserved_names_among_the_members_are_refused_by_both_parsers() {
        for name in RESERVED {
            let text = issued("alice", &format!(r#""role":"admin","{name}":1"#));
            assert!(as_issued(&text).is_none() && any(&text).is_none(), "{name}");
        }
    }
}
