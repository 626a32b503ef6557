//! The feed of revocations: whatever arrives and however it is cut, it is read as the standard of server-sent events says, and
//! an announcement that says nothing is an error.
#![no_main]

use axum_refresh::fuzz::read_feed;
use axum_refresh_fuzz::{Input, bounded, change};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const LINES: [&str; 18] = [
    "event: revoked",
    "event:revoked",
    "event: hello",
    "id: 0123456789abcdef-7",
    "id: a b",
    "data: {\"sid\":\"AAAAAAAAAAAAAAAAAAAAAA\",\"until\":7}",
    "data: {\"jti\":\"AAAAAAAAAAAAAAAAAAAAAAAA\",\"until\":7}",
    "data: {\"sub\":\"alice\",\"mark\":\"1\",\"until\":7}",
    "data: {\"everyone\":true,\"mark\":\"1\",\"until\":7}",
    "data: {\"until\":7}",
    "data: {\"sub\":",
    "data:\"alice\",\"mark\":\"2\",\"until\":7}",
    ": 15000",
    ":-3",
    ": keep-alive",
    "retry: 7",
    "",
    "",
];

/// What a reader of whole texts finds, which has nothing in common with the crate's. None if the text is no announcement.
fn expected(text: &str) -> (Vec<(&'static str, String)>, bool) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let mut said = Vec::new();
    let (mut event, mut data, mut id) = (String::new(), Vec::new(), None);
    // What follows the last line end is no line yet.
    let Some((complete, _)) = text.rsplit_once('\n') else { return (said, true) };
    for line in complete.split('\n') {
        if line.is_empty() {
            let (event, data) = (std::mem::take(&mut event), std::mem::take(&mut data));
            if event == "revoked" && !data.is_empty() {
                let data: String = data.join("\n");
                if !is_announcement(&data) {
                    return (said, false);
                }
                said.push(("revoked", data));
            }
            said.extend(id.take().map(|id| ("position", id)));
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => said.extend(value.parse::<i64>().ok().map(|millis| ("complete", millis.to_string()))),
            "event" => event = value.to_owned(),
            "data" => data.push(value.to_owned()),
            "id" if value.len() <= 128 && value.chars().all(|c| c.is_ascii_graphic()) => id = Some(value.to_owned()),
            _ => {}
        }
    }
    (said, true)
}

fn is_announcement(data: &str) -> bool {
    let Ok(Value::Object(members)) = serde_json::from_str::<Value>(data) else { return false };
    let has = |name: &str| members.get(name).is_some_and(|value| !value.is_null());
    let subjects = ["sid", "jti", "sub"].iter().filter(|name| has(name)).count();
    let everyone = members.get("everyone") == Some(&Value::Bool(true));
    members.get("until").is_some_and(Value::is_i64) && subjects + usize::from(everyone) == 1
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let ends: Vec<_> = (0..input.byte() % 8).map(|_| usize::from(input.byte())).collect();
    let mut text = Vec::new();
    if input.byte().is_multiple_of(4) {
        text.extend_from_slice(input.rest());
    } else {
        for _ in 0..input.byte() % 16 {
            let choice = usize::from(input.byte());
            text.extend_from_slice(LINES[choice % LINES.len()].as_bytes());
            text.extend_from_slice([b"\n".as_slice(), b"\r\n", b"\r"][choice / LINES.len() % 3]);
        }
        change(&mut text, input);
    }
    let mut ends = ends;
    ends.iter_mut().for_each(|end| *end = (*end).min(text.len()));
    ends.sort_unstable();
    let most = 64 * text.len() + 8 * 1024;
    let cut = bounded(most, || read_feed(&text, &ends));
    assert_eq!(cut, read_feed(&text, &[]), "however it is cut");
    let Ok(text) = std::str::from_utf8(&text) else { return };
    let (found, is_read) = cut;
    let (wanted, can_be_read) = expected(text);
    // Also if it fails, all before is read.
    assert_eq!(found.len(), wanted.len().min(found.len()), "{found:?} {wanted:?}");
    if is_read {
        assert!(can_be_read, "an announcement that says nothing was skipped");
        assert_eq!(found.len(), wanted.len(), "{found:?} {wanted:?}");
    }
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found.0, wanted.0);
        if found.0 == "revoked" {
            let of = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            let (found, wanted) = (of(&found.1), of(&wanted.1));
            for name in ["sid", "jti", "sub", "until"] {
                assert!(found.get(name).is_none_or(|value| Some(value) == wanted.get(name)), "{found} {wanted}");
            }
        } else {
            assert_eq!(found.1, wanted.1);
        }
    }
});
