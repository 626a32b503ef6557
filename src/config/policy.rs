//! The rules of a session: its lifetimes, the reaction to a stolen token, and the client that it is bound to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SettingsError;
use crate::time::{duration, optional_duration};

/// How long sessions and tokens live, and how theft is detected and handled.
///
/// In a settings file, durations are written as `15m`, `7days`, `1h 30m` or `1500ms`.
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
    /// The lifetime of an access token, shortened at random by up to 5%, so that clients do not refresh in lockstep. A
    /// longer one means fewer refreshes and does not delay revocation. Default: 15 minutes. Longer than `grace`, at
    /// most 24 hours.
    #[serde(with = "duration")]
    pub access_ttl: Duration,
    /// How long a session may be idle, that is, without any use of its tokens, before it ends. Default: 7 days. Longer
    /// than `access_ttl` plus [`leeway`](crate::Settings::leeway), because a session with a valid access token is not
    /// idle.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// The shortest idle timeout that a login may [choose for its session](crate::LoginBuilder::idle_timeout). The activity of
    /// sessions is written every twentieth part of it, and every 5 minutes at the latest, so a short one costs writes. Default:
    /// `None`, which is 100 minutes, or `idle_timeout` if that is shorter. Longer than `access_ttl` plus leeway, at most
    /// `idle_timeout`.
    #[serde(with = "optional_duration")]
    pub min_idle_timeout: Option<Duration>,
    /// The absolute lifetime of a session, counted from the login. Browsers keep a cookie for at most 400 days (RFC
    /// 6265bis §5.5). Default: 30 days. At least `idle_timeout`, at most 10 years.
    #[serde(with = "duration")]
    pub lifetime: Duration,
    /// The grace period: how long after a rotation the previous refresh token counts as a race and not as theft. Set it
    /// to at least twice the longest one-way delay of a request or response, plus the clock skew between your nodes.
    /// Default: 30 seconds. 1 to 120 seconds, and shorter than `access_ttl`.
    #[serde(with = "duration")]
    pub grace: Duration,
    /// Whether a refresh hands out a new refresh token. If `false`, the refresh token of a session is valid until the
    /// session ends, and theft is not detected. Default: `true`.
    pub rotation: bool,
    /// Which sessions are revoked if a superseded refresh token is presented again. Default: [`OnReuse::Session`], the
    /// one session.
    pub on_reuse: OnReuse,
    /// How many times in a row a lost refresh token is replaced before the next time counts as theft. Default: `None`,
    /// no limit; from the fourth time on, each is an [`Event::ManyRecoveries`](crate::Event::ManyRecoveries). A token that
    /// never left the server, because a [page](crate::PagesLayer) took too long, does not count.
    pub recovery_limit: Option<u32>,
    /// Which properties of the client a session is bound to. Default: none.
    pub binding: Binding,
    /// The session limit: how many live sessions a user may have. Default: `None`, no limit. At least 1.
    pub max_sessions: Option<u32>,
    /// What happens at a login that would exceed `max_sessions`. Default: [`OnMaxSessions::EvictOldest`], the user's
    /// oldest session is revoked.
    pub on_max_sessions: OnMaxSessions,
    /// Whether a login with a client that none of the user's live sessions had is reported as an
    /// [`Event::NewDevice`](crate::Event::NewDevice). Costs one `list` of the store per login. Default: `false`.
    pub detect_new_devices: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            access_ttl: Duration::from_secs(15 * 60),
            idle_timeout: Duration::from_secs(7 * 24 * 3600),
            min_idle_timeout: None,
            lifetime: Duration::from_secs(30 * 24 * 3600),
            grace: Duration::from_secs(30),
            rotation: true,
            on_reuse: OnReuse::Session,
            recovery_limit: None,
            binding: Binding::default(),
            max_sessions: None,
            on_max_sessions: OnMaxSessions::EvictOldest,
            detect_new_devices: false,
        }
    }
}

/// The shortest idle timeout of a session for which activity need not be written more often than by default.
pub(super) const MIN_IDLE_TIMEOUT: Duration = Duration::from_secs(100 * 60);
/// The longest grace period.
pub(crate) const MAX_GRACE: Duration = Duration::from_secs(120);
const MAX_ACCESS_TTL: Duration = Duration::from_secs(24 * 3600);
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Policy {
    /// Returns a policy for apps with sensitive data, such as banking or health: access tokens live for 5 minutes;
    /// sessions end after 30 minutes of idle time or 12 hours in total; theft revokes all of the user's sessions;
    /// another browser is refused.
    pub fn strict() -> Self {
        Self {
            access_ttl: Duration::from_secs(5 * 60),
            idle_timeout: Duration::from_secs(30 * 60),
            lifetime: Duration::from_secs(12 * 3600),
            on_reuse: OnReuse::User,
            binding: Binding { user_agent: BindingMode::Reject, ..Binding::default() },
            ..Self::default()
        }
    }

    /// Returns a policy for apps in which users expect to stay logged in: sessions end after 60 days of idle time or a
    /// year in total.
    pub fn long_lived() -> Self {
        Self {
            idle_timeout: Duration::from_secs(60 * 24 * 3600),
            lifetime: Duration::from_secs(365 * 24 * 3600),
            ..Self::default()
        }
    }

    /// Returns a policy for authentication assurance level 1 of NIST SP 800-63B-4: sessions end after 30 days (§2.1.3). There
    /// may be an idle timeout (§2.1.3): 7 days. This is the default.
    pub fn aal1() -> Self {
        Self::default()
    }

    /// Returns a policy for authentication assurance level 2 of NIST SP 800-63B-4: sessions end after 24 hours in total or an
    /// hour of idle time (§2.2.3).
    ///
    /// After the idle time, one factor is enough together with the session's secret (§2.2.3):
    /// [`Auth::reauthenticated`](crate::Auth::reauthenticated) continues an idle session. After 24 hours, the user logs in with
    /// both.
    pub fn aal2() -> Self {
        Self { idle_timeout: Duration::from_secs(3600), lifetime: Duration::from_secs(24 * 3600), ..Self::default() }
    }

    /// Returns a policy for authentication assurance level 3 of NIST SP 800-63B-4: sessions end after 12 hours in total or 15
    /// minutes of idle time, and both factors are needed to go on (§2.3.3). Access tokens live for 5 minutes.
    pub fn aal3() -> Self {
        Self {
            access_ttl: Duration::from_secs(5 * 60),
            idle_timeout: Duration::from_secs(15 * 60),
            lifetime: Duration::from_secs(12 * 3600),
            ..Self::default()
        }
    }

    /// Checks all fields, alone and together.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] for the first field that is invalid.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let show = humantime::format_duration;
        let check_longer = |name, long: Duration, other, short: Duration| {
            if long > short {
                return Ok(());
            }
            Err(SettingsError::new(
                name,
                format!("{} is too short; it must be longer than {other} ({})", show(long), show(short)),
            ))
        };
        if !(Duration::from_secs(1)..=MAX_GRACE).contains(&self.grace) {
            return Err(SettingsError::new("grace", format!("{} is not between 1s and 120s", show(self.grace))));
        }
        check_longer("access_ttl", self.access_ttl, "grace", self.grace)?;
        if self.access_ttl > MAX_ACCESS_TTL {
            return Err(SettingsError::new(
                "access_ttl",
                format!("{} is too long; the limit is 24 hours", show(self.access_ttl)),
            ));
        }
        check_longer("idle_timeout", self.idle_timeout, "access_ttl", self.access_ttl)?;
        if let Some(min) = self.min_idle_timeout {
            check_longer("min_idle_timeout", min, "access_ttl", self.access_ttl)?;
            if min > self.idle_timeout {
                return Err(SettingsError::new(
                    "min_idle_timeout",
                    format!("{} is longer than idle_timeout ({})", show(min), show(self.idle_timeout)),
                ));
            }
        }
        if self.lifetime < self.idle_timeout {
            return Err(SettingsError::new(
                "lifetime",
                format!(
                    "{} is too short; it must be at least idle_timeout ({})",
                    show(self.lifetime),
                    show(self.idle_timeout)
                ),
            ));
        }
        if self.lifetime > MAX_LIFETIME {
            return Err(SettingsError::new(
                "lifetime",
                format!("{} is too long; the limit is 10 years", show(self.lifetime)),
            ));
        }
        if self.max_sessions == Some(0) {
            return Err(SettingsError::new(
                "max_sessions",
                "0 would refuse every login; use at least 1, or leave it out for no limit",
            ));
        }
        self.binding.validate()
    }
}

/// Which sessions are revoked if a superseded refresh token is presented again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnReuse {
    /// The session of the refresh token.
    #[default]
    Session,
    /// All sessions of the user. Anyone who holds one superseded token can then log the user out everywhere, once.
    ///
    /// The session of the token is revoked first. If the store then fails to revoke the others, the node tries again until
    /// it succeeds ([`Event::RevocationDelayed`](crate::Event::RevocationDelayed)). If the node crashes before that, the
    /// others live on until a token of the revoked session is presented to any node, by its owner or by the thief: that
    /// node revokes what began before the detection. Later logins are not affected.
    User,
}

/// What happens at a login that would exceed [`Policy::max_sessions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMaxSessions {
    /// The user's oldest session, by time of login, is revoked.
    #[default]
    EvictOldest,
    /// The login is refused with 409 `session_limit`.
    Refuse,
}

/// Which properties of the client a session is bound to, and what happens if they change.
///
/// A missing property counts as a change, except for a client that has never sent a `User-Agent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Binding {
    /// What happens if the client's IP address changes. The addresses of mobile clients change often. Default:
    /// [`BindingMode::Off`].
    pub ip: BindingMode,
    /// How many leading bits of an IPv4 address have to stay the same. Default: 24. 1 to 32.
    pub ipv4_prefix: u8,
    /// How many leading bits of an IPv6 address have to stay the same. Default: 56. 1 to 128.
    pub ipv6_prefix: u8,
    /// What happens if the browser, or another program, or its platform changes. Default: [`BindingMode::Off`].
    ///
    /// Versions are ignored, so an update logs nobody out: a word is compared up to its first digit, and a comment only
    /// says which platform it is. A phone or tablet that asks for desktop sites is the same client: Safari on an iPhone or
    /// iPad and on a Mac count as one, and so does a browser on Android and on Linux. [What counts as another
    /// client](crate::guide::security#what-a-binding-notices) has examples, and what this costs.
    pub user_agent: BindingMode,
}

impl Default for Binding {
    fn default() -> Self {
        Self { ip: BindingMode::Off, ipv4_prefix: 24, ipv6_prefix: 56, user_agent: BindingMode::Off }
    }
}

impl Binding {
    /// Whether clients are compared.
    pub(crate) fn is_on(&self) -> bool {
        self.ip != BindingMode::Off || self.user_agent != BindingMode::Off
    }

    fn validate(&self) -> Result<(), SettingsError> {
        for (name, bits, max) in
            [("binding.ipv4_prefix", self.ipv4_prefix, 32), ("binding.ipv6_prefix", self.ipv6_prefix, 128)]
        {
            if !(1..=max).contains(&bits) {
                return Err(SettingsError::new(name, format!("{bits} is not between 1 and {max}")));
            }
        }
        Ok(())
    }
}

/// What happens to a request whose client differs from the one that logged in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingMode {
    /// Clients are not compared.
    #[default]
    Off,
    /// The request is served, and the mismatch is reported as an
    /// [`Event::ClientMismatch`](crate::Event::ClientMismatch).
    Observe,
    /// The request is refused with 401 `insufficient_user_authentication` (RFC 9470) until the user has
    /// [authenticated again](crate::Auth::reauthenticated): that binds the session to the new client. It stays valid for its
    /// own client, too.
    StepUp,
    /// The request is refused with 401 `client_mismatch`. The session stays valid for its own client.
    Reject,
    /// The request is refused with 401 `client_mismatch`, and the session is revoked.
    Revoke,
}

impl std::str::FromStr for BindingMode {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "observe" => Ok(Self::Observe),
            "step_up" => Ok(Self::StepUp),
            "reject" => Ok(Self::Reject),
            "revoke" => Ok(Self::Revoke),
            _ => Err(SettingsError::new(
                "binding",
                format!("unknown mode {text:?}; use off, observe, step_up, reject or revoke"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(policy: &Policy) -> String {
        policy.validate().unwrap_err().to_string()
    }

    #[test]
    fn every_preset_is_valid() {
        let levels = [Policy::aal1(), Policy::aal2(), Policy::aal3()];
        for policy in [Policy::default(), Policy::strict(), Policy::long_lived()].into_iter().chain(levels) {
            assert_eq!(policy.validate(), Ok(()));
        }
    }

    #[test]
    fn the_presets_are_as_documented() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let strict = Policy::strict();
        assert_eq!((strict.access_ttl, strict.idle_timeout, strict.lifetime), (minutes(5), minutes(30), minutes(720)));
        assert_eq!(strict.on_reuse, OnReuse::User);
        assert_eq!((strict.binding.user_agent, strict.binding.ip), (BindingMode::Reject, BindingMode::Off));
        let days = |days: u64| minutes(days * 24 * 60);
        let long = Policy::long_lived();
        assert_eq!((long.idle_timeout, long.lifetime), (days(60), days(365)));
        assert_eq!(Policy { idle_timeout: days(7), lifetime: days(30), ..long }, Policy::default());
    }

    #[test]
    fn the_assurance_levels_have_the_timeouts_of_nist_sp_800_63b() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let timeouts = |policy: &Policy| (policy.lifetime, policy.idle_timeout);
        assert_eq!(timeouts(&Policy::aal1()), (hours(30 * 24), hours(7 * 24)));
        assert_eq!(timeouts(&Policy::aal2()), (hours(24), hours(1)));
        assert_eq!(timeouts(&Policy::aal3()), (hours(12), hours(1) / 4));
    }

    #[test]
    fn the_shortest_idle_timeout_is_between_that_of_an_access_token_and_that_of_the_policy() {
        let policy = |min: u64| Policy { min_idle_timeout: Some(Duration::from_secs(min)), ..Policy::aal2() };
        for (min, fits) in [(900, false), (901, true), (3600, true), (3601, false)] {
            assert_eq!(policy(min).validate().is_ok(), fits, "{min}");
        }
        let json = r#"{"min_idle_timeout":"1h"}"#;
        assert_eq!(serde_json::from_str::<Policy>(json).unwrap().min_idle_timeout, Some(Duration::from_secs(3600)));
        let written = serde_json::to_string(&Policy::default()).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&written).unwrap(), Policy::default());
    }

    #[test]
    fn access_ttl_and_lifetime_have_a_maximum() {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        let second = Duration::from_secs(1);
        for (access_ttl, lifetime, fits) in
            [(days(1), days(3650), true), (days(1) + second, days(3650), false), (days(1), days(3650) + second, false)]
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
            ("step_up", BindingMode::StepUp),
            ("reject", BindingMode::Reject),
            ("revoke", BindingMode::Revoke),
        ];
        for (name, mode) in modes {
            assert_eq!(name.parse(), Ok(mode));
        }
        assert!("Off".parse::<BindingMode>().is_err() && "".parse::<BindingMode>().is_err());
    }

    #[test]
    fn a_grace_period_outside_1_to_120_seconds_is_rejected() {
        for (millis, fits) in [(999, false), (1_000, true), (120_000, true), (120_001, false), (0, false)] {
            let policy = Policy { grace: Duration::from_millis(millis), ..Policy::default() };
            assert_eq!(policy.validate().is_ok(), fits, "{millis}");
        }
    }

    #[test]
    fn a_grace_period_as_long_as_the_access_ttl_is_rejected() {
        let grace = Duration::from_secs(60);
        let policy = Policy { grace, access_ttl: grace, ..Policy::default() };
        assert_eq!(error(&policy), "access_ttl: 1m is too short; it must be longer than grace (1m)");
    }

    #[test]
    fn an_idle_timeout_as_short_as_the_access_ttl_is_rejected() {
        let ttl = Duration::from_secs(15 * 60);
        let policy = Policy { access_ttl: ttl, idle_timeout: ttl, ..Policy::default() };
        assert_eq!(error(&policy), "idle_timeout: 15m is too short; it must be longer than access_ttl (15m)");
    }

    #[test]
    fn a_lifetime_shorter_than_the_idle_timeout_is_rejected_and_an_equal_one_is_not() {
        let idle_timeout = Duration::from_secs(3600);
        let policy = Policy { idle_timeout, lifetime: idle_timeout, ..Policy::default() };
        assert_eq!(policy.validate(), Ok(()));
        let policy = Policy { lifetime: Duration::from_secs(3599), ..policy };
        assert_eq!(error(&policy), "lifetime: 59m 59s is too short; it must be at least idle_timeout (1h)");
    }

    #[test]
    fn an_access_ttl_of_more_than_a_day_is_rejected() {
        let day = Duration::from_secs(24 * 3600);
        let policy = Policy { access_ttl: day, ..Policy::long_lived() };
        assert_eq!(policy.validate(), Ok(()));
        let policy = Policy { access_ttl: day + Duration::from_millis(1), ..policy };
        assert!(error(&policy).contains("the limit is 24 hours"));
    }

    #[test]
    fn a_lifetime_of_more_than_ten_years_is_rejected() {
        let policy = Policy { lifetime: MAX_LIFETIME, ..Policy::default() };
        assert_eq!(policy.validate(), Ok(()));
        let policy = Policy { lifetime: MAX_LIFETIME + Duration::from_millis(1), ..policy };
        assert!(error(&policy).contains("the limit is 10 years"));
    }

    #[test]
    fn a_session_limit_of_zero_is_rejected() {
        let policy = Policy { max_sessions: Some(0), ..Policy::default() };
        assert_eq!(policy.validate().unwrap_err().setting(), "max_sessions");
        let policy = Policy { max_sessions: Some(1), ..Policy::default() };
        assert_eq!(policy.validate(), Ok(()));
    }

    #[test]
    fn a_prefix_length_of_zero_or_too_many_bits_is_rejected() {
        let of = |ipv4_prefix, ipv6_prefix| {
            let binding = Binding { ipv4_prefix, ipv6_prefix, ..Binding::default() };
            Policy { binding, ..Policy::default() }.validate().is_ok()
        };
        assert!(of(1, 1) && of(32, 128));
        assert!(!of(0, 56) && !of(33, 56) && !of(24, 0) && !of(24, 129));
    }

    #[test]
    fn durations_are_read_in_human_notation() {
        let policy: Policy = toml::from_str("access_ttl = '5m'\ngrace = '1500ms'\non_reuse = 'user'").unwrap();
        assert_eq!(policy.access_ttl, Duration::from_secs(300));
        assert_eq!(policy.grace, Duration::from_millis(1500));
        assert_eq!(policy.on_reuse, OnReuse::User);
        assert_eq!(policy.lifetime, Policy::default().lifetime);
        let text = toml::to_string(&policy).unwrap();
        assert_eq!(toml::from_str::<Policy>(&text).unwrap(), policy);
    }

    #[test]
    fn unknown_keys_and_invalid_durations_are_rejected() {
        for text in ["acces_ttl = '5m'", "grace = '5'", "grace = 5", "grace = '-5s'", "[binding]\nipv5 = 1"] {
            assert!(toml::from_str::<Policy>(text).is_err(), "{text}");
        }
    }
}
