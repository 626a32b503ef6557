//! Refreshing: the ratchet's verdict, carried out.

use std::sync::Arc;
use std::time::Duration;

use super::login::Tokens;
use super::{Auth, Claims, TRIES};
use crate::binding;
use crate::client::ClientInfo;
use crate::error::Error;
use crate::event::Event;
use crate::policy::ReuseResponse;
use crate::ratchet::{BindingVerdict, Next, Outcome, Presented, Verdict, present};
use crate::session::{Client, Reason, Session, Timestamp};
use crate::store::Target;
use crate::token::refresh::RefreshToken;

/// From how many lost answers in a row on it is worth an event.
const MANY_RECOVERIES: u32 = 4;

/// A refresh that was granted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Refreshed {
    /// The tokens. There is a new refresh token only where the verdict is Rotate, Recover or Ahead.
    pub tokens: Tokens,
    /// How the ratchet judged.
    pub verdict: Verdict,
}

impl<C: Claims> Auth<C> {
    /// Exchanges a refresh token for an access token and, most of the time, the next refresh token.
    ///
    /// One call of the store to load the session, one to swap it; none for a token that we did not sign.
    ///
    /// # Errors
    /// One for every refusal of the [ratchet](crate::ratchet); [`UserRefused`](Error::UserRefused) by the app's hook;
    /// [`Store`](Error::Store) if the store fails, and then the client should try again.
    pub async fn refresh(&self, refresh_token: &str, client: ClientInfo) -> Result<Refreshed, Error> {
        let token = self.inner.refresh.decode(refresh_token.as_bytes()).ok_or(Error::RefreshTokenInvalid)?;
        self.refresh_decoded(&token, &self.resolve(client), &[]).await
    }

    /// Of several candidates (cookies of one name), the one that is ours and newest counts; if its session has ended,
    /// the newest of another, because an old cookie can lie before the one from the last login. One that is refused and
    /// goes on is the answer: who is somebody else for as long as that lasts would lose its cookie to the other.
    ///
    /// Where every race for the row was lost, it starts again after each of the pauses. A verdict of Busy is final: the
    /// same token would only get older.
    pub(crate) async fn refresh_newest(
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
                Err(error) if error.is_the_end() => refused = refused.or(Some(error)),
                decided => return decided,
            }
        }
        Err(refused.unwrap_or(Error::RefreshTokenInvalid))
    }

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
        for attempt in 0..TRIES * (1 + pauses.len()) {
            if attempt > 0
                && attempt % TRIES == 0
                && let Some(pause) = pauses.get(attempt / TRIES - 1)
            {
                tokio::time::sleep(*pause).await;
            }
            let mut session = node.load(token.session).await?.ok_or(Error::RefreshTokenInvalid)?;
            let now = node.now();
            let presented = Presented {
                generation: token.generation,
                secret_matches: session.secret_hash == token.secret_hash(),
                binding: binding::judge(&policy.binding, &session.client, client),
            };
            let outcome = present(&session.chain, presented, now, policy);
            // The hook is asked once; the snapshot belongs to the row that is about to be written.
            if outcome.access.is_some() && (claims.is_none() || self.inner.hook.is_none()) {
                claims = Some(self.claims_of(&session).await?);
            }
            if outcome.verdict == Verdict::Reuse && policy.on_reuse == ReuseResponse::User {
                // The others first: if that fails, the next attempt finds the same theft again.
                let target = Target::User { user: &session.user, except: Some(session.id) };
                node.revoke(target, Reason::Reuse).await?;
            }
            if let Some(next) = outcome.next {
                let before = session.chain;
                session.chain = match next {
                    Next::Chain(chain) => chain,
                    Next::Revoke => {
                        let mut chain = session.chain;
                        chain.revoked = Some(node.revocation(now, reason(outcome.verdict)));
                        chain
                    }
                };
                if outcome.access.is_some() {
                    session.chain.last_seen_at = session.chain.last_seen_at.max(now);
                }
                if !node.swap(session.version, &session).await? {
                    continue;
                }
                if outcome.verdict == Verdict::Ahead {
                    self.emit(Event::Ahead {
                        user: Arc::clone(&session.user),
                        session: session.id,
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
        session: &Session,
        token: &RefreshToken,
        outcome: Outcome,
        claims: &str,
        now: Timestamp,
    ) -> Result<Refreshed, Error> {
        self.inner.node.activity.touch(session.id, now);
        let generation = outcome.access.unwrap_or(token.generation);
        let mut tokens = self.tokens(session, generation, claims, now, true)?;
        tokens.refresh_token = outcome.refresh.map(|generation| self.inner.refresh.encode(&token.at(generation)));
        Ok(Refreshed { tokens, verdict: outcome.verdict })
    }

    fn emit(&self, event: Event) {
        self.inner.node.events.emit(event);
    }

    fn report(
        &self,
        session: &Session,
        token: &RefreshToken,
        binding: BindingVerdict,
        verdict: Verdict,
        client: &Client,
    ) {
        let (id, generation) = (session.id, token.generation);
        let user = || Arc::clone(&session.user);
        let client = || client.clone();
        if verdict != Verdict::Forged {
            self.emit(Event::Refreshed { user: user(), session: id, generation, verdict });
        }
        match verdict {
            Verdict::Forged => self.emit(Event::Forged { session: id, client: client() }),
            Verdict::Reuse => self.emit(Event::Reuse { user: user(), session: id, generation, client: client() }),
            Verdict::Recover if session.chain.recoveries >= MANY_RECOVERIES => {
                let recoveries = session.chain.recoveries;
                self.emit(Event::ManyRecoveries { user: user(), session: id, recoveries });
            }
            _ => {}
        }
        let judged = verdict == Verdict::Mismatch || refuse(verdict).is_ok();
        if judged && binding != BindingVerdict::Holds {
            self.emit(Event::ClientMismatch { user: user(), session: id, verdict: binding, client: client() });
        }
        if let (Some(revocation), Verdict::Mismatch | Verdict::Reuse) = (session.chain.revoked, verdict) {
            self.emit(Event::Ended { session: id, reason: revocation.reason });
        }
    }
}

const fn reason(verdict: Verdict) -> Reason {
    match verdict {
        Verdict::Mismatch => Reason::ClientMismatch,
        _ => Reason::Reuse,
    }
}

/// The verdicts that grant nothing, as the errors that say so.
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
