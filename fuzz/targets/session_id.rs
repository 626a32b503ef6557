//! Session ids and token ids: each has one spelling, in a path as in JSON.
#![no_main]

use axum_refresh::SessionId;
use axum_refresh::fuzz::token_id;
use axum_refresh_fuzz::{Input, base64url, bounded, change};
use libfuzzer_sys::fuzz_target;

fn parse(text: &str) -> Option<SessionId> {
    let id = bounded(0, || text.parse::<SessionId>()).ok();
    if let Some(id) = id {
        assert_eq!(text.len(), 22);
        assert_eq!(id.to_string(), text);
        assert_eq!(SessionId::from_bytes(*id.as_bytes()), id);
        assert!(id.shard() < 16);
    }
    let in_json = serde_json::from_str::<SessionId>(&serde_json::json!(text).to_string()).ok();
    assert_eq!(in_json, id, "JSON is parsed differently");
    id
}

fn parse_token_id(text: &str) -> bool {
    let Some((again, issued_at, expires_at)) = token_id(text) else { return false };
    assert_eq!(text.len(), 24);
    assert_eq!(again, text);
    assert!(issued_at <= expires_at && issued_at.as_millis() >= 0);
    true
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    match input.byte() % 3 {
        0 => {
            let text = String::from_utf8_lossy(input.rest());
            parse(&text);
            parse_token_id(&text);
        }
        1 => {
            let rest = input.rest();
            // Whatever this JSON is, an id comes only from a string.
            if let Ok(id) = bounded(4 * rest.len() + 512, || serde_json::from_slice::<SessionId>(rest)) {
                assert_eq!(serde_json::from_slice::<String>(rest).unwrap(), id.to_string());
            }
        }
        _ => {
            let (session, token): ([u8; 16], [u8; 18]) = (input.array(), input.array());
            assert_eq!(parse(&base64url(session)), Some(SessionId::from_bytes(session)));
            assert!(parse_token_id(&base64url(token)));
            for genuine in [base64url(session), base64url(token)] {
                let mut text = genuine.clone().into_bytes();
                change(&mut text, Input::new(data));
                // A different text is a different id, or none.
                if let Ok(text) = String::from_utf8(text) {
                    parse(&text);
                    parse_token_id(&text);
                }
            }
        }
    }
});
