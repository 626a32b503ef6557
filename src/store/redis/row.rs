//! A session as a hash in Redis, and back. Fields that are not known here are left alone.

use redis::{ScriptInvocation, Value};

use super::unreadable;
use crate::session::{Chain, Client, Revocation, SecretHash, Session, SessionId, Timestamp};
use crate::store::StoreError;

/// What stands in the field `v` of every row, and in `ending.lua`.
const FORMAT: &str = "1";
/// The characters of a session id.
pub(super) const ID_LENGTH: usize = 22;
/// No acknowledged generation: less than all of them.
const NOTHING_ACKNOWLEDGED: i64 = -1;

/// All fields of a new row, names and values in turn. Taken apart by name, so that a new field cannot be forgotten.
pub(super) fn fields(session: &Session) -> Result<Vec<Vec<u8>>, StoreError> {
    let Session { id: _, user, secret_hash, created_at, client, claims, chain, version } = session;
    let Chain { generation, parent, rotated_at, acknowledged: seen, recoveries, last_seen_at, expires_at, revoked } =
        chain;
    let mut fields: Vec<Vec<u8>> = Vec::with_capacity(32);
    let mut field = |name: &str, value: &[u8]| fields.extend([name.into(), value.into()]);
    field("v", FORMAT.as_bytes());
    field("user", user.as_bytes());
    field("secret", secret_hash.as_bytes());
    field("created", created_at.as_millis().to_string().as_bytes());
    field("client", &serde_json::to_vec(client).map_err(StoreError::new)?);
    field("expires", expires_at.as_millis().to_string().as_bytes());
    field("claims", claims.as_bytes());
    field("generation", generation.to_string().as_bytes());
    field("parent", optional(*parent).as_bytes());
    field("rotated", optional(rotated_at.map(Timestamp::as_millis)).as_bytes());
    field("recoveries", recoveries.to_string().as_bytes());
    field("seen", last_seen_at.as_millis().to_string().as_bytes());
    field("ack", acknowledged(*seen).to_string().as_bytes());
    field("version", version.to_string().as_bytes());
    if let Some(revoked) = revoked {
        field("revoked", revocation(revoked)?.as_bytes());
    }
    Ok(fields)
}

/// What a swap moves, as the arguments of its script.
pub(super) fn write_moving(session: &Session, script: &mut ScriptInvocation<'_>) {
    let Chain {
        generation,
        parent,
        rotated_at,
        acknowledged: seen,
        recoveries,
        last_seen_at,
        expires_at: _,
        revoked: _,
    } = session.chain;
    script.arg(generation).arg(optional(parent)).arg(optional(rotated_at.map(Timestamp::as_millis))).arg(recoveries);
    script.arg(&*session.claims).arg(last_seen_at.as_millis()).arg(acknowledged(seen));
}

pub(super) fn revocation(revocation: &Revocation) -> Result<String, StoreError> {
    serde_json::to_string(revocation).map_err(StoreError::new)
}

pub(super) fn acknowledged(generation: Option<u32>) -> i64 {
    generation.map_or(NOTHING_ACKNOWLEDGED, i64::from)
}

fn optional(number: Option<impl ToString>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// The session that a row holds; none where there is no row.
pub(super) fn session(id: SessionId, row: Value) -> Result<Option<Session>, StoreError> {
    let fields = Fields::read(row).ok_or_else(|| unreadable("a session"))?;
    if fields.is_empty {
        return Ok(None);
    }
    fields.session(id).map(Some).ok_or_else(|| unreadable("a session"))
}

/// The sessions of a list: ids and rows in turn.
pub(super) fn sessions(values: Vec<Value>) -> Result<Vec<Session>, StoreError> {
    let mut sessions = Vec::with_capacity(values.len() / 2);
    let mut values = values.into_iter();
    while let (Some(id), Some(row)) = (values.next(), values.next()) {
        let id: String = redis::from_redis_value(id).map_err(StoreError::new)?;
        sessions.extend(session(id.parse().map_err(StoreError::new)?, row)?);
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
    expires: Option<Vec<u8>>,
    claims: Option<Vec<u8>>,
    generation: Option<Vec<u8>>,
    parent: Option<Vec<u8>>,
    rotated: Option<Vec<u8>>,
    recoveries: Option<Vec<u8>>,
    seen: Option<Vec<u8>>,
    ack: Option<Vec<u8>>,
    version: Option<Vec<u8>>,
    revoked: Option<Vec<u8>>,
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
                b"expires" => &mut fields.expires,
                b"claims" => &mut fields.claims,
                b"generation" => &mut fields.generation,
                b"parent" => &mut fields.parent,
                b"rotated" => &mut fields.rotated,
                b"recoveries" => &mut fields.recoveries,
                b"seen" => &mut fields.seen,
                b"ack" => &mut fields.ack,
                b"version" => &mut fields.version,
                b"revoked" => &mut fields.revoked,
                _ => continue,
            };
            *field = Some(value);
        }
        Some(fields)
    }

    /// None where anything is missing, or is not what this version writes.
    fn session(self, id: SessionId) -> Option<Session> {
        if self.v? != FORMAT.as_bytes() {
            return None;
        }
        let time = |field| number(field).map(Timestamp::from_millis);
        let acknowledged = match number(self.ack?)? {
            NOTHING_ACKNOWLEDGED => None,
            generation => Some(u32::try_from(generation).ok()?),
        };
        let chain = Chain {
            generation: number(self.generation?)?,
            parent: maybe(self.parent?)?,
            rotated_at: maybe(self.rotated?)?.map(Timestamp::from_millis),
            acknowledged,
            recoveries: number(self.recoveries?)?,
            last_seen_at: time(self.seen?)?,
            expires_at: time(self.expires?)?,
            revoked: match self.revoked {
                None => None,
                Some(json) => Some(serde_json::from_slice(&json).ok()?),
            },
        };
        Some(Session {
            id,
            user: String::from_utf8(self.user?).ok()?.into(),
            secret_hash: SecretHash::from_bytes(self.secret?.try_into().ok()?),
            created_at: time(self.created?)?,
            client: serde_json::from_slice::<Client>(&self.client?).ok()?,
            claims: String::from_utf8(self.claims?).ok()?.into(),
            chain,
            version: number(self.version?)?,
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "every field is read once")]
fn number<T: std::str::FromStr>(field: Vec<u8>) -> Option<T> {
    std::str::from_utf8(&field).ok()?.parse().ok()
}

/// A number that may be missing: an empty text.
fn maybe<T: std::str::FromStr>(field: Vec<u8>) -> Option<Option<T>> {
    if field.is_empty() { Some(None) } else { number(field).map(Some) }
}
