//! Write-behind of client activity: it is collected in memory and written in batches. Until then this node adds it to
//! the sessions that it loads.

use std::sync::{Mutex, PoisonError};

use dashmap::DashMap;
use quick_cache::sync::Cache;

use crate::ratchet::RotationState;
use crate::session::SessionId;
use crate::store::Activity;
use crate::time::Timestamp;

/// For how many sessions the written acknowledgement is remembered, so that it is not written again. About 50 bytes
/// each, allocated on demand.
const MAX_ACKNOWLEDGED: usize = 262_144;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Pending {
    last_seen_at: Timestamp,
    acknowledged: Option<u32>,
}

/// The activity that this node has recorded and not yet written to the store.
pub(crate) struct WriteBehind {
    pending: DashMap<SessionId, Pending>,
    /// The sessions with an unwritten acknowledgement, which is written before the next full batch.
    urgent: Mutex<Vec<SessionId>>,
    /// The highest generation acknowledged so far, written or not.
    acknowledged: Cache<SessionId, u32>,
}

impl WriteBehind {
    pub(crate) fn new() -> Self {
        Self { pending: DashMap::new(), urgent: Mutex::default(), acknowledged: Cache::new(MAX_ACKNOWLEDGED) }
    }

    /// Records that the client has used a token of the session.
    pub(crate) fn touch(&self, id: SessionId, at: Timestamp) {
        self.record(id, at, None);
    }

    /// Records that the refresh token of this generation has reached the client.
    pub(crate) fn acknowledge(&self, id: SessionId, generation: u32, at: Timestamp) {
        if self.acknowledged.get(&id).is_some_and(|known| known >= generation) {
            return self.touch(id, at);
        }
        self.record(id, at, Some(generation));
        self.acknowledged.insert(id, generation);
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    fn record(&self, id: SessionId, at: Timestamp, acknowledged: Option<u32>) {
        let new = Pending { last_seen_at: at, acknowledged };
        self.pending
            .entry(id)
            .and_modify(|known| {
                known.last_seen_at = known.last_seen_at.max(at);
                known.acknowledged = known.acknowledged.max(acknowledged);
            })
            .or_insert(new);
    }

    /// Adds the unwritten activity of a session to its rotation state.
    pub(crate) fn add_to(&self, id: SessionId, state: &mut RotationState) {
        if let Some(pending) = self.pending.get(&id) {
            state.merge_activity(pending.last_seen_at, pending.acknowledged);
        }
    }

    /// Takes the list of sessions with an unwritten acknowledgement and returns their unwritten activity.
    pub(crate) fn take_urgent(&self) -> Vec<Activity> {
        let ids = std::mem::take(&mut *self.urgent.lock().unwrap_or_else(PoisonError::into_inner));
        let mut batch: Vec<_> = ids.into_iter().filter_map(|id| Some(activity(id, *self.pending.get(&id)?))).collect();
        batch.sort_unstable_by_key(|activity| activity.id);
        batch.dedup();
        batch
    }

    /// Returns all unwritten activity.
    pub(crate) fn all(&self) -> Vec<Activity> {
        self.pending.iter().map(|entry| activity(*entry.key(), *entry.value())).collect()
    }

    /// Removes activity that was written to the store. Sessions with newer activity stay.
    pub(crate) fn written(&self, batch: &[Activity]) {
        for written in batch {
            self.pending.remove_if(&written.id, |id, pending| activity(*id, *pending) == *written);
        }
    }

    /// Keeps activity that could not be written. Acknowledgements in it are urgent again.
    pub(crate) fn not_written(&self, batch: &[Activity]) {
        let urgent = batch.iter().filter(|activity| activity.acknowledged.is_some()).map(|activity| activity.id);
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner).extend(urgent);
    }
}

const fn activity(id: SessionId, pending: Pending) -> Activity {
    Activity { id, last_seen_at: pending.last_seen_at, acknowledged: pending.acknowledged }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SessionId = SessionId::from_bytes([7; 16]);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn an_acknowledgement_is_urgent_once_and_other_activity_is_not() {
        let write_behind = WriteBehind::new();
        write_behind.touch(ID, at(1));
        assert_eq!(write_behind.take_urgent(), []);
        write_behind.acknowledge(ID, 3, at(2));
        write_behind.acknowledge(ID, 3, at(3));
        write_behind.acknowledge(ID, 2, at(4));
        let batch = write_behind.take_urgent();
        assert_eq!(batch, [Activity { id: ID, last_seen_at: at(4), acknowledged: Some(3) }]);
        write_behind.written(&batch);
        write_behind.acknowledge(ID, 3, at(5));
        assert_eq!(write_behind.take_urgent(), []);
        assert_eq!(write_behind.all(), [Activity { id: ID, last_seen_at: at(5), acknowledged: None }]);
        write_behind.acknowledge(ID, 4, at(6));
        assert_eq!(write_behind.take_urgent().len(), 1);
    }

    #[test]
    fn unwritten_activity_is_added_to_the_rotation_state() {
        let write_behind = WriteBehind::new();
        let mut state = RotationState::new(at(10), at(1_000));
        write_behind.add_to(ID, &mut state);
        assert_eq!(state, RotationState::new(at(10), at(1_000)));
        write_behind.acknowledge(ID, 3, at(20));
        write_behind.touch(ID, at(15));
        write_behind.add_to(ID, &mut state);
        assert_eq!((state.last_seen_at, state.acknowledged), (at(20), Some(3)));
    }

    #[test]
    fn activity_during_a_write_is_not_lost() {
        let write_behind = WriteBehind::new();
        write_behind.touch(ID, at(1));
        let batch = write_behind.all();
        write_behind.touch(ID, at(2));
        write_behind.written(&batch);
        assert_eq!(write_behind.all(), [Activity { id: ID, last_seen_at: at(2), acknowledged: None }]);
        write_behind.written(&write_behind.all());
        assert_eq!(write_behind.all(), []);
    }

    #[test]
    fn a_batch_that_could_not_be_written_is_retried() {
        let write_behind = WriteBehind::new();
        write_behind.acknowledge(ID, 3, at(1));
        let batch = write_behind.take_urgent();
        write_behind.not_written(&batch);
        assert_eq!(write_behind.take_urgent(), batch);
        assert_eq!(write_behind.all(), batch);
    }
}
