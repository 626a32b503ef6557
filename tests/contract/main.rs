//! The HTTP contract, seen from outside: every test starts the real demo (`examples/demo`) in a process of its own
//! and talks to it over real HTTP, with a cookie jar that keeps cookies as a browser does.
//!
//! One behaviour is one test, and the test's name says which. Rules of time are tested here only where the answer on
//! the wire is the point; those tests wait for seconds, so they gain from many test threads
//! (`cargo test --test contract -- --test-threads=16`).
//!
//! A comment like `Hole 7` marks a test against a failure that was found in packages of the same purpose, where it
//! could be reproduced; the test's name says what must not happen here.
//!
//! `DEMO_BIN` names a demo that is built already; without it the demo is built once per test process.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that finds something else than it expects has to stop"
)]

mod access;
mod admin;
mod body;
mod client;
mod cookies;
mod hostile;
mod login;
mod origin;
mod races;
mod refresh;
mod sessions;
mod settings;
mod support;
