//! Changing the keys that sign access tokens while the app runs.

use std::time::SystemTime;

use super::{Auth, Claims};
use crate::config::{Settings, SettingsError};
use crate::time::Timestamp;
use crate::token::asymmetric::SigningKey;
use crate::token::ring::Key;

/// # Changing keys
impl<C: Claims> Auth<C> {
    /// Signs access tokens with another key from `at` on, without a restart. Returns from when it signs: a time that is over, if
    /// it signs already.
    ///
    /// - The key is in the [JWK set](Self::jwks_router) at once, and its tokens are accepted.
    /// - It signs from `at` on, but not before it was in the set for 5 minutes here, because other services may keep the set for
    ///   so long. Until then, the key so far goes on.
    /// - The key so far is accepted, and in the set, until its last token is over everywhere: for
    ///   [`access_ttl`](crate::Policy::access_ttl), [`leeway`](crate::Settings::leeway), [`grace`](crate::Policy::grace) and 5
    ///   minutes. Then it is dropped.
    ///
    /// The first key may be the secret itself (HS256), whose tokens stay valid.
    ///
    /// With several nodes, choose one `at` for all of them, by which each has surely had the key for 5 minutes: the time that it
    /// takes to bring a new configuration to all nodes, and 5 minutes. Keep the old key and the next one with its `at` in the
    /// configuration, for nodes that start meanwhile: they pass it to
    /// [`next_signing_key`](crate::AuthBuilder::next_signing_key). Calling this again with the same arguments changes nothing,
    /// so it may be called whenever a configuration is read. A node that meets a token of a key that it was not given refuses it
    /// (the client refreshes), and logs a warning with the `kid`, once a minute.
    ///
    /// A key that is already known, by [`verifying_key`](crate::AuthBuilder::verifying_key) or because it has signed before,
    /// need not wait for 5 minutes again. Calling this with the key that signs calls off a change that has not happened yet.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if the key does not verify its own signature, or its [`Signer`](crate::keys::Signer) fails, or the
    /// realm needs an audience of its own. Nothing has changed then.
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
        let key = Key::asymmetric(next.0, self.settings().realm.as_deref());
        key.check(self.settings().store_timeout).await?;
        let signs_from = self.access_keys().ring.rotate_to(key, at.into(), self.now());
        // A key that the `Auth` was built with has always signed.
        Ok(signs_from.max(Timestamp::from_millis(0)).into())
    }

    /// Drops a public key at once, by its `kid` in the [JWK set](Self::jwks): tokens that it has signed are refused from now on,
    /// here and now. Returns whether there was such a key. For a private key that was stolen.
    ///
    /// If the key signs, another one takes its place at once: the one that signed before it if it is still accepted, or else the
    /// next one. So add the next one first:
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use axum_refresh::{Auth, config::SettingsError, keys::SigningKey};
    /// async fn replace(auth: &Auth, stolen: &str, next: SigningKey) -> Result<(), SettingsError> {
    ///     auth.rotate_to(next, SystemTime::now()).await?;
    ///     auth.remove_key(stolen)?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// Nobody is logged out: clients refresh. Other services accept the key until they fetch the set again. Do it on every node,
    /// and take the key out of the configuration.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if it is the only key that signs.
    pub fn remove_key(&self, key_id: &str) -> Result<bool, SettingsError> {
        let removed = self.access_keys().ring.remove(key_id, self.now());
        removed.map_err(|_| {
            SettingsError::new("signing_key", "the only key that signs cannot be removed; call `Auth::rotate_to` first")
        })
    }
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
