//! The layer that refuses requests sent by pages of other origins.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use super::{Check, CheckService, CsrfService, Refusal};
use crate::auth::{Auth, Decision};
use crate::config::ResolvedSettings;
use crate::http::csrf::{is_same_origin, is_same_origin_for_router};
use crate::http::head::Head;
use crate::http::problem::Problem;
use crate::http::rejection::AuthRejection;
use crate::metrics::Meter;

/// Refuses unsafe requests (any method but GET, HEAD and OPTIONS) sent by a page of another origin, with 403
/// `cross_origin`. Made by [`Auth::csrf`].
///
/// The check is that of [`tower_http::csrf`]: `Sec-Fetch-Site` if the browser sends it, or else `Origin` against
/// `Host`. A request with neither header passes: it does not come from a browser. Pages of the
/// [trusted origins](crate::Settings::trusted_origins) pass. Proxies have to leave `Host` and `Origin` as they are.
///
/// In an app that sets no cookies ([`Transport::Body`](crate::config::Transport::Body) without an access cookie), a request
/// without any cookie and with a bearer token or a JSON body passes too, whatever its origin: browsers send such a request to
/// another origin only if the app allows it by CORS.
#[derive(Clone)]
pub struct CsrfLayer {
    settings: Arc<ResolvedSettings>,
    /// Whether it is around a router of ours.
    own_routes: bool,
}

impl fmt::Debug for CsrfLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsrfLayer").field("trusted_origins", &self.settings.trusted_origins).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for CsrfLayer {
    type Service = CsrfService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CheckService::new(inner, self.clone())
    }
}

impl Check for CsrfLayer {
    type Found = Infallible;
    type Addition = ();

    fn meter(&self) -> Meter {
        self.settings.meter
    }

    fn check(&self, head: &mut impl Head) -> Decision<(), Infallible, Refusal> {
        let check = if self.own_routes { is_same_origin_for_router } else { is_same_origin };
        if check(&self.settings, head) {
            Decision::Pass(())
        } else {
            Decision::Refuse(AuthRejection::new(&self.settings, head, Problem::CROSS_ORIGIN).render())
        }
    }

    async fn check_in_store(&self, _: &mut Parts, found: Infallible) -> Result<(), Refusal> {
        match found {}
    }
}

/// # Layers
impl<C> Auth<C> {
    /// The layer that refuses unsafe requests sent by pages of other origins: see [`CsrfLayer`].
    ///
    /// The [router](Auth::router) has it built in. The app's own login route needs it too, or another site could log a
    /// visitor in as somebody else.
    ///
    /// ```
    /// # use axum::{Router, routing::post};
    /// # use axum_refresh::Auth;
    /// # async fn log_in() {}
    /// # fn app(auth: &Auth) -> Router {
    /// Router::new().route("/login", post(log_in).layer(auth.csrf()))
    /// # }
    /// ```
    pub fn csrf(&self) -> CsrfLayer {
        CsrfLayer { settings: Arc::clone(self.resolved()), own_routes: false }
    }

    /// [`csrf`](Self::csrf) for the routers of this crate.
    pub(in crate::http) fn router_csrf(&self) -> CsrfLayer {
        CsrfLayer { own_routes: true, ..self.csrf() }
    }
}
