//! Random schedules on real nodes, compared with an oracle that was written from the text of the protocol; and races on
//! real threads, whose histories must be linearizable.
//!
//! This is a library because the properties run twice: on the memory store with a plain `cargo test` (`tests/properties.rs`),
//! and on every server store from `tests/e2e`. [`suite!`] defines the tests; it takes a function that opens an empty store.
//!
//! `PROPTEST_CASES` sets how many schedules each property tries, `RACE_ROUNDS` how many races run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

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

/// A clock that stands still until a test moves it.
#[derive(Clone)]
struct Clock(Arc<AtomicI64>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_800_000_000_000)))
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }

    fn advance(&self, duration: Duration) {
        self.0.fetch_add(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }

    fn reader(&self) -> impl Fn() -> SystemTime + Send + Sync + 'static {
        let clock = self.clone();
        move || clock.now().into()
    }
}

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

/// Defines one test for each property. `$open` is an [`Open`].
#[macro_export]
macro_rules! suite {
    ($open:expr) => {
        $crate::suite! { @ $open;
            no_honest_client_is_logged_out_by_any_schedule_that_the_grace_has_room_for
            every_assumption_of_the_grace_is_needed
            a_crash_may_lose_what_came_within_the_grace_less_twice_the_delay_less_the_skew
            every_answer_is_the_protocols_whatever_the_network_the_disk_and_a_thief_do
            a_session_in_two_hands_is_revoked_once_each_has_presented_twice_outside_every_window
            a_handful_of_racing_calls_equals_some_order_of_them
            sixty_four_racing_calls_equal_some_order_of_them
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

/// Invariants 1, 3, 4 and 7, and every single answer.
pub fn no_honest_client_is_logged_out_by_any_schedule_that_the_grace_has_room_for(open: Open) {
    let schedules = (0..=schedule::SKEW, schedule::honest(schedule::DELAY, schedule::UNSAVED));
    check(1000, &schedules, |(skew, actions)| schedule::run(open, skew, true, &actions));
}

/// Without the assumptions the promise is broken, and the schedules find out how: so they can fail.
pub fn every_assumption_of_the_grace_is_needed(open: Open) {
    use schedule::{DELAY, UNSAVED};
    let grace = oracle::GRACE;
    for (what, delay, skew, unsaved) in [
        ("answers that travel for too long", grace, 0..=0, 0),
        ("clocks too far apart", DELAY, grace..=2 * grace, UNSAVED),
        ("cookies that reach the disk as late as the grace", DELAY, 0..=0, grace),
    ] {
        let schedules = (skew, schedule::honest(delay, unsaved));
        let rng = Some(TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let found = falsify(20_000, &schedules, rng, |(skew, actions)| schedule::run(open, skew, true, &actions));
        let counterexample = found.unwrap_or_else(|| panic!("nothing is wrong with {what}"));
        assert!(counterexample.contains("an honest client is taken for a thief"), "{what}: {counterexample}");
        println!("{what}: {counterexample}\n");
    }
}

/// A random schedule hardly ever hits this corner: everything takes as long as it may.
pub fn a_crash_may_lose_what_came_within_the_grace_less_twice_the_delay_less_the_skew(open: Open) {
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
        schedule::run(open, SKEW, true, &schedule)
    };
    let room = oracle::GRACE - 2 * DELAY - SKEW;
    crash_after(room).unwrap();
    let refused = crash_after(room + 1).unwrap_err().to_string();
    assert!(refused.contains("an honest client is taken for a thief"), "{refused}");
}

/// Invariants 3, 4 and 7, and every single answer.
pub fn every_answer_is_the_protocols_whatever_the_network_the_disk_and_a_thief_do(open: Open) {
    let schedules = (0..=schedule::SKEW, schedule::anything());
    check(1000, &schedules, |(skew, actions)| schedule::run(open, skew, false, &actions));
}

/// Invariant 2.
pub fn a_session_in_two_hands_is_revoked_once_each_has_presented_twice_outside_every_window(open: Open) {
    check(2000, &theft::thefts(), |theft| theft.run(open));
}

/// Invariant 6, with what 7 says of a revocation.
pub fn a_handful_of_racing_calls_equals_some_order_of_them(open: Open) {
    race::handfuls(open, race::rounds(1_500));
}

/// Invariant 6, with 64 callers.
pub fn sixty_four_racing_calls_equal_some_order_of_them(open: Open) {
    race::crowds(open, race::rounds(1_500) / 20);
}

/// The search for an order accepts a history that has one and rejects a history that has none.
#[test]
fn a_history_that_has_no_order_is_found() {
    race::prove_that_histories_are_judged();
}
