//! A Prometheus server scrapes the demo, and an app with the exporter of the guide; and what it then knows. `tests/run metrics`

#![cfg(unix)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum_refresh::{Auth, MemoryStore, NoClaims, Secret, Settings};
use axum_refresh_e2e::demo::{Demo, SHORT_GRACE, credentials, grace_passes};
use axum_refresh_e2e::exporter::metrics;
use reqwest::{Client, Url};
use serde_json::Value;
use tokio::time::sleep;

const GUIDE: &str = include_str!("../../../src/guide/observability.md");
const DASHBOARD: &str = include_str!("../../../examples/grafana-dashboard.json");

/// The alerts of the guide.
fn alerts() -> &'static str {
    let (_, rest) = GUIDE.split_once("```yaml\n").unwrap();
    rest.split_once("```").unwrap().0
}

/// A running Prometheus. Dropping it kills the process and removes its folder.
struct Prometheus {
    _folder: tempfile::TempDir,
    base: Url,
    http: Client,
    process: Child,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Prometheus {
    /// Starts Prometheus, with the alerts of the guide. It scrapes these ports every second.
    async fn start(targets: &[(&str, u16)]) -> Self {
        let folder = tempfile::Builder::new().prefix("axum-refresh-prometheus.").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = |name: &str| folder.path().join(name);
        let mut settings =
            "global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }\nrule_files: [alerts.yml]\nscrape_configs:\n".to_owned();
        for (job, port) in targets {
            settings +=
                &format!("  - {{ job_name: {job}, static_configs: [{{ targets: [\"127.0.0.1:{port}\"] }}] }}\n");
        }
        std::fs::write(at("prometheus.yml"), settings).unwrap();
        std::fs::write(at("alerts.yml"), alerts()).unwrap();
        let mut process = Command::new("prometheus")
            .arg(format!("--config.file={}", at("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", at("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(at("log")).unwrap())
            .spawn()
            .expect("Prometheus is not installed: `tests/run metrics` installs it");
        let http = Client::builder().no_proxy().build().unwrap();
        let base: Url = format!("http://127.0.0.1:{port}").parse().unwrap();
        let started = Instant::now();
        while !http.get(base.join("/-/ready").unwrap()).send().await.is_ok_and(|it| it.status().is_success()) {
            let is_running = process.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(30);
            assert!(is_running, "Prometheus does not start: {}", std::fs::read_to_string(at("log")).unwrap());
            sleep(Duration::from_millis(50)).await;
        }
        Self { _folder: folder, base, http, process }
    }

    async fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = self.base.join(&format!("/api/v1/{path}")).unwrap();
        let url = Url::parse_with_params(url.as_str(), parameters).unwrap();
        let body: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        assert_eq!(body["status"], "success", "{path} {parameters:?}: {body}");
        body["data"].clone()
    }

    /// The value of a query that has one result, or none if it has no result yet.
    async fn value(&self, query: &str) -> Option<f64> {
        let data = self.api("query", &[("query", query)]).await;
        let results = data["result"].as_array().unwrap();
        assert!(results.len() < 2, "{query}: {data}");
        Some(results.first()?["value"][1].as_str().unwrap().parse().unwrap())
    }

    /// Waits until a query has this value.
    async fn until(&self, query: &str, expected: f64) {
        let started = Instant::now();
        loop {
            let value = self.value(query).await;
            if value == Some(expected) {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{query}: {value:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn names(&self, job: &str) -> BTreeSet<String> {
        let matches = format!("{{job={job:?}}}");
        let names = self.api("label/__name__/values", &[("match[]", &matches)]).await;
        let names = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
        names.filter(|name| name.starts_with("axum_refresh_")).map(str::to_owned).collect()
    }
}

/// The names that the guide lists, as Prometheus keeps them.
fn documented() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for row in GUIDE.lines().filter(|line| line.starts_with("| `axum_refresh_")) {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let suffixes = if cells[2] == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
        names.extend(suffixes.iter().map(|suffix| format!("{}{suffix}", cells[1])));
    }
    names
}

/// What `promtool` says about an input: nothing, if all is well.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut tool = Command::new("promtool");
    let tool = tool.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = tool.spawn().expect("promtool is not installed: `tests/run metrics` installs it");
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// An app with the exporter, in a realm. Returns its port.
async fn app() -> u16 {
    let metrics = metrics().unwrap();
    let settings = Settings { realm: Some("staff".to_owned()), ..Settings::default() };
    let build = |store: MemoryStore| {
        Auth::<NoClaims>::builder(Secret::new("k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA"), store)
            .settings(settings.clone())
            .build()
    };
    // Two nodes on one store, so that one learns of the revocations of the other.
    let store = MemoryStore::new();
    let (auth, other) = (build(store.clone()).unwrap(), build(store).unwrap());
    sleep(Duration::from_secs(2)).await;
    let tokens = auth.login("alice", NoClaims {}).await.unwrap().tokens;
    auth.authenticate(&tokens.access_token).await.unwrap();
    auth.logout(&tokens.refresh_token.unwrap()).await.unwrap();
    let app = axum::Router::new().nest("/auth", auth.router()).merge(metrics);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        axum::serve(listener, app).await.unwrap();
        drop(other);
    });
    port
}

#[test]
fn the_app_of_this_test_has_the_exporter_of_the_guide() {
    let source = include_str!("../src/exporter.rs").replace("pub fn", "fn");
    let (_, code) = source.split_once("\n\n").unwrap();
    assert!(GUIDE.contains(code), "{code}");
}

#[test]
fn promtool_accepts_the_alerts_of_the_guide() {
    let mut file = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
    file.write_all(alerts().as_bytes()).unwrap();
    let said = promtool(&["check", "rules", file.path().to_str().unwrap()], "");
    assert!(said.contains("SUCCESS"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_every_metric_of_the_guide_answers_the_dashboard_and_raises_the_alarm() {
    let demo = Demo::start_exactly(&[("PORT", "0"), SHORT_GRACE]).await;
    let app = app().await;
    let prometheus = Prometheus::start(&[("demo", demo.port()), ("app", app)]).await;
    prometheus.until("sum(up)", 2.0).await;
    prometheus.until(r#"axum_refresh_logins_total{job="demo"}"#, 0.0).await;
    prometheus.until(r#"axum_refresh_logins_total{job="app",realm="staff"}"#, 1.0).await;

    let login = demo.post("/login").json(&credentials("alice")).send().await;
    let (access, first) = (login.tokens().access, login.refresh_cookie().value);
    demo.me(&access).await.is(200);
    demo.me(&access).await.is(200);
    demo.me("x").await.refused(401, "access_token_invalid");
    prometheus.until(r#"axum_refresh_logins_total{job="demo"}"#, 1.0).await;
    prometheus.until(r#"axum_refresh_refusals_total{job="demo",code="access_token_invalid"}"#, 1.0).await;
    prometheus.until(r#"axum_refresh_token_cache_requests_total{job="demo",result="hit"}"#, 1.0).await;
    prometheus.until(r#"axum_refresh_token_cache_requests_total{job="demo",result="miss"}"#, 2.0).await;
    let stale = prometheus.value(r#"time() - axum_refresh_revocations_read_timestamp_seconds{job="demo"}"#).await;
    assert!(stale.is_some_and(|seconds| (0.0..5.0).contains(&seconds)), "{stale:?}");

    // The first reuse of a process raises the alarm.
    grace_passes().await;
    let second = demo.refresh(&first).await.refresh_cookie().value;
    grace_passes().await;
    demo.refresh(&second).await.is(200);
    grace_passes().await;
    demo.refresh(&first).await.refused(401, "refresh_token_reused");
    prometheus.until(r#"count(ALERTS{alertname="RefreshTokenReused",event="reuse",alertstate="firing"})"#, 1.0).await;
    let firing = prometheus.api("query", &[("query", r#"ALERTS{alertstate="firing"}"#)]).await;
    let others =
        firing["result"].as_array().unwrap().iter().filter(|it| it["metric"]["alertname"] != "RefreshTokenReused");
    assert_eq!(others.count(), 0, "{firing}");
    let rules = prometheus.api("rules", &[]).await;
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        assert_eq!(rule["health"], "ok", "{rule}");
    }

    // Neither of the two has a signer. One node of the app has learned of the logout on the other. The demo is alone, so
    // nothing lags there.
    let names: BTreeSet<_> = documented().into_iter().filter(|name| !name.contains("_signer_")).collect();
    assert_eq!(prometheus.names("app").await, names);
    let alone: BTreeSet<_> = names.into_iter().filter(|name| !name.contains("_lag_")).collect();
    assert_eq!(prometheus.names("demo").await, alone);

    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let query =
                ["$job", "$instance", "$realm"].iter().fold(query.to_owned(), |query, it| query.replace(it, ".*"));
            let query = query.replace("$__rate_interval", "1m");
            let data = prometheus.api("query", &[("query", &query)]).await;
            // All store calls have worked, and there is no signer.
            let is_expected = !query.contains(r#"outcome=~"#) && !query.contains("_signer_");
            assert_eq!(!data["result"].as_array().unwrap().is_empty(), is_expected, "{query}");
        }
    }

    for port in [demo.port(), app] {
        let scrape = Client::builder().no_proxy().build().unwrap().get(format!("http://127.0.0.1:{port}/metrics"));
        let scrape = scrape.send().await.unwrap().text().await.unwrap();
        assert_eq!(promtool(&["check", "metrics"], &scrape), "", "{scrape}");
        for secret in ["alice", "curl", "127.0.0.1", "eyJ"] {
            assert!(!scrape.contains(secret), "{secret}");
        }
    }
}
