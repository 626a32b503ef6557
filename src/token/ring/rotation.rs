//! Keys that change while the app runs: the next one is published before it signs, and an old one verifies until the last token
//! that it has signed is over.
//!
//! Which key signs depends on the time alone, so that nothing has to run for it.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::{ALWAYS, Entry, Key, KeyRing, Keys};
use crate::config::Settings;
use crate::time::Timestamp;

/// For how long other services may keep the JWK set.
pub(crate) const JWKS_MAX_AGE: Duration = Duration::from_secs(300);

/// The shortest time between two reports of unknown keys. Anybody can send a token that names one.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// How many dropped keys are remembered, so that a late token of one is not reported.
const MAX_DROPPED: usize = 16;
/// The length of a thumbprint, in base64url.
const THUMBPRINT_CHARS: usize = 43;

/// The last one that RFC 3339 can write.
const LAST_TIME: Timestamp = Timestamp::from_millis(253_402_300_799_000);

/// How long a key is accepted. Tokens that were verified with it refer to it.
#[derive(Debug)]
pub(crate) struct KeyLife {
    /// In milliseconds.
    accepted_until: AtomicI64,
    has_signed: AtomicBool,
}

impl Default for KeyLife {
    fn default() -> Self {
        Self { accepted_until: AtomicI64::new(i64::MAX), has_signed: AtomicBool::new(false) }
    }
}

impl KeyLife {
    pub(crate) fn is_accepted(&self, now: Timestamp) -> bool {
        now.as_millis() < self.accepted_until.load(Ordering::Relaxed)
    }

    fn end(&self, at: Timestamp) {
        self.accepted_until.store(at.as_millis(), Ordering::Relaxed);
    }
}

impl Key {
    fn is_accepted(&self, now: Timestamp) -> bool {
        self.life.as_ref().is_none_or(|life| life.is_accepted(now))
    }

    fn is_public(&self) -> bool {
        self.key_pair().is_some()
    }
}

/// The rules of changing keys.
pub(crate) struct Rotation {
    /// How long a key is accepted after another one has taken its place: its last token is over then, also if another node has
    /// published the next key late and goes on signing with this one for as long as that takes.
    retention: Duration,
    reported: Mutex<Option<Instant>>,
    /// Whether the keys are what an issuer publishes.
    #[cfg(feature = "verifier")]
    is_published: bool,
    /// Whether a token that is signed, and cannot be read here, was reported.
    #[cfg(feature = "verifier")]
    has_reported_unfit: AtomicBool,
}

impl Rotation {
    pub(in super::super) fn new(settings: &Settings) -> Self {
        let policy = &settings.policy;
        Self {
            retention: JWKS_MAX_AGE + policy.access_ttl + settings.leeway + policy.grace,
            reported: Mutex::default(),
            #[cfg(feature = "verifier")]
            is_published: false,
            #[cfg(feature = "verifier")]
            has_reported_unfit: AtomicBool::new(false),
        }
    }

    /// The rules of keys that an issuer publishes.
    #[cfg(feature = "verifier")]
    pub(in super::super) fn published(settings: &Settings) -> Self {
        Self { is_published: true, ..Self::new(settings) }
    }

    /// Decides until when each key is accepted.
    fn settle(&self, keys: &Keys) {
        // When one of the later keys begins to sign.
        let mut next = None;
        for Entry { key, signs_from, .. } in keys.entries.iter().rev() {
            let Some(from) = *signs_from else { continue };
            if let Some(life) = &key.life {
                let end = next.map_or(Timestamp::MAX, |next: Timestamp| next.max(from).after(self.retention));
                life.end(end);
            }
            next = Some(next.map_or(from, |next| next.min(from)));
        }
    }
}

impl Keys {
    fn position(&self, key_id: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.key.is_public() && entry.key.id == key_id)
    }

    fn remember_dropped(&mut self, key_id: &str) {
        self.dropped.push(key_id.to_owned());
        let excess = self.dropped.len().saturating_sub(MAX_DROPPED);
        self.dropped.drain(..excess);
    }
}

/// The only key that signs cannot be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnlyKey;

impl KeyRing {
    /// The public keys, as a JWK set.
    pub(crate) fn jwks(&self, now: Timestamp) -> Value {
        let keys = self.keys();
        let accepted = keys.entries.iter().filter(|entry| entry.key.is_accepted(now));
        let keys: Vec<_> = accepted.filter_map(|entry| entry.key.jwk()).collect();
        serde_json::json!({ "keys": keys })
    }

    pub(crate) fn has_public_keys(&self) -> bool {
        self.keys().entries.iter().any(|entry| entry.key.is_public())
    }

    /// The keys so far are published from now on.
    pub(crate) fn publish(&self, now: Timestamp) {
        self.replace(|keys| keys.entries.iter_mut().for_each(|entry| entry.published_at = now));
        // That it signs is no change.
        if let Some(life) = self.keys().signing(now).and_then(|entry| entry.key.life.as_ref()) {
            life.has_signed.store(true, Ordering::Relaxed);
        }
    }

    /// Adds a key that signs from this time on, whenever that was.
    pub(crate) fn add_next(&self, key: Key, signs_from: Timestamp) {
        self.replace(|keys| {
            let known = keys.position(&key.id).map(|known| keys.entries.remove(known));
            // The key that signs already goes on.
            let begun = known.and_then(|known| known.signs_from);
            let signs_from = begun.map_or(signs_from, |begun| begun.min(signs_from));
            keys.entries.push(Entry::new(key, Some(signs_from)));
            self.rotation.settle(keys);
        });
    }

    /// Has a key sign from `at` on, but not before it was published here for as long as others may keep the set without it.
    /// Returns from when it signs.
    pub(crate) fn rotate_to(&self, mut key: Key, at: Timestamp, now: Timestamp) -> Timestamp {
        let id = key.id.clone();
        let (signs_from, is_new) = self.replace(|keys| {
            let signs_now = keys.signing(now).is_some_and(|entry| entry.key.is_public() && entry.key.id == key.id);
            let known = keys.position(&key.id).map(|known| keys.entries.remove(known));
            let published_at = known.as_ref().map_or(now, |known| known.published_at);
            // A key that signs already goes on.
            let begun = known.as_ref().and_then(|known| known.signs_from).filter(|_| signs_now);
            let signs_from = begun.unwrap_or_else(|| at.max(published_at.after(JWKS_MAX_AGE)).max(now));
            let is_new = known.as_ref().is_none_or(|known| known.signs_from != Some(signs_from));
            if let Some(known) = known {
                key.life.clone_from(&known.key.life);
            }
            keys.entries.push(Entry { published_at, ..Entry::new(key, Some(signs_from)) });
            self.rotation.settle(keys);
            (signs_from, is_new)
        });
        if is_new {
            report_next(&id, at, signs_from);
        }
        signs_from
    }

    /// Drops a key at once. Returns whether there was one.
    pub(crate) fn remove(&self, key_id: &str, now: Timestamp) -> Result<bool, OnlyKey> {
        self.replace(|keys| {
            let Some(known) = keys.position(key_id) else { return Ok(false) };
            let mut left = keys.clone();
            let removed = left.entries.remove(known);
            if left.due(now).is_none() {
                // The next one begins at once.
                let next = left.entries.iter_mut().find(|entry| entry.signs_from.is_some()).ok_or(OnlyKey)?;
                next.signs_from = Some(now);
            }
            self.rotation.settle(&left);
            left.remember_dropped(key_id);
            *keys = left;
            // For the tokens that were verified before.
            if let Some(life) = &removed.key.life {
                life.end(ALWAYS);
            }
            Ok(true)
        })
    }

    /// Has these keys, which their issuer has published, and no others. Tokens of a key that is gone are refused from now on.
    #[cfg(feature = "verifier")]
    pub(crate) fn follow_set(&self, published: Vec<Key>) {
        let gone = self.replace(|keys| {
            let mut gone = std::mem::take(&mut keys.entries);
            for key in published {
                let is_same = |entry: &Entry| {
                    let thumbprint = |key: &Key| key.key_pair().map(super::super::asymmetric::KeyPair::thumbprint);
                    entry.key.id == key.id && thumbprint(&entry.key) == thumbprint(&key)
                };
                let known = gone.iter().position(is_same).map(|known| gone.swap_remove(known));
                keys.entries.push(known.unwrap_or_else(|| Entry::new(key, None)));
            }
            gone
        });
        for life in gone.iter().filter_map(|entry| entry.key.life.as_ref()) {
            life.end(ALWAYS);
        }
    }

    /// Reports the first token that the issuer has signed, and that cannot be read here: this service is set up wrongly.
    #[cfg(feature = "verifier")]
    pub(in super::super) fn report_unfit(&self, problem: impl FnOnce() -> String) {
        if self.rotation.is_published && !self.rotation.has_reported_unfit.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: "axum_refresh", "an access token of the issuer is refused here: {}", problem());
        }
    }

    #[cfg(feature = "verifier")]
    pub(crate) fn is_empty(&self) -> bool {
        self.keys().entries.is_empty()
    }

    /// Whether a token has the form of ours, and names a key that is not known here.
    #[cfg(feature = "verifier")]
    pub(crate) fn lacks_key_of(&self, token: &[u8]) -> bool {
        key_id_of_ours(token).is_some_and(|id| self.keys().position(&id).is_none())
    }

    /// Reports a key that signs for the first time, and drops those whose last token is over.
    pub(super) fn follow(&self, keys: &Keys, signing: &Key, now: Timestamp) {
        if let Some(life) = &signing.life
            && !life.has_signed.load(Ordering::Relaxed)
            && !life.has_signed.swap(true, Ordering::Relaxed)
        {
            tracing::info!(target: "axum_refresh", kid = signing.id, "a new key signs access tokens from now on");
        }
        if keys.entries.iter().all(|entry| entry.key.is_accepted(now)) {
            return;
        }
        let over: Vec<Entry> = self.replace(|keys| {
            let entries = std::mem::take(&mut keys.entries);
            let (left, over): (_, Vec<Entry>) = entries.into_iter().partition(|entry| entry.key.is_accepted(now));
            keys.entries = left;
            over.iter().for_each(|entry| keys.remember_dropped(&entry.key.id));
            over
        });
        for entry in over {
            tracing::info!(
                target: "axum_refresh",
                kid = entry.key.id,
                "a key is dropped, because the last access token that it has signed is over"
            );
        }
    }

    /// Reports a token of ours, by its form, whose key is not known here: a node has begun to sign with a key that this one was
    /// not given.
    pub(in super::super) fn report_unknown_key(&self, keys: &Keys, message: &[u8]) {
        // The issuer is asked instead.
        #[cfg(feature = "verifier")]
        if self.rotation.is_published {
            return;
        }
        let mut own = keys.entries.iter().filter(|entry| entry.key.is_public()).map(|entry| &entry.key.id);
        let Some(realm) = own.next().and_then(|id| id.get(THUMBPRINT_CHARS..)) else { return };
        let Some(key_id) = key_id(message, realm).filter(|id| !keys.dropped.contains(id)) else { return };
        let mut reported = self.rotation.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_some_and(|at| at.elapsed() < REPORT_EVERY) {
            return;
        }
        *reported = Some(Instant::now());
        drop(reported);
        tracing::warn!(
            target: "axum_refresh",
            kid = key_id,
            "an access token is refused, because this node has no key with its kid; if another node signs with that key, give it \
             to this node too, with `Auth::rotate_to`, and to all nodes before the first one signs with it"
        );
    }
}

fn report_next(key_id: &str, at: Timestamp, signs_from: Timestamp) {
    let time = signs_from.clamp(Timestamp::from_millis(0), LAST_TIME);
    let time = humantime::format_rfc3339_seconds(time.into());
    if signs_from > at {
        tracing::warn!(
            target: "axum_refresh",
            kid = key_id,
            "the next key is in the JWK set from now on, and signs from {time} instead of earlier, because other services may keep \
             the set without it until then"
        );
    } else {
        tracing::info!(target: "axum_refresh", kid = key_id, "the next key is in the JWK set, and signs from {time}");
    }
}

/// The key id of a token that has the form of ours. None for any other text, so that the log has no text of a stranger.
fn key_id(message: &[u8], realm: &str) -> Option<String> {
    let id = key_id_of_ours(message)?;
    let thumbprint = id.strip_suffix(realm).filter(|thumbprint| thumbprint.len() == THUMBPRINT_CHARS)?;
    let is_base64url = thumbprint.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    is_base64url.then(|| id.clone())
}

/// The key id of a token whose header has the members of ours.
fn key_id_of_ours(message: &[u8]) -> Option<String> {
    let header = message.split(|byte| *byte == b'.').next().filter(|header| header.len() <= 512)?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    let text = |name| header.get(name).and_then(Value::as_str);
    let is_ours = text("typ") == Some("at+jwt") && matches!(text("alg"), Some("EdDSA" | "ES256"));
    text("kid").filter(|_| is_ours).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::super::super::asymmetric::SigningKey;
    use super::super::super::keys::Secret;
    use super::*;
    use crate::config::Policy;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);
    /// 5 minutes for the set, 15 for the tokens, half a minute of grace.
    const RETENTION: Duration = Duration::from_secs(20 * 60 + 30);

    /// The Ed25519 key with this seed.
    fn key(seed: u8) -> Key {
        let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let der = STANDARD.encode([&prefix[..], &[seed; 32]].concat());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n");
        Key::asymmetric(SigningKey::from_pem(pem.as_bytes()).unwrap().0, None)
    }

    /// A ring that signs with the first key.
    fn ring() -> KeyRing {
        ring_of(key(1), Vec::new())
    }

    fn ring_of(signing: Key, others: Vec<Key>) -> KeyRing {
        let policy = Policy { access_ttl: 15 * MINUTE, grace: Duration::from_secs(30), ..Policy::default() };
        let ring = KeyRing::new(signing, others, Rotation::new(&Settings { policy, ..Settings::default() }));
        ring.publish(NOW);
        ring
    }

    /// The key that signs.
    fn signing(ring: &KeyRing, now: Timestamp) -> u8 {
        let id = ring.signer(now).unwrap().id.clone();
        (0..10).find(|seed| key(*seed).id == id).unwrap()
    }

    /// The keys in the JWK set.
    fn published(ring: &KeyRing, now: Timestamp) -> Vec<u8> {
        let jwks = ring.jwks(now);
        let ids: Vec<_> = jwks["keys"].as_array().unwrap().iter().map(|jwk| jwk["kid"].as_str().unwrap()).collect();
        (0..10).filter(|seed| ids.contains(&&*key(*seed).id)).collect()
    }

    fn after(minutes: u32) -> Timestamp {
        NOW.after(minutes * MINUTE)
    }

    #[test]
    fn the_next_key_is_published_at_once_and_signs_after_one_max_age() {
        let ring = ring();
        assert_eq!(ring.rotate_to(key(2), NOW, NOW), after(5));
        assert_eq!(published(&ring, NOW), [1, 2]);
        assert_eq!(signing(&ring, after(5).before(Duration::from_millis(1))), 1);
        assert_eq!(signing(&ring, after(5)), 2);
    }

    #[test]
    fn a_key_does_not_sign_before_its_time() {
        let ring = ring();
        assert_eq!(ring.rotate_to(key(2), after(60), NOW), after(60));
        assert_eq!((signing(&ring, after(59)), signing(&ring, after(60))), (1, 2));
    }

    #[test]
    fn the_old_key_is_accepted_until_its_last_token_is_over() {
        let ring = ring();
        let old = ring.signer(NOW).unwrap();
        ring.rotate_to(key(2), after(60), NOW);
        let end = after(60).after(RETENTION);
        let just_before = end.before(Duration::from_millis(1));
        assert!(old.is_accepted(just_before) && !old.is_accepted(end));
        assert_eq!((published(&ring, just_before), published(&ring, end)), (vec![1, 2], vec![2]));
        // The next signature drops it.
        assert_eq!(signing(&ring, end), 2);
        assert_eq!(ring.keys().entries.len(), 1);
    }

    #[test]
    fn a_key_that_was_published_for_long_enough_signs_at_once() {
        let ring = ring_of(key(1), vec![key(2)]);
        assert_eq!(ring.rotate_to(key(2), NOW, after(2)), after(5));
        let ring = ring_of(key(1), vec![key(2)]);
        assert_eq!(ring.rotate_to(key(2), NOW, after(20)), after(20));
        assert_eq!(signing(&ring, after(20)), 2);
        // It took the place of the key that was there before.
        assert_eq!(ring.keys().entries.len(), 2);
    }

    #[test]
    fn the_same_change_again_changes_nothing() {
        let ring = ring();
        for minute in [0, 3, 59, 60, 61, 300] {
            assert_eq!(ring.rotate_to(key(2), after(60), after(minute)), after(60), "{minute}");
            assert_eq!(signing(&ring, after(minute)), if minute < 60 { 1 } else { 2 }, "{minute}");
        }
        assert_eq!(published(&ring, after(60).after(RETENTION)), [2]);
    }

    #[test]
    fn the_key_that_signs_calls_off_a_change() {
        let ring = ring();
        ring.rotate_to(key(2), after(60), NOW);
        ring.rotate_to(key(1), after(10), after(10));
        // Another node may sign with the other one.
        let end = after(60).after(RETENTION);
        assert_eq!(published(&ring, end.before(MINUTE)), [1, 2]);
        assert_eq!(published(&ring, end), [1]);
        assert_eq!((signing(&ring, after(10)), signing(&ring, after(600))), (1, 1));
    }

    #[test]
    fn of_several_keys_the_last_one_signs_whose_time_has_come() {
        let ring = ring();
        ring.rotate_to(key(2), after(60), NOW);
        ring.rotate_to(key(3), after(30), NOW);
        ring.rotate_to(key(4), after(90), NOW);
        let signs: Vec<_> = [29, 30, 60, 89, 90].iter().map(|minute| signing(&ring, after(*minute))).collect();
        assert_eq!(signs, [1, 3, 3, 3, 4]);
        assert_eq!(published(&ring, after(90).after(RETENTION)), [4]);
    }

    #[test]
    fn an_old_key_may_come_back() {
        let ring = ring();
        ring.rotate_to(key(2), after(60), NOW);
        assert_eq!(ring.rotate_to(key(1), after(65), after(61)), after(65));
        assert_eq!((signing(&ring, after(64)), signing(&ring, after(65))), (2, 1));
        assert_eq!(published(&ring, after(65).after(RETENTION)), [1]);
    }

    #[test]
    fn a_removed_key_is_refused_at_once_and_the_next_one_signs() {
        let ring = ring();
        let old = ring.signer(NOW).unwrap();
        ring.rotate_to(key(2), after(60), NOW);
        assert_eq!(ring.remove(&key(1).id, NOW), Ok(true));
        assert!(!old.is_accepted(NOW));
        assert_eq!((published(&ring, NOW), signing(&ring, NOW)), (vec![2], 2));
        assert_eq!(ring.remove(&key(1).id, NOW), Ok(false));
    }

    #[test]
    fn if_the_new_key_is_removed_the_old_one_signs_again() {
        let ring = ring();
        ring.rotate_to(key(2), after(60), NOW);
        assert_eq!(signing(&ring, after(61)), 2);
        assert_eq!(ring.remove(&key(2).id, after(61)), Ok(true));
        assert_eq!((signing(&ring, after(61)), signing(&ring, after(600))), (1, 1));
    }

    #[test]
    fn the_only_key_that_signs_cannot_be_removed() {
        let ring = ring_of(key(1), vec![key(2)]);
        assert_eq!(ring.remove(&key(1).id, NOW), Err(OnlyKey));
        assert_eq!(ring.remove(&key(2).id, NOW), Ok(true));
        assert_eq!((published(&ring, NOW), signing(&ring, NOW)), (vec![1], 1));
    }

    #[test]
    fn a_node_that_starts_after_the_change_signs_with_the_new_key_and_drops_the_old_one_in_time() {
        let ring = ring();
        ring.add_next(key(2), NOW.before(MINUTE));
        assert_eq!((signing(&ring, NOW), published(&ring, NOW)), (2, vec![1, 2]));
        assert_eq!(published(&ring, NOW.before(MINUTE).after(RETENTION)), [2]);
        // With the same configuration much later.
        let ring = self::ring();
        ring.add_next(key(2), NOW.before(1000 * MINUTE));
        assert_eq!((signing(&ring, NOW), published(&ring, NOW)), (2, vec![2]));
    }

    #[test]
    fn a_next_key_that_is_the_current_one_goes_on_signing() {
        let ring = ring();
        ring.add_next(key(1), after(60));
        assert_eq!((signing(&ring, NOW), signing(&ring, after(60))), (1, 1));
        assert_eq!(ring.rotate_to(key(1), after(60), NOW), ALWAYS);
        assert_eq!(signing(&ring, NOW), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_a_key_that_signs() {
        let ring = ring();
        ring.rotate_to(key(2), after(60), NOW);
        assert_eq!(signing(&ring, after(120)), 2);
        assert_eq!(signing(&ring, NOW), 2);
    }

    #[test]
    fn the_secret_lasts_after_a_private_key_has_taken_its_place() {
        let secret = || Key::hs256(&Secret::new("k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA"), "app");
        let ring = ring_of(secret(), Vec::new());
        assert!(!ring.has_public_keys());
        ring.rotate_to(key(2), NOW, NOW);
        assert!(ring.has_public_keys());
        let much_later = after(100_000);
        assert_eq!(signing(&ring, much_later), 2);
        assert!(ring.keys().entries.iter().any(|entry| entry.key.header == secret().header));
        assert_eq!(ring.remove(&secret().id, much_later), Ok(false));
    }

    #[test]
    fn only_the_key_id_of_a_token_of_ours_is_reported() {
        let thumbprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
        let id = |typ: &str, alg: &str, kid: &str, realm: &str| {
            let header = serde_json::json!({ "typ": typ, "alg": alg, "kid": kid }).to_string();
            key_id(format!("{}.e30", URL_SAFE_NO_PAD.encode(header)).as_bytes(), realm)
        };
        assert_eq!(id("at+jwt", "EdDSA", thumbprint, "").as_deref(), Some(thumbprint));
        assert_eq!(id("at+jwt", "ES256", thumbprint, "").as_deref(), Some(thumbprint));
        let of_realm = format!("{thumbprint}.staff");
        assert_eq!(id("at+jwt", "EdDSA", &of_realm, ".staff"), Some(of_realm.clone()));
        assert_eq!(id("at+jwt", "EdDSA", &of_realm, ""), None);
        assert_eq!(id("at+jwt", "EdDSA", thumbprint, ".staff"), None);
        for (typ, alg, kid) in [
            ("JWT", "EdDSA", thumbprint),
            ("at+jwt", "HS256", thumbprint),
            ("at+jwt", "EdDSA", &thumbprint[1..]),
            ("at+jwt", "EdDSA", "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4\n"),
        ] {
            assert_eq!(id(typ, alg, kid, ""), None, "{typ} {alg} {kid}");
        }
        for message in ["", "x", "eyJhIjoxfQ", &"a".repeat(600)] {
            assert_eq!(key_id(message.as_bytes(), ""), None);
        }
    }
}
