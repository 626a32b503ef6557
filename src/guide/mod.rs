//! Guides.

#[doc = include_str!("ratchet.md")]
pub mod ratchet {}

#[doc = include_str!("http.md")]
pub mod http {}

#[doc = include_str!("authentication.md")]
pub mod authentication {}

#[doc = include_str!("settings.md")]
pub mod settings {}

#[doc = include_str!("stores.md")]
pub mod stores {}

#[doc = include_str!("recipes.md")]
pub mod recipes {}

#[doc = include_str!("services.md")]
pub mod services {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("production.md")]
pub mod production {}

#[doc = include_str!("observability.md")]
pub mod observability {}

/// What the layers and a refresh cost, how that was measured, and how to measure it on your own machine.
///
/// <div>
#[doc = include_str!("performance.svg")]
/// </div>
#[doc = ""]
#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("security.md")]
pub mod security {}
