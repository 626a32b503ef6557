//! Events for logs, metrics, alerts and audit tables. No event contains a secret or a token.

mod count;
mod display;
mod hook;

use std::sync::Arc;

use serde::Serialize;

pub(crate) use self::hook::Events;
use crate::ratchet::{BindingVerdict, Verdict};
use crate::session::{Client, RevocationReason, SessionId};

/// Something that happened to a session, or a failure of the store.
///
/// Every event is logged with `tracing` (target `axum_refresh`; level `error` for [`StoreFailed`](Self::StoreFailed)
/// and [`IssuerFailed`](Self::IssuerFailed), `warn` for [`ClaimsUnreadable`](Self::ClaimsUnreadable), [`ClockDiffers`](Self::ClockDiffers) and if [`is_security`](Self::is_security), otherwise `debug`)
/// and passed to the hook set with [`on_event`](crate::AuthBuilder::on_event).
///
/// A log or an audit table needs no `match`:
///
/// - [`name`](Self::name), [`user_id`](Self::user_id), [`session_id`](Self::session_id) and [`client`](Self::client) are
///   the columns that events share.
/// - `Display` writes one line of English. What comes from outside is quoted and escaped in it, so that nobody can forge
///   a line of the log.
/// - `Serialize` writes one flat object: the member `event` with the name comes first, and then all fields. A client is the
///   three members `ip`, `user_agent` and `label`, any of which may be null; they are left out if no client is known. If
///   somebody [acts](crate::LoginBuilder::acting) for the user, there is also `actor`, an object with the members `sub` and
///   `sid`.
///
/// An event has no time of its own: it has just happened when the hook is called. The recipe
/// [an audit table](crate::guide::recipes#an-audit-table) keeps events in a database.
///
/// ```
/// use axum_refresh::{Event, RevocationReason};
///
/// # let session_id = "AAAAAAAAAAAAAAAAAAAAAA".parse()?;
/// let event = Event::SessionRevoked {
///     user_id: Some("alice".into()),
///     session_id,
///     reason: RevocationReason::Logout,
///     client: None,
/// };
/// assert_eq!((event.name(), event.user_id()), ("session_revoked", Some("alice")));
/// assert_eq!(event.to_string(), r#"session AAAAAAAAAAAAAAAAAAAAAA of user "alice" was revoked (logout)"#);
/// assert_eq!(
///     serde_json::to_string(&event)?,
///     r#"{"event":"session_revoked","user_id":"alice","session_id":"AAAAAAAAAAAAAAAAAAAAAA","reason":"logout"}"#
/// );
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A user logged in.
    LoggedIn {
        /// The user who logged in.
        user_id: Arc<str>,
        /// The new session.
        session_id: SessionId,
        /// The client that logged in.
        #[serde(flatten)]
        client: Client,
    },
    /// A user was [authenticated again](crate::Auth::reauthenticated): a new session goes on in place of another.
    Reauthenticated {
        /// The user who was authenticated.
        user_id: Arc<str>,
        /// The new session.
        session_id: SessionId,
        /// The session that it replaces.
        replaced: SessionId,
        /// The client that authenticated.
        #[serde(flatten)]
        client: Client,
    },
    /// A user logged in with a client that none of the user's live sessions had: another browser, another platform or
    /// another app. Follows the [`LoggedIn`](Self::LoggedIn) of the session, if
    /// [`Policy::detect_new_devices`](crate::Policy::detect_new_devices) is on: to notify the user, for example.
    ///
    /// Clients are compared by `User-Agent`, without versions, as in [`Binding`](crate::config::Binding): two devices of one
    /// kind look the same, and addresses do not count. A device whose session has ended is new again.
    NewDevice {
        /// The user who logged in.
        user_id: Arc<str>,
        /// The new session.
        session_id: SessionId,
        /// The number of live sessions that the client was compared with, at most a thousand. 0 at a first login, which an
        /// app usually ignores.
        sessions: usize,
        /// The client that logged in.
        #[serde(flatten)]
        client: Client,
    },
    /// A login was refused because the user has reached the session limit
    /// ([`Policy::max_sessions`](crate::Policy::max_sessions)).
    SessionLimitReached {
        /// The user who tried to log in.
        user_id: Arc<str>,
        /// The client that tried to log in.
        #[serde(flatten)]
        client: Client,
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
        /// The client that presented the refresh token.
        #[serde(flatten)]
        client: Client,
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
        #[serde(flatten)]
        client: Client,
    },
    /// A refresh token had a valid tag but not the secret of its session: the server's key may have leaked.
    Forged {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session that the refresh token names.
        session_id: SessionId,
        /// The client that presented it.
        #[serde(flatten)]
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
        /// The client that presented the refresh token.
        #[serde(flatten)]
        client: Client,
    },
    /// The response to a refresh was lost for the fourth time in a row, or more: a bad network, or an attacker in it.
    ManyRecoveries {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session of the refresh token.
        session_id: SessionId,
        /// The number of lost responses in a row.
        recoveries: u32,
        /// The client that presented the refresh token.
        #[serde(flatten)]
        client: Client,
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
        #[serde(flatten)]
        client: Client,
    },
    /// The app's claims hook returned `None` for the user, and the refresh was refused.
    UserRefused {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session of the refresh token.
        session_id: SessionId,
        /// The client that presented the refresh token.
        #[serde(flatten)]
        client: Client,
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
        /// The client that presented the refresh token.
        #[serde(flatten)]
        client: Client,
    },
    /// A session was revoked.
    SessionRevoked {
        /// The user of the session. None only if the store did not find the session when it was loaded and had it a moment
        /// later, as may happen during a failover.
        user_id: Option<Arc<str>>,
        /// The revoked session.
        session_id: SessionId,
        /// The reason.
        reason: RevocationReason,
        /// The client whose request has revoked it: the user's, an administrator's, or whoever presented a stolen token.
        /// None if it was revoked by a method that knows no client, such as
        /// [`Auth::revoke_session`](crate::Auth::revoke_session).
        #[serde(flatten)]
        client: Option<Client>,
    },
    /// Many sessions of a user were revoked at once. They are not reported one by one.
    UserRevoked {
        /// The user of the sessions.
        user_id: Arc<str>,
        /// How many sessions were live. Above a thousand, it may include sessions that had expired.
        sessions: usize,
        /// The reason.
        reason: RevocationReason,
        /// The client whose request has revoked them. None if they were revoked by a method that knows no client, such as
        /// [`Auth::revoke_user`](crate::Auth::revoke_user).
        #[serde(flatten)]
        client: Option<Client>,
    },
    /// The sessions of all users (of the [realm](crate::Settings::realm), if there is one) were revoked at once. They are
    /// not reported one by one.
    EveryoneRevoked {
        /// The reason.
        reason: RevocationReason,
        /// The client whose request has revoked them. None if they were revoked by
        /// [`Auth::revoke_all`](crate::Auth::revoke_all).
        #[serde(flatten)]
        client: Option<Client>,
    },
    /// A session that has to be revoked, because of reuse, of a client mismatch or of a
    /// [login in its place](crate::LoginBuilder::replacing_cookies_of), or one of the user's other sessions with
    /// [`OnReuse::User`](crate::config::OnReuse::User), could not be revoked, because the store has failed. The
    /// node tries again until it succeeds; each session that it revokes then is a
    /// [`SessionRevoked`](Self::SessionRevoked).
    RevocationDelayed {
        /// The user of the session.
        user_id: Arc<str>,
        /// The session of the refresh token that was presented, or the replaced session.
        session_id: SessionId,
        /// The client that presented the refresh token, or that logged in.
        #[serde(flatten)]
        client: Client,
    },
    /// An access token was revoked.
    TokenRevoked {
        /// The user of the token. None if it was revoked by its id alone, as
        /// [`Auth::revoke_token_id`](crate::Auth::revoke_token_id) does.
        user_id: Option<Arc<str>>,
        /// The session of the token. None if the user is.
        session_id: Option<SessionId>,
        /// The id of the token (`jti`).
        jti: Box<str>,
        /// The client whose request has revoked it. None if it was revoked by a method that knows no client.
        #[serde(flatten)]
        client: Option<Client>,
    },
    /// The store has lost revocations that this node knows, and this node writes them again.
    RevocationsLost {
        /// The number of lost revocations.
        count: usize,
    },
    /// The clock of this node differs from the store's, or that of a verifier from the issuer's, by more than two seconds. Correct it: synchronize both by NTP. If
    /// they differ by more than [`Policy::grace`](crate::Policy::grace), races between tabs may be taken for theft and
    /// access tokens be refused as issued in the future, and this node purges nothing until the clocks agree.
    ClockDiffers {
        /// By how many milliseconds this node's clock is ahead; negative if it is behind.
        ahead_by_millis: i64,
    },
    /// The issuer of the access tokens that a [`Verifier`](crate::guide::services) accepts has failed, took too long, or answered
    /// with what cannot be used. What was known stays known.
    IssuerFailed {
        /// What it was asked for: `fetch_keys`, `follow_revocations` or `ask_about_session`.
        request: &'static str,
        /// What went wrong.
        error: String,
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
    /// The name of the event in `snake_case`, such as `logged_in`: the value of `event` in its JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::LoggedIn { .. } => "logged_in",
            Self::Reauthenticated { .. } => "reauthenticated",
            Self::NewDevice { .. } => "new_device",
            Self::SessionLimitReached { .. } => "session_limit_reached",
            Self::Refreshed { .. } => "refreshed",
            Self::Reuse { .. } => "reuse",
            Self::Forged { .. } => "forged",
            Self::Ahead { .. } => "ahead",
            Self::ManyRecoveries { .. } => "many_recoveries",
            Self::ClientMismatch { .. } => "client_mismatch",
            Self::UserRefused { .. } => "user_refused",
            Self::ClaimsUnreadable { .. } => "claims_unreadable",
            Self::SessionRevoked { .. } => "session_revoked",
            Self::UserRevoked { .. } => "user_revoked",
            Self::EveryoneRevoked { .. } => "everyone_revoked",
            Self::RevocationDelayed { .. } => "revocation_delayed",
            Self::TokenRevoked { .. } => "token_revoked",
            Self::RevocationsLost { .. } => "revocations_lost",
            Self::ClockDiffers { .. } => "clock_differs",
            Self::IssuerFailed { .. } => "issuer_failed",
            Self::StoreFailed { .. } => "store_failed",
        }
    }

    /// The user whom the event concerns. None if it concerns everyone or nobody, or the user is not known: see
    /// [`SessionRevoked`](Self::SessionRevoked) and [`TokenRevoked`](Self::TokenRevoked).
    pub fn user_id(&self) -> Option<&str> {
        match self {
            Self::LoggedIn { user_id, .. }
            | Self::Reauthenticated { user_id, .. }
            | Self::NewDevice { user_id, .. }
            | Self::SessionLimitReached { user_id, .. }
            | Self::Refreshed { user_id, .. }
            | Self::Reuse { user_id, .. }
            | Self::Forged { user_id, .. }
            | Self::Ahead { user_id, .. }
            | Self::ManyRecoveries { user_id, .. }
            | Self::ClientMismatch { user_id, .. }
            | Self::UserRefused { user_id, .. }
            | Self::ClaimsUnreadable { user_id, .. }
            | Self::UserRevoked { user_id, .. }
            | Self::RevocationDelayed { user_id, .. } => Some(user_id),
            Self::SessionRevoked { user_id, .. } | Self::TokenRevoked { user_id, .. } => user_id.as_deref(),
            Self::EveryoneRevoked { .. }
            | Self::RevocationsLost { .. }
            | Self::ClockDiffers { .. }
            | Self::IssuerFailed { .. }
            | Self::StoreFailed { .. } => None,
        }
    }

    /// The session that the event concerns. None if it concerns several or none, or the session is not known: see
    /// [`TokenRevoked`](Self::TokenRevoked).
    pub const fn session_id(&self) -> Option<SessionId> {
        match self {
            Self::LoggedIn { session_id, .. }
            | Self::Reauthenticated { session_id, .. }
            | Self::NewDevice { session_id, .. }
            | Self::Refreshed { session_id, .. }
            | Self::Reuse { session_id, .. }
            | Self::Forged { session_id, .. }
            | Self::Ahead { session_id, .. }
            | Self::ManyRecoveries { session_id, .. }
            | Self::ClientMismatch { session_id, .. }
            | Self::UserRefused { session_id, .. }
            | Self::ClaimsUnreadable { session_id, .. }
            | Self::SessionRevoked { session_id, .. }
            | Self::RevocationDelayed { session_id, .. } => Some(*session_id),
            Self::TokenRevoked { session_id, .. } => *session_id,
            Self::SessionLimitReached { .. }
            | Self::UserRevoked { .. }
            | Self::EveryoneRevoked { .. }
            | Self::RevocationsLost { .. }
            | Self::ClockDiffers { .. }
            | Self::IssuerFailed { .. }
            | Self::StoreFailed { .. } => None,
        }
    }

    /// The client whose request has caused the event. None if no request has, or its client is not known. Whoever is known
    /// to have sent nothing that tells a client has a `Client` without values.
    pub const fn client(&self) -> Option<&Client> {
        match self {
            Self::LoggedIn { client, .. }
            | Self::Reauthenticated { client, .. }
            | Self::NewDevice { client, .. }
            | Self::SessionLimitReached { client, .. }
            | Self::Refreshed { client, .. }
            | Self::Reuse { client, .. }
            | Self::Forged { client, .. }
            | Self::Ahead { client, .. }
            | Self::ManyRecoveries { client, .. }
            | Self::ClientMismatch { client, .. }
            | Self::UserRefused { client, .. }
            | Self::ClaimsUnreadable { client, .. }
            | Self::RevocationDelayed { client, .. } => Some(client),
            Self::SessionRevoked { client, .. }
            | Self::UserRevoked { client, .. }
            | Self::EveryoneRevoked { client, .. }
            | Self::TokenRevoked { client, .. } => client.as_ref(),
            Self::RevocationsLost { .. }
            | Self::ClockDiffers { .. }
            | Self::IssuerFailed { .. }
            | Self::StoreFailed { .. } => None,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId::from_bytes([7; 16]);
    /// What a client could send to forge a line of the log.
    const FORGED: &str = "x\"\r\n2026-01-01 ERROR \u{1b}[31m\u{2028}all is lost";

    fn client() -> Client {
        Client {
            ip: Some("203.0.113.7".parse().unwrap()),
            user_agent: Some(FORGED.into()),
            label: Some("kitchen\n".into()),
            actor: None,
        }
    }

    /// Each variant once, each with all that may be known. The `match` names the variant that comes after another one, so a
    /// new variant does not compile without an example here.
    fn one_of_each() -> Vec<Event> {
        let user_id: Arc<str> = FORGED.into();
        let (session_id, reason, error) = (SESSION, RevocationReason::Logout, FORGED.to_owned());
        let mut all = vec![Event::LoggedIn { user_id: user_id.clone(), session_id, client: client() }];
        loop {
            let (user_id, error, client) = (user_id.clone(), error.clone(), client());
            all.push(match all.last().unwrap() {
                Event::LoggedIn { .. } => Event::Reauthenticated { user_id, session_id, replaced: SESSION, client },
                Event::Reauthenticated { .. } => Event::NewDevice { user_id, session_id, sessions: 2, client },
                Event::NewDevice { .. } => Event::SessionLimitReached { user_id, client },
                Event::SessionLimitReached { .. } => {
                    Event::Refreshed { user_id, session_id, generation: 3, verdict: Verdict::Rotate, client }
                }
                Event::Refreshed { .. } => Event::Reuse { user_id, session_id, generation: 3, client },
                Event::Reuse { .. } => Event::Forged { user_id, session_id, client },
                Event::Forged { .. } => Event::Ahead { user_id, session_id, presented: 4, stored: 3, client },
                Event::Ahead { .. } => Event::ManyRecoveries { user_id, session_id, recoveries: 4, client },
                Event::ManyRecoveries { .. } => {
                    Event::ClientMismatch { user_id, session_id, verdict: BindingVerdict::Rejected, client }
                }
                Event::ClientMismatch { .. } => Event::UserRefused { user_id, session_id, client },
                Event::UserRefused { .. } => Event::ClaimsUnreadable { user_id, session_id, error, client },
                Event::ClaimsUnreadable { .. } => {
                    Event::SessionRevoked { user_id: Some(user_id), session_id, reason, client: Some(client) }
                }
                Event::SessionRevoked { .. } => {
                    Event::UserRevoked { user_id, sessions: 2, reason, client: Some(client) }
                }
                Event::UserRevoked { .. } => Event::EveryoneRevoked { reason, client: Some(client) },
                Event::EveryoneRevoked { .. } => Event::RevocationDelayed { user_id, session_id, client },
                Event::RevocationDelayed { .. } => Event::TokenRevoked {
                    user_id: Some(user_id),
                    session_id: Some(session_id),
                    jti: FORGED.into(),
                    client: Some(client),
                },
                Event::TokenRevoked { .. } => Event::RevocationsLost { count: 2 },
                Event::RevocationsLost { .. } => Event::ClockDiffers { ahead_by_millis: -2_500 },
                Event::ClockDiffers { .. } => Event::IssuerFailed { request: "fetch_keys", error },
                Event::IssuerFailed { .. } => Event::StoreFailed { call: "load", error },
                Event::StoreFailed { .. } => return all,
            });
        }
    }

    #[test]
    fn every_event_is_a_flat_object_that_begins_with_its_name_and_has_the_shared_columns() {
        for event in one_of_each() {
            let text = serde_json::to_string(&event).unwrap();
            assert!(text.starts_with(&format!(r#"{{"event":"{}","#, event.name())), "{text}");
            let json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
            assert!(json.values().all(|value| !value.is_object() && !value.is_array()), "{text}");
            let column = |name: &str| json.get(name).and_then(serde_json::Value::as_str);
            assert_eq!(column("user_id"), event.user_id(), "{text}");
            assert_eq!(column("session_id"), event.session_id().map(|id| id.to_string()).as_deref(), "{text}");
            let client = event.client().cloned().unwrap_or_default();
            assert_eq!(column("ip"), client.ip.map(|ip| ip.to_string()).as_deref(), "{text}");
            assert_eq!(
                (column("user_agent"), column("label")),
                (client.user_agent.as_deref(), client.label.as_deref())
            );
        }
    }

    #[test]
    fn whatever_concerns_a_user_names_the_user_and_whatever_a_request_causes_names_its_client() {
        for event in one_of_each() {
            let is_of_the_node =
                ["revocations_lost", "clock_differs", "issuer_failed", "store_failed"].contains(&event.name());
            assert_eq!(event.client().is_none(), is_of_the_node, "{event}");
            assert_eq!(event.user_id().is_none(), is_of_the_node || event.name() == "everyone_revoked", "{event}");
        }
    }

    #[test]
    fn the_name_of_every_event_is_its_own_and_in_snake_case() {
        let names: std::collections::BTreeSet<_> = one_of_each().iter().map(Event::name).collect();
        assert_eq!(names.len(), one_of_each().len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    }

    #[test]
    fn every_event_is_one_line_of_text_whatever_a_client_has_sent() {
        for event in one_of_each() {
            let line = event.to_string();
            assert!(!line.chars().any(|c| c.is_control() || c == '\u{2028}'), "{line}");
            assert_eq!(line.contains("from 203.0.113.7"), event.client().is_some(), "{line}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_out_of_the_line() {
        let event = Event::LoggedIn { user_id: "alice".into(), session_id: SESSION, client: Client::default() };
        assert_eq!(event.to_string(), format!("user \"alice\" logged in: session {SESSION}"));
        let client = Client { label: Some("kitchen".into()), ..Client::default() };
        let event = Event::EveryoneRevoked { reason: RevocationReason::Other, client: Some(client) };
        let line = "the sessions of all users were revoked (other) from a device labeled \"kitchen\"";
        assert_eq!(event.to_string(), line);
    }

    #[test]
    fn an_unknown_client_is_left_out_of_the_object_and_unknown_values_of_a_known_one_are_null() {
        let revoked = |client| Event::EveryoneRevoked { reason: RevocationReason::RevokedByAdmin, client };
        let json = |event: &Event| serde_json::to_string(event).unwrap();
        assert_eq!(json(&revoked(None)), r#"{"event":"everyone_revoked","reason":"revoked_by_admin"}"#);
        let known =
            r#"{"event":"everyone_revoked","reason":"revoked_by_admin","ip":null,"user_agent":null,"label":null}"#;
        assert_eq!(json(&revoked(Some(Client::default()))), known);
    }
}
