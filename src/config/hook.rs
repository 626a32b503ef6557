//! What the claims hook is called with.

use crate::session::Session;

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
