//! The `Auth`s that are alive in this process, by their keys: two with the same keys accept each other's tokens.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What the tokens of an `Auth` depend on. Dropped with the last clone.
pub(super) type Identity = Arc<[u8; 32]>;

static ALIVE: Mutex<Vec<Weak<[u8; 32]>>> = Mutex::new(Vec::new());

/// Registers an `Auth`, and returns whether another one with the same keys is alive.
pub(super) fn register(keys: [u8; 32]) -> (Identity, bool) {
    let identity = Arc::new(keys);
    let mut alive = ALIVE.lock().unwrap_or_else(PoisonError::into_inner);
    alive.retain(|other| other.strong_count() > 0);
    let has_twin = alive.iter().filter_map(Weak::upgrade).any(|other| *other == *identity);
    alive.push(Arc::downgrade(&identity));
    (identity, has_twin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_is_found_while_it_is_alive() {
        let (first, has_twin) = register([1; 32]);
        assert!(!has_twin);
        assert!(register([1; 32]).1);
        assert!(!register([2; 32]).1);
        drop(first);
        assert!(!register([1; 32]).1);
    }
}
