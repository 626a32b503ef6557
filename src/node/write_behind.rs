//! Write-behind of client activity: it is collected in memory and written in batches. Until then this node adds it to
//! the sessions that it loads.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use foldhash::quality::RandomState;
use quick_cache::sync::Cache;

use crate::ratchet::RotationState;
use crate::session::SessionId;
use crate::store::Activity;
use crate::time::Timestamp;

/// For how many sessions the written acknowledgement is remembered, so that it is not written again. About 50 bytes
/// each, allocated on demand.
const MAX_ACKNOWLEDGED: usize = 262_144;

/// The last use of an access token. A token that is used again and again keeps one, so that recording a use is nearly always
/// a single write.
#[derive(Debug)]
pub(crate) struct LastUse {
    /// In milliseconds since the Unix epoch.
    at: AtomicI64,
    /// Whether the pending activity of its session refers to it.
    is_pending: AtomicBool,
}

impl Default for LastUse {
    fn default() -> Self {
        Self { at: AtomicI64::new(i64::MIN), is_pending: AtomicBool::new(false) }
    }
}

impl LastUse {
    fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.at.load(Ordering::SeqCst))
    }
}

#[derive(Debug)]
struct Pending {
    last_seen_at: Timestamp,
    acknowledged: Option<u32>,
    /// That of one of the session's tokens.
    last_use: Option<Arc<LastUse>>,
}

impl Pending {
    fn activity(&self, id: SessionId) -> Activity {
        let used_at = self.last_use.as_ref().map(|last_use| last_use.at());
        let last_seen_at = used_at.map_or(self.last_seen_at, |used_at| self.last_seen_at.max(used_at));
        Activity { id, last_seen_at, acknowledged: self.acknowledged }
    }

    /// Whether all of it is in `written`, in which nothing is later than `latest`. From then on, a use is no longer pending by
    /// itself.
    fn is_in(&self, written: &Activity, latest: Timestamp) -> bool {
        let Activity { id, last_seen_at, acknowledged } = self.activity(written.id);
        if (Activity { id, last_seen_at: last_seen_at.min(latest), acknowledged }) != *written {
            return false;
        }
        let Some(last_use) = &self.last_use else { return true };
        last_use.is_pending.store(false, Ordering::SeqCst);
        // A use from before that may rely on this entry, and one from after it has to add one.
        let used_at = last_use.at();
        let is_written = used_at.min(latest) <= written.last_seen_at;
        if !is_written {
            last_use.is_pending.store(true, Ordering::SeqCst);
        } else if used_at > written.last_seen_at {
            // By a clock that was ahead. Once it is right, later uses count again.
            last_use.at.store(written.last_seen_at.as_millis(), Ordering::SeqCst);
        }
        is_written
    }
}

/// The activity that this node has recorded and not yet written to the store.
pub(crate) struct WriteBehind {
    pending: DashMap<SessionId, Pending, RandomState>,
    /// The sessions with an unwritten acknowledgement, which is written before the next full batch.
    urgent: Mutex<Vec<SessionId>>,
    /// The highest generation acknowledged so far, written or not.
    acknowledged: Cache<SessionId, u32>,
}

impl WriteBehind {
    pub(crate) fn new() -> Self {
        Self { pending: DashMap::default(), urgent: Mutex::default(), acknowledged: Cache::new(MAX_ACKNOWLEDGED) }
    }

    /// Records that the client has used a token of the session.
    pub(crate) fn touch(&self, id: SessionId, at: Timestamp) {
        self.record(id, at, None);
    }

    /// [`touch`](Self::touch) for a token that keeps its last use.
    pub(crate) fn touch_again(&self, id: SessionId, last_use: &Arc<LastUse>, at: Timestamp) {
        let millis = at.as_millis();
        // Whoever has recorded this millisecond sees to the rest.
        if last_use.at.load(Ordering::SeqCst) >= millis {
            return;
        }
        last_use.at.fetch_max(millis, Ordering::SeqCst);
        if last_use.is_pending.load(Ordering::SeqCst) {
            return;
        }
        let new = || Pending { last_seen_at: at, acknowledged: None, last_use: Some(Arc::clone(last_use)) };
        let mut pending = self.pending.entry(id).or_insert_with(new);
        pending.last_seen_at = pending.last_seen_at.max(at);
        // Of several tokens of a session in use, one has its place here. The others come here every time.
        if pending.last_use.as_ref().is_none_or(|known| Arc::ptr_eq(known, last_use)) {
            last_use.is_pending.store(true, Ordering::SeqCst);
            pending.last_use.get_or_insert_with(|| Arc::clone(last_use));
        }
    }

    /// Writes soon what was recorded of a session: another node must not take it for idle.
    pub(crate) fn hurry(&self, id: SessionId) {
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner).push(id);
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
        let new = || Pending { last_seen_at: at, acknowledged, last_use: None };
        let mut pending = self.pending.entry(id).or_insert_with(new);
        pending.last_seen_at = pending.last_seen_at.max(at);
        pending.acknowledged = pending.acknowledged.max(acknowledged);
    }

    /// The unwritten activity of a session.
    pub(crate) fn of(&self, id: SessionId) -> Option<Activity> {
        Some(self.pending.get(&id)?.activity(id))
    }

    /// Adds the unwritten activity of a session to its rotation state.
    pub(crate) fn add_to(&self, id: SessionId, state: &mut RotationState) {
        if let Some(Activity { last_seen_at, acknowledged, .. }) = self.of(id) {
            state.merge_activity(last_seen_at, acknowledged);
        }
    }

    /// Takes the list of sessions with an unwritten acknowledgement and returns their unwritten activity.
    pub(crate) fn take_urgent(&self) -> Vec<Activity> {
        let ids = std::mem::take(&mut *self.urgent.lock().unwrap_or_else(PoisonError::into_inner));
        let mut batch: Vec<_> = ids.into_iter().filter_map(|id| Some(self.pending.get(&id)?.activity(id))).collect();
        batch.sort_unstable_by_key(|activity| activity.id);
        batch.dedup();
        batch
    }

    /// Returns all unwritten activity.
    pub(crate) fn all(&self) -> Vec<Activity> {
        self.pending.iter().map(|entry| entry.activity(*entry.key())).collect()
    }

    /// Of how many sessions activity is unwritten.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Removes activity that was written to the store, in which nothing is later than `latest`. Sessions with newer activity
    /// stay.
    pub(crate) fn written(&self, batch: &[Activity], latest: Timestamp) {
        for written in batch {
            self.pending.remove_if(&written.id, |_, pending| pending.is_in(written, latest));
        }
    }

    /// Keeps activity that could not be written. Acknowledgements in it are urgent again.
    pub(crate) fn not_written(&self, batch: &[Activity]) {
        let urgent = batch.iter().filter(|activity| activity.acknowledged.is_some()).map(|activity| activity.id);
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner).extend(urgent);
    }
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
        write_behind.written(&batch, Timestamp::MAX);
        write_behind.acknowledge(ID, 3, at(5));
        assert_eq!(write_behind.take_urgent(), []);
        assert_eq!(write_behind.all(), [Activity { id: ID, last_seen_at: at(5), acknowledged: None }]);
        write_behind.acknowledge(ID, 4, at(6));
        assert_eq!(write_behind.take_urgent().len(), 1);
    }

    #[test]
    fn a_use_of_a_token_is_recorded_whatever_was_written_before() {
        let write_behind = WriteBehind::new();
        let last_use = Arc::default();
        let seen_at = |millis| Activity { id: ID, last_seen_at: at(millis), acknowledged: None };
        for millis in [1, 2] {
            write_behind.touch_again(ID, &last_use, at(millis));
            assert_eq!(write_behind.all(), [seen_at(millis)]);
        }
        write_behind.written(&write_behind.all(), Timestamp::MAX);
        assert_eq!(write_behind.all(), []);
        write_behind.touch_again(ID, &last_use, at(2));
        assert_eq!(write_behind.all(), [], "2 ms was written");
        write_behind.touch_again(ID, &last_use, at(3));
        let batch = write_behind.all();
        write_behind.touch_again(ID, &last_use, at(4));
        write_behind.written(&batch, Timestamp::MAX);
        assert_eq!(write_behind.all(), [seen_at(4)]);
        write_behind.touch_again(ID, &last_use, at(5));
        assert_eq!(write_behind.all(), [seen_at(5)]);
    }

    #[test]
    fn what_a_clock_ahead_has_recorded_is_written_once_and_hides_no_later_use() {
        let write_behind = WriteBehind::new();
        let last_use = Arc::default();
        let (ahead, latest) = (at(600), at(30));
        write_behind.touch_again(ID, &last_use, ahead);
        write_behind.touch(SessionId::from_bytes([8; 16]), ahead);
        let mut batch = write_behind.all();
        batch.iter_mut().for_each(|activity| activity.last_seen_at = latest);
        write_behind.written(&batch, latest);
        assert_eq!(write_behind.all(), []);
        // The clock is right again.
        write_behind.touch_again(ID, &last_use, at(40));
        assert_eq!(write_behind.all(), [Activity { id: ID, last_seen_at: at(40), acknowledged: None }]);
    }

    #[test]
    fn several_tokens_of_a_session_record_their_uses() {
        let write_behind = WriteBehind::new();
        let tokens = [Arc::default(), Arc::default()];
        let used_at = |token: usize, millis| {
            write_behind.touch_again(ID, &tokens[token], at(millis));
            write_behind.all()
        };
        let seen_at = |millis, acknowledged| [Activity { id: ID, last_seen_at: at(millis), acknowledged }];
        assert_eq!(used_at(0, 1), seen_at(1, None));
        assert_eq!(used_at(1, 2), seen_at(2, None));
        assert_eq!(used_at(0, 3), seen_at(3, None));
        assert_eq!(used_at(1, 5), seen_at(5, None));
        // Late, by another clock reading.
        assert_eq!(used_at(0, 4), seen_at(5, None));
        write_behind.acknowledge(ID, 7, at(6));
        assert_eq!(used_at(0, 8), seen_at(8, Some(7)));
        write_behind.written(&write_behind.all(), Timestamp::MAX);
        assert_eq!(used_at(1, 9), seen_at(9, None));
        assert_eq!(used_at(0, 10), seen_at(10, None));
        let mut state = RotationState::new(at(1), at(1_000));
        write_behind.add_to(ID, &mut state);
        assert_eq!(state.last_seen_at, at(10));
    }

    #[test]
    fn no_use_is_lost_between_a_write_and_the_next() {
        for _ in 0..200 {
            let write_behind = Arc::new(WriteBehind::new());
            let users: Vec<_> = [Arc::<LastUse>::default(), Arc::default()]
                .into_iter()
                .map(|last_use| {
                    let write_behind = Arc::clone(&write_behind);
                    std::thread::spawn(move || {
                        (1..=300).for_each(|millis| write_behind.touch_again(ID, &last_use, at(millis)));
                    })
                })
                .collect();
            let mut written = at(0);
            while written < at(300) {
                let is_over = users.iter().all(std::thread::JoinHandle::is_finished);
                let batch = write_behind.all();
                written = batch.iter().map(|activity| activity.last_seen_at).fold(written, Timestamp::max);
                write_behind.written(&batch, Timestamp::MAX);
                assert!(!is_over || written == at(300), "the last use was lost");
            }
            users.into_iter().for_each(|user| user.join().unwrap());
        }
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
        write_behind.written(&batch, Timestamp::MAX);
        assert_eq!(write_behind.all(), [Activity { id: ID, last_seen_at: at(2), acknowledged: None }]);
        write_behind.written(&write_behind.all(), Timestamp::MAX);
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
