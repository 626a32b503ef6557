//! The properties (`tests/properties`) on the store that `PROPERTIES_STORE` selects: `sqlite`, `postgres`, `mysql`,
//! `redis` or `memory`.

axum_refresh_properties::suite!(|| axum_refresh_e2e::stores::fresh_blocking("PROPERTIES_STORE"));
