//! The refresh ratchet: what happens when a refresh token is presented.
//!
//! One pure function, [`present`]: no I/O, no clock, no randomness. What it decides, a store carries out with one
//! compare-and-swap. The first rule that matches wins:
//!
//! | # | when | verdict | chain afterwards | answer |
//! |---|---|---|---|---|
//! | 1 | the secret differs, or `p` is the last number there is | [Forged](Verdict::Forged) | unchanged | refused |
//! | 2 | revoked | [Revoked](Verdict::Revoked) | unchanged | refused |
//! | 3 | `now >= expires_at` | [Expired](Verdict::Expired) | unchanged | refused |
//! | 4 | `now - last_seen_at >= idle_timeout` | [Idle](Verdict::Idle) | unchanged | refused |
//! | 5 | the binding does not hold | [Mismatch](Verdict::Mismatch) | revoked or unchanged | refused |
//! | 6 | `p = generation`, fresh | [Touch](Verdict::Touch) | unchanged | access token of `p` |
//! | 7 | `p = generation` | [Rotate](Verdict::Rotate) | `generation + 1`, parent `p` | access and refresh token |
//! | 8 | `p > generation` | [Ahead](Verdict::Ahead) | generation `p + 1`, parent `p` | access and refresh token |
//! | 9 | `p = parent`, fresh | [Echo](Verdict::Echo) | unchanged | access token of `p` |
//! | 10 | fresh | [Busy](Verdict::Busy) | unchanged | come back in a second |
//! | 11 | `p = parent`, `generation` not acknowledged | [Recover](Verdict::Recover) | `generation + 1`, same parent | access and refresh token |
//! | 12 | anything else | [Reuse](Verdict::Reuse) | revoked | refused; theft |
//!
//! `p` is the generation of the presented token. *Fresh* means that the last rotation is at most `grace` ago, signed:
//! a clock that is behind reads as fresh. With rotation switched off, every `p` that passes rule 5 is Touch.
//!
//! With one-way delays up to D and clock skew between nodes up to S, `grace` has to be at least `2D + S`. A crash of the
//! client may lose a cookie that arrived less than `grace - 2D - S` ago.

use crate::policy::Policy;
use crate::session::{Chain, Timestamp};

/// What was presented, as far as it has been judged already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The generation in the token.
    pub generation: u32,
    /// Whether the hash of the token's secret is the session's.
    pub secret_matches: bool,
    /// Whether the client is the one that logged in.
    pub binding: BindingVerdict,
}

/// Whether the client still looks like the one that logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BindingVerdict {
    /// It does, or the policy does not ask.
    Holds,
    /// It does not; the policy only wants to know.
    Observed,
    /// It does not; the request is refused.
    Rejected,
    /// It does not; the session ends.
    Revoked,
}

/// What is to be done with a presented refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// We signed it, and yet it was never ours: the server's key may have leaked.
    Forged,
    /// The session was ended.
    Revoked,
    /// The session has reached its end.
    Expired,
    /// Nothing was heard of the client for too long.
    Idle,
    /// Another client than the one that logged in.
    Mismatch,
    /// The newest token, again within the grace: a client that refreshes often. Costs no write.
    Touch,
    /// The newest token: the ordinary case.
    Rotate,
    /// Newer than what the store knows: the store has lost a write. Nobody is logged out for that.
    Ahead,
    /// The loser of a race. The successor is on its way to the same client, and is not handed out twice.
    Echo,
    /// Too far behind, but a race is still possible.
    Busy,
    /// The successor never arrived: the parent gets another, and the lost one becomes a trap.
    Recover,
    /// Someone else has been here.
    Reuse,
}

/// A verdict and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was decided.
    pub verdict: Verdict,
    /// The generation of the access token to issue, if one is to be issued.
    pub access: Option<u32>,
    /// The generation of the refresh token to hand out, if one is.
    pub refresh: Option<u32>,
    /// The chain to swap in before anything is answered; none: nothing is written.
    pub next: Option<Next>,
}

/// What is to be written before the verdict may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This chain.
    Chain(Chain),
    /// The same chain, revoked.
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

    const fn hand_out(verdict: Verdict, next: Chain) -> Self {
        Self { verdict, access: Some(next.generation), refresh: Some(next.generation), next: Some(Next::Chain(next)) }
    }
}

/// Judges a presented refresh token. See the [module](self) for the rules.
pub fn present(chain: &Chain, presented: Presented, now: Timestamp, policy: &Policy) -> Outcome {
    present_without(None, chain, presented, now, policy)
}

/// Whether using an access token at `now` shows that the refresh token of its generation has reached the client.
///
/// Not sooner than `grace` after the access token was issued: an answer that arrived does not prove that its cookie
/// reached the disk, and a page that is rendered on the server uses the access token before its answer is sent.
pub fn acknowledges(issued_at: Timestamp, now: Timestamp, policy: &Policy) -> bool {
    acknowledges_without(None, issued_at, now, policy)
}

/// A rule that can be switched off, so that the model can show what it is there for.
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
}

impl Rule {
    pub const ALL: [Self; 13] = [
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
    ];
}

/// [`acknowledges`], with one rule switched off.
#[doc(hidden)]
#[inline]
pub fn acknowledges_without(off: Option<Rule>, issued_at: Timestamp, now: Timestamp, policy: &Policy) -> bool {
    now > issued_at.after(policy.grace) || off == Some(Rule::LateAcknowledgement)
}

/// [`present`], with one rule switched off.
#[doc(hidden)]
#[inline]
pub fn present_without(
    off: Option<Rule>,
    chain: &Chain,
    presented: Presented,
    now: Timestamp,
    policy: &Policy,
) -> Outcome {
    let on = |rule| off != Some(rule);
    let p = presented.generation;
    let Some(successor) = p.checked_add(1).filter(|_| presented.secret_matches || !on(Rule::Forged)) else {
        return Outcome::refuse(Verdict::Forged);
    };
    if chain.revoked.is_some() && on(Rule::Revoked) {
        return Outcome::refuse(Verdict::Revoked);
    }
    if now >= chain.expires_at && on(Rule::Expired) {
        return Outcome::refuse(Verdict::Expired);
    }
    if now.is_past(chain.last_seen_at, policy.idle_timeout) && on(Rule::Idle) {
        return Outcome::refuse(Verdict::Idle);
    }
    match presented.binding {
        BindingVerdict::Rejected if on(Rule::Mismatch) => return Outcome::refuse(Verdict::Mismatch),
        BindingVerdict::Revoked if on(Rule::Mismatch) => return Outcome::revoke(Verdict::Mismatch),
        _ => {}
    }
    if !policy.rotation {
        return Outcome::access_only(Verdict::Touch, p);
    }
    let fresh = chain.rotated_at.is_some_and(|at| now <= at.after(policy.grace));
    let rotated = Chain { generation: successor, parent: Some(p), rotated_at: Some(now), recoveries: 0, ..*chain };
    if p == chain.generation {
        let touch = (fresh && on(Rule::Touch)) || !on(Rule::Rotate);
        return if touch {
            Outcome::access_only(Verdict::Touch, p)
        } else {
            Outcome::hand_out(Verdict::Rotate, rotated)
        };
    }
    if p > chain.generation && on(Rule::Ahead) {
        return Outcome::hand_out(Verdict::Ahead, rotated);
    }
    let is_parent = chain.parent == Some(p);
    if is_parent && fresh && on(Rule::Echo) {
        return Outcome::access_only(Verdict::Echo, p);
    }
    if fresh && on(Rule::Busy) {
        return Outcome::refuse(Verdict::Busy);
    }
    let acknowledged = chain.acknowledged.is_some_and(|acknowledged| acknowledged >= chain.generation);
    let may_recover = policy.recovery_limit.is_none_or(|limit| chain.recoveries < limit);
    if is_parent && !acknowledged && may_recover && on(Rule::Recover) {
        // The newest generation is orphaned, not reused: should it ever be presented, somebody else had it.
        if let Some(generation) = chain.generation.checked_add(1) {
            let recovered =
                Chain { generation, rotated_at: Some(now), recoveries: chain.recoveries.saturating_add(1), ..*chain };
            return Outcome::hand_out(Verdict::Recover, recovered);
        }
    }
    if on(Rule::Reuse) { Outcome::revoke(Verdict::Reuse) } else { Outcome::refuse(Verdict::Reuse) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::{Reason, Revocation};

    const GRACE: i64 = 30_000;
    const ROTATED: Timestamp = Timestamp::from_millis(1_000_000);

    fn at(after_rotation: i64) -> Timestamp {
        Timestamp::from_millis(ROTATED.as_millis() + after_rotation)
    }

    /// Generation 5, issued for 4 at `ROTATED`, not acknowledged; seen all the time.
    fn chain() -> Chain {
        Chain {
            generation: 5,
            parent: Some(4),
            rotated_at: Some(ROTATED),
            last_seen_at: at(GRACE * 100),
            ..Chain::new(Timestamp::from_millis(0), Timestamp::MAX)
        }
    }

    fn policy() -> Policy {
        Policy { grace: Duration::from_millis(30_000), ..Policy::default() }
    }

    const fn token(generation: u32) -> Presented {
        Presented { generation, secret_matches: true, binding: BindingVerdict::Holds }
    }

    fn judge(chain: &Chain, p: u32, now: Timestamp) -> Outcome {
        present(chain, token(p), now, &policy())
    }

    fn next(outcome: Outcome) -> Chain {
        match outcome.next {
            Some(Next::Chain(chain)) => chain,
            other => panic!("no next chain but {other:?}"),
        }
    }

    fn assert_refused(outcome: Outcome, verdict: Verdict) {
        assert_eq!(outcome, Outcome { verdict, access: None, refresh: None, next: None });
    }

    #[test]
    fn rule_1_a_secret_that_differs_is_forged_even_where_the_session_is_revoked() {
        let mut chain = chain();
        let forged = Presented { secret_matches: false, ..token(5) };
        assert_refused(present(&chain, forged, at(0), &policy()), Verdict::Forged);
        chain.revoked = Some(Revocation { at: at(0), until: at(0), reason: Reason::Logout });
        assert_refused(present(&chain, forged, at(0), &policy()), Verdict::Forged);
    }

    #[test]
    fn rule_1_a_generation_that_cannot_be_counted_on_from_is_forged() {
        assert_refused(judge(&chain(), u32::MAX, at(0)), Verdict::Forged);
        assert_eq!(judge(&chain(), u32::MAX - 1, at(0)).refresh, Some(u32::MAX));
    }

    #[test]
    fn rule_2_a_revoked_session_stays_revoked_for_every_generation() {
        let mut chain = chain();
        chain.expires_at = at(0);
        chain.revoked = Some(Revocation { at: at(0), until: at(0), reason: Reason::Logout });
        for p in [0, 3, 4, 5, 6] {
            assert_refused(judge(&chain, p, at(1)), Verdict::Revoked);
        }
    }

    #[test]
    fn rule_3_a_session_is_over_at_the_instant_it_expires() {
        let chain = Chain { expires_at: at(GRACE * 2), last_seen_at: at(0), ..chain() };
        assert_eq!(judge(&chain, 5, at(GRACE * 2 - 1)).verdict, Verdict::Rotate);
        for p in [3, 4, 5, 6] {
            assert_refused(judge(&chain, p, at(GRACE * 2)), Verdict::Expired);
        }
    }

    #[test]
    fn rule_4_a_session_is_idle_at_the_instant_the_timeout_is_full() {
        let idle = i64::try_from(policy().idle_timeout.as_millis()).unwrap();
        let chain = Chain { last_seen_at: at(0), ..chain() };
        assert_eq!(judge(&chain, 5, at(idle - 1)).verdict, Verdict::Rotate);
        assert_refused(judge(&chain, 5, at(idle)), Verdict::Idle);
    }

    #[test]
    fn rule_3_comes_before_rule_4() {
        let chain = Chain { last_seen_at: Timestamp::from_millis(0), expires_at: ROTATED, ..chain() };
        let policy = Policy { idle_timeout: Duration::from_millis(1), ..policy() };
        assert_refused(present(&chain, token(5), at(0), &policy), Verdict::Expired);
    }

    #[test]
    fn rule_5_a_binding_that_does_not_hold_is_refused_or_ends_the_session() {
        let judge = |binding| present(&chain(), Presented { binding, ..token(5) }, at(GRACE + 1), &policy());
        assert_eq!(judge(BindingVerdict::Observed).verdict, Verdict::Rotate);
        assert_refused(judge(BindingVerdict::Rejected), Verdict::Mismatch);
        let ended = judge(BindingVerdict::Revoked);
        assert_eq!((ended.verdict, ended.next), (Verdict::Mismatch, Some(Next::Revoke)));
        assert_eq!((ended.access, ended.refresh), (None, None));
    }

    #[test]
    fn rule_6_the_newest_token_again_within_the_grace_costs_no_write() {
        for now in [at(0), at(GRACE), at(-5_000)] {
            let touch = judge(&chain(), 5, now);
            assert_eq!(touch, Outcome::access_only(Verdict::Touch, 5));
        }
    }

    #[test]
    fn rule_7_the_newest_token_after_the_grace_rotates() {
        let old = Chain { recoveries: 2, acknowledged: Some(5), ..chain() };
        let rotate = judge(&old, 5, at(GRACE + 1));
        assert_eq!((rotate.verdict, rotate.access, rotate.refresh), (Verdict::Rotate, Some(6), Some(6)));
        let expected = Chain { generation: 6, parent: Some(5), rotated_at: Some(at(GRACE + 1)), recoveries: 0, ..old };
        assert_eq!(next(rotate), expected);
    }

    #[test]
    fn rule_7_the_first_refresh_after_login_rotates_at_once() {
        let login = Chain::new(ROTATED, Timestamp::MAX);
        let rotate = judge(&login, 0, ROTATED);
        assert_eq!((rotate.verdict, next(rotate).generation), (Verdict::Rotate, 1));
    }

    #[test]
    fn rule_8_a_token_newer_than_the_row_is_believed() {
        for now in [at(1), at(GRACE + 1)] {
            let old = Chain { recoveries: 2, ..chain() };
            let ahead = judge(&old, 8, now);
            assert_eq!((ahead.verdict, ahead.access, ahead.refresh), (Verdict::Ahead, Some(9), Some(9)));
            let expected = Chain { generation: 9, parent: Some(8), rotated_at: Some(now), recoveries: 0, ..old };
            assert_eq!(next(ahead), expected);
        }
    }

    #[test]
    fn rule_9_the_parent_within_the_grace_gets_an_access_token_of_its_own_generation() {
        let acknowledged = Chain { acknowledged: Some(5), ..chain() };
        for chain in [chain(), acknowledged] {
            for now in [at(0), at(GRACE)] {
                assert_eq!(judge(&chain, 4, now), Outcome::access_only(Verdict::Echo, 4));
            }
        }
    }

    #[test]
    fn rule_10_anything_older_within_the_grace_is_told_to_come_back() {
        for p in [0, 3] {
            assert_refused(judge(&chain(), p, at(GRACE)), Verdict::Busy);
        }
    }

    #[test]
    fn rule_11_the_parent_of_a_successor_that_never_arrived_gets_another() {
        let late = at(GRACE * 50);
        let recover = judge(&chain(), 4, late);
        assert_eq!((recover.verdict, recover.access, recover.refresh), (Verdict::Recover, Some(6), Some(6)));
        let expected = Chain { generation: 6, rotated_at: Some(late), recoveries: 1, ..chain() };
        assert_eq!(next(recover), expected);
    }

    #[test]
    fn rule_11_an_acknowledgement_of_an_older_generation_does_not_count() {
        let chain = Chain { acknowledged: Some(4), ..chain() };
        assert_eq!(judge(&chain, 4, at(GRACE + 1)).verdict, Verdict::Recover);
    }

    #[test]
    fn rule_11_the_orphan_of_a_recovery_is_reuse() {
        let recovered = next(judge(&chain(), 4, at(GRACE + 1)));
        let rotated = at(GRACE + 1);
        let late = Timestamp::from_millis(rotated.as_millis() + GRACE + 1);
        assert_eq!(judge(&recovered, 5, late).verdict, Verdict::Reuse);
        assert_eq!(judge(&recovered, 4, late).verdict, Verdict::Recover);
        assert_eq!(judge(&recovered, 6, late).verdict, Verdict::Rotate);
    }

    #[test]
    fn rule_11_a_policy_can_limit_recoveries() {
        let policy = Policy { recovery_limit: Some(2), ..policy() };
        let judge = |recoveries| present(&Chain { recoveries, ..chain() }, token(4), at(GRACE + 1), &policy).verdict;
        assert_eq!((judge(0), judge(1), judge(2)), (Verdict::Recover, Verdict::Recover, Verdict::Reuse));
    }

    #[test]
    fn rule_12_the_parent_of_an_acknowledged_generation_is_reuse() {
        let chain = Chain { acknowledged: Some(5), ..chain() };
        assert_eq!(judge(&chain, 4, at(GRACE + 1)), Outcome::revoke(Verdict::Reuse));
    }

    #[test]
    fn rule_12_anything_older_than_the_parent_is_reuse_once_the_race_is_over() {
        for p in [0, 3] {
            assert_eq!(judge(&chain(), p, at(GRACE + 1)), Outcome::revoke(Verdict::Reuse));
        }
    }

    #[test]
    fn rule_12_after_a_failover_the_generations_that_were_lost_are_no_parents() {
        let ahead = next(judge(&chain(), 8, at(0)));
        assert_eq!(judge(&ahead, 7, at(GRACE + 1)).verdict, Verdict::Reuse);
        assert_eq!(judge(&ahead, 8, at(GRACE + 1)).verdict, Verdict::Recover);
    }

    #[test]
    fn an_access_token_acknowledges_only_once_it_is_older_than_the_grace() {
        for (after, shows) in [(-1, false), (0, false), (GRACE, false), (GRACE + 1, true), (GRACE * 9, true)] {
            assert_eq!(acknowledges(ROTATED, at(after), &policy()), shows, "{after}");
        }
        assert!(acknowledges_without(Some(Rule::LateAcknowledgement), ROTATED, at(0), &policy()));
        assert!(!acknowledges_without(Some(Rule::Reuse), ROTATED, at(0), &policy()));
    }

    #[test]
    fn a_rule_that_is_switched_off_for_the_model_is_off() {
        for binding in [BindingVerdict::Rejected, BindingVerdict::Revoked] {
            let presented = Presented { binding, ..token(5) };
            let outcome = present_without(Some(Rule::Mismatch), &chain(), presented, at(0), &policy());
            assert_eq!(outcome.verdict, Verdict::Touch);
        }
    }

    #[test]
    fn without_rotation_every_token_of_the_session_is_touch() {
        let policy = Policy { rotation: false, ..policy() };
        for p in [0, 4, 5, 9] {
            let touch = present(&chain(), token(p), at(GRACE * 50), &policy);
            assert_eq!(touch, Outcome::access_only(Verdict::Touch, p));
        }
        let forged = Presented { secret_matches: false, ..token(5) };
        assert_refused(present(&chain(), forged, at(0), &policy), Verdict::Forged);
    }
}
