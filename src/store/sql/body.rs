//! What the three stores do, once, as a macro: sqlx's pools have no type in common that would carry it.

/// Writes a store over one of the pools. It needs `pool`, `sql` and `push` in `self.0`.
macro_rules! sql_store {
    ($Store:ident, $Database:ty, $dialect:expr) => {
        use crate::store::sql::row::{self, FeedRow, LockedRow, SessionRow};
        use crate::store::sql::{CHUNK, FEED_STEP, FEED_STEPS, Lease, again, stripe};
        use crate::store::{
            Admission, Cursor, Ended, Feed, Inserted, Seen, SessionStore, StoreError, Target,
        };
        use crate::session::{Chain, Reason, Revocation, Session, SessionId, Timestamp};

        impl $Store {
            /// The statements that look for rows, for tests of their plans.
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
                new: &Session,
            ) -> Result<(), sqlx::Error> {
                let revoked = new.chain.revoked;
                let insert = sqlx::query(self.0.sql.insert.clone())
                    .bind(&new.id.as_bytes()[..])
                    .bind(new.user.as_bytes())
                    .bind(&new.secret_hash.as_bytes()[..])
                    .bind(new.created_at.as_millis())
                    .bind(new.chain.expires_at.as_millis())
                    .bind(row::client(new)?)
                    .bind(&*new.claims)
                    .bind(row::chain(new)?)
                    .bind(new.chain.last_seen_at.as_millis())
                    .bind(row::acknowledged(new.chain.acknowledged))
                    .bind(revoked.map(|revoked| revoked.at.as_millis()))
                    .bind(revoked.map(|revoked| revoked.until.as_millis()))
                    .bind(revoked.map(|revoked| row::reason(revoked.reason)))
                    .bind(row::version(new.version)?);
                insert.execute(connection).await.map(|_| ())
            }

            async fn insert_once(&self, new: &Session, admission: Admission) -> Result<Inserted, sqlx::Error> {
                let mut lease = self.lease().await?;
                if admission.cap.is_none() && admission.replacing.is_none() {
                    self.write_session(&mut lease.connection, new).await?;
                    lease.done();
                    return Ok(Inserted::Done(Vec::new()));
                }
                let mut transaction = sqlx::Connection::begin_with(&mut *lease.connection, $dialect.begin).await?;
                if let Some(lock) = &self.0.sql.lock_user {
                    // Until the end, so that two logins of one user count each other.
                    let locked = sqlx::query(lock.clone())
                        .bind(stripe(new.user.as_bytes()))
                        .fetch_optional(&mut *transaction)
                        .await?;
                    if locked.is_none() {
                        return Err(sqlx::Error::Protocol("axum_refresh_locks has lost its rows".to_owned()));
                    }
                }
                let others: Vec<LockedRow> = sqlx::query_as(self.0.sql.lock_sessions.clone())
                    .bind(new.user.as_bytes())
                    .fetch_all(&mut *transaction)
                    .await?;
                let replaced = admission.replacing.filter(|id| others.iter().any(|other| other.0 == id.as_bytes()));
                let mut ends = Vec::new();
                if let Some(cap) = admission.cap {
                    let mut live = Vec::new();
                    for (id, created_at, place, last_seen_at, expires_at, _) in &others {
                        let id = row::session_id(id)?;
                        let [seen, end] = [*last_seen_at, *expires_at].map(Timestamp::from_millis);
                        let is_live = Chain::new(seen, end).is_live(new.created_at, cap.idle_timeout);
                        if is_live && Some(id) != replaced {
                            live.push((*created_at, *place, id));
                        }
                    }
                    match cap.make_room(live) {
                        Some(evicted) => ends.extend(evicted.into_iter().map(|(.., id)| (id, Reason::Evicted))),
                        None => {
                            transaction.rollback().await?;
                            lease.done();
                            return Ok(Inserted::Full);
                        }
                    }
                }
                ends.extend(replaced.map(|id| (id, Reason::Replaced)));
                self.write_session(&mut transaction, new).await?;
                for (id, reason) in &ends {
                    let revocation = Revocation { at: new.created_at, until: admission.until, reason: *reason };
                    self.end(&mut transaction, std::slice::from_ref(id), revocation).await?;
                }
                let ended: Vec<_> = ends.into_iter().map(|(id, _)| id).collect();
                let named: Vec<_> = ended.iter().copied().map(Ended::Session).collect();
                self.publish(&mut transaction, &named, admission.until).await?;
                transaction.commit().await?;
                lease.done();
                Ok(Inserted::Done(ended))
            }

            /// An error where the server only reads. With it the connection is closed, and the next one may find the
            /// primary.
            async fn refuse_a_replica(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
            ) -> Result<(), sqlx::Error> {
                let Some(question) = &self.0.sql.reads_only else { return Ok(()) };
                let answer: i64 = sqlx::query_scalar(question.clone()).fetch_one(connection).await?;
                if answer == 0 { Ok(()) } else { Err(sqlx::Error::Protocol("the server is not the primary".to_owned())) }
            }

            /// Marks sessions as revoked, all of which the transaction has locked.
            async fn end(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                ids: &[SessionId],
                revocation: Revocation,
            ) -> Result<(), sqlx::Error> {
                for id in ids {
                    sqlx::query(self.0.sql.revoke.clone())
                        .bind(revocation.at.as_millis())
                        .bind(revocation.until.as_millis())
                        .bind(row::reason(revocation.reason))
                        .bind(&id.as_bytes()[..])
                        .execute(&mut *connection)
                        .await?;
                }
                Ok(())
            }

            /// Enters what has ended into the feed.
            async fn publish(
                &self,
                connection: &mut <$Database as sqlx::Database>::Connection,
                ended: &[Ended],
                until: Timestamp,
            ) -> Result<(), sqlx::Error> {
                for ended in ended {
                    let (kind, what) = row::feed_entry(ended);
                    sqlx::query(self.0.sql.publish.clone())
                        .bind(until.as_millis())
                        .bind(kind)
                        .bind(what)
                        .execute(&mut *connection)
                        .await?;
                }
                if let Some(announce) = self.0.sql.announce.as_ref().filter(|_| !ended.is_empty()) {
                    sqlx::query(announce.clone()).execute(connection).await?;
                }
                Ok(())
            }

            async fn swap_once(&self, expected: u64, next: &Session) -> Result<bool, sqlx::Error> {
                let mut lease = self.lease().await?;
                let revoked = next.chain.revoked;
                let update = sqlx::query(self.0.sql.swap.clone())
                    .bind(&*next.claims)
                    .bind(row::chain(next)?)
                    .bind(next.chain.last_seen_at.as_millis())
                    .bind(row::acknowledged(next.chain.acknowledged))
                    .bind(revoked.map(|revoked| revoked.at.as_millis()))
                    .bind(revoked.map(|revoked| revoked.until.as_millis()))
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
                            self.publish(&mut transaction, &[Ended::Session(next.id)], revocation.until).await?;
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
                target: Target<'_>,
                revocation: Revocation,
            ) -> Result<Vec<SessionId>, sqlx::Error> {
                let mut lease = self.lease().await?;
                let mut transaction = sqlx::Connection::begin_with(&mut *lease.connection, $dialect.begin).await?;
                let locked: Vec<LockedRow> = match target {
                    Target::Token(jti) => {
                        self.publish(&mut transaction, &[Ended::Token(jti.into())], revocation.until).await?;
                        Vec::new()
                    }
                    Target::Session(id) => {
                        sqlx::query_as(self.0.sql.lock_session.clone())
                            .bind(&id.as_bytes()[..])
                            .fetch_all(&mut *transaction)
                            .await?
                    }
                    Target::User { user, .. } => {
                        sqlx::query_as(self.0.sql.lock_sessions.clone())
                            .bind(user.as_bytes())
                            .fetch_all(&mut *transaction)
                            .await?
                    }
                };
                let (mut marked, mut ended, mut named) = (Vec::new(), Vec::new(), Vec::new());
                if let (Target::Session(id), true) = (target, locked.is_empty()) {
                    // Lost in a failover, perhaps; its access tokens may be out there all the same.
                    named.push(Ended::Session(id));
                }
                for (id, .., expires_at, revoked_at) in locked {
                    let id = row::session_id(&id)?;
                    if matches!(target, Target::User { except, .. } if except == Some(id)) {
                        continue;
                    }
                    named.push(Ended::Session(id));
                    if revoked_at.is_none() {
                        marked.push(id);
                        if revocation.at < Timestamp::from_millis(expires_at) {
                            ended.push(id);
                        }
                    }
                }
                self.end(&mut transaction, &marked, revocation).await?;
                if !named.is_empty() {
                    self.publish(&mut transaction, &named, revocation.until).await?;
                }
                transaction.commit().await?;
                lease.done();
                Ok(ended)
            }

            async fn seen_once(&self, batch: &[Seen]) -> Result<(), sqlx::Error> {
                let mut lease = self.lease().await?;
                for chunk in batch.chunks(CHUNK) {
                    sqlx::query(self.0.sql.seen.clone())
                        .bind(row::batch(chunk)?)
                        .execute(&mut *lease.connection)
                        .await?;
                }
                lease.done();
                Ok(())
            }

            async fn load_once(&self, id: SessionId) -> Result<Option<Session>, sqlx::Error> {
                let mut lease = self.lease().await?;
                let row: Option<SessionRow> = sqlx::query_as(self.0.sql.load.clone())
                    .bind(&id.as_bytes()[..])
                    .fetch_optional(&mut *lease.connection)
                    .await?;
                lease.done();
                row.map(row::read).transpose()
            }

            async fn list_once(&self, user: &str) -> Result<Vec<Session>, sqlx::Error> {
                let mut lease = self.lease().await?;
                let rows: Vec<SessionRow> = sqlx::query_as(self.0.sql.list.clone())
                    .bind(user.as_bytes())
                    .fetch_all(&mut *lease.connection)
                    .await?;
                lease.done();
                rows.into_iter().map(row::read).collect()
            }

            async fn feed_once(&self, since: Cursor) -> Result<Feed, sqlx::Error> {
                let mut lease = self.lease().await?;
                self.refuse_a_replica(&mut lease.connection).await?;
                let mut rows: Vec<FeedRow> = if since == Cursor::START {
                    sqlx::query_as(self.0.sql.feed.clone()).fetch_all(&mut *lease.connection).await?
                } else {
                    sqlx::query_as(self.0.sql.feed_from.clone())
                        .bind(since.0)
                        .bind(since.0)
                        .fetch_all(&mut *lease.connection)
                        .await?
                };
                lease.done();
                rows.sort_unstable_by_key(|row| row.0);
                let next = rows.last().map_or(0, |last| last.0).max(since.0);
                let revoked = rows.into_iter().map(row::read_feed).collect::<Result<_, _>>()?;
                Ok(Feed { revoked, next: Cursor(next) })
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
                    for _ in 0..FEED_STEPS {
                        let dropped = sqlx::query(self.0.sql.purge_feed.clone())
                            .bind(before.as_millis())
                            .bind(FEED_STEP)
                            .execute(&mut *lease.connection)
                            .await?
                            .rows_affected();
                        if dropped < FEED_STEP.unsigned_abs() {
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
            async fn insert(&self, new: &Session, admission: Admission) -> Result<Inserted, StoreError> {
                let inserted = again!(self.insert_once(new, admission))?;
                if matches!(&inserted, Inserted::Done(ended) if !ended.is_empty()) {
                    self.0.push.wake();
                }
                Ok(inserted)
            }

            async fn load(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
                again!(self.load_once(id))
            }

            async fn swap(&self, expected: u64, next: &Session) -> Result<bool, StoreError> {
                let swapped = again!(self.swap_once(expected, next))?;
                if swapped && next.chain.revoked.is_some() {
                    self.0.push.wake();
                }
                Ok(swapped)
            }

            async fn list(&self, user: &str) -> Result<Vec<Session>, StoreError> {
                again!(self.list_once(user))
            }

            async fn revoke(&self, target: Target<'_>, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
                let ended = again!(self.revoke_once(target, revocation))?;
                self.0.push.wake();
                Ok(ended)
            }

            async fn seen(&self, batch: &[Seen]) -> Result<(), StoreError> {
                again!(self.seen_once(batch))
            }

            async fn revocations(&self, since: Cursor) -> Result<Feed, StoreError> {
                again!(self.feed_once(since))
            }

            async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
                again!(self.purge_once(before, limit))
            }

            async fn changed(&self) {
                self.0.push.changed().await;
            }
        }
    };
}
pub(super) use sql_store;
