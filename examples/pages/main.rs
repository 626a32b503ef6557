//! A server-rendered app without a script: notes, behind a login form. Whoever comes back after a pause is logged in,
//! and a form that was left open for an hour is not lost; the pages layer refreshes within the request.
//!
//! `ACCESS_TTL=10s GRACE=2s cargo run --example pages` shows it happening. `alice` and `bob` have the password
//! `password`. Settings by environment: `PORT`, `AUTH_SECRET`, `ACCESS_TTL`, `GRACE`, `IDLE_TIMEOUT`, `MAX_LIFETIME`.

mod config;
mod html;
mod notes;

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::extract::{FromRef, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use axum_refresh::{Auth, AuthUser, ClientInfo, ConfigError, Error, NoClaims, SessionId};
use serde::Deserialize;
use tokio::net::TcpListener;

use config::Config;
use html::Page;
use notes::Notes;

type User = AuthUser<NoClaims>;

#[derive(Clone, FromRef)]
struct App {
    auth: Auth<NoClaims>,
    notes: Notes,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    match Config::from_env() {
        Ok(config) => match serve(config).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("{problem}");
                ExitCode::FAILURE
            }
        },
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::from(2)
        }
    }
}

async fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let app = app(config.auth)?.into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind(("127.0.0.1", config.port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

fn app(auth: Auth<NoClaims>) -> Result<Router, ConfigError> {
    let closed = Router::new()
        .route("/notes", get(notes).post(add_note))
        .route("/notes/{id}/delete", post(delete_note))
        .route("/devices", get(devices))
        .route("/devices/{id}/end", post(end_session))
        .route_layer((auth.layer(), auth.guard())); // leads to /login
    let open = Router::new()
        .route("/", get(home))
        .route("/login", get(login_page).post(login)) // who is logged in already, the pages layer has found out
        .route_layer(auth.csrf_layer());
    Ok(closed
        .merge(open)
        .layer(auth.pages()?) // outside the others, so that they see the new token
        .route("/page.css", get(style)) // needs nobody
        .nest("/auth", auth.router()) // the logout form posts there
        .layer(from_fn(dress_refusals))
        .with_state(App { auth, notes: Notes::default() }))
}

async fn home(user: Option<User>, headers: HeaderMap) -> Page {
    Page::new("Notebook", &headers, user.as_ref(), html::home(user.as_ref()))
}

async fn style() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=3600")];
    (headers, include_str!("page.css"))
}

// ---- login ----------------------------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Wish {
    /// Where the visitor wanted to go.
    next: Option<String>,
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
    next: Option<String>,
}

async fn login_page(user: Option<User>, headers: HeaderMap, Query(wish): Query<Wish>) -> Page {
    let form = html::login(user.as_ref(), "", &local(wish.next), None);
    Page::new("Log in", &headers, user.as_ref(), form)
}

async fn login(
    State(auth): State<Auth<NoClaims>>,
    user: Option<User>,
    client: ClientInfo,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Result<Response, Error> {
    let next = local(form.next);
    // A real app compares a hash (argon2) and takes as long for a user whom it does not know.
    if !["alice", "bob"].contains(&form.username.as_str()) || form.password != "password" {
        let problem = Some("This user name and password do not belong together.");
        let form = html::login(user.as_ref(), &form.username, &next, problem);
        let page = Page::new("Log in", &headers, user.as_ref(), form);
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response());
    }
    let mut login = auth.login(form.username, NoClaims {}).client(client);
    if let Some(user) = user {
        login = login.replacing(user.session);
    }
    Ok((login.await?, Redirect::to(&next)).into_response())
}

/// Nothing but a path of this app: browsers read `//host` and `/\host` as another host, and skip tabs and newlines
/// before they look.
fn local(next: Option<String>) -> String {
    let is_local = |path: &String| {
        path.starts_with('/') && !path[1..].starts_with(['/', '\\']) && path.bytes().all(|byte| byte.is_ascii_graphic())
    };
    next.filter(is_local).unwrap_or_else(|| "/notes".to_owned())
}

// ---- notes ----------------------------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct NewNote {
    text: String,
}

async fn notes(State(notes): State<Notes>, user: User, headers: HeaderMap) -> Page {
    Page::new("Your notes", &headers, Some(&user), html::notes(&notes.of(&user.id)))
}

async fn add_note(State(notes): State<Notes>, user: User, Form(form): Form<NewNote>) -> Redirect {
    notes.add(&user.id, form.text.trim());
    Redirect::to("/notes")
}

async fn delete_note(State(notes): State<Notes>, user: User, Path(id): Path<u64>) -> Redirect {
    notes.delete(&user.id, id);
    Redirect::to("/notes")
}

// ---- devices --------------------------------------------------------------------------------------------------------

async fn devices(State(auth): State<Auth<NoClaims>>, user: User, headers: HeaderMap) -> Result<Page, Error> {
    let sessions = auth.sessions(&user.id).await?;
    Ok(Page::new("Your devices", &headers, Some(&user), html::devices(&sessions, user.session)))
}

async fn end_session(
    State(auth): State<Auth<NoClaims>>,
    user: User,
    Path(id): Path<SessionId>,
) -> Result<Redirect, Error> {
    match auth.end_session(&user.id, id).await {
        // Gone already, which is what was wanted.
        Ok(()) | Err(Error::SessionNotFound) => Ok(Redirect::to("/devices")),
        Err(error) => Err(error),
    }
}

// ---- refusals -------------------------------------------------------------------------------------------------------

/// A refusal is JSON; somebody who sits before a browser gets a page that says the same.
async fn dress_refusals(request: Request, next: Next) -> Response {
    let headers = request.headers().clone();
    let response = next.run(request).await;
    let is_problem =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json");
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if !is_problem || !accept.is_some_and(|accept| accept.contains("text/html")) {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let content = html::refusal(parts.status);
    let page = Page::new(html::title_of(parts.status), &headers, None, content).into_response();
    let (new, body) = page.into_parts();
    // All else stays: the time to come back, the challenge, and cookies.
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(new.headers);
    Response::from_parts(parts, body)
}
