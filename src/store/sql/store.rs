//! The implementation that the three stores share. It is a macro, because generic code over sqlx's databases would need
//! too many bounds.

/// Implements [`SessionStore`](crate::SessionStore) for a type with the fields `pool`, `sql` and `push` in `self.0`.
macro_rules! sql_store {
    ($Store:ident, $Database:ty, $dialect:expr) => {
        use crate::store::sql::row::{self, FeedRow, LockedRow, SessionRow};
        use crate::store::sql::{CHUNK, FEED_PURGE_STEP, Lease, MAX_FEED_PURGE_STEPS, retry_conflicts, stripe};
        use crate::store::{
            Activity, FeedCursor, InsertOptions, Inserted, RevocationBatch, RevokeTarget, RevokedItem, SessionRecord,
            SessionStore, StoreError,
        };
        use crate::ratchet::RotationState;
        use crate::session::{Revocation, RevocationReason, SessionId};
        use crate::time::Timestamp;

        impl $Store {
            /// The statements that search for rows, for tests of their query plans.
            #[doc(hidden)]
            pub fn statements(&self) -> Vec<String> {
                self.0.sql.searching()
            }

            async fn lease(&self) -> Result<Lease<$Database>, sqlx::Error> {
                Ok(Lease::new(self.0.pool.acquire().await?))
            }

            async fn write_session(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                new: &SessionRecord,
            ) -> Result<(), sqlx::Error> {
                let revoked = new.rotation.revoked;
                let insert = sqlx::query(self.0.sql.insert.clone())
                    .bind(&new.id.as_bytes()[..])
                    .bind(new.user_id.as_bytes())
                    .bind(&new.secret_hash.as_bytes()[..])
                    .bind(new.created_at.as_millis())
                    .bind(new.rotation.expires_at.as_millis())
                    .bind(row::client(new)?)
                    .bind(&*new.claims)
                    .bind(row::rotation(new)?)
                    .bind(new.rotation.last_seen_at.as_millis())
                    .bind(row::acknowledged(new.rotation.acknowledged))
                    .bind(revoked.map(|revoked| revoked.at.as_millis()))
                    .bind(revoked.map(|revoked| revoked.expires_at.as_millis()))
                    .bind(revoked.map(|revoked| row::reason(revoked.reason)))
                    .bind(row::version(new.version)?);
                insert.execute(connection).await.map(|_| ())
            }

            async fn insert_once(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, sqlx::Error> {
                let mut lease = self.lease().await?;
                if options.limit.is_none() && options.replacing.is_none() {
                    self.write_session(&mut lease.connection, new).await?;
                    lease.done();
                    return Ok(Inserted::Done(Vec::new()));
                }
                let mut transaction = sqlx::Connection::begin_with(&mut *lease.connection, $dialect.begin).await?;
                if let Some(lock) = &self.0.sql.lock_user {
                    // Locked until the end, so that concurrent logins of a user count each other.
                    let locked = sqlx::query(lock.clone())
                        .bind(stripe(new.user_id.as_bytes()))
                        .fetch_optional(&mut *transaction)
                        .await?;
                    if locked.is_none() {
                        let problem = "axum_refresh_locks: rows missing; insert 0 to 1023 again";
                        return Err(sqlx::Error::Protocol(problem.to_owned()));
                    }
                }
                let others: Vec<LockedRow> = sqlx::query_as(self.0.sql.lock_sessions.clone())
                    .bind(new.user_id.as_bytes())
                    .fetch_all(&mut *transaction)
                    .await?;
                let replaced = options.replacing.filter(|id| others.iter().any(|other| other.0 == id.as_bytes()));
                let mut to_revoke = Vec::new();
                if let Some(limit) = options.limit {
                    let mut live = Vec::new();
                    for (id, created_at, seq, last_seen_at, expires_at, _) in &others {
                        let id = row::session_id(id)?;
                        let rotation = RotationState::new(
                            Timestamp::from_millis(*last_seen_at),
                            Timestamp::from_millis(*expires_at),
                        );
                        let is_live = rotation.is_live(new.created_at, limit.idle_timeout);
                        if is_live && Some(id) != replaced {
                            live.push((*created_at, *seq, id));
                        }
                    }
                    match limit.make_room(live) {
                        Some(evicted) => {
                            to_revoke.extend(evicted.into_iter().map(|(.., id)| (id, RevocationReason::Evicted)));
                        }
                        None => {
                            transaction.rollback().await?;
                            lease.done();
                            return Ok(Inserted::LimitReached);
                        }
                    }
                }
                to_revoke.extend(replaced.map(|id| (id, RevocationReason::Replaced)));
                self.write_session(&mut transaction, new).await?;
                for (id, reason) in &to_revoke {
                    let expires_at = options.revocation_expires_at;
                    let revocation = Revocation { at: new.created_at, expires_at, reason: *reason };
                    self.mark_revoked(&mut transaction, std::slice::from_ref(id), revocation).await?;
                }
                let revoked: Vec<_> = to_revoke.into_iter().map(|(id, _)| id).collect();
                let items: Vec<_> = revoked.iter().copied().map(RevokedItem::Session).collect();
                self.publish(&mut transaction, &items, options.revocation_expires_at).await?;
                transaction.commit().await?;
                lease.done();
                Ok(Inserted::Done(revoked))
            }

            /// Returns an error if the server is read-only. The connection is then closed, and the next one may find
            /// the primary.
            async fn refuse_a_replica(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
            ) -> Result<(), sqlx::Error> {
                let Some(query) = &self.0.sql.is_read_only else { return Ok(()) };
                let is_read_only: i64 = sqlx::query_scalar(query.clone()).fetch_one(connection).await?;
                if is_read_only != 0 {
                    return Err(sqlx::Error::Protocol("server is read-only; connect to the primary".to_owned()));
                }
                Ok(())
            }

            /// Marks sessions as revoked. The transaction must have locked them.
            async fn mark_revoked(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                ids: &[SessionId],
                revocation: Revocation,
            ) -> Result<(), sqlx::Error> {
                for id in ids {
                    sqlx::query(self.0.sql.revoke.clone())
                        .bind(revocation.at.as_millis())
                        .bind(revocation.expires_at.as_millis())
                        .bind(row::reason(revocation.reason))
                        .bind(&id.as_bytes()[..])
                        .execute(&mut *connection)
                        .await?;
                }
                Ok(())
            }

            /// Adds entries to the feed.
            async fn publish(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                items: &[RevokedItem],
                expires_at: Timestamp,
            ) -> Result<(), sqlx::Error> {
                for item in items {
                    let (kind, subject) = row::feed_entry(item);
                    sqlx::query(self.0.sql.publish.clone())
                        .bind(expires_at.as_millis())
                        .bind(kind)
                        .bind(subject)
                        .execute(&mut *connection)
                        .await?;
                }
                if let Some(notify) = self.0.sql.notify.as_ref().filter(|_| !items.is_empty()) {
                    sqlx::query(notify.clone()).execute(connection).await?;
                }
                Ok(())
            }

            async fn compare_and_swap_once(&self, expected: u64, next: &SessionRecord) -> Result<bool, sqlx::Error> {
                let mut lease = self.lease().await?;
                let revoked = next.rotation.revoked;
                let update = sqlx::query(self.0.sql.compare_and_swap.clone())
                    .bind(&*next.claims)
                    .bind(row::rotation(next)?)
                    .bind(next.rotation.last_seen_at.as_millis())
                    .bind(row::acknowledged(next.rotation.acknowledged))
                    .bind(revoked.map(|revoked| revoked.at.as_millis()))
                    .bind(revoked.map(|revoked| revoked.expires_at.as_millis()))
                    .bind(revoked.map(|revoked| row::reason(revoked.reason)))
                    .bind(&next.id.as_bytes()[..])
                    .bind(row::version(expected)?);
                let swapped = match revoked {
                    None => update.execute(&mut *lease.connection).await?.rows_affected() > 0,
                    Some(revocation) => {
                        let mut transaction =
                            sqlx::Connection::begin_with(&mut *lease.connection, $dialect.begin).await?;
                        let swapped = update.execute(&mut *transaction).await?.rows_affected() > 0;
                        if swapped {
                            let item = RevokedItem::Session(next.id);
                            self.publish(&mut transaction, &[item], revocation.expires_at).await?;
                        }
                        transaction.commit().await?;
                        swapped
                    }
                };
                lease.done();
                Ok(swapped)
            }

            async fn revoke_once(
                &self,
                target: RevokeTarget<'_>,
                revocation: Revocation,
            ) -> Result<Vec<SessionId>, sqlx::Error> {
                let mut lease = self.lease().await?;
                let mut transaction = sqlx::Connection::begin_with(&mut *lease.connection, $dialect.begin).await?;
                let locked: Vec<LockedRow> = match target {
                    RevokeTarget::Token(jti) => {
                        self.publish(&mut transaction, &[RevokedItem::Token(jti.into())], revocation.expires_at).await?;
                        Vec::new()
                    }
                    RevokeTarget::Session(id) => {
                        sqlx::query_as(self.0.sql.lock_session.clone())
                            .bind(&id.as_bytes()[..])
                            .fetch_all(&mut *transaction)
                            .await?
                    }
                    RevokeTarget::User { user_id, .. } => {
                        sqlx::query_as(self.0.sql.lock_sessions.clone())
                            .bind(user_id.as_bytes())
                            .fetch_all(&mut *transaction)
                            .await?
                    }
                };
                let (mut to_mark, mut live, mut items) = (Vec::new(), Vec::new(), Vec::new());
                if let (RevokeTarget::Session(id), true) = (target, locked.is_empty()) {
                    // The row may be lost in a failover, while access tokens of the session are still in use.
                    items.push(RevokedItem::Session(id));
                }
                for (id, .., expires_at, revoked_at) in locked {
                    let id = row::session_id(&id)?;
                    if matches!(target, RevokeTarget::User { except, .. } if except == Some(id)) {
                        continue;
                    }
                    items.push(RevokedItem::Session(id));
                    if revoked_at.is_none() {
                        to_mark.push(id);
                        if revocation.at < Timestamp::from_millis(expires_at) {
                            live.push(id);
                        }
                    }
                }
                self.mark_revoked(&mut transaction, &to_mark, revocation).await?;
                if !items.is_empty() {
                    self.publish(&mut transaction, &items, revocation.expires_at).await?;
                }
                transaction.commit().await?;
                lease.done();
                Ok(live)
            }

            async fn record_activity_once(&self, batch: &[Activity]) -> Result<(), sqlx::Error> {
                let mut lease = self.lease().await?;
                for chunk in batch.chunks(CHUNK) {
                    sqlx::query(self.0.sql.record_activity.clone())
                        .bind(row::batch(chunk)?)
                        .execute(&mut *lease.connection)
                        .await?;
                }
                lease.done();
                Ok(())
            }

            async fn load_once(&self, id: SessionId) -> Result<Option<SessionRecord>, sqlx::Error> {
                let mut lease = self.lease().await?;
                let row: Option<SessionRow> = sqlx::query_as(self.0.sql.load.clone())
                    .bind(&id.as_bytes()[..])
                    .fetch_optional(&mut *lease.connection)
                    .await?;
                lease.done();
                row.map(row::read).transpose()
            }

            async fn list_once(&self, user_id: &str) -> Result<Vec<SessionRecord>, sqlx::Error> {
                let mut lease = self.lease().await?;
                let rows: Vec<SessionRow> = sqlx::query_as(self.0.sql.list.clone())
                    .bind(user_id.as_bytes())
                    .fetch_all(&mut *lease.connection)
                    .await?;
                lease.done();
                rows.into_iter().map(row::read).collect()
            }

            async fn read_revocations_once(&self, since: FeedCursor) -> Result<RevocationBatch, sqlx::Error> {
                let mut lease = self.lease().await?;
                self.refuse_a_replica(&mut lease.connection).await?;
                let mut rows: Vec<FeedRow> = if since == FeedCursor::START {
                    sqlx::query_as(self.0.sql.read_revocations.clone()).fetch_all(&mut *lease.connection).await?
                } else {
                    sqlx::query_as(self.0.sql.read_revocations_since.clone())
                        .bind(since.0)
                        .bind(since.0)
                        .fetch_all(&mut *lease.connection)
                        .await?
                };
                lease.done();
                rows.sort_unstable_by_key(|row| row.0);
                let next = rows.last().map_or(0, |last| last.0).max(since.0);
                let entries = rows.into_iter().map(row::read_feed).collect::<Result<_, _>>()?;
                Ok(RevocationBatch { entries, next: FeedCursor(next) })
            }

            async fn purge_once(&self, before: Timestamp, limit: usize) -> Result<usize, sqlx::Error> {
                let mut lease = self.lease().await?;
                let purged = sqlx::query(self.0.sql.purge.clone())
                    .bind(before.as_millis())
                    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                    .execute(&mut *lease.connection)
                    .await?
                    .rows_affected();
                let purged = usize::try_from(purged).unwrap_or(usize::MAX);
                if purged < limit {
                    for _ in 0..MAX_FEED_PURGE_STEPS {
                        let deleted = sqlx::query(self.0.sql.purge_feed.clone())
                            .bind(before.as_millis())
                            .bind(FEED_PURGE_STEP)
                            .execute(&mut *lease.connection)
                            .await?
                            .rows_affected();
                        if deleted < FEED_PURGE_STEP.unsigned_abs() {
                            break;
                        }
                    }
                }
                lease.done();
                Ok(purged)
            }
        }

        #[async_trait::async_trait]
        impl SessionStore for $Store {
            async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
                let inserted = retry_conflicts!(self.insert_once(new, options))?;
                if matches!(&inserted, Inserted::Done(revoked) if !revoked.is_empty()) {
                    self.0.push.notify();
                }
                Ok(inserted)
            }

            async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
                retry_conflicts!(self.load_once(id))
            }

            async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
                let swapped = retry_conflicts!(self.compare_and_swap_once(expected, next))?;
                if swapped && next.rotation.revoked.is_some() {
                    self.0.push.notify();
                }
                Ok(swapped)
            }

            async fn list(&self, user_id: &str) -> Result<Vec<SessionRecord>, StoreError> {
                retry_conflicts!(self.list_once(user_id))
            }

            async fn revoke(
                &self,
                target: RevokeTarget<'_>,
                revocation: Revocation,
            ) -> Result<Vec<SessionId>, StoreError> {
                let live = retry_conflicts!(self.revoke_once(target, revocation))?;
                self.0.push.notify();
                Ok(live)
            }

            async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
                retry_conflicts!(self.record_activity_once(batch))
            }

            async fn read_revocations(&self, since: FeedCursor) -> Result<RevocationBatch, StoreError> {
                retry_conflicts!(self.read_revocations_once(since))
            }

            async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
                retry_conflicts!(self.purge_once(before, limit))
            }

            async fn changed(&self) {
                self.0.push.changed().await;
            }
        }
    };
}
pub(super) use sql_store;
