//! The HTTP side: layers, extractors, routers and cookies. The rules are below; this gives them statuses and headers.

pub(crate) mod admin;
#[cfg(feature = "browser")]
mod browser;
pub(crate) mod cookie;
mod csrf;
mod extract;
pub(crate) mod identify;
mod layers;
pub(crate) mod negotiate;
mod problem;
mod router;
pub(crate) mod tokens;

pub use self::extract::AuthRejection;
pub use self::layers::{
    AuthLayer, AuthService, CheckService, CsrfLayer, CsrfService, GuardLayer, GuardService, PagesLayer, PagesService,
    ResponseFuture,
};
pub use self::problem::Problem;
pub use self::router::{Route, Routes};
