//! The realm of a node in its store: the ids of users and access tokens are stored with the realm before them, so that
//! lists, limits and revocations of one realm never meet another one's.

use std::borrow::Cow;
use std::sync::Arc;

use crate::store::{RevokedItem, RevokedUsers, SEPARATOR, SessionRecord, everyone};

/// The longest user id, in bytes.
const MAX_USER_ID: usize = 255;

#[derive(Debug)]
pub(crate) struct Realm(Option<Box<str>>);

impl Realm {
    pub(crate) fn new(realm: Option<&str>) -> Self {
        Self(realm.map(Box::from))
    }

    /// Whether a user can have this id. One with the separator could name another realm's user.
    pub(crate) fn has_user(user_id: &str) -> bool {
        (1..=MAX_USER_ID).contains(&user_id.len()) && !user_id.contains(SEPARATOR)
    }

    /// A user id, or the id of an access token, as the store has it.
    pub(crate) fn stored<'a>(&self, id: &'a str) -> Cow<'a, str> {
        match &self.0 {
            None => Cow::Borrowed(id),
            Some(realm) => Cow::Owned(format!("{realm}{SEPARATOR}{id}")),
        }
    }

    /// The id as the app knows it; none if it is another realm's.
    fn own_id<'a>(&self, stored: &'a str) -> Option<&'a str> {
        match &self.0 {
            None => Some(stored).filter(|id| !id.contains(SEPARATOR)),
            Some(realm) => stored.strip_prefix(&**realm)?.strip_prefix(SEPARATOR),
        }
    }

    /// The scope of everyone in this realm, as the store has it.
    pub(crate) fn everyone(&self) -> String {
        everyone(&self.stored(""))
    }

    /// An item of the feed as this node knows it; none if it is about another realm's users or access tokens. Session ids
    /// are unique among all realms.
    pub(crate) fn own_item(&self, item: RevokedItem) -> Option<RevokedItem> {
        Some(match item {
            RevokedItem::Session(_) => item,
            RevokedItem::Token(jti) => RevokedItem::Token(self.own_id(&jti)?.into()),
            RevokedItem::Users(users) if *users.scope == *self.everyone() => {
                RevokedItem::Users(RevokedUsers { scope: everyone("").into(), ..users })
            }
            RevokedItem::Users(users) => {
                RevokedItem::Users(RevokedUsers { scope: self.own_id(&users.scope)?.into(), ..users })
            }
        })
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
        let own = self.own_id(&record.user_id)?;
        if self.0.is_some() {
            record.user_id = Arc::from(own);
        }
        Some(record)
    }
}
