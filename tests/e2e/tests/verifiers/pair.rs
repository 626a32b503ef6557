//! Two nodes of the demo on one store, and a service that follows the first one over a line that can fail.

use std::time::Duration;

use axum_refresh_e2e::example::Process;
use axum_refresh_e2e::proxy::tcp::StoreLine;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{TOKEN, free_port, key_file};

/// As short as a verifier allows, so that it is reached during the test.
pub(crate) const MAX_STALENESS: Duration = Duration::from_secs(5);

/// A process that is killed and started again, always on the same port.
pub(crate) struct Service {
    pub(crate) port: u16,
    settings: Vec<(&'static str, String)>,
    is_verifier: bool,
    process: Mutex<Option<Process>>,
}

impl Service {
    fn new(is_verifier: bool, settings: Vec<(&'static str, String)>) -> Self {
        Self { port: free_port(), settings, is_verifier, process: Mutex::default() }
    }

    pub(crate) async fn start(&self) {
        let port = self.port.to_string();
        let settings = self.settings.iter().map(|(name, value)| (*name, value.as_str()));
        let settings: Vec<_> = settings.chain([("PORT", port.as_str())]).collect();
        let process =
            if self.is_verifier { Process::start_verifier(&settings).await } else { Process::start(&settings).await };
        *self.process.lock().await = Some(process.unwrap_or_else(|problem| panic!("{problem}")));
    }

    /// Without a warning.
    pub(crate) async fn kill(&self) {
        if let Some(mut process) = self.process.lock().await.take() {
            process.child.kill().await.unwrap();
            Self::look_for_panics(&process);
        }
    }

    /// As a deploy does.
    pub(crate) async fn terminate(&self) {
        if let Some(mut process) = self.process.lock().await.take() {
            let id = process.child.id().unwrap().to_string();
            assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
            let ended = tokio::time::timeout(Duration::from_secs(4), process.child.wait()).await;
            assert!(ended.is_ok(), "a verifier that follows the revocations keeps it from shutting down");
            Self::look_for_panics(&process);
        }
    }

    fn look_for_panics(process: &Process) {
        let output = process.output();
        assert!(!output.iter().any(|line| line.contains("panicked")), "{output:#?}");
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

pub(crate) struct Pair {
    _folder: tempfile::TempDir,
    pub(crate) issuers: [Service; 2],
    pub(crate) verifier: Service,
    pub(crate) line: StoreLine,
    http: Client,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("axum-refresh-pair.").tempdir().unwrap();
        let store = format!("sqlite:{}", folder.path().join("sessions.db").display());
        let issuer = || {
            let settings = [
                ("AUTH_SECRET", axum_refresh_e2e::demo::SECRET.to_owned()),
                ("STORE_URL", store.clone()),
                ("SIGNING_KEY", key_file("ed25519.pem")),
                ("VERIFIER_TOKEN", TOKEN.to_owned()),
                ("TRANSPORT", "both".to_owned()),
            ];
            Service::new(false, settings.to_vec())
        };
        let issuers = [issuer(), issuer()];
        for issuer in &issuers {
            issuer.start().await;
        }
        let line = StoreLine::open(issuers[0].port).await;
        let settings = [
            ("ISSUER", format!("http://127.0.0.1:{}", line.port)),
            ("VERIFIER_TOKEN", TOKEN.to_owned()),
            ("MAX_STALENESS", format!("{}s", MAX_STALENESS.as_secs())),
            ("ISSUER_TIMEOUT", "1s".to_owned()),
        ];
        let verifier = Service::new(true, settings.to_vec());
        verifier.start().await;
        let http = Client::builder().no_proxy().timeout(Duration::from_secs(8)).build().unwrap();
        Self { _folder: folder, issuers, verifier, line, http }
    }

    /// The access token of a new login, and its session. None if the issuer is down.
    pub(crate) async fn log_in(&self, issuer: usize) -> Option<(String, String)> {
        let body = json!({ "username": "alice", "password": "password", "transport": "body" });
        let request = self.http.post(self.issuers[issuer].url("/login")).json(&body);
        let answer = request.send().await.ok().filter(|answer| answer.status().is_success())?;
        let answer: Value = answer.json().await.ok()?;
        let access_token = answer["access_token"].as_str().unwrap().to_owned();
        let payload = access_token.split('.').nth(1).unwrap();
        let payload = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload).unwrap();
        let payload: Value = serde_json::from_slice(&payload).unwrap();
        Some((access_token, payload["sid"].as_str().unwrap().to_owned()))
    }

    /// Revokes a session at one of the issuers. Returns whether that is certain.
    pub(crate) async fn revoke(&self, issuer: usize, access_token: &str, session: &str) -> bool {
        let url = self.issuers[issuer].url(&format!("/auth/sessions/{session}"));
        let answer = self.http.delete(url).bearer_auth(access_token).send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::NO_CONTENT)
    }

    /// What the other service answers. None if it is down.
    pub(crate) async fn ask(&self, access_token: &str) -> Option<(u16, String)> {
        let answer = self.http.get(self.verifier.url("/invoices")).bearer_auth(access_token).send().await.ok()?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.ok()?;
        Some((status, body["code"].as_str().unwrap_or_default().to_owned()))
    }
}
