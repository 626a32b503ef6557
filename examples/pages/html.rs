//! The pages as HTML. All user input goes through [`escape`].

use std::fmt::Write as _;
use std::time::SystemTime;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum_refresh::{AuthUser, Session, SessionId};

use super::notes::Note;

/// A page's content, to be shown in the frame that all pages share.
pub(crate) struct Page {
    title: &'static str,
    /// Whether to leave out the frame, because htmx replaces only a part of the page.
    fragment: bool,
    /// The user's name, and how long the access token is still valid.
    user: Option<(String, String)>,
    content: String,
}

impl Page {
    pub(crate) fn new(title: &'static str, headers: &HeaderMap, user: Option<&AuthUser>, content: String) -> Self {
        let fragment = headers.contains_key("hx-request") && !headers.contains_key("hx-boosted");
        Self { title, fragment, user: user.map(|user| (user.id.to_string(), time_left(user))), content }
    }

    fn frame(&self) -> String {
        let Self { title, content, .. } = self;
        let current = |name| if *title == name { r#" aria-current="page""# } else { "" };
        let (bar, foot) = match &self.user {
            Some((user, left)) => (
                format!(
                    r#"<nav aria-label="Main"><a href="/notes"{}>Notes</a><a href="/devices"{}>Devices</a></nav>
<form class="who" method="post" action="/auth/logout"><span>{}</span><button>Log out</button></form>"#,
                    current("Your notes"),
                    current("Your devices"),
                    escape(user)
                ),
                format!(
                    "<p>Your access token expires in {left}. The next page that you open after that gets a new one.</p>"
                ),
            ),
            None => (r#"<nav aria-label="Main"><a href="/login">Log in</a></nav>"#.to_owned(), String::new()),
        };
        format!(
            r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='4' fill='%230b6e69'/%3E%3Cpath d='M4 5h8M4 8h8M4 11h5' stroke='%23fff' stroke-width='1.6'/%3E%3C/svg%3E">
<link rel="stylesheet" href="/page.css">
</head>
<body>
<a class="skip" href="#main">Skip to main content</a>
<header><a class="brand" href="/">Notebook</a>{bar}</header>
<main id="main">
{content}</main>
<footer>{foot}<p>Rendered on the server, without JavaScript.</p></footer>
</body>
</html>
"##
        )
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let policy = "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";
        let headers = [
            (header::CONTENT_SECURITY_POLICY, policy),
            (header::CACHE_CONTROL, "no-store"),
            (header::VARY, "hx-request, hx-boosted"),
        ];
        let body = if self.fragment { self.content } else { self.frame() };
        (headers, Html(body)).into_response()
    }
}

/// How long the access token is still valid.
fn time_left(user: &AuthUser) -> String {
    let left = user.expires_at().duration_since(SystemTime::now()).unwrap_or_default().as_secs();
    match (left / 60, left % 60) {
        (0, 1) => "1 second".to_owned(),
        (0, seconds) => format!("{seconds} seconds"),
        (1, _) => "1 minute".to_owned(),
        (minutes, _) => format!("{minutes} minutes"),
    }
}

pub(crate) fn home(user: Option<&AuthUser>) -> String {
    let (greeting, links) = match user {
        Some(user) => (
            format!("Welcome back, {}", escape(&user.id)),
            r#"<p class="buttons"><a class="main" href="/notes">Your notes</a><a href="/devices">Your devices</a></p>"#,
        ),
        None => (
            "Keep your notes in one place".to_owned(),
            r#"<p class="buttons"><a class="main" href="/login">Log in</a></p>"#,
        ),
    };
    format!(
        r#"<section class="hero">
<h1>{greeting}</h1>
<p>Start a note, go to lunch, come back and save it. Your access token has expired in the meantime, but the server
refreshes it when you save, and your text is not lost.</p>
{links}
</section>
"#
    )
}

pub(crate) fn login(user: Option<&AuthUser>, username: &str, next: &str, error: Option<&str>) -> String {
    let already = user.map_or_else(String::new, |user| {
        let user = escape(&user.id);
        format!(r#"<p class="notice">You are logged in as <b>{user}</b>. If you log in again, that session ends.</p>"#)
    });
    let (error, invalid) = error.map_or_else(Default::default, |error| {
        let attributes = r#" aria-invalid="true" aria-describedby="error""#;
        (format!(r#"<p class="notice bad" id="error" role="alert">{error}</p>"#), attributes)
    });
    format!(
        r#"<section class="narrow">
<h1>Log in</h1>
{already}{error}<form method="post" action="/login">
<input type="hidden" name="next" value="{}">
<label for="username">User name</label>
<input id="username" name="username" value="{}" autocomplete="username" autocapitalize="none" spellcheck="false" required{invalid}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required{invalid}>
<button class="main">Log in</button>
</form>
<p class="dim">Users: <b>alice</b> and <b>bob</b>. Password: <b>password</b>.</p>
</section>
"#,
        escape(next),
        escape(username)
    )
}

pub(crate) fn notes(notes: &[Note]) -> String {
    let mut list = String::new();
    for note in notes {
        let (time, text) = (time(note.written), escape(&note.text));
        let _ = writeln!(
            list,
            r#"<li><p>{text}</p><div class="meta">{time}
<form method="post" action="/notes/{}/delete"><button class="bad" aria-label="Delete note: {}">Delete</button></form></div></li>"#,
            note.id,
            escape(&note.text.chars().take(40).collect::<String>())
        );
    }
    let list = if notes.is_empty() {
        r#"<p class="empty">You have no notes yet.</p>"#.to_owned()
    } else {
        format!("<ul class=\"cards\">\n{list}</ul>")
    };
    format!(
        r#"<h1>Your notes</h1>
<section>
<form method="post" action="/notes">
<label for="text">New note</label>
<textarea id="text" name="text" rows="3" maxlength="1000" required></textarea>
<button class="main">Add note</button>
</form>
</section>
{list}
"#
    )
}

pub(crate) fn devices(sessions: &[Session], current: SessionId) -> String {
    let mut list = String::new();
    for session in sessions {
        let device = device(session.user_agent.as_deref().unwrap_or_default());
        let address = session.ip.map_or_else(|| "unknown address".to_owned(), |ip| ip.to_string());
        let last_seen = time(session.last_seen_at);
        let action = if session.id == current {
            r#"<span class="pill">This device</span>"#.to_owned()
        } else {
            format!(
                r#"<form method="post" action="/devices/{}/end"><button class="bad" aria-label="Log out {device}">Log out</button></form>"#,
                session.id
            )
        };
        let _ = writeln!(
            list,
            r#"<li><p><b>{device}</b></p><div class="meta"><span>{address}, last active {last_seen}</span>{action}</div></li>"#
        );
    }
    format!(
        r#"<h1>Your devices</h1>
<p class="dim">The devices where you are logged in. Logging one out takes effect immediately.</p>
<ul class="cards">
{list}</ul>
"#
    )
}

/// A device's name that users recognize, such as "Firefox on Linux".
fn device(user_agent: &str) -> String {
    let find = |names: &[(&str, &'static str)]| {
        names.iter().find(|(pattern, _)| user_agent.contains(pattern)).map(|(_, name)| *name)
    };
    let browser = find(&[
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = find(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS", "macOS"),
        ("Linux", "Linux"),
    ]);
    let browser = browser.unwrap_or("Unknown browser");
    system.map_or_else(|| browser.to_owned(), |system| format!("{browser} on {system}"))
}

pub(crate) const fn error_title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "You are logged out",
        StatusCode::FORBIDDEN => "Request blocked",
        StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => "Please try again",
        _ => "Something went wrong",
    }
}

pub(crate) fn error(status: StatusCode) -> String {
    let home = r#"<a href="/">Home</a>"#;
    let (text, link) = match status {
        StatusCode::UNAUTHORIZED => {
            ("Your session has ended, and your input was not saved.", r#"<a class="main" href="/login">Log in</a>"#)
        }
        StatusCode::FORBIDDEN => ("Another site sent this request in your name. Nothing was changed.", home),
        StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => {
            ("The server is busy. You are still logged in: reload the page in a few seconds.", home)
        }
        _ => ("The server could not handle the request.", home),
    };
    let title = error_title(status);
    format!(
        "<section class=\"narrow\">\n<h1>{title}</h1>\n<p>{text}</p>\n<p class=\"buttons\">{link}</p>\n</section>\n"
    )
}

fn time(at: SystemTime) -> String {
    let exact = humantime::format_rfc3339_seconds(at).to_string();
    let shown = exact.replace('T', " ");
    format!(r#"<time datetime="{exact}">{} UTC</time>"#, shown.trim_end_matches('Z'))
}

/// Escapes text for use between tags and in quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
