//! Logging in, and updating the claims of a session.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::claims::write_claims;
use super::replace::{Found, Replacing};
use super::terms::Terms;
use super::{Auth, AuthUser, Claims, MAX_TRIES};
use crate::client::{ClientInfo, binding};
use crate::config::{MAX_COOKIE_BYTES, Notice, ResolvedSettings, Transport};
use crate::error::{ClaimsError, Error, LoginError};
use crate::event::Event;
use crate::node::Cause;
use crate::node::realm::Realm;
use crate::ratchet::RotationState;
use crate::session::{Client, RevocationReason, SessionId};
use crate::store::{InsertOptions, Inserted, SessionLimit, SessionRecord};
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
    /// Whether the cookies outlive the browser; the settings decide if it is none.
    pub(crate) persistent: Option<bool>,
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
    pub(super) auth: Auth<C>,
    whose: Whose<C>,
    client: Option<ClientInfo>,
    label: Option<String>,
    replacing: Replacing,
    pub(super) terms: Terms,
    transport: Option<Transport>,
}

/// Whose session it is to be.
enum Whose<C> {
    /// That of a user whom the app has authenticated, with these claims.
    User(String, C),
    /// That of the user of this session, which it continues.
    SameAs(SessionId),
}

impl<C> fmt::Debug for LoginBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut builder = f.debug_struct("LoginBuilder");
        match &self.whose {
            Whose::User(user_id, _) => builder.field("user_id", user_id),
            Whose::SameAs(session_id) => builder.field("session_id", session_id),
        };
        builder.finish_non_exhaustive()
    }
}

impl<C> LoginBuilder<C> {
    fn new(auth: &Auth<C>, whose: Whose<C>) -> Self {
        Self {
            auth: auth.clone(),
            whose,
            client: None,
            label: None,
            replacing: Replacing::default(),
            terms: Terms::default(),
            transport: None,
        }
    }

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
        self.replacing.named = Some(session_id);
        self
    }

    /// Also replaces the sessions of these tokens, as far as they are ours.
    pub(crate) fn replacing_tokens<'a>(
        mut self,
        refresh: impl IntoIterator<Item = &'a [u8]>,
        access: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        self.replacing.refresh.extend(self.auth.newest_of_each_session(refresh));
        let access = self.auth.sessions_of(access).into_iter().map(|token| (token.session_id, token.user_id));
        self.replacing.access.extend(access);
        self
    }

    pub(crate) fn resolved(&self) -> &Arc<ResolvedSettings> {
        self.auth.resolved()
    }

    /// How this client's refresh token is transported. Default: by cookie, or in the body if the
    /// [settings](crate::Settings::transport) allow only that; for a session that goes on, as before.
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
    async fn run(mut self) -> Result<Login, Error> {
        let node = Arc::clone(&self.auth.inner.node);
        node.start();
        let policy = &node.settings.policy;
        let subject = match &self.whose {
            Whose::User(user_id, claims) => Subject::new(user_id, write_claims(claims)?)?,
            Whose::SameAs(session_id) => {
                Subject::of(&self.auth, *session_id, self.terms.actor_session().is_some()).await?
            }
        };
        let client = self.resolve_client(&subject);
        let is_cross_site = self.client.as_ref().is_some_and(ClientInfo::is_cross_site);
        let now = node.now();
        if let Some(old) = &subject.old {
            self.terms.carry_over(old, &node.settings);
            self.replacing.named = None;
            self.replacing.continued = Some(old.id);
        }
        self.replacing.except = self.terms.actor_session();
        let agreed = std::mem::take(&mut self.terms).agree(&subject.user_id, now, &node).await?;
        let transport = self.chosen_transport(&node.settings, subject.old.as_ref());
        let id = node.new_session_id(&subject.user_id).map_err(Error::random)?;
        let token = RefreshToken::begin(id).map_err(Error::random)?;
        let with_refresh = agreed.with_refresh;
        let session = SessionRecord {
            id,
            user_id: subject.user_id,
            secret_hash: token.secret_hash(),
            created_at: now,
            client: Client { actor: agreed.actor, ..client },
            authentication: agreed.authentication,
            persistent: agreed.persistent,
            external: agreed.external,
            transport,
            can_refresh: agreed.with_refresh,
            last_client: None,
            claims: subject.claims,
            rotation: RotationState { idle_timeout: agreed.idle_timeout, ..RotationState::new(now, agreed.expires_at) },
            version: 0,
        };
        // What the hook says now, for a session that goes on.
        let claims = match &subject.old {
            Some(_) => self.auth.claims_of(&session, &session.client).await?,
            None => session.claims.clone(),
        };
        // Signed before the session is inserted, so that a failure leaves nothing behind.
        let mut tokens = self.auth.tokens(&session, 0, &claims, now, agreed.valid_until, with_refresh).await?;
        tokens.refresh_token = with_refresh.then(|| self.auth.inner.refresh.encode(&token));
        if transport.has_cookie() {
            check_cookie_size(&node.settings, &tokens)?;
        }
        let limit = policy.max_sessions.filter(|_| session.is_limited()).map(|max| SessionLimit {
            max,
            on_max_sessions: policy.on_max_sessions,
            idle_timeout: policy.idle_timeout,
        });
        // Before the session is inserted, which may end some of those that it is compared with.
        let (known, replaced) =
            tokio::join!(self.known_clients(&session, subject.old.is_some()), self.replacing.find(&session, &node));
        let replaced = replaced?;
        let replacing = replaced.with_insert;
        let user_id = || Arc::clone(&session.user_id);
        match node.insert(&session, InsertOptions { limit, replacing }).await? {
            Inserted::LimitReached => {
                node.events.emit(Event::SessionLimitReached { user_id: user_id(), client: session.client.clone() });
                return Err(Error::SessionLimitReached);
            }
            Inserted::Done(mut revoked) => {
                let is_too_late = subject.old.as_ref().is_some_and(|old| !revoked.sessions.contains(&old.id));
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
                if is_too_late {
                    // The old session has ended since it was loaded, and whatever has ended it counts for the new one. Nobody
                    // has its tokens.
                    Found::only(session.id, &session.user_id).revoke_afterwards(&node, &session.client).await;
                    return Err(Error::SessionNotFound);
                }
            }
        }
        replaced.revoke_afterwards(&node, &session.client).await;
        let (session_id, client) = (session.id, session.client);
        node.events.emit(match &subject.old {
            None => Event::LoggedIn { user_id: user_id(), session_id, client: client.clone() },
            Some(old) => {
                Event::Reauthenticated { user_id: user_id(), session_id, replaced: old.id, client: client.clone() }
            }
        });
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

    /// The client that logs in. For a session that goes on, what the app does not say stays as it is.
    fn resolve_client(&self, subject: &Subject) -> Client {
        let old = subject.old.as_ref().map(|old| &old.client);
        let mut client = if let Some(client) = &self.client {
            self.auth.resolve(client.clone())
        } else {
            self.auth.report_unknown_client();
            old.cloned().unwrap_or_default()
        };
        if let Some(label) = &self.label {
            client.label = ClientInfo::new().label(label).resolve(self.auth.settings()).0.label;
        } else if client.label.is_none() {
            client.label = old.and_then(|old| old.label.clone());
        }
        client
    }

    fn chosen_transport(&self, settings: &ResolvedSettings, old: Option<&SessionRecord>) -> Transport {
        let allowed = settings.transport;
        match self.transport.or(old.map(|old| old.transport)) {
            Some(Transport::Body) if allowed.has_body() => Transport::Body,
            _ if allowed.has_cookie() => Transport::Cookie,
            _ => Transport::Body,
        }
    }

    /// The clients of the user's live sessions, if new devices are to be detected: not for a session that goes on, and not if
    /// somebody acts for the user. None also if the store fails: then the login goes on without it.
    async fn known_clients(&self, new: &SessionRecord, goes_on: bool) -> Option<Vec<Client>> {
        let node = &self.auth.inner.node;
        let policy = &node.settings.policy;
        if !policy.detect_new_devices || goes_on || new.client.actor.is_some() {
            return None;
        }
        let sessions = node.list(&new.user_id).await.ok()?;
        let live = sessions.into_iter().filter(|session| session.rotation.is_live(node.now(), policy.idle_timeout));
        Some(live.map(|session| session.client).filter(|client| client.actor.is_none()).collect())
    }
}

/// Whose session begins.
struct Subject {
    user_id: Arc<str>,
    /// What is kept with the session.
    claims: Box<str>,
    /// The session that the new one continues.
    old: Option<SessionRecord>,
}

impl Subject {
    fn new(user_id: &str, claims: Box<str>) -> Result<Self, Error> {
        if !Realm::has_user(user_id) {
            return Err(Error::InvalidUserId);
        }
        Ok(Self { user_id: user_id.into(), claims, old: None })
    }

    /// The user of a session that is neither revoked nor expired.
    async fn of<C>(auth: &Auth<C>, session_id: SessionId, acts: bool) -> Result<Self, Error> {
        let node = &auth.inner.node;
        let old = node.load(session_id).await?.ok_or(Error::SessionNotFound)?;
        if old.rotation.revoked.is_some() || node.now() >= old.rotation.expires_at {
            return Err(Error::SessionNotFound);
        }
        if old.client.actor.is_some() || acts {
            return Err(LoginError::Acting.into());
        }
        Ok(Self { user_id: Arc::clone(&old.user_id), claims: old.claims.clone(), old: Some(old) })
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
    /// without the token's own names (`iss`, `aud`, `sub`, `sid`, `gen`, `jti`, `iat`, `exp`, `nbf`, `auth_time`, `acr`, `amr`,
    /// `act`), and their type has to read what it writes.
    ///
    /// # Errors
    ///
    /// - [`Error::SessionLimitReached`] if the user has [`max_sessions`](crate::Policy::max_sessions) and the policy refuses
    ///   more.
    /// - [`Error::Claims`] or [`Error::InvalidUserId`] if the arguments are invalid, or if the claims are too large for the
    ///   [access cookie](crate::Settings::access_cookie).
    /// - [`Error::Login`] if the builder asks for what the settings do not allow.
    /// - [`Error::Store`] if the store fails, and `Error::Signer` if the signing key has a [signer](crate::keys) that does.
    ///
    /// ```
    /// # use axum_refresh::{Auth, ClientInfo, Error, Login, NoClaims};
    /// async fn log_in(auth: &Auth, client: ClientInfo) -> Result<Login, Error> {
    ///     auth.login("alice", NoClaims {}).client(client).label("Anna's laptop").await
    /// }
    /// ```
    #[expect(clippy::needless_pass_by_value, reason = "callers pass a number, a Uuid or a String by value")]
    pub fn login(&self, user_id: impl ToString, claims: C) -> LoginBuilder<C> {
        LoginBuilder::new(self, Whose::User(user_id.to_string(), claims))
    }

    /// Begins a new session in place of the caller's, whose user the app has authenticated again: with a fresh `auth_time`, new
    /// tokens, and the end of the old ones (OWASP ASVS 5.0, 7.2.4), in one step.
    ///
    /// The user, the label, the client, the claims and what the login was given ([`persistent`](LoginBuilder::persistent),
    /// [`idle_timeout`](LoginBuilder::idle_timeout), [`transport`](LoginBuilder::transport),
    /// [`external`](LoginBuilder::external)) are carried over, unless they are set again. What says how the user was
    /// authenticated is not: `auth_time` is now, and [`acr`](LoginBuilder::acr) and [`amr`](LoginBuilder::amr) are those of this
    /// authentication. A [binding](crate::config::Binding) is to the new [`client`](LoginBuilder::client), so set it.
    ///
    /// The session ends when the old one would have, because one factor may be enough to get here. After an authentication
    /// that is as good as a login, begin its time again: `.lifetime(auth.settings().policy.lifetime)`.
    ///
    /// `session` is an [`AuthUser`], a [`Session`](crate::Session) or a [`SessionId`]. The session must be neither revoked nor
    /// expired. It may be idle: NIST SP 800-63B-4 §2.2.3 allows one factor then, together with the session's secret, which
    /// [`session_of_cookies`](Self::session_of_cookies) checks.
    ///
    /// The access tokens of the old session are refused from then on, and a refresh of it that is in flight gets
    /// `session_revoked`. The browser module takes over the new session in all tabs. If the response is lost, the user logs in
    /// again: nobody can tell a second attempt with the old tokens from that of a thief.
    ///
    /// # Errors
    ///
    /// - [`Error::SessionNotFound`] if the session is revoked or expired, or is revoked meanwhile.
    /// - [`Error::Login`] if somebody [acts](LoginBuilder::acting) for the user in it, or is to do so.
    /// - What [`login`](Self::login) returns.
    ///
    /// ```
    /// # use axum_refresh::{Auth, AuthUser, ClientInfo, Error, Login};
    /// async fn confirm(auth: &Auth, user: &AuthUser, client: ClientInfo) -> Result<Login, Error> {
    ///     // Check the password of `user.id` here.
    ///     auth.reauthenticated(user).client(client).amr(["pwd"]).await
    /// }
    /// ```
    pub fn reauthenticated(&self, session: impl Into<SessionId>) -> LoginBuilder<C> {
        LoginBuilder::new(self, Whose::SameAs(session.into()))
    }

    /// Replaces the claims of the caller's session, and returns an access token with the new claims. The refresh token does not
    /// change. After a second factor, [`reauthenticated`](Self::reauthenticated) is the method.
    ///
    /// If there is a [claims hook](super::AuthBuilder::claims_hook), its claims apply again from the next refresh on. It gets
    /// these claims as [`ClaimsRequest::claims`](crate::config::ClaimsRequest::claims), and can keep what it wants of them.
    ///
    /// # Errors
    ///
    /// - [`Error::SessionNotFound`] if the session is revoked, expired or idle.
    /// - [`Error::Claims`] if the claims are invalid, or too large for the access cookie. The old claims stay.
    /// - [`Error::RefreshBusy`] if other writers changed the session at every attempt.
    /// - [`Error::Store`] if the store fails, and `Error::Signer` if the signing key has a [signer](crate::keys) that does.
    pub async fn update_claims(&self, caller: &AuthUser<C>, claims: C) -> Result<Login, Error> {
        let node = &self.inner.node;
        let claims = write_claims(&claims)?;
        for _ in 0..MAX_TRIES {
            let (mut session, ends_at) = node.load_with_end(caller.session_id).await?.ok_or(Error::SessionNotFound)?;
            let now = node.now();
            if !session.rotation.is_live(now, node.settings.policy.idle_timeout) {
                return Err(Error::SessionNotFound);
            }
            session.claims.clone_from(&claims);
            // The caller's generation, not the newest: its use must not acknowledge a newer refresh token. And this is no use
            // of the session by itself, so the token ends with it.
            let valid_until = ends_at.before(node.settings.leeway);
            let tokens =
                self.tokens(&session, caller.generation(), &claims, now, valid_until, session.can_refresh).await?;
            let settings = Arc::clone(&node.settings);
            let transport = session.transport;
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
