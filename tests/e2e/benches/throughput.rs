//! Requests per second, as a share of an axum route without any checks. `cargo bench -p axum-refresh-e2e --bench throughput`;
//! with rows for servers, `tests/e2e/with-servers cargo bench -p axum-refresh-e2e --bench throughput`.
//!
//! The server has one core and the load generator (`wrk`, from the Debian package of that name) another. All routes return
//! the same JSON. Every round measures each of them once, and the table shows the medians of the ratios within a round,
//! because absolute numbers depend on the machine.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Json, Router};
use axum_refresh::config::{Binding, BindingMode};
use axum_refresh::{Auth, AuthUser, ClientInfo, MemoryStore, Policy, PostgresStore, Secret, SessionStore, Settings};
use axum_refresh_e2e::stores;
use serde::{Deserialize, Serialize};
use tower_http::set_header::SetResponseHeaderLayer;

const CLIENTS: usize = 10_000;
const ROUNDS: usize = 5;
const SECONDS: u32 = 3;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
}

fn main() {
    // `cargo test --all-targets` runs benchmarks as well, and must not measure.
    if std::env::args().any(|argument| argument == "--bench") {
        measure();
    } else if let Some(sessions) = std::env::args().skip_while(|argument| argument != "--serve").nth(1) {
        serve(sessions.parse().unwrap());
    } else {
        println!("a benchmark: cargo bench -p axum-refresh-e2e --bench throughput");
    }
}

/// The response of every route.
fn answer(user: &str, role: Option<&str>) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "user": user, "claims": { "role": role }, "more": "the same for everybody" }))
}

/// The servers whose URLs are in the environment, and their rows.
fn kinds() -> Vec<(&'static str, &'static str)> {
    let there = |variable: &str| std::env::var_os(variable).is_some();
    let kinds = [
        ("postgres", "AuthLayer + guard, sessions in Postgres", there("TEST_POSTGRES_URL")),
        ("redis", "AuthLayer + guard, sessions in Redis", there("TEST_REDIS_URL")),
    ];
    kinds.into_iter().filter(|kind| kind.2).map(|(kind, name, _)| (kind, name)).collect()
}

/// An empty store of the kind in the variable `STORE`, configured as in the demo.
async fn open_store() -> Arc<dyn SessionStore> {
    let Some(url) = stores::fresh_url("STORE").await else { return Arc::new(MemoryStore::new()) };
    if url.starts_with("postgres") {
        let store = PostgresStore::connect(&url).await.unwrap().push();
        store.migrate().await.unwrap();
        return Arc::new(store);
    }
    stores::open(&url).await
}

#[tokio::main(flavor = "current_thread")]
async fn serve(sessions: usize) {
    let policy =
        Policy { binding: Binding { user_agent: BindingMode::Reject, ..Binding::default() }, ..Policy::default() };
    let secret = || Secret::new("k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA");
    let store = open_store().await;
    let auth = Auth::<Claims>::builder(secret(), store)
        .configure(|settings| settings.policy = policy.clone())
        .build()
        .unwrap();
    // The same tokens are valid here, and each is verified every time.
    let uncached = Auth::<Claims>::builder(secret(), MemoryStore::new())
        .settings(Settings { token_cache: 0, policy, ..Settings::default() })
        .build()
        .unwrap();

    let mut tokens = std::fs::File::create(std::env::var("TOKENS").unwrap()).map(std::io::BufWriter::new).unwrap();
    for n in 0..sessions {
        // Memory is measured without claims.
        let claims = Claims { role: (n < CLIENTS).then(|| "user".to_owned()) };
        let client = ClientInfo::new().user_agent("wrk/4.2").ip([10, 0, 0, 1].into());
        let login = auth.login(format!("user-{n:09}"), claims).client(client).await.unwrap();
        if n < CLIENTS {
            writeln!(tokens, "{}", login.tokens.access_token).unwrap();
        }
    }
    tokens.flush().unwrap();

    let by_user = |user: AuthUser<Claims>| async move { answer(&user.id, user.claims.role.as_deref()) };
    let app = Router::new()
        .route("/stateless", get(by_user).route_layer(auth.layer()))
        .route("/cold", get(by_user).route_layer(uncached.layer()))
        .route("/me", get(by_user).route_layer((auth.layer(), auth.guard())))
        .route("/boxed", get(by_user).route_layer(auth.guard()).route_layer(auth.layer()))
        .route("/bare", get(|| async { answer("user-000000000", Some("user")) }))
        .route("/bare-post", post(|| async { answer("user-000000000", Some("user")) }))
        .nest("/auth", auth.router())
        .layer(SetResponseHeaderLayer::overriding(http::header::SERVER, http::HeaderValue::from_static("bench")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, app.into_make_service_with_connect_info::<std::net::SocketAddr>()).await.unwrap();
}

struct Server {
    child: Child,
    address: String,
    tokens: std::path::PathBuf,
}

impl Server {
    fn start(sessions: usize, store: &str) -> Self {
        let tokens = std::env::temp_dir().join(format!("tokens-{}-{store}-{sessions}", std::process::id()));
        let mut child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(std::env::current_exe().unwrap())
            .args(["--serve", &sessions.to_string()])
            .envs([("TOKENS", tokens.as_os_str()), ("STORE", store.as_ref())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, address: address.trim().to_owned(), tokens }
    }

    /// Resident memory, in bytes.
    fn memory(&self) -> usize {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    /// Requests per second. `clients` of them take turns, each with its own token.
    fn load(&self, path: &str, clients: usize) -> f64 {
        let script = std::env::temp_dir().join(format!("load-{}.lua", std::process::id()));
        let user_agent = if path.ends_with("updated") { "wrk/4.3" } else { "wrk/4.2" };
        let lua = format!(
            r#"local tokens, n = {{}}, 0
for line in io.lines("{}") do tokens[#tokens + 1] = line; if #tokens >= {clients} then break end end
request = function()
  n = n % #tokens + 1
  local method = "GET"
  local headers = {{ ["Authorization"] = "Bearer " .. tokens[n], ["User-Agent"] = "{user_agent}" }}
  if "{path}" == "/auth/refresh" or "{path}" == "/bare-post" then
    method = "POST"
    headers = {{ ["Cookie"] = "__Secure-refresh=" .. string.sub(tokens[n], 30, 123) }}
  end
  return wrk.format(method, "{path}", headers)
end"#,
            self.tokens.display()
        );
        std::fs::write(&script, lua).unwrap();
        let output = Command::new("taskset")
            .args(["-c", "1", "wrk", "-t1", "-c32", &format!("-d{SECONDS}"), "-s"])
            .arg(&script)
            .arg(format!("http://{}{path}", self.address))
            .output()
            .expect("wrk is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        let per_second = text
            .lines()
            .find_map(|line| line.strip_prefix("Requests/sec:"))
            .expect("wrk prints the requests per second");
        per_second.trim().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.tokens);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure() {
    let (few, many) = (Server::start(CLIENTS, "memory"), Server::start(1_000_000, "memory"));
    let empty = Server::start(0, "memory");
    let each = (many.memory() - empty.memory()) as f64 / 1_000_000.0;
    println!("resident memory per session, 1,000,000 of them without claims: {each:.0} bytes");
    drop(empty);
    let others: Vec<_> = kinds().into_iter().map(|(kind, name)| (name, Server::start(CLIENTS, kind))).collect();
    let mut rows = vec![
        ("AuthLayer, verified every time, 10,000 clients", &few, "/cold", CLIENTS, "/bare"),
        ("AuthLayer, one token", &few, "/stateless", 1, "/bare"),
        ("AuthLayer, 10,000 clients in turn", &few, "/stateless", CLIENTS, "/bare"),
        ("AuthLayer + guard, 10,000 clients in turn", &few, "/me", CLIENTS, "/bare"),
        ("the same, each with a route_layer of its own", &few, "/boxed", CLIENTS, "/bare"),
        ("the same, the browser updated since login", &few, "/me?updated", CLIENTS, "/bare"),
        ("the same, 1,000,000 sessions in the store", &many, "/me", CLIENTS, "/bare"),
        ("POST /auth/refresh, a token that is not ours", &few, "/auth/refresh", CLIENTS, "/bare-post"),
    ];
    for (name, server) in &others {
        rows.push((name, server, "/me", CLIENTS, "/bare"));
    }
    // The first round is a warm-up and is discarded.
    let mut ratios = vec![Vec::new(); rows.len()];
    for round in 0..=ROUNDS {
        for (n, (_, server, path, clients, bare)) in rows.iter().enumerate() {
            let before = server.load(bare, *clients);
            let measured = server.load(path, *clients);
            let after = server.load(bare, *clients);
            if round > 0 {
                ratios[n].push(measured / f64::midpoint(before, after));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    for ((name, ..), ratios) in rows.iter().zip(ratios) {
        let (low, high) = (ratios.iter().copied().fold(f64::MAX, f64::min), ratios.iter().copied().fold(0.0, f64::max));
        println!("{name:<50} {:.2} of bare axum ({low:.2} to {high:.2})", median(ratios));
    }
}
