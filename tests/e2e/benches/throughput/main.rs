//! What the layers and a refresh cost, compared with an axum route without any checks:
//! `cargo bench -p axum-refresh-e2e --bench throughput`; with rows for servers,
//! `tests/e2e/with-servers cargo bench -p axum-refresh-e2e --bench throughput`.
//!
//! The server has one core and one thread, and the load generator another core. All routes return the same JSON. Each row is
//! measured three ways:
//!
//! - requests per second, which depend on whatever else the machine does;
//! - the processor time that the server used, divided by the requests, which depends less on it;
//! - the instructions that the server executed in user space, divided by the requests, which depend on nothing. They are
//!   counted by callgrind (from the Debian package valgrind), which has no SHA extensions: rows with a signature look worse
//!   there than they are.
//!
//! In every round each row is measured between two measurements of bare axum. The table has the medians of the ratios within
//! a round, and their range.
//!
//! Variables: `ROUNDS` (7; 0 for one quick round), `REQUESTS` (40000) for each measurement, `ROWS` (part of the names of the
//! rows to measure), `CHART` (the file to draw the chart to), `CALLGRIND` (0: no instructions; a folder: keeps callgrind's files
//! there).

mod apps;
mod chart;
mod load;
mod server;

use std::path::PathBuf;

use self::load::{Load, Requests};
use self::server::Server;

/// How many clients take turns, each with its own token.
const CLIENTS: usize = 10_000;
/// How many requests of each row callgrind counts, after twice as many that warm up.
const COUNTED: usize = 10_000;

fn main() {
    // `cargo test --all-targets` runs benchmarks as well, and must not measure.
    let arguments: Vec<_> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--bench") {
        measure();
    } else if let Some(at) = arguments.iter().position(|argument| argument == "--serve") {
        apps::serve(arguments[at + 1].parse().unwrap());
    } else {
        println!("a benchmark: cargo bench -p axum-refresh-e2e --bench throughput");
    }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// What is measured, and on which server.
struct Row {
    name: &'static str,
    server: usize,
    requests: Requests,
}

impl Row {
    /// The same load on a route without checks.
    fn bare(&self) -> Requests {
        self.requests.clone().path(if self.requests.method == "POST" { "/bare-post" } else { "/bare" })
    }
}

/// The measurements of a row, as shares of bare axum.
#[derive(Default)]
struct Shares {
    rate: Vec<f64>,
    time: Vec<f64>,
    instructions: Option<f64>,
    /// Beyond bare axum: microseconds and instructions for each request.
    extra_time: Vec<f64>,
    extra_instructions: f64,
}

/// Their median, and their range.
fn summary(values: &[f64]) -> (f64, f64, f64) {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

fn measure() {
    let (rounds, requests) = (number("ROUNDS", 7), number("REQUESTS", 40_000));
    let chosen = std::env::var("ROWS").unwrap_or_default();
    let mut servers = vec![Server::start(CLIENTS, "memory")];
    let mut rows = rows();
    for (variable, kind, both, refresh) in [
        (
            "TEST_POSTGRES_URL",
            "postgres",
            "both layers, sessions in Postgres",
            "POST /auth/refresh, rotating, in Postgres",
        ),
        ("TEST_REDIS_URL", "redis", "both layers, sessions in Redis", "POST /auth/refresh, rotating, in Redis"),
    ] {
        if std::env::var_os(variable).is_some() {
            let server = servers.len();
            rows.push(Row { name: both, server, requests: Requests::get("/both", CLIENTS) });
            rows.push(Row { name: refresh, server, requests: Requests::refresh("/auth/refresh", CLIENTS) });
            servers.push(Server::start(CLIENTS, kind));
        }
    }
    let many = "both layers, 1,000,000 sessions in the store";
    if many.contains(&chosen) {
        rows.push(Row { name: many, server: servers.len(), requests: Requests::get("/both", CLIENTS) });
        servers.push(Server::start(1_000_000, "memory"));
    }
    rows.retain(|row| row.name.contains(&chosen));
    let mut shares: Vec<_> = rows.iter().map(|_| Shares::default()).collect();
    let mut bare_times = Vec::new();
    // The first round is a warm-up.
    for round in 0..=rounds {
        for (row, shares) in rows.iter().zip(&mut shares) {
            let server = &servers[row.server];
            let bare = |loads: &mut Vec<Load>| loads.push(server.load(&row.bare(), requests));
            let mut around = Vec::new();
            bare(&mut around);
            let load = server.load(&row.requests, requests);
            bare(&mut around);
            if round > 0 || rounds == 0 {
                let rate = f64::midpoint(around[0].per_second, around[1].per_second);
                let time = f64::midpoint(around[0].processor_us, around[1].processor_us);
                shares.rate.push(load.per_second / rate);
                shares.time.push(time / load.processor_us);
                shares.extra_time.push(load.processor_us - time);
                bare_times.push(time);
            }
        }
    }
    drop(servers);
    let callgrind = std::env::var("CALLGRIND").unwrap_or_default();
    if callgrind != "0" {
        count(&rows, &mut shares, (!callgrind.is_empty()).then(|| PathBuf::from(callgrind)));
    }
    let bare = summary(&bare_times).0;
    println!("bare axum: {bare:.1} us of processor time for each request");
    for (row, shares) in rows.iter().zip(&shares).filter(|(row, _)| row.name.contains("rotating")) {
        let each = bare + summary(&shares.extra_time).0;
        println!("{}: {:.0} in a second of processor time", row.name, 1e6 / each);
    }
    println!(
        "\n{:46} | {:>18} | {:>18} {:>8} | {:>12} {:>7}",
        "share of bare axum", "requests/s", "processor time", "+us", "instructions", "+"
    );
    for (row, shares) in rows.iter().zip(&shares) {
        let range = |values: &[f64]| {
            let (median, low, high) = summary(values);
            format!("{median:.2} ({low:.2}-{high:.2})")
        };
        let counted = shares.instructions.map_or_else(
            || format!("{:>12} {:>7}", "", ""),
            |share| format!("{share:12.2} {:+7.0}", shares.extra_instructions),
        );
        println!(
            "{:46} | {:>18} | {:>18} {:+8.2} | {counted}",
            row.name,
            range(&shares.rate),
            range(&shares.time),
            summary(&shares.extra_time).0,
        );
    }
    if let Some(file) = std::env::var_os("CHART") {
        let bars: Vec<_> = rows.iter().zip(&shares).map(|(row, shares)| (row.name, summary(&shares.time).0)).collect();
        std::fs::write(file, chart::bars("Share of bare axum, by processor time for each request", &bars)).unwrap();
    }
}

fn rows() -> Vec<Row> {
    let row = |name, requests| Row { name, server: 0, requests };
    let get = |path| Requests::get(path, CLIENTS);
    vec![
        row("a layer that does nothing", get("/noop")),
        row("a layer that adds a user, and an extractor", get("/constant")),
        row("AuthLayer, known tokens", get("/known")),
        row("AuthLayer, one token", Requests::get("/known", 1)),
        row("AuthLayer, while sessions are revoked", get("/revoking")),
        row("AuthLayer, unknown tokens", get("/unknown")),
        row("both layers, known tokens", get("/both")),
        row("both layers, in two calls of route_layer", get("/boxed")),
        row("both layers, the browser updated since login", get("/updated").user_agent("Mozilla/5.0 Chrome/139.0.0.0")),
        row("AuthLayer, known tokens with EdDSA", get("/eddsa-known")),
        row("a Verifier's layer, known tokens with EdDSA", get("/eddsa-verifier-known")),
        row("AuthLayer, unknown tokens with EdDSA", get("/eddsa-unknown")),
        row("a Verifier's layer, unknown tokens with EdDSA", get("/eddsa-verifier-unknown")),
        row("by hand: jsonwebtoken, unknown tokens", get("/by-hand")),
        row("POST /auth/refresh, rotating, in memory", Requests::refresh("/auth/refresh", CLIENTS)),
        row("POST /auth/refresh, tokens that are not ours", Requests::refresh("/auth/refresh", CLIENTS).forged()),
    ]
}

/// Counts the instructions of the rows that the first server has, in one run.
fn count(rows: &[Row], shares: &mut [Shares], folder: Option<PathBuf>) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = folder.unwrap_or_else(|| temporary.path().to_owned());
    let Some(server) = Server::start_counting(CLIENTS, &folder) else {
        println!("valgrind is not installed: instructions are not counted");
        return;
    };
    let counted = |requests: &Requests| {
        // The first two requests of a token are slower.
        server.load(requests, requests.clients.min(COUNTED));
        server.load(requests, requests.clients.min(COUNTED));
        server.mark();
        server.load(requests, COUNTED);
        server.mark();
    };
    let rows: Vec<_> = rows.iter().zip(shares).filter(|(row, _)| row.server == 0).collect();
    let bare = [Requests::get("/bare", CLIENTS), Requests::refresh("/bare-post", CLIENTS)];
    bare.iter().chain(rows.iter().map(|(row, _)| &row.requests)).for_each(counted);
    // Two files for each: the first is that of the warm-up.
    let instructions = |n: usize| {
        let text = std::fs::read_to_string(folder.join(format!("callgrind.{}", 2 * n + 2))).unwrap();
        let total = text.lines().find_map(|line| line.strip_prefix("summary:")).expect("callgrind's summary");
        total.trim().parse::<f64>().unwrap() / COUNTED as f64
    };
    let (get, post) = (instructions(0), instructions(1));
    println!("bare axum: {get:.0} instructions for each GET, {post:.0} for each POST");
    for (n, (row, shares)) in rows.into_iter().enumerate() {
        let (own, bare) = (instructions(n + 2), if row.requests.method == "POST" { post } else { get });
        shares.instructions = Some(bare / own);
        shares.extra_instructions = own - bare;
    }
}
