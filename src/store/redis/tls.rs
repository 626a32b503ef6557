//! What rustls needs to be told before its first connection.

use rustls::crypto::{CryptoProvider, ring};

/// The driver takes the cryptography that is set for the process, and panics where there is none and more than one
/// could be meant. An app that sets its own does so before it connects.
pub(super) fn provide() {
    if CryptoProvider::get_default().is_none() {
        // Somebody may have been faster.
        let _ = ring::default_provider().install_default();
    }
}
