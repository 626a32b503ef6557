//! The users' notes, in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

#[derive(Clone, Serialize)]
pub(crate) struct Note {
    pub(crate) id: u64,
    pub(crate) text: String,
    #[serde(skip)]
    pub(crate) written: SystemTime,
}

#[derive(Default)]
struct Table {
    last_id: u64,
    by_user: HashMap<String, Vec<Note>>,
}

#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Table>>);

impl Notes {
    /// Notes per user. The oldest are dropped.
    const MAX_NOTES: usize = 100;
    /// Characters per note. Longer texts are cut.
    const MAX_LENGTH: usize = 1000;

    /// The user's notes, newest first.
    pub(crate) fn of(&self, user: &str) -> Vec<Note> {
        self.lock().by_user.get(user).into_iter().flatten().rev().cloned().collect()
    }

    pub(crate) fn add(&self, user: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut table = self.lock();
        table.last_id += 1;
        let text = text.chars().take(Self::MAX_LENGTH).collect();
        let note = Note { id: table.last_id, text, written: SystemTime::now() };
        let notes = table.by_user.entry(user.to_owned()).or_default();
        notes.push(note);
        let excess = notes.len().saturating_sub(Self::MAX_NOTES);
        notes.drain(..excess);
    }

    pub(crate) fn delete(&self, user: &str, id: u64) {
        if let Some(notes) = self.lock().by_user.get_mut(user) {
            notes.retain(|note| note.id != id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
