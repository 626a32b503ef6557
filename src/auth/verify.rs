//! From an access token to the user behind it, without waiting for the store; and the guard's closer look.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::{Auth, Claims};
use crate::binding;
use crate::client::ClientInfo;
use crate::error::Error;
use crate::event::Event;
use crate::policy::BindingMode;
use crate::ratchet::{BindingVerdict, acknowledges};
use crate::session::{Client, Reason, SessionId, Timestamp};
use crate::store::Target;
use crate::token::access::{AccessToken, Refused, TokenId};

/// The user behind a request, as the access token has it. An axum handler behind [`Auth::layer`] takes it as an
/// extractor; `Option<AuthUser<C>>` is `None` where [`optional`](crate::AuthLayer::optional) let an anonymous request
/// pass.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthUser<C> {
    /// The app's own user id: what was given to [`Auth::login`].
    pub id: Arc<str>,
    /// The session that the token belongs to.
    pub session: SessionId,
    /// The app's claims.
    pub claims: C,
    generation: u32,
    token_id: TokenId,
    expires_at: Timestamp,
}

impl<C> AuthUser<C> {
    /// The access token's own id, its `jti`: for [`Auth::revoke_token_id`].
    pub fn token_id(&self) -> String {
        self.token_id.to_string()
    }

    /// When the access token expires.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at.into()
    }

    pub(super) const fn generation(&self) -> u32 {
        self.generation
    }
}

impl<C: Clone> From<&Verified<C>> for AuthUser<C> {
    fn from(token: &Verified<C>) -> Self {
        Self {
            id: Arc::clone(&token.user),
            session: token.session,
            claims: token.claims.clone(),
            generation: token.generation,
            token_id: token.id,
            expires_at: token.expires_at,
        }
    }
}

/// A token that was verified, and what this node has found out with it since: what every request of a client would look
/// up anew.
#[derive(Debug)]
pub(crate) struct Verified<C> {
    token: AccessToken<C>,
    /// The client at login, once the guard has asked for it. It never changes.
    client: OnceLock<Arc<Client>>,
    /// Whether its use was taken for an acknowledgement already.
    acknowledged: AtomicBool,
}

impl<C> From<AccessToken<C>> for Verified<C> {
    fn from(token: AccessToken<C>) -> Self {
        Self { token, client: OnceLock::new(), acknowledged: AtomicBool::new(false) }
    }
}

impl<C> Deref for Verified<C> {
    type Target = AccessToken<C>;

    fn deref(&self) -> &AccessToken<C> {
        &self.token
    }
}

/// What the guard found without asking the store.
pub(crate) enum Glance {
    Pass,
    Refuse(Error),
    /// The session has to be loaded, or ended.
    LookCloser,
}

impl<C: Claims> Auth<C> {
    /// Who an access token belongs to, if it is good: signed by us, neither expired nor revoked. Counts as a sign of
    /// life of its session.
    ///
    /// # Errors
    /// [`AccessTokenInvalid`](Error::AccessTokenInvalid), [`AccessTokenExpired`](Error::AccessTokenExpired) or
    /// [`AccessTokenRevoked`](Error::AccessTokenRevoked); [`Store`](Error::Store) if nothing has been heard from the
    /// store for too long and it does not answer now.
    pub async fn authenticate(&self, token: &str) -> Result<AuthUser<C>, Error> {
        let token = self.verify(token, self.now())?;
        self.catch_up_if_stale().await?;
        self.admit(&token, self.now())?;
        Ok(AuthUser::from(&*token))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.node.now()
    }

    /// Whether what is known of revocations is recent enough to decide by.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        self.inner.node.revoked.is_current(now)
    }

    pub(crate) async fn catch_up_if_stale(&self) -> Result<(), Error> {
        if !self.is_current(self.now()) {
            self.inner.node.start();
            self.inner.node.catch_up().await?;
        }
        Ok(())
    }

    /// Whether we signed a token and it is not past its end. Whether it was revoked is [`admit`](Self::admit)'s part.
    pub(crate) fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<Verified<C>>, Error> {
        let inner = &*self.inner;
        if let Some(known) = inner.verified.as_ref().and_then(|cache| cache.get(token)) {
            inner.access.check_times(&known, now)?;
            return Ok(known);
        }
        let verified = inner.access.verify(token)?;
        inner.access.check_times(&verified, now)?;
        let verified = Arc::new(Verified::from(verified));
        if let Some(cache) = &inner.verified {
            cache.insert(token.into(), Arc::clone(&verified));
        }
        Ok(verified)
    }

    /// Whether a verified token may be used, by what this node knows of revocations; and its use is remembered.
    pub(crate) fn admit(&self, token: &Verified<C>, now: Timestamp) -> Result<(), Error> {
        let node = &self.inner.node;
        if node.revoked.has_session(token.session) || node.revoked.has_token(token.id) {
            return Err(Error::AccessTokenRevoked);
        }
        let acknowledges = acknowledges(token.issued_at, now, &node.settings.policy);
        if acknowledges && !token.acknowledged.load(Ordering::Relaxed) {
            token.acknowledged.store(true, Ordering::Relaxed);
            node.activity.acknowledge(token.session, token.generation, now);
        } else {
            node.activity.touch(token.session, now);
        }
        Ok(())
    }

    /// The guard's check, as far as it needs no store: the session was seen before, and its client has not changed.
    pub(crate) fn glance(
        &self,
        token: &Verified<C>,
        user_agent: Option<&str>,
        client: impl FnOnce() -> ClientInfo,
    ) -> Glance {
        let then = match token.client.get() {
            Some(then) => then,
            None => match self.inner.guarded.get(&token.session) {
                Some(then) => token.client.get_or_init(|| then),
                None => return Glance::LookCloser,
            },
        };
        // To the letter the same, as nearly always: no need to take anything apart.
        if self.settings().policy.binding.ip == BindingMode::Off && then.user_agent.as_deref() == user_agent {
            return Glance::Pass;
        }
        match self.compare(then, client) {
            (BindingVerdict::Holds, _) => Glance::Pass,
            (verdict @ BindingVerdict::Observed, client) => {
                self.report_mismatch(token, verdict, client);
                Glance::Pass
            }
            (verdict @ BindingVerdict::Rejected, client) => {
                self.report_mismatch(token, verdict, client);
                Glance::Refuse(Error::ClientMismatch)
            }
            (BindingVerdict::Revoked, _) => Glance::LookCloser,
        }
    }

    fn compare(&self, then: &Client, client: impl FnOnce() -> ClientInfo) -> (BindingVerdict, Client) {
        if !self.compares() {
            return (BindingVerdict::Holds, Client::default());
        }
        let now = self.resolve(client());
        (binding::judge(&self.settings().policy.binding, then, &now), now)
    }

    fn compares(&self) -> bool {
        let binding = &self.settings().policy.binding;
        binding.ip != BindingMode::Off || binding.user_agent != BindingMode::Off
    }

    /// The guard's check, with the store: is there such a session, is it live, is this its client?
    pub(crate) async fn look_closer(&self, token: &AccessToken<C>, client: ClientInfo) -> Result<(), Error> {
        let node = &self.inner.node;
        let load = async {
            let session = node.load(token.session).await?.ok_or(Error::AccessTokenRevoked)?;
            let mut chain = session.chain;
            chain.merge_seen(token.issued_at, None);
            if chain.revoked.is_some() {
                return Err(Error::AccessTokenRevoked);
            }
            if !chain.is_live(node.now(), node.settings.policy.idle_timeout) {
                return Err(Error::SessionIdle);
            }
            // Where nothing is compared there is nothing to keep.
            Ok(if self.compares() { Arc::new(session.client) } else { Arc::clone(&self.inner.anybody) })
        };
        // One loads and the others wait; whoever waits for several that fail waits no longer than for one.
        let found = self.inner.guarded.get_or_insert_async(&token.session, load);
        let then = node.within_timeout("load", found).await??;
        let (verdict, now) = self.compare(&then, || client);
        if verdict != BindingVerdict::Holds {
            self.report_mismatch(token, verdict, now);
        }
        match verdict {
            BindingVerdict::Holds | BindingVerdict::Observed => Ok(()),
            BindingVerdict::Rejected => Err(Error::ClientMismatch),
            BindingVerdict::Revoked => {
                node.revoke(Target::Session(token.session), Reason::ClientMismatch).await?;
                Err(Error::ClientMismatch)
            }
        }
    }

    fn report_mismatch(&self, token: &AccessToken<C>, verdict: BindingVerdict, client: Client) {
        self.inner.node.events.emit(Event::ClientMismatch {
            user: Arc::clone(&token.user),
            session: token.session,
            verdict,
            client,
        });
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid => Self::AccessTokenInvalid,
            Refused::Expired => Self::AccessTokenExpired,
        }
    }
}
