//! Guides.

#[doc = include_str!("docs/http.md")]
pub mod http {}
