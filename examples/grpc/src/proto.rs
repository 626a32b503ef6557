//! The service as clients see it. As a `.proto` file:
//!
//! ```proto
//! syntax = "proto3";
//! package notes;
//!
//! message Note { string text = 1; }
//! message Added { uint64 count = 1; }
//! message ListRequest {}
//!
//! service Notes {
//!     rpc Add(Note) returns (Added);
//!     rpc List(ListRequest) returns (stream Note);
//! }
//! ```

/// A note of the user who calls.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Note {
    /// What the user has written.
    #[prost(string, tag = "1")]
    pub text: String,
}

/// The response of `Add`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Added {
    /// How many notes the user has now.
    #[prost(uint64, tag = "1")]
    pub count: u64,
}

/// Asks for all notes of the user who calls.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ListRequest {}

/// The client and the server that tonic has generated.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/notes.Notes.rs"));
}
pub use generated::notes_client::NotesClient;
pub use generated::notes_server::{Notes, NotesServer};
