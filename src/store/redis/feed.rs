//! The feed of revocations in Redis: its entries and its cursors.

use std::time::Duration;

use super::unreadable;
use crate::store::{FeedCursor, RevocationBatch, RevocationEntry, RevokedItem, RevokedUsers, Spared, StoreError};
use crate::time::Timestamp;

/// The server's time, the time to read from next (empty if everything was read), and entries, each followed by its time.
pub(super) type Reply = (i64, String, Vec<String>);

/// The entries of all replies, in the order of their times.
pub(super) fn batch(since: FeedCursor, replies: &[Reply]) -> Result<RevocationBatch, StoreError> {
    let now = replies.iter().map(|(now, ..)| *now).min().unwrap_or_else(|| cursor_time(since).0);
    let mut next_from: Option<i64> = None;
    let mut entries = Vec::new();
    for (now, from, texts) in replies {
        if !from.is_empty() {
            let from = from.parse().map_err(|_| unreadable("a score in the feed"))?;
            next_from = Some(next_from.map_or(from, |next| next.min(from)));
        }
        for pair in texts.chunks_exact(2) {
            if let [entry, written_at] = pair {
                let score: f64 = written_at.parse().map_err(|_| unreadable("a score in the feed"))?;
                #[expect(clippy::cast_possible_truncation, reason = "scores are times in milliseconds")]
                let written_at = score as i64;
                let age = u64::try_from(now.saturating_sub(written_at)).unwrap_or(0);
                let item = item(entry)?;
                entries.push((written_at, RevocationEntry { item, age: Duration::from_millis(age) }));
            }
        }
    }
    entries.sort_by_key(|(written_at, _)| *written_at);
    let next = next_from.map_or_else(|| complete_cursor(now), inside_cursor);
    Ok(RevocationBatch {
        entries: entries.into_iter().map(|(_, entry)| entry).collect(),
        next: next.max(since),
        has_more: next_from.is_some(),
        now: Some(Timestamp::from_millis(now)),
    })
}

// A cursor is twice a time of the server, plus one if entries after that time were left for the next call. Only then is
// the overlap not read again: a call that began before the end of the last one would never get further.

fn complete_cursor(time: i64) -> FeedCursor {
    FeedCursor(time.saturating_mul(2))
}

fn inside_cursor(time: i64) -> FeedCursor {
    FeedCursor(time.saturating_mul(2).saturating_add(1))
}

pub(super) fn cursor_time(cursor: FeedCursor) -> (i64, bool) {
    (cursor.0.div_euclid(2), cursor.0.rem_euclid(2) == 1)
}

pub(super) fn revoked_users(
    scope: &str,
    cutoff: &str,
    revoked_at: Timestamp,
    spared: Spared,
) -> Result<RevokedUsers, StoreError> {
    let cutoff = cutoff.parse().map_err(|_| unreadable("a cutoff"))?;
    Ok(RevokedUsers { scope: scope.into(), cutoff, revoked_at, spared })
}

/// Decodes an entry of the feed: `s:session_id`, `t:jti` or `u:cutoff:revoked_at:spared:scope`. What was spared is nothing, a
/// session id or `newest`.
fn item(entry: &str) -> Result<RevokedItem, StoreError> {
    let read = || match entry.split_once(':')? {
        ("s", id) => Some(RevokedItem::Session(id.parse().ok()?)),
        ("t", jti) => Some(RevokedItem::Token(jti.into())),
        ("u", users) => {
            let (cutoff, users) = users.split_once(':')?;
            let (at, users) = users.split_once(':')?;
            let (spared, scope) = users.split_once(':')?;
            let spared = match spared {
                "" => Spared::Nothing,
                "newest" => Spared::Newest,
                id => Spared::Session(id.parse().ok()?),
            };
            let revoked_at = Timestamp::from_millis(at.parse().ok()?);
            revoked_users(scope, cutoff, revoked_at, spared).ok().map(RevokedItem::Users)
        }
        _ => None,
    };
    read().ok_or_else(|| unreadable("an entry of the feed"))
}
