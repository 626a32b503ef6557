//! One app, built from the recipes in `src/guide/recipes.md` as its users would build it: two kinds of user over one pool,
//! pages with fragments, a WebSocket, an event stream, gRPC, and a single-page app on another origin, on TCP or on a Unix
//! socket behind a proxy that strips a prefix.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Form, Query, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use axum_refresh::config::{Binding, BindingMode, CookieSettings};
use axum_refresh::rejection::local_next;
use axum_refresh::{
    Auth, AuthUser, Claims, ClientInfo, Login, NoClaims, Policy, PostgresStore, Secret, SessionStore, Settings,
    SqliteStore,
};
use futures_util::stream::{self, Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, SqlitePool};
use tokio::net::{TcpListener, UnixListener};
use tower_http::cors::CorsLayer;

use crate::stores;

/// The lifetime of an access token: short enough to wait for its end.
pub const ACCESS_TTL: Duration = Duration::from_secs(3);

/// What differs between deployments.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The kind of the app's database: `sqlite` or `postgres`.
    pub store: &'static str,
    /// The prefix that a proxy strips.
    pub prefix: &'static str,
    /// The path of the customers' refresh cookie, as browsers see it.
    pub cookie_path: String,
    /// Whether the app listens on a socket without addresses.
    pub is_behind_socket: bool,
    /// The origin of the single-page app, if it has another one.
    pub spa_origin: Option<String>,
}

impl Setup {
    /// An app on TCP, without a proxy.
    pub fn new(store: &'static str) -> Self {
        Self { store, prefix: "", cookie_path: "/auth".to_owned(), is_behind_socket: false, spa_origin: None }
    }

    /// An app on a Unix socket behind a proxy that strips the prefix.
    pub fn behind_proxy(prefix: &'static str) -> Self {
        Self { prefix, cookie_path: format!("{prefix}/auth"), is_behind_socket: true, ..Self::new("sqlite") }
    }

    fn settings(&self) -> Settings {
        Settings {
            policy: Policy {
                access_ttl: ACCESS_TTL,
                grace: Duration::from_secs(1),
                binding: Binding { ip: BindingMode::Reject, ..Binding::default() },
                ..Policy::default()
            },
            trust_unknown_peer: self.is_behind_socket,
            trusted_origins: self.spa_origin.iter().cloned().collect(),
            ..Settings::default()
        }
    }
}

/// The claims of the staff. Customers have none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Staff {
    role: String,
}

/// The app.
pub struct App {
    pub customers: Auth,
    pub staff: Auth<Staff>,
    routes: Router,
}

impl App {
    /// The app with an empty database.
    pub async fn new(setup: &Setup) -> Self {
        let [app] = Self::nodes(setup).await;
        app
    }

    /// Several nodes of the app, each with a pool of its own over one database.
    pub async fn nodes<const N: usize>(setup: &Setup) -> [Self; N] {
        let url = stores::fresh_url_of(setup.store, "networks").await;
        let secret = Secret::random().unwrap();
        let mut nodes = Vec::new();
        for _ in 0..N {
            nodes.push(Self::over(open(setup.store, &url).await, secret.clone(), setup));
        }
        nodes.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for"))
    }

    /// One pool for the app's own tables and for the sessions of both kinds of user.
    fn over(store: Arc<dyn SessionStore>, secret: Secret, setup: &Setup) -> Self {
        let customers = Auth::builder(secret.clone(), Arc::clone(&store))
            .settings(Settings {
                refresh_cookie: CookieSettings { path: setup.cookie_path.clone(), ..CookieSettings::default() },
                access_cookie: Some(CookieSettings::access()), // for pages, the WebSocket and the event stream
                hint_cookie: true,
                login_page: Some(format!("{}/login", setup.prefix)),
                ..setup.settings()
            })
            .build()
            .unwrap();
        let staff = Auth::builder(secret, store)
            .settings(Settings {
                realm: Some("staff".to_owned()),
                refresh_cookie: CookieSettings {
                    path: format!("{}/staff/auth", setup.prefix),
                    ..CookieSettings::default()
                },
                ..setup.settings()
            })
            .build()
            .unwrap();
        let routes = routes(setup, &customers, &staff);
        Self { customers, staff, routes }
    }

    /// Serves the app on a free port of 127.0.0.1, and returns its origin.
    pub async fn on_tcp(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let service = self.routes.clone().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        origin
    }

    /// Serves the app on a Unix socket.
    pub fn on_socket(&self, path: &Path) {
        let listener = UnixListener::bind(path).unwrap();
        let routes = self.routes.clone();
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    }
}

async fn open(kind: &str, url: &str) -> Arc<dyn SessionStore> {
    if kind == "postgres" {
        let store = PostgresStore::new(PgPool::connect(url).await.unwrap());
        store.migrate().await.unwrap();
        return Arc::new(store);
    }
    let store = SqliteStore::new(SqlitePool::connect(&format!("{url}?mode=rwc")).await.unwrap());
    store.migrate().await.unwrap();
    Arc::new(store)
}

fn routes(setup: &Setup, customers: &Auth, staff: &Auth<Staff>) -> Router {
    let shop = Router::new()
        .route("/me", get(async |user: AuthUser| user.id.to_string()))
        .route("/page", get(page))
        .route("/page/part", get(async |user: AuthUser| Html(format!("<p>a part for {}</p>", user.id))))
        .route("/ws", any(web_socket))
        .route("/events", get(events))
        .route_layer((customers.layer(), customers.guard()))
        .route("/login", get(login_page).merge(post(log_in_by_form).layer(customers.csrf())))
        .route("/api/login", post(log_in::<NoClaims>).layer(customers.csrf()))
        .nest("/auth", customers.router())
        .with_state(Customers { auth: customers.clone(), prefix: setup.prefix })
        .merge(axum_refresh_grpc_example::router(customers));
    let back_office = Router::new()
        .route("/me", get(async |user: AuthUser<Staff>| format!("{}, {}", user.id, user.claims.role)))
        .route_layer((staff.layer(), staff.guard()))
        .route("/login", post(log_in::<Staff>).layer(staff.csrf()))
        .nest("/auth", staff.router())
        .with_state(staff.clone());
    let app = shop.nest("/staff", back_office);
    match &setup.spa_origin {
        // Last, so that it is around all of the above.
        Some(origin) => app.layer(cors(origin)),
        None => app,
    }
}

fn cors(origin: &str) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(HeaderValue::from_str(origin).unwrap())
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("auth-passive")])
        .expose_headers([header::RETRY_AFTER, header::WWW_AUTHENTICATE, HeaderName::from_static("grpc-status")])
}

#[derive(Clone)]
struct Customers {
    auth: Auth,
    prefix: &'static str,
}

impl axum::extract::FromRef<Customers> for Auth {
    fn from_ref(state: &Customers) -> Self {
        state.auth.clone()
    }
}

/// The claims of a user who logs in.
trait FromUser: Claims {
    fn of(user: &str) -> Self;
}

impl FromUser for NoClaims {
    fn of(_: &str) -> Self {
        Self {}
    }
}

impl FromUser for Staff {
    fn of(user: &str) -> Self {
        Self { role: if user == "alice" { "manager" } else { "clerk" }.to_owned() }
    }
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

impl Credentials {
    fn are_valid(&self) -> bool {
        self.password == "password"
    }
}

async fn log_in<C: FromUser>(
    State(auth): State<Auth<C>>,
    client: ClientInfo,
    Json(form): Json<Credentials>,
) -> axum::response::Result<Login> {
    if !form.are_valid() {
        return Err(StatusCode::UNAUTHORIZED.into());
    }
    let claims = C::of(&form.username);
    Ok(auth.login(form.username, claims).client(client).await?)
}

#[derive(Deserialize)]
struct LoginQuery {
    next: Option<String>,
}

async fn login_page() -> Html<&'static str> {
    // Without `action`, the form is sent to the URL of its page, with the query.
    Html("<form method=post><input name=username><input name=password type=password><button>Log in</button></form>")
}

async fn log_in_by_form(
    State(Customers { auth, prefix }): State<Customers>,
    client: ClientInfo,
    Query(query): Query<LoginQuery>,
    Form(form): Form<Credentials>,
) -> axum::response::Result<Response> {
    if !form.are_valid() {
        return Ok((StatusCode::UNAUTHORIZED, login_page().await).into_response());
    }
    let login = auth.login(form.username, NoClaims {}).client(client).await?;
    let next = query.next.as_deref().and_then(local_next).unwrap_or("/page");
    // A redirect to the login page names the path that the app has received, and htmx the one in the browser.
    let has_prefix = next.strip_prefix(prefix).is_some_and(|rest| !prefix.is_empty() && rest.starts_with('/'));
    let next = if has_prefix { next.to_owned() } else { format!("{prefix}{next}") };
    Ok((login, Redirect::to(&next)).into_response())
}

async fn page(user: AuthUser) -> Html<String> {
    Html(format!("<h1>{}</h1><div hx-get=\"page/part\" hx-trigger=\"every 1s\"></div>", user.id))
}

async fn web_socket(upgrade: WebSocketUpgrade, State(auth): State<Auth>, user: AuthUser) -> Response {
    // From now on: a logout during the upgrade ends it too.
    let revoked = auth.revoked(&user);
    upgrade.on_upgrade(async move |mut socket| {
        tokio::select! {
            () = greet_and_listen(&mut socket, &user) => {}
            () = revoked => {}
        }
        let _ = socket.send(Message::Close(None)).await;
    })
}

async fn greet_and_listen(socket: &mut WebSocket, user: &AuthUser) {
    let _ = socket.send(Message::text(format!("hello {}", user.id))).await;
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
    }
}

async fn events(State(auth): State<Auth>, user: AuthUser) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let hello = Event::default().data(format!("hello {}", user.id));
    let events = stream::once(async { Ok(hello) }).chain(stream::pending());
    Sse::new(events.take_until(auth.revoked(&user)))
}
