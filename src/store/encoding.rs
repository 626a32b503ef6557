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
    pub(super) transport: Transport,
    pub(super) can_refresh: bool,
}

impl<'a> Login<'a> {
    pub(super) const fn of(session: &'a SessionRecord) -> Self {
        let SessionRecord { authentication, persistent, transport, can_refresh, .. } = session;
        Self {
            authentication: Cow::Borrowed(authentication),
            persistent: *persistent,
            transport: *transport,
            can_refresh: *can_refresh,
        }
    }
}
