//! The settings, from the environment. What makes no sense is one clear line.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum_refresh::{Auth, MemoryStore, NoClaims, Secret, Settings};

pub(crate) struct Config {
    pub(crate) port: u16,
    pub(crate) auth: Auth<NoClaims>,
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
                *setting = Duration::from(duration);
            }
        }
        let secret = match variable("AUTH_SECRET")? {
            Some(secret) => Secret::new(secret),
            None => {
                eprintln!("warning: AUTH_SECRET is not set; a random one is used, and a restart logs everybody out");
                Secret::random().map_err(|error| error.to_string())?
            }
        };
        let auth = Auth::builder().settings(settings).secret(secret).store(MemoryStore::new()).build();
        Ok(Self { port: parse("PORT")?.unwrap_or(3000), auth: auth.map_err(|error| error.to_string())? })
    }
}

/// An empty variable is one that is not set.
fn variable(name: &str) -> Result<Option<String>, String> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("{name}: not UTF-8")),
    }
}

fn parse<T: FromStr<Err: Display>>(name: &str) -> Result<Option<T>, String> {
    let read = |text: String| text.parse().map_err(|error| format!("{name}: {text:?}: {error}"));
    variable(name)?.map(read).transpose()
}
