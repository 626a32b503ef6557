//! Writing and reading the claims of an access token.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::session::SessionId;

/// The names of the registered claims, which the app's claims must not use. `nbf` is never written, but other verifiers
/// would act on it.
pub(crate) const RESERVED: [&str; 9] = ["iss", "aud", "sub", "sid", "gen", "jti", "iat", "exp", "nbf"];

/// The registered claims, in the order in which they are written and read.
#[derive(Serialize)]
pub(super) struct Registered<'a> {
    pub(super) iss: &'a str,
    pub(super) aud: &'a str,
    pub(super) sub: &'a str,
    pub(super) sid: SessionId,
    pub(super) r#gen: u32,
    pub(super) jti: String,
    pub(super) iat: i64,
    pub(super) exp: i64,
}

/// The payload of an access token: the registered claims and the app's claims.
pub(super) struct Payload<C> {
    pub(super) iss: String,
    pub(super) aud: String,
    pub(super) sub: String,
    pub(super) sid: SessionId,
    pub(super) r#gen: u32,
    pub(super) jti: String,
    pub(super) exp: i64,
    pub(super) claims: C,
}

/// Reads the registered claims first, in the order in which they are written. The app's type then reads the rest of the
/// object itself. So nothing is buffered, and every type that reads a JSON object works.
impl<'de, C: DeserializeOwned> Deserialize<'de> for Payload<C> {
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
                let claims = app_claims(map)?;
                Ok(Payload { iss, aud, sub, sid, r#gen, jti, exp, claims })
            }
        }

        deserializer.deserialize_map(Reader(PhantomData))
    }
}

/// Reads the app's claims from the text of a JSON object, as they are read from a token that was issued with this text.
pub(crate) fn read_app_claims<C: DeserializeOwned>(text: &str) -> Result<C, serde_json::Error> {
    struct Reader<C>(PhantomData<C>);

    impl<'de, C: DeserializeOwned> Visitor<'de> for Reader<C> {
        type Value = C;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the app's claims")
        }

        fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<C, M::Error> {
            app_claims(map)
        }
    }

    let mut text = serde_json::Deserializer::from_str(text);
    let claims = text.deserialize_map(Reader(PhantomData))?;
    text.end()?;
    Ok(claims)
}

fn app_claims<'de, C: DeserializeOwned, M: MapAccess<'de>>(remaining: M) -> Result<C, M::Error> {
    C::deserialize(RemainingObject(AppMembers(remaining)))
}

/// The app's members, which follow the registered claims. None of them may have a reserved name: names must be unique
/// (RFC 7519 §4), and an `nbf` would have to be checked.
struct AppMembers<M>(M);

impl<'de, M: MapAccess<'de>> MapAccess<'de> for AppMembers<M> {
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, M::Error> {
        self.0.next_key_seed(AppName(seed))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, M::Error> {
        self.0.next_value_seed(seed)
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
