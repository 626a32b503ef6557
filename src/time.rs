//! Timestamps, the clock, and durations in settings files.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time, in whole milliseconds since the Unix epoch.
///
/// Stores keep it as an integer, so that no database's own date and time types can change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest timestamp, later than the end of every session.
    pub const MAX: Self = Self(i64::MAX);

    /// Creates a timestamp from milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Returns the whole seconds since the Unix epoch, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Returns `self + duration`, saturating at [`Timestamp::MAX`].
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// Returns `self - duration`, saturating at the earliest timestamp.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// Returns the time since `earlier`, or zero if `earlier` is later than `self`.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Returns whether at least `duration` has passed since `earlier`. The difference is signed: if `earlier` is later
    /// than `self`, because another node's clock is ahead, this returns `false`.
    pub fn is_past(self, earlier: Self, duration: Duration) -> bool {
        self.0.saturating_sub(earlier.0) >= millis(duration)
    }
}

/// Lets through what is to happen once in a while, however often it is asked.
#[cfg(any(feature = "aws_lc_rs", feature = "redis", feature = "signing"))]
#[derive(Debug)]
pub(crate) struct Throttle(std::sync::Mutex<Option<std::time::Instant>>);

#[cfg(any(feature = "aws_lc_rs", feature = "redis", feature = "signing"))]
impl Throttle {
    pub(crate) const fn new() -> Self {
        Self(std::sync::Mutex::new(None))
    }

    /// Whether the last time that something was let through is this long ago. This is one, then.
    pub(crate) fn lets_through(&self, every: Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_due = last.is_none_or(|at| at.elapsed() >= every);
        if is_due {
            *last = Some(std::time::Instant::now());
        }
        is_due
    }
}

/// From 0 to 1, for what must not happen everywhere at the same time. It is no secret: without random bytes it is 0.
pub(crate) fn jitter() -> f64 {
    let mut random = [0; 4];
    let _ = getrandom::fill(&mut random);
    f64::from(u32::from_ne_bytes(random)) / f64::from(u32::MAX)
}

/// The whole milliseconds of a duration, saturating at [`i64::MAX`]. Without the 128 bits of [`Duration::as_millis`]: every
/// request needs some of them.
pub(crate) fn millis(duration: Duration) -> i64 {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    seconds.saturating_mul(1000).saturating_add(i64::from(duration.subsec_millis()))
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(millis(after)),
            Err(before) => Self(-millis(before.duration())),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let distance = Duration::from_millis(time.0.unsigned_abs());
        let time = if time.0 < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
        time.unwrap_or(UNIX_EPOCH)
    }
}

/// Returns the current time. Tests replace it, so that they do not have to wait.
pub(crate) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Reads and writes durations in settings files: `15m`, `7days`, `1h 30m`, `1500ms`.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
    }
}

/// The same for a duration that may be left out.
pub(crate) mod optional_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

    pub(crate) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(|duration| humantime::format_duration(duration).to_string()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        #[derive(Deserialize)]
        struct Written(#[serde(with = "super::duration")] Duration);

        Ok(Option::deserialize(deserializer)?.map(|Written(duration)| duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_convert_both_ways_before_and_after_the_epoch() {
        for millis in [0, 1, 1_700_000_000_123, -1, -1_700_000_000_123] {
            let time = Timestamp::from_millis(millis);
            assert_eq!(Timestamp::from(SystemTime::from(time)), time);
        }
        assert_eq!(Timestamp::from_millis(1_999).as_secs(), 1);
        assert_eq!(Timestamp::from_millis(-1).as_secs(), -1);
    }

    #[test]
    fn for_a_clock_that_is_behind_no_time_has_passed() {
        let (early, late) = (Timestamp::from_millis(1_000), Timestamp::from_millis(5_000));
        assert!(late.is_past(early, Duration::from_secs(4)));
        assert!(!late.is_past(early, Duration::from_millis(4_001)));
        assert!(!early.is_past(late, Duration::from_millis(1)));
        assert_eq!(early.since(late), Duration::ZERO);
        assert!(!early.is_past(Timestamp::MAX, Duration::MAX));
    }
}
