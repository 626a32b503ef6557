//! The cryptography provider of rustls.

use rustls::crypto::{CryptoProvider, ring};

/// Installs ring as the process's provider, unless the app has installed one before it connects. Without a provider,
/// the driver panics if the build contains several.
pub(super) fn install_provider() {
    if CryptoProvider::get_default().is_none() {
        // Fails if another thread has installed one meanwhile, which is fine too.
        let _ = ring::default_provider().install_default();
    }
}
