//! Reads the settings from environment variables. An invalid value is an error of one line.

use std::fmt::Display;
use std::str::FromStr;

use axum_refresh::{Auth, MemoryStore, Secret, Settings};

pub(crate) struct Config {
    pub(crate) port: u16,
    pub(crate) auth: Auth,
}

impl Config {
    pub(crate) fn from_env() -> Result<Self, String> {
        let mut settings = Settings { login_page: Some("/login".to_owned()), ..Settings::for_pages() };
        let policy = &mut settings.policy;
        for (name, setting) in [
            ("ACCESS_TTL", &mut policy.access_ttl),
            ("GRACE", &mut policy.grace),
            ("IDLE_TIMEOUT", &mut policy.idle_timeout),
            ("MAX_LIFETIME", &mut policy.lifetime),
        ] {
            if let Some(duration) = parse::<humantime::Duration>(name)? {
                *setting = duration.into();
            }
        }
        let secret = variable("AUTH_SECRET")?.map(Secret::new);
        let is_random = secret.is_none();
        let secret = match secret {
            Some(secret) => secret,
            None => Secret::random().map_err(|error| error.to_string())?,
        };
        let port = parse("PORT")?.unwrap_or(3000);
        let auth =
            Auth::builder(secret, MemoryStore::new()).settings(settings).build().map_err(|error| error.to_string())?;
        if is_random {
            eprintln!("warning: AUTH_SECRET is not set; using a random secret, so a restart logs everybody out");
        }
        Ok(Self { port, auth })
    }
}

/// The value of an environment variable. An empty one counts as not set.
fn variable(name: &str) -> Result<Option<String>, String> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("{name}: the value is not UTF-8")),
    }
}

fn parse<T: FromStr<Err: Display>>(name: &str) -> Result<Option<T>, String> {
    let parse = |text: String| text.parse().map_err(|error| format!("{name}: {text:?}: {error}"));
    variable(name)?.map(parse).transpose()
}
