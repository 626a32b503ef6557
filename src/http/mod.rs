//! The HTTP side: layers, extractors, routers and cookies. The rules are below; this gives them statuses and headers.

pub(crate) mod admin;
#[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
mod back_channel;
pub(crate) mod bearer;
#[cfg(feature = "browser")]
mod browser;
pub(crate) mod cookie;
mod csrf;
#[cfg(any(feature = "browser", feature = "aws_lc_rs", feature = "openapi", feature = "signing"))]
mod etag;
mod extract;
pub(crate) mod head;
pub(crate) mod identify;
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
mod jwks;
mod layers;
pub(crate) mod negotiate;
#[cfg(feature = "openapi")]
mod openapi;
mod passive;
mod problem;
mod rejection;
mod revocations;
mod router;
mod routes;
mod step_up;
pub(crate) mod tokens;

pub use self::layers::{
    AuthLayer, AuthService, CheckService, CsrfLayer, CsrfService, GuardLayer, GuardService, PagesLayer, PagesService,
    PassiveLayer, PassiveService, RefusalsFuture, RefusalsLayer, RefusalsService, RequireLayer, RequireService,
    ResponseFuture,
};
pub use self::negotiate::local_next;
#[cfg(feature = "openapi")]
pub use self::openapi::openapi_route;
pub use self::problem::Problem;
pub use self::rejection::AuthRejection;
pub use self::routes::{Route, Routes};
pub use self::step_up::{Acr, Recent, Required, Requirement, Rule};
