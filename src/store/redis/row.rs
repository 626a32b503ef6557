//! Encodes a session as a Redis hash and decodes it. Unknown fields are kept.

use std::time::Duration;

use redis::{ScriptInvocation, Value};
use serde::Serialize;

use super::unreadable;
use crate::ratchet::RotationState;
use crate::session::{ExternalId, Revocation, SecretHash, SessionId};
use crate::store::encoding::Login;
use crate::store::{SessionRecord, StoreError};
use crate::time::{Timestamp, millis};

/// The field `v` of every row. `scripts/common.lua` checks it too.
const FORMAT: &str = "1";
/// The length of a session id as text.
pub(super) const ID_LENGTH: usize = 22;
/// Encodes `None`: less than every generation, so that the maximum works.
const NOTHING_ACKNOWLEDGED: i64 = -1;

/// All fields of a new row, names and values alternating. The patterns name all fields, so that a new one cannot be
/// forgotten.
pub(super) fn fields(session: &SessionRecord) -> Result<Vec<Vec<u8>>, StoreError> {
    let SessionRecord {
        id: _,
        user_id,
        secret_hash,
        created_at,
        client,
        authentication: _,
        persistent: _,
        transport: _,
        can_refresh: _,
        external,
        last_client,
        claims,
        rotation,
        version,
    } = session;
    let RotationState {
        generation,
        parent,
        rotated_at,
        acknowledged: acknowledged_generation,
        recoveries,
        last_seen_at,
        expires_at,
        idle_timeout,
        revoked,
    } = rotation;
    let mut fields: Vec<Vec<u8>> = Vec::with_capacity(40);
    let mut field = |name: &str, value: &[u8]| fields.extend([name.into(), value.into()]);
    field("v", FORMAT.as_bytes());
    field("user", user_id.as_bytes());
    field("secret", secret_hash.as_bytes());
    field("created", created_at.as_millis().to_string().as_bytes());
    field("client", json(client)?.as_bytes());
    field("login", json(&Login::of(session))?.as_bytes());
    if !session.is_limited() {
        field("acting", b"1");
    }
    if let Some(external) = external {
        field("external", external.as_bytes());
    }
    field("expires", expires_at.as_millis().to_string().as_bytes());
    if let Some(idle_timeout) = idle_timeout {
        field("idle", millis(*idle_timeout).to_string().as_bytes());
    }
    field("claims", claims.as_bytes());
    if let Some(last_client) = last_client {
        field("last", json(last_client)?.as_bytes());
    }
    field("generation", generation.to_string().as_bytes());
    field("parent", optional(*parent).as_bytes());
    field("rotated", optional(rotated_at.map(Timestamp::as_millis)).as_bytes());
    field("recoveries", recoveries.to_string().as_bytes());
    field("seen", last_seen_at.as_millis().to_string().as_bytes());
    field("ack", acknowledged(*acknowledged_generation).to_string().as_bytes());
    field("version", version.to_string().as_bytes());
    if let Some(revoked) = revoked {
        field("revoked", revocation(revoked)?.as_bytes());
    }
    Ok(fields)
}

/// Adds the fields that a compare-and-swap changes to the arguments of its script.
pub(super) fn add_changing_fields(
    session: &SessionRecord,
    script: &mut ScriptInvocation<'_>,
) -> Result<(), StoreError> {
    let RotationState {
        generation,
        parent,
        rotated_at,
        acknowledged: acknowledged_generation,
        recoveries,
        last_seen_at,
        expires_at: _,
        idle_timeout: _,
        revoked: _,
    } = session.rotation;
    script.arg(generation).arg(optional(parent)).arg(optional(rotated_at.map(Timestamp::as_millis))).arg(recoveries);
    script.arg(&*session.claims).arg(last_seen_at.as_millis()).arg(acknowledged(acknowledged_generation));
    script.arg(session.last_client.as_ref().map(json).transpose()?.unwrap_or_default());
    Ok(())
}

pub(super) fn revocation(revocation: &Revocation) -> Result<String, StoreError> {
    json(revocation)
}

fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::new)
}

pub(super) fn acknowledged(generation: Option<u32>) -> i64 {
    generation.map_or(NOTHING_ACKNOWLEDGED, i64::from)
}

/// Encodes an optional number; `None` is an empty string.
fn optional(number: Option<impl ToString>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// Decodes a row; `None` if it does not exist. It is revoked if one of the cutoffs, of its user and of everyone, has risen
/// since it was inserted.
pub(super) fn session(
    id: SessionId,
    row: Value,
    cutoffs: [Option<Vec<u8>>; 2],
) -> Result<Option<SessionRecord>, StoreError> {
    let fields = Fields::read(row).ok_or_else(|| unreadable("a session"))?;
    if fields.is_empty {
        return Ok(None);
    }
    let as_of_insert = [fields.uc.clone(), fields.ec.clone()];
    let mut session = fields.session(id).ok_or_else(|| unreadable("a session"))?;
    for (cutoff, as_of_insert) in cutoffs.into_iter().zip(as_of_insert) {
        if session.rotation.revoked.is_none()
            && let Some(cutoff) = cutoff
        {
            session.rotation.revoked = revoked_by(&cutoff, as_of_insert).ok_or_else(|| unreadable("a cutoff"))?;
        }
    }
    Ok(Some(session))
}

/// The revocation of a cutoff, `CUTOFF:JSON`, if it has risen since the insert.
#[expect(clippy::option_option, reason = "the outer one is for a cutoff that cannot be decoded")]
fn revoked_by(cutoff: &[u8], as_of_insert: Option<Vec<u8>>) -> Option<Option<Revocation>> {
    let (cutoff, json) = std::str::from_utf8(cutoff).ok()?.split_once(':')?;
    let as_of_insert: i64 = as_of_insert.map_or(Some(0), number)?;
    if as_of_insert < cutoff.parse().ok()? { serde_json::from_str(json).ok().map(Some) } else { Some(None) }
}

/// Decodes a list of ids and rows, alternating.
pub(super) fn sessions(values: Vec<Value>) -> Result<Vec<SessionRecord>, StoreError> {
    let mut sessions = Vec::with_capacity(values.len() / 2);
    let mut values = values.into_iter();
    while let (Some(id), Some(row)) = (values.next(), values.next()) {
        let id: String = redis::from_redis_value(id).map_err(StoreError::new)?;
        sessions.extend(session(id.parse().map_err(StoreError::new)?, row, [None, None])?);
    }
    Ok(sessions)
}

#[derive(Default)]
struct Fields {
    is_empty: bool,
    v: Option<Vec<u8>>,
    user: Option<Vec<u8>>,
    secret: Option<Vec<u8>>,
    created: Option<Vec<u8>>,
    client: Option<Vec<u8>>,
    login: Option<Vec<u8>>,
    external: Option<Vec<u8>>,
    expires: Option<Vec<u8>>,
    idle: Option<Vec<u8>>,
    claims: Option<Vec<u8>>,
    last: Option<Vec<u8>>,
    generation: Option<Vec<u8>>,
    parent: Option<Vec<u8>>,
    rotated: Option<Vec<u8>>,
    recoveries: Option<Vec<u8>>,
    seen: Option<Vec<u8>>,
    ack: Option<Vec<u8>>,
    version: Option<Vec<u8>>,
    revoked: Option<Vec<u8>>,
    uc: Option<Vec<u8>>,
    ec: Option<Vec<u8>>,
}

impl Fields {
    fn read(row: Value) -> Option<Self> {
        let mut fields = Self { is_empty: true, ..Self::default() };
        for (name, value) in row.into_map_iter().ok()? {
            fields.is_empty = false;
            let (Value::BulkString(name), Value::BulkString(value)) = (name, value) else { return None };
            let field = match name.as_slice() {
                b"v" => &mut fields.v,
                b"user" => &mut fields.user,
                b"secret" => &mut fields.secret,
                b"created" => &mut fields.created,
                b"client" => &mut fields.client,
                b"login" => &mut fields.login,
                b"external" => &mut fields.external,
                b"expires" => &mut fields.expires,
                b"idle" => &mut fields.idle,
                b"claims" => &mut fields.claims,
                b"last" => &mut fields.last,
                b"generation" => &mut fields.generation,
                b"parent" => &mut fields.parent,
                b"rotated" => &mut fields.rotated,
                b"recoveries" => &mut fields.recoveries,
                b"seen" => &mut fields.seen,
                b"ack" => &mut fields.ack,
                b"version" => &mut fields.version,
                b"revoked" => &mut fields.revoked,
                b"uc" => &mut fields.uc,
                b"ec" => &mut fields.ec,
                _ => continue,
            };
            *field = Some(value);
        }
        Some(fields)
    }

    /// Returns `None` if a field is missing or has a value that this version does not write.
    fn session(self, id: SessionId) -> Option<SessionRecord> {
        if self.v? != FORMAT.as_bytes() {
            return None;
        }
        let time = |field| number(field).map(Timestamp::from_millis);
        let acknowledged = match number(self.ack?)? {
            NOTHING_ACKNOWLEDGED => None,
            generation => Some(u32::try_from(generation).ok()?),
        };
        let rotation = RotationState {
            generation: number(self.generation?)?,
            parent: optional_number(self.parent?)?,
            rotated_at: optional_number(self.rotated?)?.map(Timestamp::from_millis),
            acknowledged,
            recoveries: number(self.recoveries?)?,
            last_seen_at: time(self.seen?)?,
            expires_at: time(self.expires?)?,
            idle_timeout: match self.idle {
                None => None,
                Some(millis) => Some(Duration::from_millis(number(millis)?)),
            },
            revoked: match self.revoked {
                None => None,
                Some(json) => Some(serde_json::from_slice(&json).ok()?),
            },
        };
        let Login { authentication, persistent, transport, without_refresh } =
            serde_json::from_slice(&self.login?).ok()?;
        Some(SessionRecord {
            id,
            user_id: String::from_utf8(self.user?).ok()?.into(),
            secret_hash: SecretHash::from_bytes(self.secret?.try_into().ok()?),
            created_at: time(self.created?)?,
            client: serde_json::from_slice(&self.client?).ok()?,
            authentication: authentication.into_owned(),
            persistent,
            transport,
            can_refresh: !without_refresh,
            external: match self.external {
                None => None,
                Some(hash) => Some(ExternalId::from_bytes(hash.try_into().ok()?)),
            },
            last_client: match self.last {
                None => None,
                Some(json) => Some(serde_json::from_slice(&json).ok()?),
            },
            claims: String::from_utf8(self.claims?).ok()?.into(),
            rotation,
            version: number(self.version?)?,
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "every field is read once")]
fn number<T: std::str::FromStr>(field: Vec<u8>) -> Option<T> {
    std::str::from_utf8(&field).ok()?.parse().ok()
}

/// Decodes an optional number; an empty string is `None`.
fn optional_number<T: std::str::FromStr>(field: Vec<u8>) -> Option<Option<T>> {
    if field.is_empty() { Some(None) } else { number(field).map(Some) }
}
