//! The server-rendered example as a process, over HTTP, for a visitor without JavaScript.

#![cfg(unix)]

use std::time::Duration;

use axum_refresh_e2e::example::Process;
use cookie_store::{CookieError, CookieStore};
use reqwest::{Client, Method, Response, Url};

/// Sends the requests that a browser sends for links and forms, and stores cookies as a browser does.
struct Visitor {
    base: Url,
    http: Client,
    jar: CookieStore,
}

impl Visitor {
    fn new(example: &Process) -> Self {
        let base = format!("http://127.0.0.1:{}", example.port).parse().unwrap();
        let http = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { base, http, jar: CookieStore::default() }
    }

    /// The jar sends Secure cookies only to https. Browsers send them to loopback addresses too.
    fn secure(&self) -> Url {
        let mut url = self.base.clone();
        url.set_scheme("https").unwrap();
        url
    }

    fn cookies(&self) -> Vec<String> {
        let url = self.secure();
        self.jar.get_request_values(&url).map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Returns the status, the `Location` and the page.
    async fn send(&mut self, method: Method, path: &str, form: &str) -> (u16, String, String) {
        let origin = self.base.as_str().trim_end_matches('/').to_owned();
        let mut request = self.http.request(method.clone(), self.base.join(path).unwrap());
        request = request.header("accept", "text/html").header("cookie", self.cookies().join("; "));
        if method == Method::POST {
            request = request.header("origin", origin).header("content-type", "application/x-www-form-urlencoded");
        }
        let response: Response = request.body(form.to_owned()).send().await.unwrap();
        for header in response.headers().get_all("set-cookie") {
            match self.jar.parse(header.to_str().unwrap(), &self.secure()) {
                Ok(_) | Err(CookieError::Expired) => {}
                Err(error) => panic!("a browser rejects {header:?}: {error}"),
            }
        }
        let location = response.headers().get("location").map_or("", |value| value.to_str().unwrap()).to_owned();
        (response.status().as_u16(), location, response.text().await.unwrap())
    }

    async fn get(&mut self, path: &str) -> (u16, String, String) {
        self.send(Method::GET, path, "").await
    }

    async fn post(&mut self, path: &str, form: &str) -> (u16, String, String) {
        self.send(Method::POST, path, form).await
    }
}

#[tokio::test]
async fn a_visitor_without_javascript_logs_in_returns_after_a_pause_and_logs_out() {
    let secret = "q8vXh2m0Zr4yTnLwE1sKcPjU7dGfBaOi9xQ3H5tMzVY=";
    let settings = [("PORT", "0"), ("AUTH_SECRET", secret), ("ACCESS_TTL", "1500ms"), ("GRACE", "1s")];
    let example = Process::start_pages(&settings).await.unwrap();
    let mut visitor = Visitor::new(&example);
    assert_eq!(visitor.get("/notes").await.1, "/login?next=/notes");
    let (status, _, page) = visitor.post("/login", "username=%3Cb%3E&password=x&next=%2Fdevices").await;
    assert_eq!(status, 422);
    assert!(page.contains(r#"value="&lt;b&gt;""#) && page.contains(r#"value="/devices""#));
    let foreign = "username=alice&password=password&next=%2F%09%2Fevil.example";
    assert_eq!(visitor.post("/login", foreign).await.1, "/notes");
    for text in ["first", "second"] {
        tokio::time::sleep(Duration::from_millis(1_600)).await;
        // The form was open for longer than the access token was valid.
        assert_eq!(visitor.cookies().len(), 1);
        assert_eq!(visitor.post("/notes", &format!("text={text}%3Cscript%3E")).await.1, "/notes");
        let (status, _, page) = visitor.get("/notes").await;
        assert_eq!(status, 200);
        assert!(page.contains(&format!("<p>{text}&lt;script&gt;</p>")), "{page}");
    }
    assert!(visitor.get("/devices").await.2.contains("This device"));
    assert_eq!(visitor.post("/auth/logout", "").await.1, "/login");
    assert_eq!(visitor.cookies(), [""; 0]);
    let (status, _, page) = visitor.post("/notes", "text=lost").await;
    assert_eq!(status, 401);
    assert!(page.contains("You are logged out"));
    assert_eq!(visitor.get("/login").await.0, 200);
}

#[tokio::test]
async fn browsers_htmx_and_scripts_are_refused_each_in_their_own_form() {
    let secret = "q8vXh2m0Zr4yTnLwE1sKcPjU7dGfBaOi9xQ3H5tMzVY=";
    let example = Process::start_pages(&[("PORT", "0"), ("AUTH_SECRET", secret)]).await.unwrap();
    let http = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let htmx = ("hx-request", "true");
    let around = ("hx-current-url", "http://127.0.0.1/notes?page=2");
    for (method, path, headers, status, header, value, text) in [
        ("GET", "/notes?page=2", vec![("accept", "text/html")], 303, "location", "/login?next=/notes%3Fpage%3D2", ""),
        ("POST", "/notes", vec![("accept", "text/html")], 401, "content-type", "text/html; charset=utf-8", "<h1>"),
        ("GET", "/notes", vec![htmx, around], 401, "hx-redirect", "/login?next=/notes%3Fpage%3D2", ""),
        ("GET", "/api/notes", vec![], 401, "content-type", "application/problem+json", "access_token_missing"),
    ] {
        let mut request = http.request(method.parse().unwrap(), format!("http://127.0.0.1:{}{path}", example.port));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}");
        assert_eq!(response.headers()[header], value, "{method} {path}");
        assert!(response.text().await.unwrap().contains(text), "{method} {path}");
    }
}
