//! Logging in, and changing what a session may do.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::{Auth, AuthUser, Claims, TRIES, write_claims};
use crate::client::ClientInfo;
use crate::error::Error;
use crate::event::Event;
use crate::session::{Chain, Reason, Session, SessionId};
use crate::settings::{Settings, Transport};
use crate::store::{Admission, Cap, Inserted, Target};
use crate::token::refresh::RefreshToken;

const LONGEST_USER_ID: usize = 255;

/// The tokens that a client gets. Its `Debug` shows none of them.
#[derive(Clone)]
#[non_exhaustive]
pub struct Tokens {
    /// The session they belong to.
    pub session: SessionId,
    /// The access token, a JWT.
    pub access_token: String,
    /// How long the access token is good for.
    pub expires_in: Duration,
    /// When the client should come back for the next one; none where it has nothing to come back with.
    pub refresh_in: Option<Duration>,
    /// The refresh token, where it is a new one; otherwise the client keeps the one it has (RFC 6749 §6).
    pub refresh_token: Option<String>,
    /// How long the session can last.
    pub session_expires_in: Duration,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("session", &self.session)
            .field("expires_in", &self.expires_in)
            .field("refresh_in", &self.refresh_in)
            .field("has_refresh_token", &self.refresh_token.is_some())
            .finish_non_exhaustive()
    }
}

/// What a login or a renewal answers. As an axum response it sets the cookies and has the tokens' JSON.
#[derive(Clone, Debug)]
#[must_use = "the client has to get its tokens"]
pub struct Login {
    /// The tokens.
    pub tokens: Tokens,
    pub(crate) transport: Transport,
    pub(crate) settings: Arc<Settings>,
}

/// A login under way: awaited, it opens a session.
#[must_use = "a login does nothing until it is awaited"]
pub struct LoginBuilder<C> {
    auth: Auth<C>,
    user: String,
    claims: C,
    client: ClientInfo,
    label: Option<String>,
    replacing: Option<SessionId>,
    with_refresh: bool,
    transport: Option<Transport>,
}

impl<C> fmt::Debug for LoginBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginBuilder").field("user", &self.user).finish_non_exhaustive()
    }
}

impl<C> LoginBuilder<C> {
    /// The client that logs in: what listings show, and what the session is bound to.
    pub fn client(mut self, client: ClientInfo) -> Self {
        self.client = client;
        self
    }

    /// A name for the client's device, shown in listings. All but the first 128 bytes are dropped.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Hands out an access token alone. The session ends with it.
    pub fn without_refresh(mut self) -> Self {
        self.with_refresh = false;
        self
    }

    /// Ends another session when this one begins: the user logs in again, or gets more rights (OWASP ASVS 7.2.4).
    ///
    /// For one of the same user that is one step. A refresh of the old session that is under way at that moment is told
    /// `session_revoked`.
    pub fn replacing(mut self, session: SessionId) -> Self {
        self.replacing = Some(session);
        self
    }

    /// How this client's refresh token travels. Default: in the cookie, unless the settings allow the body alone.
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
        if self.user.is_empty() || self.user.len() > LONGEST_USER_ID {
            return Err(Error::InvalidUserId);
        }
        let claims = write_claims(&self.claims)?;
        let client = match &self.label {
            Some(label) => self.client.clone().label(label),
            None => self.client.clone(),
        };
        let now = node.now();
        let lifetime = if self.with_refresh { policy.lifetime } else { policy.access_ttl };
        let token = RefreshToken::begin(SessionId::generate(&self.user)?)?;
        let session = Session {
            id: token.session,
            user: self.user.as_str().into(),
            secret_hash: token.secret_hash(),
            created_at: now,
            client: self.auth.resolve(client),
            claims,
            chain: Chain::new(now, now.after(lifetime)),
            version: 0,
        };
        // Signed before the session is in, so that nothing is left behind if that fails.
        let mut tokens = self.auth.tokens(&session, 0, &session.claims, now, self.with_refresh)?;
        tokens.refresh_token = self.with_refresh.then(|| self.auth.inner.refresh.encode(&token));
        let cap = policy.max_sessions.map(|max| Cap {
            max,
            response: policy.on_max_sessions,
            idle_timeout: policy.idle_timeout,
        });
        let until = node.revocation(now, Reason::Evicted).until;
        let replacing = self.end_somebody_elses(&session.user).await?;
        let admission = Admission { cap, replacing, until };
        let user = || Arc::clone(&session.user);
        match node.insert(&session, admission).await? {
            Inserted::Full => {
                node.events.emit(Event::SessionLimit { user: user() });
                return Err(Error::SessionLimit);
            }
            Inserted::Done(ended) => {
                for id in &ended {
                    let replaced = Some(*id) == replacing;
                    let reason = if replaced { Reason::Replaced } else { Reason::Evicted };
                    node.events.emit(Event::Ended { session: *id, reason });
                }
            }
        }
        node.events.emit(Event::LoggedIn { user: user(), session: session.id });
        let allowed = node.settings.transport;
        let transport = match self.transport {
            Some(Transport::Body) if allowed.has_body() => Transport::Body,
            _ if allowed.has_cookie() => Transport::Cookie,
            _ => Transport::Body,
        };
        Ok(Login { tokens, transport, settings: Arc::clone(&node.settings) })
    }

    /// The session to be replaced, if it is the same user's; somebody else's, who was logged in on the same device, ends
    /// here: a store keeps it in another place. It ends before the new one begins, so that nothing is left behind if
    /// that fails.
    async fn end_somebody_elses(&self, user: &str) -> Result<Option<SessionId>, Error> {
        let node = &self.auth.inner.node;
        let Some(id) = self.replacing else { return Ok(None) };
        match node.load(id).await? {
            Some(session) if *session.user != *user => {
                node.revoke(Target::Session(id), Reason::Replaced).await?;
                Ok(None)
            }
            found => Ok(found.map(|session| session.id)),
        }
    }
}

impl<C: Claims> Auth<C> {
    /// Logs a user in, who has just shown who they are: opens a session and answers its first tokens.
    ///
    /// `user` is the app's own id, as text, of 1 to 255 bytes. The claims have to be a JSON object without the token's
    /// own names.
    ///
    /// # Errors
    /// [`SessionLimit`](Error::SessionLimit) if the user has too many and the policy refuses more;
    /// [`Claims`](Error::Claims) or [`InvalidUserId`](Error::InvalidUserId) for what does not fit; or if the store
    /// fails.
    #[expect(clippy::needless_pass_by_value, reason = "a number, a Uuid and a String are all given by value")]
    pub fn login(&self, user: impl ToString, claims: C) -> LoginBuilder<C> {
        LoginBuilder {
            auth: self.clone(),
            user: user.to_string(),
            claims,
            client: ClientInfo::new(),
            label: None,
            replacing: None,
            with_refresh: true,
            transport: None,
        }
    }

    /// Gives the caller's session other claims, say after a second factor, and answers an access token that has them.
    /// The refresh token stays as it is; claims from a [hook](super::AuthBuilder::claims) come back at the next
    /// refresh.
    ///
    /// # Errors
    /// [`SessionNotFound`](Error::SessionNotFound) if the session has ended; [`Claims`](Error::Claims) for what does
    /// not fit; or if the store fails.
    pub async fn renew(&self, caller: &AuthUser<C>, claims: C) -> Result<Login, Error> {
        let node = &self.inner.node;
        let claims = write_claims(&claims)?;
        for _ in 0..TRIES {
            let mut session = node.load(caller.session).await?.ok_or(Error::SessionNotFound)?;
            let now = node.now();
            if !session.chain.is_live(now, node.settings.policy.idle_timeout) {
                return Err(Error::SessionNotFound);
            }
            session.claims.clone_from(&claims);
            session.chain.last_seen_at = session.chain.last_seen_at.max(now);
            if !node.swap(session.version, &session).await? {
                continue;
            }
            // Of the caller's generation, not of the newest: using it must not show that a newer refresh token
            // arrived.
            // A login without a refresh token has a session that is no longer than one access token.
            let whole = session.chain.expires_at.since(session.created_at);
            let comes_back = whole > node.settings.policy.access_ttl;
            let tokens = self.tokens(&session, caller.generation(), &claims, now, comes_back)?;
            let settings = Arc::clone(&node.settings);
            let transport = if settings.transport.has_cookie() { Transport::Cookie } else { Transport::Body };
            return Ok(Login { tokens, transport, settings });
        }
        Err(Error::RefreshBusy)
    }
}
