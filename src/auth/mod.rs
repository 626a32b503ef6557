//! Everything that can be done with logins and sessions, callable without HTTP.

mod builder;
mod login;
mod refresh;
mod verify;

use std::cmp::Reverse;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quick_cache::sync::Cache;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

pub use self::builder::AuthBuilder;
pub use self::login::{Login, LoginBuilder, Tokens};
pub use self::refresh::Refreshed;
pub use self::verify::AuthUser;
pub(crate) use self::verify::{Glance, Verified};
use crate::client::ClientInfo;
use crate::error::{ClaimsError, Error};
use crate::event::Event;
use crate::node::Node;
use crate::session::{Client, Reason, Session, SessionId, Timestamp};
use crate::settings::Settings;
use crate::store::Target;
use crate::token::access::{AccessKeys, Grant, RESERVED, TokenId};
use crate::token::refresh::{RefreshKeys, RefreshToken};

/// How often a lost race for a row is tried again.
const TRIES: usize = 8;
/// How many sessions one request may bring refresh tokens of.
const MOST_SESSIONS: usize = 4;

/// What an app's claims have to be: a type that is written to and read from a JSON object.
///
/// Implemented for every type that can do so. An app without claims of its own takes [`NoClaims`].
pub trait Claims: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<C: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Claims for C {}

/// No claims at all: access tokens say who, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct NoClaims {}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type HookFuture<C> = Pin<Box<dyn Future<Output = Result<Option<C>, BoxError>> + Send>>;
type ClaimsHook<C> = Box<dyn Fn(Arc<str>) -> HookFuture<C> + Send + Sync>;

/// Logins and sessions of one app, whose claims have the type `C`. A clone is another handle on the same thing.
///
/// Built with [`Auth::builder`]; works as an axum state or inside one. A task of its own reads what other nodes have
/// revoked, writes what this one has seen and purges what has expired; it ends with the last clone.
pub struct Auth<C> {
    pub(crate) inner: Arc<Inner<C>>,
}

pub(crate) struct Inner<C> {
    pub(crate) node: Arc<Node>,
    pub(crate) access: AccessKeys,
    refresh: RefreshKeys,
    hook: Option<ClaimsHook<C>>,
    /// Tokens whose signature was verified, by the whole token: a part of it could be another's.
    verified: Option<Cache<Box<str>, Arc<Verified<C>>>>,
    /// The clients of sessions that the guard has seen. Nothing in it ever changes.
    guarded: Cache<SessionId, Arc<Client>>,
    /// Stands there for all of them where clients are not compared.
    anybody: Arc<Client>,
    /// Dropped with the last clone, which ends the node's task.
    _running: watch::Sender<()>,
}

impl<C> Clone for Auth<C> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<C> fmt::Debug for Auth<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("settings", &self.inner.node.settings).finish_non_exhaustive()
    }
}

impl<C: Claims> Auth<C> {
    /// Starts with the default settings, no secret and no store.
    pub fn builder() -> AuthBuilder<C> {
        AuthBuilder::new()
    }
}

impl<C> Auth<C> {
    /// The settings it was built with.
    pub fn settings(&self) -> &Settings {
        &self.inner.node.settings
    }

    /// The client's address, by way of the trusted proxies; none where it is not known.
    pub fn client_ip(&self, client: &ClientInfo) -> Option<IpAddr> {
        client.client_ip(&self.settings().trusted_proxies)
    }

    pub(crate) fn resolve(&self, client: ClientInfo) -> Client {
        client.resolve(&self.settings().trusted_proxies)
    }

    /// Writes to the store what this node has seen of clients and not yet written. Done every now and then anyway, and
    /// when the last clone is dropped; worth awaiting before the process ends.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn flush(&self) -> Result<(), Error> {
        Ok(self.inner.node.flush().await?)
    }

    /// The public keys that verify access tokens, as a JWK set (RFC 7517 §5). HS256 keys are secret and not in it.
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    pub fn jwks(&self) -> serde_json::Value {
        self.inner.access.jwks()
    }

    /// The user's live sessions, the one that was active last first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn sessions(&self, user: &str) -> Result<Vec<Session>, Error> {
        let node = &self.inner.node;
        let (now, idle_timeout) = (node.now(), self.settings().policy.idle_timeout);
        let mut sessions = node.list(user).await?;
        sessions.retain(|session| session.chain.is_live(now, idle_timeout));
        sessions.sort_by_key(|session| Reverse((session.chain.last_seen_at, session.created_at, session.id)));
        Ok(sessions)
    }

    /// Ends the session that a refresh token belongs to, whatever its generation. A token that is garbage, or whose
    /// session has ended already, is nothing to complain about.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn logout(&self, refresh_token: &str) -> Result<(), Error> {
        self.logout_each([refresh_token.as_bytes()]).await
    }

    /// [`logout`](Self::logout) of every session that one of these belongs to.
    pub(crate) async fn logout_each<'a>(
        &self,
        refresh_tokens: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), Error> {
        let node = &self.inner.node;
        for token in self.newest_of_each_session(refresh_tokens) {
            let Some(session) = node.load(token.session).await? else {
                // We signed it, so there was such a session.
                self.end_lost(token.session).await?;
                continue;
            };
            if session.secret_hash != token.secret_hash() {
                continue;
            }
            match session.chain.revoked {
                None => {
                    node.revoke(Target::Session(session.id), Reason::Logout).await?;
                }
                // The other nodes have been told. This one may not know yet, and is about to say that it is so.
                Some(revocation) => node.revoked.end_session(session.id, revocation.until),
            }
        }
        Ok(())
    }

    /// The refresh tokens that are ours, the newest of each session, the newest of all first. No more than a handful:
    /// each will cost a call of the store.
    fn newest_of_each_session<'a>(&self, texts: impl IntoIterator<Item = &'a [u8]>) -> Vec<RefreshToken> {
        let mut tokens: Vec<_> = texts.into_iter().filter_map(|text| self.inner.refresh.decode(text)).collect();
        tokens.sort_by_key(|token| (token.session, Reverse(token.generation)));
        tokens.dedup_by_key(|token| token.session);
        tokens.sort_by_key(|token| Reverse(token.generation));
        tokens.truncate(MOST_SESSIONS);
        tokens
    }

    /// Ends one of the user's own sessions.
    ///
    /// # Errors
    /// [`SessionNotFound`](Error::SessionNotFound) if there is no such live session or it is another user's; or if the
    /// store fails.
    pub async fn end_session(&self, user: &str, session: SessionId) -> Result<(), Error> {
        self.end(session, |found| *found.user == *user, Reason::EndedByUser).await
    }

    /// Ends anybody's session.
    ///
    /// # Errors
    /// [`SessionNotFound`](Error::SessionNotFound) if there is no such live session; or if the store fails.
    pub async fn revoke_session(&self, session: SessionId, reason: Reason) -> Result<(), Error> {
        self.end(session, |_| true, reason).await
    }

    async fn end(&self, id: SessionId, may: impl FnOnce(&Session) -> bool, reason: Reason) -> Result<(), Error> {
        let node = &self.inner.node;
        let session = node.load(id).await?.ok_or(Error::SessionNotFound)?;
        let live = session.chain.is_live(node.now(), self.settings().policy.idle_timeout);
        if !live || !may(&session) || node.revoke(Target::Session(id), reason).await?.is_empty() {
            return Err(Error::SessionNotFound);
        }
        Ok(())
    }

    /// Ends all sessions of a user but one. Answers how many.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn revoke_user(&self, user: &str, except: Option<SessionId>, reason: Reason) -> Result<usize, Error> {
        let ended = self.inner.node.revoke(Target::User { user, except }, reason).await?;
        Ok(ended.len())
    }

    /// Ends all sessions of the caller. The caller's own is one of them even where the store has lost it.
    pub(crate) async fn logout_everywhere(&self, caller: &AuthUser<C>) -> Result<(), Error> {
        let node = &self.inner.node;
        node.revoke(Target::User { user: &caller.id, except: None }, Reason::Logout).await?;
        self.end_lost(caller.session).await
    }

    /// A store that has lost a session must not leave its access tokens alive. Once is enough: a session that was purged
    /// long ago comes this way too.
    async fn end_lost(&self, session: SessionId) -> Result<(), Error> {
        let node = &self.inner.node;
        if !node.revoked.has_session(session) {
            node.revoke(Target::Session(session), Reason::Logout).await?;
        }
        Ok(())
    }

    /// Ends one access token; its session lives on, and may have another at once. What is not an access token of ours
    /// is refused everywhere already, so it is no error here (RFC 7009 §2.2).
    ///
    /// # Errors
    /// If the store fails.
    pub async fn revoke_access_token(&self, token: &str) -> Result<(), Error> {
        match self.inner.access.verify::<serde::de::IgnoredAny>(token) {
            Ok(token) => self.revoke_token_id(&token.id.to_string(), token.expires_at.into()).await,
            Err(_) => Ok(()),
        }
    }

    /// Ends the access token with this `jti`, which expires at `expires_at`.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn revoke_token_id(&self, jti: &str, expires_at: SystemTime) -> Result<(), Error> {
        let node = &self.inner.node;
        let over = Timestamp::from(expires_at).after(self.settings().leeway) <= node.now();
        if !over && TokenId::parse(jti).is_some() {
            node.revoke(Target::Token(jti), Reason::Other).await?;
        }
        Ok(())
    }

    /// Drops sessions that have expired. Done every minute anyway. Answers how many.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn purge(&self) -> Result<usize, Error> {
        Ok(self.inner.node.purge().await?)
    }

    /// An access token for a session as of `now`, and what a client has to know of it. Without a new refresh token.
    fn tokens(
        &self,
        session: &Session,
        generation: u32,
        claims: &str,
        now: Timestamp,
        comes_back: bool,
    ) -> Result<Tokens, Error> {
        let ttl = self.settings().policy.access_ttl;
        let grant = Grant {
            user: &session.user,
            session: session.id,
            generation,
            now,
            ttl: ttl - ttl.mul_f64(random_fraction()? * 0.05),
            session_ends: session.chain.expires_at,
            claims,
        };
        // What it is issued from was checked before; it fails only for want of randomness.
        let issued = self.inner.access.issue(grant).ok_or(Error::Random(getrandom::Error::UNEXPECTED))?;
        let life = issued.expires_at.since(now);
        Ok(Tokens {
            session: session.id,
            access_token: issued.token,
            expires_in: life,
            refresh_in: if comes_back { Some(refresh_in(life)?) } else { None },
            refresh_token: None,
            session_expires_in: session.chain.expires_at.since(now),
        })
    }
}

impl<C: Claims> Auth<C> {
    /// The claims for the next access token: from the hook, or from the snapshot taken at login.
    async fn claims_of(&self, session: &Session) -> Result<Box<str>, Error> {
        let emit = |event| self.inner.node.events.emit(event);
        let (user, id) = (Arc::clone(&session.user), session.id);
        let Some(hook) = &self.inner.hook else {
            return match serde_json::from_str::<C>(&session.claims) {
                Ok(_) => Ok(session.claims.clone()),
                Err(error) => {
                    emit(Event::ClaimsUnreadable { user, session: id });
                    Err(ClaimsError::Json(error).into())
                }
            };
        };
        match hook(Arc::clone(&user)).await {
            Ok(Some(claims)) => write_claims(&claims),
            Ok(None) => {
                emit(Event::UserRefused { user, session: id });
                Err(Error::UserRefused)
            }
            Err(error) => Err(Error::Hook(error)),
        }
    }
}

/// The claims as the text of a JSON object that fits beside the token's own.
fn write_claims<C: Serialize>(claims: &C) -> Result<Box<str>, Error> {
    let value = serde_json::to_value(claims).map_err(ClaimsError::Json)?;
    let members = value.as_object().ok_or(ClaimsError::NotAnObject)?;
    if let Some(name) = RESERVED.into_iter().find(|name| members.contains_key(*name)) {
        return Err(ClaimsError::Reserved(name.to_owned()).into());
    }
    Ok(value.to_string().into())
}

/// A random number from 0 to 1.
fn random_fraction() -> Result<f64, Error> {
    Ok(f64::from(getrandom::u32()?) / f64::from(u32::MAX))
}

/// When a client should come back for the next access token: after 14/15 of this one's life, up to 10 % earlier.
fn refresh_in(life: Duration) -> Result<Duration, Error> {
    Ok(life.mul_f64(14.0 / 15.0 * (1.0 - 0.1 * random_fraction()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_an_object_without_the_tokens_own_names() {
        let write = |json: &str| write_claims(&serde_json::from_str::<serde_json::Value>(json).unwrap());
        assert_eq!(&*write(r#"{"role":"admin"}"#).unwrap(), r#"{"role":"admin"}"#);
        assert_eq!(&*write_claims(&NoClaims {}).unwrap(), "{}");
        for json in ["null", "1", "[]", "\"x\""] {
            assert!(matches!(write(json), Err(Error::Claims(ClaimsError::NotAnObject))), "{json}");
        }
        assert!(matches!(write_claims(&()), Err(Error::Claims(ClaimsError::NotAnObject))));
        for name in RESERVED {
            let result = write(&format!(r#"{{"{name}":1}}"#));
            assert!(matches!(result, Err(Error::Claims(ClaimsError::Reserved(reserved))) if reserved == name));
        }
    }

    #[test]
    fn a_client_comes_back_before_its_token_ends_and_not_in_step() {
        let life = Duration::from_secs(900);
        let times: Vec<_> = (0..1000).map(|_| refresh_in(life).unwrap()).collect();
        assert!(times.iter().all(|time| (756..=840).contains(&time.as_secs())));
        let different: std::collections::HashSet<_> = times.iter().map(Duration::as_secs).collect();
        assert!(different.len() > 50);
    }
}
