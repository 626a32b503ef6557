//! The app of the recipes over HTTP: two kinds of user, pages, gRPC, a page on another origin, and a Unix socket behind
//! nginx; and the example on hyper as a process. `tests/run networks`

#![cfg(unix)]

mod grpc;
mod hyper;
mod origin;
mod pages;
mod proxy;
mod realms;

use std::net::Ipv4Addr;
use std::time::Duration;

use axum_refresh_e2e::app::ACCESS_TTL;
use axum_refresh_e2e::demo::{Answer, Browser, credentials};
use reqwest::{Client, Method, redirect};

/// A browser of one customer of the app, or of one of the staff.
struct Visitor {
    browser: Browser,
    origin: String,
}

impl Visitor {
    fn new(origin: &str) -> Self {
        Self::at(origin, Ipv4Addr::LOCALHOST)
    }

    /// A browser on a machine with this address, one of 127.0.0.0/8.
    fn at(origin: &str, address: Ipv4Addr) -> Self {
        let http = Client::builder().no_proxy().redirect(redirect::Policy::none()).local_address(Some(address.into()));
        Self { browser: Browser::new(origin.parse().unwrap(), http.build().unwrap()), origin: origin.to_owned() }
    }

    /// Sends a request of a page or of its script, without the access token.
    async fn call(&mut self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut call = self.browser.request(method.clone(), path);
        if method != Method::GET {
            call = call.header("origin", &self.origin);
        }
        for (name, value) in headers {
            call = call.header(name, value);
        }
        self.browser.send(call, path).await
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.call(Method::GET, path, &[]).await
    }

    async fn post(&mut self, path: &str) -> Answer {
        self.call(Method::POST, path, &[]).await
    }

    /// Logs in by a script. Returns the access token.
    async fn log_in(&mut self, path: &str, user: &str) -> String {
        let call = self.browser.request(Method::POST, path).header("origin", &self.origin).json(&credentials(user));
        self.browser.send(call, path).await.tokens().access
    }

    /// Refreshes by cookie. Returns the access token.
    async fn refresh(&mut self, path: &str) -> String {
        self.post(path).await.tokens().access
    }

    async fn with_token(&mut self, path: &str, token: &str) -> Answer {
        self.call(Method::GET, path, &[("authorization", &format!("Bearer {token}"))]).await
    }
}

/// The stores on which the app is tested.
fn stores() -> Vec<&'static str> {
    let has_postgres = std::env::var_os("TEST_POSTGRES_URL").is_some();
    if has_postgres { vec!["sqlite", "postgres"] } else { vec!["sqlite"] }
}

/// Waits until access tokens that were issued before the call have expired.
async fn access_tokens_expire() {
    tokio::time::sleep(ACCESS_TTL + Duration::from_millis(100)).await;
}
