//! Why logout tokens are refused.

/// Why a logout token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogoutTokenError {
    /// It has more than 8192 bytes.
    #[error("the token is longer than 8192 bytes")]
    TooLong,
    /// It is not a signed JWT: three parts in base64url, the first two of them JSON objects.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// It is encrypted, which is not supported.
    #[error("the token is encrypted; register the client without encryption of ID tokens")]
    Encrypted,
    /// Its algorithm is `none`, symmetric or not supported.
    #[error("alg is not a supported asymmetric algorithm")]
    Algorithm,
    /// It has critical header parameters (`crit`), and none is supported.
    #[error("the header has critical parameters")]
    CriticalHeader,
    /// None of the provider's keys has its `kid` and fits its algorithm. Fetch the keys anew, and call
    /// [`LogoutVerifier::set_jwks`](super::LogoutVerifier::set_jwks).
    #[error("no key has this kid and alg; fetch the keys of the provider again")]
    UnknownKey,
    /// The signature is invalid.
    #[error("the signature is invalid")]
    Signature,
    /// Its type is not `logout+jwt`. See [`LogoutVerifier::accept_untyped`](super::LogoutVerifier::accept_untyped).
    #[error("typ is not logout+jwt")]
    WrongType,
    /// It is of another issuer.
    #[error("iss is another issuer")]
    WrongIssuer,
    /// It is not for this client, or not for it alone.
    #[error("aud is not this client alone")]
    WrongAudience,
    /// This claim is missing or malformed.
    #[error("the claim {0} is missing or malformed")]
    Claim(&'static str),
    /// It has expired.
    #[error("the token has expired")]
    Expired,
    /// It was issued in the future.
    #[error("the token was issued in the future; synchronize the clocks")]
    FromFuture,
    /// It was issued more than five minutes ago.
    #[error("the token was issued more than 5 minutes ago")]
    TooOld,
    /// `events` has no object for the event of a logout.
    #[error("events has no back-channel logout")]
    NoLogoutEvent,
    /// It has a `nonce`, which only ID tokens have.
    #[error("the token has a nonce")]
    HasNonce,
    /// It has neither `sid` nor `sub`.
    #[error("sid and sub are both missing")]
    NoSubject,
    /// It has no `sid`, and [`BackChannelLogout::user_of`](crate::federation::BackChannelLogout::user_of) was not called.
    #[error("sid is missing, and this client knows no users by sub")]
    SubjectOnly,
    /// It was used before.
    #[error("the token was used before")]
    Replayed,
}

impl LogoutTokenError {
    /// The bit of what the provider and the app have to agree on; none if nothing is wrong with the setup.
    pub(super) const fn of_setup(self) -> Option<u32> {
        Some(match self {
            Self::Encrypted => 0,
            Self::Algorithm => 1,
            Self::UnknownKey => 2,
            Self::WrongType => 3,
            Self::WrongIssuer => 4,
            Self::WrongAudience => 5,
            Self::Claim(_) => 6,
            Self::FromFuture => 7,
            Self::SubjectOnly => 8,
            Self::NoLogoutEvent => 9,
            Self::HasNonce => 10,
            _ => return None,
        })
    }

    /// What to do about it.
    pub(crate) const fn advice(self) -> &'static str {
        match self {
            Self::Encrypted => "register the client with the provider without encryption of ID tokens",
            Self::UnknownKey => "fetch the provider's keys again, and call `LogoutVerifier::set_jwks`",
            Self::WrongType => {
                "let the provider type its logout tokens, or call `LogoutVerifier::accept_untyped` if it cannot"
            }
            Self::WrongIssuer | Self::WrongAudience => {
                "compare the issuer and the client id of the `LogoutVerifier` with those of the provider"
            }
            Self::FromFuture => "synchronize the clocks by NTP",
            Self::SubjectOnly => {
                "let the provider send the sid (backchannel_logout_session_required), or call \
                 `BackChannelLogout::user_of` to find users by their sub"
            }
            _ => "compare the token with OpenID Connect Back-Channel Logout 1.0, section 2.4",
        }
    }
}
