//! The SQL statements, and how the three dialects differ.

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

/// How a database differs from the others. All statements use `?` for parameters.
pub(super) struct Dialect {
    /// Whether parameters are written `$1`, `$2` instead of `?`.
    pub(super) numbered: bool,
    /// Begins a transaction that writes.
    pub(super) begin: &'static str,
    /// The suffix of a SELECT that locks its rows until the transaction ends.
    pub(super) for_update: &'static str,
    /// Whether the logins of a user are serialized by a row of `axum_refresh_locks`. A database with a single writer
    /// does not need it.
    pub(super) has_locks: bool,
    /// The function that returns the larger of two numbers.
    pub(super) greatest: &'static str,
    /// An expression for the database's clock, in milliseconds.
    pub(super) now: &'static str,
    /// Merges a JSON list of `[id in hexadecimal, last_seen_at, acknowledged]`, with each id once.
    pub(super) record_activity: &'static str,
    /// Deletes sessions that expired before the first parameter, at most as many as the second.
    pub(super) purge: &'static str,
    /// Deletes entries of the feed that expired before the first parameter, at most as many as the second.
    pub(super) purge_feed: &'static str,
    /// Returns 0 if the server accepts writes. A server that does not may be a former primary with outdated rows. May
    /// be empty.
    pub(super) is_read_only: &'static str,
    /// Notifies other nodes of new entries in the feed when the transaction commits. May be empty.
    pub(super) notify: &'static str,
}

/// All statements of one database.
pub(super) struct Statements {
    pub(super) insert: SqlStr,
    pub(super) load: SqlStr,
    pub(super) compare_and_swap: SqlStr,
    pub(super) list: SqlStr,
    pub(super) lock_user: Option<SqlStr>,
    pub(super) lock_session: SqlStr,
    pub(super) lock_sessions: SqlStr,
    pub(super) revoke: SqlStr,
    pub(super) publish: SqlStr,
    pub(super) notify: Option<SqlStr>,
    pub(super) record_activity: SqlStr,
    pub(super) read_revocations: SqlStr,
    pub(super) read_revocations_since: SqlStr,
    pub(super) purge: SqlStr,
    pub(super) purge_feed: SqlStr,
    pub(super) is_read_only: Option<SqlStr>,
}

/// The columns of a session, in the order of [`SessionRow`](super::row::SessionRow).
const COLUMNS: &str = "id, user_id, secret_hash, created_at, expires_at, client, claims, rotation, last_seen_at, \
                       acknowledged, revoked_at, revocation_expires_at, revoked_reason, version";

/// The columns of a session that may be revoked, in the order of [`LockedRow`](super::row::LockedRow).
const LOCKED: &str = "id, created_at, seq, last_seen_at, expires_at, revoked_at";

/// How far back the feed is read again: a transaction may become visible this long after its `written_at`. Longer than
/// the timeout of a statement.
const OVERLAP_MILLIS: u32 = 10_000;

impl Statements {
    pub(super) fn new(dialect: &Dialect) -> Self {
        let Dialect { for_update, greatest, now, .. } = dialect;
        let sql =
            |text: &str| AssertSqlSafe(if dialect.numbered { number(text) } else { text.to_owned() }).into_sql_str();
        Self {
            insert: sql(&format!(
                "INSERT INTO axum_refresh_sessions ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            )),
            load: sql(&format!("SELECT {COLUMNS} FROM axum_refresh_sessions WHERE id = ?")),
            compare_and_swap: sql(&format!(
                "UPDATE axum_refresh_sessions SET claims = ?, rotation = ?, \
                 last_seen_at = {greatest}(last_seen_at, ?), acknowledged = {greatest}(acknowledged, ?), \
                 revoked_at = ?, revocation_expires_at = ?, revoked_reason = ?, version = version + 1 WHERE id = ? AND version = ?"
            )),
            list: sql(&format!("SELECT {COLUMNS} FROM axum_refresh_sessions WHERE user_id = ? AND revoked_at IS NULL")),
            lock_user: dialect
                .has_locks
                .then(|| sql(&format!("SELECT stripe FROM axum_refresh_locks WHERE stripe = ?{for_update}"))),
            lock_session: sql(&format!("SELECT {LOCKED} FROM axum_refresh_sessions WHERE id = ?{for_update}")),
            // In the order of the ids, so that two transactions that lock several rows cannot deadlock.
            lock_sessions: sql(&format!(
                "SELECT {LOCKED} FROM axum_refresh_sessions \
                 WHERE user_id = ? AND revoked_at IS NULL ORDER BY id{for_update}"
            )),
            revoke: sql(
                "UPDATE axum_refresh_sessions SET revoked_at = ?, revocation_expires_at = ?, revoked_reason = ?, \
                 version = version + 1 WHERE id = ? AND revoked_at IS NULL",
            ),
            publish: sql(&format!(
                "INSERT INTO axum_refresh_revocations (written_at, expires_at, kind, subject) VALUES ({now}, ?, ?, ?)"
            )),
            notify: (!dialect.notify.is_empty()).then(|| sql(dialect.notify)),
            record_activity: sql(dialect.record_activity),
            read_revocations: sql("SELECT seq, expires_at, kind, subject FROM axum_refresh_revocations"),
            // A transaction that commits late becomes visible before the cursor, so recent entries are read again by
            // time.
            read_revocations_since: sql(&format!(
                "SELECT seq, expires_at, kind, subject FROM axum_refresh_revocations WHERE seq > ? UNION ALL \
                 SELECT seq, expires_at, kind, subject FROM axum_refresh_revocations \
                 WHERE written_at > {now} - {OVERLAP_MILLIS} AND seq <= ?"
            )),
            purge: sql(dialect.purge),
            purge_feed: sql(dialect.purge_feed),
            is_read_only: (!dialect.is_read_only.is_empty()).then(|| sql(dialect.is_read_only)),
        }
    }
}

impl Statements {
    /// All statements that search for rows, for tests of their query plans.
    pub(super) fn searching(&self) -> Vec<String> {
        let all = [
            Some(&self.load),
            Some(&self.compare_and_swap),
            Some(&self.list),
            self.lock_user.as_ref(),
            Some(&self.lock_session),
            Some(&self.lock_sessions),
            Some(&self.revoke),
            Some(&self.record_activity),
            Some(&self.read_revocations_since),
            Some(&self.purge),
            Some(&self.purge_feed),
        ];
        all.into_iter().flatten().map(|sql| sql.as_str().to_owned()).collect()
    }
}

/// Replaces `?`, `?` by `$1`, `$2`.
pub(super) fn number(text: &str) -> String {
    let mut numbered = String::with_capacity(text.len() + 16);
    for (n, piece) in text.split('?').enumerate() {
        if n > 0 {
            numbered.push_str(&format!("${n}"));
        }
        numbered.push_str(piece);
    }
    numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_in_order() {
        assert_eq!(number("a = ? AND b IN (?, ?)"), "a = $1 AND b IN ($2, $3)");
        assert_eq!(number("nothing"), "nothing");
    }
}
