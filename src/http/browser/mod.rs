//! The browser module: `client.js` and the route that serves it.
//!
//! The module is one file without a build step, and its comments are downloaded with it, so what it does is in
//! `client.d.ts`, and how it does it is here. Its parts are functions inside `createAuth`:
//!
//! - **The browser** (`safe`, `later`, `listen`, `timed`, `request`): whatever an API throws counts as "not there". A
//!   request and a login end in time even where `fetch` ignores its signal. `keepalive` lets a tab that is closed
//!   meanwhile get its cookie; a browser may be unable to do it, so it is switched after every failure.
//! - **Tabs** (`openTabs`: `post`, `receive`, `locked`): messages, and one job at a time. A lock that is not granted
//!   within `LOCK_TIMEOUT`, after which the request of its owner has timed out, is no longer waited for: jobs run in the
//!   order of this tab, and the server handles races between tabs, until the lock is granted; a job that still runs then
//!   holds it. A lock is held a little longer than its job, so that the next tab has the result before it gets the lock.
//! - **The hint cookie** (`watchHint`): a missing hint alone proves nothing, because the session may have begun before
//!   the server set hints, or this page cannot see the cookie. So it is trusted only if the server has lately found no
//!   refresh cookie, or has cleared it. A hint that appears is a login; one that stays may be of a dead session.
//! - **Tokens** (`keepTokens`: `state`, `current`, `get`, `refresh`, `stepUp`, `accept`, `drop`): state updates are timestamped, a
//!   refresh with the time of its request, a login or logout with that of its response. A tab ignores updates that are
//!   older than its state, or than the tab: a new page asks with its cookie. The refresh is due at a random time, so that
//!   one of many tabs is first and the others get its token. A failure is not a refusal, and is tried again with a
//!   growing wait. Timers stop while a computer sleeps, so none is longer than `MAX_TIMER`. After `close`, no update is
//!   newer than the state.
//!   - A refresh that is refused as `session_revoked` is tried once more before the user is out. The lock does not cover
//!     tabs without locks, pages of other origins with the same cookie, and forms: they may have replaced the session, and
//!     their cookie or update arrives a moment later. A page that never had a user is out at once.
//!   - A challenge (`ask`) for a refused refresh begins after the lock is released, because the authentication needs it,
//!     and while it lasts `refreshing` is set, so that there are no other refreshes. An update that answers it, from
//!     another tab, ends it.
//!   - A refresh reports what the user has done in any tab (`isActive`). Tabs notify each other of the first activity after
//!     an active refresh, because any of them may be the next to refresh. A passive refresh reports nothing, so after one
//!     from a hidden page the next one still does.
//! - **Idle time** (`watchIdle`): the last activity in any tab. Before a tab logs out an idle user it asks the others,
//!   and again if the computer slept meanwhile. Without messages it does nothing, because the user may be active in
//!   another tab. While the server is unreachable the user is out here, and later there.

use std::sync::LazyLock;

use axum_core::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, StatusCode};

use super::etag;

const MODULE: &str = include_str!("client.js");

/// One day. The URL has no version, so a browser may use the previous release's module for that long.
pub(super) const CACHE: &str = "public, max-age=86400";

static TAG: LazyLock<String> = LazyLock::new(|| etag::of(MODULE));

/// Serves the module, or 304 if the browser has it.
pub(super) async fn script(headers: HeaderMap) -> Response {
    let common: [(HeaderName, &str); 3] = [(ETAG, &TAG), (CACHE_CONTROL, CACHE), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    if etag::matches(&headers, &TAG) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(CONTENT_TYPE, "text/javascript; charset=utf-8")], MODULE).into_response()
}
