//! Everything an app may set and can read from a file or its environment: plain data, validated once.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tower_http::csrf::CsrfLayer;

use crate::policy::{ConfigError, Policy, duration};

/// All settings but the secret, the store and the hooks, which are code.
///
/// Reads from any format that serde knows; unknown names are errors, durations are written as `15m` or `1500ms`:
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
    /// Who issues the tokens: their `iss`. Two apps with different issuers never accept each other's tokens, even if
    /// they share a secret. Changing it logs everybody out. Default: `axum-refresh`.
    pub issuer: String,
    /// Whom access tokens are for: their `aud`. Default: `axum-refresh`.
    pub audience: String,
    /// Lifetimes, rotation, binding.
    pub policy: Policy,
    /// For how long after its end an access token is still taken. Default: none; at most two minutes.
    #[serde(with = "duration")]
    pub leeway: Duration,
    /// When nothing was heard from the store for this long, requests ask it themselves whether something was revoked,
    /// and fail with 503 where it does not answer. Default: 30 seconds; at least 2.
    #[serde(with = "duration")]
    pub max_staleness: Duration,
    /// How long a call of the store may take before it counts as failed. Default: 5 seconds.
    #[serde(with = "duration")]
    pub store_timeout: Duration,
    /// How many verified access tokens are kept in memory, so that the same one is not verified again; about 600
    /// bytes each. Default: 16,384; 0: none.
    pub token_cache: usize,
    /// How many sessions the guard remembers, so that it does not ask the store for them again: 100 bytes each, 250
    /// where a binding compares clients. Those of the tokens in the token cache need no second look anyway. Default:
    /// 262,144.
    pub guard_cache: usize,
    /// How refresh tokens travel. Default: in a cookie.
    pub transport: Transport,
    /// The cookie that a refresh token travels in.
    pub refresh_cookie: CookieSettings,
    /// A cookie for the access token, for pages and WebSockets, where a script cannot set a header. What is left out of
    /// it is as in [`CookieSettings::access`]. Default: none.
    #[serde(deserialize_with = "access_cookie")]
    pub access_cookie: Option<CookieSettings>,
    /// Sets a second cookie beside the refresh cookie, which says only that there is one: `__Secure-session-hint=1`, for
    /// the path `/`, readable by scripts, otherwise like the refresh cookie. Set and cleared together with it. A page
    /// that finds none need not ask the server whether somebody is logged in. Default: off.
    pub hint_cookie: bool,
    /// Leaves `Secure` and the prefix off the cookies, for development over http on another host than this one.
    /// Browsers take secure cookies from `http://localhost`. Default: off.
    pub insecure_dev_cookies: bool,
    /// The networks of the proxies that may say in `X-Forwarded-For` who the client is. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// Other origins whose pages may send unsafe requests, as browsers write them: `https://app.example`. Default:
    /// none.
    pub trusted_origins: Vec<String>,
    /// The local path of a page where people log in. A GET for HTML that would be refused with 401 goes there, with
    /// `?next=` and the path that was asked for. Default: none; everybody gets 401.
    pub login_page: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            issuer: "axum-refresh".to_owned(),
            audience: "axum-refresh".to_owned(),
            policy: Policy::default(),
            leeway: Duration::ZERO,
            max_staleness: Duration::from_secs(30),
            store_timeout: Duration::from_secs(5),
            token_cache: 16_384,
            guard_cache: 262_144,
            transport: Transport::Cookie,
            refresh_cookie: CookieSettings::default(),
            access_cookie: None,
            hint_cookie: false,
            insecure_dev_cookies: false,
            trusted_proxies: Vec::new(),
            trusted_origins: Vec::new(),
            login_page: None,
        }
    }
}

/// How refresh tokens travel between client and server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// In a cookie that no script can read: for browsers.
    #[default]
    Cookie,
    /// In the JSON body, both ways: for native clients, which keep it in the system's key store.
    Body,
    /// Either; the answer goes back the way the token came. A request with both is judged by its cookie.
    Both,
}

impl Transport {
    pub(crate) const fn has_cookie(self) -> bool {
        matches!(self, Self::Cookie | Self::Both)
    }

    pub(crate) const fn has_body(self) -> bool {
        matches!(self, Self::Body | Self::Both)
    }
}

/// A cookie, without its value. It is always `HttpOnly`, and `Secure` but for
/// [`insecure_dev_cookies`](Settings::insecure_dev_cookies).
///
/// To browsers, path and domain are part of a cookie's identity: after a change of either they go on sending the old one
/// beside the new one, until it expires. Change the name as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CookieSettings {
    /// Its name. `__Host-` is put before it where the path is `/` and there is no domain, `__Secure-` elsewhere
    /// (RFC 6265bis §4.1.3); a name that has a prefix keeps it. Default: `refresh`.
    pub name: String,
    /// The path under which the browser sends it: where the app mounts the router. Default: `/auth`.
    pub path: String,
    /// The domain whose subdomains get it too. Default: none, and this host alone gets it.
    pub domain: Option<String>,
    /// Whether other sites' requests carry it. Default: strict, they never do.
    pub same_site: SameSite,
    /// Keeps it apart by the site that embeds this one (CHIPS). Default: off.
    pub partitioned: bool,
    /// Whether it outlives the browser (`Max-Age`, as long as the session). Default: yes.
    pub persistent: bool,
}

impl Default for CookieSettings {
    fn default() -> Self {
        Self {
            name: "refresh".to_owned(),
            path: "/auth".to_owned(),
            domain: None,
            same_site: SameSite::Strict,
            partitioned: false,
            persistent: true,
        }
    }
}

/// A cookie as it is written in a file, where what is left out depends on which cookie it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartialCookie {
    name: Option<String>,
    path: Option<String>,
    domain: Option<String>,
    same_site: Option<SameSite>,
    partitioned: Option<bool>,
    persistent: Option<bool>,
}

fn access_cookie<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<CookieSettings>, D::Error> {
    let usual = CookieSettings::access();
    Ok(Option::<PartialCookie>::deserialize(deserializer)?.map(|cookie| CookieSettings {
        name: cookie.name.unwrap_or(usual.name),
        path: cookie.path.unwrap_or(usual.path),
        domain: cookie.domain.or(usual.domain),
        same_site: cookie.same_site.unwrap_or(usual.same_site),
        partitioned: cookie.partitioned.unwrap_or(usual.partitioned),
        persistent: cookie.persistent.unwrap_or(usual.persistent),
    }))
}

impl CookieSettings {
    /// The usual access cookie: `__Host-access`, `Path=/`, `SameSite=Lax`.
    pub fn access() -> Self {
        Self { name: "access".to_owned(), path: "/".to_owned(), same_site: SameSite::Lax, ..Self::default() }
    }

    /// The name that is sent.
    pub(crate) fn full_name(&self, insecure: bool) -> String {
        match without_prefix(&self.name) {
            Some(bare) if insecure => bare.to_owned(),
            None if !insecure && self.path == "/" && self.domain.is_none() => format!("{}{}", HOST.0, self.name),
            None if !insecure => format!("{}{}", SECURE.0, self.name),
            _ => self.name.clone(),
        }
    }

    fn validate(&self, setting: &'static str, insecure: bool) -> Result<(), ConfigError> {
        let refuse = |problem: String| Err(ConfigError::new(setting, problem));
        let is_token = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        };
        let bare = without_prefix(&self.name).unwrap_or(&self.name);
        // A prefix before nothing, or before another, is a name that insecure_dev_cookies would turn into no name at all
        // or into one that browsers refuse.
        if !is_token(&self.name) || bare.is_empty() || without_prefix(bare).is_some() {
            return refuse(format!("{:?} is no cookie name", self.name));
        }
        let is_attribute = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b';');
        if !self.path.starts_with('/') || !is_attribute(&self.path) {
            return refuse(format!("{:?} is no cookie path", self.path));
        }
        if let Some(domain) = &self.domain {
            let is_label =
                |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !domain.split('.').all(is_label) {
                return refuse(format!("{domain:?} is no domain"));
            }
        }
        if HOST.strip(&self.name).is_some() && (self.path != "/" || self.domain.is_some()) {
            return refuse("the prefix __Host- wants the path / and no domain".to_owned());
        }
        if insecure && self.same_site == SameSite::None {
            return refuse("same_site none wants Secure, and insecure_dev_cookies drops it".to_owned());
        }
        if insecure && self.partitioned {
            return refuse("partitioned wants Secure, and insecure_dev_cookies drops it".to_owned());
        }
        Ok(())
    }
}

/// A cookie name prefix. Browsers compare it without regard to case.
struct Prefix(&'static str);

const HOST: Prefix = Prefix("__Host-");
const SECURE: Prefix = Prefix("__Secure-");

impl Prefix {
    fn strip<'a>(&self, name: &'a str) -> Option<&'a str> {
        let (start, rest) = name.split_at_checked(self.0.len())?;
        start.eq_ignore_ascii_case(self.0).then_some(rest)
    }
}

/// What follows the prefix; none where there is no prefix.
fn without_prefix(name: &str) -> Option<&str> {
    HOST.strip(name).or_else(|| SECURE.strip(name))
}

/// Whether the requests that other sites cause carry a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// Never.
    #[default]
    Strict,
    /// Only when the user follows a link.
    Lax,
    /// Always. Wants `Secure`, and a reason.
    None,
}

impl Settings {
    /// The defaults, with the two cookies that [`Auth::pages`](crate::Auth::pages) wants: `__Host-refresh` and
    /// `__Host-access`, both with `Path=/` and `SameSite=Lax`, so that who follows a link from a mail is logged in.
    pub fn for_pages() -> Self {
        let mut settings = Self::default();
        settings.choose_cookies_for_pages();
        settings
    }

    /// The hint is found by its name, so it has one only, whatever its path and domain.
    pub(crate) fn hint(&self) -> CookieSettings {
        let name = "__Secure-session-hint".to_owned();
        CookieSettings { name, path: "/".to_owned(), ..self.refresh_cookie.clone() }
    }

    pub(crate) fn choose_cookies_for_pages(&mut self) {
        let refresh = CookieSettings::default().name;
        self.refresh_cookie = CookieSettings { name: refresh, ..CookieSettings::access() };
        self.access_cookie = Some(CookieSettings::access());
    }

    /// Whether the settings go together.
    ///
    /// # Errors
    /// Names the first setting that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.policy.validate()?;
        for (setting, text) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            if text.trim().is_empty() {
                return Err(ConfigError::new(setting, "it is empty"));
            }
        }
        if self.leeway > Duration::from_secs(120) {
            return Err(ConfigError::new("leeway", "more than two minutes"));
        }
        if self.policy.idle_timeout <= self.policy.access_ttl + self.leeway {
            return Err(ConfigError::new("leeway", "access_ttl and leeway together reach idle_timeout"));
        }
        if self.max_staleness < Duration::from_secs(2) {
            return Err(ConfigError::new("max_staleness", "less than two seconds; the store is asked every second"));
        }
        if self.store_timeout.is_zero() {
            return Err(ConfigError::new("store_timeout", "no call of the store takes no time"));
        }
        let insecure = self.insecure_dev_cookies;
        self.refresh_cookie.validate("refresh_cookie", insecure)?;
        if let Some(access) = &self.access_cookie {
            access.validate("access_cookie", insecure)?;
            if !self.transport.has_cookie() {
                return Err(ConfigError::new("access_cookie", "transport body sets no cookies"));
            }
            if access.full_name(insecure) == self.refresh_cookie.full_name(insecure) {
                return Err(ConfigError::new("access_cookie", "it has the name of the refresh cookie"));
            }
        }
        if self.hint_cookie {
            if !self.transport.has_cookie() {
                return Err(ConfigError::new("hint_cookie", "transport body sets no cookies"));
            }
            let hint = self.hint().full_name(insecure);
            let taken = |cookie: &CookieSettings| cookie.full_name(insecure) == hint;
            if taken(&self.refresh_cookie) || self.access_cookie.as_ref().is_some_and(taken) {
                return Err(ConfigError::new("hint_cookie", "another cookie has its name"));
            }
        }
        for origin in &self.trusted_origins {
            validate_origin(origin)?;
        }
        if let Some(page) = &self.login_page {
            let local = page.starts_with('/') && !page.starts_with("//") && page.bytes().all(|b| b.is_ascii_graphic());
            if !local || page.contains(['\\', '?', '#']) {
                return Err(ConfigError::new("login_page", format!("{page:?} is no local path")));
            }
        }
        Ok(())
    }
}

/// An origin is compared byte for byte with what browsers send, so a spelling that they never use would never match.
fn validate_origin(origin: &str) -> Result<(), ConfigError> {
    let refuse = |problem: String| Err(ConfigError::new("trusted_origins", problem));
    if let Err(error) = CsrfLayer::new().add_trusted_origin(origin) {
        return refuse(error.to_string());
    }
    let default_port = (origin.starts_with("https:") && origin.ends_with(":443"))
        || (origin.starts_with("http:") && origin.ends_with(":80"));
    if default_port || origin.ends_with('/') || origin.bytes().any(|b| b.is_ascii_uppercase()) {
        return refuse(format!("{origin:?}: browsers write it in lower case, without a default port or a slash"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(settings: &Settings) -> &'static str {
        settings.validate().unwrap_err().setting()
    }

    fn cookie(cookie: CookieSettings) -> Settings {
        Settings { refresh_cookie: cookie, ..Settings::default() }
    }

    #[test]
    fn the_defaults_are_valid_and_read_from_nothing() {
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
    fn an_empty_issuer_or_audience_is_refused() {
        let empty = || " ".to_owned();
        assert_eq!(refused(&Settings { issuer: empty(), ..Settings::default() }), "issuer");
        assert_eq!(refused(&Settings { audience: String::new(), ..Settings::default() }), "audience");
    }

    #[test]
    fn times_that_make_no_sense_are_refused() {
        let secs = Duration::from_secs;
        assert_eq!(refused(&Settings { leeway: secs(121), ..Settings::default() }), "leeway");
        assert_eq!(refused(&Settings { max_staleness: secs(1), ..Settings::default() }), "max_staleness");
        assert_eq!(refused(&Settings { store_timeout: secs(0), ..Settings::default() }), "store_timeout");
    }

    #[test]
    fn a_cookie_gets_the_strongest_prefix_that_fits_it() {
        let name = |cookie: &CookieSettings, insecure| cookie.full_name(insecure);
        let default = CookieSettings::default();
        assert_eq!(name(&default, false), "__Secure-refresh");
        assert_eq!(name(&default, true), "refresh");
        assert_eq!(name(&CookieSettings::access(), false), "__Host-access");
        let wide = CookieSettings { domain: Some("example.com".to_owned()), ..CookieSettings::access() };
        assert_eq!(name(&wide, false), "__Secure-access");
        let named = CookieSettings { name: "__secure-x".to_owned(), ..CookieSettings::access() };
        assert_eq!((name(&named, false).as_str(), name(&named, true).as_str()), ("__secure-x", "x"));
    }

    #[test]
    fn a_host_prefix_against_path_or_domain_is_refused() {
        for name in ["__Host-x", "__host-x"] {
            let named = |path: &str, domain: Option<&str>| CookieSettings {
                name: name.to_owned(),
                path: path.to_owned(),
                domain: domain.map(str::to_owned),
                ..CookieSettings::default()
            };
            assert_eq!(cookie(named("/", None)).validate(), Ok(()));
            assert_eq!(refused(&cookie(named("/auth", None))), "refresh_cookie");
            assert_eq!(refused(&cookie(named("/", Some("example.com")))), "refresh_cookie");
        }
    }

    #[test]
    fn same_site_none_and_partitioned_want_secure() {
        let none = CookieSettings { same_site: SameSite::None, ..CookieSettings::default() };
        let partitioned = CookieSettings { partitioned: true, ..CookieSettings::default() };
        for special in [none, partitioned] {
            let secure = cookie(special);
            assert_eq!(secure.validate(), Ok(()));
            assert_eq!(refused(&Settings { insecure_dev_cookies: true, ..secure }), "refresh_cookie");
        }
    }

    #[test]
    fn what_would_break_the_header_is_refused() {
        let with = |name: &str, path: &str, domain: &str| {
            cookie(CookieSettings {
                name: name.to_owned(),
                path: path.to_owned(),
                domain: Some(domain.to_owned()),
                ..CookieSettings::default()
            })
        };
        assert_eq!(with("a", "/", "example.com").validate(), Ok(()));
        for (name, path, domain) in [
            ("", "/", "a.b"),
            ("__Secure-", "/", "a.b"),
            ("__Secure-__host-a", "/", "a.b"),
            ("a b", "/", "a.b"),
            ("a=", "/", "a.b"),
            ("é", "/", "a.b"),
            ("a", "auth", "a.b"),
            ("a", "/;Secure", "a.b"),
            ("a", "/\r\n", "a.b"),
            ("a", "/", ""),
            ("a", "/", ".a.b"),
            ("a", "/", "a.b;"),
        ] {
            assert_eq!(refused(&with(name, path, domain)), "refresh_cookie", "{name} {path} {domain}");
        }
    }

    #[test]
    fn an_access_cookie_in_a_file_is_one_for_pages_unless_it_says_otherwise() {
        let read = |text: &str| toml::from_str::<Settings>(text).unwrap().access_cookie;
        assert_eq!(read("[access_cookie]"), Some(CookieSettings::access()));
        let named = CookieSettings { name: "a".to_owned(), same_site: SameSite::Strict, ..CookieSettings::access() };
        assert_eq!(read("[access_cookie]\nname = 'a'\nsame_site = 'strict'"), Some(named));
        assert_eq!(read(""), None);
    }

    #[test]
    fn an_access_cookie_that_would_never_be_set_is_refused() {
        let access_cookie = Some(CookieSettings::access());
        let settings = Settings { access_cookie, transport: Transport::Body, ..Settings::default() };
        assert_eq!(refused(&settings), "access_cookie");
    }

    #[test]
    fn two_cookies_of_one_name_are_refused() {
        let settings = Settings { access_cookie: Some(CookieSettings::default()), ..Settings::default() };
        assert_eq!(refused(&settings), "access_cookie");
    }

    #[test]
    fn a_hint_that_would_never_be_set_or_has_anothers_name_is_refused() {
        let hint = |settings: Settings| Settings { hint_cookie: true, ..settings };
        assert_eq!(hint(Settings::default()).validate(), Ok(()));
        assert_eq!(refused(&hint(Settings { transport: Transport::Body, ..Settings::default() })), "hint_cookie");
        let named = || CookieSettings { name: "session-hint".to_owned(), ..CookieSettings::default() };
        assert_eq!(refused(&hint(cookie(named()))), "hint_cookie");
        assert_eq!(refused(&hint(Settings { access_cookie: Some(named()), ..Settings::default() })), "hint_cookie");
    }

    #[test]
    fn an_origin_that_no_browser_sends_is_refused() {
        let with = |origin: &str| Settings { trusted_origins: vec![origin.to_owned()], ..Settings::default() };
        for origin in ["https://app.example", "http://localhost:3000", "https://xn--bcher-kva.example:8443"] {
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
            "null",
            "*",
        ] {
            assert_eq!(refused(&with(origin)), "trusted_origins", "{origin}");
        }
    }

    #[test]
    fn an_access_token_within_its_leeway_cannot_outlast_the_idle_timeout() {
        let secs = Duration::from_secs;
        let policy = Policy { access_ttl: secs(60), idle_timeout: secs(90), ..Policy::default() };
        let with = |leeway| Settings { policy: policy.clone(), leeway: secs(leeway), ..Settings::default() };
        assert_eq!(with(29).validate(), Ok(()));
        assert_eq!(refused(&with(30)), "leeway");
    }

    #[test]
    fn a_login_page_is_a_local_path() {
        let with = |page: &str| Settings { login_page: Some(page.to_owned()), ..Settings::default() };
        assert_eq!(with("/login").validate(), Ok(()));
        for page in ["", "login", "//evil.example", "https://evil.example/", "/\\evil.example", "/login?x", "/a b"] {
            assert_eq!(refused(&with(page)), "login_page", "{page}");
        }
    }
}
