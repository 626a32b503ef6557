//! Events for logs, metrics and alerts. No event contains a secret or a token.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::ratchet::{BindingVerdict, Verdict};
use crate::session::{Client, RevocationReason, SessionId};

/// Something that happened to a session, or a failure of the store.
///
/// Every event is logged with `tracing` (target `axum_refresh`; level `error` for [`StoreFailed`](Self::StoreFailed),
/// `warn` for [`ClaimsUnreadable`](Self::ClaimsUnreadable), [`ClockDiffers`](Self::ClockDiffers) and if [`is_security`](Self::is_security), otherwise `debug`)
/// and passed to the hook set with [`on_event`](crate::AuthBuilder::on_event).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A user logged in.
    LoggedIn {
        /// The user who logged in.
        user_id: Arc<str>,
        /// The new session.
        session_id: SessionId,
    },
    /// A login was refused because the user has reached the session limit
    /// ([`Policy::max_sessions`](crate::Policy::max_sessions)).
    SessionLimitReached {
        /// The user who tried to log in.
        user_id: Arc<str>,
    },
    /// A refresh token was presented, whatever the verdict. Forged tokens are [`Forged`](Self::Forged) instead.
    Refreshed {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session of the refresh token.
        session_id: SessionId,
        /// The generation of the presented refresh token.
        generation: u32,
        /// The verdict of the [ratchet](crate::ratchet).
        verdict: Verdict,
    },
    /// A superseded refresh token was presented again: either the thief or the owner presented it second. The session is
    /// revoked, and with [`OnReuse::User`](crate::config::OnReuse::User) all sessions of the user. If the store cannot
    /// do so at once, a [`RevocationDelayed`](Self::RevocationDelayed) follows.
    Reuse {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session of the refresh token.
        session_id: SessionId,
        /// The generation of the presented refresh token.
        generation: u32,
        /// The client that presented it.
        client: Client,
    },
    /// A refresh token had a valid tag but not the secret of its session: the server's key may have leaked.
    Forged {
        /// The session that the refresh token names.
        session_id: SessionId,
        /// The client that presented it.
        client: Client,
    },
    /// A refresh token was newer than the store's row: the store has lost a write. The refresh succeeded.
    Ahead {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session of the refresh token.
        session_id: SessionId,
        /// The generation of the presented refresh token.
        presented: u32,
        /// The newest generation in the store.
        stored: u32,
    },
    /// The response to a refresh was lost for the fourth time in a row, or more: a bad network, or an attacker in it.
    ManyRecoveries {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session of the refresh token.
        session_id: SessionId,
        /// The number of lost responses in a row.
        recoveries: u32,
    },
    /// A client did not match the one that logged in, by the policy's [`Binding`](crate::config::Binding).
    ClientMismatch {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session of the token that the client presented.
        session_id: SessionId,
        /// Whether the request was served, was refused, or has revoked the session.
        verdict: BindingVerdict,
        /// The client that sent the request.
        client: Client,
    },
    /// The app's claims hook returned `None` for the user, and the refresh was refused.
    UserRefused {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session of the refresh token.
        session_id: SessionId,
    },
    /// The claims kept with a session cannot be read by this version of the app, and there is no claims hook that
    /// supplies new ones. The refresh was refused, and the session stays as it is.
    ClaimsUnreadable {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session with the claims.
        session_id: SessionId,
        /// What is wrong with the claims, in the words of serde. It may quote a value from them.
        error: String,
    },
    /// A session was revoked.
    SessionRevoked {
        /// The revoked session.
        session_id: SessionId,
        /// The reason.
        reason: RevocationReason,
    },
    /// Many sessions of a user were revoked at once. They are not reported one by one.
    UserRevoked {
        /// The user of the sessions.
        user_id: Arc<str>,
        /// How many sessions were live. Above a thousand, it may include sessions that had expired.
        sessions: usize,
        /// The reason.
        reason: RevocationReason,
    },
    /// The sessions of all users (of the [realm](crate::Settings::realm), if there is one) were revoked at once. They are
    /// not reported one by one.
    EveryoneRevoked {
        /// The reason.
        reason: RevocationReason,
    },
    /// A session that has to be revoked, because of reuse or of a client mismatch, or one of the user's other sessions
    /// with [`OnReuse::User`](crate::config::OnReuse::User), could not be revoked, because the store has failed. The
    /// node tries again until it succeeds; each session that it revokes then is a
    /// [`SessionRevoked`](Self::SessionRevoked).
    RevocationDelayed {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session of the refresh token that was presented.
        session_id: SessionId,
    },
    /// An access token was revoked.
    TokenRevoked {
        /// The id of the token (`jti`).
        jti: Box<str>,
    },
    /// The store has lost revocations that this node knows, and this node writes them again.
    RevocationsLost {
        /// The number of lost revocations.
        count: usize,
    },
    /// The clock of this node differs from the store's by more than two seconds. Correct it: synchronize both by NTP. If
    /// they differ by more than [`Policy::grace`](crate::Policy::grace), races between tabs may be taken for theft and
    /// access tokens be refused as issued in the future, and this node purges nothing until the clocks agree.
    ClockDiffers {
        /// By how many milliseconds this node's clock is ahead; negative if it is behind.
        ahead_by_millis: i64,
    },
    /// The store failed or took too long.
    StoreFailed {
        /// The name of the [`SessionStore`](crate::SessionStore) method.
        call: &'static str,
        /// The text of the store's error.
        error: String,
    },
}

impl Event {
    /// Returns whether the event calls for attention: theft, forgery, many lost responses, a client mismatch, a
    /// revocation that the store has refused, or a store that has lost a write.
    pub const fn is_security(&self) -> bool {
        matches!(
            self,
            Self::Reuse { .. }
                | Self::Forged { .. }
                | Self::Ahead { .. }
                | Self::ManyRecoveries { .. }
                | Self::ClientMismatch { .. }
                | Self::RevocationDelayed { .. }
                | Self::RevocationsLost { .. }
        )
    }
}

type Hook = Arc<dyn Fn(&Event) + Send + Sync>;

/// The receivers of events: `tracing`, and the app's hook if there is one.
#[derive(Clone, Default)]
pub(crate) struct Events(Option<Hook>);

impl Events {
    pub(crate) fn new(hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    #[expect(clippy::needless_pass_by_value, reason = "every caller creates the event for this call")]
    pub(crate) fn emit(&self, event: Event) {
        match &event {
            Event::StoreFailed { call, error } => tracing::error!(target: "axum_refresh", call, error, "store failed"),
            event @ Event::ClockDiffers { .. } => tracing::warn!(
                target: "axum_refresh",
                ?event,
                "the clocks of this node and of the store differ; synchronize both by NTP"
            ),
            event @ Event::ClaimsUnreadable { .. } => tracing::warn!(
                target: "axum_refresh",
                ?event,
                "the claims of a session cannot be read; give new fields #[serde(default)], or use a claims hook"
            ),
            event if event.is_security() => tracing::warn!(target: "axum_refresh", ?event, "security event"),
            event => tracing::debug!(target: "axum_refresh", ?event, "session event"),
        }
        if let Some(hook) = &self.0 {
            // A panic in the app's hook must not take down the request or the task that reads the feed of revocations.
            if catch_unwind(AssertUnwindSafe(|| hook(&event))).is_err() {
                tracing::error!(target: "axum_refresh", "the on_event hook panicked");
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Events(hook)" } else { "Events" })
    }
}
