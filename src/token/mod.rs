//! The two tokens and the keys behind them: the refresh token, opaque to the client, and the access token, a JWT.

pub(crate) mod access;
#[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
pub(crate) mod asymmetric;
pub(crate) mod keys;
pub(crate) mod refresh;
