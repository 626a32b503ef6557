//! Reads the demo's settings from environment variables. An invalid value is an error of one line.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum_refresh::config::{BindingMode, Transport};
use axum_refresh::{Auth, Secret, Settings};

use super::{Claims, signing, store};

pub(crate) struct Config {
    pub(crate) port: u16,
    pub(crate) auth: Auth<Claims>,
    /// How long ago the password may have been entered for a transfer.
    pub(crate) transfer_max_age: Duration,
    /// Whether access tokens are signed with a private key.
    pub(crate) has_signing_key: bool,
}

impl Config {
    pub(crate) async fn from_env() -> Result<Self, String> {
        let port = parse("PORT")?.unwrap_or(3000);
        let transfer_max_age = duration("TRANSFER_MAX_AGE")?.unwrap_or(Duration::from_secs(60));
        if transfer_max_age < Duration::from_secs(1) {
            return Err("TRANSFER_MAX_AGE: too short; use at least 1s".to_owned());
        }
        let settings = settings()?;
        let url = variable("STORE_URL")?.unwrap_or_else(|| "memory:".to_owned());
        let store = store::open(&url).await?;
        let secret = variable("AUTH_SECRET")?.map(Secret::new);
        let is_random = secret.is_none();
        let secret = match secret {
            Some(secret) => secret,
            None => Secret::random().map_err(|error| error.to_string())?,
        };
        let mut builder = Auth::builder(secret, store).settings(settings);
        if let Some(token) = variable("VERIFIER_TOKEN")? {
            builder = builder.verifier_token(Secret::new(token));
        }
        let (builder, has_signing_key) = signing::sign(builder)?;
        let auth = builder.build().map_err(|error| format!("{}: {error}", variable_of(error.setting())))?;
        if is_random {
            eprintln!("warning: AUTH_SECRET is not set; using a random secret, so a restart logs everybody out");
        }
        Ok(Self { port, auth, transfer_max_age, has_signing_key })
    }
}

fn settings() -> Result<Settings, String> {
    let mut settings = Settings::default();
    let policy = &mut settings.policy;
    set(&mut policy.access_ttl, duration("ACCESS_TTL")?);
    set(&mut policy.grace, duration("GRACE")?);
    set(&mut policy.idle_timeout, duration("IDLE_TIMEOUT")?);
    set(&mut policy.lifetime, duration("MAX_LIFETIME")?);
    policy.max_sessions = parse("MAX_SESSIONS")?;
    set(&mut policy.binding.ip, parse::<BindingMode>("BIND_IP")?);
    set(&mut policy.binding.user_agent, parse::<BindingMode>("BIND_USER_AGENT")?);
    settings.revocation_max_age = duration("REVOCATION_MAX_AGE")?;
    settings.trusted_proxies = list("TRUSTED_PROXIES")?;
    set(&mut settings.forwarded_header, parse("FORWARDED_HEADER")?);
    settings.trusted_origins = list("TRUSTED_ORIGINS")?;
    settings.transport = match variable("TRANSPORT")?.as_deref() {
        None | Some("cookie") => Transport::Cookie,
        Some("body") => Transport::Body,
        Some("both") => Transport::Both,
        Some(other) => return Err(format!("TRANSPORT: {other:?} is invalid; use cookie, body or both")),
    };
    set(&mut settings.hint_cookie, parse("HINT_COOKIE")?);
    set(&mut settings.insecure_dev_cookies, parse("INSECURE_DEV_COOKIES")?);
    settings.realm = variable("REALM")?;
    Ok(settings)
}

/// The environment variable that a setting is read from.
fn variable_of(setting: &str) -> &str {
    match setting {
        "access_ttl" => "ACCESS_TTL",
        "grace" => "GRACE",
        "idle_timeout" => "IDLE_TIMEOUT",
        "lifetime" => "MAX_LIFETIME",
        "hint_cookie" => "HINT_COOKIE",
        "max_sessions" => "MAX_SESSIONS",
        "realm" => "REALM",
        "revocation_max_age" => "REVOCATION_MAX_AGE",
        "secret" => "AUTH_SECRET",
        "signing_key" => "SIGNING_KEY",
        "trusted_origins" => "TRUSTED_ORIGINS",
        "trusted_proxies" => "TRUSTED_PROXIES",
        "verifier_token" => "VERIFIER_TOKEN",
        other => other,
    }
}

fn set<T>(setting: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *setting = value;
    }
}

/// The value of an environment variable. An empty one counts as not set.
pub(crate) fn variable(name: &str) -> Result<Option<String>, String> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("{name}: the value is not UTF-8")),
    }
}

fn parse<T: FromStr<Err: Display>>(name: &str) -> Result<Option<T>, String> {
    variable(name)?.map(|text| parse_text(name, &text)).transpose()
}

fn parse_text<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{name}: {text:?}: {error}"))
}

/// A duration such as `15m` or `1500ms`.
fn duration(name: &str) -> Result<Option<Duration>, String> {
    Ok(parse::<humantime::Duration>(name)?.map(Into::into))
}

/// Values separated by commas.
fn list<T: FromStr<Err: Display>>(name: &str) -> Result<Vec<T>, String> {
    let text = variable(name)?.unwrap_or_default();
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| parse_text(name, part)).collect()
}
