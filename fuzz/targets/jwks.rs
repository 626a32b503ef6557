//! JWK sets: a set that is accepted has no private and no symmetric key, and all that is accepted of it are public keys for
//! signatures of ours, as another library reads them.
#![no_main]

use std::collections::BTreeSet;

use axum_refresh::fuzz::read_jwks;
use axum_refresh_fuzz::{Input, bounded, change};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::Jwk;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

fn ed25519() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": "one", "alg": "EdDSA", "use": "sig",
           "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
}

fn p256() -> Value {
    json!({"kty": "EC", "crv": "P-256", "kid": "two", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
           "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"})
}

/// A set that is nearly one: members from a list, with values from another.
fn composed(input: &mut Input<'_>) -> Value {
    let names = [
        "kty", "crv", "kid", "alg", "use", "key_ops", "x", "y", "d", "k", "n", "e", "x5c", "p", "q", "dp", "dq", "qi",
        "oth",
    ];
    let values = [
        json!("OKP"),
        json!("EC"),
        json!("RSA"),
        json!("oct"),
        json!("Ed25519"),
        json!("P-256"),
        json!("X25519"),
        json!("EdDSA"),
        json!("ES256"),
        json!("sig"),
        json!("enc"),
        json!(["verify"]),
        json!(["sign"]),
        json!([]),
        json!("AQ"),
        json!(""),
        json!(null),
        json!(7),
        json!("one"),
        json!("two"),
        json!("A".repeat(43)),
        json!({}),
    ];
    let count = usize::from(input.byte() % 4);
    let keys: Vec<_> = (0..count)
        .map(|_| {
            let mut key = match input.byte() % 3 {
                0 => ed25519(),
                1 => p256(),
                _ => json!({}),
            };
            for _ in 0..input.byte() % 4 {
                let name = names[usize::from(input.byte()) % names.len()];
                let value = values[usize::from(input.byte()) % values.len()].clone();
                let members = key.as_object_mut().unwrap();
                if input.byte().is_multiple_of(4) {
                    members.remove(name);
                } else {
                    members.insert(name.to_owned(), value);
                }
            }
            key
        })
        .collect();
    json!({ "keys": keys })
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let document = match input.byte() % 3 {
        0 => input.rest().to_vec(),
        1 => composed(&mut input).to_string().into_bytes(),
        _ => {
            let mut document = composed(&mut input).to_string().into_bytes();
            change(&mut document, input);
            document
        }
    };
    // The parsed document, and a few decoded points for each key.
    let Ok(accepted) = bounded(64 * document.len() + 16 * 1024, || read_jwks(&document)) else { return };
    let set: Value = serde_json::from_slice(&document).expect("an accepted set is JSON");
    let keys = set["keys"].as_array().expect("with keys");
    for key in keys {
        assert_ne!(key["kty"], "oct");
        assert!(PRIVATE.iter().all(|member| key.get(member).is_none()), "{key}");
    }
    assert!(!accepted.is_empty());
    let ids: BTreeSet<_> = accepted.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), accepted.len());
    for (id, ours) in &accepted {
        // Another key of the set may have the same kid, if it is for something else.
        let is_it = |key: &&Value| {
            key["kid"] == json!(id)
                && ["kty", "crv", "x", "y"]
                    .iter()
                    .all(|member| ours.get(member).is_none_or(|own| key.get(member) == Some(own)))
                && key.get("use").is_none_or(|usage| usage == "sig")
                && key.get("alg").is_none_or(|algorithm| algorithm == &ours["alg"])
        };
        assert!(keys.iter().any(|key| is_it(&key)), "{ours} is not in the set");
        let jwk: Jwk = serde_json::from_value(ours.clone()).expect("another library reads it");
        assert!(DecodingKey::from_jwk(&jwk).is_ok());
    }
});
