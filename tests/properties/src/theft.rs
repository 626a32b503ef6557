//! Invariant 2: a stolen token is detected.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::Open;
use super::oracle::{GRACE, Millis};
use super::schedule::{SKEW, fail, leap};
use super::world::{Check, Pass, Token, World};

/// The owner or the thief refreshes with the newest token they have, and may use the access token later.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    thief: bool,
    gap: Millis,
    node: usize,
    /// Before the theft: the response is lost.
    lost: bool,
    use_after: Option<Millis>,
}

#[derive(Clone, Debug)]
pub(crate) struct Theft {
    pub(crate) skew: Millis,
    before: Vec<Turn>,
    /// After these turns, the owner refreshes once more at a node whose clock is far ahead.
    leap: Option<Leap>,
    /// How many tokens the stolen one is behind the newest.
    nth: usize,
    after: Vec<Turn>,
}

#[derive(Clone, Debug)]
struct Leap {
    by: Millis,
    node: usize,
    lost: bool,
}

#[derive(Default)]
struct Party {
    held: Vec<Token>,
    /// How often this party has presented a token outside all windows.
    presented: u32,
}

fn turn(world: &mut World, party: &mut Party, turn: &Turn, lost: bool) -> Check<Option<Pass>> {
    let token = party.held.last().cloned().ok_or("nothing to present")?;
    let (_, pass, next) = world.refresh(turn.node, &token)?;
    if lost {
        return Ok(None);
    }
    party.held.extend(next);
    Ok(pass)
}

impl Theft {
    fn play(&self, world: &mut World) -> Check {
        let (first, _) = world.login(0, 0, None)?.ok_or("no login")?;
        let session = first.session;
        let mut owner = Party { held: vec![first], ..Party::default() };
        let act = |world: &mut World, party: &mut Party, step: &Turn, lost| -> Check {
            world.log(|| format!("{}'s turn", if step.thief { "the thief" } else { "the owner" }));
            let pass = turn(world, party, step, lost)?;
            if let (Some(pass), Some(after)) = (pass, step.use_after) {
                world.advance(after);
                world.authenticate(step.node, &pass)?;
            }
            Ok(())
        };
        let mut last = None;
        for step in &self.before {
            world.advance(step.gap);
            last = Some(world.now());
            act(world, &mut owner, step, step.lost)?;
        }
        if let Some(Leap { by, node, lost }) = self.leap {
            world.advance(GRACE + SKEW + 1);
            let token = owner.held.last().cloned().ok_or("nothing to present")?;
            let (_, _, next) = world.refresh_ahead(node, &token, by)?;
            owner.held.extend(next.filter(|_| !lost));
            last = Some(world.now());
        }
        let nth = owner.held.len() - 1 - self.nth % owner.held.len();
        let mut thief = Party { held: vec![owner.held[nth].clone()], ..Party::default() };
        world.log(|| format!("the thief copies token {}", thief.held[0].generation));
        for step in &self.after {
            world.advance(step.gap);
            // Outside all windows, including one's own: within a window a refresh changes nothing and reveals nothing.
            // A clock that is behind extends the window. A rotation that is far ahead has a window until its time is
            // corrected.
            let now = world.now();
            let rotated_at = world.oracle.row(session).and_then(|row| row.rotated_at);
            let outside = [last, rotated_at].iter().flatten().all(|at| now - at > GRACE + SKEW);
            let one = if step.thief { &mut thief } else { &mut owner };
            one.presented += u32::from(outside);
            last = Some(world.now());
            act(world, one, step, false)?;
            let row = world.oracle.row(session).filter(|row| !row.revoked);
            if row.and_then(|row| row.rotated_at).is_some_and(|at| at - now > GRACE + SKEW) {
                return Err("a token was presented, and the last rotation is still far ahead".to_owned());
            }
            if owner.presented >= 2 && thief.presented >= 2 {
                if world.oracle.row(session).is_some_and(|row| !row.revoked) {
                    return Err("owner and thief have presented twice each, and both are still in".to_owned());
                }
                for node in 0..2 {
                    world.list(node, 0)?;
                    world.refresh(node, owner.held.last().unwrap())?;
                    world.refresh(node, thief.held.last().unwrap())?;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    pub(crate) fn run(&self, open: Open) -> Result<(), TestCaseError> {
        let mut world = World::new(open, self.skew);
        self.play(&mut world).map_err(|error| fail(&world, &error))
    }
}

fn steps(
    thief: impl Strategy<Value = bool> + Clone,
    length: std::ops::Range<usize>,
) -> impl Strategy<Value = Vec<Turn>> {
    let gap = prop_oneof![1 => 0..GRACE, 1 => GRACE..=GRACE + 1, 1 => GRACE - SKEW..=GRACE + SKEW + 1, 3 => GRACE + SKEW + 1..5 * GRACE];
    let use_after = proptest::option::of(prop_oneof![0..2_000_i64, GRACE - SKEW..2 * GRACE]);
    let step = (thief, gap, 0..2_usize, proptest::bool::weighted(0.3), use_after);
    let step = step.prop_map(|(thief, gap, node, lost, use_after)| Turn { thief, gap, node, lost, use_after });
    proptest::collection::vec(step, length)
}

pub(crate) fn thefts() -> impl Strategy<Value = Theft> {
    let leap = (leap(), 0..2_usize, any::<bool>()).prop_map(|(by, node, lost)| Leap { by, node, lost });
    let leap = proptest::option::weighted(0.3, leap);
    (0..=SKEW, steps(Just(false), 0..5), leap, 0..4_usize, steps(any::<bool>(), 4..12))
        .prop_map(|(skew, before, leap, nth, after)| Theft { skew, before, leap, nth, after })
}
