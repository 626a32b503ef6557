//! Fills a store with more rows than its API would write in reasonable time.

use axum_refresh::SessionId;
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection, PgConnection, SqliteConnection};

/// Everything of a session but its id and its place in the order of insertion.
const COLUMNS: &str = "user_id, everyone, secret_hash, created_at, expires_at, idle_timeout, is_limited, client, login, claims, \
                       last_client, generation, parent, rotated_at, recoveries, last_seen_at, acknowledged, revoked_at, \
                       revoked_reason, version, user_cutoff, everyone_cutoff";

/// Copies of a Redis session: in its row, in the index of its user and in the expiries. The ids stay in the shard, and the
/// last character of an id has four bits that are 0, so both ends of the id are kept.
const COPIES: &str = "local ttl, expires = redis.call('PTTL', KEYS[1]), redis.call('HGET', KEYS[1], 'expires')
for n = ARGV[4], ARGV[5] do
  local id = string.sub(ARGV[1], 1, 1) .. string.format('%020.0f', n) .. string.sub(ARGV[1], 22)
  local row = ARGV[3] .. id
  redis.call('COPY', KEYS[1], row)
  redis.call('PEXPIRE', row, ttl)
  redis.call('ZADD', KEYS[2], tonumber(n) + 1000, id)
  redis.call('ZADD', KEYS[3], expires, id .. ARGV[2])
end";

/// Copies a live session of `user` this many times, with random ids.
///
/// # Panics
/// If the store cannot be reached, or has no such session.
pub async fn sessions(url: &str, user: &str, template: SessionId, count: usize) {
    let id = template.as_bytes().to_vec();
    let copies = |id: &str, numbers: &str, placeholder: &str| {
        AssertSqlSafe(format!(
            "INSERT INTO axum_refresh_sessions (id, {COLUMNS}) SELECT {id}, {COLUMNS} FROM axum_refresh_sessions, {numbers} \
             WHERE id = {placeholder}"
        ))
    };
    match url.split(':').next().unwrap() {
        "sqlite" => {
            let mut connection = SqliteConnection::connect(url).await.unwrap();
            let numbers = format!(
                "(WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) \
                 SELECT n FROM numbers)"
            );
            sqlx::query(copies("randomblob(16)", &numbers, "?")).bind(id).execute(&mut connection).await.unwrap();
        }
        "postgres" => {
            let mut connection = PgConnection::connect(url).await.unwrap();
            let numbers = format!("generate_series(1, {count}) AS n");
            let new = "decode(md5(encode(id, 'hex') || n::text), 'hex')";
            sqlx::query(copies(new, &numbers, "$1")).bind(id).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        "mysql" => {
            let mut connection = MySqlConnection::connect(url).await.unwrap();
            let new = "UNHEX(MD5(CONCAT(HEX(id), seq_1_to.n)))";
            let numbers = format!("(SELECT seq AS n FROM seq_1_to_{count}) AS seq_1_to");
            sqlx::query(copies(new, &numbers, "?")).bind(id).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        "redis" => {
            let client = redis::Client::open(url).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let key = |name: &str| format!("axum-refresh:{{{:x}}}:{name}", template.shard());
            let mut first = 1;
            while first <= count {
                let last = (first + 999).min(count);
                let script = redis::Script::new(COPIES);
                let mut call = script.key(key(&format!("session:{template}")));
                call.key(key(&format!("user:{user}"))).key(key("expiries"));
                call.arg(template.to_string()).arg(user).arg(key("session:")).arg(first).arg(last);
                let () = call.invoke_async(&mut connection).await.unwrap();
                first = last + 1;
            }
        }
        other => panic!("{other:?} is not a kind of store"),
    }
}

/// Entries of a feed in Redis, with the ids of sessions that do not exist.
const ENTRIES: &str = "local time = redis.call('TIME')
for n = ARGV[1], ARGV[2] do
  local written_at = time[1] * 1000 - 60000 - math.floor((ARGV[4] - n) * 600000 / ARGV[4])
  redis.call('ZADD', KEYS[1], string.format('%.0f', written_at), 's:' .. ARGV[3] .. string.format('%020.0f', n) .. 'A')
end";

/// Adds this many revoked sessions to the feed, written between one and eleven minutes ago.
///
/// # Panics
/// If the store cannot be reached.
pub async fn revocations(url: &str, count: usize) {
    let columns = "INSERT INTO axum_refresh_revocations (written_at, kind, subject)";
    match url.split(':').next().unwrap() {
        "postgres" => {
            let mut connection = PgConnection::connect(url).await.unwrap();
            let rows = format!(
                "{columns} SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) - 60000 - ({count} - n) * 600000 / \
                 {count}, 1, decode(md5(n::text), 'hex') FROM generate_series(1::bigint, {count}) AS n"
            );
            sqlx::query(AssertSqlSafe(rows)).execute(&mut connection).await.unwrap();
            sqlx::query("ANALYZE axum_refresh_revocations").execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        "mysql" => {
            let mut connection = MySqlConnection::connect(url).await.unwrap();
            let rows = format!(
                "{columns} SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) - 60000 - ({count} - seq) * 600000 DIV {count}, 1, \
                 UNHEX(MD5(seq)) FROM seq_1_to_{count}"
            );
            sqlx::query(AssertSqlSafe(rows)).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        "redis" => {
            let client = redis::Client::open(url).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let script = redis::Script::new(ENTRIES);
            // The first six bits of an id are its first character, and the first four bits are the shard.
            let first = "AEIMQUYcgkosw048";
            let each = count / first.len();
            for (shard, first) in first.chars().enumerate() {
                let mut from = 1;
                while from <= each {
                    let last = (from + 9_999).min(each);
                    let mut call = script.key(format!("axum-refresh:{{{shard:x}}}:feed"));
                    call.arg(from).arg(last).arg(first.to_string()).arg(each);
                    let () = call.invoke_async(&mut connection).await.unwrap();
                    from = last + 1;
                }
            }
        }
        other => panic!("{other:?} has no feed to fill"),
    }
}
