//! A count that many threads add to.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const SHARDS: usize = 16;

/// Nearly every request adds to one of these. Each thread does so on a cache line that it shares with few others.
#[derive(Debug, Default)]
pub(super) struct Tally([Shard; SHARDS]);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

thread_local! {
    static OWN: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS
    };
}

impl Tally {
    pub(super) fn add_one(&self) {
        // A thread that ends has lost its number already.
        let own = OWN.try_with(|own| *own).unwrap_or_default();
        if let Some(shard) = self.0.get(own) {
            shard.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was added since the last call.
    pub(super) fn take(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.swap(0, Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_addition_is_taken_once() {
        const THREADS: u64 = 40;
        let tally = Tally::default();
        let taken: u64 = std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| (0..1000).for_each(|_| tally.add_one()));
            }
            (0..1000).map(|_| tally.take()).sum()
        });
        assert_eq!(taken + tally.take(), THREADS * 1000);
        assert_eq!(tally.take(), 0);
    }
}
