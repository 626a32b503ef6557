//! The demo's settings, from the environment. What makes no sense is one clear line.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum_refresh::{Auth, BindingMode, Secret, Settings, Transport};

use super::{Claims, store};

pub(crate) struct Config {
    pub(crate) port: u16,
    pub(crate) auth: Auth<Claims>,
}

impl Config {
    pub(crate) async fn from_env() -> Result<Self, String> {
        let port = parse("PORT")?.unwrap_or(3000);
        let mut settings = Settings::default();
        let policy = &mut settings.policy;
        set(&mut policy.access_ttl, duration("ACCESS_TTL")?);
        set(&mut policy.grace, duration("GRACE")?);
        set(&mut policy.idle_timeout, duration("IDLE_TIMEOUT")?);
        set(&mut policy.lifetime, duration("MAX_LIFETIME")?);
        policy.max_sessions = parse("MAX_SESSIONS")?;
        set(&mut policy.binding.ip, parse::<BindingMode>("BIND_IP")?);
        set(&mut policy.binding.user_agent, parse::<BindingMode>("BIND_USER_AGENT")?);
        settings.trusted_proxies = list("TRUSTED_PROXIES")?;
        settings.trusted_origins = list("TRUSTED_ORIGINS")?;
        settings.transport = match variable("TRANSPORT")?.as_deref() {
            None | Some("cookie") => Transport::Cookie,
            Some("body") => Transport::Body,
            Some("both") => Transport::Both,
            Some(other) => return Err(format!("TRANSPORT: {other:?} is none of cookie, body, both")),
        };
        set(&mut settings.hint_cookie, parse("HINT_COOKIE")?);
        let url = variable("STORE_URL")?.unwrap_or_else(|| "memory:".to_owned());
        let store = store::open(&url).await?;
        let secret = match variable("AUTH_SECRET")? {
            Some(secret) => Secret::new(secret),
            None => {
                eprintln!("warning: AUTH_SECRET is not set; a random one is used, and a restart logs everybody out");
                Secret::random().map_err(|error| error.to_string())?
            }
        };
        let auth = Auth::builder()
            .settings(settings)
            .secret(secret)
            .shared_store(store)
            .build()
            .map_err(|error| format!("{}: {error}", variable_of(error.setting())))?;
        Ok(Self { port, auth })
    }
}

/// The variable that a setting came from.
fn variable_of(setting: &str) -> &str {
    match setting {
        "access_ttl" => "ACCESS_TTL",
        "grace" => "GRACE",
        "idle_timeout" => "IDLE_TIMEOUT",
        "lifetime" => "MAX_LIFETIME",
        "hint_cookie" => "HINT_COOKIE",
        "max_sessions" => "MAX_SESSIONS",
        "secret" => "AUTH_SECRET",
        "trusted_origins" => "TRUSTED_ORIGINS",
        other => other,
    }
}

fn set<T>(setting: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *setting = value;
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

fn read<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{name}: {text:?}: {error}"))
}

fn parse<T: FromStr<Err: Display>>(name: &str) -> Result<Option<T>, String> {
    variable(name)?.map(|text| read(name, &text)).transpose()
}

fn duration(name: &str) -> Result<Option<Duration>, String> {
    Ok(parse::<humantime::Duration>(name)?.map(Into::into))
}

fn list<T: FromStr<Err: Display>>(name: &str) -> Result<Vec<T>, String> {
    let text = variable(name)?.unwrap_or_default();
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| read(name, part)).collect()
}
