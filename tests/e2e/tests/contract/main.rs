//! The HTTP contract, tested from outside: every test starts the demo (`examples/demo`) as a process and sends it HTTP
//! requests, with a cookie jar that follows the rules of browsers.
//!
//! Each test covers one behavior, and its name states it. Rules about time are tested here only where the response
//! matters. Those tests wait for seconds, so they need many test threads: `tests/run contract` sets
//! `--test-threads=16`.
//!
//! A comment like `Hole 7` marks a test for a defect that was reproduced in similar packages.
//!
//! `CONTRACT_STORE` selects the store. `DEMO_BIN` names a demo that is already built; without it the first test builds
//! one.

#![cfg(unix)]

mod access;
mod admin;
mod body;
mod client;
mod cookies;
mod feed;
mod hostile;
mod jwks;
mod login;
mod openapi;
mod origin;
mod races;
mod refresh;
mod sessions;
mod settings;
mod step_up;
