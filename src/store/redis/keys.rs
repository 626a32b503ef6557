//! The names of the keys and of the channel.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{RedisStore, options};
use crate::session::SessionId;
use crate::store::ExternalId;

impl RedisStore {
    pub(super) fn key(&self, shard: u8, name: &str) -> String {
        format!("{}:{{{shard:x}}}:{name}", self.0.prefix)
    }

    pub(super) fn row(&self, id: SessionId) -> String {
        self.key(id.shard(), &format!("session:{id}"))
    }

    pub(super) fn index(&self, user_id: &str) -> String {
        self.key(SessionId::shard_of(user_id), &format!("user:{user_id}"))
    }

    pub(super) fn external(&self, shard: u8, id: ExternalId) -> String {
        self.key(shard, &format!("external:{}", URL_SAFE_NO_PAD.encode(id.as_bytes())))
    }

    pub(super) fn feed(&self, shard: u8) -> String {
        self.key(shard, "feed")
    }

    pub(super) fn cutoffs(&self, shard: u8) -> String {
        self.key(shard, "cutoffs")
    }

    pub(super) fn cutoff_expiries(&self, shard: u8) -> String {
        self.key(shard, "cutoff-expiries")
    }

    pub(super) fn expiries(&self, shard: u8) -> String {
        self.key(shard, "expiries")
    }

    pub(super) fn channel(&self) -> String {
        options::channel(&self.0.prefix)
    }

    pub(super) fn rows(&self, ids: &[SessionId]) -> Vec<String> {
        ids.iter().map(|id| self.row(*id)).collect()
    }
}
