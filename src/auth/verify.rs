//! Verifying access tokens from memory.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::authority::Authority;
use super::known_tokens::KnownTokens;
use super::{AuthUser, Claims};
use crate::config::ResolvedSettings;
use crate::error::Error;
use crate::node::revocations::{Known, LiveRevocations};
use crate::node::waiting::Waiting;
use crate::node::write_behind::LastUse;
use crate::ratchet::acknowledges;
use crate::session::{Client, SessionId};
use crate::store::StoreError;
use crate::time::{Clock, Timestamp};
use crate::token::access::{AccessKeys, AccessToken, Refused};
use crate::token::id::TokenId;

/// The least part of the lifetime of access tokens that one has, unless something else bounds it: it is shortened by up to 5 %,
/// and rounded down to a second.
const LEAST_LIFE: f64 = 0.9;

/// A verified access token, and what this node has found out about its session: what every request with it would otherwise
/// look up again.
#[derive(Debug)]
pub(crate) struct Verified<C> {
    token: AccessToken<C>,
    /// Those of the [`Authenticator`] that has verified it, which has them alone. Not that itself, because requests, which refer
    /// to this, may be kept for longer than the app.
    settings: Arc<ResolvedSettings>,
    /// The client at login, once the guard has loaded it. It never changes.
    pub(super) client: OnceLock<Arc<Client>>,
    /// A `User-Agent` with which the binding holds, if that depends on nothing else.
    pub(super) bound_to: OnceLock<Option<Arc<str>>>,
    /// The last client that the app has judged.
    pub(super) judged: Mutex<Option<Client>>,
    /// Whether it ends sooner than others, perhaps because its session would become idle.
    is_bounded: bool,
    /// Whether its use by the user was recorded, if it is bounded.
    is_known_active: AtomicBool,
    /// Whether its use was recorded as an acknowledgement.
    acknowledged: AtomicBool,
    /// The number of [revocations](LiveRevocations::additions) of which none concerns it; `u64::MAX` if nobody has looked.
    live_as_of: AtomicU64,
    /// None if it is not kept for its next use.
    last_use: Option<Arc<LastUse>>,
}

impl<C> Verified<C> {
    fn new(token: AccessToken<C>, settings: &Arc<ResolvedSettings>, is_kept: bool) -> Self {
        let life = token.expires_at.since(token.issued_at);
        Self {
            is_bounded: life < settings.policy.access_ttl.mul_f64(LEAST_LIFE),
            is_known_active: AtomicBool::new(false),
            token,
            settings: Arc::clone(settings),
            client: OnceLock::new(),
            bound_to: OnceLock::new(),
            judged: Mutex::new(None),
            acknowledged: AtomicBool::new(false),
            live_as_of: AtomicU64::new(u64::MAX),
            last_use: is_kept.then(Arc::default),
        }
    }

    /// A token for one request.
    pub(super) fn once(token: AccessToken<C>, settings: &Arc<ResolvedSettings>) -> Self {
        Self::new(token, settings, false)
    }

    /// The sessions that have to be live, with their users: the token's own, and that of whoever acts.
    fn sessions(&self) -> impl Iterator<Item = (SessionId, &Arc<str>)> {
        let actor = self.token.actor().map(|actor| (actor.session_id, &actor.user_id));
        std::iter::once((self.token.session_id, &self.token.user_id)).chain(actor)
    }

    pub(crate) fn settings(&self) -> &ResolvedSettings {
        &self.settings
    }

    pub(crate) fn is_verified_by(&self, authenticator: &Authenticator<C>) -> bool {
        Arc::ptr_eq(&self.settings, authenticator.resolved())
    }
}

impl<C> Deref for Verified<C> {
    type Target = AccessToken<C>;

    fn deref(&self) -> &AccessToken<C> {
        &self.token
    }
}

/// How a token is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Because of something that the user does: it keeps the session from becoming idle.
    Active,
    /// By the app itself, such as by a poll, a stream or a page in the background: it is no activity.
    Passive,
}

/// What is decided about a request from what this node knows. Each variant carries what was found, for the next step.
#[derive(Debug)]
pub(crate) enum Decision<P, A, R> {
    Pass(P),
    Refuse(R),
    /// This node does not know enough: the store has to be asked.
    AskStore(A),
}

/// Decides about access tokens: those of an [`Auth`](crate::Auth), which has the secret and the store, and those that a service
/// without either verifies by what their issuer publishes.
pub(crate) struct Authenticator<C> {
    inner: Arc<Inner<C>>,
}

struct Inner<C> {
    settings: Arc<ResolvedSettings>,
    clock: Clock,
    keys: Arc<AccessKeys>,
    /// None if no token is kept.
    known: Option<KnownTokens<C>>,
    revoked: Arc<LiveRevocations>,
    authority: Authority,
}

impl<C> Clone for Authenticator<C> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<C> Authenticator<C> {
    pub(super) fn new(
        settings: Arc<ResolvedSettings>,
        clock: Clock,
        keys: Arc<AccessKeys>,
        revoked: Arc<LiveRevocations>,
        authority: Authority,
    ) -> Self {
        let known = (settings.token_cache > 0).then(|| KnownTokens::new(settings.token_cache));
        Self { inner: Arc::new(Inner { settings, clock, keys, known, revoked, authority }) }
    }

    pub(crate) fn resolved(&self) -> &Arc<ResolvedSettings> {
        &self.inner.settings
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.inner.clock)().into()
    }

    pub(super) fn keys(&self) -> &AccessKeys {
        &self.inner.keys
    }
}

impl<C: Claims> Authenticator<C> {
    /// Verifies an access token, and returns its user if the token is neither expired nor revoked. It counts as activity.
    pub(super) async fn authenticate(&self, token: &str) -> Result<AuthUser<C>, Error> {
        let text = token.as_bytes();
        let mut verified = self.verify(text, self.now());
        if let Decision::AskStore(()) = verified {
            self.learn_keys().await?;
            verified = self.verify(text, self.now());
        }
        let token = match verified {
            Decision::Pass(token) => token,
            Decision::Refuse(error) => return Err(error),
            Decision::AskStore(()) => return Err(Error::AccessTokenInvalid),
        };
        match self.admit(&token, self.now(), Use::Active) {
            Decision::Pass(()) => {}
            Decision::Refuse(error) => return Err(error),
            Decision::AskStore(()) => self.admit_after_catching_up(&token, Use::Active).await?,
        }
        Ok(AuthUser::from(&*token))
    }

    /// Whether the token is ours and not expired. Whether it is revoked is for [`admit`](Self::admit) to say. A key that is not
    /// known here may have to be [asked for](Self::learn_keys).
    pub(crate) fn verify(&self, token: &[u8], now: Timestamp) -> Decision<Arc<Verified<C>>, (), Error> {
        let inner = &*self.inner;
        let meter = inner.settings.meter;
        if let Some(known) = &inner.known {
            if let Some(known) = known.get(token) {
                meter.token_cache_hit();
                return match known.check_times(now) {
                    Ok(()) => Decision::Pass(known),
                    Err(refused) => Decision::Refuse(refused.into()),
                };
            }
            meter.token_cache_miss();
        }
        let verified = inner.keys.verify(token).and_then(|verified| verified.check_times(now).map(|()| verified));
        match verified {
            Ok(verified) => {
                inner.authority.check_life(verified.expires_at.since(verified.issued_at));
                let verified = Arc::new(Verified::new(verified, &inner.settings, inner.known.is_some()));
                if let Some(known) = &inner.known {
                    known.insert(token, Arc::clone(&verified));
                }
                Decision::Pass(verified)
            }
            Err(Refused::Invalid) if inner.authority.may_have_key_of(token) => Decision::AskStore(()),
            Err(refused) => Decision::Refuse(refused.into()),
        }
    }

    /// Asks for the keys, if they are not known here.
    pub(crate) async fn learn_keys(&self) -> Result<(), Error> {
        Ok(self.inner.authority.learn_keys().await?)
    }

    /// Whether a verified token may be used, by the revocations that are known here. Its use is recorded.
    pub(crate) fn admit(&self, token: &Verified<C>, now: Timestamp, how: Use) -> Decision<(), (), Error> {
        if !self.inner.revoked.freshness().is_current(now) {
            return Decision::AskStore(());
        }
        self.admit_as_known(token, now, how)
    }

    /// [`admit`](Self::admit) however old the known revocations are.
    pub(super) fn admit_as_known(&self, token: &Verified<C>, now: Timestamp, how: Use) -> Decision<(), (), Error> {
        let revoked = &self.inner.revoked;
        let additions = revoked.additions();
        if token.live_as_of.load(Ordering::Relaxed) != additions {
            if revoked.has_token(token.id) {
                return Decision::Refuse(Error::AccessTokenRevoked);
            }
            for (session_id, user_id) in token.sessions() {
                match revoked.known(session_id, user_id) {
                    Known::Live => {}
                    Known::Revoked => return Decision::Refuse(Error::AccessTokenRevoked),
                    Known::Unknown(_) => return Decision::AskStore(()),
                }
            }
            token.live_as_of.store(additions, Ordering::Relaxed);
        }
        self.record_use(token, now, how);
        Decision::Pass(())
    }

    fn record_use(&self, token: &Verified<C>, now: Timestamp, how: Use) {
        let Some(node) = self.inner.authority.node() else { return };
        let is_active = how == Use::Active;
        if is_active && let Some(actor) = token.actor() {
            node.write_behind.touch(actor.session_id, now);
        }
        if !token.acknowledged.load(Ordering::Relaxed) && acknowledges(token.issued_at, now, &node.settings.policy) {
            token.acknowledged.store(true, Ordering::Relaxed);
            // Whoever sends it, the refresh token has arrived.
            let seen_at = if is_active { now } else { Timestamp::from_millis(0) };
            node.write_behind.acknowledge(token.session_id, token.generation, seen_at);
        } else if !is_active {
        } else if let Some(last_use) = &token.last_use {
            node.write_behind.touch_again(token.session_id, last_use, now);
        } else {
            node.write_behind.touch(token.session_id, now);
        }
        if is_active && token.is_bounded && !token.is_known_active.swap(true, Ordering::Relaxed) {
            node.write_behind.hurry(token.session_id);
        }
    }

    /// [`admit`](Self::admit) after asking what is not known here. The token may expire meanwhile.
    pub(crate) async fn admit_after_catching_up(&self, token: &Verified<C>, how: Use) -> Result<(), Error> {
        self.inner.authority.catch_up().await?;
        self.ask_about(token).await?;
        let now = self.now();
        token.check_times(now)?;
        match self.admit(token, now, how) {
            Decision::Pass(()) => Ok(()),
            Decision::Refuse(error) => Err(error),
            // Only if the clock jumps, or the user is revoked again meanwhile.
            Decision::AskStore(()) => Err(StoreError::new("the revocations known here are stale").into()),
        }
    }

    /// Starts the background task, if it is not running and there is a runtime to run it on.
    pub(super) fn start(&self) {
        self.inner.authority.start();
    }

    /// Waits from now on for the end of a session: see [`LiveRevocations::wait_for`].
    pub(super) fn wait_for(&self, id: SessionId, user_id: &Arc<str>, token_id: TokenId, has_expired: bool) -> Waiting {
        self.inner.revoked.wait_for(id, user_id, token_id, has_expired)
    }

    /// Completes once the session is revoked, or the access token alone.
    pub(super) async fn wait_with(&self, waiting: &Waiting) {
        let ask = |id| {
            let authenticator = self.clone();
            async move { authenticator.inner.authority.is_revoked(id).await }
        };
        waiting.revoked(ask).await;
    }

    /// Asks about the sessions of a token, where too little is known here.
    pub(super) async fn ask_about(&self, token: &Verified<C>) -> Result<(), Error> {
        for (session_id, user_id) in token.sessions() {
            self.inner.authority.ask_about(session_id, user_id).await?;
        }
        Ok(())
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
