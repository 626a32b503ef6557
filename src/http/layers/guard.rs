//! The layer that checks the session behind an access token.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::request::Parts;
use tower_layer::Layer;

use super::{Check, CheckService, GuardService, Refusal};
use crate::auth::{Auth, Claims, Decision, NoClaims, Verified};
use crate::error::Error;
use crate::http::bearer::bearer;
use crate::http::extract::client_info;
use crate::http::head::Head;
use crate::http::identify::{Pending, identify, identify_after_catching_up, remember_refused, remembered};
use crate::http::problem::Problem;
use crate::http::rejection::AuthRejection;
use crate::metrics::Meter;

/// Checks the session behind an access token: that it exists, is not idle, and is used by the client that logged in. Made
/// by [`Auth::guard`].
///
/// For every request, in this order:
///
/// 1. The access token is verified as by [`AuthLayer`](crate::AuthLayer), unless that layer has done so already. The two
///    layers may come in any order.
/// 2. The first time this node sees the session, it is loaded from the store: 401 `access_token_revoked` if it does not
///    exist or is revoked, 401 `session_idle` if it was idle for too long.
/// 3. The client's IP address and User-Agent are compared with those at login, as far as the
///    [binding](crate::config::Binding) says: 401 `client_mismatch`, and by policy the session is revoked, or 401
///    `insufficient_user_authentication` until the user has [authenticated again](crate::guide::authentication).
///
/// After the first request of a session nothing waits for the store: the client at login never changes, revocations reach
/// every node by themselves, and a valid access token keeps its session from being idle, because it lives for less time than
/// the idle timeout. If the store is unreachable at that first request, it is 503.
///
/// It works alone, and refuses anonymous requests as `AuthLayer` does. [`AuthLayer`](crate::AuthLayer) compares the two
/// layers and says when one of them is enough.
pub struct GuardLayer<C = NoClaims> {
    auth: Auth<C>,
    optional: bool,
}

impl<C> GuardLayer<C> {
    /// Lets anonymous requests pass, as [`AuthLayer::optional`](crate::AuthLayer::optional) does. If both layers are used,
    /// both need it.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    fn refuse(&self, head: &impl Head, problem: Problem) -> Refusal {
        AuthRejection::new(self.auth.resolved(), head, problem).render()
    }
}

impl<C> Clone for GuardLayer<C> {
    fn clone(&self) -> Self {
        Self { auth: self.auth.clone(), optional: self.optional }
    }
}

impl<C> fmt::Debug for GuardLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardLayer").field("optional", &self.optional).finish_non_exhaustive()
    }
}

impl<S, C> Layer<S> for GuardLayer<C> {
    type Service = GuardService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CheckService::new(inner, self.clone())
    }
}

/// What the store has to be asked about.
pub(crate) enum Unsure<C> {
    /// Whether the token is revoked.
    Token(Pending<C>),
    /// Whether the session is live and this client's.
    Session(Arc<Verified<C>>),
}

fn of_presented_token(error: &Error) -> Problem {
    Problem::from(error).of_presented_token()
}

impl<C: Claims> Check for GuardLayer<C> {
    type Found = Unsure<C>;
    type Addition = ();

    fn meter(&self) -> Meter {
        self.auth.resolved().meter
    }

    fn check(&self, head: &mut impl Head) -> Decision<(), Unsure<C>, Refusal> {
        let checked = match remembered(self.auth.authenticator(), head) {
            Some(token) => self.check_session(token, head),
            None => match identify(self.auth.authenticator(), self.optional, head) {
                Decision::Pass(Some(token)) => self.check_session(&token, head),
                Decision::Pass(None) => return Decision::Pass(()),
                Decision::Refuse(problem) => return Decision::Refuse(self.refuse(head, problem)),
                Decision::AskStore(pending) => return Decision::AskStore(Unsure::Token(pending)),
            },
        };
        match checked {
            Decision::Pass(()) => Decision::Pass(()),
            Decision::Refuse(error) => self.refusal(head, &error).map_or(Decision::Pass(()), Decision::Refuse),
            Decision::AskStore(token) => Decision::AskStore(Unsure::Session(token)),
        }
    }

    async fn check_in_store(&self, parts: &mut Parts, unsure: Unsure<C>) -> Result<(), Refusal> {
        let token = match unsure {
            Unsure::Session(token) => Some(token),
            Unsure::Token(pending) => {
                identify_after_catching_up(self.auth.authenticator(), self.optional, parts, pending)
                    .await
                    .map_err(|problem| self.refuse(parts, problem))?
            }
        };
        let Some(token) = token else { return Ok(()) };
        let checked = self.auth.check_session_in_store(&token, client_info(parts)).await;
        match checked {
            Ok(()) => Ok(()),
            Err(error) => self.refusal(parts, &error).map_or(Ok(()), Err),
        }
    }
}

impl<C: Claims> GuardLayer<C> {
    fn check_session(&self, token: &Arc<Verified<C>>, head: &impl Head) -> Decision<(), Arc<Verified<C>>, Error> {
        let user_agent = head.headers().get(USER_AGENT).map(HeaderValue::as_bytes);
        match self.auth.check_session(token, user_agent, || client_info(head)) {
            Decision::Pass(()) => Decision::Pass(()),
            Decision::Refuse(error) => Decision::Refuse(error),
            Decision::AskStore(()) => Decision::AskStore(Arc::clone(token)),
        }
    }

    /// None if the request may pass as an anonymous one: that is allowed, and the session is that of an access cookie, which
    /// browsers send with every request.
    fn refusal(&self, head: &mut impl Head, error: &Error) -> Option<Refusal> {
        let problem = of_presented_token(error);
        let has_header = head.headers().get_all(AUTHORIZATION).iter().any(|value| bearer(value).is_some());
        if self.optional && !has_header && problem.is_unauthorized() {
            remember_refused(self.auth.authenticator(), head, Some(problem));
            return None;
        }
        Some(self.refuse(head, problem))
    }
}

/// # Layers
impl<C: Claims> Auth<C> {
    /// The layer that checks the session behind an access token: see [`GuardLayer`].
    pub fn guard(&self) -> GuardLayer<C> {
        GuardLayer { auth: self.clone(), optional: false }
    }
}
