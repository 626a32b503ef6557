#![doc = include_str!("guide/crate.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation
    )
)]

// The floors, bottom first. A module imports only from those before it; `tests/floors.rs` checks that.
//
//     time, session, metrics, config, ratchet, client, event, token, store, error, caep, feed, node, issuer, auth, http

mod auth;
mod caep;
mod client;
pub mod config;
mod error;
mod event;
mod feed;
mod http;
#[cfg(feature = "verifier")]
mod issuer;
mod metrics;
mod node;
pub mod ratchet;
mod session;
pub mod store;
mod time;
mod token;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
pub mod guide;

#[doc(inline)]
pub use self::config::{Policy, Settings};
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
#[doc(inline)]
pub use self::store::MySqlStore;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
#[doc(inline)]
pub use self::store::PostgresStore;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
#[doc(inline)]
pub use self::store::RedisStore;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
#[doc(inline)]
pub use self::store::SqliteStore;
#[doc(inline)]
pub use self::store::{MemoryStore, SessionStore};
pub use crate::auth::{Auth, AuthBuilder, AuthUser, Claims, Login, LoginBuilder, NoClaims, Refreshed, Tokens};
pub use crate::client::ClientInfo;
pub use crate::error::{ClaimsError, Error};
pub use crate::event::Event;
pub use crate::http::{AuthLayer, CsrfLayer, GuardLayer, PagesLayer};
pub use crate::session::{RevocationReason, Session, SessionId};
pub use crate::token::keys::Secret;

pub mod keys {
    //! Private and public keys for access tokens that other services verify.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "signing"))))]
    pub use crate::token::asymmetric::{SigningKey, VerifyingKey};
    pub use crate::token::keys::Secret;
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "signing"))))]
    pub use crate::token::signer::Signer;
}

pub mod federation {
    //! Single sign-on: sessions that began at an identity provider, and end with the session there.
    //!
    //! - [`LoginBuilder::external`](crate::LoginBuilder::external) says at login which session at the provider the new one
    //!   belongs to, and [`Auth::revoke_external`](crate::Auth::revoke_external) revokes all that belong to one.
    //! - [`Auth::back_channel_logout`](crate::Auth::back_channel_logout) is a route for the logout tokens of a provider: OpenID
    //!   Connect Back-Channel Logout 1.0. The recipe
    //!   [single sign-on](crate::guide::recipes#single-sign-on-logout-by-the-identity-provider) shows it.
    //! - [`SecurityEventClaims`] reports revocations to others: CAEP 1.0.
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))))]
    pub use crate::auth::{BackChannelLogout, LogoutError};
    pub use crate::caep::SecurityEventClaims;
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))))]
    pub use crate::token::logout::{LogoutToken, LogoutTokenError, LogoutVerifier};
}

pub mod layers {
    //! The services and futures behind the layers, for code that has to name them, and the layers of
    //! [`Auth::passive`](crate::Auth::passive), [`Auth::refusals`](crate::Auth::refusals) and
    //! [`Auth::require`](crate::Auth::require).
    pub use crate::http::{
        AuthService, CheckService, CsrfService, GuardService, PagesService, PassiveLayer, PassiveService,
        RefusalsFuture, RefusalsLayer, RefusalsService, RequireLayer, RequireService, ResponseFuture,
    };
}

pub mod rejection {
    //! Why requests and logins are refused.
    pub use crate::error::LoginError;
    pub use crate::http::{AuthRejection, Problem, local_next};
}

pub mod step_up {
    //! Requiring a recent or a strong authentication: see [`Auth::require`](crate::Auth::require).
    pub use crate::error::StepUp;
    pub use crate::http::{Acr, Recent, Required, Requirement, Rule};
}

#[cfg(feature = "verifier")]
#[cfg_attr(docsrs, doc(cfg(feature = "verifier")))]
pub mod verifier {
    //! Verifying access tokens in services that have neither the secret nor the store.
    pub use crate::auth::{Verifier, VerifierBuilder};
    /// The version of the HTTP client that [`VerifierBuilder::http_client`] takes.
    pub use reqwest;
}

pub mod router {
    //! Choosing the routes of [`Auth::router_with`](crate::Auth::router_with).
    #[cfg(feature = "openapi")]
    #[cfg_attr(docsrs, doc(cfg(feature = "openapi")))]
    pub use crate::http::openapi_route;
    pub use crate::http::{Route, Routes};
}

/// Compiles the README's snippets.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
