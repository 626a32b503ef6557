//! The log of what was revoked since this node has started, for those who follow it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::session::SessionId;
use crate::token::id::TokenId;

/// How many entries are kept for those who come back. Whoever has missed more gets all that is in force.
const MAX_KEPT: usize = 10_000;

/// What was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Session(SessionId),
    Token(TokenId),
    /// A user, or [`EVERYONE`].
    Users(Box<str>),
}

/// The log. Empty as long as nobody may follow.
#[derive(Debug)]
pub(super) struct Log {
    /// Whether anybody may follow.
    is_on: AtomicBool,
    /// Tells the positions of this process from those of others.
    epoch: u64,
    entries: Mutex<Entries>,
    /// Marked as changed by each announcement, each read of the store's feed, and the end.
    changed: watch::Sender<()>,
    is_finished: AtomicBool,
}

#[derive(Debug, Default)]
struct Entries {
    /// How many entries were dropped.
    dropped: u64,
    kept: VecDeque<Subject>,
}

impl Entries {
    fn end(&self) -> u64 {
        self.dropped + self.kept.len() as u64
    }
}

impl Log {
    pub(super) fn new() -> Self {
        let mut epoch = [0; 8];
        // Without random bytes nobody can log in either. Positions of another process are then taken for old ones.
        let _ = getrandom::fill(&mut epoch);
        Self {
            is_on: AtomicBool::new(false),
            epoch: u64::from_ne_bytes(epoch),
            entries: Mutex::default(),
            changed: watch::Sender::new(()),
            is_finished: AtomicBool::new(false),
        }
    }

    /// Lets others follow.
    pub(super) fn begin(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Lets nobody follow any more.
    pub(super) fn finish(&self) {
        self.is_finished.store(true, Ordering::Relaxed);
        self.changed.send_replace(());
    }

    pub(super) fn is_finished(&self) -> bool {
        self.is_finished.load(Ordering::Relaxed)
    }

    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Announces what is in force by now.
    pub(super) fn add(&self, subject: impl FnOnce() -> Subject) {
        if !self.is_on() {
            return;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.kept.push_back(subject());
        if entries.kept.len() > MAX_KEPT {
            entries.kept.pop_front();
            entries.dropped += 1;
        }
        drop(entries);
        self.changed.send_replace(());
    }

    /// The store's feed was read to its end.
    pub(super) fn was_read(&self) {
        if self.is_on() {
            self.changed.send_replace(());
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).end()
    }

    /// The announcements after a position, each with the position after it. None if some of them are not kept.
    pub(super) fn since(&self, position: u64) -> Option<Vec<(u64, Subject)>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = usize::try_from(position.checked_sub(entries.dropped)?).ok()?;
        if position > entries.end() {
            return None;
        }
        let numbers = position + 1..;
        Some(numbers.zip(entries.kept.iter().skip(skipped).cloned()).collect())
    }

    /// Writes a position. One in the middle of all that is in force is no position to go on from.
    pub(super) fn id(&self, position: u64, is_complete: bool) -> String {
        format!("{:016x}-{position}{}", self.epoch, if is_complete { "" } else { "+" })
    }

    /// Reads a position of this process.
    pub(super) fn position(&self, id: &str) -> Option<u64> {
        let (epoch, position) = id.split_once('-')?;
        let is_ours = u64::from_str_radix(epoch, 16) == Ok(self.epoch) && epoch.len() == 16;
        is_ours.then(|| position.parse().ok()).flatten()
    }
}
