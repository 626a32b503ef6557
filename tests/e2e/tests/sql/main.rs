//! The SQL stores on real servers. `tests/run sql` starts the servers; a URL in the environment selects a different one.

#[macro_use]
mod common;
mod mysql;
mod pgbouncer;
mod postgres;
mod sqlite;
