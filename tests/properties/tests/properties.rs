//! The properties on the memory store.

use std::sync::Arc;

axum_refresh_properties::suite!(|| Arc::new(axum_refresh::MemoryStore::new()));
