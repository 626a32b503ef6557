//! The User-Agent: cut to the length that a session stores, and a family that does not change with an update.
#![no_main]

use axum_refresh::fuzz::{cut, family, is_same_family};
use axum_refresh_fuzz::{Input, bounded};
use libfuzzer_sys::fuzz_target;

fn check_cut(text: &str) {
    let (user_agent, label) = bounded(3 * 1024, || cut(text, text));
    for (kept, most) in [(user_agent.as_deref(), 512), (label.as_deref(), 128)] {
        let kept = kept.unwrap_or_default();
        assert!(kept.len() <= most && kept == kept.trim());
        assert!(text.trim_start().starts_with(kept));
        // No more was removed than necessary.
        if text.len() <= most {
            assert_eq!(kept, text.trim());
        }
    }
}

/// Whether the text is a version: digits with points between them.
fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// The same names with other versions, as after an update.
fn updated(user_agent: &str, mut input: Input<'_>) -> String {
    let mut version = || {
        let [major, minor, more] = input.array();
        if more % 2 == 0 { format!("{major}.{minor}") } else { format!("{major}.0.{minor}.{more}") }
    };
    let mut words = Vec::new();
    for word in user_agent.split(' ') {
        let punctuation = |c: char| matches!(c, '(' | ')' | ';' | ',');
        let bare = word.trim_matches(punctuation);
        words.push(match word.split_once('/') {
            Some((name, old)) if is_version(old.trim_end_matches(punctuation)) && !is_version(name) => {
                let end = &old[old.trim_end_matches(punctuation).len()..];
                format!("{name}/{}{end}", version())
            }
            None if is_version(bare) => word.replace(bare, &version()),
            _ => word.to_owned(),
        });
    }
    words.join(" ")
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let versions = input.take(16);
    let user_agent = String::from_utf8_lossy(input.rest());
    check_cut(&user_agent);
    // Lists of the words, which grow by doubling, and the words themselves.
    let of_this = bounded(64 * user_agent.len() + 1024, || family(&user_agent));
    assert!(of_this.len() <= user_agent.len() + 32);
    let next = updated(&user_agent, Input::new(versions));
    assert_eq!(family(&next), of_this, "an update to {next:?} looks like another client");
    // Also after another update.
    assert_eq!(family(&updated(&next, Input::new(&[]))), of_this);
    assert!(is_same_family(&user_agent, &next) && is_same_family(&next, &user_agent));
    if let Some((browser, platform)) = of_this.split_once(" on ").filter(|_| user_agent.starts_with("Mozilla/")) {
        assert!(!browser.is_empty() && !platform.is_empty());
    }
});
