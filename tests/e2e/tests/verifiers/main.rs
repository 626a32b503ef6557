//! Services that verify the access tokens of the demo, without its secret and without its store: one of this crate while
//! everything around it fails, one that lives through a change of keys, and two of other languages. `tests/run verifiers`
#![cfg(unix)]

mod keys;
mod languages;
mod pair;
mod storm;

use std::path::PathBuf;

/// What verifiers show to the demo.
const TOKEN: &str = "Zk8vQ2mX7pL4tR9wB3nY6cD1fH5jK0sA";

/// A file with a private key.
fn key_file(name: &str) -> String {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/token/keys_for_tests"));
    folder.join(name).to_str().unwrap().to_owned()
}

/// A port that is free now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
