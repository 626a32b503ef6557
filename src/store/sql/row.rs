//! Encodes a session as a row, for all databases. What changes has a column for each value, so that a node of an older
//! version, which does not know a new column, leaves it as it is. What never changes is JSON where it has many parts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{ColumnIndex, Decode, Row, Type};

use crate::ratchet::RotationState;
use crate::session::{ExternalId, Revocation, RevocationReason, SecretHash, SessionId};
use crate::store::encoding::Login;
use crate::store::{Activity, RevocationEntry, RevokedItem, RevokedUsers, SessionRecord, Spared};
use crate::time::Timestamp;

/// A session that may be revoked: user_id, expires_at, and when it was revoked, in whatever way.
pub(super) type LockedRow = (Vec<u8>, i64, Option<i64>);

/// The columns of a feed entry: seq, written_at, kind, subject, cutoff, revoked_at, spared.
pub(super) type FeedRow = (i64, i64, i64, Vec<u8>, Option<i64>, Option<i64>, Option<Vec<u8>>);

/// The columns of a new feed entry: kind, subject, cutoff, revoked_at, spared.
pub(super) type NewFeedRow<'a> = (i64, &'a [u8], Option<i64>, Option<i64>, Option<&'a [u8]>);

/// Encodes `None`: less than every generation, so that the maximum works.
const NOTHING_ACKNOWLEDGED: i64 = -1;

/// The values of the column `kind`.
pub(super) const SESSION: i64 = 1;
const TOKEN: i64 = 2;
const USERS: i64 = 3;

/// A value that does not fit its column, or that cannot be decoded. This is an error: such a row must not be taken for
/// a missing session.
fn unreadable(column: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(
        format!("axum_refresh_sessions.{column} has a value that this version of axum-refresh does not write").into(),
    )
}

/// The columns of a row, one after the other.
struct Columns<'r, R> {
    row: &'r R,
    next: usize,
}

impl<'r, R: Row> Columns<'r, R>
where
    usize: ColumnIndex<R>,
{
    fn next<T: Decode<'r, R::Database> + Type<R::Database>>(&mut self) -> Result<T, sqlx::Error> {
        let index = self.next;
        self.next += 1;
        self.row.try_get(index)
    }
}

/// Decodes a session. The columns are in the order of all statements.
pub(super) fn read<'r, R: Row>(row: &'r R) -> Result<SessionRecord, sqlx::Error>
where
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    let mut columns = Columns { row, next: 0 };
    let id: Vec<u8> = columns.next()?;
    let user_id: Vec<u8> = columns.next()?;
    let secret_hash: Vec<u8> = columns.next()?;
    let created_at: i64 = columns.next()?;
    let expires_at: i64 = columns.next()?;
    let idle_timeout: Option<i64> = columns.next()?;
    let client: String = columns.next()?;
    let login: String = columns.next()?;
    let external: Option<Vec<u8>> = columns.next()?;
    let claims: String = columns.next()?;
    let last_client: Option<String> = columns.next()?;
    let generation: i64 = columns.next()?;
    let parent: Option<i64> = columns.next()?;
    let rotated_at: Option<i64> = columns.next()?;
    let recoveries: i64 = columns.next()?;
    let last_seen_at: i64 = columns.next()?;
    let acknowledged: i64 = columns.next()?;
    let revoked_at: Option<i64> = columns.next()?;
    let revoked_reason: Option<String> = columns.next()?;
    let version: i64 = columns.next()?;

    let number = |column, number| u32::try_from(number).map_err(|_| unreadable(column));
    let Login { authentication, persistent, transport, without_refresh } = read_json("login", &login)?;
    let external = external.map(|hash| hash.try_into().map(ExternalId::from_bytes)).transpose();
    let idle_timeout = idle_timeout.map(|millis| u64::try_from(millis).map(Duration::from_millis)).transpose();
    let revoked = revoked_at
        .map(|at| Revocation { at: Timestamp::from_millis(at), reason: read_reason(revoked_reason.as_deref()) });
    Ok(SessionRecord {
        id: session_id(&id)?,
        user_id: String::from_utf8(user_id).map_err(|_| unreadable("user_id"))?.into(),
        secret_hash: SecretHash::from_bytes(secret_hash.try_into().map_err(|_| unreadable("secret_hash"))?),
        created_at: Timestamp::from_millis(created_at),
        client: read_json("client", &client)?,
        authentication: authentication.into_owned(),
        persistent,
        transport,
        can_refresh: !without_refresh,
        external: external.map_err(|_| unreadable("external"))?,
        last_client: last_client.map(|client| read_json("last_client", &client)).transpose()?,
        claims: claims.into(),
        rotation: RotationState {
            generation: number("generation", generation)?,
            parent: parent.map(|parent| number("parent", parent)).transpose()?,
            rotated_at: rotated_at.map(Timestamp::from_millis),
            acknowledged: match acknowledged {
                NOTHING_ACKNOWLEDGED => None,
                generation => Some(number("acknowledged", generation)?),
            },
            recoveries: number("recoveries", recoveries)?,
            last_seen_at: Timestamp::from_millis(last_seen_at),
            expires_at: Timestamp::from_millis(expires_at),
            idle_timeout: idle_timeout.map_err(|_| unreadable("idle_timeout"))?,
            revoked,
        },
        version: u64::try_from(version).map_err(|_| unreadable("version"))?,
    })
}

fn read_json<T: DeserializeOwned>(column: &'static str, json: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(json).map_err(|_| unreadable(column))
}

pub(super) fn session_id(bytes: &[u8]) -> Result<SessionId, sqlx::Error> {
    bytes.try_into().map(SessionId::from_bytes).map_err(|_| unreadable("id"))
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

pub(super) fn acknowledged(acknowledged: Option<u32>) -> i64 {
    acknowledged.map_or(NOTHING_ACKNOWLEDGED, i64::from)
}

pub(super) fn version(version: u64) -> Result<i64, sqlx::Error> {
    i64::try_from(version).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// The name of the reason in JSON.
pub(super) fn reason(reason: RevocationReason) -> String {
    serde_json::to_value(reason).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// An unknown reason, added by a later version, becomes `Other`: the session must stay revoked.
fn read_reason(name: Option<&str>) -> RevocationReason {
    name.and_then(|name| serde_json::from_value(name.into()).ok()).unwrap_or(RevocationReason::Other)
}

pub(super) fn feed_entry(item: &RevokedItem) -> NewFeedRow<'_> {
    match item {
        RevokedItem::Session(id) => (SESSION, id.as_bytes(), None, None, None),
        RevokedItem::Token(jti) => (TOKEN, jti.as_bytes(), None, None, None),
        RevokedItem::Users(users) => {
            let spared: Option<&[u8]> = match &users.spared {
                Spared::Nothing => None,
                Spared::Session(id) => Some(id.as_bytes()),
                Spared::Newest => Some(NEWEST),
            };
            (USERS, users.scope.as_bytes(), Some(users.cutoff), Some(users.revoked_at.as_millis()), spared)
        }
    }
}

/// In the column `spared`, instead of a session id.
const NEWEST: &[u8] = &[];

/// An unknown kind is an error: skipping the entry would skip a revocation.
pub(super) fn read_feed(row: FeedRow, now: Timestamp) -> Result<RevocationEntry, sqlx::Error> {
    let (_, written_at, kind, subject, cutoff, revoked_at, spared) = row;
    let text = |subject| String::from_utf8(subject).map(Box::from).map_err(|_| unreadable("subject"));
    let item = match kind {
        SESSION => RevokedItem::Session(session_id(&subject)?),
        TOKEN => RevokedItem::Token(text(subject)?),
        USERS => RevokedItem::Users(RevokedUsers {
            scope: text(subject)?,
            cutoff: cutoff.ok_or_else(|| unreadable("cutoff"))?,
            revoked_at: Timestamp::from_millis(revoked_at.ok_or_else(|| unreadable("revoked_at"))?),
            spared: match spared.as_deref() {
                None => Spared::Nothing,
                Some(NEWEST) => Spared::Newest,
                Some(id) => Spared::Session(session_id(id)?),
            },
        }),
        _ => return Err(unreadable("kind")),
    };
    Ok(RevocationEntry { item, age: now.since(Timestamp::from_millis(written_at)) })
}

/// Encodes ids as a JSON list.
pub(super) fn ids(ids: &[SessionId]) -> Result<String, sqlx::Error> {
    let mut sorted: Vec<_> = ids.iter().map(|id| hex(id.as_bytes())).collect();
    sorted.sort_unstable();
    json(&sorted)
}

/// Encodes a batch as JSON, with each session once and in the order of the ids.
pub(super) fn batch(batch: &[Activity]) -> Result<String, sqlx::Error> {
    let mut merged = BTreeMap::new();
    for Activity { id, last_seen_at, acknowledged: generation } in batch {
        let entry = merged.entry(*id.as_bytes()).or_insert((i64::MIN, NOTHING_ACKNOWLEDGED));
        entry.0 = entry.0.max(last_seen_at.as_millis());
        entry.1 = entry.1.max(acknowledged(*generation));
    }
    let list: Vec<_> =
        merged.into_iter().map(|(id, (last_seen_at, generation))| (hex(&id), last_seen_at, generation)).collect();
    json(&list)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
