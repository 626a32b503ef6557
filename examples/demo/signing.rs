//! Reads the private key that `SIGNING_KEY` names, and mounts the route with its public key.

use axum::Router;
use axum_refresh::config::SettingsError;
use axum_refresh::{Auth, AuthBuilder};

use super::{Claims, config};

/// Signs access tokens with the key in the PEM file, if one is named. Returns whether it is.
pub(crate) fn sign(builder: AuthBuilder<Claims>) -> Result<(AuthBuilder<Claims>, bool), String> {
    let Some(path) = config::variable("SIGNING_KEY")? else { return Ok((builder, false)) };
    Ok((with_key(builder, &path)?, true))
}

#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
fn with_key(builder: AuthBuilder<Claims>, path: &str) -> Result<AuthBuilder<Claims>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("SIGNING_KEY: {path:?}: {error}"))?;
    let key = axum_refresh::keys::SigningKey::from_pem(&pem);
    let key = key.map_err(|error| format!("SIGNING_KEY: {path:?}: {error}"))?;
    // Other services tell realms apart by the audience.
    let with_audience = |settings: &mut axum_refresh::Settings| {
        if let Some(realm) = &settings.realm {
            settings.audience = format!("{}/{realm}", settings.audience);
        }
    };
    Ok(builder.signing_key(key).configure(with_audience))
}

#[cfg(not(any(feature = "aws_lc_rs", feature = "signing")))]
fn with_key(_: AuthBuilder<Claims>, _: &str) -> Result<AuthBuilder<Claims>, String> {
    Err("SIGNING_KEY: this build has no feature `signing`; run the demo with `--features signing`".to_owned())
}

/// `/.well-known/jwks.json`.
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
pub(crate) fn router(auth: &Auth<Claims>) -> Result<Router<Auth<Claims>>, SettingsError> {
    auth.jwks_router()
}

#[cfg(not(any(feature = "aws_lc_rs", feature = "signing")))]
pub(crate) fn router(_: &Auth<Claims>) -> Result<Router<Auth<Claims>>, SettingsError> {
    Ok(Router::new())
}
