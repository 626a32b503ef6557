//! How an [`Auth`] is put together. Every contradiction shows in [`build`](AuthBuilder::build).

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use quick_cache::sync::Cache;

use super::{Auth, BoxError, Claims, ClaimsHook, Inner};
use crate::event::{Event, Events};
use crate::node::{Clock, Node};
use crate::policy::{ConfigError, Policy};
use crate::settings::{CookieSettings, Settings, Transport};
use crate::store::SessionStore;
use crate::token::access::{AccessKeys, Key};
#[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
use crate::token::asymmetric::{SigningKey, VerifyingKey};
use crate::token::keys::Secret;
use crate::token::refresh::RefreshKeys;

/// Puts an [`Auth`] together. A secret and a store are needed; all else has a default.
#[must_use]
pub struct AuthBuilder<C> {
    settings: Settings,
    secret: Option<Secret>,
    other_secrets: Vec<Secret>,
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    signing_key: Option<SigningKey>,
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    verifying_keys: Vec<VerifyingKey>,
    store: Option<Arc<dyn SessionStore>>,
    hook: Option<ClaimsHook<C>>,
    events: Events,
    clock: Clock,
}

impl<C> fmt::Debug for AuthBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<C: Claims> AuthBuilder<C> {
    pub(super) fn new() -> Self {
        Self {
            settings: Settings::default(),
            secret: None,
            other_secrets: Vec::new(),
            #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
            signing_key: None,
            #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
            verifying_keys: Vec::new(),
            store: None,
            hook: None,
            events: Events::default(),
            clock: Arc::new(SystemTime::now),
        }
    }

    /// All settings at once, say from a file. What was set before is gone.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Lifetimes, rotation, binding. Default: [`Policy::default`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.settings.policy = policy;
        self
    }

    /// The secret that all keys are derived from. Needed.
    ///
    /// To change it without logging anybody out, first give the next one to [`verify_secret`](Self::verify_secret) on
    /// all nodes; then make it this one on all nodes and the old one the other; and drop the old one after
    /// [`lifetime`](Policy::lifetime).
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Another secret whose tokens are accepted. May be called several times.
    pub fn verify_secret(mut self, secret: Secret) -> Self {
        self.other_secrets.push(secret);
        self
    }

    /// Signs access tokens with a private key instead of the secret, so that other services can verify them by
    /// [`Auth::jwks`].
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    pub fn signing_key(mut self, key: SigningKey) -> Self {
        self.signing_key = Some(key);
        self
    }

    /// Another public key whose access tokens are accepted. May be called several times.
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    pub fn verifying_key(mut self, key: VerifyingKey) -> Self {
        self.verifying_keys.push(key);
        self
    }

    /// Where sessions are kept. Needed.
    pub fn store(mut self, store: impl SessionStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Where sessions are kept, for a store whose type is only known at run time.
    pub fn shared_store(mut self, store: Arc<dyn SessionStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Asks the app for a user's claims at every refresh, instead of taking those from login: a change of role is felt
    /// within one access token. `None` refuses the user (`user_refused`); the session stays. An error is 503.
    ///
    /// Asked once per refresh. How long it may take is the app's to limit.
    pub fn claims<F, Fut, E>(mut self, hook: F) -> Self
    where
        F: Fn(Arc<str>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<C>, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.hook = Some(Box::new(move |user| {
            let claims = hook(user);
            Box::pin(async move { claims.await.map_err(Into::into) })
        }));
        self
    }

    /// Called with every [`Event`], in the request that caused it: it should be quick.
    pub fn on_event(mut self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.events = Events::new(hook);
        self
    }

    /// Where the time comes from. Default: the system's clock. For tests.
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// [`Settings::issuer`].
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.settings.issuer = issuer.into();
        self
    }

    /// [`Settings::audience`].
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.settings.audience = audience.into();
        self
    }

    /// [`Settings::transport`].
    pub fn transport(mut self, transport: Transport) -> Self {
        self.settings.transport = transport;
        self
    }

    /// [`Settings::refresh_cookie`].
    pub fn refresh_cookie(mut self, cookie: CookieSettings) -> Self {
        self.settings.refresh_cookie = cookie;
        self
    }

    /// [`Settings::access_cookie`].
    pub fn access_cookie(mut self, cookie: CookieSettings) -> Self {
        self.settings.access_cookie = Some(cookie);
        self
    }

    /// The cookies that [`Auth::pages`] wants, as in [`Settings::for_pages`]. All else stays as it is.
    pub fn for_pages(mut self) -> Self {
        self.settings.choose_cookies_for_pages();
        self
    }

    /// [`Settings::hint_cookie`].
    pub fn hint_cookie(mut self) -> Self {
        self.settings.hint_cookie = true;
        self
    }

    /// [`Settings::insecure_dev_cookies`].
    pub fn insecure_dev_cookies(mut self) -> Self {
        self.settings.insecure_dev_cookies = true;
        self
    }

    /// Adds to [`Settings::trusted_proxies`].
    pub fn trusted_proxy(mut self, network: IpNet) -> Self {
        self.settings.trusted_proxies.push(network);
        self
    }

    /// Adds to [`Settings::trusted_origins`].
    pub fn trusted_origin(mut self, origin: impl Into<String>) -> Self {
        self.settings.trusted_origins.push(origin.into());
        self
    }

    /// [`Settings::login_page`].
    pub fn login_page(mut self, path: impl Into<String>) -> Self {
        self.settings.login_page = Some(path.into());
        self
    }

    /// Checks everything and puts it together.
    ///
    /// # Errors
    /// Names the first setting that makes no sense, alone or beside another; a secret or a store that is missing; a
    /// secret that could be guessed.
    pub fn build(self) -> Result<Auth<C>, ConfigError> {
        let settings = self.settings;
        settings.validate()?;
        let secret = self.secret.ok_or_else(|| ConfigError::new("secret", "there is none"))?;
        let store = self.store.ok_or_else(|| ConfigError::new("store", "there is none"))?;
        secret.check()?;
        self.other_secrets.iter().try_for_each(Secret::check)?;
        if settings.insecure_dev_cookies {
            tracing::warn!(target: "axum_refresh", "insecure_dev_cookies: cookies travel without Secure, for anybody to read");
        }

        let issuer = settings.issuer.as_str();
        let signing = Key::hs256(&secret, issuer);
        let mut others: Vec<_> = self.other_secrets.iter().map(|secret| Key::hs256(secret, issuer)).collect();
        #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
        let signing = {
            others.extend(self.verifying_keys.into_iter().map(|key| Key::asymmetric(key.0)));
            match self.signing_key {
                // What the secret signed until now stays good.
                Some(key) => {
                    others.push(signing);
                    Key::asymmetric(key.0)
                }
                None => signing,
            }
        };
        others.shrink_to_fit();
        let access = AccessKeys::new(signing, others, &settings)?;
        let refresh = RefreshKeys::new(&secret, &self.other_secrets, issuer);
        let verified = (settings.token_cache > 0).then(|| Cache::new(settings.token_cache));

        let guarded = Cache::new(settings.guard_cache.max(1));
        let (node, running) = Node::new(Arc::new(settings), store, self.clock, self.events);
        node.start();
        let inner = Inner {
            node,
            access,
            refresh,
            hook: self.hook,
            verified,
            guarded,
            anybody: Arc::default(),
            _running: running,
        };
        Ok(Auth { inner: Arc::new(inner) })
    }
}
