//! Events as lines of English.

use std::fmt;

use super::Event;
use crate::ratchet::BindingVerdict;
use crate::session::Client;

/// One line of English. Text that comes from outside is written in its `Debug` form, which escapes what would break the line.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoggedIn { user_id, session_id, .. } => write!(f, "user {user_id:?} logged in: session {session_id}"),
            Self::Reauthenticated { user_id, session_id, replaced, .. } => write!(
                f,
                "user {user_id:?} was authenticated again: session {session_id}, in place of session {replaced}"
            ),
            Self::NewDevice { user_id, session_id, sessions, .. } => write!(
                f,
                "user {user_id:?} logged in with a new device: session {session_id}, compared with {sessions} live \
                 sessions"
            ),
            Self::SessionLimitReached { user_id, .. } => {
                write!(f, "a login of user {user_id:?} was refused: session limit reached")
            }
            Self::Refreshed { user_id, session_id, generation, verdict, .. } => write!(
                f,
                "refresh token {generation} of session {session_id} of user {user_id:?} was presented: {verdict:?}"
            ),
            Self::Reuse { user_id, session_id, generation, .. } => write!(
                f,
                "superseded refresh token {generation} of session {session_id} of user {user_id:?} was presented again: \
                 it or its successor was stolen"
            ),
            Self::Forged { user_id, session_id, .. } => write!(
                f,
                "a refresh token with a valid tag and a wrong secret was presented for session {session_id} of user \
                 {user_id:?}: the server's key may have leaked"
            ),
            Self::Ahead { user_id, session_id, presented, stored, .. } => write!(
                f,
                "refresh token {presented} of session {session_id} of user {user_id:?} is newer than the store's \
                 generation {stored}: the store has lost a write"
            ),
            Self::ManyRecoveries { user_id, session_id, recoveries, .. } => {
                write!(
                    f,
                    "{recoveries} refresh responses in a row were lost in session {session_id} of user {user_id:?}"
                )
            }
            Self::ClientMismatch { user_id, session_id, verdict, .. } => {
                let what = match verdict {
                    BindingVerdict::Holds | BindingVerdict::Observed => "the request was served",
                    BindingVerdict::StepUp => "the user has to authenticate again",
                    BindingVerdict::Rejected => "the request was refused",
                    BindingVerdict::Revoked => "the session is revoked",
                };
                write!(f, "another client has used session {session_id} of user {user_id:?}: {what}")
            }
            Self::UserRefused { user_id, session_id, .. } => {
                write!(
                    f,
                    "a refresh of session {session_id} was refused, because the claims hook refused user {user_id:?}"
                )
            }
            Self::ClaimsUnreadable { user_id, session_id, error, .. } => write!(
                f,
                "a refresh of session {session_id} of user {user_id:?} was refused, because its claims cannot be read: \
                 {error:?}"
            ),
            Self::SessionRevoked { user_id, session_id, reason, .. } => match user_id {
                Some(user_id) => write!(f, "session {session_id} of user {user_id:?} was revoked ({reason})"),
                None => write!(f, "session {session_id} was revoked ({reason})"),
            },
            Self::UserRevoked { user_id, sessions, reason, .. } => {
                write!(f, "{sessions} sessions of user {user_id:?} were revoked ({reason})")
            }
            Self::EveryoneRevoked { reason, .. } => write!(f, "the sessions of all users were revoked ({reason})"),
            Self::RevocationDelayed { user_id, session_id, .. } => write!(
                f,
                "session {session_id} of user {user_id:?} or others of the user could not be revoked yet, because the \
                 store has failed; this node tries again"
            ),
            Self::TokenRevoked { user_id, session_id, jti, .. } => {
                write!(f, "access token {jti:?}")?;
                if let Some(session_id) = session_id {
                    write!(f, " of session {session_id}")?;
                }
                if let Some(user_id) = user_id {
                    write!(f, " of user {user_id:?}")?;
                }
                f.write_str(" was revoked")
            }
            Self::RevocationsLost { count } => {
                write!(f, "the store has lost {count} revocations; this node writes them again")
            }
            Self::ClockDiffers { ahead_by_millis } => {
                let (millis, side) =
                    (ahead_by_millis.unsigned_abs(), if *ahead_by_millis < 0 { "behind" } else { "ahead of" });
                write!(f, "the clock of this node is {millis} ms {side} the other one; synchronize both by NTP")
            }
            Self::IssuerFailed { request, error } => write!(f, "the issuer failed ({request}): {error:?}"),
            Self::StoreFailed { call, error } => write!(f, "the session store failed in {call}: {error:?}"),
        }?;
        self.client().map_or(Ok(()), |client| write_client(f, client))
    }
}

/// What is known about a client: ` from 203.0.113.7, "curl/8.5.0", labeled "kitchen"`.
fn write_client(f: &mut fmt::Formatter<'_>, client: &Client) -> fmt::Result {
    let mut separator = "";
    let mut part = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
        let before = if separator.is_empty() { " from " } else { separator };
        separator = ", ";
        write!(f, "{before}{text}")
    };
    if let Some(ip) = client.ip {
        part(f, format_args!("{ip}"))?;
    }
    if let Some(user_agent) = &client.user_agent {
        part(f, format_args!("{user_agent:?}"))?;
    }
    if let Some(label) = &client.label {
        part(f, format_args!("a device labeled {label:?}"))?;
    }
    if let Some(actor) = &client.actor {
        write!(f, ", where {:?} acts for the user from session {}", actor.user_id, actor.session_id)?;
    }
    Ok(())
}
