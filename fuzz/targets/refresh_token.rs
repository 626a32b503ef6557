//! Refresh tokens: an accepted token is one that we signed, with unchanged content, and has one spelling.
#![no_main]

use std::sync::LazyLock;

use axum_refresh::fuzz::{Keys, RefreshToken, RefreshTokens, keys};
use axum_refresh::{Secret, SessionId};
use axum_refresh_fuzz::{ISSUER, Input, OLD_SECRET, SECRET, base64url, bounded, change, hmac};
use libfuzzer_sys::fuzz_target;

struct Fixture {
    /// Signs with the new secret, accepts both.
    tokens: RefreshTokens,
    /// Signs with the old secret.
    old: RefreshTokens,
    /// With the new secret, the old one, a stranger's, and the new one under another issuer.
    keys: [Keys; 4],
    genuine: Vec<u8>,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let (new, old) = (Secret::new(SECRET), Secret::new(OLD_SECRET));
    let keys = [keys(&new, ISSUER), keys(&old, ISSUER), keys(&Secret::new([7; 32]), ISSUER), keys(&new, "another app")];
    let genuine = write(1, keys[0].refresh_key_id[0], &[b'g'; 52], &keys[0]).into_bytes();
    Fixture {
        tokens: RefreshTokens::new(&new, std::slice::from_ref(&old), ISSUER),
        old: RefreshTokens::new(&old, &[], ISSUER),
        keys,
        genuine,
    }
});

/// The documented layout: version, key id, session, generation, secret, and the tag over all of them.
fn write(version: u8, key_id: u8, rest: &[u8; 52], keys: &Keys) -> String {
    let mut bytes = vec![version, key_id];
    bytes.extend_from_slice(rest);
    let tag = hmac(&keys.refresh_tag, &bytes);
    bytes.extend_from_slice(&tag[..16]);
    base64url(bytes)
}

fn decode(text: &[u8]) -> Option<RefreshToken> {
    let tokens = &FIXTURE.tokens;
    let token = bounded(0, || tokens.decode(text));
    if let Some(token) = &token {
        let spellings = [FIXTURE.tokens.encode(token), FIXTURE.old.encode(token)];
        assert!(spellings.iter().any(|spelling| spelling.as_bytes() == text), "accepted in another spelling");
    }
    token
}

fn signed(mut input: Input<'_>) {
    let signer = usize::from(input.byte() % 4);
    let (version, change_of_id) = (input.byte(), input.byte());
    let rest: [u8; 52] = input.array();
    let keys = &FIXTURE.keys[signer];
    let text = write(version, keys.refresh_key_id[0] ^ change_of_id, &rest, keys);
    let token = decode(text.as_bytes());
    assert_eq!(token.is_some(), signer < 2 && version == 1 && change_of_id == 0);
    let Some(token) = token else { return };
    assert_eq!(token.session(), SessionId::from_bytes(rest[..16].try_into().unwrap()));
    assert_eq!(token.generation().to_be_bytes(), rest[16..20]);
    let again = FIXTURE.tokens.decode(FIXTURE.tokens.encode(&token).as_bytes()).unwrap();
    assert!(again.secret_hash() == token.secret_hash());
}

fn changed(input: Input<'_>) {
    let mut text = FIXTURE.genuine.clone();
    change(&mut text, input);
    assert_eq!(decode(&text).is_some(), text == FIXTURE.genuine);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    match input.byte() % 3 {
        0 => {
            decode(input.rest());
        }
        1 => signed(input),
        _ => changed(input),
    }
});
