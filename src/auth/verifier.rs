//! Verifying access tokens in services that have neither the secret nor the store.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::Url;
use serde_json::Value;

use super::authority::Authority;
use super::verify::Authenticator;
use super::{AuthUser, Claims, NoClaims};
use crate::config::{Notice, ResolvedSettings, Settings, SettingsError};
use crate::error::Error;
use crate::event::{Event, Events};
use crate::issuer::{FeedSource, Issuer};
use crate::node::revocations::LiveRevocations;
use crate::time::Clock;
use crate::token::access::AccessKeys;
use crate::token::jwks;
use crate::token::keys::Secret;

/// The shortest `max_staleness` of a verifier: the feed may be silent for 3 seconds before it is connected again.
const MIN_STALENESS: Duration = Duration::from_secs(5);

/// Verifies the access tokens of an [`Auth`](crate::Auth) in another service, which has neither its secret nor its store.
///
/// It has the same layers and the same extractors, refuses with the same codes, and costs as little per request: once a token
/// was verified, the next request with it is a lookup in memory. What it needs to know it fetches from the issuer, in one
/// background task that ends when the last clone is dropped:
///
/// - **The keys**, from the issuer's [`jwks_router`](crate::Auth::jwks_router). They are fetched again before the response is
///   too old (`Cache-Control`), and at most once a minute because of a token with an unknown `kid`. If the issuer is not
///   reachable, the known keys stay.
/// - **The revocations**, from the issuer's `GET /auth/revocations`, within a second. If nothing is heard of them for
///   [`max_staleness`](crate::Settings::max_staleness), requests are refused with 503 `store_unavailable`, as they are on a
///   node that cannot reach its store. A session that was revoked is never accepted for longer than that, whichever of the two
///   services is restarted or cut off.
///
/// There is no guard, because the session and the client that logged in are in the store: bind sessions to clients at the
/// issuer, which compares them at every refresh. Nor is a request here activity of the session: the refreshes are.
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use axum_refresh::verifier::Verifier;
/// use axum_refresh::{AuthUser, Secret};
///
/// async fn invoices(user: AuthUser) -> String {
///     format!("The invoices of {}", user.id)
/// }
///
/// # async fn app() -> Result<Router, Box<dyn std::error::Error>> {
/// let verifier: Verifier = Verifier::from_url("https://login.example/.well-known/jwks.json")
///     .revocations("https://login.example/auth/revocations", Secret::from_env("VERIFIER_TOKEN")?)
///     .configure(|settings| settings.audience = "shop.example".to_owned()) // as at the issuer
///     .build()?;
/// let app = Router::new().route("/invoices", get(invoices)).route_layer(verifier.layer());
/// # Ok(app)
/// # }
/// ```
///
/// `Verifier<C>` reads the claims as `C`, which may leave out what this service does not need.
///
/// A guard does not compile, rather than refuse everybody:
///
/// ```compile_fail,E0599
/// fn app(verifier: &axum_refresh::verifier::Verifier) {
///     verifier.guard();
/// }
/// ```
pub struct Verifier<C = NoClaims> {
    authenticator: Authenticator<C>,
    issuer: Arc<Issuer>,
}

impl<C> Clone for Verifier<C> {
    fn clone(&self) -> Self {
        Self { authenticator: self.authenticator.clone(), issuer: Arc::clone(&self.issuer) }
    }
}

impl<C> fmt::Debug for Verifier<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("settings", self.settings()).finish_non_exhaustive()
    }
}

/// # Building
impl<C: Claims> Verifier<C> {
    /// Starts to build a verifier that fetches the keys from the URL of a JWK set.
    pub fn from_url(jwks_url: impl Into<String>) -> VerifierBuilder<C> {
        VerifierBuilder::new(Keys::Url(jwks_url.into()))
    }

    /// Starts to build a verifier with the keys of a JWK set, which stay the same for as long as it lives.
    pub fn from_jwks(document: Value) -> VerifierBuilder<C> {
        VerifierBuilder::new(Keys::Document(document))
    }
}

/// # Verifying
impl<C: Claims> Verifier<C> {
    /// Verifies an access token and returns its user, if the token is neither expired nor revoked.
    ///
    /// Waits for the issuer only as long as its keys are not known, or its revocations not recent enough.
    ///
    /// # Errors
    ///
    /// - [`Error::AccessTokenInvalid`], [`Error::AccessTokenExpired`] or [`Error::AccessTokenRevoked`].
    /// - [`Error::Store`] if the keys are not known yet, or nothing was heard of the revocations for too long.
    pub async fn authenticate(&self, token: &str) -> Result<AuthUser<C>, Error> {
        self.issuer.start();
        self.authenticator.authenticate(token).await
    }

    /// Waits until the keys and the revocations are known, for at most [`store_timeout`](crate::Settings::store_timeout) each.
    /// To be awaited before the service reports that it is ready; requests that come earlier wait too.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] says why they are not known. They are fetched on in the background.
    pub async fn ready(&self) -> Result<(), Error> {
        if !self.issuer.has_keys() {
            self.issuer.learn_keys().await?;
        }
        Ok(self.issuer.catch_up().await?)
    }
}

/// # Open streams
impl<C: Claims> Verifier<C> {
    /// Completes once the caller's session, or the access token alone, is revoked. For open streams and WebSockets of this service,
    /// like [`Auth::revoked`](crate::Auth::revoked) at the issuer.
    ///
    /// It completes within a second of the revocation. While the issuer's feed is unreachable, revocations go unnoticed; those made
    /// meanwhile take effect when it is reachable again, except that of an access token alone after more than ten minutes. If many
    /// sessions were revoked at once, or the feed was unreachable for ten minutes or more, one request asks the issuer about this
    /// session; at most 16 such requests run at the same time.
    ///
    /// It does not complete when the session expires or becomes idle, nor at the expiry of the access token. End a stream after
    /// some hours, so that its client connects again with a new token. On a verifier
    /// [without revocations](VerifierBuilder::without_revocations) it never completes, and a warning is logged.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use axum::extract::State;
    /// use axum::response::IntoResponse;
    /// use axum::response::sse::{Event, Sse};
    /// use axum_refresh::AuthUser;
    /// use axum_refresh::verifier::Verifier;
    /// use futures_util::{StreamExt as _, stream};
    ///
    /// async fn prices(State(verifier): State<Verifier>, user: AuthUser) -> impl IntoResponse {
    ///     let prices = stream::unfold(100, |price| async move {
    ///         tokio::time::sleep(Duration::from_secs(1)).await;
    ///         Some((Event::default().json_data(price), price + 1))
    ///     });
    ///     Sse::new(prices.take_until(verifier.revoked(&user)))
    /// }
    /// # fn app(verifier: &Verifier) -> axum::Router<Verifier> {
    /// #     axum::Router::new().route("/prices", axum::routing::get(prices).layer(verifier.layer()))
    /// # }
    /// ```
    pub fn revoked(&self, caller: &AuthUser<C>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        if !self.issuer.follows() {
            if self.authenticator.resolved().notices.is_first(Notice::NothingRevoked) {
                tracing::warn!(
                    target: "axum_refresh",
                    "`Verifier::revoked` never completes, because the revocations are not followed; call \
                     `VerifierBuilder::revocations` with the feed of the issuer"
                );
            }
            return Box::pin(std::future::pending());
        }
        self.authenticator.revoked(caller, ())
    }
}

impl<C> Verifier<C> {
    /// The settings that the verifier was built with.
    pub fn settings(&self) -> &Settings {
        self.authenticator.resolved()
    }

    pub(crate) const fn authenticator(&self) -> &Authenticator<C> {
        &self.authenticator
    }
}

enum Keys {
    Url(String),
    Document(Value),
}

enum Revocations {
    Followed { url: String, token: Secret },
    Ignored,
}

/// Builds a [`Verifier`]. Made by [`Verifier::from_url`] and [`Verifier::from_jwks`].
pub struct VerifierBuilder<C = NoClaims> {
    keys: Keys,
    revocations: Option<Revocations>,
    settings: Settings,
    events: Events,
    clock: Clock,
    client: Option<reqwest::Client>,
    allows_http: bool,
    claims: std::marker::PhantomData<fn() -> C>,
}

impl<C> fmt::Debug for VerifierBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifierBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<C: Claims> VerifierBuilder<C> {
    fn new(keys: Keys) -> Self {
        Self {
            keys,
            revocations: None,
            settings: Settings::default(),
            events: Events::default(),
            clock: Arc::new(SystemTime::now),
            client: None,
            allows_http: false,
            claims: std::marker::PhantomData,
        }
    }

    /// Follows the revocations of the issuer: the URL of `GET /revocations` of its router, and the
    /// [token](crate::AuthBuilder::verifier_token) that it knows its verifiers by.
    pub fn revocations(mut self, url: impl Into<String>, token: Secret) -> Self {
        self.revocations = Some(Revocations::Followed { url: url.into(), token });
        self
    }

    /// Does not follow the revocations: whoever was logged out, or whose session was stolen and revoked, is accepted here until
    /// their access token expires, which is up to [`access_ttl`](crate::Policy::access_ttl) later.
    pub fn without_revocations(mut self) -> Self {
        self.revocations = Some(Revocations::Ignored);
        self
    }

    /// Replaces all settings made so far. Default: [`Settings::default`].
    ///
    /// Those that count here have to be as at the issuer: `issuer`, `audience`, `policy.access_ttl`, `policy.grace`, and, where
    /// the access token is in a cookie, `realm`, `access_cookie` and `trusted_origins`. This service's own are `leeway`,
    /// `max_staleness` (at least 5 seconds), `store_timeout` (for requests to the issuer), `token_cache`, `login_page`,
    /// `step_up_page`, `trace_users` and `acr_values`. The others have no meaning here.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Changes single settings.
    pub fn configure(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Sends the requests with this client instead of one of its own: for a private certificate authority, a client
    /// certificate, or a proxy.
    ///
    /// Build it with `redirect::Policy::none()` and with `http2_keep_alive_interval`, and without a timeout for whole responses:
    /// the feed of revocations does not end. [`verifier::reqwest`](crate::verifier::reqwest) is the version that fits. Proxies of
    /// the environment (`HTTPS_PROXY`) are used without this, but for an issuer on the loopback interface.
    pub fn http_client(mut self, client: reqwest::Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Allows URLs of the scheme `http`, which are otherwise allowed for the loopback interface only: whoever is on the way can
    /// replace the keys, and sign tokens for any user. For a network that encrypts and authenticates by itself, such as a
    /// service mesh.
    pub fn allow_http(mut self) -> Self {
        self.allows_http = true;
        self
    }

    /// Calls `hook` with every [`Event`]: [`IssuerFailed`](Event::IssuerFailed) and
    /// [`ClockDiffers`](Event::ClockDiffers).
    pub fn on_event(mut self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.events = Events::new(hook);
        self
    }

    /// Takes the time from `clock` instead of the system's clock. For tests.
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Checks all settings and builds the verifier. It begins to fetch at once, if there is a tokio runtime, or else with its
    /// first use on one.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] names what is wrong: a setting, a URL, a JWK set without a key that can be used, or the choice between
    /// [`revocations`](Self::revocations) and [`without_revocations`](Self::without_revocations) that was not made.
    pub fn build(self) -> Result<Verifier<C>, SettingsError> {
        let settings = Arc::new(ResolvedSettings::new(self.settings)?);
        let keys = AccessKeys::verifying(&settings);
        let jwks = match self.keys {
            Keys::Url(url) => Some(read_url("jwks_url", &url, self.allows_http)?),
            Keys::Document(document) => {
                keys.ring.follow_set(jwks::read_value(&document)?);
                None
            }
        };
        let (feed, revoked) = match self.revocations {
            Some(Revocations::Followed { url, token }) => {
                let url = read_url("revocations", &url, self.allows_http)?;
                let token = token.as_bearer().map_err(|error| error.of("revocations"))?;
                if settings.max_staleness < MIN_STALENESS {
                    return Err(SettingsError::new("max_staleness", "too short for a verifier; at least 5 seconds"));
                }
                (Some(FeedSource { url, token }), LiveRevocations::new(settings.max_staleness))
            }
            Some(Revocations::Ignored) => {
                tracing::info!(
                    target: "axum_refresh",
                    "revocations are not followed: sessions that were revoked are accepted until their access token expires"
                );
                (None, LiveRevocations::unannounced())
            }
            None => {
                return Err(SettingsError::new(
                    "revocations",
                    "not chosen; call `revocations` with the feed of the issuer, or `without_revocations`",
                ));
            }
        };
        let client = match self.client {
            Some(client) => client,
            None => http_client(&settings, jwks.iter().chain(feed.iter().map(|feed| &feed.url)).all(is_loopback))?,
        };
        let (keys, revoked) = (Arc::new(keys), Arc::new(revoked));
        let (issuer, running) = Issuer::new(
            Arc::clone(&settings),
            self.events,
            Arc::clone(&self.clock),
            Arc::clone(&keys),
            Arc::clone(&revoked),
            client,
            jwks,
            feed,
        );
        issuer.start();
        let authority = Authority::Issuer { issuer: Arc::clone(&issuer), _running: running };
        Ok(Verifier { authenticator: Authenticator::new(settings, self.clock, keys, revoked, authority), issuer })
    }
}

fn http_client(settings: &Settings, is_local: bool) -> Result<reqwest::Client, SettingsError> {
    let mut builder = reqwest::Client::builder();
    if is_local {
        // What stays on this machine must not go to a proxy of the environment.
        builder = builder.no_proxy();
    }
    let builder = builder
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(settings.store_timeout)
        // A connection that is dead, without a word, would be used for the next request too.
        .http2_keep_alive_interval(Duration::from_secs(1))
        .http2_keep_alive_timeout(Duration::from_secs(2))
        .user_agent(concat!("axum-refresh/", env!("CARGO_PKG_VERSION")));
    builder.build().map_err(|error| SettingsError::new("http_client", format!("cannot be built: {error}")))
}

/// Reads a URL from which nobody on the way can pretend to be the issuer.
fn read_url(setting: &'static str, text: &str, allows_http: bool) -> Result<Url, SettingsError> {
    let url = Url::parse(text).map_err(|error| SettingsError::new(setting, format!("{text:?} is no URL: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(SettingsError::new(setting, "the URL has a user name, a password or a fragment; leave them out"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) || allows_http => Ok(url),
        "http" => {
            Err(SettingsError::new(setting, format!("{text:?} has to be https; see `VerifierBuilder::allow_http`")))
        }
        _ => Err(SettingsError::new(setting, format!("{text:?} is no https URL"))),
    }
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.map_or(host == "localhost", |address| address.is_loopback())
    })
}
