//! What is said to a database, and how each of the three wants it said.

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

/// Where three databases differ. Statements are written with `?`.
pub(super) struct Dialect {
    /// Whether parameters are `$1`, `$2` instead of `?`.
    pub(super) numbered: bool,
    /// Begins a transaction that is going to write.
    pub(super) begin: &'static str,
    /// Behind a SELECT: nobody else changes these rows until the transaction ends.
    pub(super) for_update: &'static str,
    /// Whether logins of one user have to be kept apart by a lock; a database with one writer at a time does that.
    pub(super) has_locks: bool,
    /// The larger of two numbers.
    pub(super) greatest: &'static str,
    /// The database's own clock, in milliseconds. An expression.
    pub(super) now: &'static str,
    /// Takes over a JSON list of `[id in hexadecimal, last_seen_at, acknowledged]`, each id once.
    pub(super) seen: &'static str,
    /// Drops sessions that expired before the first parameter, at most as many as the second.
    pub(super) purge: &'static str,
    /// Drops what is past the first parameter in the feed, at most as much as the second.
    pub(super) purge_feed: &'static str,
    /// Answers 0 where the server takes writes. One that does not was a primary once, and what it knows is old. May be
    /// nothing.
    pub(super) reads_only: &'static str,
    /// What tells other nodes of something new in the feed, when the transaction commits. May be nothing.
    pub(super) announce: &'static str,
}

/// All statements of one database.
pub(super) struct Statements {
    pub(super) insert: SqlStr,
    pub(super) load: SqlStr,
    pub(super) swap: SqlStr,
    pub(super) list: SqlStr,
    pub(super) lock_user: Option<SqlStr>,
    pub(super) lock_session: SqlStr,
    pub(super) lock_sessions: SqlStr,
    pub(super) revoke: SqlStr,
    pub(super) publish: SqlStr,
    pub(super) announce: Option<SqlStr>,
    pub(super) seen: SqlStr,
    pub(super) feed: SqlStr,
    pub(super) feed_from: SqlStr,
    pub(super) purge: SqlStr,
    pub(super) purge_feed: SqlStr,
    pub(super) reads_only: Option<SqlStr>,
}

/// The columns of a session, in the order of [`SessionRow`](super::row::SessionRow).
const COLUMNS: &str = "id, user_id, secret_hash, created_at, expires_at, client, claims, chain, last_seen_at, \
                       acknowledged, revoked_at, revoked_until, revoked_reason, version";

/// The columns of a session that may have to end, in the order of [`LockedRow`](super::row::LockedRow).
const LOCKED: &str = "id, created_at, place, last_seen_at, expires_at, revoked_at";

/// For how long after it was written a transaction may take to be seen: what is older than that comes in the order of
/// its numbers. Longer than any statement may take.
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
            swap: sql(&format!(
                "UPDATE axum_refresh_sessions SET claims = ?, chain = ?, last_seen_at = {greatest}(last_seen_at, ?), \
                 acknowledged = {greatest}(acknowledged, ?), revoked_at = ?, revoked_until = ?, revoked_reason = ?, \
                 version = version + 1 WHERE id = ? AND version = ?"
            )),
            list: sql(&format!("SELECT {COLUMNS} FROM axum_refresh_sessions WHERE user_id = ? AND revoked_at IS NULL")),
            lock_user: dialect
                .has_locks
                .then(|| sql(&format!("SELECT stripe FROM axum_refresh_locks WHERE stripe = ?{for_update}"))),
            lock_session: sql(&format!(
                "SELECT {LOCKED} FROM axum_refresh_sessions \
                 WHERE id = ?{for_update}"
            )),
            // In the order of their ids, so that two who lock several never wait for each other.
            lock_sessions: sql(&format!(
                "SELECT {LOCKED} FROM axum_refresh_sessions \
                 WHERE user_id = ? AND revoked_at IS NULL ORDER BY id{for_update}"
            )),
            revoke: sql("UPDATE axum_refresh_sessions SET revoked_at = ?, revoked_until = ?, revoked_reason = ?, \
                 version = version + 1 WHERE id = ? AND revoked_at IS NULL"),
            publish: sql(&format!(
                "INSERT INTO axum_refresh_revocations (written_at, until, kind, what) VALUES ({now}, ?, ?, ?)"
            )),
            announce: (!dialect.announce.is_empty()).then(|| sql(dialect.announce)),
            seen: sql(dialect.seen),
            feed: sql("SELECT place, until, kind, what FROM axum_refresh_revocations"),
            // A transaction that takes long to commit appears behind the last number seen; by the clock it is found.
            feed_from: sql(&format!(
                "SELECT place, until, kind, what FROM axum_refresh_revocations WHERE place > ? UNION ALL \
                 SELECT place, until, kind, what FROM axum_refresh_revocations \
                 WHERE written_at > {now} - {OVERLAP_MILLIS} AND place <= ?"
            )),
            purge: sql(dialect.purge),
            purge_feed: sql(dialect.purge_feed),
            reads_only: (!dialect.reads_only.is_empty()).then(|| sql(dialect.reads_only)),
        }
    }
}

impl Statements {
    /// All that look for some rows among many, for a look at how the database finds them.
    pub(super) fn searching(&self) -> Vec<String> {
        let all = [
            Some(&self.load),
            Some(&self.swap),
            Some(&self.list),
            self.lock_user.as_ref(),
            Some(&self.lock_session),
            Some(&self.lock_sessions),
            Some(&self.revoke),
            Some(&self.seen),
            Some(&self.feed_from),
            Some(&self.purge),
            Some(&self.purge_feed),
        ];
        all.into_iter().flatten().map(|sql| sql.as_str().to_owned()).collect()
    }
}

/// `?`, `?` as `$1`, `$2`.
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
    fn parameters_are_numbered_in_the_order_in_which_they_stand() {
        assert_eq!(number("a = ? AND b IN (?, ?)"), "a = $1 AND b IN ($2, $3)");
        assert_eq!(number("nothing"), "nothing");
    }
}
