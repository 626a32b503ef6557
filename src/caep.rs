//! Revocations as security events for others: CAEP 1.0 of the Shared Signals Framework.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::event::Event;
use crate::session::RevocationReason;
use crate::time::Timestamp;

const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

/// Writes revocations as the claims of security event tokens (RFC 8417), for others who are to end their sessions too: the
/// event `session-revoked` of CAEP 1.0.
///
/// The app signs the claims as a JWT of the type `secevent+jwt`, and sends it: by push (RFC 8935), for example. Receivers that
/// follow the CAEP interoperability profile expect RS256. Give [`session_revoked`](Self::session_revoked) the events of
/// [`on_event`](crate::AuthBuilder::on_event):
///
/// ```
/// use axum_refresh::federation::SecurityEventClaims;
/// use axum_refresh::{Auth, MemoryStore, Secret};
///
/// # fn sign_and_queue(_: serde_json::Value) {}
/// let claims = SecurityEventClaims::new("https://shop.example", "https://partner.example");
/// let auth: Auth = Auth::builder(Secret::random()?, MemoryStore::new())
///     .on_event(move |event| {
///         if let Ok(Some(claims)) = claims.session_revoked(event, std::time::SystemTime::now()) {
///             sign_and_queue(claims);
///         }
///     })
///     .build()?;
/// # Ok::<_, axum_refresh::config::SettingsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityEventClaims {
    issuer: Box<str>,
    audience: Box<str>,
    tenant: Option<Box<str>>,
}

impl SecurityEventClaims {
    /// Claims that `issuer`, the app, sends to `audience`. The users are the issuer's, by the app's own ids.
    pub fn new(issuer: &str, audience: &str) -> Self {
        Self { issuer: issuer.into(), audience: audience.into(), tenant: None }
    }

    /// Names the tenant whose sessions and users these are, by an id that the receiver knows. Only with a tenant can everyone's
    /// sessions be the subject of an event.
    #[must_use]
    pub fn tenant(mut self, id: &str) -> Self {
        self.tenant = Some(id.into());
        self
    }

    /// The claims for an event that happened at `at`. None if no session was revoked by it.
    ///
    /// - [`Event::SessionRevoked`]: the subject (`sub_id`) is the session together with its user, as a complex subject of the
    ///   Shared Signals Framework: `user` is an `iss_sub` identifier and `session` an `opaque` one (RFC 9493).
    /// - [`Event::UserRevoked`]: the subject is the user, so it is about all of the user's sessions, also if some were spared:
    ///   see [`Auth::revoke_user`](crate::Auth::revoke_user).
    /// - [`Event::EveryoneRevoked`]: the subject is the [`tenant`](Self::tenant). None without one.
    ///
    /// `initiating_entity` is `user`, `admin`, `policy` (reuse, a client mismatch, the session limit) or `system`, by the
    /// reason, and `admin` if somebody acted for the user. `reason_admin` has the reason in English.
    ///
    /// # Errors
    ///
    /// [`Error::Random`] if the operating system returned no random bytes for the `jti`.
    pub fn session_revoked(&self, event: &Event, at: SystemTime) -> Result<Option<Value>, Error> {
        let (user_id, session_id, reason) = match event {
            Event::SessionRevoked { user_id, session_id, reason, .. } => (user_id.as_deref(), Some(session_id), reason),
            Event::UserRevoked { user_id, reason, .. } => (Some(&**user_id), None, reason),
            Event::EveryoneRevoked { reason, .. } if self.tenant.is_some() => (None, None, reason),
            _ => return Ok(None),
        };
        let mut subject = Map::new();
        subject.insert("format".to_owned(), json!("complex"));
        if let Some(user_id) = user_id {
            let user = json!({ "format": "iss_sub", "iss": self.issuer, "sub": user_id });
            subject.insert("user".to_owned(), user);
        }
        if let Some(session_id) = session_id {
            subject.insert("session".to_owned(), json!({ "format": "opaque", "id": session_id }));
        }
        if let Some(tenant) = &self.tenant {
            subject.insert("tenant".to_owned(), json!({ "format": "opaque", "id": tenant }));
        }
        let mut jti = [0; 16];
        getrandom::fill(&mut jti).map_err(Error::random)?;
        let seconds = Timestamp::from(at).as_secs();
        Ok(Some(json!({
            "iss": self.issuer,
            "aud": self.audience,
            "iat": seconds,
            "jti": URL_SAFE_NO_PAD.encode(jti),
            "sub_id": subject,
            "events": {
                SESSION_REVOKED: {
                    "event_timestamp": seconds,
                    "initiating_entity": initiating_entity(event, *reason),
                    "reason_admin": { "en": reason.to_string() },
                },
            },
        })))
    }
}

fn initiating_entity(event: &Event, reason: RevocationReason) -> &'static str {
    match reason {
        RevocationReason::Logout | RevocationReason::RevokedByUser | RevocationReason::Replaced => {
            let acts = event.client().is_some_and(|client| client.actor.is_some());
            if acts { "admin" } else { "user" }
        }
        RevocationReason::RevokedByAdmin => "admin",
        RevocationReason::Reuse | RevocationReason::ClientMismatch | RevocationReason::Evicted => "policy",
        RevocationReason::ActorEnded | RevocationReason::IdentityProvider | RevocationReason::Other => "system",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::session::{Actor, Client, SessionId};

    const SESSION: SessionId = SessionId::from_bytes([7; 16]);

    fn claims() -> SecurityEventClaims {
        SecurityEventClaims::new("https://shop.example", "https://partner.example")
    }

    fn written(claims: &SecurityEventClaims, event: &Event) -> Option<Value> {
        claims.session_revoked(event, UNIX_EPOCH + Duration::from_millis(1_800_000_000_999)).unwrap()
    }

    fn of_session(reason: RevocationReason, client: Option<Client>) -> Event {
        Event::SessionRevoked { user_id: Some("alice".into()), session_id: SESSION, reason, client }
    }

    #[test]
    fn a_revoked_session_has_the_claims_of_the_specification() {
        let mut written = written(&claims(), &of_session(RevocationReason::Reuse, None)).unwrap();
        let jti = written.as_object_mut().unwrap().remove("jti").unwrap();
        assert_eq!(jti.as_str().unwrap().len(), 22);
        let expected = json!({
            "iss": "https://shop.example",
            "aud": "https://partner.example",
            "iat": 1_800_000_000,
            "sub_id": {
                "format": "complex",
                "user": { "format": "iss_sub", "iss": "https://shop.example", "sub": "alice" },
                "session": { "format": "opaque", "id": SESSION.to_string() },
            },
            "events": {
                "https://schemas.openid.net/secevent/caep/event-type/session-revoked": {
                    "event_timestamp": 1_800_000_000,
                    "initiating_entity": "policy",
                    "reason_admin": { "en": "reuse of a refresh token" },
                },
            },
        });
        assert_eq!(written, expected);
    }

    #[test]
    fn the_subject_is_what_was_revoked() {
        let tenant = claims().tenant("t1");
        let reason = RevocationReason::RevokedByAdmin;
        let user = Event::UserRevoked { user_id: "alice".into(), sessions: 2, reason, client: None };
        let unknown = Event::SessionRevoked { user_id: None, session_id: SESSION, reason, client: None };
        let everyone = Event::EveryoneRevoked { reason, client: None };
        let members = |claims: &SecurityEventClaims, event: &Event| {
            written(claims, event).map(|written| {
                let subject = written["sub_id"].as_object().unwrap();
                subject.keys().map(String::as_str).filter(|name| *name != "format").collect::<Vec<_>>().join(" ")
            })
        };
        for (event, without_tenant, with_tenant) in [
            (of_session(reason, None), Some("session user"), Some("session tenant user")),
            (user, Some("user"), Some("tenant user")),
            (unknown, Some("session"), Some("session tenant")),
            (everyone, None, Some("tenant")),
        ] {
            assert_eq!(members(&claims(), &event).as_deref(), without_tenant, "{event}");
            assert_eq!(members(&tenant, &event).as_deref(), with_tenant, "{event}");
        }
    }

    #[test]
    fn the_initiating_entity_follows_from_the_reason_and_from_who_acts() {
        let entity = |reason, client| {
            let written = written(&claims(), &of_session(reason, client)).unwrap();
            written["events"][SESSION_REVOKED]["initiating_entity"].as_str().unwrap().to_owned()
        };
        for (reason, expected) in [
            (RevocationReason::Logout, "user"),
            (RevocationReason::RevokedByUser, "user"),
            (RevocationReason::Replaced, "user"),
            (RevocationReason::RevokedByAdmin, "admin"),
            (RevocationReason::Reuse, "policy"),
            (RevocationReason::ClientMismatch, "policy"),
            (RevocationReason::Evicted, "policy"),
            (RevocationReason::ActorEnded, "system"),
            (RevocationReason::IdentityProvider, "system"),
            (RevocationReason::Other, "system"),
        ] {
            assert_eq!(entity(reason, None), expected, "{reason}");
        }
        let actor = Some(Arc::new(Actor { user_id: "root".into(), session_id: SESSION }));
        assert_eq!(entity(RevocationReason::Logout, Some(Client { actor, ..Client::default() })), "admin");
    }

    #[test]
    fn what_revokes_no_session_has_no_claims() {
        let event = Event::LoggedIn { user_id: "alice".into(), session_id: SESSION, client: Client::default() };
        assert_eq!(written(&claims().tenant("t1"), &event), None);
        let event = Event::TokenRevoked { user_id: None, session_id: None, jti: "x".into(), client: None };
        assert_eq!(written(&claims().tenant("t1"), &event), None);
    }

    #[test]
    fn every_token_has_an_id_of_its_own() {
        let event = of_session(RevocationReason::Logout, None);
        let jti = || written(&claims(), &event).unwrap()["jti"].to_string();
        assert_ne!(jti(), jti());
    }
}
