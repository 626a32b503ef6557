//! The SQL stores on real servers. `tests/run sql` starts the servers; a URL in the environment selects a different one.

#[macro_use]
mod common;
mod mysql;
mod postgres;
mod sqlite;
