//! What the SQL stores and the Redis store encode in the same way.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{SessionRecord, Transport};
use crate::session::Authentication;

/// What a login has settled and no query needs, as JSON: the column or the field `login`.
#[derive(Serialize, Deserialize)]
pub(super) struct Login<'a> {
    pub(super) authentication: Cow<'a, Authentication>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) persistent: Option<bool>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) transport: Transport,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) without_refresh: bool,
}

/// What is usual is left out. Redis keeps a row in a fraction of the memory if none of its values has more than 64 bytes.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl<'a> Login<'a> {
    pub(super) const fn of(session: &'a SessionRecord) -> Self {
        let SessionRecord { authentication, persistent, transport, can_refresh, .. } = session;
        Self {
            authentication: Cow::Borrowed(authentication),
            persistent: *persistent,
            transport: *transport,
            without_refresh: !*can_refresh,
        }
    }
}
