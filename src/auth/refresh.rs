//! Refreshing: the ratchet's verdict, carried out on the store.

use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument as _;

use super::binding::mismatch;
use super::login::Tokens;
use super::unsent::Unsent;
use super::{Auth, Claims, Decision, MAX_TRIES, Use, Verified};
use crate::client::ClientInfo;
use crate::config::OnReuse;
use crate::error::Error;
use crate::event::Event;
use crate::node::Cause;
use crate::node::unfinished::Unfinished;
use crate::ratchet::{BindingVerdict, Next, Outcome, Presented, Rotation, Verdict, present};
use crate::session::{Client, Revocation, RevocationReason};
use crate::store::{SessionRecord, StoreError};
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
    /// The rotation that was written for the new refresh token, if there is one.
    rotation: Option<Rotation>,
}

/// The result of a refresh within the request of a page.
pub(crate) struct PageRefresh<C> {
    pub(crate) tokens: Tokens,
    /// The access token for the layers and handlers inside; none if the session was revoked meanwhile.
    pub(crate) token: Option<Arc<Verified<C>>>,
    /// The refresh token, until the page is sent.
    pub(crate) unsent: Unsent,
}

/// A request for a refresh, whatever token is presented with it.
struct RefreshRequest<'a> {
    client: Client,
    how: Use,
    /// The pauses between rounds of attempts.
    pauses: &'a [Duration],
}

/// Why a candidate was refused.
struct Refused {
    error: Error,
    /// When its session was last used, if that is known.
    last_seen_at: Option<Timestamp>,
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
    /// - [`Error::UserRefused`] if the claims hook refuses the user, [`Error::Hook`] if it fails, and [`Error::Claims`] if its
    ///   claims are invalid.
    /// - [`Error::SessionOutdated`] if there is no claims hook, and the claims kept with the session cannot be read by this
    ///   version of the app. The session stays as it is.
    /// - [`Error::Store`] if the store fails, and `Error::Signer` if the signing key has a [signer](crate::keys) that does. The
    ///   client keeps its token and tries again.
    pub async fn refresh(&self, refresh_token: &str, client: ClientInfo) -> Result<Refreshed, Error> {
        let token = self.inner.refresh.decode(refresh_token.as_bytes()).ok_or(Error::RefreshTokenInvalid)?;
        let request = RefreshRequest { client: self.resolve(client), how: Use::Active, pauses: &[] };
        let refreshed = self.present(&token, &request, None).await;
        refreshed.map_err(|refused| refused.error)?.ok_or(Error::RefreshTokenInvalid)
    }

    /// Refreshes with one of several candidates: cookies of one name, sent after a change of path or domain, or planted by a
    /// sibling domain. The one with the highest generation comes first. If it is refused, it depends on the reason whether
    /// the next one is used. Nothing in a request tells a planted cookie from the user's own, so what decides is what the
    /// rows tell about their sessions.
    ///
    /// 1. The session has ended, there is none, or this version of the app cannot read its claims: the next one. An old cookie
    ///    may be sent before that of the last login.
    /// 2. The client does not match the session's binding: the next one. Under a policy that enforces the binding, it defines
    ///    whose session it is: this client has not opened that one, and has opened the one that holds. That the attacker
    ///    keeps the planted session in use changes nothing.
    /// 3. Anything else (the user is refused, a race is not decided, the claims hook fails) may pass. If the next session
    ///    were used meanwhile, its user would take the place of this one, and its cookie would replace this one's for good.
    ///    So the refusal stands, with one exception: a session that was used later than the refused one. A refused session
    ///    is not used any more; if the browser has used another one since, that is the browser's. For the user's own session
    ///    it is the other way round: its browser has used it last, and the other one is left from a former login.
    /// 4. If the store fails before anything is known about a session, the request fails.
    ///
    /// That the next session should only get an access token, so that it replaces no cookie, is no way out: it would not
    /// rotate for as long as a refused cookie is planted beside it. Whoever has stolen its token, and sends it together with
    /// a refused one, would share the session with its owner unnoticed.
    pub(crate) async fn refresh_newest(
        &self,
        candidates: impl IntoIterator<Item = &[u8]>,
        client: impl FnOnce() -> ClientInfo,
        how: Use,
    ) -> Result<Refreshed, Error> {
        self.refresh_candidates(candidates, client, how, &[]).await
    }

    /// [`refresh_newest`](Self::refresh_newest) within the request of a page.
    ///
    /// If the refresh token is a new one, the returned access token has the generation before it: what a handler does with
    /// it must not acknowledge a refresh token whose response may still get lost.
    pub(crate) async fn refresh_page(
        &self,
        candidates: impl IntoIterator<Item = &[u8]>,
        client: impl FnOnce() -> ClientInfo,
        how: Use,
    ) -> Result<PageRefresh<C>, Error> {
        let refreshed = self.refresh_candidates(candidates, client, how, &PAGE_PAUSES).await?;
        let Refreshed { tokens, rotation, .. } = refreshed;
        let unsent = Unsent::new(Arc::clone(&self.inner.node), tokens.session_id, rotation);
        let token = self.access_keys().verify(&tokens.access_token).ok().map(|mut token| {
            if tokens.refresh_token.is_some() {
                token.generation = token.generation.saturating_sub(1);
            }
            Arc::new(Verified::once(token, self.resolved()))
        });
        // Between the verdict and now the session may have been revoked.
        let Some(token) = token else { return Ok(PageRefresh { tokens, token, unsent }) };
        let mut decision = self.authenticator().admit_as_known(&token, self.now(), how);
        if let Decision::AskStore(()) = decision {
            self.authenticator().ask_about(&token).await?;
            decision = self.authenticator().admit_as_known(&token, self.now(), how);
        }
        let token = matches!(decision, Decision::Pass(())).then_some(token);
        Ok(PageRefresh { tokens, token, unsent })
    }

    async fn refresh_candidates(
        &self,
        candidates: impl IntoIterator<Item = &[u8]>,
        client: impl FnOnce() -> ClientInfo,
        how: Use,
        pauses: &[Duration],
    ) -> Result<Refreshed, Error> {
        let tokens = self.newest_of_each_session(candidates);
        if tokens.is_empty() {
            return Err(Error::RefreshTokenInvalid);
        }
        let request = RefreshRequest { client: self.resolve(client()), how, pauses };
        let mut ended = None;
        let mut may_pass = None;
        let mut used_since = None;
        for token in tokens {
            let Refused { error, last_seen_at } = match self.present(&token, &request, used_since).await {
                Ok(Some(refreshed)) => return Ok(refreshed),
                Ok(None) => continue,
                Err(refused) => refused,
            };
            match (error, last_seen_at) {
                (error, _) if error.is_final() => ended = ended.or(Some(error)),
                (error @ (Error::ClientMismatch | Error::InsufficientAuthentication(_)), _) => {
                    may_pass = may_pass.or(Some(error))
                }
                (error, None) => return Err(error),
                (error, last_seen_at) => {
                    may_pass = Some(error);
                    used_since = used_since.max(last_seen_at);
                }
            }
        }
        Err(may_pass.or(ended).unwrap_or(Error::RefreshTokenInvalid))
    }

    /// Presents a token to the ratchet. Returns `None` if its session was last used before `used_since`.
    async fn present(
        &self,
        token: &RefreshToken,
        request: &RefreshRequest<'_>,
        used_since: Option<Timestamp>,
    ) -> Result<Option<Refreshed>, Refused> {
        let mut last_seen_at = None;
        let presented = self.present_until_decided(token, request, used_since, &mut last_seen_at).await;
        presented.map_err(|error| Refused { error, last_seen_at })
    }

    /// If every attempt loses against another writer, starts again after each of the pauses. A verdict of Busy is not
    /// retried: the same token would only be older.
    async fn present_until_decided(
        &self,
        token: &RefreshToken,
        request: &RefreshRequest<'_>,
        used_since: Option<Timestamp>,
        last_seen_at: &mut Option<Timestamp>,
    ) -> Result<Option<Refreshed>, Error> {
        let node = &self.inner.node;
        node.start();
        let policy = &node.settings.policy;
        let RefreshRequest { client, how, pauses } = request;
        let mut claims = None;
        for attempt in 0..MAX_TRIES * (1 + pauses.len()) {
            if attempt > 0
                && attempt % MAX_TRIES == 0
                && let Some(pause) = pauses.get(attempt / MAX_TRIES - 1)
            {
                tokio::time::sleep(*pause).await;
            }
            let (mut session, ends_at) =
                node.load_with_end(token.session_id).await?.ok_or(Error::RefreshTokenInvalid)?;
            if used_since.is_some_and(|since| session.rotation.last_seen_at < since) {
                return Ok(None);
            }
            *last_seen_at = Some(session.rotation.last_seen_at);
            let client = &Client { actor: session.client.actor.clone(), ..client.clone() };
            let now = node.now();
            let secret_matches = session.secret_hash == token.secret_hash();
            let presented = Presented {
                generation: token.generation,
                secret_matches,
                binding: if secret_matches { self.judge_client(&session, client) } else { BindingVerdict::Holds },
            };
            let outcome = present(&session.rotation, presented, now, policy);
            // The snapshot has to be that of the row about to be written, and the hook runs again only if it has changed.
            let is_known = claims.as_ref().is_some_and(|(snapshot, _)| *snapshot == session.claims);
            if outcome.access.is_some() && !is_known {
                claims = Some((session.claims.clone(), self.claims_of(&session, client).await?));
            }
            if outcome.next == Some(Next::Revoke) {
                session.rotation.revoked = Some(Revocation { at: now, reason: reason(outcome.verdict) });
                if self.revoke_presented(session, token, presented.binding, outcome.verdict, client).await? {
                    refuse(outcome.verdict, presented.binding)?;
                }
                continue;
            }
            if let (Verdict::Revoked, OnReuse::User, Some(revoked)) =
                (outcome.verdict, policy.on_reuse, session.rotation.revoked)
                && revoked.reason == RevocationReason::Reuse
            {
                node.resume(&session.user_id, session.id, revoked.at, client);
            }
            let before = session.rotation;
            if let Some(Next::State(state)) = outcome.next {
                session.rotation = state;
                if *how == Use::Active {
                    session.rotation.last_seen_at = state.last_seen_at.max(now);
                }
                self.note_client(&mut session, client);
            }
            let valid_until = match how {
                Use::Active => session.rotation.expires_at,
                // The session may end before the token would expire.
                Use::Passive => ends_at.before(node.settings.leeway),
            };
            // Signed before the session is written, so that a failure leaves it as it is.
            let tokens = match refuse(outcome.verdict, presented.binding) {
                Ok(()) => {
                    let claims = claims.as_ref().map_or("", |(_, claims)| claims);
                    Ok(self.grant(&session, token, outcome, claims, now, valid_until).await?)
                }
                Err(error) => Err(error),
            };
            let mut rotation = None;
            if let Some(Next::State(_)) = outcome.next {
                if !node.compare_and_swap(session.version, &session).await? {
                    continue;
                }
                // Echo and Busy may write, and hand out no refresh token.
                rotation =
                    outcome.refresh.map(|_| Rotation { verdict: outcome.verdict, before, after: session.rotation });
                if outcome.verdict == Verdict::Ahead {
                    self.emit(Event::Ahead {
                        user_id: Arc::clone(&session.user_id),
                        session_id: session.id,
                        presented: token.generation,
                        stored: before.generation,
                        client: client.clone(),
                    });
                }
            }
            self.report(&session, token, presented.binding, outcome.verdict, client);
            let tokens = tokens?;
            if *how == Use::Active {
                self.touch(&session, now);
            }
            return Ok(Some(Refreshed { tokens, verdict: outcome.verdict, rotation }));
        }
        Err(Error::RefreshBusy)
    }

    /// Writes that a session is revoked because of the presented token, reports it, and revokes the user's other sessions
    /// if the policy says so. Returns `false` if the session was changed meanwhile, and the token has to be judged again.
    ///
    /// The session comes first: whatever fails afterwards, the thief does not continue. In a task of its own, because
    /// whoever has presented the token may hang up. What the store refuses is tried again by the node's background task,
    /// until it succeeds or the node exits. After a crash, the row still says that the session was revoked for reuse, so the
    /// next node to which one of its tokens is presented revokes the others ([`Node::resume`](crate::node::Node::resume)).
    async fn revoke_presented(
        &self,
        session: SessionRecord,
        token: &RefreshToken,
        binding: BindingVerdict,
        verdict: Verdict,
        client: &Client,
    ) -> Result<bool, Error> {
        let (auth, token, client) = (self.clone(), token.clone(), client.clone());
        let task = async move {
            let node = &auth.inner.node;
            let swapped = node.compare_and_swap(session.version, &session).await;
            if let Ok(false) = swapped {
                return Ok(false);
            }
            auth.report(&session, &token, binding, verdict, &client);
            let (session_id, reason) = (session.id, reason(verdict));
            let revokes_others = verdict == Verdict::Reuse && node.settings.policy.on_reuse == OnReuse::User;
            let cause = Cause::from(reason).of(&session.user_id).by(Some(client.clone()));
            let unfinished = Unfinished {
                user_id: session.user_id,
                session_id,
                reason,
                at: session.rotation.revoked.map_or(node.now(), |revoked| revoked.at),
                session: swapped.is_err(),
                others: revokes_others,
                client,
            };
            if swapped.is_ok() {
                node.report_session(session_id, cause);
                node.finish(unfinished).await;
            } else {
                // It is unknown whether the write had an effect.
                node.finish_later(&unfinished);
            }
            swapped
        };
        let stopped = |_| StoreError::new("compare_and_swap: the runtime is shutting down");
        Ok(tokio::spawn(task.in_current_span()).await.map_err(stopped)??)
    }

    /// Records that the user, or whoever acts, has done something.
    pub(super) fn touch(&self, session: &SessionRecord, now: Timestamp) {
        let write_behind = &self.inner.node.write_behind;
        write_behind.touch(session.id, now);
        if let Some(actor) = &session.client.actor {
            write_behind.touch(actor.session_id, now);
        }
    }

    async fn grant(
        &self,
        session: &SessionRecord,
        token: &RefreshToken,
        outcome: Outcome,
        claims: &str,
        now: Timestamp,
        valid_until: Timestamp,
    ) -> Result<Tokens, Error> {
        let generation = outcome.access.unwrap_or(token.generation);
        let mut tokens = self.tokens(session, generation, claims, now, valid_until, true).await?;
        tokens.refresh_token = outcome.refresh.map(|generation| self.inner.refresh.encode(&token.at(generation)));
        Ok(tokens)
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
            self.emit(Event::Refreshed { user_id: user_id(), session_id, generation, verdict, client: client() });
        }
        match verdict {
            Verdict::Forged => self.emit(Event::Forged { user_id: user_id(), session_id, client: client() }),
            Verdict::Reuse => {
                self.emit(Event::Reuse { user_id: user_id(), session_id, generation, client: client() });
            }
            Verdict::Recover if session.rotation.recoveries >= MANY_RECOVERIES => {
                let recoveries = session.rotation.recoveries;
                let client = client();
                self.emit(Event::ManyRecoveries { user_id: user_id(), session_id, recoveries, client });
            }
            _ => {}
        }
        let was_compared = verdict == Verdict::Mismatch || refuse(verdict, binding).is_ok();
        if was_compared && binding != BindingVerdict::Holds {
            self.emit(Event::ClientMismatch { user_id: user_id(), session_id, verdict: binding, client: client() });
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
const fn refuse(verdict: Verdict, binding: BindingVerdict) -> Result<(), Error> {
    Err(match verdict {
        Verdict::Touch | Verdict::Rotate | Verdict::Ahead | Verdict::Echo | Verdict::Recover => return Ok(()),
        Verdict::Forged => Error::RefreshTokenInvalid,
        Verdict::Revoked => Error::SessionRevoked,
        Verdict::Expired => Error::SessionExpired,
        Verdict::Idle => Error::SessionIdle,
        Verdict::Mismatch => mismatch(binding),
        Verdict::Busy => Error::RefreshBusy,
        Verdict::Reuse => Error::RefreshTokenReused,
    })
}
