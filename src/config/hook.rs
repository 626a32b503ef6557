//! What the hooks of the app are called with.

use crate::session::{Client, Session};

/// A session that is about to get an access token: the argument of the
/// [claims hook](crate::AuthBuilder::claims_hook).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimsRequest<C> {
    /// The session: its id, its user, the client at login, and its times, as they were before this refresh.
    pub session: Session,
    /// The claims that were last written with the session, by [`Auth::login`](crate::Auth::login) or
    /// [`Auth::update_claims`](crate::Auth::update_claims). What the hook returns is not written there, so these stay the
    /// same from refresh to refresh. None if this version of the app cannot read them.
    pub claims: Option<C>,
}

/// A request of a session whose client has changed: the argument of the [risk hook](crate::AuthBuilder::risk_hook).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientChange {
    /// The session.
    pub session: Session,
    /// The session's last client: that of the last refresh which was let through, or of the login.
    pub before: Client,
    /// The client of the request. Its address or its `User-Agent` differs.
    pub now: Client,
}
