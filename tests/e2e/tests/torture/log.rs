//! What clients observed: every request, when it was sent, when its response arrived, and its content.

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Milliseconds since the start of the log.
pub(crate) type Millis = i64;

/// A refresh token, and the fields that are visible from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refresh {
    pub(crate) text: Arc<str>,
    pub(crate) session: Arc<str>,
    pub(crate) generation: u32,
    pub(crate) secret: Box<[u8]>,
}

impl Refresh {
    pub(crate) fn read(text: &str) -> Self {
        let bytes = URL_SAFE_NO_PAD.decode(text).expect("a refresh token is base64url");
        assert_eq!(bytes.len(), 70, "the length of a refresh token");
        Self {
            text: text.into(),
            session: URL_SAFE_NO_PAD.encode(&bytes[2..18]).into(),
            generation: u32::from_be_bytes(bytes[18..22].try_into().unwrap()),
            secret: bytes[22..54].into(),
        }
    }
}

/// An access token, and its claims.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Access {
    pub(crate) text: Arc<str>,
    pub(crate) session: Arc<str>,
    pub(crate) generation: u32,
    /// When it was issued and when it expires, on the clock of the log, if the clock of the node that issued it were
    /// right. In whole seconds, rounded down.
    pub(crate) issued: Millis,
    pub(crate) expires: Millis,
    /// By how much the clock of that node is ahead.
    pub(crate) clock: Millis,
}

impl Access {
    fn read(text: &str, began: i64, clock: Millis) -> Self {
        let payload = text.split('.').nth(1).expect("a JWT");
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        #[expect(clippy::cast_possible_truncation, reason = "current times fit")]
        let time = |name: &str| (claims[name].as_f64().unwrap() * 1000.0) as i64 - began - clock;
        Self {
            text: text.into(),
            session: claims["sid"].as_str().unwrap().into(),
            generation: claims["gen"].as_u64().unwrap().try_into().unwrap(),
            issued: time("iat"),
            expires: time("exp"),
            clock,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    Login,
    Refresh {
        token: Refresh,
        /// By a thief.
        thief: bool,
    },
    /// `GET /me` or `GET /stateless`.
    Use(Access),
    Logout(Refresh),
    /// Revokes another session of the user.
    End {
        session: Arc<str>,
        by: Access,
    },
    /// Revokes all sessions of the user of this client.
    EndUser {
        client: usize,
        user: &'static str,
        by: Access,
    },
    /// Revokes one access token of a session that stays live.
    RevokeToken {
        token: Access,
        by: Access,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) access: Option<Access>,
    pub(crate) refresh: Option<Refresh>,
    /// The `Max-Age` of the refresh cookie, in seconds.
    pub(crate) max_age: Option<i64>,
    /// How many sessions were revoked.
    pub(crate) revoked: Option<u64>,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exchange {
    pub(crate) client: usize,
    pub(crate) node: usize,
    /// Rounded down.
    pub(crate) start: Millis,
    /// Rounded up. When the response arrived, or when the client knew that there would be none.
    pub(crate) end: Millis,
    pub(crate) request: Request,
    /// `None` if the connection broke, or the client did not wait.
    pub(crate) answer: Option<Answer>,
}

impl Exchange {
    /// The response, if it granted the request.
    pub(crate) fn granted(&self) -> Option<&Answer> {
        self.answer.as_ref().filter(|answer| answer.is_success())
    }

    pub(crate) fn is(&self, status: u16) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.status == status)
    }
}

pub(crate) struct Log {
    instant: Instant,
    /// The start of the log, in Unix milliseconds.
    began: i64,
    exchanges: Mutex<Vec<Exchange>>,
}

impl Log {
    pub(crate) fn begin() -> Self {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap();
        Self { instant: Instant::now(), began, exchanges: Mutex::default() }
    }

    pub(crate) fn now(&self) -> Millis {
        self.instant.elapsed().as_millis().try_into().unwrap()
    }

    /// An access token that a node with this clock has issued.
    pub(crate) fn access(&self, text: &str, clock: Millis) -> Access {
        Access::read(text, self.began, clock)
    }

    pub(crate) fn add(&self, exchange: Exchange) {
        self.exchanges.lock().unwrap().push(exchange);
    }

    /// All exchanges so far, ordered by when they were sent.
    pub(crate) fn take(&self) -> Vec<Exchange> {
        let mut all = std::mem::take(&mut *self.exchanges.lock().unwrap());
        all.sort_by_key(|exchange| exchange.start);
        all
    }
}
