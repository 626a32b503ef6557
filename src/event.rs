//! What happened, for logs, metrics and alarms. No secret and no token is ever in an event.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::ratchet::{BindingVerdict, Verdict};
use crate::session::{Client, Reason, SessionId};

/// Something that happened to a session. Every event goes to `tracing` (target `axum_refresh`) and to the hook given
/// to [`on_event`](crate::AuthBuilder::on_event).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A user logged in.
    LoggedIn {
        /// Whose.
        user: Arc<str>,
        /// The new session.
        session: SessionId,
    },
    /// A login was refused: the user has too many sessions.
    SessionLimit {
        /// Whose.
        user: Arc<str>,
    },
    /// A refresh token was presented, and judged.
    Refreshed {
        /// Whose.
        user: Arc<str>,
        /// Which session.
        session: SessionId,
        /// The generation that was presented.
        generation: u32,
        /// What came of it.
        verdict: Verdict,
    },
    /// An old refresh token came back, and the session (by policy, all of the user's) ended. Somebody has stolen it.
    Reuse {
        /// Whose.
        user: Arc<str>,
        /// Which session.
        session: SessionId,
        /// The generation that was presented.
        generation: u32,
        /// Who presented it.
        client: Client,
    },
    /// A refresh token with our signature that is not the session's: the server's key may have leaked.
    Forged {
        /// Which session.
        session: SessionId,
        /// Who presented it.
        client: Client,
    },
    /// The refresh token was newer than the store's row: the store has lost a write.
    Ahead {
        /// Whose.
        user: Arc<str>,
        /// Which session.
        session: SessionId,
        /// The generation that was presented.
        presented: u32,
        /// The newest that the store knew.
        stored: u32,
    },
    /// The answer to a refresh got lost for the fourth time in a row, or more: a bad network, or somebody in it.
    ManyRecoveries {
        /// Whose.
        user: Arc<str>,
        /// Which session.
        session: SessionId,
        /// How many times in a row.
        recoveries: u32,
    },
    /// A client looked different from the one that logged in.
    ClientMismatch {
        /// Whose.
        user: Arc<str>,
        /// Which session.
        session: SessionId,
        /// What was done about it.
        verdict: BindingVerdict,
        /// The client that was there.
        client: Client,
    },
    /// The app's claims hook refused the user.
    UserRefused {
        /// Whose.
        user: Arc<str>,
        /// Which session.
        session: SessionId,
    },
    /// A session's claims do not read as the app's type any more, and there is no hook to ask for new ones.
    ClaimsUnreadable {
        /// Whose.
        user: Arc<str>,
        /// Which session.
        session: SessionId,
    },
    /// A session was ended.
    Ended {
        /// Which.
        session: SessionId,
        /// Why.
        reason: Reason,
    },
    /// One access token was ended.
    TokenRevoked {
        /// Its `jti`.
        jti: Box<str>,
    },
    /// The store had lost revocations that this node knew of, and was told of them again.
    RevocationsLost {
        /// How many.
        count: usize,
    },
    /// The store failed or took too long.
    StoreFailed {
        /// What it was asked to do.
        call: &'static str,
        /// What it said.
        error: String,
    },
}

impl Event {
    /// Whether somebody should look at it: theft, forgery, a foreign client, a store that lost a write.
    pub const fn is_security(&self) -> bool {
        matches!(
            self,
            Self::Reuse { .. }
                | Self::Forged { .. }
                | Self::Ahead { .. }
                | Self::ManyRecoveries { .. }
                | Self::ClientMismatch { .. }
                | Self::RevocationsLost { .. }
        )
    }
}

type Hook = Arc<dyn Fn(&Event) + Send + Sync>;

/// Where events go.
#[derive(Clone, Default)]
pub(crate) struct Events(Option<Hook>);

impl Events {
    pub(crate) fn new(hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    #[expect(clippy::needless_pass_by_value, reason = "every caller makes one for this")]
    pub(crate) fn emit(&self, event: Event) {
        match &event {
            Event::StoreFailed { call, error } => tracing::error!(target: "axum_refresh", call, error, "store failed"),
            event if event.is_security() => tracing::warn!(target: "axum_refresh", ?event, "security event"),
            event => tracing::debug!(target: "axum_refresh", ?event, "session event"),
        }
        if let Some(hook) = &self.0 {
            // The app's code; if it fails, neither a request nor the task that reads revocations may fail with it.
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
