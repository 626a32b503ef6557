//! Which header names the client behind reverse proxies.

use serde::{Deserialize, Serialize};

use super::SettingsError;

/// The header in which the reverse proxies name the client. The other one is never read, so a client cannot choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, a list of addresses.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239), a list of elements such as `for="[2001:db8::1]:4711";proto=https`. Only `for` is read.
    Forwarded,
}

impl ForwardedHeader {
    /// The name of the header.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "X-Forwarded-For",
            Self::Forwarded => "Forwarded",
        }
    }
}

impl std::str::FromStr for ForwardedHeader {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "x_forwarded_for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            _ => Err(SettingsError::new(
                "forwarded_header",
                format!("unknown header {text:?}; use x_forwarded_for or forwarded"),
            )),
        }
    }
}
