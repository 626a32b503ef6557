//! Random schedules on real nodes, compared with an oracle that was written from the text of the protocol; random deploys of
//! nodes with other settings in the middle of schedules; random lives of sessions, with all that a login settles for them; and
//! races on real threads, whose histories must be linearizable.
//!
//! This is a library because the properties run twice: on the memory store with a plain `cargo test` (`tests/properties.rs`),
//! and on every server store from `tests/e2e`. [`suite!`] defines the tests; it takes a function that opens an empty store.
//!
//! `PROPTEST_CASES` sets how many schedules each property tries, `RACE_ROUNDS` how many races run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod deploys;
mod life;
mod oracle;
mod race;
mod schedule;
mod theft;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use axum_refresh::store::Timestamp;
use axum_refresh::{ClientInfo, SessionStore};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use serde::{Deserialize, Serialize};

/// Opens an empty store.
pub type Open = fn() -> Arc<dyn SessionStore>;

const SECRET: &str = "k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    role: String,
}

fn claims(role: &str) -> Claims {
    Claims { role: role.to_owned() }
}

fn client() -> ClientInfo {
    ClientInfo::new().ip("203.0.113.7".parse().unwrap()).user_agent("curl/8.5.0")
}

/// A clock that stands still until a test moves it. In the past: servers delete only what has expired by their own clock.
#[derive(Clone)]
struct Clock(Arc<AtomicI64>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_700_000_000_000)))
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }

    fn advance(&self, duration: Duration) {
        self.0.fetch_add(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }

    fn set_back(&self, duration: Duration) {
        self.0.fetch_sub(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }

    fn reader(&self) -> impl Fn() -> SystemTime + Send + Sync + 'static {
        let clock = self.clone();
        move || clock.now().into()
    }
}

/// The shortest schedule that the test fails on, with a readable trace.
fn find_counterexample<S: Strategy>(
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
    if let Some(counterexample) = find_counterexample(cases, strategy, None, test) {
        panic!("{counterexample}");
    }
}

/// Defines one test for each property. `$open` is an [`Open`].
#[macro_export]
macro_rules! suite {
    ($open:expr) => {
        $crate::suite! { @ $open;
            no_honest_client_is_logged_out_by_any_schedule_within_the_assumptions
            every_assumption_about_the_grace_period_is_needed
            a_crash_may_lose_cookies_younger_than_the_grace_period_minus_twice_the_delay_minus_the_skew
            every_response_follows_the_protocol_whatever_the_network_the_disk_and_a_thief_do
            a_session_shared_with_a_thief_is_revoked_once_each_has_presented_twice_outside_every_window
            a_few_concurrent_calls_are_linearizable
            sixty_four_concurrent_calls_are_linearizable
            whatever_a_deploy_changes_nothing_revoked_is_accepted_and_nobody_honest_is_logged_out
            every_assumption_about_deploys_is_needed
            what_a_login_settles_holds_for_its_session_whatever_happens
            a_session_goes_on_in_one_step_whatever_races_with_it
            nobody_acts_on_after_the_end_of_their_own_session
        }
    };
    (@ $open:expr; $($property:ident)+) => {
        $(
            #[test]
            fn $property() {
                $crate::$property($open);
            }
        )+
    };
}

/// Invariants 1, 3, 4 and 7, and every single response.
pub fn no_honest_client_is_logged_out_by_any_schedule_within_the_assumptions(open: Open) {
    let schedules = (0..=schedule::SKEW, schedule::honest(schedule::DELAY, schedule::UNSAVED));
    check(1000, &schedules, |(skew, actions)| schedule::run(open, skew, true, &actions));
}

/// Without an assumption the guarantee does not hold, and the schedules find a counterexample: the properties can fail.
pub fn every_assumption_about_the_grace_period_is_needed(open: Open) {
    use schedule::{DELAY, UNSAVED};
    let grace = oracle::GRACE;
    for (what, delay, skew, unsaved) in [
        ("responses that take too long", grace, 0..=0, 0),
        ("clocks that differ too much", DELAY, grace..=2 * grace, UNSAVED),
        ("cookies that take as long as the grace period to reach the disk", DELAY, 0..=0, grace),
    ] {
        let schedules = (skew, schedule::honest(delay, unsaved));
        let rng = Some(TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let found =
            find_counterexample(20_000, &schedules, rng, |(skew, actions)| schedule::run(open, skew, true, &actions));
        let counterexample = found.unwrap_or_else(|| panic!("no counterexample for {what}"));
        assert!(counterexample.contains("an honest client is taken for a thief"), "{what}: {counterexample}");
        println!("{what}: {counterexample}\n");
    }
}

/// Random schedules hardly ever reach this corner, in which everything takes as long as the assumptions allow.
pub fn a_crash_may_lose_cookies_younger_than_the_grace_period_minus_twice_the_delay_minus_the_skew(open: Open) {
    use schedule::{Action, DELAY, Delivery, SKEW};
    let refresh = |node, out, back| Action::Refresh { client: 0, node, out, back, again: None, rendered: false };
    let crash_after = |unsaved| {
        let schedule = [
            refresh(0, Delivery::After(0), Delivery::After(DELAY)),
            Action::Wait(DELAY + unsaved),
            // With the successor, on the node that is ahead: it must not rotate again before the crash takes the cookie
            // back.
            refresh(1, Delivery::After(DELAY), Delivery::Lost),
            Action::Crash { client: 0, unsaved: unsaved + 1 },
        ];
        schedule::run(open, SKEW, true, &schedule)
    };
    let room = oracle::GRACE - 2 * DELAY - SKEW;
    crash_after(room).unwrap();
    let refused = crash_after(room + 1).unwrap_err().to_string();
    assert!(refused.contains("an honest client is taken for a thief"), "{refused}");
}

/// Invariants 3, 4 and 7, and every single response, also of nodes whose clocks are far ahead for one request.
pub fn every_response_follows_the_protocol_whatever_the_network_the_disk_and_a_thief_do(open: Open) {
    // A token that is used twice within a millisecond, and a flush between: random schedules hardly ever do that.
    use schedule::Action::{Flush, Store, Use, Wait};
    let used = [Use { client: 0, nth: 0, node: 1, out: 0 }, Wait(0), Flush(1)];
    for fault in [oracle::Fault::None, oracle::Fault::Fails, oracle::Fault::LosesReplies] {
        let actions: Vec<_> = used.iter().cloned().chain([Store(fault)]).chain(used.iter().cloned()).collect();
        schedule::run(open, 0, false, &actions).unwrap();
    }
    let schedules = (0..=schedule::SKEW, schedule::anything());
    check(1000, &schedules, |(skew, actions)| schedule::run(open, skew, false, &actions));
}

/// Invariant 2, also if a clock was far ahead before the theft.
pub fn a_session_shared_with_a_thief_is_revoked_once_each_has_presented_twice_outside_every_window(open: Open) {
    check(2000, &theft::thefts(), |theft| theft.run(open));
}

/// Invariant 6, and invariant 7 for revocations.
pub fn a_few_concurrent_calls_are_linearizable(open: Open) {
    race::small_races(open, race::rounds(1_500));
}

/// Invariant 6, with 64 callers.
pub fn sixty_four_concurrent_calls_are_linearizable(open: Open) {
    race::large_races(open, race::rounds(1_500) / 20);
}

/// Settings are a property of a node: two nodes with any settings, replaced by others at any time, on one store.
pub fn whatever_a_deploy_changes_nothing_revoked_is_accepted_and_nobody_honest_is_logged_out(open: Open) {
    deploys::check_deploys(open);
}

/// With a store that breaks its contract, or if more were promised, the schedules of deploys find a counterexample.
pub fn every_assumption_about_deploys_is_needed(open: Open) {
    deploys::check_assumptions(open);
}

/// How the user was authenticated, what keeps a session alive, who acts in it, and what ends it.
pub fn what_a_login_settles_holds_for_its_session_whatever_happens(open: Open) {
    life::check_life(open);
}

/// Reauthentication races with refreshes, with logouts and with itself.
pub fn a_session_goes_on_in_one_step_whatever_races_with_it(open: Open) {
    life::reauthentication_races(open, race::rounds(1_500) / 5);
}

/// Acting races with the end of the actor's session.
pub fn nobody_acts_on_after_the_end_of_their_own_session(open: Open) {
    life::actor_races(open, race::rounds(1_500) / 5);
}

/// The search accepts a history that has a valid order and rejects one that has none.
#[test]
fn a_history_without_a_valid_order_is_rejected() {
    race::check_the_search();
}
