//! A server-rendered app without JavaScript: notes behind a login form.
//!
//! It shows the pages layer, which refreshes within the request: a user who returns after a pause is still logged in,
//! and the text of a form that was open for an hour is not lost. It also shows login and logout by form, a list of the
//! user's sessions, and refusals in the form that each client takes: error pages for browsers, `HX-Redirect` for htmx, JSON
//! for scripts (`/api/notes`).
//!
//! ```sh
//! cargo run --example pages
//! ```
//!
//! Then open <http://127.0.0.1:3000>. The users are `alice` and `bob`; the password of both is `password`. With
//! `ACCESS_TTL=10s GRACE=2s` an access token expires while you watch. The settings are environment variables: `PORT`,
//! `AUTH_SECRET`, `ACCESS_TTL`, `GRACE`, `IDLE_TIMEOUT` and `MAX_LIFETIME`.

mod config;
mod html;
mod notes;

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::extract::{Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use axum_refresh::config::SettingsError;
use axum_refresh::rejection::{Problem, local_next};
use axum_refresh::{Auth, AuthUser, ClientInfo, Error, NoClaims, SessionId};
use serde::Deserialize;
use tokio::net::TcpListener;
use tracing_subscriber::filter::LevelFilter;

use config::Config;
use html::Page;
use notes::{Note, Notes};

#[derive(Clone)]
struct App {
    auth: Auth,
    notes: Notes,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_max_level(LevelFilter::WARN).with_writer(std::io::stderr).init();
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    match serve(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let app = app(config.auth)?.into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind(("127.0.0.1", config.port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

fn app(auth: Auth) -> Result<Router, SettingsError> {
    let protected = Router::new()
        .route("/notes", get(notes).post(add_note))
        .route("/notes/{id}/delete", post(delete_note))
        .route("/api/notes", get(notes_as_json))
        .route("/devices", get(devices))
        .route("/devices/{id}/end", post(revoke_session))
        // Anonymous visitors are redirected to the login page.
        .route_layer((auth.layer(), auth.guard()));
    let public = Router::new()
        .route("/", get(home))
        .route("/login", get(login_page).post(log_in))
        // Without this, another site could log a visitor in as somebody else.
        .route_layer(auth.csrf());
    Ok(protected
        .merge(public)
        // Outside the layers above, so that they see the new token; around the public pages too, which show the user.
        .layer(auth.pages()?)
        // Below the layer: a stylesheet needs no user.
        .route("/page.css", get(style))
        // The logout form posts to /auth/logout, which redirects to the login page.
        .nest("/auth", auth.router())
        .layer(auth.refusals(error_page))
        .with_state(App { auth, notes: Notes::default() }))
}

async fn home(user: Option<AuthUser>, headers: HeaderMap) -> Page {
    Page::new("Notebook", &headers, user.as_ref(), html::home(user.as_ref()))
}

async fn style() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=3600")];
    (headers, include_str!("page.css"))
}

// ---- Login ----------------------------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct LoginQuery {
    /// The page that the visitor asked for before the redirect to the login page.
    next: Option<String>,
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
    next: Option<String>,
}

async fn login_page(user: Option<AuthUser>, headers: HeaderMap, Query(query): Query<LoginQuery>) -> Page {
    let form = html::login(user.as_ref(), "", next_page(query.next.as_deref()), None);
    Page::new("Log in", &headers, user.as_ref(), form)
}

async fn log_in(
    State(app): State<App>,
    user: Option<AuthUser>,
    client: ClientInfo,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Result<Response, Error> {
    let next = next_page(form.next.as_deref());
    // A real app verifies a password hash (argon2), and takes the same time for unknown users.
    if !["alice", "bob"].contains(&form.username.as_str()) || form.password != "password" {
        let form = html::login(user.as_ref(), &form.username, next, Some("Wrong user name or password."));
        let page = Page::new("Log in", &headers, user.as_ref(), form);
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response());
    }
    // The browser has room for one session, so the previous one is revoked.
    let login = app.auth.login(form.username, NoClaims {}).client(client).replacing_cookies_of(&headers).await?;
    Ok((login, Redirect::to(next)).into_response())
}

/// Where to go after the login.
fn next_page(next: Option<&str>) -> &str {
    next.and_then(local_next).unwrap_or("/notes")
}

// ---- Notes ----------------------------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct NewNote {
    text: String,
}

async fn notes(State(app): State<App>, user: AuthUser, headers: HeaderMap) -> Page {
    Page::new("Your notes", &headers, Some(&user), html::notes(&app.notes.of(&user.id)))
}

async fn notes_as_json(State(app): State<App>, user: AuthUser) -> Json<Vec<Note>> {
    Json(app.notes.of(&user.id))
}

async fn add_note(State(app): State<App>, user: AuthUser, Form(form): Form<NewNote>) -> Redirect {
    app.notes.add(&user.id, form.text.trim());
    Redirect::to("/notes")
}

async fn delete_note(State(app): State<App>, user: AuthUser, Path(id): Path<u64>) -> Redirect {
    app.notes.delete(&user.id, id);
    Redirect::to("/notes")
}

// ---- Devices --------------------------------------------------------------------------------------------------------

async fn devices(State(app): State<App>, user: AuthUser, headers: HeaderMap) -> Result<Page, Error> {
    let sessions = app.auth.sessions(&user.id).await?;
    Ok(Page::new("Your devices", &headers, Some(&user), html::devices(&sessions, user.session_id)))
}

async fn revoke_session(State(app): State<App>, user: AuthUser, Path(id): Path<SessionId>) -> Result<Redirect, Error> {
    match app.auth.revoke_own_session(&user.id, id).await {
        // A session that is revoked already is no error: the form was sent twice, or from an old page.
        Ok(()) | Err(Error::SessionNotFound) => Ok(Redirect::to("/devices")),
        Err(error) => Err(error),
    }
}

// ---- Error pages ----------------------------------------------------------------------------------------------------

/// Replaces the JSON of the crate's refusals by a page if a browser asks for one. htmx goes to the login page by itself, and
/// scripts keep their JSON.
fn error_page(problem: &Problem, request: &Parts) -> Option<Response> {
    let accept = request.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok())?;
    if !accept.contains("text/html") {
        return None;
    }
    let (title, content) = (html::error_title(problem.status()), html::error(problem.status()));
    Some(Page::new(title, &request.headers, None, content).into_response())
}
