//! Random schedules over the real thing, beside an oracle that was written from the protocol's text; and races on real
//! threads, whose histories have to be linearizable.
//!
//! `PROPTEST_CASES` sets how many schedules each property tries, `RACE_ROUNDS` how many races are run, and
//! `PROPERTIES_STORE` on which store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod oracle;
mod race;
mod schedule;
mod store;
#[path = "../stores/mod.rs"]
mod stores;
#[path = "../support/mod.rs"]
mod support;
mod theft;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// The shortest schedule that the test fails on, with all that happened, for a reader.
fn falsify<S: Strategy>(
    cases: u32,
    strategy: &S,
    rng: Option<TestRng>,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) -> Option<String> {
    let config = Config { failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let chosen = std::env::var("PROPTEST_CASES").is_ok() && rng.is_none();
    let config = if chosen { config } else { Config { cases, ..config } };
    let mut runner = match rng {
        Some(rng) => TestRunner::new_with_rng(config, rng),
        None => TestRunner::new(config),
    };
    match runner.run(strategy, test) {
        Ok(()) => None,
        Err(TestError::Abort(reason)) => panic!("{reason}"),
        Err(TestError::Fail(reason, schedule)) => Some(format!("{reason}\n{schedule:?}")),
    }
}

fn check<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    if let Some(counterexample) = falsify(cases, strategy, None, test) {
        panic!("{counterexample}");
    }
}

/// Invariants 1, 3, 4 and 7, and every single answer.
#[test]
fn no_honest_client_is_logged_out_by_any_schedule_that_the_grace_has_room_for() {
    let schedules = (0..=schedule::SKEW, schedule::honest(schedule::DELAY, schedule::UNSAVED));
    check(1000, &schedules, |(skew, actions)| schedule::run(skew, true, &actions));
}

/// Without the assumptions the promise is broken, and the schedules find out how: so they can fail.
#[test]
fn every_assumption_of_the_grace_is_needed() {
    use schedule::{DELAY, UNSAVED};
    let grace = oracle::GRACE;
    for (what, delay, skew, unsaved) in [
        ("answers that travel for too long", grace, 0..=0, 0),
        ("clocks too far apart", DELAY, grace..=2 * grace, UNSAVED),
        ("cookies that reach the disk as late as the grace", DELAY, 0..=0, grace),
    ] {
        let schedules = (skew, schedule::honest(delay, unsaved));
        let rng = Some(TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let found = falsify(20_000, &schedules, rng, |(skew, actions)| schedule::run(skew, true, &actions));
        let counterexample = found.unwrap_or_else(|| panic!("nothing is wrong with {what}"));
        assert!(counterexample.contains("an honest client is taken for a thief"), "{what}: {counterexample}");
        println!("{what}: {counterexample}\n");
    }
}

/// A random schedule hardly ever hits this corner: everything takes as long as it may.
#[test]
fn a_crash_may_lose_what_came_within_the_grace_less_twice_the_delay_less_the_skew() {
    use schedule::{Action, DELAY, SKEW, Way};
    let refresh = |node, out, back| Action::Refresh { client: 0, node, out, back, again: None, rendered: false };
    let crash_after = |unsaved| {
        let schedule = [
            refresh(0, Way::After(0), Way::After(DELAY)),
            Action::Wait(DELAY + unsaved),
            // With the successor, on the node that is ahead: does it rotate again, before the crash takes it back?
            refresh(1, Way::After(DELAY), Way::Lost),
            Action::Crash { client: 0, unsaved: unsaved + 1 },
        ];
        schedule::run(SKEW, true, &schedule)
    };
    let room = oracle::GRACE - 2 * DELAY - SKEW;
    crash_after(room).unwrap();
    let refused = crash_after(room + 1).unwrap_err().to_string();
    assert!(refused.contains("an honest client is taken for a thief"), "{refused}");
}

/// Invariants 3, 4 and 7, and every single answer.
#[test]
fn every_answer_is_the_protocols_whatever_the_network_the_disk_and_a_thief_do() {
    let schedules = (0..=schedule::SKEW, schedule::anything());
    check(1000, &schedules, |(skew, actions)| schedule::run(skew, false, &actions));
}

/// Invariant 2.
#[test]
fn a_session_in_two_hands_is_revoked_once_each_has_presented_twice_outside_every_window() {
    check(2000, &theft::thefts(), |theft| theft.run());
}

/// Invariant 6, with what 7 says of a revocation.
#[test]
fn a_handful_of_racing_calls_equals_some_order_of_them() {
    race::handfuls(race::rounds(1_500));
}

/// Invariant 6.
#[test]
fn sixty_four_racing_calls_equal_some_order_of_them() {
    race::crowds(race::rounds(1_500) / 20);
}

#[test]
fn a_history_that_has_no_order_is_found() {
    race::prove_that_histories_are_judged();
}
