#![doc = include_str!("docs/crate.md")]
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

mod activity;
mod auth;
mod binding;
mod client;
pub mod docs;
mod error;
mod event;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod http;
mod node;
mod policy;
pub mod ratchet;
mod revocation;
mod session;
mod settings;
#[doc(hidden)]
pub mod store;
mod token;

pub use ipnet::IpNet;

pub use crate::auth::{Auth, AuthBuilder, AuthUser, Claims, Login, LoginBuilder, NoClaims, Refreshed, Tokens};
pub use crate::client::ClientInfo;
pub use crate::error::{ClaimsError, Error};
pub use crate::event::Event;
pub use crate::http::{AuthLayer, GuardLayer, PagesLayer, Route, Routes};
pub use crate::policy::{Binding, BindingMode, CapResponse, ConfigError, Policy, ReuseResponse};
pub use crate::session::{
    Chain, Client, ParseSessionIdError, Reason, Revocation, SecretHash, Session, SessionId, Timestamp,
};
pub use crate::settings::{CookieSettings, SameSite, Settings, Transport};
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub use crate::store::MySqlStore;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use crate::store::PostgresStore;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use crate::store::SqliteStore;
pub use crate::store::{
    Admission, Cap, Cursor, Ended, Feed, Inserted, MemoryStore, Revoked, Seen, SessionStore, StoreError, Target,
};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use crate::store::{RedisOptions, RedisStore};
#[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))))]
pub use crate::token::asymmetric::{SigningKey, VerifyingKey};
pub use crate::token::keys::Secret;

// The README's snippet compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
