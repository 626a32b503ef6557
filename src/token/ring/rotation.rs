//! Keys that change while the app runs: the next one is published before it signs, and an old one verifies until the last token
//! that it has signed is over.
//!
//! Which key signs and which ones verify depends on the time alone, so that nothing has to run for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::schedule::Change;
use super::{ALWAYS, Entry, Key, KeyRing, Keys};
use crate::config::Settings;
use crate::time::{Throttle, Timestamp};

/// For how long other services may keep the JWK set.
pub(crate) const JWKS_MAX_AGE: Duration = Duration::from_secs(300);

/// The shortest time between two reports of unknown keys. Anybody can send a token that names one.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// The length of a thumbprint, in base64url.
const THUMBPRINT_CHARS: usize = 43;

/// The last one that RFC 3339 can write.
const LAST_TIME: Timestamp = Timestamp::from_millis(253_402_300_799_000);

/// How long a key is accepted. Tokens that were verified with it refer to it.
#[derive(Debug)]
pub(crate) struct KeyLife {
    /// In milliseconds.
    accepted_until: AtomicI64,
    /// Whether it was reported that it signs.
    has_signed: AtomicBool,
    /// Whether it was reported that its last token is over.
    is_over: AtomicBool,
}

impl Default for KeyLife {
    fn default() -> Self {
        Self {
            accepted_until: AtomicI64::new(i64::MAX),
            has_signed: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
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

    pub(super) fn is_public(&self) -> bool {
        self.key_pair().is_some()
    }
}

/// The rules of changing keys.
pub(crate) struct Rotation {
    /// How long a key is accepted after another one has taken its place: its last token is over then, also if another node has
    /// published the next key late and goes on signing with this one for as long as that takes.
    retention: Duration,
    reported: Throttle,
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
            reported: Throttle::new(),
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

    /// Decides until when each key is accepted: one that has never signed, for good.
    fn settle(&self, keys: &Keys) {
        for entry in &keys.entries {
            let ends = keys.schedule.ends(self.retention).filter(|(change, _)| change.key_id == entry.key.id);
            if let Some(life) = &entry.key.life {
                life.end(ends.map(|(_, end)| end).max().unwrap_or(Timestamp::MAX));
            }
        }
    }
}

impl Keys {
    /// The key that signs.
    pub(super) fn signing(&self, now: Timestamp) -> Option<&Arc<Key>> {
        self.key(&self.schedule.signing(now)?.key_id)
    }

    fn key(&self, id: &str) -> Option<&Arc<Key>> {
        self.entries.iter().map(|entry| &entry.key).find(|key| key.id == id)
    }

    fn public_entry(&mut self, id: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.key.is_public() && entry.key.id == id)
    }

    /// Adds a key, or its private key if it is known. Returns since when it is published.
    fn publish(&mut self, mut key: Key, now: Timestamp) -> Timestamp {
        let Some(known) = self.public_entry(&key.id) else {
            self.entries.push(Entry { published_at: now, ..Entry::new(key) });
            return now;
        };
        if !known.key.is_accepted(now) {
            // It was not in the set any more.
            known.published_at = now;
        }
        key.life.clone_from(&known.key.life);
        known.key = Arc::new(key);
        known.published_at
    }

    /// The key that signs in place of this one from now on.
    fn successor_of(&self, key_id: &str, now: Timestamp) -> Option<&str> {
        let signing = &self.schedule.signing(now)?.key_id;
        if signing != key_id {
            return Some(signing);
        }
        let others = || {
            let others = self.schedule.changes().filter(|change| change.key_id != key_id);
            others.filter_map(|change| Some((change, self.key(&change.key_id)?)))
        };
        let has_begun = |change: &Change| change.from <= now;
        let before = others().rfind(|(change, key)| has_begun(change) && key.is_public() && key.is_accepted(now));
        let next = || others().filter(|(change, key)| !has_begun(change) && key.is_public());
        // Other services do not accept the secret, so it comes last.
        let secret = || others().rfind(|(change, key)| has_begun(change) && !key.is_public());
        let successor = before.or_else(|| next().min_by_key(|(change, _)| change.from)).or_else(secret);
        successor.map(|(change, _)| change.key_id.as_str())
    }
}

/// A key that was removed does not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WasRemoved;

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
        if let Some(life) = self.keys().signing(now).and_then(|key| key.life.as_ref()) {
            life.has_signed.store(true, Ordering::Relaxed);
        }
    }

    /// The id of the key that signs. None if that is the secret.
    pub(crate) fn signing_key_id(&self, now: Timestamp) -> Option<String> {
        self.keys().signing(now).filter(|key| key.is_public()).map(|key| key.id.clone())
    }

    /// Adds a key that signs from this time on, whenever that was: other nodes have published it.
    pub(crate) fn add_next(&self, key: Key, at: Timestamp) {
        self.replace(|keys| {
            let key_id = key.id.clone();
            keys.publish(key, ALWAYS);
            keys.schedule.add(Change { key_id, at, from: at });
            self.rotation.settle(keys);
        });
    }

    pub(crate) fn was_removed(&self, key: &Key) -> bool {
        self.keys().removed.contains(&key.id)
    }

    /// Has a key sign from `at` on, but not before it was published here for as long as others may keep the set without it.
    /// Returns from when the change counts.
    pub(crate) fn rotate_to(&self, key: Key, at: Timestamp, now: Timestamp) -> Result<Timestamp, WasRemoved> {
        let id = key.id.clone();
        let (from, is_new) = self.replace(|keys| {
            if keys.removed.contains(&id) {
                return Err(WasRemoved);
            }
            if let Some(known) = keys.schedule.find(&id, at) {
                return Ok((known.from, false));
            }
            let published_at = keys.publish(key, now);
            let from = at.max(published_at.after(JWKS_MAX_AGE)).max(now);
            keys.schedule.add(Change { key_id: id.clone(), at, from });
            self.rotation.settle(keys);
            if let Some(life) = keys.key(&id).and_then(|key| key.life.as_ref()) {
                life.is_over.store(false, Ordering::Relaxed);
            }
            keys.schedule.forget(self.rotation.retention, now);
            let Keys { entries, schedule, .. } = keys;
            entries.retain(|entry| entry.key.is_accepted(now) || schedule.has_key(&entry.key.id));
            Ok((from, true))
        })?;
        if is_new {
            let keys = self.keys();
            let other = keys.schedule.signing(from).filter(|change| change.key_id != id);
            report_next(&id, at, from, other.map(|change| &*change.key_id));
        }
        Ok(from)
    }

    /// Drops a key at once, by its id or by its thumbprint. Returns whether there was one.
    pub(crate) fn remove(&self, name: &str, now: Timestamp) -> Result<bool, OnlyKey> {
        self.replace(|keys| {
            let has_name = |entry: &Entry| {
                let thumbprint = || entry.key.key_pair().is_some_and(|keys| keys.thumbprint() == name);
                entry.key.is_public() && (entry.key.id == name || thumbprint())
            };
            let Some(position) = keys.entries.iter().position(has_name) else { return Ok(false) };
            let Some(Entry { key, .. }) = keys.entries.get(position).cloned() else { return Ok(false) };
            let successor = keys.successor_of(&key.id, now).ok_or(OnlyKey)?.to_owned();
            keys.entries.remove(position);
            keys.schedule.replace_key(&key.id, &successor, now);
            keys.removed.push(key.id.clone());
            self.rotation.settle(keys);
            // For the tokens that were verified before.
            if let Some(life) = &key.life {
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
                keys.entries.push(known.unwrap_or_else(|| Entry::new(key)));
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
        key_id_of_ours(token).is_some_and(|id| self.keys().key(&id).is_none())
    }

    /// Reports a key that signs for the first time, and those whose last token is over.
    pub(super) fn follow(keys: &Keys, signing: &Key, now: Timestamp) {
        let is_first = |said: &AtomicBool| !said.load(Ordering::Relaxed) && !said.swap(true, Ordering::Relaxed);
        if signing.life.as_ref().is_some_and(|life| is_first(&life.has_signed)) {
            tracing::info!(target: "axum_refresh", kid = signing.id, "a new key signs access tokens from now on");
        }
        for Entry { key, .. } in &keys.entries {
            if key.life.as_ref().is_some_and(|life| !life.is_accepted(now) && is_first(&life.is_over)) {
                tracing::info!(
                    target: "axum_refresh",
                    kid = key.id,
                    "a key is no longer in the JWK set, because the last access token that it has signed is over"
                );
            }
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
        let Some(key_id) = key_id(message, realm).filter(|id| !keys.removed.contains(id)) else { return };
        if !self.rotation.reported.lets_through(REPORT_EVERY) {
            return;
        }
        tracing::warn!(
            target: "axum_refresh",
            kid = key_id,
            "an access token is refused, because this node has no key with its kid; if another node signs with that key, give it \
             to this node too, with `Auth::rotate_to`, and to all nodes before the first one signs with it"
        );
    }
}

/// Reports a change, and whether another key signs in spite of it.
fn report_next(key_id: &str, at: Timestamp, from: Timestamp, other: Option<&str>) {
    let time = from.clamp(Timestamp::from_millis(0), LAST_TIME);
    let time = humantime::format_rfc3339_seconds(time.into());
    if let Some(other) = other {
        tracing::warn!(
            target: "axum_refresh",
            kid = key_id,
            "a change to this key has no effect, because {other} signs since a later `at`, or goes on at the same `at`"
        );
    } else if from > at {
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
        Key::asymmetric(SigningKey::seeded(seed).0, None)
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
        assert_eq!(ring.rotate_to(key(2), NOW, NOW), Ok(after(5)));
        assert_eq!(published(&ring, NOW), [1, 2]);
        assert_eq!(signing(&ring, after(5).before(Duration::from_millis(1))), 1);
        assert_eq!(signing(&ring, after(5)), 2);
    }

    #[test]
    fn a_key_does_not_sign_before_its_time() {
        let ring = ring();
        assert_eq!(ring.rotate_to(key(2), after(60), NOW), Ok(after(60)));
        assert_eq!((signing(&ring, after(59)), signing(&ring, after(60))), (1, 2));
    }

    #[test]
    fn the_old_key_is_accepted_until_its_last_token_is_over() {
        let ring = ring();
        let old = ring.signer(NOW).unwrap();
        ring.rotate_to(key(2), after(60), NOW).unwrap();
        let end = after(60).after(RETENTION);
        let just_before = end.before(Duration::from_millis(1));
        assert!(old.is_accepted(just_before) && !old.is_accepted(end));
        assert_eq!((published(&ring, just_before), published(&ring, end)), (vec![1, 2], vec![2]));
        assert_eq!(signing(&ring, end), 2);
    }

    #[test]
    fn a_key_that_was_published_for_long_enough_signs_at_once() {
        let ring = ring_of(key(1), vec![key(2)]);
        assert_eq!(ring.rotate_to(key(2), NOW, after(2)), Ok(after(5)));
        let ring = ring_of(key(1), vec![key(2)]);
        assert_eq!(ring.rotate_to(key(2), NOW, after(20)), Ok(after(20)));
        assert_eq!(signing(&ring, after(20)), 2);
        // It took the place of the public key that was there before.
        assert_eq!(ring.keys().entries.len(), 2);
    }

    #[test]
    fn the_same_change_again_changes_nothing() {
        let ring = ring();
        for minute in [0, 3, 59, 60, 61, 300] {
            assert_eq!(ring.rotate_to(key(2), after(60), after(minute)), Ok(after(60)), "{minute}");
            assert_eq!(signing(&ring, after(minute)), if minute < 60 { 1 } else { 2 }, "{minute}");
        }
        assert_eq!(published(&ring, after(60).after(RETENTION)), [2]);
    }

    #[test]
    fn a_change_is_called_off_by_one_to_the_current_key_at_the_same_time() {
        for called_off_first in [false, true] {
            let ring = ring();
            let mut changes = [(2, NOW), (1, after(10))];
            if called_off_first {
                changes = [(1, NOW), (2, after(10))];
            }
            for (seed, now) in changes {
                ring.rotate_to(key(seed), after(60), now).unwrap();
            }
            // Another node may sign with the other one.
            let end = after(60).after(RETENTION);
            assert_eq!(published(&ring, end.before(MINUTE)), [1, 2]);
            assert_eq!(published(&ring, end), [1]);
            assert_eq!((signing(&ring, after(10)), signing(&ring, after(600))), (1, 1));
        }
    }

    #[test]
    fn a_change_that_is_given_again_does_not_undo_or_call_off_a_later_one() {
        let ring = ring();
        ring.rotate_to(key(2), after(60), NOW).unwrap();
        ring.rotate_to(key(3), after(120), after(61)).unwrap();
        ring.rotate_to(key(2), after(60), after(62)).unwrap();
        assert_eq!((signing(&ring, after(119)), signing(&ring, after(120))), (2, 3));
        assert_eq!(ring.rotate_to(key(2), after(60), after(121)), Ok(after(60)));
        assert_eq!((signing(&ring, after(121)), signing(&ring, after(1000))), (3, 3));
    }

    #[test]
    fn nodes_that_get_changes_at_different_moments_end_up_with_the_same_key() {
        let changes = [(2, 60), (1, 70), (3, 80), (2, 90)];
        // When each change reaches the node, in minutes.
        for received in [[0, 0, 0, 0], [30, 20, 10, 0], [65, 0, 75, 0], [95, 94, 93, 92], [0, 92, 61, 91]] {
            let ring = ring();
            for minute in 0..=100 {
                let now_received = changes.iter().zip(received).filter(|(_, received)| *received == minute);
                for ((seed, at), _) in now_received {
                    ring.rotate_to(key(*seed), after(*at), after(minute)).unwrap();
                }
            }
            assert_eq!(signing(&ring, after(100)), 2, "{received:?}");
        }
    }

    #[test]
    fn a_change_to_the_key_that_signs_counts_when_its_time_has_come() {
        // This node was given the change back before it was given the change to the other key.
        let ring = ring();
        ring.rotate_to(key(1), after(70), NOW).unwrap();
        ring.rotate_to(key(2), after(60), after(1)).unwrap();
        assert_eq!([59, 60, 70].map(|minute| signing(&ring, after(minute))), [1, 2, 1]);
    }

    #[test]
    fn of_several_keys_the_one_signs_whose_time_has_come_last() {
        let ring = ring();
        ring.rotate_to(key(2), after(60), NOW).unwrap();
        ring.rotate_to(key(3), after(30), NOW).unwrap();
        ring.rotate_to(key(4), after(90), NOW).unwrap();
        let signs = [29, 30, 59, 60, 89, 90].map(|minute| signing(&ring, after(minute)));
        assert_eq!(signs, [1, 3, 3, 2, 2, 4]);
        assert_eq!(published(&ring, after(90).after(RETENTION)), [4]);
    }

    #[test]
    fn an_old_key_may_come_back() {
        let ring = ring();
        ring.rotate_to(key(2), after(60), NOW).unwrap();
        assert_eq!(ring.rotate_to(key(1), after(65), after(61)), Ok(after(65)));
        assert_eq!((signing(&ring, after(64)), signing(&ring, after(65))), (2, 1));
        assert_eq!(published(&ring, after(65).after(RETENTION)), [1]);
    }

    #[test]
    fn a_removed_key_is_refused_at_once_and_the_next_one_signs() {
        let ring = ring();
        let old = ring.signer(NOW).unwrap();
        ring.rotate_to(key(2), after(60), NOW).unwrap();
        assert_eq!(ring.remove(&key(1).id, NOW), Ok(true));
        assert!(!old.is_accepted(NOW));
        assert_eq!((published(&ring, NOW), signing(&ring, NOW)), (vec![2], 2));
        assert_eq!(ring.remove(&key(1).id, NOW), Ok(false));
    }

    #[test]
    fn if_the_new_key_is_removed_the_old_one_signs_again() {
        let ring = ring();
        ring.rotate_to(key(2), after(60), NOW).unwrap();
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
        assert_eq!(ring.rotate_to(key(1), after(60), NOW), Ok(after(60)));
        assert_eq!(signing(&ring, NOW), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_a_key_that_signs() {
        let ring = ring();
        ring.rotate_to(key(2), after(60), NOW).unwrap();
        assert_eq!(signing(&ring, after(120)), 2);
        assert_eq!((signing(&ring, NOW), published(&ring, NOW)), (1, vec![1, 2]));
        // Also if the key from before is gone.
        assert_eq!(ring.remove(&key(1).id, NOW), Ok(true));
        assert_eq!(signing(&ring, NOW.before(1000 * MINUTE)), 2);
    }

    #[test]
    fn a_clock_that_is_ahead_for_a_moment_loses_no_key() {
        let ring = ring();
        let old = ring.signer(NOW).unwrap();
        ring.rotate_to(key(2), after(60), NOW).unwrap();
        assert_eq!(signing(&ring, after(24 * 60)), 2);
        assert_eq!((signing(&ring, after(1)), published(&ring, after(1))), (1, vec![1, 2]));
        assert!(old.is_accepted(after(1)));
    }

    #[test]
    fn a_key_that_was_given_twice_is_there_once_and_gone_when_it_is_removed() {
        for others in [vec![key(1)], vec![key(1), key(2), key(2)]] {
            let ring = ring_of(key(1), others);
            ring.rotate_to(key(2), NOW, NOW).unwrap();
            assert_eq!(ring.jwks(NOW)["keys"].as_array().unwrap().len(), 2);
            assert_eq!(ring.remove(&key(1).id, NOW), Ok(true));
            assert_eq!((published(&ring, NOW), signing(&ring, NOW)), (vec![2], 2));
        }
    }

    #[test]
    fn a_removed_key_does_not_come_back() {
        let ring = ring();
        ring.rotate_to(key(2), after(60), NOW).unwrap();
        assert_eq!(ring.remove(&key(2).id, NOW), Ok(true));
        for at in [60, 70] {
            assert_eq!(ring.rotate_to(key(2), after(at), after(61)), Err(WasRemoved));
        }
        assert!(ring.was_removed(&key(2)) && !ring.was_removed(&key(1)));
        assert_eq!((published(&ring, after(100)), signing(&ring, after(100))), (vec![1], 1));
    }

    #[test]
    fn a_key_whose_last_token_is_over_does_not_sign_in_place_of_a_removed_one() {
        let ring = ring();
        ring.rotate_to(key(2), after(10), NOW).unwrap();
        // Nothing was signed here meanwhile.
        let late = after(10 + 120);
        assert_eq!(ring.remove(&key(2).id, late), Err(OnlyKey));
        ring.rotate_to(key(3), late, late).unwrap();
        assert_eq!(ring.remove(&key(2).id, late), Ok(true));
        assert_eq!((published(&ring, late), signing(&ring, late)), (vec![3], 3));
    }

    #[test]
    fn removing_a_key_brings_no_key_before_it_back_into_the_set() {
        let ring = ring();
        ring.rotate_to(key(2), after(10), NOW).unwrap();
        ring.rotate_to(key(3), after(40), NOW).unwrap();
        // The last token of the first key is over half a minute before.
        let now = after(31);
        assert_eq!(published(&ring, now), [2, 3]);
        assert_eq!(ring.remove(&key(2).id, now), Ok(true));
        assert_eq!((published(&ring, now), signing(&ring, now)), (vec![3], 3));
    }

    #[test]
    fn a_key_that_comes_back_into_the_set_waits_again() {
        let ring = ring();
        ring.rotate_to(key(2), after(10), NOW).unwrap();
        let late = after(10 + 120);
        assert_eq!(published(&ring, late), [2]);
        assert_eq!(ring.rotate_to(key(1), late, late), Ok(late.after(JWKS_MAX_AGE)));
        assert_eq!((published(&ring, late), signing(&ring, late)), (vec![1, 2], 2));
    }

    #[test]
    fn if_a_key_is_removed_that_signs_in_place_of_the_secret_the_next_public_one_signs_at_once() {
        let secret = || Key::hs256(&Secret::new("k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA"), "app");
        let ring = ring_of(secret(), Vec::new());
        ring.rotate_to(key(1), NOW, NOW).unwrap();
        let now = after(1000);
        ring.rotate_to(key(2), now, now).unwrap();
        assert_eq!(signing(&ring, now), 1);
        assert_eq!(ring.remove(&key(1).id, now), Ok(true));
        assert_eq!(signing(&ring, now), 2);
        // The secret signs again only if there is nothing else.
        assert_eq!(ring.remove(&key(2).id, now), Ok(true));
        assert_eq!(ring.signer(now).unwrap().id, secret().id);
        assert_eq!(ring.signing_key_id(now), None);
    }

    #[test]
    fn a_node_that_never_signs_does_not_keep_all_keys() {
        let ring = ring();
        for n in 1..200 {
            let at = after(u32::from(n) * 60);
            ring.rotate_to(key(n), at, at).unwrap();
        }
        let count = ring.keys().entries.len();
        assert!(count <= super::super::schedule::MIN_CHANGES + 1, "{count}");
    }

    #[test]
    fn the_secret_lasts_after_a_private_key_has_taken_its_place() {
        let secret = || Key::hs256(&Secret::new("k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA"), "app");
        let ring = ring_of(secret(), Vec::new());
        assert!(!ring.has_public_keys());
        ring.rotate_to(key(2), NOW, NOW).unwrap();
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

    /// A generator of numbers that is good enough for a test (xorshift).
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }

    /// Three nodes, whose clocks differ by less than the grace period, get the same changes at different moments, each of them
    /// five minutes before its time, and get all of them again now and then.
    #[test]
    fn nodes_that_change_keys_accept_the_tokens_of_each_other() {
        let keys: Vec<Key> = (0..6).map(key).collect();
        let copy = |seed: u64| {
            let known = &keys[usize::try_from(seed).unwrap()];
            Key::asymmetric(known.key_pair().unwrap().clone(), None)
        };
        let second = |second: u64| NOW.after(Duration::from_secs(second));
        for run in 1..=12 {
            let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ run);
            let rings = [0; 3].map(|_| ring_of(copy(0), Vec::new()));
            let skews = [0; 3].map(|_| random.below(15));
            let mut time = 600;
            let changes: Vec<_> = (0..6)
                .map(|_| {
                    let received = [0; 3].map(|_| time + random.below(300));
                    let change = (received, random.below(6), second(time + 300 + 330 + random.below(3600)));
                    time += 300 + random.below(4000);
                    change
                })
                .collect();
            // The ids of keys, and when they have signed.
            let mut tokens: Vec<(String, u64)> = Vec::new();
            for now in (0..time + 6000).step_by(20) {
                for (node, ring) in rings.iter().enumerate() {
                    let at = second(now + skews[node]);
                    for (received, seed, time) in &changes {
                        let since = now.checked_sub(received[node]);
                        if since.is_some_and(|since| since < 20 || random.below(50) == 0) {
                            ring.rotate_to(copy(*seed), *time, at).unwrap();
                        }
                    }
                    if random.below(4) == 0 {
                        let id = ring.signer(at).unwrap().id.clone();
                        assert!(ring.jwks(at).to_string().contains(&id));
                        tokens.push((id, now));
                    }
                }
                tokens.retain(|(_, signed_at)| now < signed_at + 15 * 60);
                for (node, ring) in rings.iter().enumerate() {
                    let (keys, at) = (ring.keys(), second(now + skews[node]));
                    for (id, signed_at) in &tokens {
                        let is_accepted = keys.key(id).is_some_and(|key| key.is_accepted(at));
                        assert!(is_accepted, "run {run}: node {node} refuses at {now} what was signed at {signed_at}");
                    }
                }
            }
            let ids = [0, 1, 2].map(|node| rings[node].signing_key_id(second(time + 6000)));
            assert!(ids.iter().all(|id| *id == ids[0]), "run {run}: {ids:?}");
        }
    }
}
