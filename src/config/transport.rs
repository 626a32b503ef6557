//! How refresh tokens are transported.

use serde::{Deserialize, Serialize};

/// How refresh tokens are transported between client and server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// In a cookie that scripts cannot read: for browsers.
    #[default]
    Cookie,
    /// In the JSON bodies of requests and responses: for native clients, which keep the token in the system's key
    /// store.
    Body,
    /// In a cookie or in JSON bodies; the response uses the transport of the request. If a request has both, only the
    /// cookie counts.
    Both,
}

impl Transport {
    pub(crate) const fn has_cookie(self) -> bool {
        matches!(self, Self::Cookie | Self::Both)
    }

    pub(crate) const fn has_body(self) -> bool {
        matches!(self, Self::Body | Self::Both)
    }
}
