//! What this node has seen of clients and not yet written: written behind, in batches, and counted in its own verdicts
//! until then.

use std::sync::{Mutex, PoisonError};

use dashmap::DashMap;
use quick_cache::sync::Cache;

use crate::session::{Chain, SessionId, Timestamp};
use crate::store::Seen;

/// How many sessions' acknowledgements are remembered after they were written, so that they are not written again.
/// Some 50 bytes each, taken only as they come.
const REMEMBERED: usize = 262_144;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Pending {
    last_seen_at: Timestamp,
    acknowledged: Option<u32>,
}

pub(crate) struct Activity {
    pending: DashMap<SessionId, Pending>,
    /// Sessions with an acknowledgement that is not written yet: these do not wait for the next batch.
    urgent: Mutex<Vec<SessionId>>,
    acknowledged: Cache<SessionId, u32>,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { pending: DashMap::new(), urgent: Mutex::default(), acknowledged: Cache::new(REMEMBERED) }
    }

    /// The client was heard of.
    pub(crate) fn touch(&self, id: SessionId, at: Timestamp) {
        self.note(id, at, None);
    }

    /// The client has shown that this generation's refresh token reached it.
    pub(crate) fn acknowledge(&self, id: SessionId, generation: u32, at: Timestamp) {
        if self.acknowledged.get(&id).is_some_and(|known| known >= generation) {
            return self.touch(id, at);
        }
        self.note(id, at, Some(generation));
        self.acknowledged.insert(id, generation);
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    fn note(&self, id: SessionId, at: Timestamp, acknowledged: Option<u32>) {
        let new = Pending { last_seen_at: at, acknowledged };
        self.pending
            .entry(id)
            .and_modify(|known| {
                known.last_seen_at = known.last_seen_at.max(at);
                known.acknowledged = known.acknowledged.max(acknowledged);
            })
            .or_insert(new);
    }

    /// Adds to a session's chain what is not written yet.
    pub(crate) fn add_to(&self, id: SessionId, chain: &mut Chain) {
        if let Some(pending) = self.pending.get(&id) {
            chain.merge_seen(pending.last_seen_at, pending.acknowledged);
        }
    }

    /// What has an acknowledgement that is not written yet.
    pub(crate) fn urgent(&self) -> Vec<Seen> {
        let ids = std::mem::take(&mut *self.urgent.lock().unwrap_or_else(PoisonError::into_inner));
        let mut batch: Vec<_> = ids.into_iter().filter_map(|id| Some(seen(id, *self.pending.get(&id)?))).collect();
        batch.sort_unstable_by_key(|seen| seen.id);
        batch.dedup();
        batch
    }

    /// Everything that is not written yet.
    pub(crate) fn all(&self) -> Vec<Seen> {
        self.pending.iter().map(|entry| seen(*entry.key(), *entry.value())).collect()
    }

    /// These are in the store now. What came in since stays.
    pub(crate) fn written(&self, batch: &[Seen]) {
        for written in batch {
            self.pending.remove_if(&written.id, |id, pending| seen(*id, *pending) == *written);
        }
    }

    /// These could not be written: they stay pending, and no less urgent than they were.
    pub(crate) fn not_written(&self, batch: &[Seen]) {
        let urgent = batch.iter().filter(|seen| seen.acknowledged.is_some()).map(|seen| seen.id);
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner).extend(urgent);
    }
}

const fn seen(id: SessionId, pending: Pending) -> Seen {
    Seen { id, last_seen_at: pending.last_seen_at, acknowledged: pending.acknowledged }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SessionId = SessionId::from_bytes([7; 16]);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn an_acknowledgement_is_urgent_once_and_being_seen_is_not() {
        let activity = Activity::new();
        activity.touch(ID, at(1));
        assert_eq!(activity.urgent(), []);
        activity.acknowledge(ID, 3, at(2));
        activity.acknowledge(ID, 3, at(3));
        activity.acknowledge(ID, 2, at(4));
        let batch = activity.urgent();
        assert_eq!(batch, [Seen { id: ID, last_seen_at: at(4), acknowledged: Some(3) }]);
        activity.written(&batch);
        activity.acknowledge(ID, 3, at(5));
        assert_eq!(activity.urgent(), []);
        assert_eq!(activity.all(), [Seen { id: ID, last_seen_at: at(5), acknowledged: None }]);
        activity.acknowledge(ID, 4, at(6));
        assert_eq!(activity.urgent().len(), 1);
    }

    #[test]
    fn what_is_not_written_counts_in_this_nodes_verdicts() {
        let activity = Activity::new();
        let mut chain = Chain::new(at(10), at(1_000));
        activity.add_to(ID, &mut chain);
        assert_eq!(chain, Chain::new(at(10), at(1_000)));
        activity.acknowledge(ID, 3, at(20));
        activity.touch(ID, at(15));
        activity.add_to(ID, &mut chain);
        assert_eq!((chain.last_seen_at, chain.acknowledged), (at(20), Some(3)));
    }

    #[test]
    fn what_comes_in_while_a_batch_is_written_is_not_lost() {
        let activity = Activity::new();
        activity.touch(ID, at(1));
        let batch = activity.all();
        activity.touch(ID, at(2));
        activity.written(&batch);
        assert_eq!(activity.all(), [Seen { id: ID, last_seen_at: at(2), acknowledged: None }]);
        activity.written(&activity.all());
        assert_eq!(activity.all(), []);
    }

    #[test]
    fn a_batch_that_could_not_be_written_is_tried_again() {
        let activity = Activity::new();
        activity.acknowledge(ID, 3, at(1));
        let batch = activity.urgent();
        activity.not_written(&batch);
        assert_eq!(activity.urgent(), batch);
        assert_eq!(activity.all(), batch);
    }
}
