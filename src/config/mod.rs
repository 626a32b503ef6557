//! Settings: plain data, written in code or read from a file, and validated once by
//! [`AuthBuilder::build`](crate::AuthBuilder::build). And what hooks are called with.

mod cookie;
mod error;
mod forwarded;
mod hook;
mod notice;
mod policy;
pub(crate) mod resolved;
mod transport;

use std::time::Duration;

pub use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use self::cookie::strip_prefix;
pub use self::cookie::{CookieSettings, SameSite};
pub use self::error::SettingsError;
pub use self::forwarded::ForwardedHeader;
pub use self::hook::{ClaimsRequest, ClientChange};
pub(crate) use self::notice::Notice;
pub(crate) use self::policy::MAX_GRACE;
pub use self::policy::{Binding, BindingMode, OnMaxSessions, OnReuse, Policy};
pub(crate) use self::resolved::{MAX_COOKIE_BYTES, ResolvedCookie, ResolvedSettings};
pub use self::transport::Transport;
use crate::time::{duration, optional_duration};

/// All settings. The secret, the store, the keys and the hooks are not data, and are set on the
/// [`AuthBuilder`](crate::AuthBuilder).
///
/// Settings can be read from any format that serde supports. Unknown names are errors; durations are written as `15m`
/// or `1500ms`:
///
/// ```
/// use axum_refresh::Settings;
///
/// let settings: Settings = serde_json::from_str(r#"{
///     "audience": "shop.example",
///     "policy": { "access_ttl": "5m", "max_sessions": 10 },
///     "trusted_proxies": ["10.0.0.0/8"]
/// }"#)?;
/// assert_eq!(settings.policy.max_sessions, Some(10));
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The issuer of the tokens, their `iss`. Apps with different issuers never accept each other's tokens, even if
    /// they share a secret. Changing it logs everybody out. Default: `axum-refresh`. Not empty.
    pub issuer: String,
    /// The audience of the access tokens, their `aud`. An access token for another audience is refused. Default:
    /// `axum-refresh`. Not empty.
    pub audience: String,
    /// The realm: keeps several kinds of user apart in one app, such as customers and administrators. Each kind has an
    /// [`Auth`](crate::Auth) and a realm of its own; secret, store, issuer and audience may be the same. The realm is part of
    /// the derived keys, of the key ids, of the names of the cookies (`__Secure-refresh-admin` in the realm `admin`) and of
    /// the user ids in the store: no token, session, limit or revocation of one realm counts in another.
    ///
    /// Other services see a realm only in the key id, so with a [signing key](crate::AuthBuilder::signing_key) each realm
    /// needs an [`audience`](Self::audience) of its own, which those services check.
    ///
    /// 1 to 32 characters of `a` to `z`, `0` to `9`, `-` and `_`. Changing it logs everybody out. Default: none.
    pub realm: Option<String>,
    /// Lifetimes, rotation, binding and the session limit. Default: [`Policy::default`].
    pub policy: Policy,
    /// How long an access token is accepted after it has expired, to allow for clock skew between nodes. Default: 0. At
    /// most 2 minutes, and together with `access_ttl` less than `idle_timeout`.
    #[serde(with = "duration")]
    pub leeway: Duration,
    /// How old the revocations known to this node may be. If the store was unreachable for longer, each request reads
    /// them from the store, and gets 503 if that fails. Default: 30 seconds. At least 2 seconds, because the store is
    /// read every second.
    #[serde(with = "duration")]
    pub max_staleness: Duration,
    /// How long a call of the store may take before it fails. Default: 5 seconds. Longer than 0, at most 1 minute: what was
    /// written up to twice as long ago is read again, because a slow transaction becomes visible late.
    #[serde(with = "duration")]
    pub store_timeout: Duration,
    /// How many verified access tokens are kept in memory, at about 700 bytes each, so that none of them is verified
    /// twice. Default: 16,384. 0 switches the cache off.
    pub token_cache: usize,
    /// How many sessions the [guard](crate::Auth::guard) keeps in memory, at about 100 bytes each, or 250 with a
    /// [binding](Policy::binding), so that none of them is loaded twice. Sessions of tokens in the token cache are not
    /// looked up here at all. Default: 262,144. At least 1; 0 counts as 1.
    pub guard_cache: usize,
    /// The authentication context classes of the app, weakest first, such as `["aal1", "aal2"]`: what a login may have
    /// [reached](crate::LoginBuilder::acr), and what a route may [require](crate::Auth::require). A route that requires one
    /// accepts the stronger ones too. Each is 1 or more printable ASCII characters but space, `"` and `\`, because a challenge
    /// lists them (RFC 9470 §3). Default: none.
    pub acr_values: Vec<String>,
    /// How refresh tokens are transported. Default: [`Transport::Cookie`].
    pub transport: Transport,
    /// The cookie for the refresh token. Default: `__Secure-refresh` with the path `/auth`, see [`CookieSettings`].
    pub refresh_cookie: CookieSettings,
    /// A cookie for the access token, for pages and WebSockets, where a script cannot set a header. In a settings file,
    /// fields that are left out have the defaults of [`CookieSettings::access`]. Default: none. Requires a `transport`
    /// with cookies and another name than the refresh cookie's.
    #[serde(deserialize_with = "cookie::access_cookie")]
    pub access_cookie: Option<CookieSettings>,
    /// Whether a hint cookie is set at every login and every refresh by cookie, and cleared together with the refresh
    /// cookie: `__Secure-session-hint=1`, for the path `/`, readable by scripts, and otherwise like the refresh cookie.
    /// A page without it need not ask the server on every load whether somebody is logged in. Default: `false`.
    /// Requires a `transport` with cookies.
    pub hint_cookie: bool,
    /// Whether cookies are sent without `Secure` and without name prefix, for development over plain http. Chrome,
    /// Firefox and curl do not need it for `http://localhost` and `http://127.0.0.1`; Safari and most HTTP libraries
    /// need it on any host ([recipe](crate::guide::recipes#http-clients-over-plain-http)). Default: `false`. Never in
    /// production.
    pub insecure_dev_cookies: bool,
    /// The networks of the reverse proxies whose [`forwarded_header`](Self::forwarded_header) is trusted, such as
    /// `10.0.0.0/8`. Default: none, so the header is ignored.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which the trusted proxies name the client. Default: [`ForwardedHeader::XForwardedFor`]. The other
    /// header is ignored.
    pub forwarded_header: ForwardedHeader,
    /// Whether [`forwarded_header`](Self::forwarded_header) is trusted where the server has no peer address, because only a
    /// proxy can reach the socket: on a Unix socket, or on AWS Lambda. The last element of the header is then the address
    /// of the nearest hop. Default: `false`. Never if clients can connect over TCP to a server without
    /// [connection info](crate::guide::recipes#unix-sockets-and-lambda): they could choose their address.
    pub trust_unknown_peer: bool,
    /// Other origins whose pages may send unsafe requests, spelled as in the `Origin` header: `https://app.example`, in
    /// lower case, without default port and trailing slash. An app with a scheme of its own is named in the same way:
    /// `capacitor://localhost`, `tauri://localhost`, `chrome-extension://<id>`, `file://`. Default: none.
    pub trusted_origins: Vec<String>,
    /// The path of the login page, such as `/login`. A layer redirects a GET for HTML to it instead of refusing it with
    /// 401, and appends `?next=` and the requested path and query, which the
    /// [login handler](crate::guide::recipes#back-to-the-requested-page) has to check. Default: none, all requests get
    /// 401. A local path without query.
    pub login_page: Option<String>,
    /// The path of the page where a user authenticates again, such as `/confirm`. Where a
    /// [stronger or more recent authentication](crate::Auth::require) is required, a layer redirects a GET for HTML to it, and a
    /// form that was submitted, with `?next=` and the page to go back to. Default: none, such requests get 401. A local path
    /// without query.
    pub step_up_page: Option<String>,
    /// How long ago the user may have been actively authenticated to end sessions: by `POST /logout/all`, `POST /logout/others`
    /// and `DELETE /sessions/{id}` of another session (OWASP ASVS 5.0, 7.5.2). Otherwise they are refused with 401
    /// `insufficient_user_authentication`. `POST /logout` is never refused. Default: none, any age. At least 1 second.
    #[serde(with = "optional_duration")]
    pub revocation_max_age: Option<Duration>,
    /// Whether the layers record who sends a request in the current span of `tracing`, such as that of tower-http's `TraceLayer`:
    /// in its fields `user.id` and `session.id`, the attributes of OpenTelemetry, if it has them. Default: `false`, because
    /// whoever reads the traces then knows who has done what ([guide](crate::guide::observability#logs-and-spans)).
    pub trace_users: bool,
}

/// The longest leeway.
pub(crate) const MAX_LEEWAY: Duration = Duration::from_secs(120);
/// The longest realm, in bytes.
const MAX_REALM: usize = 32;
/// The feed of revocations is read again for twice as long, every second.
const MAX_STORE_TIMEOUT: Duration = Duration::from_secs(60);

impl Default for Settings {
    fn default() -> Self {
        Self {
            issuer: "axum-refresh".to_owned(),
            audience: "axum-refresh".to_owned(),
            realm: None,
            policy: Policy::default(),
            leeway: Duration::ZERO,
            max_staleness: Duration::from_secs(30),
            store_timeout: Duration::from_secs(5),
            token_cache: 16_384,
            guard_cache: 262_144,
            acr_values: Vec::new(),
            transport: Transport::Cookie,
            refresh_cookie: CookieSettings::default(),
            access_cookie: None,
            hint_cookie: false,
            insecure_dev_cookies: false,
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::XForwardedFor,
            trust_unknown_peer: false,
            trusted_origins: Vec::new(),
            login_page: None,
            step_up_page: None,
            revocation_max_age: None,
            trace_users: false,
        }
    }
}

impl Settings {
    /// Returns the defaults with the two cookies that [`Auth::pages`](crate::Auth::pages) needs: `__Host-refresh` and
    /// `__Host-access`, both with `Path=/` and `SameSite=Lax`, so that a user who follows a link from an email is
    /// logged in.
    pub fn for_pages() -> Self {
        let refresh = CookieSettings::default().name;
        Self {
            refresh_cookie: CookieSettings { name: refresh, ..CookieSettings::access() },
            access_cookie: Some(CookieSettings::access()),
            ..Self::default()
        }
    }

    /// The hint cookie. Scripts find it by its name, so the name is always the same, whatever its path and domain.
    fn hint(&self) -> CookieSettings {
        let bare = strip_prefix(&self.refresh_cookie.name).unwrap_or(&self.refresh_cookie.name);
        // Two apps on one host may have refresh cookies of different names; each needs a hint of its own.
        let suffix = match bare.strip_prefix("refresh") {
            Some("") => String::new(),
            Some(suffix) if suffix.starts_with('-') => suffix.to_owned(),
            _ => format!("-{bare}"),
        };
        let name = format!("__Secure-session-hint{suffix}");
        CookieSettings { name, path: "/".to_owned(), ..self.refresh_cookie.clone() }
    }

    /// These settings with the realm in the names of the cookies.
    fn in_realm(&self) -> Self {
        let mut settings = self.clone();
        if let Some(realm) = &self.realm {
            for cookie in std::iter::once(&mut settings.refresh_cookie).chain(&mut settings.access_cookie) {
                cookie.name = format!("{}-{realm}", cookie.name);
            }
        }
        settings
    }

    /// Checks all settings, alone and together.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] for the first setting that is invalid.
    pub fn validate(&self) -> Result<(), SettingsError> {
        self.policy.validate()?;
        for (setting, text) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            if text.trim().is_empty() {
                return Err(SettingsError::new(setting, "empty; set it to the name of your app"));
            }
        }
        if self.issuer.contains('\0') {
            return Err(SettingsError::new("issuer", "contains a NUL character; remove it"));
        }
        if let Some(realm) = &self.realm {
            let is_plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
            if realm.is_empty() || realm.len() > MAX_REALM || !realm.bytes().all(is_plain) {
                return Err(SettingsError::new(
                    "realm",
                    format!(
                        "{realm:?} is not 1 to {MAX_REALM} characters of a-z, 0-9, - and _; use a name such as `admin`"
                    ),
                ));
            }
        }
        if self.leeway > MAX_LEEWAY {
            return Err(SettingsError::new("leeway", "too long; the limit is 2 minutes"));
        }
        if self.policy.idle_timeout <= self.policy.access_ttl + self.leeway {
            return Err(SettingsError::new(
                "leeway",
                "access_ttl and leeway together must be shorter than idle_timeout",
            ));
        }
        if self.policy.min_idle_timeout.is_some_and(|min| min <= self.policy.access_ttl + self.leeway) {
            return Err(SettingsError::new(
                "leeway",
                "access_ttl and leeway together must be shorter than min_idle_timeout",
            ));
        }
        for (n, acr) in self.acr_values.iter().enumerate() {
            let is_plain = acr.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
            if acr.is_empty() || !is_plain {
                return Err(SettingsError::new(
                    "acr_values",
                    format!(
                        "{acr:?} is empty or has other characters than a challenge may list; use one such as `aal2`"
                    ),
                ));
            }
            if self.acr_values.iter().take(n).any(|other| other == acr) {
                return Err(SettingsError::new("acr_values", format!("{acr:?} is there twice; list each once")));
            }
        }
        if self.max_staleness < Duration::from_secs(2) {
            return Err(SettingsError::new(
                "max_staleness",
                "too short; use at least 2 seconds, because the store is read every second",
            ));
        }
        if self.store_timeout.is_zero() {
            return Err(SettingsError::new(
                "store_timeout",
                "0 would fail every call of the store; use the default of 5s, for example",
            ));
        }
        if self.store_timeout > MAX_STORE_TIMEOUT {
            return Err(SettingsError::new(
                "store_timeout",
                format!(
                    "{} is too long; the limit is 1 minute, because every read of the revocations repeats twice as much",
                    humantime::format_duration(self.store_timeout)
                ),
            ));
        }
        let insecure = self.insecure_dev_cookies;
        self.refresh_cookie.validate("refresh_cookie", insecure)?;
        if let Some(access) = &self.access_cookie {
            access.validate("access_cookie", insecure)?;
            if !self.transport.has_cookie() {
                return Err(SettingsError::new(
                    "access_cookie",
                    "transport `body` sets no cookies; use `cookie` or `both`",
                ));
            }
            if access.full_name(insecure) == self.refresh_cookie.full_name(insecure) {
                return Err(SettingsError::new("access_cookie", "same name as the refresh cookie; choose another one"));
            }
        }
        if self.hint_cookie {
            if !self.transport.has_cookie() {
                return Err(SettingsError::new(
                    "hint_cookie",
                    "transport `body` sets no cookies; use `cookie` or `both`",
                ));
            }
            let hint = self.hint().full_name(insecure);
            let taken = |cookie: &CookieSettings| cookie.full_name(insecure) == hint;
            if taken(&self.refresh_cookie) || self.access_cookie.as_ref().is_some_and(taken) {
                return Err(SettingsError::new(
                    "hint_cookie",
                    "another cookie has the name of the hint cookie; rename that one",
                ));
            }
        }
        // Peers are compared in their IPv4 form.
        let is_mapped = |net: &IpNet| matches!(net, IpNet::V6(net) if net.network().to_ipv4_mapped().is_some());
        if let Some(net) = self.trusted_proxies.iter().find(|net| is_mapped(net)) {
            return Err(SettingsError::new(
                "trusted_proxies",
                format!("{net} never matches; write it as an IPv4 network, such as `10.0.0.0/8`"),
            ));
        }
        resolved::csrf(&self.trusted_origins).map(drop)?;
        for (setting, page) in [("login_page", &self.login_page), ("step_up_page", &self.step_up_page)] {
            page.as_deref().map(|page| resolved::page(setting, page)).transpose()?;
        }
        if self.revocation_max_age.is_some_and(|max_age| max_age < Duration::from_secs(1)) {
            return Err(SettingsError::new(
                "revocation_max_age",
                "no authentication is that recent; use at least 1 second, or leave it out",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(settings: &Settings) -> &'static str {
        settings.validate().unwrap_err().setting()
    }

    fn cookie(cookie: CookieSettings) -> Settings {
        Settings { refresh_cookie: cookie, ..Settings::default() }
    }

    #[test]
    fn the_defaults_are_valid_and_read_from_an_empty_file() {
        assert_eq!(Settings::default().validate(), Ok(()));
        assert_eq!(toml::from_str::<Settings>("").unwrap(), Settings::default());
        let text = toml::to_string(&Settings::default()).unwrap();
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), Settings::default());
    }

    #[test]
    fn unknown_names_are_errors_on_every_level() {
        for text in
            ["audiance = 'x'", "[policy]\nttl = '1m'", "[refresh_cookie]\nsecure = false", "[access_cookie]\nx = 1"]
        {
            assert!(toml::from_str::<Settings>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_issuer_or_audience_is_rejected() {
        let empty = || " ".to_owned();
        assert_eq!(rejected(&Settings { issuer: empty(), ..Settings::default() }), "issuer");
        assert_eq!(rejected(&Settings { audience: String::new(), ..Settings::default() }), "audience");
    }

    #[test]
    fn durations_out_of_range_are_rejected() {
        let secs = Duration::from_secs;
        assert_eq!(rejected(&Settings { leeway: secs(121), ..Settings::default() }), "leeway");
        assert_eq!(rejected(&Settings { max_staleness: secs(1), ..Settings::default() }), "max_staleness");
        assert_eq!(rejected(&Settings { store_timeout: secs(0), ..Settings::default() }), "store_timeout");
        assert_eq!(rejected(&Settings { store_timeout: secs(61), ..Settings::default() }), "store_timeout");
    }

    #[test]
    fn an_access_cookie_in_a_file_has_the_defaults_for_pages() {
        let read = |text: &str| toml::from_str::<Settings>(text).unwrap().access_cookie;
        assert_eq!(read("[access_cookie]"), Some(CookieSettings::access()));
        let named = CookieSettings { name: "a".to_owned(), same_site: SameSite::Strict, ..CookieSettings::access() };
        assert_eq!(read("[access_cookie]\nname = 'a'\nsame_site = 'strict'"), Some(named));
        assert_eq!(read(""), None);
    }

    #[test]
    fn an_access_cookie_that_would_never_be_set_is_rejected() {
        let access_cookie = Some(CookieSettings::access());
        let settings = Settings { access_cookie, transport: Transport::Body, ..Settings::default() };
        assert_eq!(rejected(&settings), "access_cookie");
    }

    #[test]
    fn two_cookies_with_one_name_are_rejected() {
        let settings = Settings { access_cookie: Some(CookieSettings::default()), ..Settings::default() };
        assert_eq!(rejected(&settings), "access_cookie");
    }

    #[test]
    fn a_hint_cookie_that_would_never_be_set_or_has_the_name_of_another_is_rejected() {
        let hint = |settings: Settings| Settings { hint_cookie: true, ..settings };
        assert_eq!(hint(Settings::default()).validate(), Ok(()));
        assert_eq!(rejected(&hint(Settings { transport: Transport::Body, ..Settings::default() })), "hint_cookie");
        let named = || CookieSettings { name: "session-hint".to_owned(), ..CookieSettings::default() };
        // The hint's name follows the refresh cookie's, so these two never meet.
        assert_eq!(hint(cookie(named())).validate(), Ok(()));
        assert_eq!(rejected(&hint(Settings { access_cookie: Some(named()), ..Settings::default() })), "hint_cookie");
    }

    #[test]
    fn an_origin_that_no_browser_sends_is_rejected() {
        let with = |origin: &str| Settings { trusted_origins: vec![origin.to_owned()], ..Settings::default() };
        for origin in [
            "https://app.example",
            "http://localhost:3000",
            "https://xn--bcher-kva.example:8443",
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "app://obsidian.md",
            "chrome-extension://cjpalhdlnbpafiamejdnhcphjbkeiagm",
            "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc",
            "file://",
        ] {
            assert_eq!(with(origin).validate(), Ok(()), "{origin}");
        }
        for origin in [
            "",
            "app.example",
            "https://app.example/",
            "https://app.example/path",
            "https://App.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://b\u{fc}cher.example",
            "ftp://app.example",
            "capacitor://",
            "capacitor://localhost/",
            "Capacitor://localhost",
            "capacitor:localhost",
            "://localhost",
            "file:///",
            "file://host",
            "data://x",
            "null",
            "*",
        ] {
            assert_eq!(rejected(&with(origin)), "trusted_origins", "{origin}");
        }
    }

    #[test]
    fn a_proxy_network_that_no_address_matches_is_rejected() {
        let with = |net: &str| Settings { trusted_proxies: vec![net.parse().unwrap()], ..Settings::default() };
        for net in ["10.0.0.0/8", "10.1.2.3/8", "2001:db8::/32", "::1/128", "0.0.0.0/0", "::/0"] {
            assert_eq!(with(net).validate(), Ok(()), "{net}");
        }
        for net in ["::ffff:10.0.0.0/104", "::ffff:127.0.0.1/128"] {
            assert_eq!(rejected(&with(net)), "trusted_proxies", "{net}");
        }
    }

    #[test]
    fn the_forwarding_header_is_read_by_its_name() {
        let read = |text: &str| toml::from_str::<Settings>(text).map(|settings| settings.forwarded_header);
        assert_eq!(read(""), Ok(ForwardedHeader::XForwardedFor));
        for (name, header) in
            [("x_forwarded_for", ForwardedHeader::XForwardedFor), ("forwarded", ForwardedHeader::Forwarded)]
        {
            assert_eq!(read(&format!("forwarded_header = '{name}'")), Ok(header));
            assert_eq!(name.parse(), Ok(header));
        }
        assert!("X-Real-IP".parse::<ForwardedHeader>().is_err() && read("forwarded_header = 'x_real_ip'").is_err());
    }

    #[test]
    fn an_access_token_and_its_leeway_cannot_outlast_the_idle_timeout() {
        let secs = Duration::from_secs;
        let policy = Policy { access_ttl: secs(60), idle_timeout: secs(90), ..Policy::default() };
        let with = |leeway| Settings { policy: policy.clone(), leeway: secs(leeway), ..Settings::default() };
        assert_eq!(with(29).validate(), Ok(()));
        assert_eq!(rejected(&with(30)), "leeway");
    }

    #[test]
    fn a_login_page_is_a_local_path() {
        let with = |page: &str| Settings { login_page: Some(page.to_owned()), ..Settings::default() };
        assert_eq!(with("/login").validate(), Ok(()));
        for page in ["", "login", "//evil.example", "https://evil.example/", "/\\evil.example", "/login?x", "/a b"] {
            assert_eq!(rejected(&with(page)), "login_page", "{page}");
        }
    }
}
