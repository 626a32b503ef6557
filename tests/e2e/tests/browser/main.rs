//! The browser module in Chromium: every scenario starts the demo, a Chromium with an empty profile, and a proxy between
//! them that loses, delays and counts requests.
//!
//! These tests need Chromium and chromedriver, so they are ignored by default. `tests/run browser` installs both and runs
//! them. Each prints a row: how many refreshes the browser sent, how many of them rotated the refresh token, and how many
//! honest users were logged out.

#![cfg(unix)]

mod chromium;
mod network;
mod origin;
mod page;
mod pages;
mod scene;
mod tabs;
