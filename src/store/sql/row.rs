//! A session as a row, whatever the database. What is queried or changed in place has a column of its own; the rest is
//! JSON, so that a new field needs no migration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::session::{Chain, Client, Reason, Revocation, SecretHash, Session, SessionId, Timestamp};
use crate::store::{Ended, Revoked, Seen};

/// The columns of a session, in the order in which every statement names them.
pub(super) type SessionRow = (
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    i64,
    i64,
    String,
    String,
    String,
    i64,
    i64,
    Option<i64>,
    Option<i64>,
    Option<String>,
    i64,
);

/// Of a session that is to be ended: id, created_at, place, last_seen_at, expires_at, revoked_at.
pub(super) type LockedRow = (Vec<u8>, i64, i64, i64, i64, Option<i64>);

/// Of the feed: place, until, kind, what.
pub(super) type FeedRow = (i64, i64, i64, Vec<u8>);

/// The part of a [`Chain`] that only a swap changes.
#[derive(Serialize, Deserialize)]
struct Moving {
    generation: u32,
    parent: Option<u32>,
    rotated_at: Option<Timestamp>,
    recoveries: u32,
}

/// No generation was acknowledged: less than all of them, so that the larger one always counts.
const NONE: i64 = -1;

const SESSION: i64 = 1;
const TOKEN: i64 = 2;

/// What does not fit its column, or a row that somebody else wrote and we cannot read. It never passes for a session that
/// does not exist.
fn unreadable(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(format!("axum_refresh_sessions.{what} is not what this version writes").into())
}

pub(super) fn read(row: SessionRow) -> Result<Session, sqlx::Error> {
    let (
        id,
        user,
        secret_hash,
        created_at,
        expires_at,
        client,
        claims,
        chain,
        seen,
        generation,
        at,
        until,
        why,
        version,
    ) = row;
    let moving: Moving = serde_json::from_str(&chain).map_err(|_| unreadable("chain"))?;
    let client: Client = serde_json::from_str(&client).map_err(|_| unreadable("client"))?;
    let revoked = at.map(|at| Revocation {
        at: Timestamp::from_millis(at),
        until: Timestamp::from_millis(until.unwrap_or(at)),
        reason: read_reason(why.as_deref()),
    });
    Ok(Session {
        id: session_id(&id)?,
        user: String::from_utf8(user).map_err(|_| unreadable("user_id"))?.into(),
        secret_hash: SecretHash::from_bytes(secret_hash.try_into().map_err(|_| unreadable("secret_hash"))?),
        created_at: Timestamp::from_millis(created_at),
        client,
        claims: claims.into(),
        chain: Chain {
            generation: moving.generation,
            parent: moving.parent,
            rotated_at: moving.rotated_at,
            acknowledged: match generation {
                NONE => None,
                generation => Some(u32::try_from(generation).map_err(|_| unreadable("acknowledged"))?),
            },
            recoveries: moving.recoveries,
            last_seen_at: Timestamp::from_millis(seen),
            expires_at: Timestamp::from_millis(expires_at),
            revoked,
        },
        version: u64::try_from(version).map_err(|_| unreadable("version"))?,
    })
}

pub(super) fn session_id(bytes: &[u8]) -> Result<SessionId, sqlx::Error> {
    bytes.try_into().map(SessionId::from_bytes).map_err(|_| unreadable("id"))
}

pub(super) fn client(session: &Session) -> Result<String, sqlx::Error> {
    serde_json::to_string(&session.client).map_err(|error| sqlx::Error::Encode(error.into()))
}

pub(super) fn chain(session: &Session) -> Result<String, sqlx::Error> {
    let Chain { generation, parent, rotated_at, recoveries, .. } = session.chain;
    let moving = Moving { generation, parent, rotated_at, recoveries };
    serde_json::to_string(&moving).map_err(|error| sqlx::Error::Encode(error.into()))
}

pub(super) fn acknowledged(acknowledged: Option<u32>) -> i64 {
    acknowledged.map_or(NONE, i64::from)
}

pub(super) fn version(version: u64) -> Result<i64, sqlx::Error> {
    i64::try_from(version).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// The name that JSON has for it.
pub(super) fn reason(reason: Reason) -> String {
    serde_json::to_value(reason).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A reason that a later version has added is a reason all the same: what is revoked stays so.
fn read_reason(name: Option<&str>) -> Reason {
    name.and_then(|name| serde_json::from_value(name.into()).ok()).unwrap_or(Reason::Other)
}

/// What the feed says of it: kind and what.
pub(super) fn feed_entry(ended: &Ended) -> (i64, &[u8]) {
    match ended {
        Ended::Session(id) => (SESSION, id.as_bytes()),
        Ended::Token(jti) => (TOKEN, jti.as_bytes()),
    }
}

/// An entry of a kind that is not known has to be an error: it says that something has ended.
pub(super) fn read_feed((_, until, kind, what): FeedRow) -> Result<Revoked, sqlx::Error> {
    let what = match kind {
        SESSION => Ended::Session(session_id(&what)?),
        TOKEN => Ended::Token(String::from_utf8(what).map_err(|_| unreadable("what"))?.into()),
        _ => return Err(unreadable("kind")),
    };
    Ok(Revoked { what, until: Timestamp::from_millis(until) })
}

/// A batch as JSON, each session once and in the order of their ids.
pub(super) fn batch(seen: &[Seen]) -> Result<String, sqlx::Error> {
    let mut merged = BTreeMap::new();
    for Seen { id, last_seen_at, acknowledged: generation } in seen {
        let entry = merged.entry(*id.as_bytes()).or_insert((i64::MIN, NONE));
        entry.0 = entry.0.max(last_seen_at.as_millis());
        entry.1 = entry.1.max(acknowledged(*generation));
    }
    let list: Vec<_> = merged.into_iter().map(|(id, (at, generation))| (hex(&id), at, generation)).collect();
    serde_json::to_string(&list).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
