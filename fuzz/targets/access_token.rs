//! Access tokens: an accepted token has our signature and one of our headers, and its claims are read correctly.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum_refresh::fuzz::{AccessToken, AccessTokens, keys, token_id};
use axum_refresh::store::{Actor, Authentication, Timestamp};
use axum_refresh::{NoClaims, Policy, Secret, SessionId, Settings};
use axum_refresh_fuzz::{AUDIENCE, ISSUER, Input, OLD_SECRET, SECRET, base64url, bounded, change, is_signed, jws};
use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_250);
const TTL: Duration = Duration::from_secs(900);
const LEEWAY: Duration = Duration::from_secs(5);
const SKEW: Duration = Duration::from_secs(30);
const RESERVED: [&str; 13] =
    ["iss", "aud", "sub", "sid", "gen", "jti", "iat", "exp", "nbf", "auth_time", "acr", "amr", "act"];
const LONG_AGO: Timestamp = Timestamp::from_millis(1_600_000_000_000);

struct Fixture {
    tokens: AccessTokens,
    /// One with the new secret, one with the old secret.
    genuine: [String; 2],
    headers: [String; 2],
    keys: [[u8; 32]; 2],
}

fn settings() -> Settings {
    let policy = Policy { access_ttl: TTL, grace: SKEW, ..Policy::default() };
    Settings { issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned(), leeway: LEEWAY, policy, ..Settings::default() }
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let secrets = [Secret::new(SECRET), Secret::new(OLD_SECRET)];
    let [new, old] = &secrets;
    let app = |signing, others: &Secret| AccessTokens::new(signing, std::slice::from_ref(others), &settings()).unwrap();
    let genuine = [app(new, old), app(old, new)].map(|tokens| {
        let how = (&Authentication::at(LONG_AGO), None);
        tokens.issue("alice", SessionId::from_bytes([7; 16]), NOW, TTL, how, r#"{"role":"admin"}"#).unwrap().0
    });
    Fixture {
        tokens: app(new, old),
        headers: genuine.each_ref().map(|token| token.split('.').next().unwrap().to_owned()),
        genuine,
        keys: [keys(new, ISSUER).access, keys(old, ISSUER).access],
    }
});

/// The payload as bytes, its strings, whose buffers grow by doubling, and serde's error for a string of the wrong type:
/// it quotes the string, with up to six characters for an unprintable one.
const fn most(length: usize) -> usize {
    24 * length + 1024
}

fn verify<C: DeserializeOwned>(text: &str, most: usize) -> Option<AccessToken<C>> {
    let Fixture { tokens, headers, keys, .. } = &*FIXTURE;
    let token = bounded(most, || tokens.verify::<C>(text))?;
    let ours = headers.iter().zip(keys).any(|(header, key)| text.starts_with(header) && is_signed(text, key));
    assert!(ours, "accepted without our signature");
    Some(token)
}

/// The claims of a payload that was signed without any checks are read correctly.
fn payload(mut input: Input<'_>) {
    let which = usize::from(input.byte() % 2);
    let payload = input.rest();
    let text = jws(&FIXTURE.headers[which], payload, &FIXTURE.keys[which]);
    let token = verify::<NoClaims>(&text, most(payload.len()));
    let with_claims = verify::<Map<String, Value>>(&text, 128 * payload.len() + 1024);
    let Some(token) = token else {
        assert!(with_claims.is_none());
        return;
    };
    let says: Value = match serde_json::from_slice(payload) {
        Ok(says) => says,
        // Invalid Unicode or too large a number in a claim that is not read, or in a member of `act` that nobody reads.
        Err(_) => {
            assert!(with_claims.is_none() || token.authentication().1.is_some());
            return;
        }
    };
    let duplicates = RESERVED.iter().any(|name| with_claims.as_ref().is_some_and(|it| it.claims().contains_key(*name)));
    if !duplicates {
        assert_eq!((&says["iss"], &says["aud"]), (&ISSUER.into(), &AUDIENCE.into()));
        assert_eq!(says["sub"], **token.user());
        assert_eq!(says["sid"], token.session().to_string());
        assert_eq!(says["gen"], token.generation());
        assert_eq!(says["jti"], token.id());
        assert!(says["iat"].is_i64());
        let (Authentication { time, acr, amr }, actor) = token.authentication();
        assert_eq!(time.as_millis(), says["auth_time"].as_i64().unwrap().saturating_mul(1000));
        assert_eq!(acr.as_deref(), says["acr"].as_str());
        let names = says["amr"].as_array().map_or(&[][..], Vec::as_slice);
        assert!(amr.iter().map(|name| &**name).eq(names.iter().map(|name| name.as_str().unwrap())));
        assert_eq!(actor.as_ref().map(|actor| &*actor.user_id), says["act"]["sub"].as_str());
        assert_eq!(actor.map(|actor| actor.session_id.to_string()).as_deref(), says["act"]["sid"].as_str());
        let end = says["exp"].as_i64().unwrap().saturating_mul(1000).saturating_add(999);
        assert!(token.expires_at().as_millis() <= end);
    }
    let (_, issued_at, expires_at) = token_id(&token.id()).unwrap();
    assert_eq!(token.issued_at(), issued_at);
    assert!(token.expires_at() <= expires_at);
    if let Some(with_claims) = with_claims {
        assert_eq!(with_claims.id(), token.id());
    }
}

/// A token that we issue reads back unchanged, for any claims, any user, any authentication and any actor.
fn issued(mut input: Input<'_>) {
    let user = String::from_utf8_lossy(input.line());
    let session = SessionId::from_bytes([7; 16]);
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    let has = input.byte();
    let acr = (has & 1 > 0).then(|| text(input.line()).into());
    let amr = if has & 2 > 0 { text(input.line()).split(' ').map(Box::from).collect() } else { Vec::new() };
    let actor = (has & 4 > 0).then(|| Actor { user_id: text(input.line()).into(), session_id: session });
    let authentication = Authentication { time: LONG_AGO, acr, amr };
    let Ok(Value::Object(claims)) = serde_json::from_slice(input.rest()) else { return };
    let text = Value::Object(claims.clone()).to_string();
    if RESERVED.iter().any(|name| claims.contains_key(*name)) {
        return;
    }
    let how = (&authentication, actor.as_ref());
    let (token, expires_at) = FIXTURE.tokens.issue(&user, session, NOW, TTL, how, &text).unwrap();
    let read = verify::<Map<String, Value>>(&token, 128 * token.len() + 1024).expect("our own token is accepted");
    assert_eq!(**read.user(), *user);
    assert_eq!((read.session(), read.generation()), (session, 3));
    assert_eq!((read.issued_at(), read.expires_at()), (NOW, expires_at));
    assert_eq!(read.authentication(), (authentication, actor.map(Arc::new)));
    // Parsed twice: not every decimal number survives a single round trip.
    assert_eq!(read.claims(), &serde_json::from_str::<Map<String, Value>>(&text).unwrap());
}

fn changed(mut input: Input<'_>) {
    let genuine = &FIXTURE.genuine[usize::from(input.byte() % 2)];
    let mut text = genuine.clone().into_bytes();
    change(&mut text, input);
    let Ok(text) = String::from_utf8(text) else { return };
    assert_eq!(verify::<NoClaims>(&text, most(text.len())).is_some(), text == *genuine);
}

/// The segments of genuine tokens and of the input, in any order.
fn shuffled(mut input: Input<'_>) {
    let mut segments = Vec::new();
    for _ in 0..=input.byte() % 5 {
        let from = FIXTURE.genuine[usize::from(input.byte() % 2)].split('.');
        let other = input.byte();
        match from.clone().nth(usize::from(other % 4)) {
            Some(segment) => segments.push(segment.to_owned()),
            None => segments.push(base64url(input.take(other.into()))),
        }
    }
    let text = segments.join(".");
    let accepted = verify::<NoClaims>(&text, most(text.len())).is_some();
    assert_eq!(accepted, FIXTURE.genuine.contains(&text));
}

fn times(mut input: Input<'_>) {
    let mut id = [0; 18];
    id.copy_from_slice(&input.array::<18>());
    let exp = i64::from_le_bytes(input.array());
    let now = Timestamp::from_millis(i64::from_le_bytes(input.array()));
    let (session, id) = (base64url([7; 16]), base64url(id));
    let payload = format!(
        r#"{{"iss":"app","aud":"web","sub":"alice","sid":"{session}","gen":3,"jti":"{id}","iat":0,"exp":{exp},"auth_time":0}}"#
    );
    let text = jws(&FIXTURE.headers[0], payload.as_bytes(), &FIXTURE.keys[0]);
    let token = verify::<NoClaims>(&text, most(text.len())).expect("a complete token is accepted");
    // The times as written, computed without overflow.
    let (_, issued_at, ends_at) = token_id(&id).unwrap();
    let millis = |time: Timestamp| i128::from(time.as_millis());
    let [ttl, leeway, skew] = [TTL, LEEWAY, SKEW].map(|duration| duration.as_millis() as i128);
    let end = millis(ends_at).min(i128::from(exp) * 1000 + 999).min(millis(issued_at) + ttl);
    let good = millis(now) - leeway < end && millis(now) + skew >= millis(issued_at);
    assert_eq!(FIXTURE.tokens.check_times(&token, now), good);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    LazyLock::force(&FIXTURE);
    match input.byte() % 6 {
        0 => {
            let text = String::from_utf8_lossy(input.rest());
            verify::<NoClaims>(&text, most(text.len()));
        }
        1 => payload(input),
        2 => issued(input),
        3 => changed(input),
        4 => shuffled(input),
        _ => times(input),
    }
});
