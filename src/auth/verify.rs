//! Verifying access tokens from memory, and the guard's look at the session behind one.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::binding::{is_same, mismatch};
use super::{Auth, AuthUser, Claims};
use crate::client::{ClientInfo, binding};
use crate::config::{BindingMode, ResolvedSettings};
use crate::error::Error;
use crate::node::Cause;
use crate::node::revocations::Known;
use crate::node::write_behind::LastUse;
use crate::ratchet::{BindingVerdict, acknowledges};
use crate::session::{Client, RevocationReason, SessionId};
use crate::store::{RevokeTarget, StoreError};
use crate::time::Timestamp;
use crate::token::access::{AccessToken, Refused};

/// The least part of the lifetime of access tokens that one has, unless something else bounds it: it is shortened by up to 5 %,
/// and rounded down to a second.
const LEAST_LIFE: f64 = 0.9;

/// How long a `User-Agent` may be that is kept with a token. Browsers' are about 120 bytes long.
const MAX_KEPT: usize = 512;

/// A verified access token, and what this node has found out about its session: what every request with it would otherwise
/// look up again.
#[derive(Debug)]
pub(crate) struct Verified<C> {
    token: AccessToken<C>,
    /// Those of the [`Auth`] that has verified it, which has them alone. Not the `Auth` itself, because requests, which refer
    /// to this, may be kept for longer than the app.
    settings: Arc<ResolvedSettings>,
    /// The client at login, once the guard has loaded it. It never changes.
    client: OnceLock<Arc<Client>>,
    /// A `User-Agent` with which the binding holds, if that depends on nothing else.
    bound_to: OnceLock<Option<Arc<str>>>,
    /// The last client that the app has judged.
    judged: Mutex<Option<Client>>,
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
    fn new(token: AccessToken<C>, auth: &Auth<C>, is_kept: bool) -> Self {
        let life = token.expires_at.since(token.issued_at);
        Self {
            is_bounded: life < auth.settings().policy.access_ttl.mul_f64(LEAST_LIFE),
            is_known_active: AtomicBool::new(false),
            token,
            settings: Arc::clone(auth.resolved()),
            client: OnceLock::new(),
            bound_to: OnceLock::new(),
            judged: Mutex::new(None),
            acknowledged: AtomicBool::new(false),
            live_as_of: AtomicU64::new(u64::MAX),
            last_use: is_kept.then(Arc::default),
        }
    }

    /// A token for one request.
    pub(super) fn once(token: AccessToken<C>, auth: &Auth<C>) -> Self {
        Self::new(token, auth, false)
    }

    /// The sessions that have to be live, with their users: the token's own, and that of whoever acts.
    fn sessions(&self) -> impl Iterator<Item = (SessionId, &Arc<str>)> {
        let actor = self.token.actor().map(|actor| (actor.session_id, &actor.user_id));
        std::iter::once((self.token.session_id, &self.token.user_id)).chain(actor)
    }

    pub(crate) fn settings(&self) -> &ResolvedSettings {
        &self.settings
    }

    pub(crate) fn is_verified_by(&self, auth: &Auth<C>) -> bool {
        Arc::ptr_eq(&self.settings, auth.resolved())
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

/// # Verifying
impl<C: Claims> Auth<C> {
    /// Verifies an access token and returns its user, if the token is neither expired nor revoked. Counts as activity of its
    /// session.
    ///
    /// Does not wait for the store, unless it has been unreachable for
    /// [`max_staleness`](crate::Settings::max_staleness).
    ///
    /// # Errors
    ///
    /// - [`Error::AccessTokenInvalid`], [`Error::AccessTokenExpired`] or [`Error::AccessTokenRevoked`].
    /// - [`Error::Store`] if the store has been unreachable for too long and still is.
    pub async fn authenticate(&self, token: &str) -> Result<AuthUser<C>, Error> {
        let token = self.verify(token.as_bytes(), self.now())?;
        match self.admit(&token, self.now(), Use::Active) {
            Decision::Pass(()) => {}
            Decision::Refuse(error) => return Err(error),
            Decision::AskStore(()) => self.admit_after_catching_up(&token, Use::Active).await?,
        }
        Ok(AuthUser::from(&*token))
    }

    /// Whether the token is ours and not expired. Whether it is revoked is for [`admit`](Self::admit) to say.
    pub(crate) fn verify(&self, token: &[u8], now: Timestamp) -> Result<Arc<Verified<C>>, Error> {
        let inner = &*self.inner;
        let meter = self.resolved().meter;
        if let Some(known) = &inner.verified {
            if let Some(known) = known.get(token) {
                meter.token_cache_hit();
                known.check_times(now)?;
                return Ok(known);
            }
            meter.token_cache_miss();
        }
        let verified = inner.access.verify(token)?;
        verified.check_times(now)?;
        let verified = Arc::new(Verified::new(verified, self, inner.verified.is_some()));
        if let Some(known) = &inner.verified {
            known.insert(token, Arc::clone(&verified));
        }
        Ok(verified)
    }

    /// Whether a verified token may be used, by the revocations that this node knows. Its use is recorded.
    pub(crate) fn admit(&self, token: &Verified<C>, now: Timestamp, how: Use) -> Decision<(), (), Error> {
        if !self.inner.node.revoked.is_current(now) {
            return Decision::AskStore(());
        }
        self.admit_as_known(token, now, how)
    }

    /// [`admit`](Self::admit) however old the known revocations are.
    pub(super) fn admit_as_known(&self, token: &Verified<C>, now: Timestamp, how: Use) -> Decision<(), (), Error> {
        let node = &self.inner.node;
        let additions = node.revoked.additions();
        if token.live_as_of.load(Ordering::Relaxed) != additions {
            if node.revoked.has_token(token.id) {
                return Decision::Refuse(Error::AccessTokenRevoked);
            }
            for (session_id, user_id) in token.sessions() {
                match node.revoked.known(session_id, user_id) {
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
        let node = &self.inner.node;
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

    /// [`admit`](Self::admit) after asking the store what this node does not know. The token may expire meanwhile.
    pub(crate) async fn admit_after_catching_up(&self, token: &Verified<C>, how: Use) -> Result<(), Error> {
        self.inner.node.start();
        self.inner.node.catch_up().await?;
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

    /// Asks the store about the sessions of a token, where this node does not know enough.
    pub(super) async fn ask_about(&self, token: &Verified<C>) -> Result<(), Error> {
        for (session_id, user_id) in token.sessions() {
            self.inner.node.ask_about(session_id, user_id).await?;
        }
        Ok(())
    }

    /// The guard's check of the session: passes if this node has seen the session before and the client is unchanged.
    pub(crate) fn check_session(
        &self,
        token: &Verified<C>,
        user_agent: Option<&[u8]>,
        client: impl FnOnce() -> ClientInfo,
    ) -> Decision<(), (), Error> {
        if self.inner.risk_hook.is_some() {
            return self.check_judged(token, client);
        }
        let is_bound_to = |bound_to: &Option<Arc<str>>| bound_to.as_deref().map(str::as_bytes) == user_agent;
        if token.bound_to.get().is_some_and(is_bound_to) {
            return Decision::Pass(());
        }
        let at_login = match token.client.get() {
            Some(at_login) => at_login,
            None => match self.inner.guarded.get(&token.session_id) {
                Some(at_login) => token.client.get_or_init(|| at_login),
                None => return Decision::AskStore(()),
            },
        };
        // Nearly always the header is the same byte for byte, and nothing has to be parsed.
        let depends_on_it_alone = self.settings().policy.binding.ip == BindingMode::Off;
        if depends_on_it_alone && is_bound_to(&at_login.user_agent) {
            token.bound_to.get_or_init(|| at_login.user_agent.clone());
            return Decision::Pass(());
        }
        if !self.compares_clients() {
            return Decision::Pass(());
        }
        let now = self.client_of(token, client());
        let verdict = binding::compare(&self.settings().policy.binding, at_login, &now);
        match verdict {
            BindingVerdict::Holds => {
                // The browser was updated: this session has another `User-Agent` from now on.
                if let Some(updated) = user_agent.filter(|updated| depends_on_it_alone && updated.len() <= MAX_KEPT)
                    && let Ok(updated) = std::str::from_utf8(updated)
                {
                    token.bound_to.get_or_init(|| Some(updated.into()));
                }
                Decision::Pass(())
            }
            // Revoking needs the store, which reports it.
            BindingVerdict::Revoked => Decision::AskStore(()),
            BindingVerdict::Observed => {
                self.report_mismatch(token, verdict, now);
                Decision::Pass(())
            }
            BindingVerdict::StepUp | BindingVerdict::Rejected => {
                self.report_mismatch(token, verdict, now);
                Decision::Refuse(mismatch(verdict))
            }
        }
    }

    /// [`check_session`](Self::check_session) if the app judges changes of the client: it passes without the store only for
    /// one that was judged already.
    fn check_judged(&self, token: &Verified<C>, client: impl FnOnce() -> ClientInfo) -> Decision<(), (), Error> {
        let now = self.client_of(token, client());
        let judged = token.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if judged.as_ref().is_some_and(|judged| is_same(judged, &now)) {
            Decision::Pass(())
        } else {
            Decision::AskStore(())
        }
    }

    /// [`check_session`](Self::check_session) with the store: whether the session exists, is live, and belongs to this
    /// client.
    pub(crate) async fn check_session_in_store(&self, token: &Verified<C>, client: ClientInfo) -> Result<(), Error> {
        let node = &self.inner.node;
        if !node.revoked.is_current(node.now()) {
            node.catch_up().await?;
        }
        let load = async {
            let session = node.load(token.session_id).await?.ok_or(Error::AccessTokenRevoked)?;
            let mut state = session.rotation;
            state.merge_activity(token.issued_at, None);
            if state.revoked.is_some() {
                return Err(Error::AccessTokenRevoked);
            }
            if !state.is_live(node.now(), node.settings.policy.idle_timeout) {
                return Err(Error::SessionIdle);
            }
            Ok(session)
        };
        let (verdict, now) = if self.inner.risk_hook.is_some() {
            let session = load.await?;
            let now = self.client_of(token, client);
            (self.judge_client(&session, &now), now)
        } else {
            // If clients are not compared, there is nothing to keep.
            let at_login = async {
                let session = load.await?;
                let compares = self.compares_clients();
                Ok::<_, Error>(if compares { Arc::new(session.client) } else { Arc::clone(&self.inner.any_client) })
            };
            // One request loads and the others wait for it, together no longer than for one call.
            let found = self.inner.guarded.get_or_insert_async(&token.session_id, at_login);
            let at_login = node.within_timeout("load", found).await??;
            if !self.compares_clients() {
                return Ok(());
            }
            let now = self.client_of(token, client);
            (binding::compare(&self.settings().policy.binding, &at_login, &now), now)
        };
        if verdict != BindingVerdict::Holds {
            self.report_mismatch(token, verdict, now.clone());
        }
        match verdict {
            BindingVerdict::Holds | BindingVerdict::Observed => {
                if self.inner.risk_hook.is_some() {
                    *token.judged.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
                }
                Ok(())
            }
            BindingVerdict::StepUp | BindingVerdict::Rejected => Err(mismatch(verdict)),
            BindingVerdict::Revoked => {
                let cause = Cause::from(RevocationReason::ClientMismatch).of(&token.user_id).by(Some(now));
                node.revoke(RevokeTarget::Session(token.session_id), cause).await?;
                Err(Error::ClientMismatch)
            }
        }
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
