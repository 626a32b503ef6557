//! Building an [`Auth`]: all settings are checked here, once.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use quick_cache::sync::Cache;

use super::announce::VerifierTokens;
use super::authority::Authority;
use super::binding::RiskHook;
use super::claims::{BoxError, ClaimsHook};
use super::verify::Authenticator;
use super::{Auth, Claims, Inner, NoClaims, registry};
use crate::config::{BindingMode, ClaimsRequest, ClientChange, ResolvedSettings, Settings, SettingsError};
use crate::event::{Event, Events};
use crate::node::Node;
use crate::store::SessionStore;
use crate::time::Clock;
use crate::token::access::AccessKeys;
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
use crate::token::asymmetric::{SigningKey, VerifyingKey};
use crate::token::keys::Secret;
use crate::token::refresh::RefreshKeys;
use crate::token::ring::Key;

/// Builds an [`Auth`]. Made by [`Auth::builder`].
///
/// ```
/// use std::time::Duration;
///
/// use axum_refresh::{Auth, MemoryStore, Policy, Secret, Settings};
///
/// let auth: Auth = Auth::builder(Secret::random()?, MemoryStore::new())
///     .settings(Settings {
///         policy: Policy { access_ttl: Duration::from_secs(300), ..Policy::default() },
///         login_page: Some("/login".to_owned()),
///         ..Settings::for_pages()
///     })
///     .on_event(|event| println!("{event:?}"))
///     .build()?;
/// # Ok::<_, axum_refresh::config::SettingsError>(())
/// ```
#[must_use = "call `build` to get an `Auth`"]
pub struct AuthBuilder<C = NoClaims> {
    settings: Settings,
    secret: Secret,
    other_secrets: Vec<Secret>,
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    signing_key: Option<SigningKey>,
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    verifying_keys: Vec<VerifyingKey>,
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    next_keys: Vec<(SigningKey, SystemTime)>,
    store: Arc<dyn SessionStore>,
    claims_hook: Option<ClaimsHook<C>>,
    risk_hook: Option<RiskHook>,
    verifier_tokens: Vec<Secret>,
    events: Events,
    clock: Clock,
}

impl<C> fmt::Debug for AuthBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<C: Claims> AuthBuilder<C> {
    pub(super) fn new(secret: Secret, store: Arc<dyn SessionStore>) -> Self {
        Self {
            settings: Settings::default(),
            secret,
            other_secrets: Vec::new(),
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            signing_key: None,
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            verifying_keys: Vec::new(),
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            next_keys: Vec::new(),
            store,
            claims_hook: None,
            risk_hook: None,
            verifier_tokens: Vec::new(),
            events: Events::default(),
            clock: Arc::new(SystemTime::now),
        }
    }

    /// Replaces all settings made so far. Default: [`Settings::default`].
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Changes single settings.
    ///
    /// ```
    /// # use axum_refresh::{Auth, MemoryStore, Secret};
    /// # let (secret, store) = (Secret::random()?, MemoryStore::new());
    /// let auth: Auth = Auth::builder(secret, store)
    ///     .configure(|settings| {
    ///         settings.audience = "shop.example".to_owned();
    ///         settings.policy.max_sessions = Some(10);
    ///     })
    ///     .build()?;
    /// # Ok::<_, axum_refresh::config::SettingsError>(())
    /// ```
    pub fn configure(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Accepts the tokens of another secret as well. May be called several times.
    ///
    /// To change the secret without logging anybody out:
    ///
    /// 1. Deploy the new secret as `verify_secret` to all nodes.
    /// 2. Deploy it as the secret of [`Auth::builder`], and the old one as `verify_secret`, to all nodes.
    /// 3. After [`lifetime`](crate::Policy::lifetime), drop the old one.
    pub fn verify_secret(mut self, secret: Secret) -> Self {
        self.other_secrets.push(secret);
        self
    }

    /// Signs access tokens with a private key instead of the secret, so that other services can verify them with
    /// [`Auth::jwks_router`]. Refresh tokens stay signed by the secret. [`Auth::rotate_to`] changes the key without a restart.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "signing"))))]
    pub fn signing_key(mut self, key: SigningKey) -> Self {
        self.signing_key = Some(key);
        self
    }

    /// Signs access tokens with another key from `at` on, for a node that starts while the app's nodes change to that key: see
    /// [`Auth::rotate_to`]. If `at` is over, it signs at once, and the key before it is accepted for as long as there. May be
    /// called several times; of the keys whose time has come, the one with the latest `at` signs.
    ///
    /// It is in the JWK set from the start. For an app that signs with its secret (HS256) until `at`, this is the way to serve
    /// [`Auth::jwks_router`] already.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "signing"))))]
    pub fn next_signing_key(mut self, key: SigningKey, at: SystemTime) -> Self {
        self.next_keys.push((key, at));
        self
    }

    /// Accepts access tokens signed by another private key as well. May be called several times.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "signing"))))]
    pub fn verifying_key(mut self, key: VerifyingKey) -> Self {
        self.verifying_keys.push(key);
        self
    }

    /// Loads the user's claims from the app at every refresh, in place of the claims from login. A change of role then
    /// takes effect within one [`access_ttl`](crate::Policy::access_ttl).
    ///
    /// `None` refuses the refresh with 401 `user_refused` and leaves the session as it is. An error is 503, and the client
    /// tries again. Claims that cannot be written and read back are 500. In all three cases the client keeps its refresh
    /// token. The hook runs once per refresh, and once more if the session's claims were updated meanwhile; its time limit is
    /// up to the app. It does not run at login or at an update: that access token has the claims given to [`Auth::login`] or
    /// [`Auth::update_claims`].
    ///
    /// It gets a [`ClaimsRequest`]: the session, and the claims last written with it. What has to outlive a refresh, such
    /// as a second factor that only this session has passed, is kept by taking it from there.
    ///
    /// Each call returns a future of its own, so clone what the future needs, such as a pool of connections:
    ///
    /// ```
    /// use axum_refresh::{Auth, MemoryStore, Secret};
    /// # #[derive(Clone)]
    /// # struct Pool;
    /// # impl Pool {
    /// #     async fn role_of(&self, _: &str) -> Result<Option<String>, std::io::Error> { Ok(None) }
    /// # }
    ///
    /// #[derive(Clone, serde::Serialize, serde::Deserialize)]
    /// struct MyClaims {
    ///     role: String,
    ///     #[serde(default)]
    ///     mfa: bool, // set by `Auth::update_claims` after a second factor
    /// }
    ///
    /// # let pool = Pool;
    /// let auth = Auth::<MyClaims>::builder(Secret::random()?, MemoryStore::new())
    ///     .claims_hook(move |request| {
    ///         let pool = pool.clone();
    ///         async move {
    ///             let role = pool.role_of(&request.session.user_id).await?; // None if the user is disabled
    ///             let mfa = request.claims.is_some_and(|claims| claims.mfa);
    ///             Ok::<_, std::io::Error>(role.map(|role| MyClaims { role, mfa }))
    ///         }
    ///     })
    ///     .build()?;
    /// # Ok::<_, axum_refresh::config::SettingsError>(())
    /// ```
    pub fn claims_hook<F, Fut, E>(mut self, hook: F) -> Self
    where
        F: Fn(ClaimsRequest<C>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<C>, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.claims_hook = Some(Box::new(move |request| {
            let claims = hook(request);
            Box::pin(async move { claims.await.map_err(Into::into) })
        }));
        self
    }

    /// Judges sessions whose client has changed, by what the app knows about addresses: their country, their network, whether
    /// they belong to Tor. Default: none.
    ///
    /// `hook` is called if the address or the `User-Agent` of a request differs from the session's last: at every refresh, and
    /// behind the [guard](Auth::guard) once for each access token and client. What it returns counts together with the
    /// [binding](crate::config::Binding), the stricter of the two: [`BindingMode::Off`](crate::config::BindingMode::Off) lets
    /// the change pass, the others do what they do there, and each is an
    /// [`Event::ClientMismatch`](crate::Event::ClientMismatch). A client that is let through at a refresh is the session's last
    /// from then on.
    ///
    /// It runs within the request, so it should be quick: look addresses up in memory. The guard loads the session once for
    /// each access token.
    ///
    /// ```
    /// use axum_refresh::config::BindingMode;
    /// use axum_refresh::{Auth, MemoryStore, Secret};
    ///
    /// # fn country(ip: Option<std::net::IpAddr>) -> Option<u16> { ip.map(|_| 49) }
    /// let auth: Auth = Auth::builder(Secret::random()?, MemoryStore::new())
    ///     .risk_hook(|change| {
    ///         if country(change.before.ip) == country(change.now.ip) { BindingMode::Off } else { BindingMode::StepUp }
    ///     })
    ///     .build()?;
    /// # Ok::<_, axum_refresh::config::SettingsError>(())
    /// ```
    pub fn risk_hook(mut self, hook: impl Fn(&ClientChange) -> BindingMode + Send + Sync + 'static) -> Self {
        self.risk_hook = Some(Box::new(hook));
        self
    }

    /// Lets other services follow the revocations at `GET /revocations` of the [router](Auth::router), which is not there
    /// otherwise. They show this secret as a bearer token. May be called several times, to change it: deploy the new one here
    /// first, then there, and then drop the old one here.
    ///
    /// It has at least 32 bytes and comes from a random source, as the [`Secret`] of the app, and is another one. Whoever has it
    /// learns which sessions were revoked and of which users, and can do nothing else.
    pub fn verifier_token(mut self, token: Secret) -> Self {
        self.verifier_tokens.push(token);
        self
    }

    /// Calls `hook` with every [`Event`]. It runs within the request that caused the event, so it should be quick.
    pub fn on_event(mut self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.events = Events::new(hook);
        self
    }

    /// Takes the time from `clock` instead of the system's clock. For tests.
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    fn signs_asymmetrically(&self) -> bool {
        self.signing_key.is_some() || !self.next_keys.is_empty()
    }

    #[cfg(not(any(feature = "aws_lc_rs", feature = "signing")))]
    const fn signs_asymmetrically(&self) -> bool {
        false
    }

    /// Checks all settings, secrets and keys, and builds the `Auth`.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] names the first setting that is invalid, alone or together with another, and says what to do about
    /// it. A secret that can be guessed is such an error too.
    pub fn build(self) -> Result<Auth<C>, SettingsError> {
        let is_verifiable = self.signs_asymmetrically();
        let settings = ResolvedSettings::new(self.settings)?;
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
        if is_verifiable {
            super::keys::check_audience(&settings)?;
        }
        self.secret.check()?;
        self.other_secrets.iter().try_for_each(Secret::check)?;
        self.verifier_tokens.iter().try_for_each(|token| check_verifier_token(token, &self.secret))?;
        if settings.insecure_dev_cookies {
            tracing::warn!(
                target: "axum_refresh",
                "insecure_dev_cookies is on: cookies are sent without Secure and can be read on the network"
            );
        }

        if !self.verifier_tokens.is_empty() && !is_verifiable {
            tracing::warn!(
                target: "axum_refresh",
                "there is a `verifier_token`, but no `signing_key`, so services without the secret can verify no access token"
            );
        }
        let scope = settings.key_scope();
        let signing = Key::hs256(&self.secret, &scope);
        let mut others: Vec<_> = self.other_secrets.iter().map(|secret| Key::hs256(secret, &scope)).collect();
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
        let signing = {
            let realm = settings.realm.as_deref();
            others.extend(self.verifying_keys.into_iter().map(|key| Key::asymmetric(key.0, realm)));
            match self.signing_key {
                // Tokens that the secret has signed so far stay valid.
                Some(key) => {
                    others.push(signing);
                    Key::asymmetric(key.0, realm)
                }
                None => signing,
            }
        };
        others.shrink_to_fit();
        let access = AccessKeys::new(signing, others, &settings)?;
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
        {
            for (key, at) in self.next_keys {
                let key = Key::asymmetric(key.0, settings.realm.as_deref());
                key.check_here()?;
                access.ring.add_next(key, at.into());
            }
            access.ring.publish((self.clock)().into());
        }
        let refresh = RefreshKeys::new(&self.secret, &self.other_secrets, &scope);
        let (keys, has_twin) = registry::register(access.ids());
        if has_twin {
            tracing::error!(
                target: "axum_refresh",
                realm = settings.realm,
                "another Auth with the same secret or signing key, issuer and realm is alive in this process, so each accepts \
                 the other's tokens; if they serve different kinds of user, set a different `realm` for each, and if not, \
                 clone one"
            );
        }
        let guarded = Cache::new(settings.guard_cache.max(1));
        let settings = Arc::new(settings);
        let (node, running) = Node::new(Arc::clone(&settings), self.store, Arc::clone(&self.clock), self.events);
        if !self.verifier_tokens.is_empty() {
            node.revoked.announce();
        }
        node.start();
        let revoked = Arc::clone(&node.revoked);
        let authority = Authority::Node { node: Arc::clone(&node), _running: running };
        let inner = Inner {
            node,
            authenticator: Authenticator::new(settings, self.clock, Arc::new(access), revoked, authority),
            refresh,
            claims_hook: self.claims_hook,
            risk_hook: self.risk_hook,
            verifier_tokens: VerifierTokens::new(&self.verifier_tokens),
            guarded,
            any_client: Arc::default(),
            _keys: keys,
        };
        Ok(Auth { inner: Arc::new(inner) })
    }
}

/// Refuses a verifier's token that can be guessed, that cannot be sent in a header, or that others must not have.
fn check_verifier_token(token: &Secret, secret: &Secret) -> Result<(), SettingsError> {
    if token.as_bytes() == secret.as_bytes() {
        return Err(SettingsError::new("verifier_token", "the secret of the app; use another one, which cannot sign"));
    }
    token.check().and_then(|()| token.as_bearer()).map_err(|error| error.of("verifier_token")).map(drop)
}
