//! The SQL statements, and how the three dialects differ.

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

use super::MAX_EXAMINED;
use super::row::SESSION;

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
    /// Marks the sessions of a JSON list of ids in hexadecimal, unless they are marked. The parameters: the list,
    /// revoked_at, revoked_reason.
    pub(super) revoke_all: &'static str,
    /// A query that returns the ids of such a list.
    pub(super) publish_all: &'static str,
    /// The end of an INSERT into `axum_refresh_cutoffs`: replaces a row of the same scope, and raises its cutoff.
    pub(super) on_conflict: &'static str,
    /// Deletes sessions that expired before the first parameter, at most as many as the second.
    pub(super) purge: &'static str,
    /// Deletes entries of the feed that were written before the first parameter, at most as many as the second.
    pub(super) purge_feed: &'static str,
    /// Returns 0 if the server accepts writes. A server that does not may be a former primary with outdated rows.
    pub(super) is_read_only: &'static str,
    /// Whether the database's clock is a different one from the caller's.
    pub(super) has_clock: bool,
    /// Notifies other nodes of new entries in the feed when the transaction commits. May be empty.
    pub(super) notify: &'static str,
}

/// All statements of one database.
pub(super) struct Statements {
    pub(super) insert: SqlStr,
    pub(super) load: SqlStr,
    pub(super) compare_and_swap: SqlStr,
    pub(super) compare_and_revoke: SqlStr,
    pub(super) list: SqlStr,
    pub(super) find_external: SqlStr,
    pub(super) lock_user: Option<SqlStr>,
    pub(super) lock_session: SqlStr,
    pub(super) lock_cutoff: SqlStr,
    pub(super) cutoff: SqlStr,
    pub(super) raise_cutoff: SqlStr,
    pub(super) spare_session: SqlStr,
    pub(super) spare_later: SqlStr,
    pub(super) excess: SqlStr,
    pub(super) oldest_survivor: SqlStr,
    pub(super) spare_survivors: SqlStr,
    pub(super) count_live: SqlStr,
    pub(super) count_all: SqlStr,
    pub(super) revoke: SqlStr,
    pub(super) revoke_all: SqlStr,
    pub(super) publish: SqlStr,
    pub(super) publish_all: SqlStr,
    pub(super) notify: Option<SqlStr>,
    pub(super) record_activity: SqlStr,
    pub(super) read_revocations: SqlStr,
    pub(super) read_revocations_since: SqlStr,
    pub(super) read_late_revocations: SqlStr,
    pub(super) last_revocation: SqlStr,
    pub(super) purge: SqlStr,
    pub(super) purge_feed: SqlStr,
    pub(super) cutoff_step: SqlStr,
    pub(super) purge_cutoffs: SqlStr,
    pub(super) clock: SqlStr,
}

/// The columns of a session, in the order of [`read`](super::row::read).
const COLUMNS: &str = "id, user_id, secret_hash, created_at, expires_at, idle_timeout, client, login, external, claims, \
                       last_client, generation, parent, rotated_at, recoveries, last_seen_at, acknowledged, revoked_at, \
                       revoked_reason, version";

/// Whether a session counts for the session limit, as of a login: it can be evicted, and is neither expired nor idle, as in
/// [`RotationState::is_idle`](crate::ratchet::RotationState::is_idle). The parameters: the time of the login, since when
/// a session is idle by the policy, the time of the login.
const COUNTS: &str = "is_limited = 1 AND expires_at > ? AND last_seen_at > ? \
                      AND (idle_timeout IS NULL OR last_seen_at > ? - idle_timeout)";

/// The order of the index, backward.
const NEWEST_FIRST: &str = "ORDER BY user_cutoff DESC, created_at DESC, seq DESC";

/// The columns of an entry of the feed, in the order of [`FeedRow`](super::row::FeedRow).
const ENTRY: &str = "seq, written_at, kind, subject, cutoff, revoked_at, spared";

impl Statements {
    pub(super) fn new(dialect: &Dialect) -> Self {
        let Dialect { for_update, greatest, now, on_conflict, publish_all, is_read_only, .. } = dialect;
        let sql =
            |text: &str| AssertSqlSafe(if dialect.numbered { number(text) } else { text.to_owned() }).into_sql_str();
        // The cutoff that a new session of a user gets: one number for both scopes, so that a range of the index excludes
        // what was revoked with the user as well as what was revoked with everyone. The parameters: both scopes.
        let floor = format!(
            "{greatest}(COALESCE((SELECT cutoff FROM axum_refresh_cutoffs WHERE scope = ?), 0), \
             COALESCE((SELECT cutoff FROM axum_refresh_cutoffs WHERE scope = ?), 0))"
        );
        // The sessions of a user whose cutoffs have not risen since, by index. The parameters: the user id twice, the scope
        // of everyone twice. Nearly always they all have the same cutoff. A higher one is that of a login during which the
        // cutoff was purged.
        let current = format!(
            "user_id = ? AND user_cutoff >= {floor} \
             AND everyone_cutoff >= COALESCE((SELECT cutoff FROM axum_refresh_cutoffs WHERE scope = ?), 0) \
             AND revoked_at IS NULL"
        );
        // The newest of them. The parameters: those of `current`, how many.
        let newest = format!(
            "(SELECT id, user_cutoff, created_at, seq, is_limited, expires_at, idle_timeout, last_seen_at \
             FROM axum_refresh_sessions WHERE {current} {NEWEST_FIRST} LIMIT ?) AS newest"
        );
        let compare_and_swap = |also: &str| {
            sql(&format!(
                "UPDATE axum_refresh_sessions SET claims = ?, last_client = ?, generation = ?, parent = ?, rotated_at = ?, \
                 recoveries = ?, last_seen_at = {greatest}(last_seen_at, ?), acknowledged = {greatest}(acknowledged, ?), \
                 revoked_at = ?, revoked_reason = ?{also}, version = version + 1 WHERE id = ? AND version = ?"
            ))
        };
        Self {
            insert: sql(&format!(
                "INSERT INTO axum_refresh_sessions ({COLUMNS}, is_limited, everyone, user_cutoff, everyone_cutoff) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, \
                 {floor}, COALESCE((SELECT cutoff FROM axum_refresh_cutoffs WHERE scope = ?), 0))"
            )),
            load: sql(
                "SELECT s.id, s.user_id, s.secret_hash, s.created_at, s.expires_at, s.idle_timeout, s.client, s.login, s.external, \
                 s.claims, s.last_client, s.generation, s.parent, s.rotated_at, s.recoveries, s.last_seen_at, s.acknowledged, \
                 COALESCE(s.revoked_at, u.revoked_at, e.revoked_at), \
                 COALESCE(s.revoked_reason, u.revoked_reason, e.revoked_reason), s.version \
                 FROM axum_refresh_sessions AS s \
                 LEFT JOIN axum_refresh_cutoffs AS u ON u.scope = s.user_id AND u.cutoff > s.user_cutoff \
                 LEFT JOIN axum_refresh_cutoffs AS e ON e.scope = s.everyone AND e.cutoff > s.everyone_cutoff \
                 WHERE s.id = ?",
            ),
            compare_and_swap: compare_and_swap(""),
            compare_and_revoke: compare_and_swap(", user_cutoff = -1"),
            list: sql(&format!("SELECT {COLUMNS} FROM axum_refresh_sessions WHERE {current} {NEWEST_FIRST} LIMIT ?")),
            find_external: sql("SELECT id FROM axum_refresh_sessions WHERE external = ? AND revoked_at IS NULL"),
            lock_user: dialect
                .has_locks
                .then(|| sql(&format!("SELECT stripe FROM axum_refresh_locks WHERE stripe = ?{for_update}"))),
            lock_session: sql(&format!(
                "SELECT user_id, expires_at, COALESCE(revoked_at, \
                 (SELECT u.revoked_at FROM axum_refresh_cutoffs AS u WHERE u.scope = user_id AND u.cutoff > user_cutoff), \
                 (SELECT e.revoked_at FROM axum_refresh_cutoffs AS e \
                 WHERE e.scope = everyone AND e.cutoff > everyone_cutoff)) \
                 FROM axum_refresh_sessions WHERE id = ?{for_update}"
            )),
            lock_cutoff: sql(&format!("SELECT cutoff FROM axum_refresh_cutoffs WHERE scope = ?{for_update}")),
            cutoff: sql("SELECT cutoff FROM axum_refresh_cutoffs WHERE scope = ?"),
            // The lock of the row orders concurrent ones. The second parameter: higher than the cutoff of everyone.
            raise_cutoff: sql(&format!(
                "INSERT INTO axum_refresh_cutoffs (scope, cutoff, revoked_at, revoked_reason) \
                 VALUES (?, {greatest}({now}, ?), ?, ?) {on_conflict}"
            )),
            spare_session: sql(
                "UPDATE axum_refresh_sessions SET user_cutoff = ? WHERE id = ? AND user_id = ? AND user_cutoff >= ?",
            ),
            spare_later: sql("UPDATE axum_refresh_sessions SET user_cutoff = ? \
                 WHERE user_id = ? AND user_cutoff >= ? AND created_at > ?"),
            // One of the rows, if there is one, is the newest session that was not examined.
            excess: sql(&format!(
                "SELECT id, ? AS is_beyond FROM (SELECT id FROM {newest} WHERE {COUNTS} \
                 AND id <> ? {NEWEST_FIRST} LIMIT ? OFFSET ?) AS excess UNION ALL \
                 SELECT id, ? AS is_beyond FROM (SELECT id FROM axum_refresh_sessions \
                 WHERE {current} {NEWEST_FIRST} LIMIT 1 OFFSET ?) AS beyond"
            )),
            oldest_survivor: sql(&format!(
                "SELECT created_at, seq FROM (SELECT user_cutoff, created_at, seq FROM {newest} \
                 WHERE {COUNTS} AND id <> ? {NEWEST_FIRST} LIMIT ?) AS survivors \
                 ORDER BY user_cutoff, created_at, seq LIMIT 1"
            )),
            // With the sessions that no limit concerns, if they are newer than the oldest survivor.
            spare_survivors: sql(&format!(
                "UPDATE axum_refresh_sessions SET user_cutoff = ? \
                 WHERE user_id = ? AND user_cutoff >= ? AND created_at >= ? AND (created_at > ? OR seq >= ?) \
                 AND (is_limited = 0 OR ({COUNTS}))"
            )),
            count_live: sql(&format!(
                "SELECT COUNT(*) FROM (SELECT 1 AS one FROM (SELECT expires_at, last_seen_at FROM axum_refresh_sessions \
                 WHERE user_id = ? AND user_cutoff >= ? AND user_cutoff < ? \
                 AND everyone_cutoff >= COALESCE((SELECT cutoff FROM axum_refresh_cutoffs WHERE scope = ?), 0) \
                 AND revoked_at IS NULL {NEWEST_FIRST} LIMIT {MAX_EXAMINED}) AS examined WHERE expires_at > ? AND last_seen_at > ? LIMIT ?) \
                 AS live"
            )),
            count_all: sql("SELECT COUNT(*) FROM (SELECT 1 AS one FROM axum_refresh_sessions \
                 WHERE user_id = ? AND user_cutoff >= ? AND user_cutoff < ? LIMIT ?) AS found"),
            // A marked session leaves the part of the index where the live ones are.
            revoke: sql("UPDATE axum_refresh_sessions SET revoked_at = ?, revoked_reason = ?, user_cutoff = -1, \
                 version = version + 1 WHERE id = ? AND revoked_at IS NULL"),
            revoke_all: sql(dialect.revoke_all),
            publish: sql(&format!(
                "INSERT INTO axum_refresh_revocations (written_at, kind, subject, cutoff, revoked_at, spared) \
                 VALUES ({now}, ?, ?, ?, ?, ?)"
            )),
            publish_all: sql(&format!(
                "INSERT INTO axum_refresh_revocations (written_at, kind, subject) \
                 SELECT {now}, {SESSION}, batch.id FROM ({publish_all}) AS batch"
            )),
            notify: (!dialect.notify.is_empty()).then(|| sql(dialect.notify)),
            record_activity: sql(dialect.record_activity),
            // An upper bound, although it never matters: the planner takes a range for small and uses its index. The sum
            // keeps it from walking through the whole feed in the order of the numbers.
            read_revocations: sql(&format!(
                "SELECT {ENTRY} FROM axum_refresh_revocations WHERE written_at > ? AND written_at <= ? ORDER BY seq + 0 LIMIT ?"
            )),
            read_revocations_since: sql(&format!(
                "SELECT {ENTRY} FROM axum_refresh_revocations WHERE seq > ? ORDER BY seq LIMIT ?"
            )),
            // A transaction that commits late becomes visible before the cursor, so recent entries are read again by
            // time.
            read_late_revocations: sql(&format!(
                "SELECT {ENTRY} FROM axum_refresh_revocations WHERE written_at > ? AND written_at <= ? AND seq <= ?"
            )),
            last_revocation: sql("SELECT MAX(seq) FROM axum_refresh_revocations"),
            purge: sql(dialect.purge),
            purge_feed: sql(dialect.purge_feed),
            cutoff_step: sql("SELECT scope FROM axum_refresh_cutoffs WHERE scope >= ? ORDER BY scope LIMIT 1 OFFSET ?"),
            // The last parameter is a NUL: the cutoffs of everyone end with it, and stay.
            purge_cutoffs: sql(
                "DELETE FROM axum_refresh_cutoffs WHERE scope >= ? AND scope < ? AND cutoff < ? AND NOT EXISTS \
                 (SELECT 1 FROM axum_refresh_sessions WHERE user_id = axum_refresh_cutoffs.scope) \
                 AND (LENGTH(scope) = 0 OR SUBSTR(scope, LENGTH(scope), 1) <> ?)",
            ),
            clock: sql(&format!("{is_read_only}, {now}")),
        }
    }
}

impl Statements {
    /// All statements that search for rows, for tests of their query plans.
    pub(super) fn searching(&self) -> Vec<String> {
        let all = [
            Some(&self.load),
            Some(&self.compare_and_swap),
            Some(&self.compare_and_revoke),
            Some(&self.list),
            Some(&self.find_external),
            self.lock_user.as_ref(),
            Some(&self.lock_session),
            Some(&self.lock_cutoff),
            Some(&self.cutoff),
            Some(&self.spare_session),
            Some(&self.spare_later),
            Some(&self.excess),
            Some(&self.oldest_survivor),
            Some(&self.spare_survivors),
            Some(&self.count_live),
            Some(&self.count_all),
            Some(&self.revoke),
            Some(&self.revoke_all),
            Some(&self.record_activity),
            Some(&self.read_revocations),
            Some(&self.read_revocations_since),
            Some(&self.read_late_revocations),
            Some(&self.purge),
            Some(&self.purge_feed),
            Some(&self.cutoff_step),
            Some(&self.purge_cutoffs),
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
