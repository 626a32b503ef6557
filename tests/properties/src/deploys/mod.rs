//! Deploys: the settings of a node are its own. Random schedules replace one of two nodes by one with other settings, at any
//! time and in any order, and check that nothing that was revoked is accepted and that nobody honest is logged out beyond
//! what the settings say.

mod server;
mod settings;
mod store;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng};

use self::settings::{NodeSettings, node_settings};
use self::store::Flaw;
use self::world::{CLIENTS, Edge, Overpromise, World};
use crate::oracle::{Fault, Millis};
use crate::world::Check;
use crate::{Open, check, find_counterexample};

/// Starts at one, so that shrinking leaves only the relevant steps.
const LENGTH: std::ops::RangeInclusive<usize> = 1..=40;

#[derive(Clone, Debug)]
enum Step {
    Login {
        client: usize,
        node: usize,
        replacing: bool,
    },
    /// A client refreshes, and the response may get lost.
    Refresh {
        client: usize,
        node: usize,
        arrives: bool,
    },
    /// Somebody refreshes with the token that was issued this many before the newest.
    Present {
        client: usize,
        nth: usize,
        node: usize,
    },
    Use {
        client: usize,
        nth: usize,
        node: usize,
    },
    /// Somebody uses an access token, perhaps of a response that did not arrive.
    StolenUse {
        client: usize,
        nth: usize,
        node: usize,
    },
    UpdateClaims {
        client: usize,
        node: usize,
    },
    Logout {
        client: usize,
        node: usize,
    },
    RevokeSession {
        client: usize,
        node: usize,
    },
    RevokeUser {
        client: usize,
        node: usize,
        spares_own: bool,
    },
    RevokeEveryone {
        node: usize,
    },
    RevokeToken {
        client: usize,
        nth: usize,
        node: usize,
    },
    List {
        client: usize,
        node: usize,
    },
    Wait(Millis),
    WaitFor {
        edge: Edge,
        client: usize,
        node: usize,
        offset: Millis,
    },
    Rest(usize),
    Flush(usize),
    Store(Fault),
    Deploy {
        node: usize,
        settings: Box<NodeSettings>,
        is_orderly: bool,
        rests: bool,
    },
    RollBack(usize),
    Crash(usize),
}

#[derive(Clone, Debug)]
struct Schedule {
    settings: [NodeSettings; 2],
    steps: Vec<Step>,
}

fn act(world: &mut World, step: &Step) -> Check {
    match *step {
        Step::Login { client, node, replacing } => world.login(client, node, replacing),
        Step::Refresh { client, node, arrives } => world.refresh(client, node, arrives),
        Step::Present { client, nth, node } => world.present_any(client, nth, node),
        Step::Use { client, nth, node } => world.authenticate(client, nth, node, true),
        Step::StolenUse { client, nth, node } => world.authenticate(client, nth, node, false),
        Step::UpdateClaims { client, node } => world.update_claims(client, node),
        Step::Logout { client, node } => world.logout(client, node),
        Step::RevokeSession { client, node } => world.revoke_session(client, node),
        Step::RevokeUser { client, node, spares_own } => world.revoke_user(client, node, spares_own),
        Step::RevokeEveryone { node } => world.revoke_everyone(node),
        Step::RevokeToken { client, nth, node } => world.revoke_token(client, nth, node),
        Step::List { client, node } => world.list(client, node),
        Step::Wait(by) => {
            world.wait(by);
            Ok(())
        }
        Step::WaitFor { edge, client, node, offset } => {
            world.wait_for(edge, client, node, offset);
            Ok(())
        }
        Step::Rest(node) => world.rest(node),
        Step::Flush(node) => world.flush(node),
        Step::Store(fault) => {
            world.set_fault(fault);
            Ok(())
        }
        Step::Deploy { node, ref settings, is_orderly, rests } => world.deploy(node, settings, is_orderly, rests),
        Step::RollBack(node) => world.roll_back(node),
        Step::Crash(node) => world.crash(node),
    }
}

fn run(
    open: Open,
    schedule: &Schedule,
    flaw: Option<Flaw>,
    overpromise: Option<Overpromise>,
) -> Result<(), TestCaseError> {
    let mut world = World::new(open, schedule.settings.each_ref(), flaw, overpromise);
    // Every client starts with a session, or most steps would have no effect.
    let logins = (0..CLIENTS).map(|client| Step::Login { client, node: client / 2, replacing: false });
    let logins: Vec<_> = logins.collect();
    let done = logins.iter().chain(&schedule.steps).try_for_each(|step| act(&mut world, step));
    done.and_then(|()| world.settle()).map_err(|error| TestCaseError::fail(format!("{error}\n{}", world.trace())))
}

fn client() -> impl Strategy<Value = usize> {
    // The first client has the most steps, so that they meet on one session.
    prop_oneof![3 => Just(0_usize), 1 => 1..CLIENTS]
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..2_usize;
    let pause = prop_oneof![
        4 => 0..3_000_i64,
        3 => 0..150_000_i64,
        2 => 0..3_600_000_i64,
        1 => 0..3 * 24 * 3_600_000_i64,
    ];
    let edge = prop_oneof![
        4 => Just(Edge::Access),
        3 => Just(Edge::Acknowledgement),
        5 => Just(Edge::Grace),
        1 => Just(Edge::Idle),
        1 => Just(Edge::Lifetime),
        2 => Just(Edge::Forgotten),
        1 => Just(Edge::Staleness),
    ];
    let fault = prop_oneof![3 => Just(Fault::None), 1 => Just(Fault::Fails), 2 => Just(Fault::LosesReplies)];
    let deploy = (node(), node_settings(), any::<bool>(), any::<bool>());
    let revoke_user = (client(), node(), any::<bool>());
    prop_oneof![
        20 => (client(), node(), proptest::bool::weighted(0.25))
            .prop_map(|(client, node, is_lost)| Step::Refresh { client, node, arrives: !is_lost }),
        16 => (client(), 0..6_usize, node()).prop_map(|(client, nth, node)| Step::Use { client, nth, node }),
        9 => pause.prop_map(Step::Wait),
        12 => (edge, client(), node(), -1..=1_i64)
            .prop_map(|(edge, client, node, offset)| Step::WaitFor { edge, client, node, offset }),
        8 => node().prop_map(Step::Rest),
        12 => deploy.prop_map(|(node, settings, is_orderly, rests)| {
            Step::Deploy { node, settings: Box::new(settings), is_orderly, rests }
        }),
        2 => node().prop_map(Step::RollBack),
        2 => node().prop_map(Step::Crash),
        5 => (client(), node(), any::<bool>())
            .prop_map(|(client, node, replacing)| Step::Login { client, node, replacing }),
        5 => (client(), 0..4_usize, node()).prop_map(|(client, nth, node)| Step::Present { client, nth, node }),
        2 => (client(), 0..4_usize, node()).prop_map(|(client, nth, node)| Step::StolenUse { client, nth, node }),
        2 => (client(), node()).prop_map(|(client, node)| Step::UpdateClaims { client, node }),
        2 => (client(), node()).prop_map(|(client, node)| Step::Logout { client, node }),
        2 => (client(), node()).prop_map(|(client, node)| Step::RevokeSession { client, node }),
        2 => revoke_user.prop_map(|(client, node, spares_own)| Step::RevokeUser { client, node, spares_own }),
        1 => node().prop_map(|node| Step::RevokeEveryone { node }),
        2 => (client(), 0..3_usize, node()).prop_map(|(client, nth, node)| Step::RevokeToken { client, nth, node }),
        2 => (client(), node()).prop_map(|(client, node)| Step::List { client, node }),
        2 => node().prop_map(Step::Flush),
        3 => fault.prop_map(Step::Store),
    ]
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let settings = [node_settings(), node_settings()];
    (settings, proptest::collection::vec(step(), LENGTH)).prop_map(|(settings, steps)| Schedule { settings, steps })
}

pub(crate) fn check_deploys(open: Open) {
    check(500, &schedules(), |schedule| run(open, &schedule, None, None));
}

/// What a store or a promise would have to be like so that the schedules find a counterexample, and what they say.
pub(crate) fn check_assumptions(open: Open) {
    let accepted = "accepted, and the node must know that it was revoked";
    let unexplained = "and neither a step nor the settings explain it";
    let flaws = [
        (Flaw::OmitsSessions, accepted),
        (Flaw::OmitsUsers, accepted),
        (Flaw::WrongAges, accepted),
        (Flaw::ForgetsByWriter, accepted),
        (Flaw::IgnoresCutoffs, "accepted, and"),
        (Flaw::IgnoresRealms, "was revoked, and nothing explains it"),
    ];
    let overpromises = [
        (Overpromise::RevokedEverywhereAtOnce, accepted),
        (Overpromise::TtlOfTheIssuer, unexplained),
        (Overpromise::IdleTimeoutOfTheLogin, unexplained),
    ];
    let flaws = flaws.into_iter().map(|(flaw, error)| (Some(flaw), None, error));
    let overpromises = overpromises.into_iter().map(|(promise, error)| (None, Some(promise), error));
    for (flaw, overpromise, error) in flaws.chain(overpromises) {
        let what = format!("{flaw:?}, {overpromise:?}");
        let rng = Some(TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let test = |schedule| run(open, &schedule, flaw, overpromise);
        let found = find_counterexample(20_000, &schedules(), rng, test);
        let counterexample = found.unwrap_or_else(|| panic!("no counterexample for {what}"));
        assert!(counterexample.contains(error), "{what}: {counterexample}");
        println!("{what}: {counterexample}\n");
    }
}
