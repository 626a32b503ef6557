//! The routes of the routers, and where they are.

/// A route of [`Auth::router`](crate::Auth::router).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Route {
    /// `POST /refresh`
    Refresh,
    /// `POST /logout`
    Logout,
    /// `POST /logout/all`
    LogoutAll,
    /// `POST /logout/others`
    LogoutOthers,
    /// `GET /sessions`
    Sessions,
    /// `DELETE /sessions/{id}`
    RevokeSession,
    /// `GET /revocations`, for services that verify access tokens without the store. Only if there is a [verifier's
    /// token](crate::AuthBuilder::verifier_token)
    Revocations,
    /// `GET /revocations/{id}`, for the same services
    SessionState,
    /// `GET /client.js`, the module for browsers
    #[cfg(feature = "browser")]
    #[cfg_attr(docsrs, doc(cfg(feature = "browser")))]
    Browser,
    /// `GET /openapi.json`, the document of these routes: see [`Auth::openapi`](crate::Auth::openapi)
    #[cfg(feature = "openapi")]
    #[cfg_attr(docsrs, doc(cfg(feature = "openapi")))]
    OpenApi,
}

impl Route {
    /// Its path below the mount point.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Refresh => "/refresh",
            Self::Logout => "/logout",
            Self::LogoutAll => "/logout/all",
            Self::LogoutOthers => "/logout/others",
            Self::Sessions => "/sessions",
            Self::RevokeSession => "/sessions/{id}",
            Self::Revocations => "/revocations",
            Self::SessionState => "/revocations/{id}",
            #[cfg(feature = "browser")]
            Self::Browser => "/client.js",
            #[cfg(feature = "openapi")]
            Self::OpenApi => "/openapi.json",
        }
    }
}

/// The routes of [`Auth::router_with`](crate::Auth::router_with).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes(pub(super) Vec<Route>);

impl Routes {
    /// All of them.
    pub fn all() -> Self {
        use Route::{Logout, LogoutAll, LogoutOthers, Refresh, Revocations, RevokeSession, SessionState, Sessions};
        Self(vec![
            Refresh,
            Logout,
            LogoutAll,
            LogoutOthers,
            Sessions,
            RevokeSession,
            Revocations,
            SessionState,
            #[cfg(feature = "browser")]
            Route::Browser,
            #[cfg(feature = "openapi")]
            Route::OpenApi,
        ])
    }

    /// Leaves out a route.
    #[must_use]
    pub fn without(mut self, route: Route) -> Self {
        self.0.retain(|other| *other != route);
        self
    }
}

/// The paths of [`Auth::admin_router`](crate::Auth::admin_router).
pub(super) mod admin {
    pub(in crate::http) const USER_SESSIONS: &str = "/users/{user}/sessions";
    pub(in crate::http) const ALL_SESSIONS: &str = "/sessions";
    pub(in crate::http) const SESSION: &str = "/sessions/{id}";
    pub(in crate::http) const REVOKE_TOKEN: &str = "/tokens/revoke";
}
