//! The HTTP side: layers, extractors, routers and cookies. The rules are below; this gives them statuses and headers.

pub(crate) mod admin;
pub(crate) mod bearer;
#[cfg(feature = "browser")]
mod browser;
pub(crate) mod cookie;
mod csrf;
mod extract;
pub(crate) mod head;
pub(crate) mod identify;
mod layers;
pub(crate) mod negotiate;
mod problem;
mod rejection;
mod router;
pub(crate) mod tokens;

pub use self::layers::{
    AuthLayer, AuthService, CheckService, CsrfLayer, CsrfService, GuardLayer, GuardService, PagesLayer, PagesService,
    RefusalsFuture, RefusalsLayer, RefusalsService, ResponseFuture,
};
pub use self::negotiate::local_next;
pub use self::problem::Problem;
pub use self::rejection::AuthRejection;
pub use self::router::{Route, Routes};
