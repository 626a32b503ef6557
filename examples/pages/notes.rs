//! What people have written down, until the process ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

#[derive(Clone)]
pub(crate) struct Note {
    pub(crate) id: u64,
    pub(crate) text: String,
    pub(crate) written: SystemTime,
}

#[derive(Default)]
struct Everything {
    last_id: u64,
    by_user: HashMap<String, Vec<Note>>,
}

#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Everything>>);

impl Notes {
    const MOST: usize = 100;
    const LONGEST: usize = 1000;

    /// The newest first.
    pub(crate) fn of(&self, user: &str) -> Vec<Note> {
        self.lock().by_user.get(user).into_iter().flatten().rev().cloned().collect()
    }

    pub(crate) fn add(&self, user: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut all = self.lock();
        all.last_id += 1;
        let text = text.chars().take(Self::LONGEST).collect();
        let note = Note { id: all.last_id, text, written: SystemTime::now() };
        let notes = all.by_user.entry(user.to_owned()).or_default();
        notes.push(note);
        let too_many = notes.len().saturating_sub(Self::MOST);
        notes.drain(..too_many);
    }

    pub(crate) fn delete(&self, user: &str, id: u64) {
        if let Some(notes) = self.lock().by_user.get_mut(user) {
            notes.retain(|note| note.id != id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Everything> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
