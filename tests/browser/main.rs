//! The module for browsers in a browser: every scenario starts the real demo, a Chromium that nobody has used before, and
//! a proxy between them that loses, delays and counts.
//!
//! They want Chromium and chromedriver, so a plain `cargo test` leaves them out and `tests/run`, which installs both, runs
//! them: `cargo test --test browser -- --ignored`. Each prints a row: how many refreshes browsers sent, how many of them
//! rotated the refresh token, and how many honest users were logged out.

#![cfg(all(unix, feature = "client"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that finds something else than it expects has to stop"
)]

mod chromium;
#[path = "../contract/support.rs"]
#[allow(dead_code, reason = "the contract tests ask a demo more than a browser does")]
mod demo;
mod network;
mod origin;
mod page;
mod pages;
mod proxy;
mod scene;
mod tabs;
