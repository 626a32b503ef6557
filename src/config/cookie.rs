//! The settings of a cookie.

use serde::{Deserialize, Serialize};

use super::SettingsError;

/// The name and the attributes of a cookie. It is always `HttpOnly`, and always `Secure` unless
/// [`insecure_dev_cookies`](super::Settings::insecure_dev_cookies) is on.
///
/// Browsers identify a cookie by its name, path and domain. If you change the path or the domain of a deployed app,
/// change the name as well: otherwise browsers send both the old and the new cookie until the old one expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CookieSettings {
    /// The name of the cookie. It is sent with the prefix `__Host-` if the path is `/` and there is no domain,
    /// otherwise with `__Secure-` (RFC 6265bis §4.1.3); a name that already has a prefix is sent as it is. Default:
    /// `refresh`.
    pub name: String,
    /// The path below which the browser sends the cookie; for the refresh cookie, the path at which the app mounts
    /// [`Auth::router`](crate::Auth::router). Default: `/auth`.
    pub path: String,
    /// The domain to which, with all its subdomains, the browser sends the cookie. Default: none, so only the host that
    /// set the cookie receives it.
    pub domain: Option<String>,
    /// Which requests from other sites include the cookie. Default: [`SameSite::Strict`], none.
    pub same_site: SameSite,
    /// Whether the browser keeps a separate cookie for each site that embeds this one (CHIPS). Default: `false`.
    pub partitioned: bool,
    /// Whether the cookie survives closing the browser: it then has a `Max-Age` and expires with the session, or, as
    /// the access cookie, with the access token. Default: `true`.
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

/// The access cookie in a settings file. Fields that are left out have the defaults of [`CookieSettings::access`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartialAccessCookie {
    name: Option<String>,
    path: Option<String>,
    domain: Option<String>,
    same_site: Option<SameSite>,
    partitioned: Option<bool>,
    persistent: Option<bool>,
}

pub(super) fn access_cookie<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<CookieSettings>, D::Error> {
    let default = CookieSettings::access();
    Ok(Option::<PartialAccessCookie>::deserialize(deserializer)?.map(|cookie| CookieSettings {
        name: cookie.name.unwrap_or(default.name),
        path: cookie.path.unwrap_or(default.path),
        domain: cookie.domain.or(default.domain),
        same_site: cookie.same_site.unwrap_or(default.same_site),
        partitioned: cookie.partitioned.unwrap_or(default.partitioned),
        persistent: cookie.persistent.unwrap_or(default.persistent),
    }))
}

impl CookieSettings {
    /// Returns the default access cookie: `__Host-access`, `Path=/`, `SameSite=Lax`.
    pub fn access() -> Self {
        Self { name: "access".to_owned(), path: "/".to_owned(), same_site: SameSite::Lax, ..Self::default() }
    }

    /// Returns the name with its prefix, as it is sent.
    pub(crate) fn full_name(&self, insecure: bool) -> String {
        match strip_prefix(&self.name) {
            Some(bare) if insecure => bare.to_owned(),
            None if !insecure && self.path == "/" && self.domain.is_none() => format!("{}{}", HOST.0, self.name),
            None if !insecure => format!("{}{}", SECURE.0, self.name),
            _ => self.name.clone(),
        }
    }

    pub(super) fn validate(&self, setting: &'static str, insecure: bool) -> Result<(), SettingsError> {
        let reject = |problem: String| Err(SettingsError::new(setting, problem));
        let is_token = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        };
        let bare = strip_prefix(&self.name).unwrap_or(&self.name);
        // insecure_dev_cookies drops the prefix, so there must be a name after it, and one without another prefix.
        if !is_token(&self.name) || bare.is_empty() || strip_prefix(bare).is_some() {
            return reject(format!("invalid cookie name {:?}; use letters, digits, `-` and `_`", self.name));
        }
        let is_attribute = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b';');
        if !self.path.starts_with('/') || !is_attribute(&self.path) {
            return reject(format!("invalid cookie path {:?}; start it with `/`", self.path));
        }
        if let Some(domain) = &self.domain {
            let is_label =
                |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !domain.split('.').all(is_label) {
                return reject(format!("invalid domain {domain:?}; write it as `example.com`"));
            }
        }
        if HOST.strip(&self.name).is_some() && (self.path != "/" || self.domain.is_some()) {
            return reject("`__Host-` cookies require path `/` and no domain".to_owned());
        }
        if insecure && self.same_site == SameSite::None {
            return reject("same_site `none` requires Secure; switch insecure_dev_cookies off".to_owned());
        }
        if insecure && self.partitioned {
            return reject("partitioned requires Secure; switch insecure_dev_cookies off".to_owned());
        }
        Ok(())
    }
}

/// The prefix of a cookie name. Browsers compare it case-insensitively.
struct Prefix(&'static str);

const HOST: Prefix = Prefix("__Host-");
const SECURE: Prefix = Prefix("__Secure-");

impl Prefix {
    fn strip<'a>(&self, name: &'a str) -> Option<&'a str> {
        let (start, rest) = name.split_at_checked(self.0.len())?;
        start.eq_ignore_ascii_case(self.0).then_some(rest)
    }
}

/// Returns the name after the prefix, or `None` if there is no prefix.
pub(super) fn strip_prefix(name: &str) -> Option<&str> {
    HOST.strip(name).or_else(|| SECURE.strip(name))
}

/// Which requests that are caused by other sites include a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// None of them.
    #[default]
    Strict,
    /// Only those of a user who follows a link (top-level navigations with a safe method).
    Lax,
    /// All of them. Requires `Secure`; use it only for an app that other sites embed or call.
    None,
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    fn settings(cookie: CookieSettings) -> Settings {
        Settings { refresh_cookie: cookie, ..Settings::default() }
    }

    fn rejected(settings: &Settings) -> &'static str {
        settings.validate().unwrap_err().setting()
    }

    #[test]
    fn a_cookie_gets_the_strictest_prefix_that_fits_it() {
        let name = |cookie: &CookieSettings, insecure| cookie.full_name(insecure);
        let default = CookieSettings::default();
        assert_eq!(name(&default, false), "__Secure-refresh");
        assert_eq!(name(&default, true), "refresh");
        assert_eq!(name(&CookieSettings::access(), false), "__Host-access");
        let with_domain = CookieSettings { domain: Some("example.com".to_owned()), ..CookieSettings::access() };
        assert_eq!(name(&with_domain, false), "__Secure-access");
        let named = CookieSettings { name: "__secure-x".to_owned(), ..CookieSettings::access() };
        assert_eq!((name(&named, false).as_str(), name(&named, true).as_str()), ("__secure-x", "x"));
    }

    #[test]
    fn a_host_prefix_with_a_path_or_a_domain_is_rejected() {
        for name in ["__Host-x", "__host-x"] {
            let named = |path: &str, domain: Option<&str>| CookieSettings {
                name: name.to_owned(),
                path: path.to_owned(),
                domain: domain.map(str::to_owned),
                ..CookieSettings::default()
            };
            assert_eq!(settings(named("/", None)).validate(), Ok(()));
            assert_eq!(rejected(&settings(named("/auth", None))), "refresh_cookie");
            assert_eq!(rejected(&settings(named("/", Some("example.com")))), "refresh_cookie");
        }
    }

    #[test]
    fn same_site_none_and_partitioned_require_secure() {
        let none = CookieSettings { same_site: SameSite::None, ..CookieSettings::default() };
        let partitioned = CookieSettings { partitioned: true, ..CookieSettings::default() };
        for special in [none, partitioned] {
            let secure = settings(special);
            assert_eq!(secure.validate(), Ok(()));
            assert_eq!(rejected(&Settings { insecure_dev_cookies: true, ..secure }), "refresh_cookie");
        }
    }

    #[test]
    fn a_value_that_would_break_the_header_is_rejected() {
        let with = |name: &str, path: &str, domain: &str| {
            settings(CookieSettings {
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
            assert_eq!(rejected(&with(name, path, domain)), "refresh_cookie", "{name} {path} {domain}");
        }
    }
}
