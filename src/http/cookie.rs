//! Our cookies: written with their attributes, and found again among everybody else's.

use std::time::Duration;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use tower_cookies::Cookie;
use tower_cookies::cookie::time::Duration as CookieDuration;

use crate::settings::{CookieSettings, SameSite, Settings};

/// The `Set-Cookie` header that gives a cookie this value for this long, or clears it.
pub(crate) fn set(
    settings: &Settings,
    cookie: &CookieSettings,
    value: Option<(&str, Duration)>,
) -> Option<HeaderValue> {
    write(settings, cookie, value, true)
}

/// The `Set-Cookie` header of the hint that goes with the refresh cookie: it says for this long that there is one, or
/// no more. The hint has no secret in it, and scripts can read it.
pub(crate) fn set_hint(settings: &Settings, life: Option<Duration>) -> Option<HeaderValue> {
    write(settings, &settings.hint(), life.map(|life| ("1", life)), false)
}

fn write(
    settings: &Settings,
    cookie: &CookieSettings,
    value: Option<(&str, Duration)>,
    http_only: bool,
) -> Option<HeaderValue> {
    let insecure = settings.insecure_dev_cookies;
    let (text, life) = value.unwrap_or_default();
    let mut builder = Cookie::build((cookie.full_name(insecure), text.to_owned()))
        .path(cookie.path.clone())
        .http_only(http_only)
        .secure(!insecure)
        .partitioned(cookie.partitioned)
        .same_site(match cookie.same_site {
            SameSite::Strict => tower_cookies::cookie::SameSite::Strict,
            SameSite::Lax => tower_cookies::cookie::SameSite::Lax,
            SameSite::None => tower_cookies::cookie::SameSite::None,
        });
    if let Some(domain) = &cookie.domain {
        builder = builder.domain(domain.clone());
    }
    // A clearing cookie has a Max-Age even where the others last as long as the browser.
    if cookie.persistent || value.is_none() {
        let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
        builder = builder.max_age(CookieDuration::seconds(seconds));
    }
    let mut header = HeaderValue::try_from(builder.build().to_string()).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The values of all cookies with this name, in all lines: there may be several of different path or domain, and not
/// all have to be ours.
pub(crate) fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes);
    lines.flat_map(|line| line.split(|byte| *byte == b';')).filter_map(move |pair| {
        let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.trim_ascii_end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(settings: &Settings, value: Option<(&str, Duration)>) -> String {
        set(settings, &settings.refresh_cookie, value).unwrap().to_str().unwrap().to_owned()
    }

    const VALUE: Option<(&str, Duration)> = Some(("token", Duration::from_millis(90_999)));

    #[test]
    fn the_refresh_cookie_has_the_documented_attributes() {
        let header = set(&Settings::default(), &CookieSettings::default(), VALUE).unwrap();
        assert!(header.is_sensitive());
        let expected = "__Secure-refresh=token; HttpOnly; SameSite=Strict; Secure; Path=/auth; Max-Age=90";
        assert_eq!(header.to_str().unwrap(), expected);
    }

    #[test]
    fn every_option_shows_in_the_header() {
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
    fn the_hint_is_readable_everywhere_and_otherwise_like_the_refresh_cookie() {
        let text = |settings: &Settings, life| set_hint(settings, life).unwrap().to_str().unwrap().to_owned();
        let life = Some(Duration::from_millis(90_999));
        let mut settings = Settings::default();
        assert_eq!(text(&settings, life), "__Secure-session-hint=1; SameSite=Strict; Secure; Path=/; Max-Age=90");
        assert_eq!(text(&settings, None), "__Secure-session-hint=; SameSite=Strict; Secure; Path=/; Max-Age=0");
        settings.refresh_cookie = CookieSettings {
            domain: Some("example.com".to_owned()),
            same_site: SameSite::None,
            partitioned: true,
            persistent: false,
            ..CookieSettings::default()
        };
        let expected = "__Secure-session-hint=1; SameSite=None; Partitioned; Secure; Path=/; Domain=example.com";
        assert_eq!(text(&settings, life), expected);
        let settings = Settings { insecure_dev_cookies: true, ..Settings::default() };
        assert_eq!(text(&settings, life), "session-hint=1; SameSite=Strict; Path=/; Max-Age=90");
    }

    #[test]
    fn cookies_are_found_in_all_lines_and_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        for line in [b"a=1; x=2;x=3".as_slice(), b"xx=4; x =5;x==6; x", b"x=\xff ; x=", b""] {
            headers.append(COOKIE, HeaderValue::from_bytes(line).unwrap());
        }
        let found: Vec<_> = values(&headers, "x").collect();
        assert_eq!(found, [b"2".as_slice(), b"3", b"=6", b"\xff", b""]);
    }
}
