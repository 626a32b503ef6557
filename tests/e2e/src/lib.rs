//! Shared by the end-to-end tests: the examples as processes, a browser with a cookie jar, servers for the stores, and
//! proxies that lose and delay messages.
//!
//! `tests/run` runs the tests; `tests/e2e/README.md` lists them.
#![cfg(unix)]

pub mod app;
pub mod demo;
pub mod example;
pub mod fill;
pub mod nginx;
pub mod proxy;
pub mod server;
pub mod stores;
