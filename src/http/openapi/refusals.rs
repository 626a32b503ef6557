//! Which refusals the routes have, and when. Statuses, codes and headers are those of [`Problem`].

use std::collections::HashSet;

use crate::auth::{Auth, Claims};
use crate::config::OnMaxSessions;
use crate::error::{Error, LoginError, StepUp};
use crate::http::problem::Problem;
use crate::store::StoreError;

/// Every refusal of this crate, those of a login too, which is a route of the app.
pub(super) fn all() -> Vec<Problem> {
    let errors = [
        Error::AccessTokenMissing,
        Error::AccessTokenInvalid,
        Error::AccessTokenExpired,
        Error::AccessTokenRevoked,
        Error::RefreshTokenMissing,
        Error::RefreshTokenInvalid,
        Error::RefreshTokenReused,
        Error::SessionRevoked,
        Error::SessionExpired,
        Error::SessionIdle,
        Error::ClientMismatch,
        Error::InsufficientAuthentication(StepUp::ANEW),
        Error::UserRefused,
        Error::SessionOutdated,
        Error::Login(LoginError::Acting),
        Error::SessionNotFound,
        Error::RefreshBusy,
        Error::SessionLimitReached,
    ];
    let problems = [Problem::CROSS_ORIGIN, Problem::INTERNAL, unavailable()].into_iter().chain(BODY);
    errors.iter().map(Problem::from).chain(problems).collect()
}

/// When a request is refused with a code.
pub(super) fn when(code: &str) -> &'static str {
    match code {
        "access_token_missing" => "The request has no access token.",
        "access_token_invalid" => {
            "The access token is malformed, was not issued for this app, is not valid yet, or has claims that this version of \
             the app cannot read."
        }
        "access_token_expired" => "The access token has expired.",
        "access_token_revoked" => "The access token, its session or its user was revoked.",
        "refresh_token_missing" => "The request has no refresh token.",
        "refresh_token_invalid" => {
            "The refresh token is malformed, not signed by this server, or of an unknown session."
        }
        "refresh_token_reused" => "The refresh token was superseded before. The session is revoked.",
        "session_revoked" => "The session was revoked.",
        "session_expired" => "The session has reached its lifetime.",
        "session_idle" => "The session was idle for too long.",
        "client_mismatch" => "The client does not match the one that logged in.",
        "insufficient_user_authentication" => "The user has to authenticate again, as the challenge says (RFC 9470).",
        "user_refused" => "The app refuses the user.",
        "session_outdated" => {
            "This version of the app cannot read the claims of the session. The session stays as it is."
        }
        "acting" => "Whoever acts for the user may not do this.",
        "cross_origin" => "The request was sent by a page of another origin.",
        "session_not_found" => "There is no such live session, or it belongs to another user.",
        "refresh_busy" => "Several requests refresh at once. Try again after `Retry-After`.",
        "session_limit" => "The user has reached the session limit.",
        "body_too_large" => "The body has more than 16 KiB.",
        "unsupported_media_type" => "The body is not declared as JSON.",
        "malformed_body" => "The body is missing or not as described.",
        "internal" => "A fault of the server or in its setup. Nobody is logged out.",
        "store_unavailable" => {
            "The session store or another service failed. Nobody is logged out. Try again after `Retry-After`."
        }
        _ => "",
    }
}

/// The refusals of a JSON body.
const BODY: [Problem; 3] = [Problem::MALFORMED_BODY, Problem::BODY_TOO_LARGE, Problem::UNSUPPORTED_MEDIA_TYPE];

fn unavailable() -> Problem {
    Problem::from(&Error::Store(StoreError::new("")))
}

/// The refusals of one operation.
#[derive(Clone, Default)]
pub(super) struct Refusals {
    problems: Vec<Problem>,
    /// Whether layers refuse, which redirect a request for a page to the login page.
    pub(super) by_layer: bool,
    /// Whether they ask for another authentication, and redirect to the page for it.
    pub(super) step_up_by_layer: bool,
}

impl Refusals {
    /// The refusals of a handler that may call the store, on a route that checks the origin of unsafe requests.
    pub(super) fn of_handler(is_unsafe: bool) -> Self {
        Self::default().and(is_unsafe.then_some(Problem::CROSS_ORIGIN)).and([unavailable()])
    }

    /// The refusals of a login.
    pub(super) fn of_login<C: Claims>(auth: &Auth<C>) -> Self {
        let policy = &auth.settings().policy;
        let is_limited = policy.max_sessions.is_some() && policy.on_max_sessions == OnMaxSessions::Refuse;
        let limit = is_limited.then_some(Error::SessionLimitReached);
        let acting = Error::Login(LoginError::Acting);
        Self::of_handler(true).and_errors(limit.into_iter().chain([acting])).and([Problem::INTERNAL])
    }

    fn and(mut self, problems: impl IntoIterator<Item = Problem>) -> Self {
        self.problems.extend(problems);
        self
    }

    pub(super) fn and_body(self) -> Self {
        self.and(BODY)
    }

    pub(super) fn and_errors(self, errors: impl IntoIterator<Item = Error>) -> Self {
        let problems: Vec<_> = errors.into_iter().map(|error| Problem::from(&error)).collect();
        self.and(problems)
    }

    /// Adds those of [`Auth::layer`] and [`Auth::guard`].
    pub(super) fn and_layers<C: Claims>(mut self, auth: &Auth<C>) -> Self {
        self.by_layer = true;
        let presented =
            [Error::AccessTokenInvalid, Error::AccessTokenExpired, Error::AccessTokenRevoked, Error::SessionIdle];
        let presented = presented.into_iter().chain(auth.mismatches());
        let presented: Vec<_> = presented.map(|error| Problem::from(&error).of_presented_token()).collect();
        self.step_up_by_layer |= presented.iter().any(Problem::is_step_up);
        let cross_origin = auth.resolved().access_cookie.as_ref().map(|_| Problem::CROSS_ORIGIN);
        self.and_errors([Error::AccessTokenMissing]).and(presented).and(cross_origin).and([unavailable()])
    }

    /// Adds those of a refresh.
    pub(super) fn and_refresh<C: Claims>(self, auth: &Auth<C>) -> Self {
        let errors = [
            Error::RefreshTokenMissing,
            Error::RefreshTokenInvalid,
            Error::RefreshTokenReused,
            Error::SessionRevoked,
            Error::SessionExpired,
            Error::SessionIdle,
            if auth.has_claims_hook() { Error::UserRefused } else { Error::SessionOutdated },
            Error::RefreshBusy,
        ];
        let body = if auth.settings().transport.has_body() { &BODY[..] } else { &[] };
        self.and_errors(errors).and_errors(auth.mismatches()).and(body.iter().cloned()).and([Problem::INTERNAL])
    }

    /// Adds that of a route that ends sessions, if the settings require a recent authentication for it. A layer checks it, or
    /// the handler.
    pub(super) fn and_recent<C: Claims>(mut self, auth: &Auth<C>, by_layer: bool) -> Self {
        let max_age = auth.settings().revocation_max_age;
        self.step_up_by_layer |= by_layer && max_age.is_some();
        let step_up = max_age.map(|max_age| StepUp { max_age: Some(max_age), acr_values: None });
        self.and_errors(step_up.map(Error::InsufficientAuthentication))
    }

    /// Each code once.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut seen = HashSet::new();
        let mut problems = self.problems;
        problems.retain(|problem| seen.insert(problem.code()));
        problems
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn listed() -> BTreeSet<(u16, &'static str)> {
        all().iter().map(|problem| (problem.status().as_u16(), problem.code())).collect()
    }

    /// The next variant, from the first to the last. A new variant does not compile here until it has a place.
    fn after(error: Option<&Error>) -> Option<Error> {
        Some(match error {
            None => Error::AccessTokenMissing,
            Some(Error::AccessTokenMissing) => Error::AccessTokenInvalid,
            Some(Error::AccessTokenInvalid) => Error::AccessTokenExpired,
            Some(Error::AccessTokenExpired) => Error::AccessTokenRevoked,
            Some(Error::AccessTokenRevoked) => Error::RefreshTokenMissing,
            Some(Error::RefreshTokenMissing) => Error::RefreshTokenInvalid,
            Some(Error::RefreshTokenInvalid) => Error::RefreshTokenReused,
            Some(Error::RefreshTokenReused) => Error::SessionRevoked,
            Some(Error::SessionRevoked) => Error::SessionExpired,
            Some(Error::SessionExpired) => Error::SessionIdle,
            Some(Error::SessionIdle) => Error::ClientMismatch,
            Some(Error::ClientMismatch) => Error::InsufficientAuthentication(StepUp::ANEW),
            Some(Error::InsufficientAuthentication(_)) => Error::UserRefused,
            Some(Error::UserRefused) => Error::SessionOutdated,
            Some(Error::SessionOutdated) => Error::SessionNotFound,
            Some(Error::SessionNotFound) => Error::RefreshBusy,
            Some(Error::RefreshBusy) => Error::SessionLimitReached,
            Some(Error::SessionLimitReached) => Error::InvalidUserId,
            Some(Error::InvalidUserId) => Error::Claims(crate::ClaimsError::NotAnObject),
            Some(Error::Claims(_)) => Error::Login(LoginError::Acting),
            Some(Error::Login(LoginError::Acting)) => Error::Login(LoginError::UnknownAcr(String::new())),
            Some(Error::Login(_)) => Error::Requirement(crate::config::SettingsError::new("", "")),
            Some(Error::Requirement(_)) => Error::Store(StoreError::new("")),
            Some(Error::Store(_)) => Error::Hook("".into()),
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            Some(Error::Hook(_)) => Error::Signer("".into()),
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            Some(Error::Signer(_)) => Error::Random,
            #[cfg(not(any(feature = "aws_lc_rs", feature = "signing")))]
            Some(Error::Hook(_)) => Error::Random,
            Some(Error::Random) => return None,
        })
    }

    #[test]
    fn every_error_is_among_the_refusals() {
        let mut error = after(None);
        let mut count = 0;
        while let Some(current) = error {
            let problem = Problem::from(&current);
            assert!(listed().contains(&(problem.status().as_u16(), problem.code())), "{current:?}");
            error = after(Some(&current));
            count += 1;
        }
        assert!(count > 23, "{count}");
    }

    /// The codes of the constants of `Problem`, by its source.
    #[test]
    fn every_problem_is_among_the_refusals() {
        let source = include_str!("../problem.rs");
        let constants = source.split("Self::ours(StatusCode::").skip(1);
        let codes: Vec<_> = constants.map(|text| text.split('"').nth(1).unwrap()).collect();
        assert!(codes.len() >= 5 && codes.contains(&"cross_origin"), "{codes:?}");
        for code in codes {
            assert!(listed().iter().any(|(_, listed)| *listed == code), "{code}");
        }
    }

    #[test]
    fn the_refusals_are_those_of_the_guide() {
        let guide = include_str!("../../guide/http.md");
        let (_, table) = guide.split_once("| status | code | when |\n|---|---|---|\n").unwrap();
        let mut documented = BTreeSet::new();
        for row in table.lines().take_while(|line| line.starts_with('|')) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let statuses: Vec<u16> = cells[1].split(", ").map(|status| status.parse().unwrap()).collect();
            let codes: Vec<_> = cells[2].split(", ").map(|code| code.trim_matches('`')).collect();
            for (n, code) in codes.into_iter().enumerate() {
                documented.insert((*statuses.get(n).unwrap_or(&statuses[0]), code));
            }
        }
        assert_eq!(documented, listed());
    }

    #[test]
    fn it_is_said_of_every_refusal_when_it_occurs() {
        for (_, code) in listed() {
            assert!(when(code).ends_with('.'), "{code}");
        }
    }
}
