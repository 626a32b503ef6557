//! Our verification compared with a strict `jsonwebtoken`: we never accept a token that it refuses.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use axum_refresh::fuzz::{AccessTokens, keys};
use axum_refresh::store::{Authentication, Timestamp};
use axum_refresh::{NoClaims, Policy, Secret, SessionId, Settings};
use axum_refresh_fuzz::{AUDIENCE, ISSUER, Input, SECRET, base64url, change, hmac, jws};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

struct Fixture {
    tokens: AccessTokens,
    header: String,
    key: [u8; 32],
    their_key: DecodingKey,
    validation: Validation,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let secret = Secret::new(SECRET);
    // No leeway on either side, and no other reason for us to refuse a valid token.
    let policy = Policy { access_ttl: Duration::from_secs(100_000), ..Policy::default() };
    let (issuer, audience) = (ISSUER.to_owned(), AUDIENCE.to_owned());
    let tokens =
        AccessTokens::new(&secret, &[], &Settings { issuer, audience, policy, ..Settings::default() }).unwrap();
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = 0;
    validation.validate_nbf = true;
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let key = keys(&secret, ISSUER).access;
    let how = (&Authentication::at(now()), None);
    let genuine = tokens.issue("alice", SessionId::from_bytes([7; 16]), now(), Duration::from_secs(900), how, "{}");
    let header = genuine.unwrap().0.split('.').next().unwrap().to_owned();
    Fixture { tokens, header, key, their_key: DecodingKey::from_secret(&key), validation }
});

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Its clock cannot be set, so ours is read afterwards: a token that is valid later was valid before.
fn compare<C: DeserializeOwned>(token: &str) {
    let theirs = jsonwebtoken::decode::<C>(token, &FIXTURE.their_key, &FIXTURE.validation);
    let ours = FIXTURE.tokens.verify::<C>(token).filter(|it| FIXTURE.tokens.check_times(it, now()));
    if let (Some(_), Err(error)) = (ours, theirs) {
        panic!("jsonwebtoken refuses a token that we accept: {error}");
    }
}

/// A claims text in which `$exp` is this many seconds from now and `$jti` is a token id with the same expiry.
fn fill_in(template: &[u8], seconds: i64) -> Vec<u8> {
    let now = now();
    let exp = now.as_secs().saturating_add(seconds).to_string();
    let issued_at = now.before(Duration::from_secs(1)).as_millis().to_be_bytes();
    let life = u32::try_from(seconds.saturating_add(1).saturating_mul(1000)).unwrap_or(0).to_be_bytes();
    let jti = base64url([&issued_at[2..], &life, &[9; 8]].concat());
    let mut filled = Vec::new();
    let mut rest = template;
    while let Some(first) = rest.first() {
        if let Some(after) = rest.strip_prefix(b"$exp") {
            filled.extend_from_slice(exp.as_bytes());
            rest = after;
        } else if let Some(after) = rest.strip_prefix(b"$jti") {
            filled.extend_from_slice(jti.as_bytes());
            rest = after;
        } else {
            filled.push(*first);
            rest = &rest[1..];
        }
    }
    filled
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let Fixture { header, key, .. } = &*FIXTURE;
    let operation = input.byte() % 5;
    let seconds = i64::from(i16::from_le_bytes(input.array()));
    let token = match operation {
        // Our header and any payload, signed.
        0 => jws(header, &fill_in(input.rest(), seconds), key),
        // Any header and any payload, signed.
        1 => jws(&base64url(input.line()), &fill_in(input.rest(), seconds), key),
        // A header that is not even base64.
        2 => jws(&String::from_utf8_lossy(input.line()), &fill_in(input.rest(), seconds), key),
        // A complete token, changed after it was signed.
        3 => {
            let mut token = jws(header, &fill_in(input.line(), seconds), key).into_bytes();
            change(&mut token, input);
            String::from_utf8_lossy(&token).into_owned()
        }
        // The segments of two tokens, in another order, signed like either of them.
        _ => {
            let tokens = [input.line(), input.line()].map(|line| jws(header, &fill_in(line, seconds), key));
            let mut segments = Vec::new();
            for _ in 0..3 {
                let which = input.byte();
                segments.extend(tokens[usize::from(which % 2)].split('.').nth(usize::from(which / 2 % 3)));
            }
            if input.byte() % 2 == 1 {
                let signature = base64url(hmac(key, segments[..2].join(".").as_bytes()));
                return compare::<NoClaims>(&format!("{}.{}.{signature}", segments[0], segments[1]));
            }
            segments.join(".")
        }
    };
    compare::<NoClaims>(&token);
    compare::<Map<String, Value>>(&token);
});
