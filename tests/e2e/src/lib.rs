//! Shared by the end-to-end tests: the examples as processes, a browser with a cookie jar, servers for the stores, and
//! proxies that lose and delay messages.
//!
//! `tests/run` runs the tests; `tests/e2e/README.md` lists them.
#![cfg(unix)]

pub mod app;
pub mod demo;
pub mod document;
pub mod example;
pub mod exporter;
pub mod fill;
pub mod nginx;
pub mod proxy;
pub mod server;
pub mod stores;

/// The resident memory of this process, in bytes.
pub fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}
