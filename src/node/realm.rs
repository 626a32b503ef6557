//! The realm of a node in its store: user ids of a realm are stored with the realm before them, so that lists, limits and
//! revocations of one realm never meet another one's.

use std::borrow::Cow;
use std::sync::Arc;

use crate::store::SessionRecord;

/// Separates the realm from the user id. Neither contains it.
const SEPARATOR: char = '\0';

#[derive(Debug)]
pub(crate) struct Realm(Option<Box<str>>);

impl Realm {
    pub(crate) fn new(realm: Option<&str>) -> Self {
        Self(realm.map(Box::from))
    }

    /// Whether a user id can be stored: one with the separator could name another realm's user.
    pub(crate) fn allows(user_id: &str) -> bool {
        !user_id.contains(SEPARATOR)
    }

    /// The user id as the store has it.
    pub(crate) fn stored<'a>(&self, user_id: &'a str) -> Cow<'a, str> {
        match &self.0 {
            None => Cow::Borrowed(user_id),
            Some(realm) => Cow::Owned(format!("{realm}{SEPARATOR}{user_id}")),
        }
    }

    /// The record as the store has it.
    pub(crate) fn record<'a>(&self, record: &'a SessionRecord) -> Cow<'a, SessionRecord> {
        match &self.0 {
            None => Cow::Borrowed(record),
            Some(_) => {
                Cow::Owned(SessionRecord { user_id: Arc::from(&*self.stored(&record.user_id)), ..record.clone() })
            }
        }
    }

    /// The record with the user id as the app knows it; none if the session is another realm's.
    pub(crate) fn own(&self, mut record: SessionRecord) -> Option<SessionRecord> {
        match &self.0 {
            None if !Self::allows(&record.user_id) => return None,
            None => {}
            Some(realm) => {
                let user_id = record.user_id.strip_prefix(&**realm)?.strip_prefix(SEPARATOR)?;
                record.user_id = Arc::from(user_id);
            }
        }
        Some(record)
    }
}
