//! Recognizes secrets that can be guessed.
//!
//! It cannot tell that a secret is random. It recognizes what people type or paste instead: repetitions, sequences and
//! placeholders, as they are or in hexadecimal or base64. How often a random secret looks like one of these, estimated
//! from the number of matches that chance produces, and confirmed by trying random secrets:
//!
//! - 64 hexadecimal digits, base64 or base64url of 32 bytes, 32 raw bytes, two UUIDs: less than 1 in 10^11.
//! - 32 hexadecimal digits (128 bits): 1 in 10 million, half of it because they have fewer than eight different digits.
//! - 32 decimal digits (106 bits): 1 in 700.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

type Bytes = Zeroizing<Vec<u8>>;

/// Lenient: what follows the last whole byte is ignored.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);
/// How deep encodings are nested: base64 of hexadecimal digits, for example.
const MAX_DEPTH: u32 = 2;
/// More than this is not looked at. It bounds the time that the search for repetitions takes.
const MAX_LENGTH: usize = 1024;
/// The fewest different bytes.
const MIN_DIFFERENT: usize = 8;
/// The fewest bytes besides words.
const MIN_BESIDE_WORDS: usize = 16;
/// A shorter match is a coincidence.
const MIN_MATCH: usize = 4;
/// By so much less than half of a secret may be repeated, so that a separator between two copies makes no difference.
const SLACK: usize = 2;

/// The alphabet, the digits, and the rows and columns of keyboards.
const SEQUENCES: [&[u8]; 11] = [
    b"abcdefghijklmnopqrstuvwxyz",
    b"zyxwvutsrqponmlkjihgfedcba",
    b"0123456789012345678901234567890123456789",
    b"9876543210987654321098765432109876543210",
    b"qwertyuiopasdfghjklzxcvbnm",
    b"qwertzuiopasdfghjklyxcvbnm",
    b"azertyuiopqsdfghjklmwxcvbn",
    b"1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/",
    b"qazwsxedcrfvtgbyhnujmikolp",
    b"1q2w3e4r5t6y7u8i9o0p",
    b"!@#$%^&*()_+",
];

/// Returns why a secret can be guessed, or `None` if it looks random.
pub(super) fn weakness(secret: &[u8]) -> Option<&'static str> {
    let secret = secret.get(..MAX_LENGTH).unwrap_or(secret);
    let lower = Zeroizing::new(String::from_utf8_lossy(secret).to_ascii_lowercase());
    if let Some(weakness) = repetition(secret) {
        return Some(weakness);
    }
    if has_placeholder(&lower) || beside_words(&lower) < MIN_BESIDE_WORDS {
        return Some("a placeholder");
    }
    is_weak_inside(secret, MAX_DEPTH).then_some("an encoded repetition, sequence or placeholder")
}

/// Returns whether the bytes are hexadecimal or base64 of something weak.
fn is_weak_inside(encoded: &[u8], depth: u32) -> bool {
    let is_weak = |bytes: &Bytes| {
        // Sixteen random bytes may well be text, of punctuation and control characters, but not of these words.
        let placeholder = std::str::from_utf8(bytes).is_ok_and(|text| {
            let lower = Zeroizing::new(text.to_ascii_lowercase());
            has_placeholder(&lower) || (lower.len() - without_words(&lower).len()) * 3 >= lower.len()
        });
        placeholder || repetition(bytes).is_some() || (depth > 1 && is_weak_inside(bytes, depth - 1))
    };
    from_hex(encoded).is_some_and(|bytes| is_weak(&bytes)) || from_base64(encoded).is_some_and(|bytes| is_weak(&bytes))
}

/// Without quotes, and without the prefixes that some configuration files have.
fn bare(mut text: &[u8]) -> &[u8] {
    let is_around = |byte: u8| byte.is_ascii_whitespace() || byte == b'"' || byte == b'\'';
    while let [inner @ .., last] = text
        && is_around(*last)
    {
        text = inner;
    }
    while let [first, inner @ ..] = text
        && is_around(*first)
    {
        text = inner;
    }
    let prefixes: [&[u8]; 4] = [b"0x", b"0X", b"hex:", b"base64:"];
    prefixes.into_iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text)
}

/// The bytes behind hexadecimal digits, which may be grouped as in a UUID or a fingerprint.
fn from_hex(text: &[u8]) -> Option<Bytes> {
    let is_digit = |byte: &u8| !(byte.is_ascii_whitespace() || matches!(byte, b'-' | b':'));
    let digits: Bytes = Zeroizing::new(bare(text).iter().copied().filter(is_digit).collect());
    if digits.is_empty() || digits.len() % 2 == 1 {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(value(*high)? << 4 | value(*low)?),
        _ => None,
    };
    digits.chunks(2).map(byte).collect::<Option<_>>().map(Zeroizing::new)
}

/// The bytes behind base64 or base64url, with or without padding and line breaks.
fn from_base64(text: &[u8]) -> Option<Bytes> {
    let standard = |byte: &u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => *other,
    };
    let is_part = |byte: &u8| !byte.is_ascii_whitespace() && *byte != b'=';
    let mut digits: Bytes = Zeroizing::new(bare(text).iter().map(standard).filter(is_part).collect());
    if digits.len() % 4 == 1 {
        digits.pop();
    }
    BASE64.decode(&*digits).ok().filter(|bytes| !bytes.is_empty()).map(Zeroizing::new)
}

/// Returns how the bytes repeat themselves, if they do: they have few different bytes, or half of them can be foretold
/// from those before or from a known sequence. The case of letters makes no difference.
fn repetition(bytes: &[u8]) -> Option<&'static str> {
    if different(bytes) < MIN_DIFFERENT {
        return Some("too repetitive: fewer than 8 different bytes");
    }
    let lower: Bytes = Zeroizing::new(bytes.to_ascii_lowercase());
    // A run has equal steps: `abc`, `321`, `acegi`. Steps that repeat are `a1b2c3` or `aabbcc`.
    let steps = lower.iter().zip(lower.iter().skip(1)).map(|(from, to)| to.wrapping_sub(*from));
    let steps: Bytes = Zeroizing::new(steps.collect());
    let foretold = foretold(&lower, &SEQUENCES).max(foretold(&steps, &[]));
    (foretold + SLACK >= bytes.len().div_ceil(2))
        .then_some("too repetitive: at least half of it repeats itself or is a sequence")
}

fn different(bytes: &[u8]) -> usize {
    let mut seen = [false; 256];
    for byte in bytes {
        if let Some(slot) = seen.get_mut(usize::from(*byte)) {
            *slot = true;
        }
    }
    seen.iter().filter(|seen| **seen).count()
}

/// How many of the bytes belong to a match, of at least [`MIN_MATCH`] bytes, with what stands before them or in a known
/// sequence.
fn foretold(bytes: &[u8], known: &[&[u8]]) -> usize {
    let (mut position, mut foretold) = (0, 0);
    while let Some(rest) = bytes.get(position..).filter(|rest| !rest.is_empty()) {
        let earlier = suffixes(bytes).take(position);
        let longest = earlier.chain(known.iter().flat_map(|known| suffixes(known)));
        let longest = longest.map(|from| common_prefix(from, rest)).max().unwrap_or(0);
        if longest >= MIN_MATCH {
            foretold += longest;
        }
        position += if longest >= MIN_MATCH { longest } else { 1 };
    }
    foretold
}

/// What is left of the bytes from each position on, the longest first.
fn suffixes(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..bytes.len()).filter_map(|from| bytes.get(from..))
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Returns whether a lower-case text has a phrase that no random secret has.
fn has_placeholder(lower: &str) -> bool {
    const PHRASES: [&str; 10] = [
        "changeme",
        "change-me",
        "change_me",
        "change me",
        "changethis",
        "change-this",
        "change_this",
        "change this",
        "placeholder",
        "replace-me",
    ];
    PHRASES.iter().any(|word| lower.contains(word))
}

/// How many bytes a lower-case text has besides the words and punctuation of examples and templates.
fn beside_words(lower: &str) -> usize {
    let mut rest = without_words(lower);
    rest.retain(|c| !c.is_ascii_punctuation() && !c.is_whitespace());
    rest.len()
}

fn without_words(lower: &str) -> Zeroizing<String> {
    const WORDS: [&str; 38] = [
        "insecure",
        "password",
        "development",
        "production",
        "example",
        "default",
        "refresh",
        "replace",
        "sample",
        "secret",
        "signing",
        "session",
        "please",
        "access",
        "random",
        "string",
        "change",
        "minimum",
        "super",
        "token",
        "bytes",
        "chars",
        "characters",
        "least",
        "your",
        "auth",
        "long",
        "must",
        "this",
        "that",
        "with",
        "test",
        "demo",
        "axum",
        "jwt",
        "key",
        "some",
        "very",
    ];
    let mut rest = Zeroizing::new(lower.to_owned());
    for word in WORDS {
        *rest = rest.replace(word, "");
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_different_bytes_are_enough_and_seven_are_not() {
        assert!(repetition(b"abcdefgaccebdfgaggcfebdaefdcgbaf").is_some());
        assert!(repetition(b"abcdefghaccebdfgaggcfebdaefdchba").is_none());
    }

    #[test]
    fn sixteen_characters_beside_words_are_enough_and_fifteen_are_not() {
        assert_eq!(weakness(b"my-secret-key: 0f8a7b6c5d4e3"), Some("a placeholder"));
        assert_eq!(weakness(b"my-secret-key: 0f8a7b6c5d4e3f"), None);
    }

    #[test]
    fn less_than_half_of_a_secret_may_repeat() {
        // 13 of 32 bytes, and 14.
        assert_eq!(weakness(b"k4Jx0pQm1vN8sT2wZ7yk4Jx0pQm1vN8s"), None);
        assert!(weakness(b"k4Jx0pQm1vN8sT2wZ7k4Jx0pQm1vN8sT").is_some());
    }

    #[test]
    fn a_match_of_three_bytes_is_a_coincidence() {
        assert_eq!(foretold(b"k4Jx0pk4J1vNx0p", &SEQUENCES), 0);
        assert_eq!(foretold(b"k4Jx0pk4Jx1vN", &SEQUENCES), 4);
        assert_eq!(foretold(b"k4abcJx", &SEQUENCES), 0);
        assert_eq!(foretold(b"k4abcdJx", &SEQUENCES), 4);
    }

    #[test]
    fn a_match_may_overlap_what_it_repeats() {
        assert_eq!(foretold(b"k4Jk4Jk4Jk", &[]), 7);
    }

    #[test]
    fn hexadecimal_digits_are_decoded_in_every_grouping() {
        for text in ["0f8a7b", "0F8A7B", "0f:8a:7b", "0f8a-7b", " 0x0f8a7b\n", "hex:0f8a7b", "'0f 8a 7b'"] {
            assert_eq!(from_hex(text.as_bytes()).map(|bytes| bytes.to_vec()), Some(vec![0x0f, 0x8a, 0x7b]), "{text}");
        }
        for text in ["", "0f8", "0f8g"] {
            assert_eq!(from_hex(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn base64_is_decoded_in_both_alphabets_with_and_without_padding() {
        for text in ["+/8=", "-_8", "-_9", "+/8\n", "base64:+/8=", "\"+/\r\n8=\""] {
            assert_eq!(from_base64(text.as_bytes()).map(|bytes| bytes.to_vec()), Some(vec![0xfb, 0xff]), "{text}");
        }
        for text in ["", "=", "a", "a.b="] {
            assert_eq!(from_base64(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_long_secret_is_checked_in_bounded_time() {
        assert!(weakness(&[7; 1 << 20]).is_some());
    }
}
