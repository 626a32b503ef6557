//! Revoking a session, the sessions of a user or of everyone, and an access token.

use super::{
    FEED_TTL, MAX_COUNTED, MAX_TRIES, REVOKE, REVOKE_EVERYONE, REVOKE_TOKEN, REVOKE_USER, RedisStore, SHARDS,
    WINDOW_MARGIN, feed, first_known, row, texts, too_busy, unreadable,
};
use crate::session::{Revocation, SessionId};
use crate::store::{Revoked, RevokedUsers, Spared, StoreError};
use crate::time::Timestamp;

impl RedisStore {
    pub(super) async fn revoke_session(&self, id: SessionId, revocation: Revocation) -> Result<Revoked, StoreError> {
        let mut script = REVOKE.key(self.row(id));
        script.key(self.feed(id.shard())).key(self.cutoffs(id.shard()));
        script.arg(row::revocation(&revocation)?).arg(revocation.at.as_millis());
        script.arg(self.channel()).arg(id.to_string()).arg(FEED_TTL);
        let was_live: bool = self.connection().run(&script).await?;
        Ok(Vec::from_iter(was_live.then_some(id)).into())
    }

    pub(super) async fn revoke_user(
        &self,
        user_id: &str,
        except: Option<SessionId>,
        created_until: Option<Timestamp>,
        revocation: Revocation,
    ) -> Result<Revoked, StoreError> {
        let shard = SessionId::shard_of(user_id);
        // A session in another shard belongs to another user.
        let except = except.filter(|id| id.shard() == shard);
        let (json, mut window) = (row::revocation(&revocation)?, WINDOW_MARGIN);
        let mut known = Vec::from_iter(except);
        for _ in 0..MAX_TRIES {
            let mut script = REVOKE_USER.key(self.index(user_id));
            script.key(self.feed(shard)).key(self.cutoffs(shard)).key(self.cutoff_expiries(shard));
            script.key(self.rows(&known));
            script.arg(user_id).arg(&json).arg(revocation.at.as_millis()).arg(self.channel()).arg(FEED_TTL);
            script.arg(except.map(|id| id.to_string()).unwrap_or_default());
            script.arg(created_until.map(|until| until.as_millis().to_string()).unwrap_or_default());
            script.arg(MAX_COUNTED).arg(window).arg(texts(&known));
            let (status, values): (String, Vec<String>) = self.connection().run(&script).await?;
            match (status.as_str(), values.as_slice()) {
                ("done", [cutoff, count]) => {
                    let spared = except.map_or(Spared::Nothing, Spared::Session);
                    let users = Some(feed::revoked_users(user_id, cutoff, revocation.at, spared)?);
                    let count = count.parse().map_err(StoreError::new)?;
                    return Ok(Revoked { sessions: Vec::new(), users, count });
                }
                ("wider", _) => window = window.saturating_mul(2),
                _ => known = first_known(except, &values)?,
            }
        }
        Err(too_busy())
    }

    /// Revokes everyone in a realm: in each shard, because each has cutoffs of its own. An error may leave some shards
    /// without it, and the caller tries again.
    pub(super) async fn revoke_everyone(&self, scope: &str, revocation: Revocation) -> Result<Revoked, StoreError> {
        let (store, owned, json) = (self.clone(), scope.to_owned(), row::revocation(&revocation)?);
        let revoke = async move {
            let at = revocation.at;
            // Nodes know one cutoff for each scope, so all shards are given the same: the highest that any of them would take.
            // Nodes learn of it when all have it: asked about a session earlier, a shard that has not would spare it.
            let next = store.step_everyone("next", &owned, &json, at, 0).await?;
            let cutoff = store.step_everyone("raise", &owned, &json, at, next).await?;
            store.step_everyone("publish", &owned, &json, at, cutoff).await?;
            Ok::<_, StoreError>(cutoff)
        };
        // In a task of its own: if the caller goes away in between, the nodes would not learn of it.
        let stopped = |_| StoreError::new("revoke: the runtime is shutting down");
        let cutoff: i64 = tokio::spawn(revoke).await.map_err(stopped)??;
        let (scope, spared) = (scope.into(), Spared::Nothing);
        let users = RevokedUsers { scope, cutoff, revoked_at: revocation.at, spared };
        Ok(Revoked { users: Some(users), ..Revoked::default() })
    }

    async fn step_everyone(
        &self,
        step: &str,
        scope: &str,
        json: &str,
        at: Timestamp,
        cutoff: i64,
    ) -> Result<i64, StoreError> {
        let shards: Vec<u8> = (0..SHARDS).collect();
        let prepare = |shards: &[u8]| {
            let mut script = REVOKE_EVERYONE.arg(step);
            script.arg(scope).arg(json).arg(at.as_millis()).arg(self.channel()).arg(FEED_TTL).arg(cutoff).arg(SHARDS);
            for shard in shards {
                script.key(self.feed(*shard)).key(self.cutoffs(*shard));
                script.key(self.cutoff_expiries(*shard)).key(self.expiries(*shard));
            }
            script
        };
        let cutoffs: Vec<i64> = self.connection().run_sharded(&shards, |shard| *shard, prepare).await?;
        cutoffs.into_iter().max().ok_or_else(|| unreadable("a cutoff"))
    }

    pub(super) async fn revoke_token(&self, jti: &str) -> Result<Revoked, StoreError> {
        let mut script = REVOKE_TOKEN.key(self.feed(SessionId::shard_of(jti)));
        script.arg(self.channel()).arg(jti).arg(FEED_TTL);
        self.connection().run::<()>(&script).await?;
        Ok(Revoked::default())
    }
}
