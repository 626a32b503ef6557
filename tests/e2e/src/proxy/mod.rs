//! Networks that misbehave on request.

pub mod http;
pub mod tcp;
