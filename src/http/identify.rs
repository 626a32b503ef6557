//! Who is behind a request: found once, by its access token, and remembered for the other layers and the extractors.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::bearer::bearer;
use super::cookie;
use super::csrf::cookie_is_trusted;
use super::head::Head;
use super::passive::use_of;
use super::problem::Problem;
use crate::auth::{Authenticator, Claims, Decision, Use, Verified};
use crate::config::ResolvedSettings;
use crate::error::Error;
use crate::time::Timestamp;

/// What a layer has found out about a request. Kept in the request's extensions.
pub(crate) enum Identity<C> {
    /// It knows the [`Authenticator`] that has verified it. And when it was identified.
    User(Arc<Verified<C>>, Timestamp),
    /// An anonymous request that was let through. The settings say how to refuse it later.
    Anonymous {
        settings: Arc<ResolvedSettings>,
        /// Why it is anonymous although it has a token that is valid: that is how a layer inside refuses it which lets no
        /// anonymous request pass.
        reason: Option<Problem>,
    },
}

impl<C> Clone for Identity<C> {
    fn clone(&self) -> Self {
        match self {
            Self::User(token, at) => Self::User(Arc::clone(token), *at),
            Self::Anonymous { settings, reason } => {
                Self::Anonymous { settings: Arc::clone(settings), reason: reason.clone() }
            }
        }
    }
}

impl<C> Identity<C> {
    pub(super) fn user(&self) -> Option<&Arc<Verified<C>>> {
        match self {
            Self::User(token, _) => Some(token),
            Self::Anonymous { .. } => None,
        }
    }
}

/// A verified access token of a request.
pub(super) struct PresentedToken<C> {
    token: Arc<Verified<C>>,
    source: Source,
    how: Use,
}

#[derive(Clone, Copy)]
pub(super) enum Source {
    Header,
    Cookie,
}

impl Source {
    const fn refused(self, error: Error) -> Unidentified {
        match self {
            Self::Header => Unidentified::Header(error),
            Self::Cookie => Unidentified::Cookie(error),
        }
    }
}

/// What has to be asked before a request is identified.
pub(super) enum Pending<C> {
    /// The revocations that may concern its token.
    Revocations(PresentedToken<C>),
    /// The key of its token.
    Keys(Source),
}

impl<C: Claims> Pending<C> {
    /// Whether the token may be used, after asking. The outer error is a failure to ask.
    pub(super) async fn settle(
        self,
        authenticator: &Authenticator<C>,
        parts: &Parts,
    ) -> Result<Result<Arc<Verified<C>>, Unidentified>, Error> {
        let presented = match self {
            Self::Revocations(presented) => presented,
            Self::Keys(source) => {
                authenticator.learn_keys().await?;
                match verified_token(authenticator, parts, authenticator.now()) {
                    Decision::Pass(token) => return Ok(Ok(token)),
                    Decision::Refuse(reason) => return Ok(Err(reason)),
                    Decision::AskStore(Self::Revocations(presented)) => presented,
                    Decision::AskStore(Self::Keys(_)) => return Ok(Err(source.refused(Error::AccessTokenInvalid))),
                }
            }
        };
        match authenticator.admit_after_catching_up(&presented.token, presented.how).await {
            Ok(()) => Ok(Ok(presented.token)),
            Err(error @ (Error::AccessTokenRevoked | Error::AccessTokenExpired | Error::AccessTokenInvalid)) => {
                Ok(Err(presented.source.refused(error)))
            }
            Err(error) => Err(error),
        }
    }
}

/// Why a request does not identify its user.
pub(super) enum Unidentified {
    NoToken,
    /// The token in the header is refused.
    Header(Error),
    /// The token in the access cookie is refused.
    Cookie(Error),
    /// There is an access cookie, but the request was sent by a page of another origin.
    CrossOrigin,
}

impl From<Unidentified> for Problem {
    fn from(reason: Unidentified) -> Self {
        match reason {
            Unidentified::NoToken => Self::from(&Error::AccessTokenMissing),
            Unidentified::Header(error) | Unidentified::Cookie(error) => Self::from(&error).of_presented_token(),
            Unidentified::CrossOrigin => Self::CROSS_ORIGIN,
        }
    }
}

/// Identifies the user, or lets an anonymous request pass if that is allowed. `optional` says so.
pub(super) fn identify<C: Claims>(
    authenticator: &Authenticator<C>,
    optional: bool,
    head: &mut impl Head,
) -> Decision<Option<Arc<Verified<C>>>, Pending<C>, Problem> {
    match head.extensions().get::<Identity<C>>() {
        Some(Identity::User(token, _)) if token.is_verified_by(authenticator) => {
            return Decision::Pass(Some(Arc::clone(token)));
        }
        Some(Identity::Anonymous { settings, reason: Some(problem) })
            if Arc::ptr_eq(settings, authenticator.resolved()) =>
        {
            return if optional { Decision::Pass(None) } else { Decision::Refuse(problem.clone()) };
        }
        _ => {}
    }
    let now = authenticator.now();
    match verified_token(authenticator, head, now) {
        Decision::AskStore(pending) => Decision::AskStore(pending),
        Decision::Pass(token) => {
            remember(authenticator, head, Some(Arc::clone(&token)), now);
            Decision::Pass(Some(token))
        }
        Decision::Refuse(reason) => match refused(authenticator, optional, head, reason) {
            Ok(()) => Decision::Pass(None),
            Err(problem) => Decision::Refuse(problem),
        },
    }
}

/// [`identify`] after reading the feed of revocations.
pub(super) async fn identify_after_catching_up<C: Claims>(
    authenticator: &Authenticator<C>,
    optional: bool,
    parts: &mut Parts,
    pending: Pending<C>,
) -> Result<Option<Arc<Verified<C>>>, Problem> {
    match pending.settle(authenticator, parts).await.map_err(|error| Problem::from(&error))? {
        Ok(token) => {
            remember(authenticator, parts, Some(Arc::clone(&token)), authenticator.now());
            Ok(Some(token))
        }
        Err(reason) => refused(authenticator, optional, parts, reason).map(|()| None),
    }
}

/// Lets an unidentified request pass as an anonymous one if that is allowed.
fn refused<C: Claims>(
    authenticator: &Authenticator<C>,
    optional: bool,
    head: &mut impl Head,
    reason: Unidentified,
) -> Result<(), Problem> {
    match reason {
        // Browsers send an outdated cookie with every request; that is no reason to refuse a public page.
        Unidentified::NoToken | Unidentified::Cookie(_) if optional => {
            remember_refused(authenticator, head, None);
            Ok(())
        }
        reason => Err(Problem::from(reason)),
    }
}

pub(super) fn remember<C: Claims>(
    authenticator: &Authenticator<C>,
    head: &mut impl Head,
    token: Option<Arc<Verified<C>>>,
    now: Timestamp,
) {
    match token {
        Some(token) => {
            if authenticator.resolved().trace_users {
                trace(&token);
            }
            head.extensions_mut().insert(Identity::User(token, now));
        }
        None => remember_refused(authenticator, head, None),
    }
}

/// Records who sends a request, by the attributes of OpenTelemetry. Fields that the span does not have are left out.
#[cold]
fn trace<C>(token: &Verified<C>) {
    let span = tracing::Span::current();
    span.record("user.id", &*token.user_id);
    span.record("session.id", tracing::field::display(token.session_id));
}

/// Lets the request pass as an anonymous one, for layers inside that allow it.
pub(super) fn remember_refused<C: Claims>(
    authenticator: &Authenticator<C>,
    head: &mut impl Head,
    reason: Option<Problem>,
) {
    let settings = Arc::clone(authenticator.resolved());
    head.extensions_mut().insert(Identity::<C>::Anonymous { settings, reason });
}

/// The token that another layer of the same [`Authenticator`] has found. If that layer let an anonymous request pass, the next one
/// decides for itself.
pub(super) fn remembered<'a, C: Claims>(
    authenticator: &Authenticator<C>,
    head: &'a impl Head,
) -> Option<&'a Arc<Verified<C>>> {
    head.extensions().get::<Identity<C>>()?.user().filter(|token| token.is_verified_by(authenticator))
}

/// The access token of a request, if it may be used by what this node knows. Its use is recorded.
pub(super) fn verified_token<C: Claims>(
    authenticator: &Authenticator<C>,
    head: &impl Head,
    now: Timestamp,
) -> Decision<Arc<Verified<C>>, Pending<C>, Unidentified> {
    let presented = match token_of(authenticator, head, now) {
        Decision::Pass(presented) => presented,
        Decision::Refuse(reason) => return Decision::Refuse(reason),
        Decision::AskStore(source) => return Decision::AskStore(Pending::Keys(source)),
    };
    match authenticator.admit(&presented.token, now, presented.how) {
        Decision::Pass(()) => Decision::Pass(presented.token),
        Decision::Refuse(error) => Decision::Refuse(presented.source.refused(error)),
        Decision::AskStore(()) => Decision::AskStore(Pending::Revocations(presented)),
    }
}

/// The access token in the header or else in the access cookie, if it is ours and not expired.
fn token_of<C: Claims>(
    authenticator: &Authenticator<C>,
    head: &impl Head,
    now: Timestamp,
) -> Decision<PresentedToken<C>, Source, Unidentified> {
    let presented = |token, source| Decision::Pass(PresentedToken { token, source, how: use_of(head) });
    if let Some(token) = head.headers().get(AUTHORIZATION).and_then(bearer) {
        return match authenticator.verify(token, now) {
            Decision::Pass(token) => presented(token, Source::Header),
            Decision::Refuse(error) => Decision::Refuse(Unidentified::Header(error)),
            Decision::AskStore(()) => Decision::AskStore(Source::Header),
        };
    }
    let settings = authenticator.resolved();
    let Some(access_cookie) = &settings.access_cookie else { return Decision::Refuse(Unidentified::NoToken) };
    let mut first_error = None;
    let mut may_be_known = false;
    for value in cookie::values(head.headers(), &access_cookie.name) {
        if !cookie_is_trusted(settings, head) {
            return Decision::Refuse(Unidentified::CrossOrigin);
        }
        match authenticator.verify(value, now) {
            Decision::Pass(token) => return presented(token, Source::Cookie),
            Decision::Refuse(error) => first_error = first_error.or(Some(error)),
            Decision::AskStore(()) => may_be_known = true,
        }
    }
    if may_be_known {
        return Decision::AskStore(Source::Cookie);
    }
    Decision::Refuse(first_error.map_or(Unidentified::NoToken, Unidentified::Cookie))
}

/// All access tokens of a request, valid or not: the header's, and those of all access cookies.
pub(super) fn access_tokens<'a>(settings: &ResolvedSettings, headers: &'a HeaderMap) -> Vec<&'a [u8]> {
    let header = headers.get(AUTHORIZATION).and_then(bearer);
    let access_cookie = settings.access_cookie.as_ref();
    let cookies = access_cookie.into_iter().flat_map(|access_cookie| cookie::values(headers, &access_cookie.name));
    header.into_iter().chain(cookies).collect()
}
