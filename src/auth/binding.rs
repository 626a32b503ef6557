//! Whether a session is still used by its own client, by the policy and by the app's own knowledge.

use super::{Auth, Claims, Verified};
use crate::client::{ClientInfo, binding};
use crate::config::{BindingMode, ClientChange};
use crate::error::{Error, StepUp};
use crate::event::Event;
use crate::ratchet::BindingVerdict;
use crate::session::Client;
use crate::store::SessionRecord;

/// The app's judgment of a session whose client has changed.
pub(super) type RiskHook = Box<dyn Fn(&ClientChange) -> BindingMode + Send + Sync>;

impl<C: Claims> Auth<C> {
    /// Judges the client of a request: against that of the login by the policy, and against the last one by the app. The
    /// stricter of the two verdicts counts.
    pub(super) fn judge_client(&self, session: &SessionRecord, now: &Client) -> BindingVerdict {
        let by_policy = binding::compare(&self.settings().policy.binding, &session.client, now);
        let last = last_client(session);
        let by_app = match &self.inner.risk_hook {
            Some(hook) if !is_same(last, now) => {
                let change = ClientChange { session: session.into(), before: last.clone(), now: now.clone() };
                binding::of_difference(hook(&change))
            }
            _ => BindingVerdict::Holds,
        };
        by_policy.max(by_app)
    }

    /// Keeps the client with its session, if the app judges changes of it.
    pub(super) fn note_client(&self, session: &mut SessionRecord, now: &Client) {
        if self.inner.risk_hook.is_some() && !is_same(last_client(session), now) {
            session.last_client = Some(Client { label: None, actor: None, ..now.clone() });
        }
    }

    /// Whether clients are compared at all.
    pub(super) fn compares_clients(&self) -> bool {
        self.settings().policy.binding.is_on() || self.inner.risk_hook.is_some()
    }

    /// The errors for a client that does not match, as far as the settings and the app's hook may lead to them.
    #[cfg(feature = "openapi")]
    pub(crate) fn mismatches(&self) -> Vec<Error> {
        let policy = &self.settings().policy.binding;
        let judged_by_app = self.inner.risk_hook.is_some();
        let may_be =
            |modes: &[BindingMode]| judged_by_app || [policy.ip, policy.user_agent].iter().any(|it| modes.contains(it));
        let rejected = may_be(&[BindingMode::Reject, BindingMode::Revoke]).then_some(BindingVerdict::Rejected);
        let step_up = may_be(&[BindingMode::StepUp]).then_some(BindingVerdict::StepUp);
        rejected.into_iter().chain(step_up).map(mismatch).collect()
    }

    /// The client that has sent a request with this token.
    pub(super) fn client_of(&self, token: &Verified<C>, client: ClientInfo) -> Client {
        self.resolve(client.acting(token.actor().cloned()))
    }

    pub(super) fn report_mismatch(&self, token: &Verified<C>, verdict: BindingVerdict, client: Client) {
        self.emit(Event::ClientMismatch {
            user_id: token.user_id.clone(),
            session_id: token.session_id,
            verdict,
            client,
        });
    }
}

/// The client that changes are judged against.
fn last_client(session: &SessionRecord) -> &Client {
    session.last_client.as_ref().unwrap_or(&session.client)
}

/// Whether nothing has changed that an app could judge.
pub(super) fn is_same(one: &Client, other: &Client) -> bool {
    one.ip == other.ip && one.user_agent == other.user_agent
}

/// The error for a client that does not match.
pub(super) const fn mismatch(verdict: BindingVerdict) -> Error {
    match verdict {
        BindingVerdict::StepUp => Error::InsufficientAuthentication(StepUp::ANEW),
        _ => Error::ClientMismatch,
    }
}
