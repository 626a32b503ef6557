//! The `Auth`s that are alive in this process, by their keys: two with a key in common accept each other's tokens.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The ids of the keys of an `Auth`. Dropped with its last clone.
pub(super) type KeyIds = Arc<[String]>;

static ALIVE: Mutex<Vec<Weak<[String]>>> = Mutex::new(Vec::new());

/// Registers an `Auth`, and returns whether another one that has a key in common is alive.
pub(super) fn register(keys: Vec<String>) -> (KeyIds, bool) {
    let keys = KeyIds::from(keys);
    let mut alive = ALIVE.lock().unwrap_or_else(PoisonError::into_inner);
    alive.retain(|other| other.strong_count() > 0);
    let shares_a_key = |other: KeyIds| other.iter().any(|key| keys.contains(key));
    let has_twin = alive.iter().filter_map(Weak::upgrade).any(shares_a_key);
    alive.push(Arc::downgrade(&keys));
    (keys, has_twin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_is_found_while_it_is_alive() {
        let keys = |names: &[&str]| names.iter().map(|name| format!("registry test: {name}")).collect();
        let (first, has_twin) = register(keys(&["one", "two"]));
        assert!(!has_twin);
        assert!(register(keys(&["two", "three"])).1);
        assert!(!register(keys(&["three"])).1);
        drop(first);
        assert!(!register(keys(&["one"])).1);
    }
}
