//! The keys of access tokens: which of them signs, and which of them verify.

#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
mod rotation;
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
mod schedule;

use std::sync::{Arc, PoisonError, RwLock};
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::Mac as _;

#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
pub(crate) use self::rotation::{JWKS_MAX_AGE, KeyLife, OnlyKey, Rotation, WasRemoved};
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
use self::schedule::Schedule;
use super::keys::{HmacSha256, Purpose, Secret, hmac};
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
use super::signer::BoxError;
use crate::config::SettingsError;
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
use crate::metrics::Meter;
use crate::time::Timestamp;

/// The payload of a token that only tries a key: an empty object.
const PROBE: &str = "e30";

/// A key with its fixed header.
pub(crate) struct Key {
    /// The encoded header and the dot after it.
    pub(crate) header: String,
    /// The key id in the header.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(super) id: String,
    algorithm: Algorithm,
    /// None for a symmetric key, which lasts as long as the secret.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(super) life: Option<Arc<KeyLife>>,
}

enum Algorithm {
    /// The HMAC state with the key and the header already absorbed.
    Hs256(HmacSha256),
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    Asymmetric(super::asymmetric::KeyPair),
}

impl Key {
    /// The same bytes in every process: a service that verifies may have other features of `serde_json`, which order the members
    /// of a map otherwise.
    fn header(algorithm: &str, key_id: &str) -> String {
        let key_id = serde_json::Value::from(key_id);
        let header = format!(r#"{{"alg":"{algorithm}","kid":{key_id},"typ":"at+jwt"}}"#);
        URL_SAFE_NO_PAD.encode(header) + "."
    }

    pub(crate) fn hs256(secret: &Secret, scope: &str) -> Self {
        let id = secret.derive(scope, Purpose::AccessKeyId);
        let id: Vec<u8> = id.iter().copied().take(6).collect();
        let id = URL_SAFE_NO_PAD.encode(id);
        let header = Self::header("HS256", &id);
        let mut mac = hmac(&secret.derive(scope, Purpose::AccessHs256));
        mac.update(header.as_bytes());
        Self {
            header,
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            id,
            algorithm: Algorithm::Hs256(mac),
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            life: None,
        }
    }

    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(crate) fn asymmetric(keys: super::asymmetric::KeyPair, realm: Option<&str>) -> Self {
        let id = keys.id(realm);
        let header = Self::header(keys.algorithm_name(), &id);
        Self { header, id, algorithm: Algorithm::Asymmetric(keys), life: Some(Arc::default()) }
    }

    /// A public key that an issuer has published with this id.
    #[cfg(any(feature = "verifier", all(fuzzing, feature = "signing")))]
    pub(crate) fn published(keys: super::asymmetric::KeyPair, id: &str) -> Self {
        let header = Self::header(keys.algorithm_name(), id);
        Self { header, id: id.to_owned(), algorithm: Algorithm::Asymmetric(keys), life: Some(Arc::default()) }
    }

    #[cfg(any(all(test, feature = "verifier"), all(fuzzing, feature = "signing")))]
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the public key for a JWKS; `None` for a symmetric key.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(crate) fn jwk(&self) -> Option<serde_json::Value> {
        match &self.algorithm {
            Algorithm::Hs256(_) => None,
            Algorithm::Asymmetric(keys) => Some(keys.jwk(&self.id)),
        }
    }

    /// The key pair; none for a symmetric key.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(super) fn key_pair(&self) -> Option<&super::asymmetric::KeyPair> {
        match &self.algorithm {
            Algorithm::Hs256(_) => None,
            Algorithm::Asymmetric(keys) => Some(keys),
        }
    }

    /// Whether the private key is not in this process.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(super) fn is_of_app(&self) -> bool {
        self.key_pair().is_some_and(|keys| keys.signer().is_some())
    }

    /// Has a message signed by the app's signer.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(super) async fn sign_by_app(
        &self,
        message: &[u8],
        time_limit: Duration,
        meter: Meter,
    ) -> Result<Vec<u8>, BoxError> {
        let keys = self.key_pair().and_then(|keys| Some((keys, keys.signer()?)));
        let (keys, signer) = keys.ok_or("the key has no signer")?;
        keys.sign_by(signer, message, time_limit, meter).await
    }

    /// Refuses a key that does not verify what it signs. A signer of the app's is not asked.
    pub(crate) fn check_here(&self) -> Result<(), SettingsError> {
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
        if self.is_of_app() {
            return Ok(());
        }
        let probe = self.probe();
        let signature = self.sign(&probe);
        let holds = signature.is_some_and(|signature| self.verify(probe.as_bytes(), PROBE.as_bytes(), &signature));
        holds.then_some(()).ok_or_else(|| {
            SettingsError::new("signing_key", "the key does not verify its own signature; use another one")
        })
    }

    /// The same; a signer of the app's is asked.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(crate) async fn check(&self, time_limit: Duration, meter: Meter) -> Result<(), SettingsError> {
        if !self.is_of_app() {
            return self.check_here();
        }
        let signature = self.sign_by_app(self.probe().as_bytes(), time_limit, meter).await;
        signature.map(drop).map_err(|error| SettingsError::new("signing_key", format!("the signer failed: {error}")))
    }

    fn probe(&self) -> String {
        self.header.clone() + PROBE
    }

    /// Signs `message`, which is `header.payload` with the header of this key. None if it cannot, or not here.
    pub(super) fn sign(&self, message: &str) -> Option<Vec<u8>> {
        match &self.algorithm {
            Algorithm::Hs256(mac) => {
                let mut mac = mac.clone();
                mac.update(message.strip_prefix(&self.header)?.as_bytes());
                Some(mac.finalize().into_bytes().to_vec())
            }
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            Algorithm::Asymmetric(keys) => keys.sign(message.as_bytes()),
        }
    }

    pub(super) fn verify(&self, message: &[u8], payload: &[u8], signature: &[u8]) -> bool {
        match &self.algorithm {
            Algorithm::Hs256(mac) => {
                let _ = message;
                let mut mac = mac.clone();
                mac.update(payload);
                mac.verify_slice(signature).is_ok()
            }
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            Algorithm::Asymmetric(keys) => {
                let _ = payload;
                keys.verify(message, signature)
            }
        }
    }
}

/// All keys. Which of them signs depends on the time.
pub(crate) struct KeyRing {
    /// Replaced as a whole, so that each token is verified with one set.
    keys: RwLock<Arc<Keys>>,
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    rotation: Rotation,
}

#[derive(Clone)]
pub(super) struct Keys {
    /// Each public key once.
    pub(super) entries: Vec<Entry>,
    /// Which of them signs when.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    schedule: Schedule,
    /// The ids of keys that the app has removed. They never come back.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    removed: Vec<String>,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: Arc<Key>,
    /// Since when it verifies here, and is in the JWK set.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    published_at: Timestamp,
}

impl Entry {
    fn new(key: Key) -> Self {
        Self {
            key: Arc::new(key),
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            published_at: ALWAYS,
        }
    }
}

/// Before every other time.
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
const ALWAYS: Timestamp = Timestamp::from_millis(i64::MIN);

#[cfg(not(any(feature = "aws_lc_rs", feature = "signing")))]
impl Keys {
    /// The key that signs: the first one.
    fn signing(&self, _: Timestamp) -> Option<&Arc<Key>> {
        self.entries.first().map(|entry| &entry.key)
    }
}

impl KeyRing {
    /// The first key signs, unless the schedule has others.
    pub(super) fn new(
        signing: Key,
        others: Vec<Key>,
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))] rotation: Rotation,
    ) -> Self {
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
        let schedule = Schedule::of(&signing.id);
        let mut entries: Vec<Entry> = Vec::with_capacity(1 + others.len());
        for key in std::iter::once(signing).chain(others) {
            // A key that was given twice would still be there after it is removed.
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            if key.is_public() && entries.iter().any(|entry| entry.key.id == key.id) {
                continue;
            }
            entries.push(Entry::new(key));
        }
        Self::of(
            entries,
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            schedule,
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            rotation,
        )
    }

    fn of(
        entries: Vec<Entry>,
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))] schedule: Schedule,
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))] rotation: Rotation,
    ) -> Self {
        let keys = Keys {
            entries,
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            schedule,
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            removed: Vec::new(),
        };
        Self {
            keys: RwLock::new(Arc::new(keys)),
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            rotation,
        }
    }

    /// A ring that only verifies, and has no key yet.
    #[cfg(feature = "verifier")]
    pub(super) fn verifying(rotation: Rotation) -> Self {
        Self::of(Vec::new(), Schedule::default(), rotation)
    }

    pub(super) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the keys by what `change` makes of them.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(super) fn replace<T>(&self, change: impl FnOnce(&mut Keys) -> T) -> T {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Keys::clone(&keys);
        let result = change(&mut changed);
        *keys = Arc::new(changed);
        result
    }

    /// The key that signs.
    pub(super) fn signer(&self, now: Timestamp) -> Option<Arc<Key>> {
        let keys = self.keys();
        let key = Arc::clone(keys.signing(now)?);
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
        Self::follow(&keys, &key, now);
        Some(key)
    }
}
