//! A node with its routes, and what a browser reads from their responses.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, Response};
use axum::response::IntoResponse as _;
use axum::routing::{MethodRouter, get};
use axum_refresh::{Auth, AuthUser, Login, Policy, Secret, Settings};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tower::ServiceExt as _;

use super::oracle::{ACCESS_TTL, GRACE, IDLE, LIFETIME, MIN_IDLE};
use crate::oracle::Millis;
use crate::world::{Check, FaultyStore, RealNode};
use crate::{Claims, Clock, SECRET};

pub(super) const ACR_VALUES: [&str; 2] = ["aal1", "aal2"];
const REFRESH_COOKIE: &str = "__Host-refresh";
const ACCESS_COOKIE: &str = "__Host-access";

/// The routes for an access token, by the layers around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Layer,
    Guard,
    Both,
    /// By cookie, within the layer for pages.
    Page,
}

/// How a request says that it does not come from something that the user does, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Active,
    PassiveHeader,
    PassiveLayer,
}

/// Whoever a handler was called for.
type Caller = Arc<Mutex<Option<AuthUser<Claims>>>>;

pub(super) struct Node {
    real: RealNode,
    app: Router,
    caller: Caller,
    pub(super) clock: Clock,
}

/// What a response hands out.
pub(super) struct HandedOut {
    pub(super) access: String,
    pub(super) refresh: Option<String>,
    /// The lifetime of the refresh cookie in seconds; none if it ends with the browser.
    pub(super) max_age: Option<i64>,
}

pub(super) struct Reply {
    pub(super) status: u16,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    async fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    fn cookie(&self, name: &str) -> Option<&str> {
        let cookies = self.headers.get_all("set-cookie").iter().filter_map(|cookie| cookie.to_str().ok());
        cookies.filter_map(|cookie| cookie.strip_prefix(name)?.strip_prefix('=')).next()
    }

    pub(super) fn handed_out(&self) -> Check<HandedOut> {
        let value = |cookie: &str| cookie.split(';').next().unwrap_or_default().to_owned();
        let body: Option<serde_json::Value> = serde_json::from_str(&self.body).ok();
        let in_body = body.and_then(|body| Some(body.get("access_token")?.as_str()?.to_owned()));
        let access = in_body.or_else(|| self.cookie(ACCESS_COOKIE).map(value)).ok_or("no access token")?;
        let refresh = self.cookie(REFRESH_COOKIE);
        let max_age = refresh.and_then(|cookie| cookie.split("Max-Age=").nth(1)?.split(';').next()?.parse().ok());
        Ok(HandedOut { access, refresh: refresh.map(value), max_age })
    }

    /// Whether it is granted. Anything but a refusal is an error.
    pub(super) fn is_granted(&self) -> Check<bool> {
        match self.status {
            200 => Ok(true),
            401 => Ok(false),
            status => Err(format!("status {status}: {}", self.body)),
        }
    }
}

/// The claims of an access token.
pub(super) fn payload(access: &str) -> Check<serde_json::Value> {
    let payload = access.split('.').nth(1).ok_or("the access token is not a JWT")?;
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|error| error.to_string())?;
    serde_json::from_slice(&payload).map_err(|error| error.to_string())
}

fn settings() -> Settings {
    let millis = |millis: Millis| Duration::from_millis(millis.unsigned_abs());
    let policy = Policy {
        access_ttl: millis(ACCESS_TTL),
        idle_timeout: millis(IDLE),
        min_idle_timeout: Some(millis(MIN_IDLE)),
        lifetime: millis(LIFETIME),
        grace: millis(GRACE),
        ..Policy::default()
    };
    Settings { policy, acr_values: ACR_VALUES.map(str::to_owned).into(), ..Settings::for_pages() }
}

fn app(auth: &Auth<Claims>, caller: &Caller) -> Router {
    let handler = || -> MethodRouter {
        let caller = Arc::clone(caller);
        get(move |user: AuthUser<Claims>| async move {
            *caller.lock().unwrap() = Some(user);
        })
    };
    let routes = || {
        Router::new()
            .route("/layer", handler().layer(auth.layer()))
            .route("/guard", handler().layer(auth.guard()))
            .route("/both", handler().layer((auth.layer(), auth.guard())))
            .route("/page", handler().layer((auth.pages().unwrap(), auth.layer())))
            .nest("/auth", auth.router())
    };
    routes().nest("/passive", routes().layer(auth.passive()))
}

impl Node {
    pub(super) fn start(store: &FaultyStore, clock: &Clock) -> Self {
        let real = RealNode::start(clock.clone(), |clock| {
            let builder = Auth::<Claims>::builder(Secret::new(SECRET), store.clone()).settings(settings());
            builder.clock(clock.reader()).build().unwrap()
        });
        let caller = Caller::default();
        let app = real.run(async |auth| app(auth, &caller));
        let node = Self { real, app, caller, clock: clock.clone() };
        node.rest();
        node
    }

    pub(super) fn now(&self) -> Millis {
        self.clock.now().as_millis()
    }

    pub(super) fn run<T>(&self, work: impl AsyncFnOnce(&Auth<Claims>) -> T) -> T {
        self.real.run(work)
    }

    /// Lets a second pass for the background task, and for nothing else.
    pub(super) fn rest(&self) {
        self.real.run(async |auth| {
            // Whatever starts the task.
            let _ = auth.revoke_external("nobody", "none").await;
            tokio::time::sleep(Duration::from_millis(1_100)).await;
        });
    }

    fn send(&self, method: &str, path: &str, how: How, header: (&str, &str)) -> Reply {
        let prefix = if how == How::PassiveLayer { "/passive" } else { "" };
        let mut request = Request::builder().method(method).uri(format!("{prefix}{path}"));
        request = request.header("host", "app.example").header("user-agent", "curl/8.5.0").header(header.0, header.1);
        if how == How::PassiveHeader {
            request = request.header("auth-passive", "?1");
        }
        let request = request.body(Body::empty()).unwrap();
        let app = self.app.clone();
        self.caller.lock().unwrap().take();
        self.real.run(async move |_| Reply::of(app.oneshot(request).await.unwrap()).await)
    }

    /// A request with an access token. Returns whoever the handler was called for.
    pub(super) fn access(&self, access: &str, way: Way, how: How) -> Check<Option<AuthUser<Claims>>> {
        let path = match way {
            Way::Layer => "/layer",
            Way::Guard => "/guard",
            Way::Both => "/both",
            Way::Page => "/page",
        };
        let header = match way {
            Way::Page => ("cookie", format!("{ACCESS_COOKIE}={access}")),
            _ => ("authorization", format!("Bearer {access}")),
        };
        let reply = self.send("GET", path, how, (header.0, &header.1));
        let caller = self.caller.lock().unwrap().take();
        if reply.is_granted()? != caller.is_some() {
            return Err(format!("status {}, and the handler was called for {caller:?}", reply.status));
        }
        Ok(caller)
    }

    /// A refresh by cookie, by the route for it or within a request for a page.
    pub(super) fn refresh(&self, refresh: &str, in_page: bool, how: How) -> Reply {
        let cookie = format!("{REFRESH_COOKIE}={refresh}");
        let (method, path) = if in_page { ("GET", "/page") } else { ("POST", "/auth/refresh") };
        self.send(method, path, how, ("cookie", &cookie))
    }

    pub(super) fn logout(&self, header: (&str, &str)) -> u16 {
        self.send("POST", "/auth/logout", How::Active, header).status
    }

    /// A logout of what the browser has.
    pub(super) fn logout_by(&self, refresh: Option<&str>, access: &str) -> u16 {
        match refresh {
            Some(refresh) => self.logout(("cookie", &format!("{REFRESH_COOKIE}={refresh}"))),
            None => self.logout(("authorization", &format!("Bearer {access}"))),
        }
    }

    /// The response to a login.
    pub(super) fn respond(&self, login: Login) -> Reply {
        self.real.run(async move |_| Reply::of(login.into_response()).await)
    }
}
