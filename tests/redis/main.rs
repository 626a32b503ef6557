//! The Redis store, on a real server: the one at `TEST_REDIS_URL`, and where it has to be stopped, one of its own.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[cfg(feature = "redis-cluster")]
mod cluster;
mod failures;
mod push;
mod rows;
mod server;

mod contract {
    axum_refresh::store_conformance!(super::server::store());
}
