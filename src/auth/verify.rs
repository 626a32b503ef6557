//! Verifying access tokens from memory, and the guard's look at the session behind one.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::{Auth, Claims, NoClaims};
use crate::client::{ClientInfo, binding};
use crate::config::{BindingMode, ResolvedSettings};
use crate::error::Error;
use crate::event::Event;
use crate::node::Cause;
use crate::node::revocations::Known;
use crate::node::write_behind::LastUse;
use crate::ratchet::{BindingVerdict, acknowledges};
use crate::session::{Client, RevocationReason, SessionId};
use crate::store::{RevokeTarget, StoreError};
use crate::time::Timestamp;
use crate::token::access::{AccessToken, Refused};
use crate::token::id::TokenId;

/// How long a `User-Agent` may be that is kept with a token. Browsers' are about 120 bytes long.
const MAX_KEPT: usize = 512;

/// The user behind a request, as the access token describes them.
///
/// Handlers behind [`Auth::layer`], [`Auth::guard`] or [`Auth::pages`] take it as an extractor. `Option<AuthUser<C>>` is
/// `None` for an anonymous request that [`optional`](crate::AuthLayer::optional) has let through.
///
/// Without one of these layers on the route, or with another claims type than that of the layer's `Auth`, `AuthUser<C>`
/// is refused with 500 and `Option<AuthUser<C>>` is always `None`. Both are logged as an error.
///
/// ```
/// use axum_refresh::AuthUser;
///
/// async fn hello(user: AuthUser) -> String {
///     format!("Hello, {}", user.id)
/// }
/// # let _: axum::Router = axum::Router::new().route("/", axum::routing::get(hello));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthUser<C = NoClaims> {
    /// The app's own id of the user, as given to [`Auth::login`].
    pub id: Arc<str>,
    /// The session that the access token belongs to.
    pub session_id: SessionId,
    /// The app's claims.
    pub claims: C,
    generation: u32,
    pub(super) token_id: TokenId,
    pub(super) expires_at: Timestamp,
}

impl<C> AuthUser<C> {
    /// The id of the access token (`jti`), for [`Auth::revoke_token_id`].
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
            id: Arc::clone(&token.user_id),
            session_id: token.session_id,
            claims: token.claims.clone(),
            generation: token.generation,
            token_id: token.id,
            expires_at: token.expires_at,
        }
    }
}

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
    /// Whether its use was recorded as an acknowledgement.
    acknowledged: AtomicBool,
    /// The number of [revocations](LiveRevocations::additions) of which none concerns it; `u64::MAX` if nobody has looked.
    live_as_of: AtomicU64,
    /// None if it is not kept for its next use.
    last_use: Option<Arc<LastUse>>,
}

impl<C> Verified<C> {
    fn new(token: AccessToken<C>, auth: &Auth<C>, is_kept: bool) -> Self {
        Self {
            token,
            settings: Arc::clone(auth.resolved()),
            client: OnceLock::new(),
            bound_to: OnceLock::new(),
            acknowledged: AtomicBool::new(false),
            live_as_of: AtomicU64::new(u64::MAX),
            last_use: is_kept.then(Arc::default),
        }
    }

    /// A token for one request.
    pub(super) fn once(token: AccessToken<C>, auth: &Auth<C>) -> Self {
        Self::new(token, auth, false)
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
        match self.admit(&token, self.now()) {
            Decision::Pass(()) => {}
            Decision::Refuse(error) => return Err(error),
            Decision::AskStore(()) => self.admit_after_catching_up(&token).await?,
        }
        Ok(AuthUser::from(&*token))
    }

    /// Whether the token is ours and not expired. Whether it is revoked is for [`admit`](Self::admit) to say.
    pub(crate) fn verify(&self, token: &[u8], now: Timestamp) -> Result<Arc<Verified<C>>, Error> {
        let inner = &*self.inner;
        if let Some(known) = inner.verified.as_ref().and_then(|known| known.get(token)) {
            known.check_times(now)?;
            return Ok(known);
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
    pub(crate) fn admit(&self, token: &Verified<C>, now: Timestamp) -> Decision<(), (), Error> {
        if !self.inner.node.revoked.is_current(now) {
            return Decision::AskStore(());
        }
        self.admit_as_known(token, now)
    }

    /// [`admit`](Self::admit) however old the known revocations are.
    pub(super) fn admit_as_known(&self, token: &Verified<C>, now: Timestamp) -> Decision<(), (), Error> {
        let node = &self.inner.node;
        let additions = node.revoked.additions();
        if token.live_as_of.load(Ordering::Relaxed) != additions {
            if node.revoked.has_token(token.id) {
                return Decision::Refuse(Error::AccessTokenRevoked);
            }
            match node.revoked.known(token.session_id, &token.user_id) {
                Known::Live => token.live_as_of.store(additions, Ordering::Relaxed),
                Known::Revoked => return Decision::Refuse(Error::AccessTokenRevoked),
                Known::Unknown(_) => return Decision::AskStore(()),
            }
        }
        if !token.acknowledged.load(Ordering::Relaxed) && acknowledges(token.issued_at, now, &node.settings.policy) {
            token.acknowledged.store(true, Ordering::Relaxed);
            node.write_behind.acknowledge(token.session_id, token.generation, now);
        } else if let Some(last_use) = &token.last_use {
            node.write_behind.touch_again(token.session_id, last_use, now);
        } else {
            node.write_behind.touch(token.session_id, now);
        }
        Decision::Pass(())
    }

    /// [`admit`](Self::admit) after asking the store what this node does not know. The token may expire meanwhile.
    pub(crate) async fn admit_after_catching_up(&self, token: &Verified<C>) -> Result<(), Error> {
        self.inner.node.start();
        self.inner.node.catch_up().await?;
        self.inner.node.ask_about(token.session_id, &token.user_id).await?;
        let now = self.now();
        token.check_times(now)?;
        match self.admit(token, now) {
            Decision::Pass(()) => Ok(()),
            Decision::Refuse(error) => Err(error),
            // Only if the clock jumps, or the user is revoked again meanwhile.
            Decision::AskStore(()) => Err(StoreError::new("the revocations known here are stale").into()),
        }
    }

    /// The guard's check of the session: passes if this node has seen the session before and the client is unchanged.
    pub(crate) fn check_session(
        &self,
        token: &Verified<C>,
        user_agent: Option<&[u8]>,
        client: impl FnOnce() -> ClientInfo,
    ) -> Decision<(), (), Error> {
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
        let (verdict, now) = self.compare(at_login, client);
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
            BindingVerdict::Rejected => {
                self.report_mismatch(token, verdict, now);
                Decision::Refuse(Error::ClientMismatch)
            }
        }
    }

    /// [`check_session`](Self::check_session) with the store: whether the session exists, is live, and belongs to this
    /// client.
    pub(crate) async fn check_session_in_store(&self, token: &AccessToken<C>, client: ClientInfo) -> Result<(), Error> {
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
            // If clients are not compared, there is nothing to keep.
            Ok(if self.compares_clients() { Arc::new(session.client) } else { Arc::clone(&self.inner.any_client) })
        };
        // One request loads and the others wait for it, together no longer than for one call.
        let found = self.inner.guarded.get_or_insert_async(&token.session_id, load);
        let at_login = node.within_timeout("load", found).await??;
        let (verdict, now) = self.compare(&at_login, || client);
        if verdict != BindingVerdict::Holds {
            self.report_mismatch(token, verdict, now.clone());
        }
        match verdict {
            BindingVerdict::Holds | BindingVerdict::Observed => Ok(()),
            BindingVerdict::Rejected => Err(Error::ClientMismatch),
            BindingVerdict::Revoked => {
                let cause = Cause::from(RevocationReason::ClientMismatch).of(&token.user_id).by(Some(now));
                node.revoke(RevokeTarget::Session(token.session_id), cause).await?;
                Err(Error::ClientMismatch)
            }
        }
    }

    fn compare(&self, at_login: &Client, client: impl FnOnce() -> ClientInfo) -> (BindingVerdict, Client) {
        if !self.compares_clients() {
            return (BindingVerdict::Holds, Client::default());
        }
        let now = self.resolve(client());
        (binding::compare(&self.settings().policy.binding, at_login, &now), now)
    }

    fn compares_clients(&self) -> bool {
        self.settings().policy.binding.is_on()
    }

    fn report_mismatch(&self, token: &AccessToken<C>, verdict: BindingVerdict, client: Client) {
        self.emit(Event::ClientMismatch {
            user_id: Arc::clone(&token.user_id),
            session_id: token.session_id,
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
