//! The refresh ratchet: what happens when a refresh token is presented.
//!
//! The ratchet is one pure function, [`present`]: no I/O, no clock, no randomness. A store carries out the verdict
//! with one compare-and-swap. The first rule that matches applies:
//!
//! | # | when | verdict | rotation state afterwards | response |
//! |---|---|---|---|---|
//! | 1 | the secret differs, or `p` is `u32::MAX` | [Forged](Verdict::Forged) | unchanged | refused |
//! | 2 | revoked | [Revoked](Verdict::Revoked) | unchanged | refused |
//! | 3 | `now >= expires_at` | [Expired](Verdict::Expired) | unchanged | refused |
//! | 4 | `now - last_seen_at >= idle_timeout` | [Idle](Verdict::Idle) | unchanged | refused |
//! | 5 | the binding does not hold | [Mismatch](Verdict::Mismatch) | revoked or unchanged | refused |
//! | 6 | `p = generation`, fresh | [Touch](Verdict::Touch) | unchanged | access token of `p` |
//! | 7 | `p = generation` | [Rotate](Verdict::Rotate) | `generation + 1`, parent `p` | access and refresh token |
//! | 8 | `p > generation` | [Ahead](Verdict::Ahead) | generation `p + 1`, parent `p` | access and refresh token |
//! | 9 | `p = parent`, fresh | [Echo](Verdict::Echo) | unchanged | access token of `p` |
//! | 10 | fresh | [Busy](Verdict::Busy) | unchanged | retry in a second |
//! | 11 | `p = parent`, `generation` not acknowledged | [Recover](Verdict::Recover) | `generation + 1`, same parent | access and refresh token |
//! | 12 | anything else | [Reuse](Verdict::Reuse) | revoked | refused; theft |
//!
//! `p` is the generation of the presented token. *Fresh* means that the last rotation is at most one grace period
//! (`grace`) ago. The difference is signed: if this node's clock is behind, the rotation counts as fresh. If rotation
//! is switched off, every `p` that passes rule 5 is Touch. Touch extends nothing, neither the grace period nor the
//! session's lifetime; like every use of a token it counts as activity.
//!
//! A rotation that lies further ahead than `grace` is the work of a broken clock and not of a race. It counts as fresh
//! for rules 9 and 10 and not for rule 6, so the newest token rotates (rule 7). Each of these three rules then sets
//! `rotated_at` to `now`: the session loses neither rotation nor reuse detection.
//!
//! With one-way delays up to D and clock skew between nodes up to S, `grace` has to be at least `2D + S`. A crash of
//! the client may lose a cookie that arrived less than `grace - 2D - S` ago.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Policy;
use crate::session::Revocation;
use crate::time::Timestamp;

/// The part of a session that a refresh reads and changes: the input of [`ratchet::present`](crate::ratchet::present).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RotationState {
    /// The generation of the newest refresh token: 0 after login, incremented by every rotation.
    pub generation: u32,
    /// The generation that `generation` was issued in exchange for; `None` after login.
    pub parent: Option<u32>,
    /// When `generation` was issued; `None` after login.
    pub rotated_at: Option<Timestamp>,
    /// The highest generation whose refresh token is known to have reached the client; `None` if none is.
    pub acknowledged: Option<u32>,
    /// How many times in a row a refresh token was lost on its way to the client and was replaced.
    pub recoveries: u32,
    /// When the client last used a token of the session.
    pub last_seen_at: Timestamp,
    /// When the session expires. Never changes after login.
    pub expires_at: Timestamp,
    /// The idle timeout of this session; `None` if it is that of the policy. The shorter of the two counts. Never changes
    /// after login.
    pub idle_timeout: Option<Duration>,
    /// The revocation of the session, if it is revoked. Never unset.
    pub revoked: Option<Revocation>,
}

impl RotationState {
    /// Creates the state of a session that begins now.
    pub const fn new(now: Timestamp, expires_at: Timestamp) -> Self {
        Self {
            generation: 0,
            parent: None,
            rotated_at: None,
            acknowledged: None,
            recoveries: 0,
            last_seen_at: now,
            expires_at,
            idle_timeout: None,
            revoked: None,
        }
    }

    /// Adds activity that was recorded elsewhere. Each value is a maximum, so neither of them ever decreases.
    pub fn merge_activity(&mut self, last_seen_at: Timestamp, acknowledged: Option<u32>) {
        self.last_seen_at = self.last_seen_at.max(last_seen_at);
        self.acknowledged = self.acknowledged.max(acknowledged);
    }

    /// Returns whether the session is neither revoked, nor expired, nor [idle](Self::is_idle).
    pub fn is_live(&self, now: Timestamp, idle_timeout: Duration) -> bool {
        self.revoked.is_none() && now < self.expires_at && !self.is_idle(now, idle_timeout)
    }

    /// Returns whether the client has used no token of the session for its own idle timeout, or for that of the policy,
    /// whichever is shorter.
    pub fn is_idle(&self, now: Timestamp, idle_timeout: Duration) -> bool {
        now.is_past(self.last_seen_at, self.shorter(idle_timeout))
    }

    /// Returns when the session ends if no token of it is used until then.
    pub fn ends_at(&self, idle_timeout: Duration) -> Timestamp {
        self.expires_at.min(self.last_seen_at.after(self.shorter(idle_timeout)))
    }

    fn shorter(&self, idle_timeout: Duration) -> Duration {
        self.idle_timeout.map_or(idle_timeout, |own| own.min(idle_timeout))
    }
}

/// A presented refresh token, with the results of the checks made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The generation of the token.
    pub generation: u32,
    /// Whether the hash of the token's secret equals the session's.
    pub secret_matches: bool,
    /// Whether the client still matches the one that logged in.
    pub binding: BindingVerdict,
}

/// Whether the client still matches the one that logged in, and what follows if it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingVerdict {
    /// The client matches, or the policy does not compare clients.
    Holds,
    /// The client differs. The request is served, and the mismatch is reported as an [`Event`](crate::Event).
    Observed,
    /// The client differs. The request is refused until the user has authenticated again, and the session stays valid.
    StepUp,
    /// The client differs. The request is refused, and the session stays valid.
    Rejected,
    /// The client differs. The request is refused, and the session is revoked.
    Revoked,
}

/// The decision about a presented refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// The tag is valid, but the secret is not the session's: the server's key may have leaked. Refused.
    Forged,
    /// The session is revoked. Refused.
    Revoked,
    /// The session has reached its absolute lifetime. Refused.
    Expired,
    /// The client has used no token of the session for the idle timeout or longer. Refused.
    Idle,
    /// The client does not match the one that logged in. Refused.
    Mismatch,
    /// The newest token, presented within the grace period: a client that refreshes often. Grants an access token and
    /// writes nothing. Extends neither the grace period nor the session's lifetime.
    Touch,
    /// The newest token, presented after the grace period: the ordinary case. Grants an access token and the next
    /// refresh token.
    Rotate,
    /// A token newer than the store's row: the store has lost a write. Grants an access token and the next refresh
    /// token, so that the lost write logs nobody out.
    Ahead,
    /// The parent, presented within the grace period: the loser of a race. Grants an access token only, because the
    /// newest refresh token is on its way to the same client and is not handed out twice.
    Echo,
    /// A token that is older than the newest and not its parent, presented within the grace period, while a race is
    /// still possible. Refused for now: the client tries again in a second.
    Busy,
    /// The parent, presented after the grace period, when its successor was never acknowledged: the response got lost.
    /// Grants an access token and another successor. The lost one becomes a trap: presenting it is Reuse.
    Recover,
    /// A superseded token was presented again: either it was stolen, or the owner's was. The session is revoked.
    Reuse,
}

/// A verdict and its consequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The decision.
    pub verdict: Verdict,
    /// The generation of the access token to issue, if any.
    pub access: Option<u32>,
    /// The generation of the refresh token to hand out, if any.
    pub refresh: Option<u32>,
    /// The write that has to succeed before the client gets a response; `None` if nothing is written.
    pub next: Option<Next>,
}

/// The write that has to succeed before the client gets a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This rotation state replaces the stored one.
    State(RotationState),
    /// The stored rotation state is revoked and otherwise unchanged.
    Revoke,
}

impl Outcome {
    const fn refuse(verdict: Verdict) -> Self {
        Self { verdict, access: None, refresh: None, next: None }
    }

    const fn revoke(verdict: Verdict) -> Self {
        Self { verdict, access: None, refresh: None, next: Some(Next::Revoke) }
    }

    const fn access_only(verdict: Verdict, generation: u32) -> Self {
        Self { verdict, access: Some(generation), refresh: None, next: None }
    }

    const fn hand_out(verdict: Verdict, next: RotationState) -> Self {
        Self { verdict, access: Some(next.generation), refresh: Some(next.generation), next: Some(Next::State(next)) }
    }
}

/// Decides about a presented refresh token, by the rules of this [module](self).
pub fn present(state: &RotationState, presented: Presented, now: Timestamp, policy: &Policy) -> Outcome {
    present_without(None, state, presented, now, policy)
}

/// A rotation whose refresh token has not left the server yet: what [`Outcome::next`] replaced, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rotation {
    /// The verdict that handed out the refresh token.
    pub verdict: Verdict,
    /// The rotation state that was read.
    pub before: RotationState,
    /// The rotation state that was written.
    pub after: RotationState,
}

/// Takes back a rotation whose refresh token never left the server: a page took too long to get its cookies, failed, or its
/// visitor has gone. Returns the state that replaces the stored one, or `None` if it stays as it is.
///
/// Nobody has the token, so it was not lost on its way, and neither does it count as a recovery nor does the next request
/// with its parent. A [`Rotate`](Verdict::Rotate) is undone if it is still the last rotation. If it is not, another request
/// has recovered from its loss, and that recovery does not count. The generation of a recovery stays: the page's handler
/// has had an access token of the one before it, whose use must not acknowledge the newest.
pub fn take_back(state: &RotationState, rotation: &Rotation) -> Option<RotationState> {
    take_back_without(None, state, rotation)
}

/// Returns whether using an access token at `now` proves that the refresh token of its generation has reached the
/// client.
///
/// It does only if the access token was issued more than `grace` ago: a response that arrived does not prove that its
/// cookie is on the client's disk, and a page that is rendered on the server uses the access token before the response
/// is sent.
pub fn acknowledges(issued_at: Timestamp, now: Timestamp, policy: &Policy) -> bool {
    acknowledges_without(None, issued_at, now, policy)
}

/// A rule that can be switched off, so that the model can show what the rule prevents.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    Forged,
    Revoked,
    Expired,
    Idle,
    Mismatch,
    Touch,
    Rotate,
    Ahead,
    Echo,
    Busy,
    Recover,
    Reuse,
    LateAcknowledgement,
    /// The newest token rotates if the last rotation is far ahead.
    FutureRotation,
    /// Echo and Busy correct the time of a rotation that is far ahead.
    FutureCorrection,
    /// A rotation whose token never left the server is undone.
    TakeBackRotation,
    /// A recovery whose token never left the server, or from such a loss, does not count.
    TakeBackRecovery,
}

impl Rule {
    pub const ALL: [Self; 17] = [
        Self::Forged,
        Self::Revoked,
        Self::Expired,
        Self::Idle,
        Self::Mismatch,
        Self::Touch,
        Self::Rotate,
        Self::Ahead,
        Self::Echo,
        Self::Busy,
        Self::Recover,
        Self::Reuse,
        Self::LateAcknowledgement,
        Self::FutureRotation,
        Self::FutureCorrection,
        Self::TakeBackRotation,
        Self::TakeBackRecovery,
    ];
}

/// [`acknowledges`], with one rule switched off.
#[doc(hidden)]
#[inline]
pub fn acknowledges_without(off: Option<Rule>, issued_at: Timestamp, now: Timestamp, policy: &Policy) -> bool {
    now > issued_at.after(policy.grace) || off == Some(Rule::LateAcknowledgement)
}

/// [`take_back`], with one rule switched off.
#[doc(hidden)]
#[inline]
pub fn take_back_without(off: Option<Rule>, state: &RotationState, rotation: &Rotation) -> Option<RotationState> {
    let on = |rule| off != Some(rule);
    let Rotation { verdict, before, after } = rotation;
    if state.revoked.is_some() {
        return None;
    }
    let is_last = state.generation == after.generation && state.rotated_at == after.rotated_at;
    if *verdict == Verdict::Rotate && is_last && on(Rule::TakeBackRotation) {
        return Some(RotationState { last_seen_at: state.last_seen_at, acknowledged: state.acknowledged, ..*before });
    }
    let is_in_same_run = state.parent == after.parent && state.generation >= after.generation && state.recoveries > 0;
    (is_in_same_run && on(Rule::TakeBackRecovery)).then(|| RotationState { recoveries: state.recoveries - 1, ..*state })
}

/// [`present`], with one rule switched off.
#[doc(hidden)]
#[inline]
pub fn present_without(
    off: Option<Rule>,
    state: &RotationState,
    presented: Presented,
    now: Timestamp,
    policy: &Policy,
) -> Outcome {
    let on = |rule| off != Some(rule);
    let p = presented.generation;
    let Some(successor) = p.checked_add(1).filter(|_| presented.secret_matches || !on(Rule::Forged)) else {
        return Outcome::refuse(Verdict::Forged);
    };
    if state.revoked.is_some() && on(Rule::Revoked) {
        return Outcome::refuse(Verdict::Revoked);
    }
    if now >= state.expires_at && on(Rule::Expired) {
        return Outcome::refuse(Verdict::Expired);
    }
    if state.is_idle(now, policy.idle_timeout) && on(Rule::Idle) {
        return Outcome::refuse(Verdict::Idle);
    }
    match presented.binding {
        BindingVerdict::StepUp | BindingVerdict::Rejected if on(Rule::Mismatch) => {
            return Outcome::refuse(Verdict::Mismatch);
        }
        BindingVerdict::Revoked if on(Rule::Mismatch) => return Outcome::revoke(Verdict::Mismatch),
        _ => {}
    }
    if !policy.rotation {
        return Outcome::access_only(Verdict::Touch, p);
    }
    let fresh = state.rotated_at.is_some_and(|at| now <= at.after(policy.grace));
    // Further ahead than the clock skew that the grace period allows for.
    let far_ahead = state.rotated_at.is_some_and(|at| at > now.after(policy.grace));
    // Written with Echo and Busy too: if the successor got lost, nobody has the newest token, and nothing else would ever
    // set the time right.
    let corrected = (far_ahead && on(Rule::FutureCorrection))
        .then_some(Next::State(RotationState { rotated_at: Some(now), ..*state }));
    let rotated =
        RotationState { generation: successor, parent: Some(p), rotated_at: Some(now), recoveries: 0, ..*state };
    if p == state.generation {
        let rotates = far_ahead && on(Rule::FutureRotation);
        let touch = (fresh && !rotates && on(Rule::Touch)) || !on(Rule::Rotate);
        return if touch {
            Outcome::access_only(Verdict::Touch, p)
        } else {
            Outcome::hand_out(Verdict::Rotate, rotated)
        };
    }
    if p > state.generation && on(Rule::Ahead) {
        return Outcome::hand_out(Verdict::Ahead, rotated);
    }
    let is_parent = state.parent == Some(p);
    if is_parent && fresh && on(Rule::Echo) {
        return Outcome { next: corrected, ..Outcome::access_only(Verdict::Echo, p) };
    }
    if fresh && on(Rule::Busy) {
        return Outcome { next: corrected, ..Outcome::refuse(Verdict::Busy) };
    }
    let acknowledged = state.acknowledged.is_some_and(|acknowledged| acknowledged >= state.generation);
    let may_recover = policy.recovery_limit.is_none_or(|limit| state.recoveries < limit);
    if is_parent && !acknowledged && may_recover && on(Rule::Recover) {
        // The lost generation is skipped and not handed out again: if it is ever presented, somebody intercepted it.
        if let Some(generation) = state.generation.checked_add(1) {
            let recovered = RotationState {
                generation,
                rotated_at: Some(now),
                recoveries: state.recoveries.saturating_add(1),
                ..*state
            };
            return Outcome::hand_out(Verdict::Recover, recovered);
        }
    }
    if on(Rule::Reuse) { Outcome::revoke(Verdict::Reuse) } else { Outcome::refuse(Verdict::Reuse) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Revocation, RevocationReason};

    const GRACE: i64 = 30_000;
    const ROTATED: Timestamp = Timestamp::from_millis(1_000_000);

    fn at(after_rotation: i64) -> Timestamp {
        Timestamp::from_millis(ROTATED.as_millis() + after_rotation)
    }

    /// Generation 5, issued in exchange for 4 at `ROTATED`, not acknowledged and never idle.
    fn rotated_state() -> RotationState {
        RotationState {
            generation: 5,
            parent: Some(4),
            rotated_at: Some(ROTATED),
            last_seen_at: at(GRACE * 100),
            ..RotationState::new(Timestamp::from_millis(0), Timestamp::MAX)
        }
    }

    fn policy() -> Policy {
        Policy { grace: Duration::from_millis(30_000), ..Policy::default() }
    }

    const fn token(generation: u32) -> Presented {
        Presented { generation, secret_matches: true, binding: BindingVerdict::Holds }
    }

    fn judge(state: &RotationState, p: u32, now: Timestamp) -> Outcome {
        present(state, token(p), now, &policy())
    }

    fn next(outcome: Outcome) -> RotationState {
        match outcome.next {
            Some(Next::State(state)) => state,
            other => panic!("expected a new rotation state, got {other:?}"),
        }
    }

    fn assert_refused(outcome: Outcome, verdict: Verdict) {
        assert_eq!(outcome, Outcome { verdict, access: None, refresh: None, next: None });
    }

    #[test]
    fn rule_1_a_different_secret_is_forged_even_if_the_session_is_revoked() {
        let mut state = rotated_state();
        let forged = Presented { secret_matches: false, ..token(5) };
        assert_refused(present(&state, forged, at(0), &policy()), Verdict::Forged);
        state.revoked = Some(Revocation { at: at(0), reason: RevocationReason::Logout });
        assert_refused(present(&state, forged, at(0), &policy()), Verdict::Forged);
    }

    #[test]
    fn rule_1_a_generation_without_a_next_one_is_forged() {
        assert_refused(judge(&rotated_state(), u32::MAX, at(0)), Verdict::Forged);
        assert_eq!(judge(&rotated_state(), u32::MAX - 1, at(0)).refresh, Some(u32::MAX));
    }

    #[test]
    fn rule_2_a_revoked_session_stays_revoked_for_every_generation() {
        let mut state = rotated_state();
        state.expires_at = at(0);
        state.revoked = Some(Revocation { at: at(0), reason: RevocationReason::Logout });
        for p in [0, 3, 4, 5, 6] {
            assert_refused(judge(&state, p, at(1)), Verdict::Revoked);
        }
    }

    #[test]
    fn rule_3_a_session_is_expired_from_its_expiry_on() {
        let state = RotationState { expires_at: at(GRACE * 2), last_seen_at: at(0), ..rotated_state() };
        assert_eq!(judge(&state, 5, at(GRACE * 2 - 1)).verdict, Verdict::Rotate);
        for p in [3, 4, 5, 6] {
            assert_refused(judge(&state, p, at(GRACE * 2)), Verdict::Expired);
        }
    }

    #[test]
    fn rule_4_a_session_is_idle_from_the_idle_timeout_on() {
        let idle = i64::try_from(policy().idle_timeout.as_millis()).unwrap();
        let state = RotationState { last_seen_at: at(0), ..rotated_state() };
        assert_eq!(judge(&state, 5, at(idle - 1)).verdict, Verdict::Rotate);
        assert_refused(judge(&state, 5, at(idle)), Verdict::Idle);
    }

    #[test]
    fn rule_3_comes_before_rule_4() {
        let state = RotationState { last_seen_at: Timestamp::from_millis(0), expires_at: ROTATED, ..rotated_state() };
        let policy = Policy { idle_timeout: Duration::from_millis(1), ..policy() };
        assert_refused(present(&state, token(5), at(0), &policy), Verdict::Expired);
    }

    #[test]
    fn rule_5_a_binding_that_does_not_hold_refuses_the_token_or_revokes_the_session() {
        let judge = |binding| present(&rotated_state(), Presented { binding, ..token(5) }, at(GRACE + 1), &policy());
        assert_eq!(judge(BindingVerdict::Observed).verdict, Verdict::Rotate);
        assert_refused(judge(BindingVerdict::Rejected), Verdict::Mismatch);
        let revoked = judge(BindingVerdict::Revoked);
        assert_eq!((revoked.verdict, revoked.next), (Verdict::Mismatch, Some(Next::Revoke)));
        assert_eq!((revoked.access, revoked.refresh), (None, None));
    }

    #[test]
    fn rule_6_the_newest_token_within_the_grace_period_writes_nothing() {
        for now in [at(0), at(GRACE), at(-5_000)] {
            let touch = judge(&rotated_state(), 5, now);
            assert_eq!(touch, Outcome::access_only(Verdict::Touch, 5));
        }
    }

    #[test]
    fn rule_7_the_newest_token_after_the_grace_period_rotates() {
        let old = RotationState { recoveries: 2, acknowledged: Some(5), ..rotated_state() };
        let rotate = judge(&old, 5, at(GRACE + 1));
        assert_eq!((rotate.verdict, rotate.access, rotate.refresh), (Verdict::Rotate, Some(6), Some(6)));
        let expected =
            RotationState { generation: 6, parent: Some(5), rotated_at: Some(at(GRACE + 1)), recoveries: 0, ..old };
        assert_eq!(next(rotate), expected);
    }

    #[test]
    fn rule_7_the_newest_token_rotates_if_the_last_rotation_is_further_ahead_than_the_grace_period() {
        for now in [at(-GRACE - 1), at(-6 * 24 * 3_600_000)] {
            let rotate = judge(&rotated_state(), 5, now);
            assert_eq!((rotate.verdict, rotate.access, rotate.refresh), (Verdict::Rotate, Some(6), Some(6)));
            let expected = RotationState { generation: 6, parent: Some(5), rotated_at: Some(now), ..rotated_state() };
            assert_eq!(next(rotate), expected);
        }
        assert_eq!(judge(&rotated_state(), 5, at(-GRACE)), Outcome::access_only(Verdict::Touch, 5));
    }

    #[test]
    fn rules_9_and_10_correct_a_rotation_that_is_further_ahead_than_the_grace_period() {
        for (p, verdict, access) in [(4, Verdict::Echo, Some(4)), (3, Verdict::Busy, None), (0, Verdict::Busy, None)] {
            let now = at(-GRACE - 1);
            let corrected = RotationState { rotated_at: Some(now), ..rotated_state() };
            let expected = Outcome { verdict, access, refresh: None, next: Some(Next::State(corrected)) };
            assert_eq!(judge(&rotated_state(), p, now), expected);
            assert_eq!(judge(&corrected, p, now), Outcome { next: None, ..expected });
            assert_eq!(judge(&rotated_state(), p, at(-GRACE)), Outcome { next: None, ..expected });
        }
    }

    #[test]
    fn after_a_clock_that_was_far_ahead_a_superseded_token_is_reuse_again() {
        let ahead = next(judge(&rotated_state(), 5, at(6 * 24 * 3_600_000)));
        let right = next(judge(&ahead, 6, at(GRACE + 1)));
        for p in [4, 5, 6] {
            let late = at(2 * GRACE + 2);
            let verdict = judge(&RotationState { acknowledged: Some(7), ..right }, p, late).verdict;
            assert_eq!(verdict, Verdict::Reuse, "{p}");
        }
    }

    #[test]
    fn rule_7_the_first_refresh_after_login_rotates_at_once() {
        let login = RotationState::new(ROTATED, Timestamp::MAX);
        let rotate = judge(&login, 0, ROTATED);
        assert_eq!((rotate.verdict, next(rotate).generation), (Verdict::Rotate, 1));
    }

    #[test]
    fn rule_8_a_token_newer_than_the_row_is_trusted() {
        for now in [at(1), at(GRACE + 1)] {
            let old = RotationState { recoveries: 2, ..rotated_state() };
            let ahead = judge(&old, 8, now);
            assert_eq!((ahead.verdict, ahead.access, ahead.refresh), (Verdict::Ahead, Some(9), Some(9)));
            let expected =
                RotationState { generation: 9, parent: Some(8), rotated_at: Some(now), recoveries: 0, ..old };
            assert_eq!(next(ahead), expected);
        }
    }

    #[test]
    fn rule_9_the_parent_within_the_grace_period_gets_an_access_token_of_its_own_generation() {
        let acknowledged = RotationState { acknowledged: Some(5), ..rotated_state() };
        for state in [rotated_state(), acknowledged] {
            for now in [at(0), at(GRACE)] {
                assert_eq!(judge(&state, 4, now), Outcome::access_only(Verdict::Echo, 4));
            }
        }
    }

    #[test]
    fn rule_10_an_older_token_within_the_grace_period_is_busy() {
        for p in [0, 3] {
            assert_refused(judge(&rotated_state(), p, at(GRACE)), Verdict::Busy);
        }
    }

    #[test]
    fn rule_11_the_parent_of_a_lost_generation_gets_another_one() {
        let late = at(GRACE * 50);
        let recover = judge(&rotated_state(), 4, late);
        assert_eq!((recover.verdict, recover.access, recover.refresh), (Verdict::Recover, Some(6), Some(6)));
        let expected = RotationState { generation: 6, rotated_at: Some(late), recoveries: 1, ..rotated_state() };
        assert_eq!(next(recover), expected);
    }

    #[test]
    fn rule_11_an_acknowledgement_of_an_older_generation_does_not_count() {
        let state = RotationState { acknowledged: Some(4), ..rotated_state() };
        assert_eq!(judge(&state, 4, at(GRACE + 1)).verdict, Verdict::Recover);
    }

    #[test]
    fn rule_11_presenting_the_generation_that_a_recovery_skipped_is_reuse() {
        let recovered = next(judge(&rotated_state(), 4, at(GRACE + 1)));
        let rotated = at(GRACE + 1);
        let late = Timestamp::from_millis(rotated.as_millis() + GRACE + 1);
        assert_eq!(judge(&recovered, 5, late).verdict, Verdict::Reuse);
        assert_eq!(judge(&recovered, 4, late).verdict, Verdict::Recover);
        assert_eq!(judge(&recovered, 6, late).verdict, Verdict::Rotate);
    }

    #[test]
    fn rule_11_a_policy_can_limit_recoveries() {
        let policy = Policy { recovery_limit: Some(2), ..policy() };
        let judge = |recoveries| {
            present(&RotationState { recoveries, ..rotated_state() }, token(4), at(GRACE + 1), &policy).verdict
        };
        assert_eq!((judge(0), judge(1), judge(2)), (Verdict::Recover, Verdict::Recover, Verdict::Reuse));
    }

    #[test]
    fn rule_12_the_parent_of_an_acknowledged_generation_is_reuse() {
        let state = RotationState { acknowledged: Some(5), ..rotated_state() };
        assert_eq!(judge(&state, 4, at(GRACE + 1)), Outcome::revoke(Verdict::Reuse));
    }

    #[test]
    fn rule_12_anything_older_than_the_parent_is_reuse_after_the_grace_period() {
        for p in [0, 3] {
            assert_eq!(judge(&rotated_state(), p, at(GRACE + 1)), Outcome::revoke(Verdict::Reuse));
        }
    }

    #[test]
    fn rule_12_after_a_failover_a_lost_generation_is_not_a_parent() {
        let ahead = next(judge(&rotated_state(), 8, at(0)));
        assert_eq!(judge(&ahead, 7, at(GRACE + 1)).verdict, Verdict::Reuse);
        assert_eq!(judge(&ahead, 8, at(GRACE + 1)).verdict, Verdict::Recover);
    }

    fn rotation(state: &RotationState, p: u32, now: Timestamp) -> Rotation {
        let outcome = judge(state, p, now);
        Rotation { verdict: outcome.verdict, before: *state, after: next(outcome) }
    }

    #[test]
    fn a_rotation_is_taken_back_and_activity_since_is_kept() {
        let unsent = rotation(&rotated_state(), 5, at(GRACE + 1));
        let mut now = unsent.after;
        now.merge_activity(at(GRACE * 200), Some(5));
        let expected = RotationState { last_seen_at: at(GRACE * 200), acknowledged: Some(5), ..rotated_state() };
        assert_eq!(take_back(&now, &unsent), Some(expected));
    }

    #[test]
    fn a_recovery_that_is_taken_back_keeps_its_generation() {
        let unsent = rotation(&rotated_state(), 4, at(GRACE + 1));
        assert_eq!((unsent.verdict, unsent.after.recoveries), (Verdict::Recover, 1));
        assert_eq!(take_back(&unsent.after, &unsent), Some(RotationState { recoveries: 0, ..unsent.after }));
    }

    #[test]
    fn a_recovery_from_a_token_that_was_never_sent_does_not_count() {
        let unsent = rotation(&rotated_state(), 5, at(GRACE + 1));
        let recovered = rotation(&unsent.after, 5, at(GRACE * 2 + 2)).after;
        assert_eq!(take_back(&recovered, &unsent), Some(RotationState { recoveries: 0, ..recovered }));
    }

    #[test]
    fn two_unsent_tokens_leave_no_recovery_behind_in_whatever_order_they_are_taken_back() {
        let rotated = rotation(&rotated_state(), 5, at(GRACE + 1));
        let first = rotation(&rotated.after, 5, at(GRACE * 2 + 2));
        let second = rotation(&first.after, 5, at(GRACE * 3 + 3));
        for [one, two] in [[&rotated, &first], [&first, &second]] {
            for order in [[one, two], [two, one]] {
                let state =
                    order.into_iter().fold(two.after, |state, unsent| take_back(&state, unsent).unwrap_or(state));
                assert_eq!((state.recoveries, state.parent), (0, Some(5)));
            }
        }
    }

    #[test]
    fn nothing_is_taken_back_after_a_later_rotation_or_a_revocation() {
        let unsent = rotation(&rotated_state(), 5, at(GRACE + 1));
        let recovered = rotation(&unsent.after, 5, at(GRACE * 2 + 2)).after;
        let later = rotation(&recovered, 7, at(GRACE * 3 + 3)).after;
        assert_eq!(take_back(&later, &unsent), None);
        let revocation = Revocation { at: at(0), reason: RevocationReason::Logout };
        assert_eq!(take_back(&RotationState { revoked: Some(revocation), ..unsent.after }, &unsent), None);
    }

    #[test]
    fn a_generation_that_was_trusted_after_a_lost_write_is_not_taken_back() {
        let unsent = rotation(&rotated_state(), 8, at(GRACE + 1));
        assert_eq!((unsent.verdict, take_back(&unsent.after, &unsent)), (Verdict::Ahead, None));
    }

    #[test]
    fn an_access_token_acknowledges_only_after_the_grace_period() {
        for (after, expected) in [(-1, false), (0, false), (GRACE, false), (GRACE + 1, true), (GRACE * 9, true)] {
            assert_eq!(acknowledges(ROTATED, at(after), &policy()), expected, "{after}");
        }
        assert!(acknowledges_without(Some(Rule::LateAcknowledgement), ROTATED, at(0), &policy()));
        assert!(!acknowledges_without(Some(Rule::Reuse), ROTATED, at(0), &policy()));
    }

    #[test]
    fn a_binding_mismatch_is_ignored_if_the_rule_is_switched_off() {
        for binding in [BindingVerdict::Rejected, BindingVerdict::Revoked] {
            let presented = Presented { binding, ..token(5) };
            let outcome = present_without(Some(Rule::Mismatch), &rotated_state(), presented, at(0), &policy());
            assert_eq!(outcome.verdict, Verdict::Touch);
        }
    }

    #[test]
    fn without_rotation_every_token_of_the_session_is_touch() {
        let policy = Policy { rotation: false, ..policy() };
        for p in [0, 4, 5, 9] {
            let touch = present(&rotated_state(), token(p), at(GRACE * 50), &policy);
            assert_eq!(touch, Outcome::access_only(Verdict::Touch, p));
        }
        let forged = Presented { secret_matches: false, ..token(5) };
        assert_refused(present(&rotated_state(), forged, at(0), &policy), Verdict::Forged);
    }
}
