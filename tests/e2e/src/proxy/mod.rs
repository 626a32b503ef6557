//! Unreliable networks.

pub mod http;
pub mod tcp;
