//! Listing sessions, and revoking sessions and access tokens.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::SystemTime;

use serde::de::IgnoredAny;
use tokio::time::Instant;

use super::{Auth, AuthUser};
use crate::client::ClientInfo;
use crate::config::{MAX_GRACE, MAX_LEEWAY};
use crate::error::Error;
use crate::event::Event;
use crate::node::Cause;
use crate::node::realm::Realm;
use crate::node::revocations::EVERYONE;
use crate::session::{ExternalId, RevocationReason, Session, SessionId};
use crate::store::{RevokeTarget, SessionRecord};
use crate::time::Timestamp;
use crate::token::access::AccessToken;
use crate::token::id::TokenId;
use crate::token::refresh::{RefreshKeys, RefreshToken};

/// How many refresh tokens of one request are verified, and how many access tokens. Each costs a signature, and each valid
/// one a call of the store. A site that plants cookies has few to plant: one for each path and each domain that match.
const MAX_PRESENTED: usize = 32;

/// # Sessions
impl<C> Auth<C> {
    /// The user's live sessions, most recent activity first. Of more than a thousand, those that began last.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if the store fails.
    pub async fn sessions(&self, user_id: &str) -> Result<Vec<Session>, Error> {
        let node = &self.inner.node;
        let (now, idle_timeout) = (node.now(), self.settings().policy.idle_timeout);
        let mut records = node.list(user_id).await?;
        records.retain(|record| record.rotation.is_live(now, idle_timeout));
        records.sort_by_key(|record| Reverse((record.rotation.last_seen_at, record.created_at, record.id)));
        Ok(records.iter().map(Session::from).collect())
    }

    /// Revokes the session that a refresh token of any generation belongs to.
    ///
    /// A token that is invalid, or whose session is already revoked, is not an error.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if the store fails.
    pub async fn logout(&self, refresh_token: &str) -> Result<(), Error> {
        self.logout_each([refresh_token.as_bytes()], [], None).await.map(drop)
    }

    /// Revokes a session of this user.
    ///
    /// # Errors
    ///
    /// [`Error::SessionNotFound`] if there is no such live session, or it is another user's; [`Error::Store`] if the store
    /// fails.
    pub async fn revoke_own_session(&self, user_id: &str, session_id: SessionId) -> Result<(), Error> {
        self.revoke_own_session_by(user_id, session_id, None).await
    }

    /// Revokes any session.
    ///
    /// # Errors
    ///
    /// [`Error::SessionNotFound`] if there is no such live session; [`Error::Store`] if the store fails.
    pub async fn revoke_session(&self, session_id: SessionId, reason: RevocationReason) -> Result<(), Error> {
        self.revoke_session_by(session_id, reason, None).await
    }

    /// Revokes the sessions that belong to a session at an identity provider, by the `iss` and `sid` that their logins were
    /// [given](crate::LoginBuilder::external), and returns how many.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if the store fails. Some of the sessions may be revoked then; calling it again is harmless.
    pub async fn revoke_external(&self, issuer: &str, session_id: &str) -> Result<usize, Error> {
        let node = &self.inner.node;
        node.start();
        let external = ExternalId::of(self.settings().realm.as_deref(), issuer, session_id);
        let mut count = 0;
        for id in node.find_external(external).await? {
            // As stored: what this node adds may not be true elsewhere, or be lost with it.
            let Some(session) = node.load_as_stored(id).await? else { continue };
            match session.rotation.revoked {
                // An idle one too: it could be resumed.
                None => {
                    let cause = Cause::from(RevocationReason::IdentityProvider).of(&session.user_id);
                    count += node.revoke(RevokeTarget::Session(id), cause).await?.count;
                }
                // The feed has it, but this node may not have read it yet, and is about to confirm the end.
                Some(_) => node.found_revoked(id),
            }
        }
        Ok(count)
    }

    /// Revokes all sessions of a user, or all but one, and returns how many.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if the store fails.
    pub async fn revoke_user(
        &self,
        user_id: &str,
        except: Option<SessionId>,
        reason: RevocationReason,
    ) -> Result<usize, Error> {
        self.revoke_user_by(user_id, except, reason, None).await
    }

    /// Revokes the sessions of all users (of the [realm](crate::Settings::realm), if there is one) that began before this
    /// call, and returns the time of the revocation: after a leak of the database or of the secret, for example (OWASP ASVS
    /// 5.0, 7.4.5).
    ///
    /// It is one write, however many sessions there are, and in force on every node within a second.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if the store fails.
    pub async fn revoke_all(&self, reason: RevocationReason) -> Result<SystemTime, Error> {
        self.revoke_all_by(reason, None).await
    }

    /// Revokes one access token. Its session lives on and can get another token at once.
    ///
    /// A token that is not a valid access token of this `Auth` is refused everywhere already, so it is not an error
    /// (RFC 7009 §2.2).
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if the store fails.
    pub async fn revoke_access_token(&self, token: &str) -> Result<(), Error> {
        self.revoke_access_token_by(token, None).await
    }

    /// Revokes the access token with this `jti`, which expires at `expires_at`.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if the store fails.
    pub async fn revoke_token_id(&self, jti: &str, expires_at: SystemTime) -> Result<(), Error> {
        self.revoke_token_id_by(jti, expires_at, None).await
    }
}

/// The same with the client whose request it is, for the events.
impl<C> Auth<C> {
    fn cause(&self, reason: RevocationReason, client: Option<ClientInfo>) -> Cause {
        Cause::from(reason).by(client.map(|client| self.resolve(client)))
    }

    pub(crate) async fn revoke_own_session_by(
        &self,
        user_id: &str,
        session_id: SessionId,
        client: Option<ClientInfo>,
    ) -> Result<(), Error> {
        let cause = self.cause(RevocationReason::RevokedByUser, client);
        self.revoke_if(session_id, |found| *found.user_id == *user_id, cause).await
    }

    pub(crate) async fn revoke_session_by(
        &self,
        session_id: SessionId,
        reason: RevocationReason,
        client: Option<ClientInfo>,
    ) -> Result<(), Error> {
        self.revoke_if(session_id, |_| true, self.cause(reason, client)).await
    }

    pub(crate) async fn revoke_user_by(
        &self,
        user_id: &str,
        except: Option<SessionId>,
        reason: RevocationReason,
        client: Option<ClientInfo>,
    ) -> Result<usize, Error> {
        if !Realm::has_user(user_id) {
            // No session has such an id, but a scope may.
            return Ok(0);
        }
        let target = RevokeTarget::Users { scope: user_id, except, created_until: None };
        Ok(self.inner.node.revoke(target, self.cause(reason, client)).await?.count)
    }

    pub(crate) async fn revoke_all_by(
        &self,
        reason: RevocationReason,
        client: Option<ClientInfo>,
    ) -> Result<SystemTime, Error> {
        let at = self.inner.node.now();
        let target = RevokeTarget::Users { scope: EVERYONE, except: None, created_until: None };
        self.inner.node.revoke(target, self.cause(reason, client)).await?;
        Ok(at.into())
    }

    pub(crate) async fn revoke_access_token_by(&self, token: &str, client: Option<ClientInfo>) -> Result<(), Error> {
        match self.access_keys().verify::<serde::de::IgnoredAny>(token) {
            Ok(token) => {
                let owner = Some((token.user_id, token.session_id));
                self.revoke_token(&token.id.to_string(), token.expires_at, owner, client).await
            }
            Err(_) => Ok(()),
        }
    }

    pub(crate) async fn revoke_token_id_by(
        &self,
        jti: &str,
        expires_at: SystemTime,
        client: Option<ClientInfo>,
    ) -> Result<(), Error> {
        self.revoke_token(jti, expires_at.into(), None, client).await
    }

    async fn revoke_token(
        &self,
        jti: &str,
        expires_at: Timestamp,
        owner: Option<(Arc<str>, SessionId)>,
        client: Option<ClientInfo>,
    ) -> Result<(), Error> {
        let node = &self.inner.node;
        // Another node may have a longer leeway, and a clock that is behind.
        let is_over = expires_at.after(MAX_LEEWAY + MAX_GRACE) <= node.now();
        if !is_over && TokenId::parse(jti).is_some() {
            node.revoke(RevokeTarget::Token(jti), RevocationReason::Other).await?;
            let (user_id, session_id) = owner.unzip();
            let client = client.map(|client| self.resolve(client));
            self.emit(Event::TokenRevoked { user_id, session_id, jti: jti.into(), client });
        }
        Ok(())
    }
}

/// Who is logged out by a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoggedOut {
    /// The user, so that the browser's cookies are of no use any more.
    User,
    /// Somebody who has acted for the user, and has a session of their own.
    Actor,
}

impl<C> Auth<C> {
    /// Revokes every session that one of these tokens belongs to: any of them may be planted, and any of them the user's.
    /// Access tokens have to be valid, refresh tokens may be of any generation.
    ///
    /// A session that cannot be revoked does not keep the others from it. The first error is returned.
    pub(crate) async fn logout_each<'a>(
        &self,
        refresh_tokens: impl IntoIterator<Item = &'a [u8]>,
        access_tokens: impl IntoIterator<Item = &'a [u8]>,
        client: Option<ClientInfo>,
    ) -> Result<LoggedOut, Error> {
        let node = &self.inner.node;
        let started = Instant::now();
        let cause = self.cause(RevocationReason::Logout, client);
        let mut by_access = self.sessions_of(access_tokens);
        let mut by_refresh = self.newest_of_each_session(refresh_tokens);
        // Whoever acts for a user stops doing so. Browsers add the cookies of their own session.
        let actors: Vec<_> = by_access.iter().filter_map(|token| Some(token.actor()?.session_id)).collect();
        by_access.retain(|token| !actors.contains(&token.session_id));
        by_refresh.retain(|token| !actors.contains(&token.session_id));
        by_refresh.retain(|token| by_access.iter().all(|known| known.session_id != token.session_id));
        let mut result = Ok(());
        for presented in by_access.into_iter().map(Ok).chain(by_refresh.into_iter().map(Err)) {
            let revoked = match presented {
                Ok(token) => {
                    let cause = cause.clone().of(&token.user_id).acting(token.actor());
                    self.revoke_once(token.session_id, cause).await
                }
                Err(token) => self.logout_session_of(&token, cause.clone()).await,
            };
            if revoked.is_err() {
                result = result.and(revoked);
                // If the store is away, nobody waits for one timeout per session.
                if started.elapsed() >= node.settings.store_timeout {
                    break;
                }
            }
        }
        result.map(|()| if actors.is_empty() { LoggedOut::User } else { LoggedOut::Actor })
    }

    /// Whether this node knows that the session is revoked by itself.
    pub(crate) fn is_revoked(&self, session_id: SessionId) -> bool {
        self.inner.node.revoked.has_session(session_id)
    }

    async fn logout_session_of(&self, token: &RefreshToken, cause: Cause) -> Result<(), Error> {
        let node = &self.inner.node;
        // A revocation that only this node knows is lost if it crashes, and the logout is about to be confirmed.
        let Some(session) = node.load_as_stored(token.session_id).await? else {
            // The tag is valid, so there was such a session.
            return self.revoke_once(token.session_id, cause).await;
        };
        if session.secret_hash != token.secret_hash() {
            return Ok(());
        }
        match session.rotation.revoked {
            None => {
                let cause = cause.of(&session.user_id).acting(session.client.actor.as_ref());
                node.revoke(RevokeTarget::Session(session.id), cause).await?;
            }
            // The feed has it, but this node may not have read it yet, and is about to confirm the logout.
            Some(_) => node.found_revoked(session.id),
        }
        Ok(())
    }

    /// Revokes all sessions of the caller, the caller's own even if the store has lost it.
    pub(crate) async fn logout_everywhere(&self, caller: &AuthUser<C>, client: ClientInfo) -> Result<(), Error> {
        let target = RevokeTarget::Users { scope: &caller.id, except: None, created_until: None };
        let cause = self.cause(RevocationReason::Logout, Some(client)).of(&caller.id);
        self.inner.node.revoke(target, cause.clone()).await?;
        self.revoke_once(caller.session_id, cause).await
    }

    /// The refresh tokens with a valid tag, the newest of each session, highest generation first.
    pub(super) fn newest_of_each_session<'a>(&self, texts: impl IntoIterator<Item = &'a [u8]>) -> Vec<RefreshToken> {
        let texts = texts.into_iter().filter(|text| RefreshKeys::has_length_of_token(text));
        let tokens = first_distinct(texts).into_iter().filter_map(|text| self.inner.refresh.decode(text));
        let mut tokens: Vec<_> = tokens.collect();
        tokens.sort_by_key(|token| (token.session_id, Reverse(token.generation)));
        tokens.dedup_by_key(|token| token.session_id);
        tokens.sort_by_key(|token| Reverse(token.generation));
        tokens
    }

    /// The valid access tokens, one of each session. One that was revoked alone may be in the wrong hands: it ends nothing.
    pub(super) fn sessions_of<'a>(
        &self,
        access_tokens: impl IntoIterator<Item = &'a [u8]>,
    ) -> Vec<AccessToken<IgnoredAny>> {
        let now = self.now();
        let mut sessions: Vec<AccessToken<IgnoredAny>> = Vec::new();
        for text in first_distinct(access_tokens) {
            let Ok(text) = std::str::from_utf8(text) else { continue };
            let Ok(token) = self.access_keys().verify::<IgnoredAny>(text) else { continue };
            let is_valid = token.check_times(now).is_ok();
            let is_new = sessions.iter().all(|known| known.session_id != token.session_id);
            if is_valid && is_new && !self.inner.node.revoked.has_token(token.id) {
                sessions.push(token);
            }
        }
        sessions
    }

    async fn revoke_if(
        &self,
        id: SessionId,
        allowed: impl FnOnce(&SessionRecord) -> bool,
        cause: Cause,
    ) -> Result<(), Error> {
        let node = &self.inner.node;
        let session = node.load(id).await?.ok_or(Error::SessionNotFound)?;
        let is_live = session.rotation.is_live(node.now(), self.settings().policy.idle_timeout);
        if !is_live || !allowed(&session) {
            return Err(Error::SessionNotFound);
        }
        let revoked = node.revoke(RevokeTarget::Session(id), cause.of(&session.user_id)).await?;
        if revoked.count == 0 { Err(Error::SessionNotFound) } else { Ok(()) }
    }

    /// Revokes a session that the store may have lost, so that its access tokens do not outlive it. Does so once: a session
    /// that was purged long ago looks the same.
    async fn revoke_once(&self, session_id: SessionId, cause: Cause) -> Result<(), Error> {
        let node = &self.inner.node;
        if !node.revoked.has_session(session_id) {
            node.revoke(RevokeTarget::Session(session_id), cause).await?;
        }
        Ok(())
    }
}

/// The first distinct texts, as many as are verified.
fn first_distinct<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> Vec<&'a [u8]> {
    let mut distinct = Vec::new();
    for text in texts {
        if distinct.len() == MAX_PRESENTED {
            break;
        }
        if !distinct.contains(&text) {
            distinct.push(text);
        }
    }
    distinct
}

impl From<&SessionRecord> for Session {
    fn from(record: &SessionRecord) -> Self {
        Self {
            id: record.id,
            user_id: Arc::clone(&record.user_id),
            label: record.client.label.clone(),
            user_agent: record.client.user_agent.clone(),
            ip: record.client.ip,
            auth_time: record.authentication.time.into(),
            acr: record.authentication.acr.clone(),
            amr: record.authentication.amr.clone(),
            actor: record.client.actor.clone(),
            created_at: record.created_at.into(),
            last_seen_at: record.rotation.last_seen_at.into(),
            expires_at: record.rotation.expires_at.into(),
        }
    }
}
