//! Refreshing: the ratchet's verdict, carried out on the store.

use std::sync::Arc;
use std::time::Duration;

use super::login::Tokens;
use super::{Auth, Claims, MAX_TRIES, Verified};
use crate::client::{ClientInfo, binding};
use crate::config::OnReuse;
use crate::error::Error;
use crate::event::Event;
use crate::ratchet::{BindingVerdict, Next, Outcome, Presented, RotationState, Verdict, present};
use crate::session::{Client, RevocationReason};
use crate::store::{RevokeTarget, SessionRecord};
use crate::time::Timestamp;
use crate::token::refresh::RefreshToken;

/// From this many recoveries in a row on, each is an event.
const MANY_RECOVERIES: u32 = 4;
/// The pauses between rounds of attempts within a page's request. A script is told to retry after a second; a page cannot
/// be told so.
const PAGE_PAUSES: [Duration; 3] = [Duration::from_millis(20), Duration::from_millis(60), Duration::from_millis(180)];

/// The result of a successful refresh.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Refreshed {
    /// The tokens. There is a new refresh token only if the verdict is Rotate, Recover or Ahead.
    pub tokens: Tokens,
    /// The ratchet's verdict.
    pub verdict: Verdict,
}

/// # Refreshing
impl<C: Claims> Auth<C> {
    /// Exchanges a refresh token for an access token and, most of the time, the next refresh token.
    ///
    /// Costs one load and one compare-and-swap of the store; for a token with an invalid tag, no call at all.
    ///
    /// # Errors
    ///
    /// - One error per refusal of the [ratchet](crate::ratchet).
    /// - [`Error::UserRefused`] if the claims hook refuses the user, [`Error::Hook`] if it fails.
    /// - [`Error::Store`] if the store fails. The client keeps its token and tries again.
    pub async fn refresh(&self, refresh_token: &str, client: ClientInfo) -> Result<Refreshed, Error> {
        let token = self.inner.refresh.decode(refresh_token.as_bytes()).ok_or(Error::RefreshTokenInvalid)?;
        self.refresh_decoded(&token, &self.resolve(client), &[]).await
    }

    /// Refreshes with the newest valid token of several candidates (cookies of one name). If its session has ended, the
    /// newest of another session is used: an old cookie may be sent before the one from the last login. A refusal that may
    /// pass is final, because the other session's cookie would otherwise replace this one.
    pub(crate) async fn refresh_newest(
        &self,
        candidates: impl IntoIterator<Item = &[u8]>,
        client: impl FnOnce() -> ClientInfo,
    ) -> Result<Refreshed, Error> {
        self.refresh_candidates(candidates, client, &[]).await
    }

    /// [`refresh_newest`](Self::refresh_newest) within the request of a page. Also returns the verified access token for
    /// the layers and handlers inside; none if the session was revoked meanwhile.
    ///
    /// If the refresh token is a new one, the returned access token has the generation before it: what a handler does with
    /// it must not acknowledge a refresh token whose response may still get lost.
    pub(crate) async fn refresh_page(
        &self,
        candidates: impl IntoIterator<Item = &[u8]>,
        client: impl FnOnce() -> ClientInfo,
    ) -> Result<(Tokens, Option<Arc<Verified<C>>>), Error> {
        let tokens = self.refresh_candidates(candidates, client, &PAGE_PAUSES).await?.tokens;
        let token = self.inner.access.verify(&tokens.access_token).ok().map(|mut token| {
            if tokens.refresh_token.is_some() {
                token.generation = token.generation.saturating_sub(1);
            }
            Arc::new(Verified::from(token))
        });
        // Between the verdict and now the session may have been revoked.
        let token = token.filter(|token| self.admit_as_known(token, self.now()).is_ok());
        Ok((tokens, token))
    }

    async fn refresh_candidates(
        &self,
        candidates: impl IntoIterator<Item = &[u8]>,
        client: impl FnOnce() -> ClientInfo,
        pauses: &[Duration],
    ) -> Result<Refreshed, Error> {
        let tokens = self.newest_of_each_session(candidates);
        if tokens.is_empty() {
            return Err(Error::RefreshTokenInvalid);
        }
        let client = self.resolve(client());
        let mut refused = None;
        for token in tokens {
            match self.refresh_decoded(&token, &client, pauses).await {
                Err(error) if error.is_final() => refused = refused.or(Some(error)),
                decided => return decided,
            }
        }
        Err(refused.unwrap_or(Error::RefreshTokenInvalid))
    }

    /// If every attempt loses against another writer, starts again after each of the pauses. A verdict of Busy is not
    /// retried: the same token would only be older.
    async fn refresh_decoded(
        &self,
        token: &RefreshToken,
        client: &Client,
        pauses: &[Duration],
    ) -> Result<Refreshed, Error> {
        let node = &self.inner.node;
        node.start();
        let policy = &node.settings.policy;
        let mut claims = None;
        for attempt in 0..MAX_TRIES * (1 + pauses.len()) {
            if attempt > 0
                && attempt % MAX_TRIES == 0
                && let Some(pause) = pauses.get(attempt / MAX_TRIES - 1)
            {
                tokio::time::sleep(*pause).await;
            }
            let mut session = node.load(token.session_id).await?.ok_or(Error::RefreshTokenInvalid)?;
            let now = node.now();
            let presented = Presented {
                generation: token.generation,
                secret_matches: session.secret_hash == token.secret_hash(),
                binding: binding::compare(&policy.binding, &session.client, client),
            };
            let outcome = present(&session.rotation, presented, now, policy);
            // The hook runs once; the snapshot has to be that of the row about to be written.
            if outcome.access.is_some() && (claims.is_none() || self.inner.claims_hook.is_none()) {
                claims = Some(self.claims_of(&session).await?);
            }
            if outcome.verdict == Verdict::Reuse && policy.on_reuse == OnReuse::User {
                // The others first: if that fails, the next attempt detects the same reuse again.
                let target = RevokeTarget::User { user_id: &session.user_id, except: Some(session.id) };
                node.revoke(target, RevocationReason::Reuse).await?;
            }
            if let Some(next) = outcome.next {
                let before = session.rotation;
                session.rotation = match next {
                    Next::State(state) => state,
                    Next::Revoke => RotationState {
                        revoked: Some(node.revocation(now, reason(outcome.verdict))),
                        ..session.rotation
                    },
                };
                if outcome.access.is_some() {
                    session.rotation.last_seen_at = session.rotation.last_seen_at.max(now);
                }
                if !node.compare_and_swap(session.version, &session).await? {
                    continue;
                }
                if outcome.verdict == Verdict::Ahead {
                    self.emit(Event::Ahead {
                        user_id: Arc::clone(&session.user_id),
                        session_id: session.id,
                        presented: token.generation,
                        stored: before.generation,
                    });
                }
            }
            self.report(&session, token, presented.binding, outcome.verdict, client);
            refuse(outcome.verdict)?;
            let claims = claims.unwrap_or_default();
            return self.grant(&session, token, outcome, &claims, now);
        }
        Err(Error::RefreshBusy)
    }

    fn grant(
        &self,
        session: &SessionRecord,
        token: &RefreshToken,
        outcome: Outcome,
        claims: &str,
        now: Timestamp,
    ) -> Result<Refreshed, Error> {
        self.inner.node.write_behind.touch(session.id, now);
        let generation = outcome.access.unwrap_or(token.generation);
        let mut tokens = self.tokens(session, generation, claims, now, true)?;
        tokens.refresh_token = outcome.refresh.map(|generation| self.inner.refresh.encode(&token.at(generation)));
        Ok(Refreshed { tokens, verdict: outcome.verdict })
    }

    fn report(
        &self,
        session: &SessionRecord,
        token: &RefreshToken,
        binding: BindingVerdict,
        verdict: Verdict,
        client: &Client,
    ) {
        let (session_id, generation) = (session.id, token.generation);
        let user_id = || Arc::clone(&session.user_id);
        let client = || client.clone();
        if verdict != Verdict::Forged {
            self.emit(Event::Refreshed { user_id: user_id(), session_id, generation, verdict });
        }
        match verdict {
            Verdict::Forged => self.emit(Event::Forged { session_id, client: client() }),
            Verdict::Reuse => {
                self.emit(Event::Reuse { user_id: user_id(), session_id, generation, client: client() });
            }
            Verdict::Recover if session.rotation.recoveries >= MANY_RECOVERIES => {
                let recoveries = session.rotation.recoveries;
                self.emit(Event::ManyRecoveries { user_id: user_id(), session_id, recoveries });
            }
            _ => {}
        }
        let was_compared = verdict == Verdict::Mismatch || refuse(verdict).is_ok();
        if was_compared && binding != BindingVerdict::Holds {
            self.emit(Event::ClientMismatch { user_id: user_id(), session_id, verdict: binding, client: client() });
        }
        if let (Some(revocation), Verdict::Mismatch | Verdict::Reuse) = (session.rotation.revoked, verdict) {
            self.emit(Event::SessionRevoked { session_id, reason: revocation.reason });
        }
    }
}

const fn reason(verdict: Verdict) -> RevocationReason {
    match verdict {
        Verdict::Mismatch => RevocationReason::ClientMismatch,
        _ => RevocationReason::Reuse,
    }
}

/// The error for a verdict that grants nothing.
const fn refuse(verdict: Verdict) -> Result<(), Error> {
    Err(match verdict {
        Verdict::Touch | Verdict::Rotate | Verdict::Ahead | Verdict::Echo | Verdict::Recover => return Ok(()),
        Verdict::Forged => Error::RefreshTokenInvalid,
        Verdict::Revoked => Error::SessionRevoked,
        Verdict::Expired => Error::SessionExpired,
        Verdict::Idle => Error::SessionIdle,
        Verdict::Mismatch => Error::ClientMismatch,
        Verdict::Busy => Error::RefreshBusy,
        Verdict::Reuse => Error::RefreshTokenReused,
    })
}
