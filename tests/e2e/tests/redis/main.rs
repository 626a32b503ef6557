//! The Redis store on the server at `TEST_REDIS_URL`, and on servers of its own for tests that stop the server.

mod cluster;
mod failures;
mod push;
mod rows;
mod server;

mod contract {
    axum_refresh::store_conformance!(super::server::store());
}
