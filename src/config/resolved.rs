//! Validated settings in the form that requests use, so that nothing is formatted, parsed or checked again.

use std::ops::Deref;
use std::time::Duration;

use http::HeaderValue;
use tower_cookies::Cookie;
use tower_cookies::cookie::SameSite as CookieSameSite;
use tower_http::csrf::CsrfLayer;

use super::notice::Notices;
use super::policy::MIN_IDLE_TIMEOUT;
use super::{CookieSettings, Policy, SameSite, Settings, SettingsError};
use crate::metrics::Meter;

/// Settings accepted by [`Settings::validate`], and the values derived from them.
#[derive(Debug)]
pub(crate) struct ResolvedSettings {
    settings: Settings,
    pub(crate) refresh_cookie: ResolvedCookie,
    /// `None` if the app has no access cookie.
    pub(crate) access_cookie: Option<ResolvedCookie>,
    /// `None` if the app has no hint cookie.
    pub(crate) hint_cookie: Option<ResolvedCookie>,
    /// The origin check with the trusted origins.
    pub(crate) csrf: CsrfLayer,
    /// The trusted origins of other schemes than http and https, which tower-http does not know.
    pub(crate) app_origins: Vec<String>,
    /// The path of the login page, as a `Location` header. A `?next=` may be appended.
    pub(crate) login_page: Option<HeaderValue>,
    /// The same for the page where a user authenticates again.
    pub(crate) step_up_page: Option<HeaderValue>,
    /// The wrong setups that were reported.
    pub(crate) notices: Notices,
    /// Counts what happens in the realm.
    pub(crate) meter: Meter,
}

impl ResolvedSettings {
    /// Validates the settings and resolves them.
    pub(crate) fn new(settings: Settings) -> Result<Self, SettingsError> {
        settings.validate()?;
        let (csrf, app_origins) = csrf(&settings.trusted_origins)?;
        let named = settings.in_realm();
        let cookie = |cookie: &CookieSettings, http_only| ResolvedCookie::new(cookie, &settings, http_only);
        Ok(Self {
            refresh_cookie: cookie(&named.refresh_cookie, true),
            access_cookie: named.access_cookie.as_ref().map(|access| cookie(access, true)),
            hint_cookie: settings.hint_cookie.then(|| cookie(&named.hint(), false)),
            csrf,
            app_origins,
            notices: Notices::default(),
            meter: Meter::new(settings.realm.as_deref()),
            login_page: settings.login_page.as_deref().map(|path| page("login_page", path)).transpose()?,
            step_up_page: settings.step_up_page.as_deref().map(|path| page("step_up_page", path)).transpose()?,
            settings,
        })
    }
}

impl ResolvedSettings {
    /// The path of the refresh cookie as it is sent.
    pub(crate) fn refresh_cookie_path(&self) -> &str {
        &self.settings.refresh_cookie.path
    }

    /// The shortest idle timeout that a login can choose.
    pub(crate) fn min_idle_timeout(&self) -> Duration {
        let Policy { access_ttl, idle_timeout, min_idle_timeout, .. } = self.policy;
        min_idle_timeout.unwrap_or_else(|| (access_ttl + self.leeway).max(MIN_IDLE_TIMEOUT).min(idle_timeout))
    }

    /// Whether browsers send the refresh cookie with a request of another site's page.
    pub(crate) fn is_sent_cross_site(&self) -> bool {
        self.settings.refresh_cookie.same_site == SameSite::None
    }

    /// What keys are derived for: the issuer and the realm. Neither contains a NUL.
    pub(crate) fn key_scope(&self) -> String {
        match &self.realm {
            None => self.issuer.clone(),
            Some(realm) => format!("{}\0{realm}", self.issuer),
        }
    }
}

impl Deref for ResolvedSettings {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

/// The largest cookie, name and value together, that browsers keep (RFC 6265bis §5.6). They drop a larger one without a word.
pub(crate) const MAX_COOKIE_BYTES: usize = 4096;

const MAX_AGE: &str = "; Max-Age=";

/// A cookie with its final name and attributes, and without a value.
#[derive(Debug)]
pub(crate) struct ResolvedCookie {
    /// The name with its prefix, as it is sent.
    pub(crate) name: String,
    /// What follows the value, but for `Max-Age`.
    attributes: String,
    /// Whether the cookie has a `Max-Age`.
    persistent: bool,
}

impl ResolvedCookie {
    pub(crate) fn new(cookie: &CookieSettings, settings: &Settings, http_only: bool) -> Self {
        let insecure = settings.insecure_dev_cookies;
        let name = cookie.full_name(insecure);
        let mut cookie_without_value = Cookie::build((name.clone(), ""))
            .path(cookie.path.clone())
            .http_only(http_only)
            .secure(!insecure)
            .partitioned(cookie.partitioned)
            .same_site(match cookie.same_site {
                SameSite::Strict => CookieSameSite::Strict,
                SameSite::Lax => CookieSameSite::Lax,
                SameSite::None => CookieSameSite::None,
            })
            .build();
        if let Some(domain) = &cookie.domain {
            cookie_without_value.set_domain(domain.clone());
        }
        let text = cookie_without_value.to_string();
        let attributes = text.split_once('=').map(|(_, attributes)| attributes.to_owned()).unwrap_or_default();
        Self { name, attributes, persistent: cookie.persistent }
    }

    /// The size of the cookie with a value, as browsers count it: of the name and the value together.
    pub(crate) fn size(&self, value: &str) -> usize {
        self.name.len() + value.len()
    }

    /// Returns the `Set-Cookie` header that sets the cookie to a value for some time: `persistent` says whether it outlives the
    /// browser, if it is not for the settings to say.
    ///
    /// Returns `None` if the value is not valid in a header.
    pub(crate) fn header(&self, value: &str, max_age: Duration, persistent: Option<bool>) -> Option<HeaderValue> {
        self.write(value, persistent.unwrap_or(self.persistent).then_some(max_age))
    }

    /// Returns the `Set-Cookie` header that clears the cookie. It needs a `Max-Age` of zero even if the cookie is not
    /// persistent.
    pub(crate) fn cleared(&self) -> Option<HeaderValue> {
        self.write("", Some(Duration::ZERO))
    }

    fn write(&self, value: &str, max_age: Option<Duration>) -> Option<HeaderValue> {
        let mut cookie = String::with_capacity(self.size(value) + self.attributes.len() + MAX_AGE.len() + 22);
        for part in [&self.name, "=", value, &self.attributes] {
            cookie.push_str(part);
        }
        if let Some(max_age) = max_age {
            cookie.push_str(MAX_AGE);
            cookie.push_str(&max_age.as_secs().to_string());
        }
        let mut header = HeaderValue::try_from(cookie).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// Creates the origin check with the trusted origins, and returns those of other schemes than http and https, too.
///
/// An origin is compared byte for byte with the `Origin` header, so a spelling that browsers never send is an error.
pub(super) fn csrf(trusted_origins: &[String]) -> Result<(CsrfLayer, Vec<String>), SettingsError> {
    let mut layer = CsrfLayer::new();
    let mut app_origins = Vec::new();
    for origin in trusted_origins {
        let reject = |problem: String| SettingsError::new("trusted_origins", problem);
        let default_port = (origin.starts_with("https:") && origin.ends_with(":443"))
            || (origin.starts_with("http:") && origin.ends_with(":80"));
        let bare_slash = origin.ends_with('/') && origin != "file://";
        if default_port || bare_slash || origin.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(reject(format!(
                "{origin:?} never matches; write it in lower case, without default port and trailing slash"
            )));
        }
        if is_app_origin(origin) {
            app_origins.push(origin.clone());
        } else {
            layer = layer.add_trusted_origin(origin).map_err(|error| reject(error.to_string()))?;
        }
    }
    Ok((layer, app_origins))
}

/// Whether this is an origin of an app with a scheme of its own: `capacitor://localhost`, `tauri://localhost`,
/// `chrome-extension://…`, `file://`.
fn is_app_origin(origin: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let is_authority = authority.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@\\\"".contains(&b));
    // Pages of these have no origin of their own.
    let is_of_the_web = matches!(scheme, "http" | "https" | "ftp" | "ws" | "wss" | "blob" | "data" | "about");
    is_scheme && is_authority && !is_of_the_web && authority.is_empty() == (scheme == "file")
}

/// Converts the path of a page to a header value.
pub(super) fn page(setting: &'static str, page: &str) -> Result<HeaderValue, SettingsError> {
    let is_local = page.starts_with('/') && !page.starts_with("//") && page.bytes().all(|b| b.is_ascii_graphic());
    let header = HeaderValue::try_from(page).ok().filter(|_| is_local && !page.contains(['\\', '?', '#']));
    header.ok_or_else(|| SettingsError::new(setting, format!("{page:?} is not a local path; use one such as `/login`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(settings: &Settings) -> ResolvedSettings {
        ResolvedSettings::new(settings.clone()).unwrap()
    }

    const MAX_AGE: Duration = Duration::from_millis(90_999);

    /// As a text; cleared if there is no value.
    fn written(cookie: &ResolvedCookie, value: Option<&str>, persistent: Option<bool>) -> String {
        let header = value.map_or_else(|| cookie.cleared(), |value| cookie.header(value, MAX_AGE, persistent));
        header.unwrap().to_str().unwrap().to_owned()
    }

    fn text(settings: &Settings, value: Option<&str>) -> String {
        written(&resolved(settings).refresh_cookie, value, None)
    }

    const VALUE: Option<&str> = Some("token");

    #[test]
    fn a_session_may_have_cookies_that_outlive_the_browser_or_not_whatever_the_settings_say() {
        for by_default in [false, true] {
            let refresh_cookie = CookieSettings { persistent: by_default, ..CookieSettings::default() };
            let settings = resolved(&Settings { refresh_cookie, ..Settings::default() });
            let has_max_age = |persistent| written(&settings.refresh_cookie, VALUE, persistent).contains("Max-Age=90");
            assert_eq!([Some(false), Some(true), None].map(has_max_age), [false, true, by_default]);
        }
    }

    #[test]
    fn the_refresh_cookie_has_the_documented_attributes() {
        let header = resolved(&Settings::default()).refresh_cookie.header("token", MAX_AGE, None).unwrap();
        assert!(header.is_sensitive());
        let expected = "__Secure-refresh=token; HttpOnly; SameSite=Strict; Secure; Path=/auth; Max-Age=90";
        assert_eq!(header.to_str().unwrap(), expected);
    }

    #[test]
    fn every_cookie_setting_is_in_the_header() {
        let cookie = CookieSettings {
            name: "r".to_owned(),
            path: "/".to_owned(),
            domain: Some("example.com".to_owned()),
            same_site: SameSite::None,
            partitioned: true,
            persistent: false,
        };
        let settings = Settings { refresh_cookie: cookie, ..Settings::default() };
        let expected = "__Secure-r=token; HttpOnly; SameSite=None; Partitioned; Secure; Path=/; Domain=example.com";
        assert_eq!(text(&settings, VALUE), expected);
        let cleared =
            "__Secure-r=; HttpOnly; SameSite=None; Partitioned; Secure; Path=/; Domain=example.com; Max-Age=0";
        assert_eq!(text(&settings, None), cleared);
    }

    #[test]
    fn insecure_dev_cookies_have_neither_secure_nor_a_prefix() {
        let settings = Settings { insecure_dev_cookies: true, ..Settings::default() };
        assert_eq!(text(&settings, VALUE), "refresh=token; HttpOnly; SameSite=Strict; Path=/auth; Max-Age=90");
    }

    #[test]
    fn the_hint_cookie_is_readable_by_scripts_on_every_path_and_otherwise_like_the_refresh_cookie() {
        let text = |settings: &Settings, value| {
            let settings = resolved(&Settings { hint_cookie: true, ..settings.clone() });
            written(settings.hint_cookie.as_ref().unwrap(), value, None)
        };
        let one = Some("1");
        let mut settings = Settings::default();
        assert_eq!(text(&settings, one), "__Secure-session-hint=1; SameSite=Strict; Secure; Path=/; Max-Age=90");
        assert_eq!(text(&settings, None), "__Secure-session-hint=; SameSite=Strict; Secure; Path=/; Max-Age=0");
        settings.refresh_cookie = CookieSettings {
            domain: Some("example.com".to_owned()),
            same_site: SameSite::None,
            partitioned: true,
            persistent: false,
            ..CookieSettings::default()
        };
        let expected = "__Secure-session-hint=1; SameSite=None; Partitioned; Secure; Path=/; Domain=example.com";
        assert_eq!(text(&settings, one), expected);
        let settings = Settings { insecure_dev_cookies: true, ..Settings::default() };
        assert_eq!(text(&settings, one), "session-hint=1; SameSite=Strict; Path=/; Max-Age=90");
    }
}
