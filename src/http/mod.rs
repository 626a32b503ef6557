//! The HTTP side: layers, extractors, routers, cookies. The rules live below; here they get their statuses and headers.

pub(crate) mod admin;
pub(crate) mod cookie;
mod extract;
pub(crate) mod gate;
mod guard;
mod layer;
mod origin;
mod pages;
mod problem;
mod router;
#[cfg(feature = "client")]
mod script;
pub(crate) mod transport;

pub use self::guard::GuardLayer;
pub use self::layer::AuthLayer;
pub use self::pages::PagesLayer;
pub use self::router::{Route, Routes};
