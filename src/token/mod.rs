//! The two tokens and their keys: the access token, a JWT, and the refresh token, opaque to clients.

pub(crate) mod access;
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
pub(crate) mod asymmetric;
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
mod backend;
pub(crate) mod claims;
pub(crate) mod id;
#[cfg(any(feature = "verifier", all(fuzzing, feature = "signing")))]
pub(crate) mod jwks;
pub(crate) mod keys;
#[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
pub(crate) mod logout;
pub(crate) mod refresh;
pub(crate) mod ring;
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
pub(crate) mod signer;
mod weak;
