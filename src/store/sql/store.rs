//! The implementation that the three stores share. It is a macro, because generic code over sqlx's databases would need
//! too many bounds.

/// Implements [`SessionStore`](crate::SessionStore) for a type with the fields `pool`, `sql` and `push` in `self.0`.
macro_rules! sql_store {
    ($Store:ident, $Database:ty, $dialect:expr) => {
        use crate::store::sql::row::{self, FeedRow, LockedRow};
        use crate::store::sql::{
            CHUNK, CUTOFF_PURGE_STEP, CUTOFF_RETENTION, FEED_PURGE_STEP, Lease, MAX_COUNTED, MAX_EXACTLY_COUNTED, MAX_EXAMINED,
            MAX_FEED_PURGE_STEPS, MAX_MARKED, retry_conflicts, stripe,
        };
        use crate::store::{
            Activity, ExternalId, FEED_RETENTION, FeedCursor, FeedWindow, InsertOptions, Inserted, OnMaxSessions,
            RevocationBatch, RevokeTarget, Revoked, RevokedItem, RevokedUsers, SEPARATOR, SessionRecord, SessionStore, Spared, StoreError,
            everyone,
        };
        use crate::session::{Revocation, RevocationReason, SessionId};
        use crate::store::encoding::Login;
        use crate::time::{Timestamp, millis};

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
                let everyone = everyone(&new.user_id);
                let insert = sqlx::query(self.0.sql.insert.clone())
                    .bind(&new.id.as_bytes()[..])
                    .bind(new.user_id.as_bytes())
                    .bind(&new.secret_hash.as_bytes()[..])
                    .bind(new.created_at.as_millis())
                    .bind(new.rotation.expires_at.as_millis())
                    .bind(new.rotation.idle_timeout.map(millis))
                    .bind(row::json(&new.client)?)
                    .bind(row::json(&Login::of(new))?)
                    .bind(new.external.as_ref().map(|external| &external.as_bytes()[..]))
                    .bind(&*new.claims)
                    .bind(new.last_client.as_ref().map(row::json).transpose()?)
                    .bind(i64::from(new.rotation.generation))
                    .bind(new.rotation.parent.map(i64::from))
                    .bind(new.rotation.rotated_at.map(Timestamp::as_millis))
                    .bind(i64::from(new.rotation.recoveries))
                    .bind(new.rotation.last_seen_at.as_millis())
                    .bind(row::acknowledged(new.rotation.acknowledged))
                    .bind(revoked.map(|revoked| revoked.at.as_millis()))
                    .bind(revoked.map(|revoked| row::reason(revoked.reason)))
                    .bind(row::version(new.version)?)
                    .bind(i64::from(new.is_limited()))
                    .bind(everyone.as_bytes())
                    .bind(new.user_id.as_bytes())
                    .bind(everyone.as_bytes())
                    .bind(everyone.as_bytes());
                insert.execute(connection).await.map(|_| ())
            }

            async fn insert_once(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, sqlx::Error> {
                let mut lease = self.lease().await?;
                if options.limit.is_none() && options.replacing.is_none() {
                    self.write_session(&mut lease.connection, new).await?;
                    lease.done();
                    return Ok(Inserted::Done(Revoked::default()));
                }
                let mut transaction = sqlx::Connection::begin_with(&mut *lease.connection, $dialect.begin).await?;
                self.lock_user(&mut transaction, &new.user_id).await?;
                let by = |reason| Revocation { at: new.created_at, reason };
                let replaced = match options.replacing {
                    Some(id) => self.lock_session(&mut transaction, id).await?.and_then(|(user_id, _, revoked_at)| {
                        (user_id == new.user_id.as_bytes() && revoked_at.is_none()).then_some(id)
                    }),
                    None => None,
                };
                let mut revoked = Revoked::default();
                if let Some(limit) = options.limit {
                    let room = i64::from(limit.max.saturating_sub(1));
                    let max_examined = MAX_EXAMINED.max(room.saturating_add(MAX_MARKED + 1));
                    let idle_since = new.created_at.before(limit.idle_timeout).as_millis();
                    let everyone = everyone(&new.user_id);
                    let examined: Vec<(Vec<u8>, i64)> = sqlx::query_as(self.0.sql.excess.clone())
                        .bind(0_i64)
                        .bind(new.user_id.as_bytes())
                        .bind(new.user_id.as_bytes())
                        .bind(everyone.as_bytes())
                        .bind(everyone.as_bytes())
                        .bind(max_examined)
                        .bind(new.created_at.as_millis())
                        .bind(idle_since)
                        .bind(new.created_at.as_millis())
                        .bind(&replaced.unwrap_or(new.id).as_bytes()[..])
                        .bind(MAX_MARKED + 1)
                        .bind(room)
                        .bind(1_i64)
                        .bind(new.user_id.as_bytes())
                        .bind(new.user_id.as_bytes())
                        .bind(everyone.as_bytes())
                        .bind(everyone.as_bytes())
                        .bind(max_examined)
                        .fetch_all(&mut *transaction)
                        .await?;
                    let is_beyond = examined.iter().any(|(_, is_beyond)| *is_beyond != 0);
                    let excess = examined.iter().filter(|(_, is_beyond)| *is_beyond == 0).map(|(id, _)| id);
                    let excess = excess.map(|id| row::session_id(id)).collect::<Result<Vec<_>, _>>()?;
                    if !excess.is_empty() && limit.on_max_sessions == OnMaxSessions::Refuse {
                        transaction.rollback().await?;
                        lease.done();
                        return Ok(Inserted::LimitReached);
                    }
                    let is_short = i64::try_from(excess.len()).unwrap_or(i64::MAX) <= MAX_MARKED;
                    // Whoever is further back is beyond the limit only if the newer ones reach it.
                    if excess.is_empty() || (is_short && !is_beyond) {
                        // Oldest first.
                        revoked.sessions = excess.into_iter().rev().collect();
                        self.mark_revoked(&mut transaction, &revoked.sessions, by(RevocationReason::Evicted)).await?;
                        revoked.count = revoked.sessions.len();
                    } else {
                        let oldest_survivor: Option<(i64, i64)> = sqlx::query_as(self.0.sql.oldest_survivor.clone())
                            .bind(new.user_id.as_bytes())
                            .bind(new.user_id.as_bytes())
                            .bind(everyone.as_bytes())
                            .bind(everyone.as_bytes())
                            .bind(max_examined)
                            .bind(new.created_at.as_millis())
                            .bind(idle_since)
                            .bind(new.created_at.as_millis())
                            .bind(&replaced.unwrap_or(new.id).as_bytes()[..])
                            .bind(room)
                            .fetch_optional(&mut *transaction)
                            .await?;
                        // Before the cutoff rises: what is marked is neither counted nor among the survivors.
                        self.mark_revoked(&mut transaction, replaced.as_slice(), by(RevocationReason::Replaced)).await?;
                        let by = by(RevocationReason::Evicted);
                        let (old, mut users) = self.raise_cutoff(&mut transaction, &new.user_id, by).await?;
                        users.spared = Spared::Newest;
                        if let Some((created_at, seq)) = oldest_survivor {
                            sqlx::query(self.0.sql.spare_survivors.clone())
                                .bind(users.cutoff)
                                .bind(new.user_id.as_bytes())
                                .bind(old)
                                .bind(created_at)
                                .bind(created_at)
                                .bind(seq)
                                .bind(new.created_at.as_millis())
                                .bind(idle_since)
                                .bind(new.created_at.as_millis())
                                .execute(&mut *transaction)
                                .await?;
                        }
                        revoked.count = self.count(&mut transaction, old, &users, new.created_at, idle_since).await?;
                        revoked.users = Some(users);
                    }
                }
                if let Some(replaced) = replaced {
                    self.mark_revoked(&mut transaction, &[replaced], by(RevocationReason::Replaced)).await?;
                    revoked.sessions.push(replaced);
                    revoked.count += 1;
                }
                // After the cutoff has risen, so that the session has the new one.
                self.write_session(&mut transaction, new).await?;
                self.publish_sessions(&mut transaction, &revoked.sessions).await?;
                if let Some(users) = &revoked.users {
                    self.publish(&mut transaction, &RevokedItem::Users(users.clone())).await?;
                }
                transaction.commit().await?;
                lease.done();
                Ok(Inserted::Done(revoked))
            }

            /// Waits until no other transaction revokes the sessions of the user or inserts one with a limit. Locks
            /// until the end of the transaction.
            async fn lock_user(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                user_id: &str,
            ) -> Result<(), sqlx::Error> {
                let Some(lock) = &self.0.sql.lock_user else { return Ok(()) };
                let locked =
                    sqlx::query(lock.clone()).bind(stripe(user_id.as_bytes())).fetch_optional(connection).await?;
                if locked.is_none() {
                    let problem = "axum_refresh_locks: rows missing; insert 0 to 1023 again";
                    return Err(sqlx::Error::Protocol(problem.to_owned()));
                }
                Ok(())
            }

            async fn lock_session(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                id: SessionId,
            ) -> Result<Option<LockedRow>, sqlx::Error> {
                sqlx::query_as(self.0.sql.lock_session.clone())
                    .bind(&id.as_bytes()[..])
                    .fetch_optional(connection)
                    .await
            }

            /// Raises the cutoff of a scope, and returns the one that the current sessions of a user have: 0 if there was
            /// none. A user must be locked.
            async fn raise_cutoff(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                scope: &str,
                revocation: Revocation,
            ) -> Result<(i64, RevokedUsers), sqlx::Error> {
                // Locked, because a purge may delete the row.
                let own: Option<i64> = sqlx::query_scalar(self.0.sql.lock_cutoff.clone())
                    .bind(scope.as_bytes())
                    .fetch_optional(&mut *connection)
                    .await?;
                let everyones: Option<i64> = sqlx::query_scalar(self.0.sql.cutoff.clone())
                    .bind(everyone(scope).into_bytes())
                    .fetch_optional(&mut *connection)
                    .await?;
                let old = own.max(everyones).unwrap_or(0);
                sqlx::query(self.0.sql.raise_cutoff.clone())
                    .bind(scope.as_bytes())
                    .bind(old.saturating_add(1))
                    .bind(revocation.at.as_millis())
                    .bind(row::reason(revocation.reason))
                    .execute(&mut *connection)
                    .await?;
                let cutoff = sqlx::query_scalar(self.0.sql.cutoff.clone())
                    .bind(scope.as_bytes())
                    .fetch_one(connection)
                    .await?;
                let (scope, spared) = (scope.into(), Spared::Nothing);
                Ok((old, RevokedUsers { scope, cutoff, revoked_at: revocation.at, spared }))
            }

            /// How many sessions a new cutoff has revoked that were live: exact if they are few.
            async fn count(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                old: i64,
                users: &RevokedUsers,
                now: Timestamp,
                idle_since: i64,
            ) -> Result<usize, sqlx::Error> {
                let mut count: i64 = sqlx::query_scalar(self.0.sql.count_live.clone())
                    .bind(users.scope.as_bytes())
                    .bind(old)
                    .bind(users.cutoff)
                    .bind(everyone(&users.scope).into_bytes())
                    .bind(now.as_millis())
                    .bind(idle_since)
                    .bind(MAX_EXACTLY_COUNTED + 1)
                    .fetch_one(&mut *connection)
                    .await?;
                if count > MAX_EXACTLY_COUNTED {
                    count = sqlx::query_scalar(self.0.sql.count_all.clone())
                        .bind(users.scope.as_bytes())
                        .bind(old)
                        .bind(users.cutoff)
                        .bind(MAX_COUNTED)
                        .fetch_one(connection)
                        .await?;
                }
                Ok(usize::try_from(count).unwrap_or(0))
            }

            /// The time in the database. Returns an error if the server is read-only. The connection is then closed,
            /// and the next one may find the primary.
            async fn clock(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
            ) -> Result<Timestamp, sqlx::Error> {
                let (is_read_only, now): (i64, i64) =
                    sqlx::query_as(self.0.sql.clock.clone()).fetch_one(connection).await?;
                if is_read_only != 0 {
                    return Err(sqlx::Error::Protocol("server is read-only; connect to the primary".to_owned()));
                }
                Ok(Timestamp::from_millis(now))
            }

            /// Marks sessions as revoked, unless they are marked.
            async fn mark_revoked(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                ids: &[SessionId],
                revocation: Revocation,
            ) -> Result<(), sqlx::Error> {
                match ids {
                    [] => return Ok(()),
                    [id] => sqlx::query(self.0.sql.revoke.clone())
                        .bind(revocation.at.as_millis())
                        .bind(row::reason(revocation.reason))
                        .bind(&id.as_bytes()[..]),
                    ids => sqlx::query(self.0.sql.revoke_all.clone())
                        .bind(row::ids(ids)?)
                        .bind(revocation.at.as_millis())
                        .bind(row::reason(revocation.reason)),
                }
                .execute(connection)
                .await
                .map(|_| ())
            }

            /// Adds an entry to the feed.
            async fn publish(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                item: &RevokedItem,
            ) -> Result<(), sqlx::Error> {
                let (kind, subject, cutoff, revoked_at, spared) = row::feed_entry(item);
                sqlx::query(self.0.sql.publish.clone())
                    .bind(kind)
                    .bind(subject)
                    .bind(cutoff)
                    .bind(revoked_at)
                    .bind(spared)
                    .execute(&mut *connection)
                    .await?;
                self.notify_nodes(connection).await
            }

            /// Adds an entry for each session to the feed.
            async fn publish_sessions(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                ids: &[SessionId],
            ) -> Result<(), sqlx::Error> {
                match ids {
                    [] => Ok(()),
                    [id] => self.publish(connection, &RevokedItem::Session(*id)).await,
                    ids => {
                        sqlx::query(self.0.sql.publish_all.clone())
                            .bind(row::ids(ids)?)
                            .execute(&mut *connection)
                            .await?;
                        self.notify_nodes(connection).await
                    }
                }
            }

            async fn notify_nodes(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
            ) -> Result<(), sqlx::Error> {
                if let Some(notify) = &self.0.sql.notify {
                    sqlx::query(notify.clone()).execute(connection).await?;
                }
                Ok(())
            }

            async fn compare_and_swap_once(&self, expected: u64, next: &SessionRecord) -> Result<bool, sqlx::Error> {
                let mut lease = self.lease().await?;
                let revoked = next.rotation.revoked;
                let sql = if revoked.is_none() { &self.0.sql.compare_and_swap } else { &self.0.sql.compare_and_revoke };
                let update = sqlx::query(sql.clone())
                    .bind(&*next.claims)
                    .bind(next.last_client.as_ref().map(row::json).transpose()?)
                    .bind(i64::from(next.rotation.generation))
                    .bind(next.rotation.parent.map(i64::from))
                    .bind(next.rotation.rotated_at.map(Timestamp::as_millis))
                    .bind(i64::from(next.rotation.recoveries))
                    .bind(next.rotation.last_seen_at.as_millis())
                    .bind(row::acknowledged(next.rotation.acknowledged))
                    .bind(revoked.map(|revoked| revoked.at.as_millis()))
                    .bind(revoked.map(|revoked| row::reason(revoked.reason)))
                    .bind(&next.id.as_bytes()[..])
                    .bind(row::version(expected)?);
                let swapped = match revoked {
                    None => update.execute(&mut *lease.connection).await?.rows_affected() > 0,
                    Some(_) => {
                        let mut transaction =
                            sqlx::Connection::begin_with(&mut *lease.connection, $dialect.begin).await?;
                        let swapped = update.execute(&mut *transaction).await?.rows_affected() > 0;
                        if swapped {
                            self.publish(&mut transaction, &RevokedItem::Session(next.id)).await?;
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
            ) -> Result<Revoked, sqlx::Error> {
                let mut lease = self.lease().await?;
                let mut transaction = sqlx::Connection::begin_with(&mut *lease.connection, $dialect.begin).await?;
                let mut revoked = Revoked::default();
                let item = match target {
                    RevokeTarget::Token(jti) => RevokedItem::Token(jti.into()),
                    RevokeTarget::Session(id) => {
                        if let Some((_, expires_at, None)) = self.lock_session(&mut transaction, id).await? {
                            self.mark_revoked(&mut transaction, &[id], revocation).await?;
                            if revocation.at < Timestamp::from_millis(expires_at) {
                                revoked = Revoked::from(vec![id]);
                            }
                        }
                        // Also without a row: it may be lost in a failover, while access tokens of the session are
                        // still in use.
                        RevokedItem::Session(id)
                    }
                    RevokeTarget::Users { scope, .. } if scope.ends_with(SEPARATOR) => {
                        let (_, users) = self.raise_cutoff(&mut transaction, scope, revocation).await?;
                        revoked.users = Some(users.clone());
                        RevokedItem::Users(users)
                    }
                    RevokeTarget::Users { scope, except, created_until } => {
                        self.lock_user(&mut transaction, scope).await?;
                        let (old, mut users) = self.raise_cutoff(&mut transaction, scope, revocation).await?;
                        if let Some(except) = except {
                            users.spared = Spared::Session(except);
                            sqlx::query(self.0.sql.spare_session.clone())
                                .bind(users.cutoff)
                                .bind(&except.as_bytes()[..])
                                .bind(scope.as_bytes())
                                .bind(old)
                                .execute(&mut *transaction)
                                .await?;
                        }
                        if let Some(until) = created_until {
                            sqlx::query(self.0.sql.spare_later.clone())
                                .bind(users.cutoff)
                                .bind(scope.as_bytes())
                                .bind(old)
                                .bind(until.as_millis())
                                .execute(&mut *transaction)
                                .await?;
                        }
                        revoked.count = self.count(&mut transaction, old, &users, revocation.at, i64::MIN).await?;
                        revoked.users = Some(users.clone());
                        RevokedItem::Users(users)
                    }
                };
                self.publish(&mut transaction, &item).await?;
                transaction.commit().await?;
                lease.done();
                Ok(revoked)
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
                let row = sqlx::query(self.0.sql.load.clone())
                    .bind(&id.as_bytes()[..])
                    .fetch_optional(&mut *lease.connection)
                    .await?;
                lease.done();
                row.as_ref().map(row::read).transpose()
            }

            async fn list_once(&self, user_id: &str, limit: usize) -> Result<Vec<SessionRecord>, sqlx::Error> {
                let mut lease = self.lease().await?;
                let everyone = everyone(user_id);
                let rows = sqlx::query(self.0.sql.list.clone())
                    .bind(user_id.as_bytes())
                    .bind(user_id.as_bytes())
                    .bind(everyone.as_bytes())
                    .bind(everyone.as_bytes())
                    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                    .fetch_all(&mut *lease.connection)
                    .await?;
                lease.done();
                rows.iter().map(row::read).collect()
            }

            async fn find_external_once(&self, id: ExternalId) -> Result<Vec<SessionId>, sqlx::Error> {
                let mut lease = self.lease().await?;
                let ids: Vec<Vec<u8>> = sqlx::query_scalar(self.0.sql.find_external.clone())
                    .bind(&id.as_bytes()[..])
                    .fetch_all(&mut *lease.connection)
                    .await?;
                lease.done();
                ids.iter().map(|id| row::session_id(id)).collect()
            }

            async fn read_revocations_once(
                &self,
                since: FeedCursor,
                window: FeedWindow,
            ) -> Result<RevocationBatch, sqlx::Error> {
                let mut lease = self.lease().await?;
                let now = self.clock(&mut lease.connection).await?;
                let limit = i64::try_from(window.limit).unwrap_or(i64::MAX).max(1);
                let mut next = since.0;
                let mut page: Vec<FeedRow>;
                let mut late: Vec<FeedRow> = Vec::new();
                if since == FeedCursor::START {
                    // Before the entries: a later one must not be skipped.
                    let last: Option<i64> = sqlx::query_scalar(self.0.sql.last_revocation.clone())
                        .fetch_one(&mut *lease.connection)
                        .await?;
                    page = sqlx::query_as(self.0.sql.read_revocations.clone())
                        .bind(now.before(window.max_age).as_millis())
                        .bind(i64::MAX)
                        .bind(limit)
                        .fetch_all(&mut *lease.connection)
                        .await?;
                    if page.is_empty() {
                        next = last.unwrap_or(0);
                    }
                } else {
                    page = sqlx::query_as(self.0.sql.read_revocations_since.clone())
                        .bind(since.0)
                        .bind(limit)
                        .fetch_all(&mut *lease.connection)
                        .await?;
                    // With every page: until the last page is read, an entry may have become too old.
                    late = sqlx::query_as(self.0.sql.read_late_revocations.clone())
                        .bind(now.before(window.overlap).as_millis())
                        .bind(i64::MAX)
                        .bind(since.0)
                        .fetch_all(&mut *lease.connection)
                        .await?;
                    late.sort_unstable_by_key(|row| row.0);
                }
                lease.done();
                let has_more = page.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
                next = page.last().map_or(next, |last| last.0).max(next);
                late.append(&mut page);
                let entries = late.into_iter().map(|row| row::read_feed(row, now)).collect::<Result<_, _>>()?;
                let now = $dialect.has_clock.then_some(now);
                Ok(RevocationBatch { entries, next: FeedCursor(next), has_more, now })
            }

            async fn purge_once(&self, before: Timestamp, limit: usize) -> Result<usize, sqlx::Error> {
                let mut lease = self.lease().await?;
                let now = self.clock(&mut lease.connection).await?;
                let purged = sqlx::query(self.0.sql.purge.clone())
                    .bind(before.min(now).as_millis())
                    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                    .execute(&mut *lease.connection)
                    .await?
                    .rows_affected();
                let purged = usize::try_from(purged).unwrap_or(usize::MAX);
                if purged < limit {
                    for _ in 0..MAX_FEED_PURGE_STEPS {
                        let deleted = sqlx::query(self.0.sql.purge_feed.clone())
                            .bind(now.before(FEED_RETENTION).as_millis())
                            .bind(FEED_PURGE_STEP)
                            .execute(&mut *lease.connection)
                            .await?
                            .rows_affected();
                        if deleted < FEED_PURGE_STEP.unsigned_abs() {
                            break;
                        }
                    }
                    self.purge_cutoffs(&mut lease.connection, now).await?;
                }
                lease.done();
                Ok(purged)
            }

            /// Deletes cutoffs of users without sessions. Each call looks at the next ones in the order of the scopes,
            /// so that the users with sessions do not make it slow.
            async fn purge_cutoffs(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                now: Timestamp,
            ) -> Result<(), sqlx::Error> {
                let from = self.0.purge_from.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
                let to: Option<Vec<u8>> = sqlx::query_scalar(self.0.sql.cutoff_step.clone())
                    .bind(&from[..])
                    .bind(CUTOFF_PURGE_STEP)
                    .fetch_optional(&mut *connection)
                    .await?;
                sqlx::query(self.0.sql.purge_cutoffs.clone())
                    .bind(&from[..])
                    // Greater than every scope, because scopes are UTF-8.
                    .bind(to.as_deref().unwrap_or(&[0xff]))
                    .bind(now.before(CUTOFF_RETENTION).as_millis())
                    .bind(&[0_u8][..])
                    .execute(connection)
                    .await?;
                *self.0.purge_from.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = to.unwrap_or_default();
                Ok(())
            }
        }

        #[async_trait::async_trait]
        impl SessionStore for $Store {
            async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
                let inserted = retry_conflicts!(self.insert_once(new, options))?;
                if matches!(&inserted, Inserted::Done(revoked) if *revoked != Revoked::default()) {
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

            async fn list(&self, user_id: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
                retry_conflicts!(self.list_once(user_id, limit))
            }

            async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
                retry_conflicts!(self.find_external_once(id))
            }

            async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
                let revoked = retry_conflicts!(self.revoke_once(target, revocation))?;
                self.0.push.notify();
                Ok(revoked)
            }

            async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
                retry_conflicts!(self.record_activity_once(batch))
            }

            async fn read_revocations(
                &self,
                since: FeedCursor,
                window: FeedWindow,
            ) -> Result<RevocationBatch, StoreError> {
                retry_conflicts!(self.read_revocations_once(since, window))
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
