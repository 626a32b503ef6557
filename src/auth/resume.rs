//! Finding the session that a user is about to resume, by its refresh token.

use super::{Auth, Claims};
use crate::client::{ClientInfo, binding};
use crate::config::{Binding, BindingMode};
use crate::error::Error;
use crate::ratchet::{BindingVerdict, Presented, RotationState, Verdict, present};
use crate::session::Session;
use crate::store::SessionRecord;
use crate::token::refresh::RefreshToken;

/// # Authenticating again
impl<C: Claims> Auth<C> {
    /// The session of a refresh token, also if it is idle or the client has changed, so that a refresh would be refused: for a
    /// handler that authenticates its user again and then calls [`reauthenticated`](Self::reauthenticated). Nothing is
    /// written, and no token is issued.
    ///
    /// None if the token would be refused for another reason: it is invalid or superseded, or the session is revoked or expired.
    ///
    /// # Errors
    ///
    /// - [`Error::RefreshBusy`] if a race between several refreshes is not decided yet.
    /// - [`Error::Store`] if the store fails.
    pub async fn session_of_refresh_token(&self, refresh_token: &str) -> Result<Option<Session>, Error> {
        self.session_of_newest([refresh_token.as_bytes()], None).await
    }

    /// The first of the candidates' sessions that can be resumed. With a client, those are left out whose binding refuses its
    /// `User-Agent`: its browser has not opened them.
    pub(crate) async fn session_of_newest<'a>(
        &self,
        candidates: impl IntoIterator<Item = &'a [u8]>,
        client: Option<ClientInfo>,
    ) -> Result<Option<Session>, Error> {
        let client = client.map(|client| client.resolve(self.settings()).0);
        let binding = Binding { ip: BindingMode::Off, ..self.settings().policy.binding.clone() };
        for token in self.newest_of_each_session(candidates) {
            let Some(session) = self.resumable(&token).await? else { continue };
            let verdict = client.as_ref().map(|client| binding::compare(&binding, &session.client, client));
            if !matches!(verdict, Some(BindingVerdict::Rejected | BindingVerdict::Revoked)) {
                return Ok(Some(Session::from(&session)));
            }
        }
        Ok(None)
    }

    async fn resumable(&self, token: &RefreshToken) -> Result<Option<SessionRecord>, Error> {
        let node = &self.inner.node;
        node.start();
        let Some(session) = node.load(token.session_id).await? else { return Ok(None) };
        let now = node.now();
        // As if it had been used just now, by its own client.
        let state = RotationState { last_seen_at: now, ..session.rotation };
        let presented = Presented {
            generation: token.generation,
            secret_matches: session.secret_hash == token.secret_hash(),
            binding: BindingVerdict::Holds,
        };
        let outcome = present(&state, presented, now, &node.settings.policy);
        match outcome.verdict {
            Verdict::Busy => Err(Error::RefreshBusy),
            _ => Ok(outcome.access.map(|_| session)),
        }
    }
}
