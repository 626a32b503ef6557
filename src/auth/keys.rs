//! Changing the keys that sign access tokens while the app runs.

use std::time::SystemTime;

use super::{Auth, Claims};
use crate::config::{Settings, SettingsError};
use crate::time::Timestamp;
use crate::token::asymmetric::SigningKey;
use crate::token::ring::{Key, OnlyKey, WasRemoved};

/// # Changing keys
impl<C: Claims> Auth<C> {
    /// Signs access tokens with another key from `at` on, without a restart. Returns from when this change counts here: a time
    /// that is over, if it does already.
    ///
    /// - The key is in the [JWK set](Self::jwks_router) at once, and its tokens are accepted.
    /// - It signs from `at` on, but not before it was in the set for 5 minutes here, because other services may keep the set for
    ///   so long. Until then, the key so far goes on.
    /// - The key so far is accepted, and in the set, until its last token is over everywhere: for
    ///   [`access_ttl`](crate::Policy::access_ttl), [`leeway`](crate::Settings::leeway), [`grace`](crate::Policy::grace) and 5
    ///   minutes.
    ///
    /// The first key may be the secret itself (HS256), whose tokens stay valid.
    ///
    /// Each node keeps a schedule of these changes. Of those whose time has come, the one with the latest `at` counts, in
    /// whatever order a node was given them, so that all nodes end up with the same key:
    ///
    /// - **The same change again** changes nothing, also if another one has followed, so this may be called whenever a
    ///   configuration is read.
    /// - **A change is called off** before its time by a change with the same `at` to the key so far.
    /// - **A change with an earlier `at`** than that of the key that signs has no effect, and is a warning in the log.
    /// - A key may sign, be followed by another one, and sign again.
    ///
    /// With several nodes, choose one `at` for all of them, by which each has surely had the key for 5 minutes: the time that it
    /// takes to bring a new configuration to all nodes, and 5 minutes. Keep the old key and the next one with its `at` in the
    /// configuration, for nodes that start meanwhile: they pass it to
    /// [`next_signing_key`](crate::AuthBuilder::next_signing_key), and not to this. A node that has just started does not know
    /// that others publish the key already, so with this it would sign with the old key for 5 more minutes.
    ///
    /// A node that meets a token of a key that it was not given refuses it (the client refreshes), and logs a warning with the
    /// `kid`, once a minute. [`signing_key_id`](Self::signing_key_id) says which key signs.
    ///
    /// A key that is in the set already, by [`verifying_key`](crate::AuthBuilder::verifying_key) or because it has signed before,
    /// need not wait for 5 minutes again.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if the key does not verify its own signature, or its [`Signer`](crate::keys::Signer) fails, or the
    /// realm needs an audience of its own, or the key was [removed](Self::remove_key). Nothing has changed then.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// # async fn rotate(auth: &axum_refresh::Auth) -> Result<(), Box<dyn std::error::Error>> {
    /// use axum_refresh::keys::SigningKey;
    ///
    /// let next = SigningKey::from_pem(&std::fs::read("next.pem")?)?;
    /// auth.rotate_to(next, SystemTime::now() + Duration::from_secs(3600)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn rotate_to(&self, next: SigningKey, at: SystemTime) -> Result<SystemTime, SettingsError> {
        check_audience(self.settings())?;
        let ring = &self.access_keys().ring;
        let key = Key::asymmetric(next.0, self.settings().realm.as_deref());
        if ring.was_removed(&key) {
            return Err(was_removed());
        }
        key.check(self.settings().store_timeout, self.resolved().meter).await?;
        let from = ring.rotate_to(key, at.into(), self.now()).map_err(|WasRemoved| was_removed())?;
        // The key that the `Auth` was built with has always signed.
        Ok(from.max(Timestamp::from_millis(0)).into())
    }

    /// Drops a public key at once: tokens that it has signed are refused from now on, here and now. For a private key that was
    /// stolen. Returns whether there was such a key: it is named by its `kid` in the [JWK set](Self::jwks), or by its
    /// [thumbprint](SigningKey::thumbprint).
    ///
    /// If the key signs, another one takes its place at once: the public key that signed before it if its tokens are still
    /// accepted, or else the next one, also before its time. The secret (HS256) signs again only if there is no public key,
    /// because other services do not accept its tokens. So add the next key first:
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use axum_refresh::{Auth, config::SettingsError, keys::{SigningKey, VerifyingKey}};
    /// async fn replace(auth: &Auth, stolen: &VerifyingKey, next: SigningKey) -> Result<(), SettingsError> {
    ///     auth.rotate_to(next, SystemTime::now()).await?;
    ///     if !auth.remove_key(&stolen.thumbprint())? {
    ///         eprintln!("this node did not have the stolen key");
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// Nobody is logged out: clients refresh. Other services accept the key until they fetch the set again.
    ///
    /// Take the key out of the configuration first, and then do this on every node: a node that starts with the key accepts it
    /// again. While the process runs it does not come back: [`rotate_to`](Self::rotate_to) returns an error for it.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if there is no other key that can sign. Nothing has changed then.
    pub fn remove_key(&self, key: &str) -> Result<bool, SettingsError> {
        let removed = self.access_keys().ring.remove(key, self.now());
        removed.map_err(|OnlyKey| {
            SettingsError::new(
                "signing_key",
                "there is no other key that can sign; call `Auth::rotate_to` with one first",
            )
        })
    }
}

fn was_removed() -> SettingsError {
    SettingsError::new(
        "signing_key",
        "the key was removed by `Auth::remove_key` and does not come back; take it out of the configuration, and use another \
         one",
    )
}

/// Other services may verify by the public key alone, and tell realms apart by the audience only.
pub(super) fn check_audience(settings: &Settings) -> Result<(), SettingsError> {
    if settings.realm.is_some() && settings.audience == Settings::default().audience {
        return Err(SettingsError::new(
            "audience",
            "a realm with a signing key needs an audience of its own; set one such as `shop.example/admin`",
        ));
    }
    Ok(())
}
