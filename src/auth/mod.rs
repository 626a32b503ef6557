//! All use cases: logging in, refreshing, verifying, listing and revoking. None of them needs HTTP.

mod announce;
mod authority;
#[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
mod back_channel;
mod binding;
mod builder;
mod claims;
mod guard;
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
mod keys;
mod known_tokens;
mod login;
mod refresh;
mod registry;
mod replace;
mod resume;
mod revoked;
mod sessions;
mod terms;
mod unsent;
mod user;
#[cfg(feature = "verifier")]
mod verifier;
mod verify;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;

#[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
pub use self::back_channel::{BackChannelLogout, LogoutError};
use self::binding::RiskHook;
pub use self::builder::AuthBuilder;
use self::claims::ClaimsHook;
pub use self::claims::{Claims, NoClaims};
pub use self::login::{Login, LoginBuilder, Tokens};
pub(crate) use self::refresh::PageRefresh;
pub use self::refresh::Refreshed;
pub(crate) use self::sessions::LoggedOut;
pub(crate) use self::unsent::Unsent;
pub use self::user::AuthUser;
#[cfg(feature = "verifier")]
pub use self::verifier::{Verifier, VerifierBuilder};
pub(crate) use self::verify::{Authenticator, Decision, Use, Verified};
use crate::client::{ClientInfo, SetupMistake};
use crate::config::{BindingMode, ResolvedSettings, Settings};
use crate::error::Error;
use crate::event::Event;
use crate::node::Node;
use crate::session::{Client, SessionId};
use crate::store::{SessionRecord, SessionStore};
use crate::time::Timestamp;
use crate::token::access::{AccessKeys, AccessTokenParams, Issued, Unsigned};
use crate::token::keys::Secret;
use crate::token::refresh::RefreshKeys;

/// How often a refresh or an update is tried if other writers change the row meanwhile.
const MAX_TRIES: usize = 8;

/// The logins and sessions of one app. `C` is the type of the app's claims.
///
/// Built with [`Auth::builder`]. A clone is cheap and refers to the same sessions; use it as the axum state or as a part of
/// it.
///
/// Each `Auth` has one background task. It follows the revocations made by other nodes, writes recorded activity, and purges
/// expired sessions. It starts with the first use on a tokio runtime and ends when the last clone is dropped.
pub struct Auth<C = NoClaims> {
    inner: Arc<Inner<C>>,
}

struct Inner<C> {
    node: Arc<Node>,
    authenticator: Authenticator<C>,
    refresh: RefreshKeys,
    claims_hook: Option<ClaimsHook<C>>,
    risk_hook: Option<RiskHook>,
    verifier_tokens: announce::VerifierTokens,
    /// The clients at login of sessions that the guard has loaded. An entry never changes.
    guarded: Cache<SessionId, Arc<Client>>,
    /// Shared by all entries of `guarded` if clients are not compared.
    any_client: Arc<Client>,
    /// Registers this `Auth` while it is alive.
    _keys: registry::KeyIds,
}

impl<C> Clone for Auth<C> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<C> fmt::Debug for Auth<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("settings", self.settings()).finish_non_exhaustive()
    }
}

/// # Building
impl<C: Claims> Auth<C> {
    /// Starts to build an `Auth` with default settings.
    ///
    /// All keys are derived from `secret`; `store` keeps the sessions. An `Arc<dyn SessionStore>` is a store too.
    ///
    /// Name the type of the claims, as in `let auth: Auth = …` without claims or in `Auth::<MyClaims>::builder(…)`:
    /// Rust does not use the default of a type parameter in an expression.
    ///
    /// ```
    /// use axum_refresh::{Auth, MemoryStore, Secret};
    ///
    /// let auth: Auth = Auth::builder(Secret::random()?, MemoryStore::new()).build()?;
    /// # Ok::<_, axum_refresh::config::SettingsError>(())
    /// ```
    pub fn builder(secret: Secret, store: impl SessionStore) -> AuthBuilder<C> {
        AuthBuilder::new(secret, Arc::new(store))
    }
}

/// # Settings and keys
impl<C> Auth<C> {
    /// The settings that the `Auth` was built with.
    pub fn settings(&self) -> &Settings {
        self.resolved()
    }

    /// The client's IP address as determined by way of the [trusted proxies](Settings::trusted_proxies), if it is known.
    pub fn client_ip(&self, client: &ClientInfo) -> Option<IpAddr> {
        client.locate(self.settings()).0
    }

    /// The name of the [hint cookie](Settings::hint_cookie) as it is sent, for the option `hint` of the browser module. None
    /// if it is off.
    pub fn hint_cookie_name(&self) -> Option<&str> {
        self.resolved().hint_cookie.as_ref().map(|cookie| cookie.name.as_str())
    }

    /// The public keys that verify access tokens, as a JWK set (RFC 7517 §5). Secret HS256 keys are not in it.
    /// [`jwks_router`](Self::jwks_router) serves it.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "signing"))))]
    pub fn jwks(&self) -> serde_json::Value {
        self.access_keys().ring.jwks(self.now())
    }

    /// The `kid` of the key that signs access tokens now: which one that is after [`rotate_to`](Self::rotate_to). None if the
    /// secret signs them (HS256).
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "signing"))))]
    pub fn signing_key_id(&self) -> Option<String> {
        self.access_keys().ring.signing_key_id(self.now())
    }

    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(crate) fn has_public_keys(&self) -> bool {
        self.access_keys().ring.has_public_keys()
    }
}

/// # Verifying
impl<C: Claims> Auth<C> {
    /// Verifies an access token and returns its user, if the token is neither expired nor revoked. Counts as activity of its
    /// session.
    ///
    /// Does not wait for the store, unless it has been unreachable for
    /// [`max_staleness`](crate::Settings::max_staleness).
    ///
    /// # Errors
    ///
    /// - [`Error::AccessTokenInvalid`], [`Error::AccessTokenExpired`] or [`Error::AccessTokenRevoked`].
    /// - [`Error::Store`] if the store has been unreachable for too long and still is.
    pub async fn authenticate(&self, token: &str) -> Result<AuthUser<C>, Error> {
        self.inner.authenticator.authenticate(token).await
    }
}

/// # Upkeep
impl<C> Auth<C> {
    /// Writes all recorded activity to the store, and the [revocations](Event::RevocationDelayed) that it has refused so far.
    /// Await it before the process exits; while the process runs, the background task does the same.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if the store fails. The activity stays recorded, and the revocations are tried again.
    pub async fn flush(&self) -> Result<(), Error> {
        Ok(self.inner.node.flush().await?)
    }

    /// Deletes expired sessions from the store and returns how many. The background task does the same every minute.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if the store fails. Sessions already deleted stay deleted.
    pub async fn purge(&self) -> Result<usize, Error> {
        Ok(self.inner.node.purge().await?)
    }
}

impl<C> Auth<C> {
    #[cfg(feature = "openapi")]
    pub(crate) fn has_claims_hook(&self) -> bool {
        self.inner.claims_hook.is_some()
    }

    pub(crate) fn resolved(&self) -> &Arc<ResolvedSettings> {
        &self.inner.node.settings
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.node.now()
    }

    pub(crate) fn authenticator(&self) -> &Authenticator<C> {
        &self.inner.authenticator
    }

    fn access_keys(&self) -> &AccessKeys {
        self.inner.authenticator.keys()
    }

    /// Determines the client of a request, and logs what is wrong with the setup if its address cannot be compared.
    fn resolve(&self, client: ClientInfo) -> Client {
        let settings = self.resolved();
        let (client, mistake) = client.resolve(settings);
        if (settings.policy.binding.ip != BindingMode::Off || self.inner.risk_hook.is_some())
            && let Some(mistake) = mistake
        {
            mistake.report(settings);
        }
        client
    }

    /// Reports a login that names no client, which is a mistake if clients are compared.
    fn report_unknown_client(&self) {
        let settings = self.resolved();
        if settings.policy.binding.is_on() || self.inner.risk_hook.is_some() {
            SetupMistake::LoginWithoutClient.report(settings);
        }
    }

    fn emit(&self, event: Event) {
        self.inner.node.events.emit(event);
    }

    /// A new access token for a session as of `now`, without a refresh token. It expires at `valid_until`, if not sooner.
    /// `can_refresh` says whether the client has
    /// one to come back with.
    async fn tokens(
        &self,
        session: &SessionRecord,
        generation: u32,
        claims: &str,
        now: Timestamp,
        valid_until: Timestamp,
        can_refresh: bool,
    ) -> Result<Tokens, Error> {
        let ttl = self.settings().policy.access_ttl;
        let random = Random::new()?;
        let params = AccessTokenParams {
            user_id: &session.user_id,
            session_id: session.id,
            generation,
            now,
            ttl: ttl - ttl.mul_f64(random.lifetime * 0.05),
            session_expires_at: valid_until,
            authentication: &session.authentication,
            actor: session.client.actor.as_deref(),
            random: random.token_id,
            claims,
        };
        // It does not fail: the parameters are valid, and the key has signed before, when it was added.
        let unsigned = self.access_keys().prepare(params).ok_or(Error::Random)?;
        let issued = self.sign(unsigned).await?;
        let life = issued.expires_at.since(now);
        Ok(Tokens {
            session_id: session.id,
            access_token: issued.token,
            expires_in: life,
            refresh_in: can_refresh.then(|| refresh_in(life, random.refresh)),
            refresh_token: None,
            session_expires_in: session.rotation.expires_at.since(now),
            persistent: session.persistent,
        })
    }
}

impl<C> Auth<C> {
    async fn sign(&self, unsigned: Unsigned) -> Result<Issued, Error> {
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
        if unsigned.is_signed_by_app() {
            let signed = unsigned.sign_by_app(self.settings().store_timeout, self.resolved().meter).await;
            return signed.map_err(Error::Signer);
        }
        unsigned.sign().ok_or(Error::Random)
    }
}

/// What is random about an access token. From one system call: they cost more than a signature.
struct Random {
    token_id: [u8; 8],
    /// From 0 to 1, as is the next.
    lifetime: f64,
    refresh: f64,
}

impl Random {
    fn new() -> Result<Self, Error> {
        let (mut token_id, mut lifetime, mut refresh) = ([0; 8], [0; 4], [0; 4]);
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(Error::random)?;
        let parts = token_id.iter_mut().chain(&mut lifetime).chain(&mut refresh);
        parts.zip(bytes).for_each(|(to, from)| *to = from);
        let fraction = |bytes| f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX);
        Ok(Self { token_id, lifetime: fraction(lifetime), refresh: fraction(refresh) })
    }
}

/// When a client should refresh: after 14/15 of the access token's life, up to 10 % earlier.
fn refresh_in(life: Duration, random: f64) -> Duration {
    life.mul_f64(14.0 / 15.0 * (1.0 - 0.1 * random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_access_tokens_never_share_an_id() {
        let auth: Auth = Auth::builder(Secret::random().unwrap(), crate::MemoryStore::new())
            // All in the same millisecond.
            .clock(|| std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
            .build()
            .unwrap();
        let mut ids = std::collections::HashSet::new();
        for _ in 0..1000 {
            let token = auth.login("alice", NoClaims {}).await.unwrap().tokens.access_token;
            ids.insert(auth.access_keys().verify::<NoClaims>(&token).unwrap().id);
        }
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn a_client_comes_back_before_its_token_ends_and_not_in_step() {
        let life = Duration::from_secs(900);
        let times: Vec<_> = (0..1000).map(|_| refresh_in(life, Random::new().unwrap().refresh)).collect();
        assert!(times.iter().all(|time| (756..=840).contains(&time.as_secs())));
        let different: std::collections::HashSet<_> = times.iter().map(Duration::as_secs).collect();
        assert!(different.len() > 50);
    }
}
