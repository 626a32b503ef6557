//! Events as counters.

use super::Event;
use crate::metrics::Meter;
use crate::ratchet::Verdict;
use crate::session::RevocationReason;

pub(super) fn count(event: &Event, meter: Meter) {
    match event {
        Event::LoggedIn { .. } => meter.logged_in(),
        Event::Reauthenticated { .. } => meter.reauthenticated(),
        Event::Refreshed { verdict, .. } => meter.refreshed(verdict_name(*verdict)),
        Event::SessionRevoked { reason, .. } => meter.revoked("session", reason_name(*reason)),
        Event::UserRevoked { reason, .. } => meter.revoked("user", reason_name(*reason)),
        Event::EveryoneRevoked { reason, .. } => meter.revoked("everyone", reason_name(*reason)),
        // It has no reason of its own.
        Event::TokenRevoked { .. } => meter.revoked("token", reason_name(RevocationReason::Other)),
        // A forged token has no event as a refresh.
        Event::Forged { .. } => meter.refreshed(verdict_name(Verdict::Forged)),
        _ => {}
    }
    if event.is_security() {
        meter.security_event(event.name());
    }
}

const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Forged => "forged",
        Verdict::Revoked => "revoked",
        Verdict::Expired => "expired",
        Verdict::Idle => "idle",
        Verdict::Mismatch => "mismatch",
        Verdict::Touch => "touch",
        Verdict::Rotate => "rotate",
        Verdict::Ahead => "ahead",
        Verdict::Echo => "echo",
        Verdict::Busy => "busy",
        Verdict::Recover => "recover",
        Verdict::Reuse => "reuse",
    }
}

/// As in JSON.
const fn reason_name(reason: RevocationReason) -> &'static str {
    match reason {
        RevocationReason::Logout => "logout",
        RevocationReason::RevokedByUser => "revoked_by_user",
        RevocationReason::RevokedByAdmin => "revoked_by_admin",
        RevocationReason::Reuse => "reuse",
        RevocationReason::ClientMismatch => "client_mismatch",
        RevocationReason::Evicted => "evicted",
        RevocationReason::Replaced => "replaced",
        RevocationReason::ActorEnded => "actor_ended",
        RevocationReason::IdentityProvider => "identity_provider",
        RevocationReason::Other => "other",
    }
}
