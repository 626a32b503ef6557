//! Which key signs when.

use std::time::Duration;

use super::ALWAYS;
use crate::time::Timestamp;

/// How many changes are kept at least. A key stays known for as long as one of its changes is kept, so that a clock that was
/// wrong for a moment loses no key.
pub(super) const MIN_CHANGES: usize = 16;

/// From some time on, a key signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key_id: String,
    /// As the app has given it.
    pub(super) at: Timestamp,
    /// From when it counts here: not before the key was published for long enough.
    pub(super) from: Timestamp,
}

/// The changes of the key that signs, in the order of their `at`. That order is the same on every node, whenever and in
/// whatever order the changes were given to it, so that all nodes end up with the same key.
///
/// Of changes with the same `at`, the one to the key that signs before it counts: the other one is called off.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedule(Vec<Change>);

impl Schedule {
    /// A key that signs from the start.
    pub(super) fn of(key_id: &str) -> Self {
        Self(vec![Change { key_id: key_id.to_owned(), at: ALWAYS, from: ALWAYS }])
    }

    /// The changes, the one that counts most last.
    pub(super) fn changes(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.0.iter()
    }

    pub(super) fn find(&self, key_id: &str, at: Timestamp) -> Option<&Change> {
        self.0.iter().find(|change| change.at == at && change.key_id == key_id)
    }

    pub(super) fn has_key(&self, key_id: &str) -> bool {
        self.0.iter().any(|change| change.key_id == key_id)
    }

    /// The change by which a key signs now: the last one whose time has come. There always is one, if there are any: if the
    /// clock was set back, it is the first one whose time will come.
    pub(super) fn signing(&self, now: Timestamp) -> Option<&Change> {
        self.0.iter().rev().find(|change| change.from <= now).or_else(|| self.0.first())
    }

    pub(super) fn add(&mut self, change: Change) {
        if self.find(&change.key_id, change.at).is_none() {
            self.0.push(change);
            self.sort();
        }
    }

    /// The changes to this key are ones to `successor`, as far as their time has come, and those to come are called off.
    pub(super) fn replace_key(&mut self, key_id: &str, successor: &str, now: Timestamp) {
        self.0.retain(|change| change.key_id != key_id || change.from <= now);
        for change in self.0.iter_mut().filter(|change| change.key_id == key_id) {
            successor.clone_into(&mut change.key_id);
        }
        self.sort();
        self.0.dedup_by(|a, b| (a.at, &a.key_id) == (b.at, &b.key_id));
    }

    fn sort(&mut self) {
        self.0.sort_by(|a, b| (a.at, &a.key_id).cmp(&(b.at, &b.key_id)));
        let mut signing: Option<String> = None;
        for same_time in self.0.chunk_by_mut(|a, b| a.at == b.at) {
            let stays = same_time.iter().position(|change| Some(&change.key_id) == signing.as_ref()).unwrap_or(0);
            if let Some(counts_most) = same_time.get_mut(stays..) {
                counts_most.rotate_left(1);
            }
            signing = same_time.last().map(|change| change.key_id.clone());
        }
    }

    /// Each change with the time at which the last token is over that any node has signed because of it. A node may have
    /// published the next key late: `retention` allows for that.
    pub(super) fn ends(&self, retention: Duration) -> impl Iterator<Item = (&Change, Timestamp)> {
        // When one of the later changes begins to count.
        let mut next = None;
        self.0.iter().rev().map(move |change| {
            let end = next.map_or(Timestamp::MAX, |next: Timestamp| next.max(change.from).after(retention));
            next = Some(next.map_or(change.from, |next| next.min(change.from)));
            (change, end)
        })
    }

    /// Forgets the oldest changes, if there are many and their last tokens are over.
    pub(super) fn forget(&mut self, retention: Duration, now: Timestamp) {
        let excess = self.0.len().saturating_sub(MIN_CHANGES);
        let ends: Vec<_> = self.ends(retention).map(|(_, end)| end).collect();
        let over = ends.iter().rev().take(excess).take_while(|end| **end <= now).count();
        self.0.drain(..over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    fn change(key_id: &str, second: i64) -> Change {
        Change { key_id: key_id.to_owned(), at: at(second), from: at(second) }
    }

    fn schedule(changes: &[Change]) -> Schedule {
        let mut schedule = Schedule::of("a");
        changes.iter().for_each(|change| schedule.add(change.clone()));
        schedule
    }

    fn signing(schedule: &Schedule, second: i64) -> &str {
        &schedule.signing(at(second)).unwrap().key_id
    }

    #[test]
    fn the_order_in_which_changes_are_given_does_not_matter() {
        let changes = [change("b", 10), change("a", 20), change("c", 30), change("a", 30), change("b", 40)];
        let sorted = schedule(&changes).0;
        let mut given = changes.to_vec();
        // Heap's algorithm.
        let mut counters = [0; 5];
        let mut n = 1;
        while n < given.len() {
            if counters[n] < n {
                given.swap(if n % 2 == 0 { 0 } else { counters[n] }, n);
                assert_eq!(schedule(&given).0, sorted, "{given:?}");
                counters[n] += 1;
                n = 1;
            } else {
                counters[n] = 0;
                n += 1;
            }
        }
    }

    #[test]
    fn of_two_changes_at_one_time_the_one_that_leaves_the_key_in_place_counts() {
        for changes in [[change("b", 10), change("a", 10)], [change("a", 10), change("b", 10)]] {
            let mut schedule = schedule(&changes);
            assert_eq!((signing(&schedule, 9), signing(&schedule, 10)), ("a", "a"));
            // Of two others, it is the same one on every node.
            schedule.add(change("d", 20));
            schedule.add(change("c", 20));
            assert_eq!(signing(&schedule, 20), "c");
        }
    }

    #[test]
    fn a_change_that_counts_late_here_does_not_undo_a_later_one() {
        let late = Change { from: at(35), ..change("b", 10) };
        let schedule = schedule(&[change("c", 30), late]);
        assert_eq!((signing(&schedule, 29), signing(&schedule, 30), signing(&schedule, 35)), ("a", "c", "c"));
    }

    #[test]
    fn old_changes_are_forgotten_by_their_number_and_not_before_their_tokens_are_over() {
        const RETENTION: Duration = Duration::from_secs(25);
        let changes: Vec<_> = (1..=30).map(|n| change(&format!("key {n}"), 10 * n)).collect();
        let mut schedule = schedule(&changes);
        schedule.forget(RETENTION, at(100));
        // The change at 80 is the last whose tokens were signed until 90, and may be used until 115.
        assert_eq!(schedule.0[0], change("key 7", 70));
        schedule.forget(RETENTION, at(100_000));
        assert_eq!(schedule.0.len(), MIN_CHANGES);
        assert_eq!(signing(&schedule, 100_000), "key 30");
    }
}
