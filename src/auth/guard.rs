//! The guard's look at the session behind an access token.

use std::sync::{Arc, PoisonError};

use super::binding::{is_same, mismatch};
use super::verify::{Decision, Verified};
use super::{Auth, Claims};
use crate::client::{ClientInfo, binding};
use crate::config::BindingMode;
use crate::error::Error;
use crate::node::Cause;
use crate::ratchet::BindingVerdict;
use crate::session::RevocationReason;
use crate::store::RevokeTarget;

/// How long a `User-Agent` may be that is kept with a token. Browsers' are about 120 bytes long.
const MAX_KEPT: usize = 512;

impl<C: Claims> Auth<C> {
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
        if !node.revoked.freshness().is_current(node.now()) {
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
