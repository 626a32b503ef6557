//! The rules of a session: how long it lives, what a stolen token costs it, what client it is bound to. Validated
//! once, when [`Auth`](crate::Auth) is built.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A setting that makes no sense, alone or beside another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    setting: &'static str,
    problem: String,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }

    /// The name of the setting, as it is written in a settings file.
    pub const fn setting(&self) -> &'static str {
        self.setting
    }
}

/// How long sessions and tokens live, and what is done about theft.
///
/// Every duration is written in a settings file as `15m`, `7days`, `1h 30m` or `1500ms`.
///
/// ```
/// use axum_refresh::Policy;
/// use std::time::Duration;
///
/// let policy = Policy { access_ttl: Duration::from_secs(5 * 60), ..Policy::default() };
/// assert!(policy.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// How long an access token is good for. Each is shortened at random by up to 5 %, so that clients do not come
    /// back in step. Longer means fewer refreshes; revocation does not wait for it. Default: 15 minutes; at most 7 days.
    #[serde(with = "duration")]
    pub access_ttl: Duration,
    /// A session ends when nothing was heard of its client for this long. Has to be longer than `access_ttl`: an
    /// access token that is good keeps its session from being idle. Default: 7 days.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// A session ends this long after login, whatever happens. Browsers keep no cookie for more than 400 days
    /// (RFC 6265bis §5.5). Default: 30 days; at most 10 years.
    #[serde(with = "duration")]
    pub lifetime: Duration,
    /// For how long after a rotation the old refresh token is taken for a race and not for a theft. Twice the
    /// longest time a request takes on the wire, plus the clock skew between your nodes. 1 to 120 seconds, and
    /// shorter than `access_ttl`. Default: 30 seconds.
    #[serde(with = "duration")]
    pub grace: Duration,
    /// Whether refreshing hands out a new refresh token. Without it every refresh token of a session is good until
    /// the session ends, and theft is never seen. Default: on.
    pub rotation: bool,
    /// What dies when an old refresh token comes back. Default: the session.
    pub on_reuse: ReuseResponse,
    /// How often in a row a lost successor may be replaced before the next one counts as theft. Default: no limit
    /// (from the fourth on it is an [`Event`](crate::Event)).
    pub recovery_limit: Option<u32>,
    /// What the session is bound to. Default: nothing.
    pub binding: Binding,
    /// How many live sessions a user may have. Default: as many as they like.
    pub max_sessions: Option<u32>,
    /// What happens at the login that would be one too many. Default: the oldest session ends.
    pub on_max_sessions: CapResponse,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            access_ttl: Duration::from_secs(15 * 60),
            idle_timeout: Duration::from_secs(7 * 24 * 3600),
            lifetime: Duration::from_secs(30 * 24 * 3600),
            grace: Duration::from_secs(30),
            rotation: true,
            on_reuse: ReuseResponse::Session,
            recovery_limit: None,
            binding: Binding::default(),
            max_sessions: None,
            on_max_sessions: CapResponse::EvictOldest,
        }
    }
}

const LONGEST_ACCESS_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
const LONGEST_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Policy {
    /// For apps that guard money or health: 5 minutes of access, 30 minutes of idle time, 12 hours in all; theft
    /// ends all of the user's sessions; a change of browser is refused.
    pub fn strict() -> Self {
        Self {
            access_ttl: Duration::from_secs(5 * 60),
            idle_timeout: Duration::from_secs(30 * 60),
            lifetime: Duration::from_secs(12 * 3600),
            on_reuse: ReuseResponse::User,
            binding: Binding { user_agent: BindingMode::Reject, ..Binding::default() },
            ..Self::default()
        }
    }

    /// For apps that people expect to stay logged in to: 60 days of idle time, a year in all.
    pub fn long_lived() -> Self {
        Self {
            idle_timeout: Duration::from_secs(60 * 24 * 3600),
            lifetime: Duration::from_secs(365 * 24 * 3600),
            ..Self::default()
        }
    }

    /// Whether the settings go together.
    ///
    /// # Errors
    /// Names the first setting that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let show = humantime::format_duration;
        let longer = |name, long: Duration, other, short: Duration| {
            if long > short {
                return Ok(());
            }
            Err(ConfigError::new(name, format!("{} has to be longer than {other} ({})", show(long), show(short))))
        };
        if !(Duration::from_secs(1)..=Duration::from_secs(120)).contains(&self.grace) {
            return Err(ConfigError::new("grace", format!("{} is not between 1s and 120s", show(self.grace))));
        }
        longer("access_ttl", self.access_ttl, "grace", self.grace)?;
        if self.access_ttl > LONGEST_ACCESS_TTL {
            return Err(ConfigError::new("access_ttl", format!("{} is more than 7 days", show(self.access_ttl))));
        }
        longer("idle_timeout", self.idle_timeout, "access_ttl", self.access_ttl)?;
        if self.lifetime < self.idle_timeout {
            return Err(ConfigError::new(
                "lifetime",
                format!("{} is shorter than idle_timeout ({})", show(self.lifetime), show(self.idle_timeout)),
            ));
        }
        if self.lifetime > LONGEST_LIFETIME {
            return Err(ConfigError::new("lifetime", format!("{} is more than 10 years", show(self.lifetime))));
        }
        if self.max_sessions == Some(0) {
            return Err(ConfigError::new("max_sessions", "0 would let nobody log in"));
        }
        self.binding.validate()
    }
}

/// What ends when an old refresh token is presented again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReuseResponse {
    /// The session that the token belongs to.
    #[default]
    Session,
    /// Every session of its user. Somebody who holds one old token can then log the user out everywhere, once.
    User,
}

/// What happens at a login that is one more than `max_sessions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapResponse {
    /// The oldest session (by login) ends.
    #[default]
    EvictOldest,
    /// The login is refused, with `session_limit`.
    Refuse,
}

/// What a session is bound to, and how firmly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Binding {
    /// The client's address. People on the move change theirs all the time. Default: off.
    pub ip: BindingMode,
    /// How many leading bits of an IPv4 address have to stay the same, 1 to 32. Default: 24.
    pub ipv4_prefix: u8,
    /// How many leading bits of an IPv6 address have to stay the same, 1 to 128. Default: 56.
    pub ipv6_prefix: u8,
    /// The browser and its platform, not their versions: an update logs nobody out. Default: off.
    pub user_agent: BindingMode,
}

impl Default for Binding {
    fn default() -> Self {
        Self { ip: BindingMode::Off, ipv4_prefix: 24, ipv6_prefix: 56, user_agent: BindingMode::Off }
    }
}

impl Binding {
    fn validate(&self) -> Result<(), ConfigError> {
        for (name, bits, most) in
            [("binding.ipv4_prefix", self.ipv4_prefix, 32), ("binding.ipv6_prefix", self.ipv6_prefix, 128)]
        {
            if !(1..=most).contains(&bits) {
                return Err(ConfigError::new(name, format!("{bits} is not between 1 and {most}")));
            }
        }
        Ok(())
    }
}

/// What a request from a client that looks different leads to. An absent value is a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingMode {
    /// Nothing; not compared.
    #[default]
    Off,
    /// An [`Event`](crate::Event); the request goes on.
    Observe,
    /// `client_mismatch`; the session stays, for the client it belongs to.
    Reject,
    /// `client_mismatch`, and the session ends.
    Revoke,
}

impl std::str::FromStr for BindingMode {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "observe" => Ok(Self::Observe),
            "reject" => Ok(Self::Reject),
            "revoke" => Ok(Self::Revoke),
            _ => Err(ConfigError::new("binding", format!("{text:?} is none of off, observe, reject, revoke"))),
        }
    }
}

/// Durations as people write them.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(policy: &Policy) -> String {
        policy.validate().unwrap_err().to_string()
    }

    #[test]
    fn every_preset_is_valid() {
        for policy in [Policy::default(), Policy::strict(), Policy::long_lived()] {
            assert_eq!(policy.validate(), Ok(()));
        }
    }

    #[test]
    fn the_presets_are_what_their_documentation_says() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let strict = Policy::strict();
        assert_eq!((strict.access_ttl, strict.idle_timeout, strict.lifetime), (minutes(5), minutes(30), minutes(720)));
        assert_eq!(strict.on_reuse, ReuseResponse::User);
        assert_eq!((strict.binding.user_agent, strict.binding.ip), (BindingMode::Reject, BindingMode::Off));
        let days = |days: u64| minutes(days * 24 * 60);
        let long = Policy::long_lived();
        assert_eq!((long.idle_timeout, long.lifetime), (days(60), days(365)));
        assert_eq!(Policy { idle_timeout: days(7), lifetime: days(30), ..long }, Policy::default());
    }

    #[test]
    fn lifetimes_have_a_longest() {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        let second = Duration::from_secs(1);
        for (access_ttl, lifetime, fits) in
            [(days(7), days(3650), true), (days(7) + second, days(3650), false), (days(7), days(3650) + second, false)]
        {
            let policy = Policy { access_ttl, idle_timeout: days(30), lifetime, ..Policy::default() };
            assert_eq!(policy.validate().is_ok(), fits, "{access_ttl:?} {lifetime:?}");
        }
    }

    #[test]
    fn a_binding_mode_is_read_by_its_name() {
        let modes = [
            ("off", BindingMode::Off),
            ("observe", BindingMode::Observe),
            ("reject", BindingMode::Reject),
            ("revoke", BindingMode::Revoke),
        ];
        for (name, mode) in modes {
            assert_eq!(name.parse(), Ok(mode));
        }
        assert!("Off".parse::<BindingMode>().is_err() && "".parse::<BindingMode>().is_err());
    }

    #[test]
    fn a_grace_outside_1_to_120_seconds_is_refused() {
        for (millis, fits) in [(999, false), (1_000, true), (120_000, true), (120_001, false), (0, false)] {
            let policy = Policy { grace: Duration::from_millis(millis), ..Policy::default() };
            assert_eq!(policy.validate().is_ok(), fits, "{millis}");
        }
    }

    #[test]
    fn a_grace_as_long_as_the_access_ttl_is_refused() {
        let grace = Duration::from_secs(60);
        let policy = Policy { grace, access_ttl: grace, ..Policy::default() };
        assert_eq!(refused(&policy), "access_ttl: 1m has to be longer than grace (1m)");
    }

    #[test]
    fn an_idle_timeout_as_short_as_the_access_ttl_is_refused() {
        let ttl = Duration::from_secs(15 * 60);
        let policy = Policy { access_ttl: ttl, idle_timeout: ttl, ..Policy::default() };
        assert_eq!(refused(&policy), "idle_timeout: 15m has to be longer than access_ttl (15m)");
    }

    #[test]
    fn a_lifetime_shorter_than_the_idle_timeout_is_refused_and_an_equal_one_is_not() {
        let idle_timeout = Duration::from_secs(3600);
        let policy = Policy { idle_timeout, lifetime: idle_timeout, ..Policy::default() };
        assert_eq!(policy.validate(), Ok(()));
        let policy = Policy { lifetime: Duration::from_secs(3599), ..policy };
        assert_eq!(refused(&policy), "lifetime: 59m 59s is shorter than idle_timeout (1h)");
    }

    #[test]
    fn an_access_ttl_of_more_than_a_week_is_refused() {
        let week = Duration::from_secs(7 * 24 * 3600);
        let policy = Policy { access_ttl: week, ..Policy::long_lived() };
        assert_eq!(policy.validate(), Ok(()));
        let policy = Policy { access_ttl: week + Duration::from_millis(1), ..policy };
        assert!(refused(&policy).contains("more than 7 days"));
    }

    #[test]
    fn a_lifetime_of_more_than_ten_years_is_refused() {
        let policy = Policy { lifetime: LONGEST_LIFETIME, ..Policy::default() };
        assert_eq!(policy.validate(), Ok(()));
        let policy = Policy { lifetime: LONGEST_LIFETIME + Duration::from_millis(1), ..policy };
        assert!(refused(&policy).contains("more than 10 years"));
    }

    #[test]
    fn a_cap_that_lets_nobody_in_is_refused() {
        let policy = Policy { max_sessions: Some(0), ..Policy::default() };
        assert_eq!(policy.validate().unwrap_err().setting(), "max_sessions");
        let policy = Policy { max_sessions: Some(1), ..Policy::default() };
        assert_eq!(policy.validate(), Ok(()));
    }

    #[test]
    fn a_prefix_of_no_bits_or_too_many_is_refused() {
        let of = |ipv4_prefix, ipv6_prefix| {
            let binding = Binding { ipv4_prefix, ipv6_prefix, ..Binding::default() };
            Policy { binding, ..Policy::default() }.validate().is_ok()
        };
        assert!(of(1, 1) && of(32, 128));
        assert!(!of(0, 56) && !of(33, 56) && !of(24, 0) && !of(24, 129));
    }

    #[test]
    fn settings_read_durations_as_people_write_them() {
        let policy: Policy = toml::from_str("access_ttl = '5m'\ngrace = '1500ms'\non_reuse = 'user'").unwrap();
        assert_eq!(policy.access_ttl, Duration::from_secs(300));
        assert_eq!(policy.grace, Duration::from_millis(1500));
        assert_eq!(policy.on_reuse, ReuseResponse::User);
        assert_eq!(policy.lifetime, Policy::default().lifetime);
        let text = toml::to_string(&policy).unwrap();
        assert_eq!(toml::from_str::<Policy>(&text).unwrap(), policy);
    }

    #[test]
    fn settings_refuse_unknown_keys_and_bad_durations() {
        for text in ["acces_ttl = '5m'", "grace = '5'", "grace = 5", "grace = '-5s'", "[binding]\nipv5 = 1"] {
            assert!(toml::from_str::<Policy>(text).is_err(), "{text}");
        }
    }
}
