//! What a login settles for its session, on several nodes that share one store: how and when the user was authenticated,
//! what keeps the session alive and what does not, who acts in it, and what ends it.

mod node;
mod operations;
mod oracle;
mod race;
mod world;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use self::node::{ACR_VALUES, How, Way};
use self::operations::{Named, Terms};
use self::oracle::{GRACE, MIN_IDLE, NODES};
use self::world::{EXTERNAL, USERS, World};
use crate::oracle::Millis;
use crate::world::Check;
use crate::{Open, check};

pub(crate) use self::race::{actor_races, reauthentication_races};

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;
const METHODS: &[&[&str]] = &[&[], &["pwd"], &["pwd", "otp"]];
/// Starts at one, so that shrinking leaves only the relevant steps.
const LENGTH: std::ops::RangeInclusive<usize> = 1..=60;

/// A time at which something changes for a client, by its session.
#[derive(Clone, Copy, Debug)]
enum Edge {
    Idle,
    Expiry,
    AccessToken,
}

/// Every number is taken modulo the number of things that it selects from.
#[derive(Clone, Debug)]
enum Step {
    Login { node: usize, user: usize, terms: Terms },
    Access { node: usize, client: usize, nth: usize, way: Way, how: How },
    Refresh { node: usize, client: usize, in_page: bool, how: How, arrives: bool },
    Reauthenticate { node: usize, client: usize, named: Named, terms: Terms },
    Act { node: usize, client: usize, user: usize, terms: Terms },
    UpdateClaims { node: usize, client: usize },
    Logout { node: usize, client: usize, by_refresh: bool },
    RevokeSession { node: usize, client: usize },
    RevokeUser { node: usize, user: usize, except: Option<usize> },
    RevokeEveryone { node: usize },
    RevokeExternal { node: usize, external: usize },
    List { node: usize, user: usize },
    Wait(Millis),
    WaitFor { client: usize, node: usize, edge: Edge, offset: Millis },
    Flush(usize),
    ReadFeed(usize),
    Crash(usize),
}

fn act(world: &mut World, step: &Step) -> Check {
    let clients = world.clients.len();
    let nth = |client: &usize| clients.checked_sub(1).map(|last| last - client % clients);
    match step {
        Step::Login { node, user, terms } => return world.login(*node, *user, *terms),
        Step::RevokeUser { node, user, except } => {
            return world.revoke_user(*node, *user, except.as_ref().and_then(nth));
        }
        Step::RevokeEveryone { node } => return world.revoke_everyone(*node),
        Step::RevokeExternal { node, external } => return world.revoke_external(*node, *external),
        Step::List { node, user } => return world.list(*node, *user),
        Step::Flush(node) => return world.flush(*node),
        Step::Wait(millis) => world.wait(*millis),
        Step::ReadFeed(node) => world.read_feed(*node),
        Step::Crash(node) => world.crash(*node),
        _ => {}
    }
    let Some(last) = clients.checked_sub(1) else { return Ok(()) };
    let nth = |client: &usize| last - client % clients;
    match step {
        Step::Access { node, client, nth: token, way, how } => {
            world.access(*node, nth(client), *token, *way, *how).map(drop)
        }
        Step::Refresh { node, client, in_page, how, arrives } => {
            world.refresh(*node, nth(client), *in_page, *how, *arrives).map(drop)
        }
        Step::Reauthenticate { node, client, named, terms } => world.reauthenticate(*node, nth(client), *named, *terms),
        Step::Act { node, client, user, terms } => world.act(*node, nth(client), *user, *terms),
        Step::UpdateClaims { node, client } => world.update_claims(*node, nth(client)),
        Step::Logout { node, client, by_refresh } => world.logout(*node, nth(client), *by_refresh),
        Step::RevokeSession { node, client } => world.revoke_session(*node, nth(client)),
        Step::WaitFor { client, node, edge, offset } => {
            let known = &world.clients[nth(client)];
            let edge = match edge {
                Edge::Idle => world.oracle.idle_at(known.session),
                Edge::Expiry => world.oracle.sessions[known.session].expires,
                Edge::AccessToken => known.valid_until().0,
            };
            world.wait((edge + offset - world.nodes[*node].now()).max(0));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// At the end, every node reads the feed, and then everything that was ever handed out is tried everywhere.
fn settle(world: &mut World) -> Check {
    for node in 0..NODES {
        world.read_feed(node);
        (0..USERS.len()).try_for_each(|user| world.list(node, user))?;
        for client in 0..world.clients.len() {
            for way in [Way::Layer, Way::Guard] {
                world.access(node, client, 0, way, How::PassiveHeader)?;
            }
        }
    }
    (0..world.clients.len()).try_for_each(|client| world.refresh(0, client, false, How::PassiveHeader, true).map(drop))
}

fn run(open: Open, skews: [Millis; NODES], steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new(open, skews);
    let done = steps.iter().try_for_each(|step| act(&mut world, step)).and_then(|()| settle(&mut world));
    done.map_err(|error| TestCaseError::fail(format!("{error}\n{}", world.trace())))
}

fn node() -> impl Strategy<Value = usize> {
    0..NODES
}

fn client() -> impl Strategy<Value = usize> {
    // Most often one of the newest.
    prop_oneof![4 => 0..2_usize, 2 => 0..12_usize]
}

fn terms() -> BoxedStrategy<Terms> {
    let some =
        |values: &'static [Millis]| prop_oneof![2 => Just(None), 1 => proptest::sample::select(values).prop_map(Some)];
    let acr = prop_oneof![Just(None), proptest::sample::select(&ACR_VALUES[..]).prop_map(Some)];
    let amr = proptest::sample::select(METHODS);
    let how = (acr, amr, some(&[0, 90 * MINUTE, -10 * SECOND]));
    let label = proptest::sample::select(&[None, Some("laptop")][..]);
    let persistent = proptest::sample::select(&[None, Some(false), Some(true)][..]);
    let external = prop_oneof![1 => Just(None), 2 => (0..EXTERNAL.len()).prop_map(Some)];
    let time = (some(&[MIN_IDLE, 10 * MINUTE, 30 * MINUTE]), some(&[2 * MINUTE, 20 * MINUTE, 70 * MINUTE]));
    let with_refresh = prop_oneof![4 => Just(None), 3 => Just(Some(true)), 1 => Just(Some(false))];
    (how, label, persistent, external, time, with_refresh)
        .prop_map(|(how, label, persistent, external, time, with_refresh)| {
            let (acr, amr, authenticated_ago) = how;
            let (idle_timeout, lifetime) = time;
            Terms { acr, amr, authenticated_ago, label, persistent, external, idle_timeout, lifetime, with_refresh }
        })
        .boxed()
}

fn way() -> impl Strategy<Value = Way> {
    proptest::sample::select(&[Way::Layer, Way::Guard, Way::Both, Way::Page][..])
}

fn how() -> impl Strategy<Value = How> {
    proptest::sample::select(&[How::Active, How::PassiveHeader, How::PassiveLayer][..])
}

fn begins() -> BoxedStrategy<Step> {
    let user = || 0..USERS.len();
    let named = proptest::sample::select(&[Named::Caller, Named::Id, Named::RefreshToken][..]);
    prop_oneof![
        6 => (node(), user(), terms()).prop_map(|(node, user, terms)| Step::Login { node, user, terms }),
        3 => (node(), client(), named, terms())
            .prop_map(|(node, client, named, terms)| Step::Reauthenticate { node, client, named, terms }),
        5 => (node(), client(), user(), terms())
            .prop_map(|(node, client, user, terms)| Step::Act { node, client, user, terms }),
    ]
    .boxed()
}

fn uses() -> BoxedStrategy<Step> {
    prop_oneof![
        6 => (node(), client(), 0..4_usize, way(), how())
            .prop_map(|(node, client, nth, way, how)| Step::Access { node, client, nth, way, how }),
        6 => (node(), client(), any::<bool>(), how(), prop::bool::weighted(0.8)).prop_map(
            |(node, client, in_page, how, arrives)| Step::Refresh { node, client, in_page, how, arrives }
        ),
        1 => (node(), client()).prop_map(|(node, client)| Step::UpdateClaims { node, client }),
        2 => (node(), 0..USERS.len()).prop_map(|(node, user)| Step::List { node, user }),
    ]
    .boxed()
}

fn ends() -> BoxedStrategy<Step> {
    let except = || prop_oneof![Just(None), client().prop_map(Some)];
    prop_oneof![
        3 => (node(), client(), any::<bool>())
            .prop_map(|(node, client, by_refresh)| Step::Logout { node, client, by_refresh }),
        2 => (node(), client()).prop_map(|(node, client)| Step::RevokeSession { node, client }),
        2 => (node(), 0..USERS.len(), except())
            .prop_map(|(node, user, except)| Step::RevokeUser { node, user, except }),
        1 => node().prop_map(|node| Step::RevokeEveryone { node }),
        2 => (node(), 0..EXTERNAL.len()).prop_map(|(node, external)| Step::RevokeExternal { node, external }),
    ]
    .boxed()
}

fn passes() -> BoxedStrategy<Step> {
    let edge = proptest::sample::select(&[Edge::Idle, Edge::Expiry, Edge::AccessToken][..]);
    prop_oneof![
        2 => (0..=2 * SECOND).prop_map(Step::Wait),
        2 => (0..=2 * GRACE).prop_map(Step::Wait),
        4 => (MINUTE..=6 * MINUTE).prop_map(Step::Wait),
        2 => (6 * MINUTE..=40 * MINUTE).prop_map(Step::Wait),
        3 => (client(), node(), edge, -SECOND..=SECOND)
            .prop_map(|(client, node, edge, offset)| Step::WaitFor { client, node, edge, offset }),
    ]
    .boxed()
}

fn happens() -> BoxedStrategy<Step> {
    prop_oneof![
        3 => node().prop_map(Step::Flush),
        2 => node().prop_map(Step::ReadFeed),
        1 => node().prop_map(Step::Crash),
    ]
    .boxed()
}

pub(crate) fn check_life(open: Open) {
    let skew = || 0..GRACE;
    let step = prop_oneof![4 => begins(), 9 => uses(), 2 => ends(), 5 => passes(), 2 => happens()];
    let schedules = ((skew(), skew(), skew()), prop::collection::vec(step, LENGTH));
    check(500, &schedules, |((a, b, c), steps)| run(open, [a, b, c], &steps));
}
