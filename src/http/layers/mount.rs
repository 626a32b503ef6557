//! The layer that reports a router to which browsers do not send the refresh cookie.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use http::HeaderName;
use http::request::Parts;
use tower_layer::Layer;

use super::{Check, CheckService, Refusal};
use crate::auth::Decision;
use crate::config::{Notice, ResolvedSettings};
use crate::http::cookie;
use crate::http::extract::client_info;
use crate::http::head::Head;
use crate::http::negotiate::original_uri;
use crate::metrics::Meter;

const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Lets every request pass, and reports the first one that shows that a refresh cookie will never arrive here: the user
/// would be logged out as soon as the access token expires, with nothing in the log.
#[derive(Clone)]
pub(in crate::http) struct MountLayer {
    pub(in crate::http) settings: Arc<ResolvedSettings>,
}

impl<S> Layer<S> for MountLayer {
    type Service = CheckService<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        CheckService::new(inner, self.clone())
    }
}

impl MountLayer {
    /// A request to a path for which browsers do not keep the cookie: the router is mounted elsewhere, or a proxy that adds or
    /// removes a prefix says so.
    fn report_path(&self, head: &impl Head) {
        let cookie_path = self.settings.refresh_cookie_path();
        let path = public_path(&self.settings, head);
        let mount = path.strip_suffix(head.uri().path()).unwrap_or_default();
        // A proxy has probably removed what is missing, without a word.
        let is_stripped = !mount.is_empty() && cookie_path.trim_end_matches('/').ends_with(mount);
        if path_matches(cookie_path, &path) || is_stripped || !self.settings.notices.is_first(Notice::CookiePath) {
            return;
        }
        let mount = if mount.is_empty() { "/" } else { mount };
        tracing::warn!(
            target: "axum_refresh",
            path = &*path,
            cookie_path,
            "unless a proxy changes the path, browsers do not send the refresh cookie here, so users are logged out when their \
             access token expires; set `refresh_cookie.path` to the path of the router as browsers see it, such as {mount:?}"
        );
    }

    /// A refresh by a browser that has another cookie of ours, one that is sent to every path.
    fn report_missing(&self, head: &impl Head) {
        let settings = &self.settings;
        // The access cookie may be that of a session without a refresh token.
        let other = settings.hint_cookie.as_ref().or(settings.access_cookie.as_ref());
        let is_logged_in = other.is_some_and(|other| cookie::has(head.headers(), &other.name));
        if head.uri().path() == "/refresh" && is_logged_in && settings.notices.is_first(Notice::CookieMissing) {
            tracing::warn!(
                target: "axum_refresh",
                path = original_uri(head).path(),
                cookie_path = settings.refresh_cookie_path(),
                "a browser that is logged in has sent no refresh cookie; if a proxy adds or removes a prefix of the path, set \
                 `refresh_cookie.path` to the path of the router as browsers see it"
            );
        }
    }
}

impl Check for MountLayer {
    type Found = Infallible;
    type Addition = ();

    fn meter(&self) -> Meter {
        self.settings.meter
    }

    fn check(&self, head: &mut impl Head) -> Decision<(), Infallible, Refusal> {
        let settings = &self.settings;
        if settings.notices.have_all(&[Notice::CookiePath, Notice::CookieMissing]) {
            return Decision::Pass(());
        }
        if cookie::has(head.headers(), &settings.refresh_cookie.name) {
            // So the setup is right, whatever the paths look like here.
            settings.notices.is_first(Notice::CookiePath);
            settings.notices.is_first(Notice::CookieMissing);
        } else if settings.transport.has_cookie() {
            self.report_path(head);
            self.report_missing(head);
        }
        Decision::Pass(())
    }

    async fn check_in_store(&self, _: &mut Parts, found: Infallible) -> Result<(), Refusal> {
        match found {}
    }
}

/// The path as the browser sees it, if a proxy that has removed a prefix names it.
pub(in crate::http) fn public_path<'a>(settings: &ResolvedSettings, head: &'a impl Head) -> Cow<'a, str> {
    let path = original_uri(head).path();
    let prefix = head.headers().get(FORWARDED_PREFIX).and_then(|prefix| prefix.to_str().ok());
    // Of several proxies, it is unknown which of them has removed what.
    let prefix = prefix.unwrap_or_default().trim().trim_end_matches('/');
    let is_prefix = prefix.starts_with('/') && !prefix.contains(',') && !path_matches(prefix, path);
    if is_prefix && client_info(head).is_from_proxy(settings) { format!("{prefix}{path}").into() } else { path.into() }
}

/// Path matching of cookies (RFC 6265 §5.1.4).
fn path_matches(cookie_path: &str, path: &str) -> bool {
    let rest = path.strip_prefix(cookie_path);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || cookie_path.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_sent_to_its_path_and_below() {
        for (cookie_path, path) in
            [("/", "/"), ("/", "/x"), ("/auth", "/auth"), ("/auth", "/auth/x"), ("/auth/", "/auth/x")]
        {
            assert!(path_matches(cookie_path, path), "{cookie_path} {path}");
        }
        for (cookie_path, path) in [("/auth", "/"), ("/auth", "/authx"), ("/auth/", "/auth"), ("/auth", "/api/auth/x")]
        {
            assert!(!path_matches(cookie_path, path), "{cookie_path} {path}");
        }
    }
}
