//! The layer that keeps the visitors of server-rendered pages logged in without a script.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum_core::response::{IntoResponse, Response};
use http::request::Parts;
use tower_layer::Layer;

use super::extract::client_info;
use super::gate::{Gate, Gated, Step, Unread, find, remember, remembered};
use super::origin::may_use_cookie;
use super::problem::Problem;
use super::{cookie, transport};
use crate::auth::{Auth, Claims, Tokens, Verified};
use crate::error::Error;
use crate::policy::ConfigError;
use crate::session::Timestamp;
use crate::store::StoreError;

/// How long a page waits, again and again, for requests that were faster to be done with the session's row. A script
/// would be told to come back in a second; a page has nobody to tell.
const PAUSES: [Duration; 3] = [Duration::from_millis(20), Duration::from_millis(60), Duration::from_millis(180)];

/// Refreshes within the request for a page what a script would have refreshed before it: the visitors of a
/// server-rendered app (htmx, askama, leptos) stay logged in with JavaScript switched off. Made by [`Auth::pages`].
///
/// In order, for every request:
///
/// 1. Where an access token is good, it is taken and nothing else happens. It is the one of `Authorization: Bearer`, or
///    else of the access cookie. A request with a bearer header is never refreshed for, and a bad token in it is left to
///    the layers inside, which refuse it.
/// 2. Without a refresh cookie the request is an anonymous one, and passes.
/// 3. A request that may change something (an unsafe method, an upgrade to a WebSocket, an `EventSource`) has to come
///    from here, as in [`Auth::csrf_layer`], or it is 403 `cross_origin`. Nothing has been refreshed then.
/// 4. The refresh token is presented to the [ratchet](crate::ratchet). Where that grants an access token, the request
///    goes on with it, its body untouched, and [`AuthUser`](crate::AuthUser) and all layers inside see it. So do the
///    losers of a race: all requests of one navigation have the same user.
/// 5. Where the refresh is refused because the session has ended, the request passes as an anonymous one. What becomes
///    of it is for the layers inside to say: [`Auth::layer`] refuses it or leads to the
///    [login page](crate::Settings::login_page), `.optional()` lets it in. No cookie is cleared and nobody is redirected here,
///    so there is nothing to go round in circles.
/// 6. What is no refusal is none here either: 503 if the store or the claims hook fails, 409 `refresh_busy` if the row
///    is still fought for after about a quarter of a second. Nobody is anonymous, or sent to the login page, for a race
///    or an outage.
/// 7. The answer gets the cookies: the refresh token's where it is a new one, the access token's always; and
///    `Cache-Control: no-store`, in place of what the handler said. Other cookies of the handler stay, and where it sets
///    one of these two itself (a login, a logout, a renewal), its own is the one that counts.
/// 8. An answer that takes longer than half the [grace](crate::Policy::grace) gets none of them. It counts as one that
///    was lost, which costs nothing: the next page is granted another successor of the same refresh token. Arriving late,
///    it could overwrite what that page was given.
///
/// # An access token that was revoked
///
/// Its session lives ([`Auth::revoke_access_token`] says so), so the next page gets another token for it: who presents
/// the refresh cookie could have one from `POST /auth/refresh` just as well, and a thief of the access token alone has
/// nothing to present. To keep a browser out, end its session; then the refresh is refused too.
///
/// # Where to put it
///
/// Outside the other layers, so that they see the new token, and around the app's own pages; a public page that shows
/// who is logged in wants it, stylesheets and images do not need it. It authenticates by itself: without another layer
/// inside, handlers take an `Option<AuthUser<C>>`, or an `AuthUser<C>`, which is 401 or leads to the login page. It
/// enforces what the refresh enforces; idle sessions and the binding are the [guard](Auth::guard)'s between refreshes.
///
/// ```
/// use axum::Router;
/// use axum::response::{Html, Redirect};
/// use axum::routing::{get, post};
/// use axum::extract::State;
/// use axum_refresh::{Auth, AuthUser, ClientInfo, Error, Login, MemoryStore, NoClaims, Secret};
///
/// fn app(secret: Secret) -> Result<Router, Box<dyn std::error::Error>> {
///     let auth = Auth::builder().secret(secret).store(MemoryStore::new()).for_pages().login_page("/login").build()?;
///     Ok(Router::new()
///         .route("/", get(|user: AuthUser<NoClaims>| async move { Html(format!("Hello, {}", user.id)) }))
///         .route_layer((auth.layer(), auth.guard()))
///         .route("/login", get(|| async { Html("<form method=post>…</form>") }))
///         .route("/login", post(login).layer(auth.csrf_layer()))
///         .layer(auth.pages()?) // refreshes, for all of the above
///         .nest("/auth", auth.router()) // a form that posts to /auth/logout is led to the login page
///         .with_state(auth.clone()))
/// }
///
/// async fn login(State(auth): State<Auth<NoClaims>>, client: ClientInfo) -> Result<(Login, Redirect), Error> {
///     // Here the app checks the password.
///     let login = auth.login("alice", NoClaims {}).client(client).await?;
///     Ok((login, Redirect::to("/"))) // the cookies of the login, and where to go next
/// }
/// # app(Secret::random()?)?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct PagesLayer<C> {
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
    type Service = Gated<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Gated::new(inner, self.clone())
    }
}

impl<C: Claims> Auth<C> {
    /// The layer that refreshes for server-rendered pages: [`PagesLayer`].
    ///
    /// It wants the two cookies that [`AuthBuilder::for_pages`](crate::AuthBuilder::for_pages) or
    /// [`Settings::for_pages`](crate::Settings::for_pages) choose.
    ///
    /// # Errors
    /// If there is no access cookie, or the browser would not send both cookies to every page.
    pub fn pages(&self) -> Result<PagesLayer<C>, ConfigError> {
        let settings = self.settings();
        let everywhere = |setting, path: &str| match path {
            "/" => Ok(()),
            _ => Err(ConfigError::new(setting, format!("pages want it under the path /, and not {path}"))),
        };
        // Where there is an access cookie, the transport has cookies: that is validated.
        let access = settings.access_cookie.as_ref();
        let access = access.ok_or_else(|| ConfigError::new("access_cookie", "pages want one, and there is none"))?;
        everywhere("access_cookie", &access.path)?;
        everywhere("refresh_cookie", &settings.refresh_cookie.path)?;
        Ok(PagesLayer { auth: self.clone() })
    }
}

/// What is to be done with a request.
enum Next {
    Pass,
    Refuse,
    Refresh,
    /// First it has to be known what was revoked.
    Ask,
}

impl<C: Claims> PagesLayer<C> {
    fn look(&self, parts: &mut Parts) -> Next {
        if remembered(&self.auth, parts).is_some() {
            return Next::Pass;
        }
        match find(&self.auth, parts) {
            Ok(token) => {
                remember(&self.auth, parts, Some(token));
                Next::Pass
            }
            Err(Unread::Unclear) => Next::Ask,
            Err(Unread::CrossOrigin) => Next::Refuse,
            Err(Unread::Nothing | Unread::Cookie(_)) if !self.refresh_tokens(parts).is_empty() => {
                if may_use_cookie(self.auth.settings(), parts) { Next::Refresh } else { Next::Refuse }
            }
            Err(Unread::Nothing | Unread::Cookie(_) | Unread::Header(_)) => {
                remember(&self.auth, parts, None);
                Next::Pass
            }
        }
    }

    fn refresh_tokens<'a>(&self, parts: &'a Parts) -> Vec<&'a [u8]> {
        let settings = self.auth.settings();
        let name = settings.refresh_cookie.full_name(settings.insecure_dev_cookies);
        cookie::values(&parts.headers, &name).collect()
    }

    async fn refresh(&self, parts: &mut Parts) -> Result<Option<Renewed>, Response> {
        let auth = &self.auth;
        let since = auth.now();
        let refreshed = auth.refresh_newest(self.refresh_tokens(parts), || client_info(parts), &PAUSES).await;
        let tokens = match refreshed {
            Ok(refreshed) => refreshed.tokens,
            Err(error) if Problem::from(&error).is_unauthorized() => {
                remember(auth, parts, None);
                return Ok(None);
            }
            Err(error) => return Err(error.into_response()),
        };
        let token = auth.inner.access.verify(&tokens.access_token).ok().map(|mut token| {
            if tokens.refresh_token.is_some() {
                // What the handler renews must not show, by its use, that the new refresh token has arrived: this answer
                // may get lost, or be late.
                token.generation = token.generation.saturating_sub(1);
            }
            Arc::new(Verified::from(token))
        });
        // Between the verdict and now the session may have been ended.
        remember(auth, parts, token.filter(|token| auth.admit(token, auth.now()).is_ok()));
        Ok(Some(Renewed { tokens, since }))
    }
}

/// What a refresh has granted, until the answer is there to carry it.
pub(crate) struct Renewed {
    tokens: Tokens,
    /// When it began.
    since: Timestamp,
}

impl<C: Claims> Gate for PagesLayer<C> {
    type Due = Option<Renewed>;

    fn glance(&self, parts: &mut Parts) -> Step {
        match self.look(parts) {
            Next::Pass => Step::Pass,
            Next::Refuse => Step::Refuse(Problem::cross_origin().into_response()),
            Next::Refresh | Next::Ask => Step::Wait,
        }
    }

    async fn wait(&self, parts: &mut Parts) -> Result<Option<Renewed>, Response> {
        let mut next = self.look(parts);
        if matches!(next, Next::Ask) {
            self.auth.catch_up_if_stale().await.map_err(IntoResponse::into_response)?;
            next = self.look(parts);
        }
        match next {
            Next::Pass => Ok(None),
            Next::Refuse => Err(Problem::cross_origin().into_response()),
            Next::Refresh => self.refresh(parts).await,
            // The clock jumps about.
            Next::Ask => Err(Error::Store(StoreError::new("what was revoked is not known")).into_response()),
        }
    }

    fn settle(&self, due: Option<Renewed>, response: &mut Response) {
        let Some(Renewed { tokens, since }) = due else { return };
        let settings = self.auth.settings();
        let late = self.auth.now().since(since) > settings.policy.grace / 2;
        if !late {
            transport::add_to(settings, &tokens, response.headers_mut());
        }
    }
}
