//! Requests that do not come from something that the user does.

use http::HeaderName;

use super::head::Head;
use crate::auth::Use;

/// `Auth-Passive: ?1`, a boolean of RFC 9651 §3.3.6: what the browser module sends with requests of its own.
pub(super) const AUTH_PASSIVE: HeaderName = HeaderName::from_static("auth-passive");

/// Marks a request as passive, in its extensions.
#[derive(Clone, Copy)]
pub(super) struct Passive;

/// How the tokens of a request are used.
pub(super) fn use_of(head: &impl Head) -> Use {
    let has_header = || head.headers().get(AUTH_PASSIVE).is_some_and(|value| value == "?1");
    if has_header() || head.extensions().get::<Passive>().is_some() { Use::Passive } else { Use::Active }
}
