//! The layer that keeps visitors of server-rendered pages logged in without a script.

use std::fmt;

use http::HeaderMap;
use http::request::Parts;
use tower_layer::Layer;

use super::{Check, CheckService, PagesService, Refusal};
use crate::auth::{Auth, Claims, Decision, NoClaims, PageRefresh, Tokens, Unsent};
use crate::config::SettingsError;
use crate::http::csrf::cookie_is_trusted;
use crate::http::extract::client_info;
use crate::http::head::Head;
use crate::http::identify::{Pending, Unidentified, remember, remember_refused, remembered, verified_token};
use crate::http::passive::use_of;
use crate::http::problem::Problem;
use crate::http::rejection::AuthRejection;
use crate::http::{cookie, tokens};
use crate::metrics::Meter;
use crate::time::Timestamp;

/// Refreshes within the request, so that visitors of server-rendered pages (htmx, askama, leptos) stay logged in without
/// JavaScript. Made by [`Auth::pages`].
///
/// For every request, in this order:
///
/// 1. A valid access token, from `Authorization: Bearer` or else from the access cookie, is used, and nothing else happens.
///    A request with a bearer header is never refreshed; an invalid token in it is left to the layers inside, which refuse
///    it.
/// 2. Without a refresh cookie the request passes as an anonymous one.
/// 3. An unsafe method, an upgrade to a WebSocket or an event stream has to pass the origin check of [`Auth::csrf`]; if it
///    does not, it is 403 `cross_origin` and nothing is refreshed.
/// 4. The refresh token is presented to the [ratchet](crate::ratchet). If it grants an access token, the request goes on
///    with that token, its body untouched; [`AuthUser`](crate::AuthUser) and all layers inside see it. All requests of one
///    navigation get the same user, the losers of the race too.
/// 5. If the refresh is refused because the session has ended, or because this version of the app cannot read its claims,
///    the request passes as an anonymous one. The layers inside decide what follows: [`Auth::layer`] refuses it or redirects
///    to the [login page](crate::Settings::login_page), and `.optional()` lets it pass. This layer clears no cookie and
///    redirects nobody, so it cannot cause a redirect loop.
/// 6. Failures are not refusals: 503 if the store or the claims hook fails, 409 `refresh_busy` if other requests have
///    changed the session at every attempt for about a quarter of a second. A race or an outage never turns a visitor into
///    an anonymous one.
/// 7. The response gets the cookies, the refresh cookie if it is new and the access cookie in any case, and
///    `Cache-Control: no-store` in place of the handler's. Other cookies of the handler stay. If the handler sets one of
///    these two cookies (a login, a logout, an update of the claims), the handler's counts.
/// 8. A response that takes longer than half the [grace period](crate::Policy::grace) does not get the cookies, because it
///    could replace the newer ones of a later page. The rotation is taken back, so this does not count as a lost response
///    ([`recovery_limit`](crate::Policy::recovery_limit)). The same applies if the inner service fails, or if the visitor
///    disconnects before there is a response.
///
/// # Revoked access tokens
///
/// [`Auth::revoke_access_token`] revokes one token and not its session, so the next page gets another token. To lock a
/// browser out, revoke its session.
///
/// # Where to put it
///
/// Outside the other layers, so that they see the new token, and around the app's own pages, including public pages that
/// show who is logged in. Stylesheets and images do not need it. It authenticates by itself: without another layer inside,
/// handlers take an `Option<AuthUser<C>>`, or an `AuthUser<C>`, which refuses anonymous requests with 401 or a redirect to
/// the login page. On its own it checks the session only when it refreshes. Add the [guard](Auth::guard) to check in
/// between.
///
/// ```
/// use axum::extract::State;
/// use axum::response::{Html, Redirect};
/// use axum::routing::{get, post};
/// use axum::Router;
/// use axum_refresh::{Auth, AuthUser, ClientInfo, Error, Login, MemoryStore, NoClaims, Secret, Settings};
///
/// fn app(secret: Secret) -> Result<Router, Box<dyn std::error::Error>> {
///     let auth = Auth::builder(secret, MemoryStore::new())
///         .settings(Settings { login_page: Some("/login".to_owned()), ..Settings::for_pages() })
///         .build()?;
///     Ok(Router::new()
///         .route("/", get(|user: AuthUser| async move { Html(format!("Hello, {}", user.id)) }))
///         .route_layer((auth.layer(), auth.guard()))
///         .route("/login", get(|| async { Html("<form method=post>…</form>") }).merge(post(log_in).layer(auth.csrf())))
///         .layer(auth.pages()?) // refreshes, for all of the above
///         .nest("/auth", auth.router()) // a form that posts to /auth/logout is redirected to the login page
///         .with_state(auth.clone()))
/// }
///
/// async fn log_in(State(auth): State<Auth>, client: ClientInfo) -> Result<(Login, Redirect), Error> {
///     // Check the password here.
///     let login = auth.login("alice", NoClaims {}).client(client).await?;
///     Ok((login, Redirect::to("/"))) // sets the cookies and redirects
/// }
/// # app(Secret::random()?)?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct PagesLayer<C = NoClaims> {
    auth: Auth<C>,
}

impl<C> Clone for PagesLayer<C> {
    fn clone(&self) -> Self {
        Self { auth: self.auth.clone() }
    }
}

impl<C> fmt::Debug for PagesLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagesLayer").finish_non_exhaustive()
    }
}

impl<S, C> Layer<S> for PagesLayer<C> {
    type Service = PagesService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CheckService::new(inner, self.clone())
    }
}

/// # Layers
impl<C: Claims> Auth<C> {
    /// The layer that refreshes within requests for server-rendered pages: see [`PagesLayer`].
    ///
    /// It needs the two cookies of [`Settings::for_pages`](crate::Settings::for_pages).
    ///
    /// # Errors
    ///
    /// If there is no access cookie, or the path of one of the cookies is not `/`, so that the browser would not send it to
    /// every page.
    pub fn pages(&self) -> Result<PagesLayer<C>, SettingsError> {
        let settings = self.settings();
        let has_root_path = |setting, path: &str| match path {
            "/" => Ok(()),
            _ => Err(SettingsError::new(setting, format!("its path is {path}; pages need the path /"))),
        };
        let missing = || SettingsError::new("access_cookie", "pages need one; start from Settings::for_pages");
        let access_cookie = settings.access_cookie.as_ref().ok_or_else(missing)?;
        has_root_path("access_cookie", &access_cookie.path)?;
        has_root_path("refresh_cookie", &settings.refresh_cookie.path)?;
        Ok(PagesLayer { auth: self.clone() })
    }
}

/// What the store has to be asked for.
pub(crate) enum Unsure<C> {
    /// Whether the access token is revoked.
    Token(Pending<C>),
    /// A refresh.
    Refresh,
}

/// What a refresh has granted, until there is a response for its cookies.
pub(crate) struct Granted {
    tokens: Tokens,
    /// When the refresh began.
    since: Timestamp,
    unsent: Unsent,
}

impl<C: Claims> PagesLayer<C> {
    /// What follows if the request has no access token that can be used.
    fn without_token(&self, head: &mut impl Head, reason: &Unidentified) -> Decision<(), Unsure<C>, Problem> {
        match reason {
            Unidentified::CrossOrigin => Decision::Refuse(Problem::CROSS_ORIGIN),
            Unidentified::NoToken | Unidentified::Cookie(_) if self.refresh_tokens(head).next().is_some() => {
                if cookie_is_trusted(self.auth.resolved(), head) {
                    Decision::AskStore(Unsure::Refresh)
                } else {
                    Decision::Refuse(Problem::CROSS_ORIGIN)
                }
            }
            Unidentified::NoToken | Unidentified::Cookie(_) | Unidentified::Header(_) => {
                remember_refused(self.auth.authenticator(), head, None);
                Decision::Pass(())
            }
        }
    }

    fn refuse(&self, head: &impl Head, problem: Problem) -> Refusal {
        AuthRejection::new(self.auth.resolved(), head, problem).render()
    }

    fn refresh_tokens<'a>(&self, head: &'a impl Head) -> impl Iterator<Item = &'a [u8]> {
        cookie::values(head.headers(), &self.auth.resolved().refresh_cookie.name)
    }

    async fn refresh(&self, parts: &mut Parts) -> Result<Option<Granted>, Refusal> {
        let auth = &self.auth;
        let since = auth.now();
        let candidates: Vec<_> = self.refresh_tokens(parts).collect();
        match auth.refresh_page(candidates, || client_info(parts), use_of(parts)).await {
            Ok(PageRefresh { tokens, token, unsent }) => {
                remember(auth.authenticator(), parts, token, auth.now());
                Ok(Some(Granted { tokens, since, unsent }))
            }
            Err(error) if Problem::from(&error).is_unauthorized() => {
                // The user is still logged in, and has to confirm it.
                let reason = Some(Problem::from(&error)).filter(Problem::is_step_up);
                remember_refused(auth.authenticator(), parts, reason);
                Ok(None)
            }
            Err(error) => Err(self.refuse(parts, Problem::reported(&error))),
        }
    }
}

impl<C: Claims> Check for PagesLayer<C> {
    type Found = Unsure<C>;
    type Addition = Option<Granted>;

    fn meter(&self) -> Meter {
        self.auth.resolved().meter
    }

    fn check(&self, head: &mut impl Head) -> Decision<(), Unsure<C>, Refusal> {
        if remembered(self.auth.authenticator(), head).is_some() {
            return Decision::Pass(());
        }
        let now = self.auth.now();
        match verified_token(self.auth.authenticator(), head, now) {
            Decision::Pass(token) => {
                remember(self.auth.authenticator(), head, Some(token), now);
                Decision::Pass(())
            }
            Decision::AskStore(pending) => Decision::AskStore(Unsure::Token(pending)),
            Decision::Refuse(reason) => match self.without_token(head, &reason) {
                Decision::Pass(()) => Decision::Pass(()),
                Decision::AskStore(unsure) => Decision::AskStore(unsure),
                Decision::Refuse(problem) => Decision::Refuse(self.refuse(head, problem)),
            },
        }
    }

    async fn check_in_store(&self, parts: &mut Parts, unsure: Unsure<C>) -> Result<Option<Granted>, Refusal> {
        if let Unsure::Token(pending) = unsure {
            match pending.settle(self.auth.authenticator(), parts).await {
                Ok(Ok(token)) => {
                    remember(self.auth.authenticator(), parts, Some(token), self.auth.now());
                    return Ok(None);
                }
                Ok(Err(reason)) => match self.without_token(parts, &reason) {
                    Decision::Pass(()) => return Ok(None),
                    Decision::Refuse(problem) => return Err(self.refuse(parts, problem)),
                    Decision::AskStore(_) => {}
                },
                Err(error) => return Err(self.refuse(parts, Problem::reported(&error))),
            }
        }
        self.refresh(parts).await
    }

    async fn complete(&self, granted: Option<Granted>, headers: &mut HeaderMap) {
        let Some(Granted { tokens, since, unsent }) = granted else { return };
        let settings = self.auth.resolved();
        let is_late = self.auth.now().since(since) > settings.policy.grace / 2;
        // Another request may have set the cookies of a session that replaces this one.
        if is_late || self.auth.is_revoked(tokens.session_id) {
            unsent.withheld().await;
        } else {
            tokens::add_to(settings, &tokens, headers);
            unsent.sent();
        }
    }
}
