//! What the SQL stores and the Redis store encode in the same way.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::SessionRecord;
use crate::session::Authentication;

/// What a login has settled and no query needs, as JSON: the column or the field `login`.
#[derive(Serialize, Deserialize)]
pub(super) struct Login<'a> {
    pub(super) authentication: Cow<'a, Authentication>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) persistent: Option<bool>,
}

impl<'a> Login<'a> {
    pub(super) const fn of(session: &'a SessionRecord) -> Self {
        Self { authentication: Cow::Borrowed(&session.authentication), persistent: session.persistent }
    }
}
