//! The feature `metrics`: every metric changes when it should, only then, and once.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{Request, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum_refresh::config::{Binding, BindingMode, OnReuse};
use axum_refresh::rejection::Problem;
use axum_refresh::step_up::Recent;
use axum_refresh::store::{InsertOptions, SecretHash};
use axum_refresh::{Auth, AuthUser, ClientInfo, Error, Policy, RevocationReason, SessionStore as _};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use support::{Claims, Clock, Fault, FaultyStore, Node, claims};
use tower::ServiceExt as _;

const MINUTE: Duration = Duration::from_secs(60);

// ---- A recorder -----------------------------------------------------------------------------------------------------

/// Keeps everything, by `name{label="value"}`.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    counters: BTreeMap<String, Arc<AtomicU64>>,
    gauges: BTreeMap<String, Arc<AtomicU64>>,
    histograms: BTreeMap<String, Arc<Samples>>,
    /// All values of labels.
    values: BTreeSet<(String, String)>,
    described: Vec<String>,
    /// The counters as of the last look.
    before: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Samples(Mutex<Vec<f64>>);

impl HistogramFn for Samples {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

impl All {
    fn name(&mut self, key: &Key) -> String {
        let labels: Vec<_> = key.labels().map(|label| (label.key().to_owned(), label.value().to_owned())).collect();
        let text: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        self.values.extend(labels);
        if text.is_empty() { key.name().to_owned() } else { format!("{}{{{}}}", key.name(), text.join(",")) }
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.0.lock().unwrap().described.push(name.as_str().to_owned());
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.0.lock().unwrap().described.push(name.as_str().to_owned());
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.0.lock().unwrap().described.push(name.as_str().to_owned());
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut all = self.0.lock().unwrap();
        let name = all.name(key);
        Counter::from_arc(Arc::clone(all.counters.entry(name).or_default()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut all = self.0.lock().unwrap();
        let name = all.name(key);
        Gauge::from_arc(Arc::clone(all.gauges.entry(name).or_default()))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let mut all = self.0.lock().unwrap();
        let name = all.name(key);
        Histogram::from_arc(Arc::clone(all.histograms.entry(name).or_default()))
    }
}

impl Recorded {
    /// The counters that have changed since the last look, without the prefix of their names.
    fn changes(&self) -> BTreeMap<String, u64> {
        let mut all = self.0.lock().unwrap();
        let now: BTreeMap<_, _> =
            all.counters.iter().map(|(name, count)| (name.clone(), count.load(Ordering::SeqCst))).collect();
        let before = std::mem::replace(&mut all.before, now.clone());
        now.into_iter()
            .map(|(name, count)| (short(&name), count - before.get(&name).copied().unwrap_or_default()))
            .filter(|(_, change)| *change > 0)
            // All tests without a realm share these counts, and run at the same time.
            .filter(|(name, _)| !name.starts_with("token_cache_requests_total") || name.contains("realm"))
            .collect()
    }

    /// Whether these counters, each by one, and no others have changed since the last look.
    #[track_caller]
    fn counted(&self, expected: &[&str]) {
        let expected: BTreeMap<_, _> = expected.iter().map(|name| ((*name).to_owned(), 1)).collect();
        assert_eq!(self.changes(), expected);
    }

    fn gauge(&self, name: &str) -> f64 {
        let all = self.0.lock().unwrap();
        let gauge = all.gauges.get(&format!("axum_refresh_{name}")).unwrap_or_else(|| panic!("no gauge {name}"));
        f64::from_bits(gauge.load(Ordering::SeqCst))
    }

    /// What the histogram has recorded since the last look.
    fn samples(&self, name: &str) -> Vec<f64> {
        let all = self.0.lock().unwrap();
        let samples = all.histograms.get(&format!("axum_refresh_{name}"));
        samples.map(|samples| std::mem::take(&mut *samples.0.lock().unwrap())).unwrap_or_default()
    }

    fn install(&self) -> metrics::LocalRecorderGuard<'_> {
        metrics::set_default_local_recorder(self)
    }
}

fn short(name: &str) -> String {
    name.strip_prefix("axum_refresh_").unwrap_or_else(|| panic!("{name} has another prefix")).to_owned()
}

/// Lets the background tasks run for some time.
async fn pass(node: &Node, time: Duration) {
    for _ in 0..time.as_millis().div_ceil(250) {
        node.clock.advance(Duration::from_millis(250));
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

// ---- Counters -------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn logins_and_refreshes_are_counted_by_verdict() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    let first = node.refresh_token("alice").await;
    recorded.counted(&["logins_total"]);
    let second = node.rotate(&first).await;
    recorded.counted(&[r#"refreshes_total{verdict="rotate"}"#]);
    node.refresh(&first).await.unwrap();
    recorded.counted(&[r#"refreshes_total{verdict="echo"}"#]);
    node.after_grace();
    node.refresh(&first).await.unwrap();
    recorded.counted(&[r#"refreshes_total{verdict="recover"}"#]);
    node.after_grace();
    node.refresh(&second).await.unwrap_err();
    recorded.counted(&[
        r#"refreshes_total{verdict="reuse"}"#,
        r#"revocations_total{target="session",reason="reuse"}"#,
        r#"security_events_total{event="reuse"}"#,
    ]);
    node.refresh(&second).await.unwrap_err();
    recorded.counted(&[r#"refreshes_total{verdict="revoked"}"#]);
    node.refresh("not a token").await.unwrap_err();
    recorded.counted(&[]);
    let other = node.refresh_token("bob").await;
    let other = node.rotate(&other).await;
    recorded.changes();
    node.refresh(&other).await.unwrap();
    recorded.counted(&[r#"refreshes_total{verdict="touch"}"#]);
}

#[tokio::test(start_paused = true)]
async fn a_forged_refresh_token_is_counted_as_a_refresh_and_as_a_security_event() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    let login = node.login("alice").await.tokens;
    // Its tag is valid, but its session has another secret.
    let mut row = node.store.inner.load(login.session_id).await.unwrap().unwrap();
    row.secret_hash = SecretHash::from_bytes([1; 32]);
    let other = Node::new();
    other.store.inner.insert(&row, InsertOptions::default()).await.unwrap();
    recorded.changes();
    other.refresh(&login.refresh_token.unwrap()).await.unwrap_err();
    recorded.counted(&[r#"refreshes_total{verdict="forged"}"#, r#"security_events_total{event="forged"}"#]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_ends_before_its_verdict_counts_is_a_refusal_alone() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::with(|builder| builder.claims_hook(async |_| Ok::<_, std::io::Error>(None)));
    let token = node.refresh_token("alice").await;
    recorded.changes();
    assert_eq!(node.refresh(&token).await.unwrap_err().code(), "user_refused");
    recorded.counted(&[]);
    let node = Node::new();
    let token = node.refresh_token("alice").await;
    node.clock.advance(Policy::default().lifetime * 2);
    node.auth.purge().await.unwrap();
    recorded.changes();
    assert_eq!(node.refresh(&token).await.unwrap_err().code(), "refresh_token_invalid");
    recorded.counted(&[]);
}

#[tokio::test(start_paused = true)]
async fn revocations_are_counted_by_target_and_reason() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::with(|builder| {
        builder
            .configure(|settings| (settings.policy.on_reuse, settings.policy.max_sessions) = (OnReuse::User, Some(1)))
    });
    let login = node.login("alice").await.tokens;
    node.auth.logout(login.refresh_token.as_ref().unwrap()).await.unwrap();
    recorded.counted(&["logins_total", r#"revocations_total{target="session",reason="logout"}"#]);
    let again = node.login("alice").await.tokens;
    let _ = node.auth.reauthenticated(again.session_id).await.unwrap();
    recorded.counted(&[
        "logins_total",
        "reauthentications_total",
        r#"revocations_total{target="session",reason="replaced"}"#,
    ]);
    let user = node.auth.authenticate(&node.login("alice").await.tokens.access_token).await.unwrap();
    recorded.counted(&["logins_total", r#"revocations_total{target="session",reason="evicted"}"#]);
    node.auth.revoke_token_id(&user.token_id(), user.expires_at()).await.unwrap();
    recorded.counted(&[r#"revocations_total{target="token",reason="other"}"#]);
    node.auth.revoke_all(RevocationReason::RevokedByAdmin).await.unwrap();
    recorded.counted(&[r#"revocations_total{target="everyone",reason="revoked_by_admin"}"#]);
}

#[tokio::test(start_paused = true)]
async fn many_sessions_of_a_user_that_end_at_once_are_one_revocation() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    for _ in 0..3 {
        let _ = node.login("alice").await;
    }
    recorded.changes();
    node.auth.revoke_user("alice", None, RevocationReason::RevokedByAdmin).await.unwrap();
    recorded.counted(&[r#"revocations_total{target="user",reason="revoked_by_admin"}"#]);
}

#[tokio::test(start_paused = true)]
async fn a_purge_counts_the_sessions_that_it_deletes() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    let _ = node.login("alice").await;
    let _ = node.login("bob").await;
    // The background task has purged, and does so again in a minute.
    pass(&node, Duration::from_secs(2)).await;
    node.clock.advance(Policy::default().lifetime * 2);
    recorded.changes();
    assert_eq!(node.auth.purge().await.unwrap(), 2);
    assert_eq!(recorded.changes(), BTreeMap::from([("purged_sessions_total".to_owned(), 2)]));
    node.auth.purge().await.unwrap();
    recorded.counted(&[]);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_revocation_is_a_security_event_and_pending_until_the_store_has_it() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    let first = node.refresh_token("alice").await;
    node.after_grace();
    let second = node.rotate(&first).await;
    node.after_grace();
    node.rotate(&second).await;
    node.after_grace();
    node.store.set(Fault::FailsToSwap);
    recorded.changes();
    let _ = node.refresh(&first).await;
    node.store.set(Fault::FailsToRevoke);
    let _ = node.refresh(&first).await;
    assert_eq!(recorded.changes().get(r#"security_events_total{event="revocation_delayed"}"#), Some(&1));
    let _ = node.auth.flush().await;
    assert_eq!(recorded.gauge("pending_revocations"), 1.0);
    node.store.set(Fault::None);
    node.auth.flush().await.unwrap();
    assert_eq!(recorded.gauge("pending_revocations"), 0.0);
}

// ---- Refusals -------------------------------------------------------------------------------------------------------

const QUOTA_EXCEEDED: Problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "quota_exceeded");

async fn me(user: AuthUser<Claims>) -> String {
    user.id.to_string()
}

async fn recent(State(auth): State<Auth<Claims>>, user: AuthUser<Claims>) -> Result<String, Error> {
    auth.check(&user, Recent(MINUTE))?;
    Ok(user.id.to_string())
}

/// Renders the refusal once more, as an app may do.
async fn again(response: Response) -> Response {
    match response.extensions().get::<Problem>() {
        Some(problem) => problem.clone().into_response(),
        None => response,
    }
}

fn app(auth: &Auth<Claims>) -> Router {
    let show = |problem: &Problem, _: &Parts| Some(problem.clone().into_response());
    Router::new()
        .route("/me", get(me))
        .route("/recent", get(recent))
        .route("/quota", get(|| async { QUOTA_EXCEEDED }))
        .route("/internal", get(|| async { Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal") }))
        .route_layer((map_response(again), auth.layer(), auth.guard()))
        .route(
            "/optional",
            get(|user: Option<AuthUser<Claims>>| async move { user.is_some().to_string() }.into_future())
                .layer(auth.layer().optional()),
        )
        .route("/extractor", get(me).layer(auth.layer().optional()))
        .route("/login", post(|| async { "" }).layer(auth.csrf()))
        .nest("/auth", auth.router())
        .layer(map_response(again))
        .layer(auth.refusals(show))
        .with_state(auth.clone())
}

async fn send(app: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> StatusCode {
    let mut request = Request::builder().method(method).uri(path).header("host", "app.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_counted_once_however_many_layers_it_passes() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::with(|builder| {
        builder.configure(|settings| {
            settings.policy.binding = Binding { user_agent: BindingMode::Reject, ..Binding::default() }
        })
    });
    let app = app(&node.auth);
    let tokens = node.login("alice").await.tokens;
    let bearer = format!("Bearer {}", tokens.access_token);
    let own = ("authorization", bearer.as_str());
    recorded.changes();
    let cross_site = ("sec-fetch-site", "cross-site");
    for (method, path, headers, status, code) in [
        ("GET", "/me", vec![], 401, Some("access_token_missing")),
        ("GET", "/me", vec![("authorization", "Bearer x")], 401, Some("access_token_invalid")),
        ("GET", "/me", vec![own], 401, Some("client_mismatch")),
        ("GET", "/extractor", vec![], 401, Some("access_token_missing")),
        ("GET", "/optional", vec![], 200, None),
        ("POST", "/login", vec![cross_site], 403, Some("cross_origin")),
        ("POST", "/login", vec![], 200, None),
        ("POST", "/auth/refresh", vec![], 401, Some("refresh_token_missing")),
        ("POST", "/auth/refresh", vec![cross_site], 403, Some("cross_origin")),
        ("POST", "/auth/refresh", vec![("cookie", "__Secure-refresh=x")], 401, Some("refresh_token_invalid")),
        ("GET", "/auth/sessions", vec![], 401, Some("access_token_missing")),
        ("DELETE", "/auth/sessions/x", vec![own, ("user-agent", "curl/8.5.0")], 404, Some("session_not_found")),
        ("GET", "/me", vec![own, ("user-agent", "curl/8.5.0")], 200, None),
        ("GET", "/quota", vec![own, ("user-agent", "curl/8.5.0")], 429, None),
        ("GET", "/internal", vec![own, ("user-agent", "curl/8.5.0")], 500, None),
        ("GET", "/nowhere", vec![], 404, None),
    ] {
        let what = format!("{method} {path} {headers:?}");
        assert_eq!(send(&app, method, path, &headers).await, status, "{what}");
        let mut changes = recorded.changes();
        if code == Some("client_mismatch") {
            assert_eq!(changes.remove(r#"security_events_total{event="client_mismatch"}"#), Some(1), "{what}");
        }
        let expected = code.map(|code| (format!("refusals_total{{code={code:?}}}"), 1));
        assert_eq!(changes, expected.into_iter().collect(), "{what}");
    }
    // The error of a handler.
    node.clock.advance(MINUTE * 2);
    let headers = [own, ("user-agent", "curl/8.5.0")];
    assert_eq!(send(&app, "GET", "/recent", &headers).await, 401);
    recorded.counted(&[r#"refusals_total{code="insufficient_user_authentication"}"#]);
    node.store.set(Fault::Fails);
    assert_eq!(send(&app, "GET", "/auth/sessions", &headers).await, 503);
    recorded.counted(&[r#"refusals_total{code="store_unavailable"}"#]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_the_app_makes_anew_is_counted_once() {
    async fn anew(response: Response) -> Response {
        match response.extensions().get::<Problem>() {
            Some(problem) => Problem::new(problem.status(), problem.code()).into_response(),
            None => response,
        }
    }
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    let app: Router =
        Router::new().route("/", get(me)).layer(node.auth.layer()).layer(map_response(anew)).layer(node.auth.csrf());
    assert_eq!(send(&app, "GET", "/", &[]).await, 401);
    recorded.counted(&[r#"refusals_total{code="access_token_missing"}"#]);
}

#[tokio::test(start_paused = true)]
async fn a_redirect_to_the_login_page_and_a_grpc_status_are_refusals() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::with(|builder| builder.configure(|settings| settings.login_page = Some("/log-in".to_owned())));
    let app = Router::new().route("/me", get(me)).route_layer(node.auth.layer());
    for (header, status) in [(("accept", "text/html"), 303), (("content-type", "application/grpc"), 200)] {
        assert_eq!(send(&app, "GET", "/me", &[header]).await, status);
        recorded.counted(&[r#"refusals_total{code="access_token_missing"}"#]);
    }
}

// ---- The token cache ------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_token_is_a_miss_once_and_then_a_hit() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    // In a realm of its own, because all `Auth`s of a realm count together.
    let node = Node::with(|builder| builder.configure(|settings| settings.realm = Some("token-cache".to_owned())));
    let app = app(&node.auth);
    let bearer = format!("Bearer {}", node.login("alice").await.tokens.access_token);
    for _ in 0..5 {
        assert_eq!(send(&app, "GET", "/me", &[("authorization", &bearer)]).await, 200);
    }
    recorded.changes();
    node.auth.flush().await.unwrap();
    let requests = |result| format!(r#"token_cache_requests_total{{result="{result}",realm="token-cache"}}"#);
    assert_eq!(recorded.changes(), BTreeMap::from([(requests("hit"), 4), (requests("miss"), 1)]));
    node.auth.flush().await.unwrap();
    recorded.counted(&[]);
}

// ---- Histograms -----------------------------------------------------------------------------------------------------

fn calls(operation: &str, outcome: &str) -> String {
    format!(r#"store_call_duration_seconds{{operation="{operation}",outcome="{outcome}"}}"#)
}

#[tokio::test(start_paused = true)]
async fn every_call_of_the_store_is_recorded_with_its_outcome() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    let token = node.refresh_token("alice").await;
    assert_eq!(recorded.samples(&calls("insert", "ok")), [0.0]);
    node.after_grace();
    node.store.set(Fault::SlowSwap);
    node.rotate(&token).await;
    assert_eq!(recorded.samples(&calls("load", "ok")), [0.0]);
    assert_eq!(recorded.samples(&calls("compare_and_swap", "ok")), [0.2]);
    node.store.set(Fault::FailsToList);
    node.auth.sessions("alice").await.unwrap_err();
    assert_eq!(recorded.samples(&calls("list", "error")), [0.0]);
    node.store.set(Fault::Hangs);
    node.refresh(&token).await.unwrap_err();
    let timeout = node.auth.settings().store_timeout.as_secs_f64();
    let waited = recorded.samples(&calls("load", "timeout"));
    assert!(waited.len() == 1 && (timeout..timeout + 0.01).contains(&waited[0]), "{waited:?}");
    // While the store does not respond, it is called once in a second.
    node.refresh(&token).await.unwrap_err();
    assert_eq!(recorded.samples(&calls("load", "timeout")).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_request_is_dropped_is_recorded() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    let token = node.refresh_token("alice").await;
    node.after_grace();
    node.store.set(Fault::SlowSwap);
    tokio::time::timeout(Duration::from_millis(100), node.refresh(&token)).await.unwrap_err();
    let waited = recorded.samples(&calls("compare_and_swap", "cancelled"));
    assert!(waited.len() == 1 && (0.1..0.11).contains(&waited[0]), "{waited:?}");
}

#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
mod signers {
    use async_trait::async_trait;
    use axum_refresh::keys::{Signer, SigningKey, VerifyingKey};

    use super::*;

    const PUBLIC: &[u8] = include_bytes!("../src/token/keys_for_tests/ed25519.pub.pem");

    #[derive(Clone, Copy)]
    pub(super) enum Service {
        Fails,
        IsWrong,
        Hangs,
    }

    #[async_trait]
    impl Signer for Service {
        async fn sign(&self, _: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
            match self {
                Self::Fails => Err("no quorum".into()),
                Self::IsWrong => Ok(vec![7; 64]),
                Self::Hangs => std::future::pending().await,
            }
        }
    }

    pub(super) fn key(service: Service) -> SigningKey {
        SigningKey::with_signer(VerifyingKey::from_pem(PUBLIC).unwrap(), service)
    }

    fn calls(outcome: &str) -> String {
        format!(r#"signer_call_duration_seconds{{outcome="{outcome}"}}"#)
    }

    #[tokio::test(start_paused = true)]
    async fn every_call_of_a_signer_is_recorded_with_its_outcome() {
        let recorded = Recorded::default();
        let _installed = recorded.install();
        for (service, outcome) in [(Service::Fails, "error"), (Service::IsWrong, "error"), (Service::Hangs, "timeout")]
        {
            let node = Node::with(|builder| builder.signing_key(key(service)));
            node.auth.login("alice", claims("user")).await.unwrap_err();
            let waited = recorded.samples(&calls(outcome));
            assert_eq!(waited.len(), 1, "{outcome}");
            assert_eq!(waited[0] >= node.auth.settings().store_timeout.as_secs_f64(), outcome == "timeout");
            assert_eq!(recorded.samples(&super::calls("insert", "ok")), [0.0; 0]);
        }
        let node = Node::with(|builder| builder.signing_key(key(Service::Hangs)));
        let login = async { node.auth.login("alice", claims("user")).await };
        tokio::time::timeout(Duration::from_millis(100), login).await.unwrap_err();
        assert_eq!(recorded.samples(&calls("cancelled")).len(), 1);
    }

    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    #[tokio::test(start_paused = true)]
    async fn a_call_of_a_signer_that_works_is_recorded_once_for_a_login() {
        #[cfg(feature = "aws_lc_rs")]
        use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER as PROVIDER;
        #[cfg(not(feature = "aws_lc_rs"))]
        use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER as PROVIDER;
        use jsonwebtoken::{Algorithm, EncodingKey};

        struct Works;

        #[async_trait]
        impl Signer for Works {
            async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
                let key = EncodingKey::from_ed_pem(include_bytes!("../src/token/keys_for_tests/ed25519.pem"))?;
                Ok((PROVIDER.signer_factory)(&Algorithm::EdDSA, &key)?.try_sign(message)?)
            }
        }

        let recorded = Recorded::default();
        let _installed = recorded.install();
        let key = SigningKey::with_signer(VerifyingKey::from_pem(PUBLIC).unwrap(), Works);
        let node = Node::with(|builder| builder.signing_key(key));
        let _ = node.login("alice").await;
        assert_eq!(recorded.samples(&calls("ok")), [0.0]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_lag_of_a_revocation_is_recorded_once_by_every_node_that_learns_of_it() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let node = |realm: &str| {
        let realm = Some(realm.to_owned());
        Node::on(store.clone(), clock.clone(), |builder| builder.configure(|settings| settings.realm = realm))
    };
    let lags = || recorded.samples(r#"revocation_lag_seconds{realm="lag"}"#);
    let (here, there) = (node("lag"), node("lag"));
    let login = here.login("alice").await.tokens;
    pass(&here, Duration::from_secs(2)).await;
    here.auth.revoke_session(login.session_id, RevocationReason::Other).await.unwrap();
    store.age_feed(Duration::from_millis(1_500));
    pass(&here, Duration::from_secs(3)).await;
    let seen = lags();
    assert!(seen.len() == 1 && (1.5..3.0).contains(&seen[0]), "{seen:?}");
    // The whole feed is read again and again.
    pass(&here, MINUTE * 3).await;
    assert_eq!(lags(), [0.0; 0]);
    // What a node finds when it starts is old, and was not missed by anybody.
    let late = node("lag");
    pass(&here, Duration::from_secs(3)).await;
    assert_eq!(lags(), [0.0; 0]);
    drop((there, late));
}

/// As [`pass`], and the entries of the feed become older meanwhile.
async fn pass_with_feed(node: &Node, time: Duration) {
    for _ in 0..time.as_millis().div_ceil(250) {
        node.store.age_feed(Duration::from_millis(250));
        pass(node, Duration::from_millis(250)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_lag_is_recorded_of_a_revocation_that_is_read_again_after_it_was_forgotten() {
    // In each phase of the comparison with the feed, which is once in a minute.
    for second in (0..60).step_by(12) {
        let recorded = Recorded::default();
        let _installed = recorded.install();
        let node = Node::new();
        pass(&node, Duration::from_secs(2)).await;
        // After a failure, the feed is compared at once.
        node.store.set(Fault::Fails);
        pass(&node, Duration::from_millis(1_500)).await;
        node.store.set(Fault::None);
        pass(&node, Duration::from_secs(60 + second)).await;
        node.auth.logout(&node.refresh_token("alice").await).await.unwrap();
        pass_with_feed(&node, MINUTE * 18).await;
        assert_eq!(recorded.samples("revocation_lag_seconds"), [0.0; 0], "{second}");
    }
}

// ---- Gauges ---------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_staleness_grows_by_the_second_while_the_store_fails() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    pass(&node, Duration::from_secs(3)).await;
    assert!(recorded.gauge("revocations_staleness_seconds") <= 1.0);
    let read_at = recorded.gauge("revocations_read_timestamp_seconds");
    assert!((read_at - node.clock.now().as_millis() as f64 / 1000.0).abs() < 2.0);
    node.store.set(Fault::Hangs);
    // Also once it is so large that requests ask the store.
    pass(&node, Duration::from_secs(45)).await;
    let staleness = recorded.gauge("revocations_staleness_seconds");
    assert!((43.0..=47.0).contains(&staleness), "{staleness}");
    assert!(recorded.gauge("revocations_read_timestamp_seconds") - read_at <= 2.0);
    node.store.set(Fault::None);
    pass(&node, Duration::from_secs(5)).await;
    assert!(recorded.gauge("revocations_staleness_seconds") <= 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_was_never_read_is_stale_since_the_start() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let store = FaultyStore::default();
    store.set(Fault::Fails);
    let node = Node::on(store, Clock::new(), |builder| builder);
    pass(&node, Duration::from_secs(20)).await;
    let staleness = recorded.gauge("revocations_staleness_seconds");
    assert!((18.0..=21.0).contains(&staleness), "{staleness}");
    let read_at = recorded.gauge("revocations_read_timestamp_seconds");
    let since = node.clock.now().as_millis() as f64 / 1000.0 - read_at;
    assert!((staleness - 1.0..=staleness + 1.0).contains(&since), "{since}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_not_read_the_feed_yet_is_not_stale_since_1970() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let store = FaultyStore::default();
    store.set(Fault::SlowFeed);
    let node = Node::on(store, Clock::new(), |builder| builder);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let now = node.clock.now().as_millis() as f64 / 1000.0;
    assert_eq!(recorded.gauge("revocations_read_timestamp_seconds"), now);
    assert_eq!(recorded.gauge("revocations_staleness_seconds"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_stopped_is_neither_stale_nor_current() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    pass(&node, Duration::from_secs(3)).await;
    let gauges = ["revocations_staleness_seconds", "revocations_read_timestamp_seconds", "clock_difference_seconds"];
    assert!(gauges.iter().all(|name| !recorded.gauge(name).is_nan()));
    drop(node);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(gauges.iter().all(|name| recorded.gauge(name).is_nan()));
}

#[cfg(feature = "verifier")]
#[tokio::test]
async fn a_verifier_shows_what_it_has_heard_of_its_issuer() {
    use axum_refresh::keys::SigningKey;
    use axum_refresh::verifier::Verifier;
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let key = SigningKey::from_pem(include_bytes!("../src/token/keys_for_tests/ed25519.pem")).unwrap();
    let token = || axum_refresh::Secret::new("Zk8vQ2mX7pL4tR9wB3nY6cD1fH5jK0sA");
    let issuer = Node::with(|builder| builder.signing_key(key).verifier_token(token()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().nest("/auth", issuer.auth.router()).merge(issuer.auth.jwks_router().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let login = issuer.login("alice").await.tokens;
    issuer.auth.revoke_all(RevocationReason::Other).await.unwrap();
    let build = || {
        Verifier::<Claims>::from_url(format!("{url}/.well-known/jwks.json"))
            .clock(issuer.clock.reader())
            .configure(|settings| settings.realm = Some("verified".to_owned()))
    };
    let verifier = build().revocations(format!("{url}/auth/revocations"), token()).build().unwrap();
    assert_eq!(support::code(verifier.authenticate(&login.access_token).await), "access_token_revoked");
    for operation in ["fetch_keys", "ask_about_session"] {
        let name = format!(r#"store_call_duration_seconds{{operation="{operation}",outcome="ok",realm="verified"}}"#);
        assert_eq!(recorded.samples(&name).len(), 1, "{operation}");
    }
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let gauge = |name: &str| recorded.gauge(&format!(r#"{name}{{realm="verified"}}"#));
    assert!(gauge("revocations_staleness_seconds") < 3.0);
    assert_eq!(recorded.gauge(r#"live_revocations{target="user",realm="verified"}"#), 1.0);
    let user = verifier.authenticate(&issuer.login("bob").await.tokens.access_token).await.unwrap();
    let stream = verifier.revoked(&user);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(gauge("watched_sessions"), 1.0);
    drop((verifier, stream));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(gauge("revocations_staleness_seconds").is_nan());
    // Without a feed there is nothing that could be too old.
    let verifier = build().without_revocations().build().unwrap();
    verifier.ready().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(gauge("revocations_staleness_seconds").is_nan());
}

#[tokio::test(start_paused = true)]
async fn gauges_show_what_this_node_keeps() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    let live = |target| recorded.gauge(&format!(r#"live_revocations{{target="{target}"}}"#));
    let alice = node.auth.authenticate(&node.login("alice").await.tokens.access_token).await.unwrap();
    let bob = node.auth.authenticate(&node.login("bob").await.tokens.access_token).await.unwrap();
    let stream = node.auth.revoked(&bob);
    node.auth.revoke_session(alice.session_id, RevocationReason::Other).await.unwrap();
    node.auth.revoke_token_id(&alice.token_id(), alice.expires_at()).await.unwrap();
    let reported = || async { pass(&node, Duration::from_secs(2)).await };
    reported().await;
    assert_eq!((live("session"), live("user"), live("token")), (1.0, 0.0, 1.0));
    assert_eq!(recorded.gauge("pending_activity_sessions"), 2.0);
    assert_eq!(recorded.gauge("watched_sessions"), 1.0);
    drop(stream);
    node.auth.flush().await.unwrap();
    assert_eq!(recorded.gauge("pending_activity_sessions"), 0.0);
    assert_eq!(recorded.gauge("watched_sessions"), 0.0);
    node.auth.revoke_all(RevocationReason::Other).await.unwrap();
    reported().await;
    assert_eq!(live("user"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn the_difference_to_the_clock_of_the_store_is_positive_if_this_node_is_ahead() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    node.store.set_clock(Some(node.clock.now().as_millis() - 5_000));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(recorded.gauge("clock_difference_seconds"), 5.0);
    node.store.set_clock(Some(node.clock.now().as_millis() + 7_000));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(recorded.gauge("clock_difference_seconds"), -7.0);
}

// ---- Recorders and labels -------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_recorder_that_is_installed_late_gets_descriptions_once_and_counters_of_zero() {
    let recorded = Recorded::default();
    let node = Node::new();
    let _ = node.login("alice").await;
    pass(&node, Duration::from_secs(3)).await;
    let _installed = recorded.install();
    pass(&node, Duration::from_secs(5)).await;
    let (described, counters) = {
        let all = recorded.0.lock().unwrap();
        (all.described.clone(), all.counters.clone())
    };
    let names: BTreeSet<_> = described.iter().collect();
    assert_eq!((names.len(), described.len()), (documented_here().len(), documented_here().len()), "{described:?}");
    for name in [
        "logins_total",
        r#"security_events_total{event="reuse"}"#,
        r#"refreshes_total{verdict="reuse"}"#,
        r#"refusals_total{code="store_unavailable"}"#,
    ] {
        assert_eq!(counters[&format!("axum_refresh_{name}")].load(Ordering::SeqCst), 0, "{name}");
    }
    recorded.changes();
    let _ = node.login("alice").await;
    recorded.counted(&["logins_total"]);
}

#[tokio::test(start_paused = true)]
async fn the_realm_is_a_label_of_every_metric_if_there_is_one_and_of_none_if_not() {
    for realm in [None, Some("admins")] {
        let recorded = Recorded::default();
        let _installed = recorded.install();
        let node = Node::with(|builder| builder.configure(|settings| settings.realm = realm.map(str::to_owned)));
        busy(&node).await;
        drop(node);
        // The background task ends.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let all = recorded.0.lock().unwrap();
        for name in all.counters.keys().chain(all.gauges.keys()).chain(all.histograms.keys()) {
            assert_eq!(name.contains(r#"realm="admins""#), realm.is_some(), "{name}");
        }
    }
}

/// A bit of everything, with text in it that no label may have.
async fn busy(node: &Node) {
    let app = app(&node.auth);
    let hostile = "evil\"} 1\naxum_refresh_logins_total 9";
    for user in [hostile, "mallory", "198.51.100.23"] {
        let client = ClientInfo::new().ip("198.51.100.23".parse().unwrap()).user_agent(hostile);
        let login = node.auth.login(user, claims(hostile)).client(client.clone()).label(hostile);
        let tokens = login.await.unwrap().tokens;
        let bearer = format!("Bearer {}", tokens.access_token);
        for path in ["/me", "/recent", "/evil", "/auth/sessions", "/quota"] {
            send(&app, "GET", path, &[("authorization", &bearer), ("user-agent", "evil")]).await;
        }
        let refresh = tokens.refresh_token.unwrap();
        node.auth.refresh(&refresh, client.clone()).await.unwrap();
        node.auth.refresh("evil", client).await.unwrap_err();
        let user = node.auth.authenticate(&tokens.access_token).await.unwrap();
        node.auth.revoke_token_id(&user.token_id(), user.expires_at()).await.unwrap();
        node.auth.logout(&refresh).await.unwrap();
    }
    node.auth.revoke_user(hostile, None, RevocationReason::Other).await.unwrap();
    pass(node, Duration::from_secs(70)).await;
    node.auth.flush().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_label_has_anything_that_a_client_has_chosen() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let node = Node::new();
    busy(&node).await;
    let all = recorded.0.lock().unwrap();
    let names: BTreeSet<_> = all.values.iter().map(|(name, _)| name.as_str()).collect();
    let documented = ["code", "event", "operation", "outcome", "reason", "result", "target", "verdict"];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), documented);
    for (name, value) in &all.values {
        let is_word = value.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(is_word && !value.contains("evil") && value != "quota_exceeded", "{name}={value:?}");
    }
    assert!(all.values.len() < 100, "{}", all.values.len());
}

// ---- The guide and the dashboard ------------------------------------------------------------------------------------

const GUIDE: &str = include_str!("../src/guide/observability.md");
const DASHBOARD: &str = include_str!("../examples/grafana-dashboard.json");

/// The metrics that the guide lists: the type and the labels of each.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = GUIDE.lines().filter(|line| line.starts_with("| `axum_refresh_"));
    let metrics: BTreeMap<_, _> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let labels = cells[3].split(',').map(|label| label.trim().trim_matches('`').to_owned());
            (
                cells[1].trim_matches('`').to_owned(),
                (cells[2].to_owned(), labels.filter(|label| !label.is_empty()).collect()),
            )
        })
        .collect();
    assert!(metrics.len() > 10, "{metrics:?}");
    metrics
}

/// Those that there are with the features of this build.
fn documented_here() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut metrics = documented();
    let has_signers = cfg!(any(feature = "aws_lc_rs", feature = "signing"));
    metrics.retain(|name, _| has_signers || !name.contains("signer"));
    metrics
}

#[tokio::test(start_paused = true)]
async fn the_guide_lists_every_metric_with_its_type_and_labels() {
    let recorded = Recorded::default();
    let _installed = recorded.install();
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let node = || Node::on(store.clone(), clock.clone(), |builder| builder);
    let (here, there) = (node(), node());
    pass(&here, Duration::from_secs(2)).await;
    busy(&here).await;
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    here.auth.rotate_to(signers::key(signers::Service::Fails), here.clock.now().into()).await.unwrap_err();
    let all = recorded.0.lock().unwrap();
    let names = |kind: &str, names: Vec<&String>| -> Vec<_> {
        names.into_iter().map(|name| (name.clone(), kind.to_owned())).collect()
    };
    let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for (name, kind) in [
        names("counter", all.counters.keys().collect()),
        names("gauge", all.gauges.keys().collect()),
        names("histogram", all.histograms.keys().collect()),
    ]
    .concat()
    {
        let (name, labels) = name.split_once('{').unwrap_or((&name, ""));
        let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        found.entry(name.to_owned()).or_insert_with(|| (kind, BTreeSet::new())).1.extend(labels);
    }
    assert_eq!(found, documented_here());
    assert_eq!(all.described.iter().cloned().collect::<BTreeSet<_>>(), found.into_keys().collect());
    drop(there);
}

/// The words of a query.
fn words(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[test]
fn every_query_names_a_metric_of_the_guide_and_its_labels() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let of_panel = |panel: &serde_json::Value| -> Vec<String> {
        panel["targets"].as_array().unwrap().iter().map(|it| it["expr"].as_str().unwrap().to_owned()).collect()
    };
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables = variables.iter().filter_map(|it| Some(it["query"]["query"].as_str()?.to_owned()));
    let alerts = GUIDE.lines().filter_map(|line| Some(line.trim().strip_prefix("expr: ")?.to_owned()));
    let queries: Vec<String> = panels.iter().flat_map(of_panel).chain(variables).chain(alerts).collect();
    assert!(queries.len() > 30, "{queries:?}");
    let documented = documented();
    let mut used = BTreeSet::new();
    for query in &queries {
        let mut labels: BTreeSet<&str> = ["job", "instance", "realm"].into();
        for word in words(query).filter(|word| word.starts_with("axum_refresh")) {
            let histogram = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| {
                word.strip_suffix(suffix)
                    .filter(|name| documented.get(*name).is_some_and(|(kind, _)| kind == "histogram"))
            });
            let name = histogram.unwrap_or(word);
            let (kind, own) = documented.get(name).unwrap_or_else(|| panic!("{word} is no metric: {query}"));
            assert_eq!(kind == "histogram", histogram.is_some(), "{query}");
            used.insert(name.to_owned());
            labels.extend(own.iter().map(String::as_str));
            labels.extend(histogram.map(|_| "le"));
        }
        for by in query.split("by (").skip(1) {
            for label in words(by.split(')').next().unwrap()) {
                assert!(labels.contains(label), "{label} is no label: {query}");
            }
        }
        for selector in query.split('{').skip(1) {
            for matcher in selector.split('}').next().unwrap().split("\",").flat_map(|it| it.split(['=', '!']).next()) {
                assert!(labels.contains(matcher), "{matcher} is no label: {query}");
            }
        }
    }
    assert_eq!(used, documented.into_keys().collect());
}

#[test]
fn every_panel_of_the_dashboard_has_a_title_and_a_description() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for member in ["title", "description"] {
            assert!(panel[member].as_str().is_some_and(|text| !text.is_empty()), "{panel}");
        }
    }
}
