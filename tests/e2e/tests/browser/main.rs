//! The browser module in Chromium and in Firefox: every scenario starts the demo, a browser with an empty profile, and a
//! proxy between them that loses, delays and counts requests. The variable `BROWSER` (`chromium` or `firefox`) chooses.
//!
//! These tests need the browsers and chromedriver, so they are ignored by default. `tests/run browser` installs them and
//! runs the tests in both. Each prints a row: how many refreshes the browser sent, how many of them rotated the refresh
//! token, and how many honest users were logged out.

#![cfg(unix)]

mod browser;
mod chromium;
mod firefox;
mod frames;
mod network;
mod origin;
mod page;
mod pages;
mod scene;
mod step_up;
mod streams;
mod tabs;
