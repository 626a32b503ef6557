//! Guides.

#[doc = include_str!("docs/http.md")]
pub mod http {}

#[doc = include_str!("docs/ratchet.md")]
pub mod ratchet {}

#[doc = include_str!("docs/security.md")]
pub mod security {}

#[doc = include_str!("docs/stores.md")]
pub mod stores {}
