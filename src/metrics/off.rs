//! Without the feature `metrics`.

use std::time::Duration;

use super::{Levels, Outcome};

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter(());

/// Nothing is timed.
#[derive(Debug)]
pub(crate) struct Call(());

impl Call {
    pub(crate) const fn end(self, _: Outcome) {}
}

/// Nothing is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted;

impl Counted {
    pub(crate) const NOT_YET: Self = Self;
    pub(crate) const NEVER: Self = Self;

    pub(crate) const fn is_first(&mut self) -> bool {
        false
    }
}

#[expect(clippy::unused_self, reason = "the functions of the feature use it")]
impl Meter {
    pub(crate) const IS_ON: bool = false;

    pub(crate) const fn new(_: Option<&str>) -> Self {
        Self(())
    }

    pub(crate) const fn logged_in(self) {}

    pub(crate) const fn reauthenticated(self) {}

    pub(crate) const fn refreshed(self, _: &'static str) {}

    pub(crate) const fn revoked(self, _: &'static str, _: &'static str) {}

    pub(crate) const fn security_event(self, _: &'static str) {}

    pub(crate) const fn refused(self, _: &'static str) {}

    pub(crate) const fn purged(self, _: usize) {}

    pub(crate) const fn token_cache_hit(self) {}

    pub(crate) const fn token_cache_miss(self) {}

    pub(crate) const fn store_call(self, _: &'static str) -> Call {
        Call(())
    }

    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(crate) const fn signer_call(self) -> Call {
        Call(())
    }

    pub(crate) const fn revocation_lagged(self, _: Duration) {}

    pub(crate) const fn begin(self) -> bool {
        false
    }

    pub(crate) const fn report(self, _: Levels) {}
}
