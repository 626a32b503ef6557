//! The HTTP side: layers, extractors, routers, cookies. The rules live below; here they get their statuses and headers.

mod admin;
mod cookie;
mod extract;
mod gate;
mod guard;
mod layer;
mod origin;
mod problem;
mod router;
mod transport;

pub use self::guard::GuardLayer;
pub use self::layer::AuthLayer;
pub use self::router::{Route, Routes};
