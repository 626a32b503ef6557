//! Logging in, and updating the claims of a session.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::claims::write_claims;
use super::{Auth, AuthUser, Claims, MAX_TRIES};
use crate::client::{ClientInfo, binding};
use crate::config::{MAX_COOKIE_BYTES, Notice, ResolvedSettings, Transport};
use crate::error::{ClaimsError, Error};
use crate::event::Event;
use crate::node::Cause;
use crate::node::realm::Realm;
use crate::node::unfinished::Unfinished;
use crate::ratchet::RotationState;
use crate::session::{Authentication, Client, RevocationReason, SessionId};
use crate::store::{InsertOptions, Inserted, RevokeTarget, SessionLimit, SessionRecord};
use crate::token::refresh::RefreshToken;

/// The tokens for a client. The `Debug` output shows none of them.
#[derive(Clone)]
#[non_exhaustive]
pub struct Tokens {
    /// The session that the tokens belong to.
    pub session_id: SessionId,
    /// The access token, a JWT.
    pub access_token: String,
    /// How long the access token is valid.
    pub expires_in: Duration,
    /// When the client should refresh; none if it has no refresh token.
    pub refresh_in: Option<Duration>,
    /// The refresh token, if it is a new one. Otherwise the client keeps the one it has (RFC 6749 §6).
    pub refresh_token: Option<String>,
    /// How long the session lasts at most.
    pub session_expires_in: Duration,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("session_id", &self.session_id)
            .field("expires_in", &self.expires_in)
            .field("refresh_in", &self.refresh_in)
            .field("has_refresh_token", &self.refresh_token.is_some())
            .finish_non_exhaustive()
    }
}

/// The result of a login, or of an update of the claims.
///
/// As an axum response it sets the cookies and has the tokens as its JSON body. As a part of another response, such as
/// `(login, Redirect::to("/"))`, it sets the cookies only.
#[derive(Clone, Debug)]
#[must_use = "return it from the handler, or the client does not get its tokens"]
pub struct Login {
    /// The tokens.
    pub tokens: Tokens,
    pub(crate) transport: Transport,
    pub(crate) settings: Arc<ResolvedSettings>,
}

/// A login that is being prepared. Made by [`Auth::login`]; awaiting it opens the session.
#[must_use = "a login does nothing until it is awaited"]
pub struct LoginBuilder<C> {
    auth: Auth<C>,
    user_id: String,
    claims: C,
    client: Option<ClientInfo>,
    label: Option<String>,
    replacing: Option<SessionId>,
    in_browser: InBrowser,
    with_refresh: bool,
    transport: Option<Transport>,
}

/// What the browser that logs in has already: the contents of its cookies, as far as they are signed by us.
#[derive(Default)]
struct InBrowser {
    refresh: Vec<RefreshToken>,
    /// The sessions of valid access tokens, and their users.
    access: Vec<(SessionId, Arc<str>)>,
}

impl<C> fmt::Debug for LoginBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginBuilder").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

impl<C> LoginBuilder<C> {
    /// The client that logs in. Lists of sessions show it, and the session is [bound](crate::config::Binding) to it.
    /// Default: an unknown client.
    pub fn client(mut self, client: ClientInfo) -> Self {
        self.client = Some(client);
        self
    }

    /// A name for the client's device, shown in lists of sessions. It is cut to 128 bytes. Default: none.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Issues an access token and no refresh token. The session ends with the access token.
    pub fn without_refresh(mut self) -> Self {
        self.with_refresh = false;
        self
    }

    /// Revokes another session when this one begins: for a user who logs in again or gains privileges (OWASP ASVS 5.0,
    /// 7.2.4).
    ///
    /// If it is the same user's session, both happen in one step. A refresh of the old session that is in flight gets
    /// `session_revoked`.
    ///
    /// The login handler learns of the old session by an optional layer on its route:
    ///
    /// ```
    /// use axum::Router;
    /// use axum::extract::State;
    /// use axum::routing::post;
    /// use axum_refresh::{Auth, AuthUser, ClientInfo, Error, Login, NoClaims};
    ///
    /// async fn log_in(State(auth): State<Auth>, old: Option<AuthUser>, client: ClientInfo) -> Result<Login, Error> {
    ///     // Check the password here.
    ///     let mut login = auth.login("alice", NoClaims {}).client(client);
    ///     if let Some(old) = old {
    ///         login = login.replacing(old.session_id);
    ///     }
    ///     login.await
    /// }
    ///
    /// fn app(auth: &Auth) -> Router<Auth> {
    ///     Router::new().route("/login", post(log_in).layer((auth.layer().optional(), auth.csrf())))
    /// }
    /// ```
    ///
    /// The old session is known if the request carries its access token: in the
    /// [access cookie](crate::Settings::access_cookie), or in a header, which the browser module's `login` does not
    /// send. For whatever session this browser has, by its refresh cookie,
    /// [`replacing_cookies_of`](Self::replacing_cookies_of) is simpler.
    pub fn replacing(mut self, session_id: SessionId) -> Self {
        self.replacing = Some(session_id);
        self
    }

    /// Also replaces the sessions of these tokens, as far as they are ours.
    pub(crate) fn replacing_tokens<'a>(
        mut self,
        refresh: impl IntoIterator<Item = &'a [u8]>,
        access: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        self.in_browser.refresh.extend(self.auth.newest_of_each_session(refresh));
        self.in_browser.access.extend(self.auth.sessions_of(access));
        self
    }

    pub(crate) fn resolved(&self) -> &Arc<ResolvedSettings> {
        self.auth.resolved()
    }

    /// How this client's refresh token is transported. Default: by cookie, or in the body if the
    /// [settings](crate::Settings::transport) allow only that.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = Some(transport);
        self
    }
}

impl<C: Claims> IntoFuture for LoginBuilder<C> {
    type Output = Result<Login, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<C: Claims> LoginBuilder<C> {
    async fn run(self) -> Result<Login, Error> {
        let node = &self.auth.inner.node;
        node.start();
        let policy = &node.settings.policy;
        if !Realm::has_user(&self.user_id) {
            return Err(Error::InvalidUserId);
        }
        let claims = write_claims(&self.claims)?;
        let client = match (&self.client, &self.label) {
            (Some(client), Some(label)) => self.auth.resolve(client.clone().label(label)),
            (Some(client), None) => self.auth.resolve(client.clone()),
            (None, label) => self.auth.unknown_client(label.as_deref()),
        };
        let is_cross_site = self.client.as_ref().is_some_and(ClientInfo::is_cross_site);
        let now = node.now();
        let lifetime = if self.with_refresh { policy.lifetime } else { policy.access_ttl };
        let id = node.new_session_id(&self.user_id).map_err(Error::random)?;
        let token = RefreshToken::begin(id).map_err(Error::random)?;
        let session = SessionRecord {
            id,
            user_id: self.user_id.as_str().into(),
            secret_hash: token.secret_hash(),
            created_at: now,
            client,
            authentication: Authentication::at(now),
            persistent: None,
            external: None,
            last_client: None,
            claims,
            rotation: RotationState::new(now, now.after(lifetime)),
            version: 0,
        };
        // Signed before the session is inserted, so that a failure leaves nothing behind.
        let mut tokens = self.auth.tokens(&session, 0, &session.claims, now, self.with_refresh)?;
        tokens.refresh_token = self.with_refresh.then(|| self.auth.inner.refresh.encode(&token));
        let transport = self.chosen_transport(&node.settings);
        if transport.has_cookie() {
            check_cookie_size(&node.settings, &tokens)?;
        }
        let limit = policy.max_sessions.map(|max| SessionLimit {
            max,
            on_max_sessions: policy.on_max_sessions,
            idle_timeout: policy.idle_timeout,
        });
        // Before the session is inserted, which may end some of those that it is compared with.
        let (known, mut in_browser, replacing) = tokio::join!(
            self.known_clients(&session),
            self.sessions_in_browser(),
            self.revoke_if_another_users(&session)
        );
        let mut replacing = replacing?;
        if replacing.is_none() {
            // A store replaces one session of the same user. The others follow once the new one exists.
            let own = in_browser.iter().find(|(_, user_id)| *user_id == session.user_id);
            replacing = own.map(|(id, _)| *id);
        }
        in_browser.retain(|(id, _)| Some(*id) != replacing && Some(*id) != self.replacing);
        let user_id = || Arc::clone(&session.user_id);
        match node.insert(&session, InsertOptions { limit, replacing }).await? {
            Inserted::LimitReached => {
                node.events.emit(Event::SessionLimitReached { user_id: user_id(), client: session.client.clone() });
                return Err(Error::SessionLimitReached);
            }
            Inserted::Done(mut revoked) => {
                let cause = |reason: RevocationReason| {
                    Cause::from(reason).of(&session.user_id).by(Some(session.client.clone()))
                };
                if let Some(replaced) = replacing {
                    // The store does not return one that had expired, and access tokens may be accepted a little longer.
                    node.found_revoked(replaced);
                }
                if let Some(replaced) = replacing.filter(|id| revoked.sessions.contains(id)) {
                    node.report_session(replaced, cause(RevocationReason::Replaced));
                    revoked.sessions.retain(|id| *id != replaced);
                }
                node.report_revoked(&revoked, &cause(RevocationReason::Evicted));
            }
        }
        for (id, user_id) in in_browser {
            self.revoke_in_browser(id, user_id, &session.client).await;
        }
        let (session_id, client) = (session.id, session.client);
        node.events.emit(Event::LoggedIn { user_id: user_id(), session_id, client: client.clone() });
        if let Some(known) = known
            && !known.iter().any(|known| binding::is_same_device(known, &client))
        {
            node.events.emit(Event::NewDevice { user_id: user_id(), session_id, sessions: known.len(), client });
        }
        if transport.has_cookie() && is_cross_site {
            report_cross_site(&node.settings);
        }
        Ok(Login { tokens, transport, settings: Arc::clone(&node.settings) })
    }

    fn chosen_transport(&self, settings: &ResolvedSettings) -> Transport {
        let allowed = settings.transport;
        match self.transport {
            Some(Transport::Body) if allowed.has_body() => Transport::Body,
            _ if allowed.has_cookie() => Transport::Cookie,
            _ => Transport::Body,
        }
    }

    /// The clients of the user's live sessions, if new devices are to be detected. None also if the store fails: then the
    /// login goes on without it.
    async fn known_clients(&self, new: &SessionRecord) -> Option<Vec<Client>> {
        let node = &self.auth.inner.node;
        let policy = &node.settings.policy;
        if !policy.detect_new_devices {
            return None;
        }
        let sessions = node.list(&new.user_id).await.ok()?;
        let live = sessions.into_iter().filter(|session| session.rotation.is_live(node.now(), policy.idle_timeout));
        Some(live.map(|session| session.client).collect())
    }

    /// The sessions that the browser has, with their users.
    ///
    /// A refresh token may be of any generation, as for a logout. One that is superseded is no evidence of theft here: the
    /// cookie may have outlived a lost response, or the refresh that raced with this login. And whoever has stolen it gains
    /// nothing: at a refresh or a logout, it ends its session too.
    ///
    /// What cannot be loaded is left out, and no error: any of the cookies may be planted, and must not keep the user from
    /// logging in.
    async fn sessions_in_browser(&self) -> Vec<(SessionId, Arc<str>)> {
        let node = &self.auth.inner.node;
        let started = Instant::now();
        let mut found: Vec<(SessionId, Arc<str>)> = Vec::new();
        for token in &self.in_browser.refresh {
            // If the store is away, nobody waits for one timeout per cookie.
            if started.elapsed() >= node.settings.store_timeout {
                break;
            }
            // As stored: a revocation that only this node knows is lost if it crashes.
            let Ok(Some(session)) = node.load_as_stored(token.session_id).await else { continue };
            if session.secret_hash != token.secret_hash() {
                continue;
            }
            match session.rotation.revoked {
                None => found.push((session.id, session.user_id)),
                // The feed has it, but this node may not have read it yet.
                Some(_) => node.found_revoked(session.id),
            }
        }
        for (id, user_id) in &self.in_browser.access {
            if !found.iter().any(|(known, _)| known == id) && !node.revoked.has_session(*id) {
                found.push((*id, Arc::clone(user_id)));
            }
        }
        found
    }

    /// Revokes a session that the browser had before this login. What the store refuses is left to the background task: the
    /// new session exists, and the client needs its tokens.
    async fn revoke_in_browser(&self, session_id: SessionId, user_id: Arc<str>, client: &Client) {
        let node = &self.auth.inner.node;
        let reason = RevocationReason::Replaced;
        let cause = Cause::from(reason).of(&user_id).by(Some(client.clone()));
        let at = node.now();
        if node.revoke(RevokeTarget::Session(session_id), cause).await.is_err() {
            let client = client.clone();
            node.finish_later(&Unfinished { user_id, session_id, reason, at, session: true, others: false, client });
        }
    }

    /// Returns the session to be replaced if it is the same user's. Another user's session, from the same device, is
    /// revoked here, because a store may keep it in another place. It ends before the new session begins, so that a failure
    /// leaves nothing behind.
    async fn revoke_if_another_users(&self, new: &SessionRecord) -> Result<Option<SessionId>, Error> {
        let node = &self.auth.inner.node;
        let Some(id) = self.replacing else { return Ok(None) };
        match node.load(id).await? {
            Some(session) if session.user_id != new.user_id => {
                let cause = Cause::from(RevocationReason::Replaced).of(&session.user_id).by(Some(new.client.clone()));
                node.revoke(RevokeTarget::Session(id), cause).await?;
                Ok(None)
            }
            found => Ok(found.map(|session| session.id)),
        }
    }
}

/// By how much the access token may grow at a refresh: it has the generation, and the times, as decimal digits.
const GROWTH_BYTES: usize = 16;

/// Refuses tokens whose access cookie browsers would drop: the user would be refreshed with every page, and logged out at the
/// first failure.
fn check_cookie_size(settings: &ResolvedSettings, tokens: &Tokens) -> Result<(), ClaimsError> {
    let size = settings.access_cookie.as_ref().map_or(0, |cookie| cookie.size(&tokens.access_token));
    if size + GROWTH_BYTES > MAX_COOKIE_BYTES { Err(ClaimsError::TooLarge { cookie_bytes: size }) } else { Ok(()) }
}

/// A page of another site has logged in, and will be logged out when the access token expires.
fn report_cross_site(settings: &ResolvedSettings) {
    if !settings.is_sent_cross_site() && settings.notices.is_first(Notice::CrossSiteLogin) {
        tracing::warn!(
            target: "axum_refresh",
            "a page of another site has logged in, and browsers do not send it the refresh cookie, so its users are logged out \
             when their access token expires; serve the page from the same site, or set `refresh_cookie.same_site` to none \
             and `credentials: \"include\"` in the page"
        );
    }
}

/// # Logging in
impl<C: Claims> Auth<C> {
    /// Logs in a user whom the app has authenticated: opens a session and returns its first tokens.
    ///
    /// `user_id` is the app's own id of the user, as text of 1 to 255 bytes without NUL. `claims` has to be a JSON object
    /// without the token's own names (`iss`, `aud`, `sub`, `sid`, `gen`, `jti`, `iat`, `exp`, `nbf`), and their type has to
    /// read what it writes.
    ///
    /// # Errors
    ///
    /// - [`Error::SessionLimitReached`] if the user has [`max_sessions`](crate::Policy::max_sessions) and the policy refuses
    ///   more.
    /// - [`Error::Claims`] or [`Error::InvalidUserId`] if the arguments are invalid, or if the claims are too large for the
    ///   [access cookie](crate::Settings::access_cookie).
    /// - [`Error::Store`] if the store fails.
    ///
    /// ```
    /// # use axum_refresh::{Auth, ClientInfo, Error, Login, NoClaims};
    /// async fn log_in(auth: &Auth, client: ClientInfo) -> Result<Login, Error> {
    ///     auth.login("alice", NoClaims {}).client(client).label("Anna's laptop").await
    /// }
    /// ```
    #[expect(clippy::needless_pass_by_value, reason = "callers pass a number, a Uuid or a String by value")]
    pub fn login(&self, user_id: impl ToString, claims: C) -> LoginBuilder<C> {
        LoginBuilder {
            auth: self.clone(),
            user_id: user_id.to_string(),
            claims,
            client: None,
            label: None,
            replacing: None,
            in_browser: InBrowser::default(),
            with_refresh: true,
            transport: None,
        }
    }

    /// Replaces the claims of the caller's session, for example after a second factor, and returns an access token with the
    /// new claims. The refresh token does not change.
    ///
    /// If there is a [claims hook](super::AuthBuilder::claims_hook), its claims apply again from the next refresh on. It gets
    /// these claims as [`ClaimsRequest::claims`](crate::config::ClaimsRequest::claims), and can keep what it wants of them.
    ///
    /// # Errors
    ///
    /// - [`Error::SessionNotFound`] if the session is revoked, expired or idle.
    /// - [`Error::Claims`] if the claims are invalid, or too large for the access cookie. The old claims stay.
    /// - [`Error::RefreshBusy`] if other writers changed the session at every attempt.
    /// - [`Error::Store`] if the store fails.
    pub async fn update_claims(&self, caller: &AuthUser<C>, claims: C) -> Result<Login, Error> {
        let node = &self.inner.node;
        let claims = write_claims(&claims)?;
        for _ in 0..MAX_TRIES {
            let mut session = node.load(caller.session_id).await?.ok_or(Error::SessionNotFound)?;
            let now = node.now();
            if !session.rotation.is_live(now, node.settings.policy.idle_timeout) {
                return Err(Error::SessionNotFound);
            }
            session.claims.clone_from(&claims);
            session.rotation.last_seen_at = session.rotation.last_seen_at.max(now);
            // A session without a refresh token lives no longer than one access token.
            let lifetime = session.rotation.expires_at.since(session.created_at);
            let can_refresh = lifetime > node.settings.policy.access_ttl;
            // The caller's generation, not the newest: its use must not acknowledge a newer refresh token.
            let tokens = self.tokens(&session, caller.generation(), &claims, now, can_refresh)?;
            let settings = Arc::clone(&node.settings);
            let transport = if settings.transport.has_cookie() { Transport::Cookie } else { Transport::Body };
            if transport.has_cookie() {
                check_cookie_size(&settings, &tokens)?;
            }
            // Written last, so that a failure leaves the old claims.
            if !node.compare_and_swap(session.version, &session).await? {
                continue;
            }
            return Ok(Login { tokens, transport, settings });
        }
        Err(Error::RefreshBusy)
    }
}
