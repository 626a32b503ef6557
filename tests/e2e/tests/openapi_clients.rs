//! The OpenAPI document of the demo, as other tools read it: a validator, schemathesis, which sends requests made from it, and a
//! TypeScript client. `tests/run openapi`

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::Output;

use axum_refresh_e2e::demo::{Demo, SECRET};
use axum_refresh_e2e::document::PATH;
use tokio::process::Command;

/// The hooks of schemathesis, and the programs in TypeScript.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi");
const SIGNING_KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/token/keys_for_tests/ed25519.pem");

/// A browser's app, and one that uses all there is.
const PLAIN: &[(&str, &str)] = &[];
const FULL: &[(&str, &str)] = &[
    ("TRANSPORT", "both"),
    ("HINT_COOKIE", "true"),
    ("REALM", "staff"),
    ("SIGNING_KEY", SIGNING_KEY),
    ("BIND_USER_AGENT", "step_up"),
    ("REVOCATION_MAX_AGE", "1h"),
];

/// A demo on the memory store that keeps few sessions of each user.
async fn demo(settings: &[(&str, &str)]) -> Demo {
    let always = [("PORT", "0"), ("AUTH_SECRET", SECRET), ("MAX_SESSIONS", "20")];
    Demo::start_exactly(&[&always[..], settings].concat()).await
}

/// A program that `tests/run openapi` has installed.
fn tool(path: &str) -> PathBuf {
    let folder =
        std::env::var_os("OPENAPI_TOOLS").expect("the tools are not installed: `tests/run openapi` installs them");
    let tool = Path::new(&folder).join(path);
    assert!(tool.exists(), "{} is not installed: `tests/run openapi` installs it", tool.display());
    tool
}

async fn run(path: &str, arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(tool(path));
    command.args(arguments).current_dir(folder).kill_on_drop(true).output().await.unwrap()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let text = text(output);
    assert!(output.status.success(), "{text}");
    text
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// The document of a demo, as a file in a new folder.
async fn saved(demo: &Demo) -> (tempfile::TempDir, String) {
    let folder = tempfile::Builder::new().prefix("axum-refresh-openapi.").tempdir().unwrap();
    let file = folder.path().join("openapi.json");
    std::fs::write(&file, demo.get(PATH).send().await.is(200).text()).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (folder, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_valid() {
    for settings in [PLAIN, FULL] {
        let demo = demo(settings).await;
        let (folder, file) = saved(&demo).await;
        succeeded(&run("python/bin/openapi-spec-validator", &["--schema", "3.1", &file], folder.path()).await);
    }
}

async fn schemathesis(settings: &[(&str, &str)]) {
    let demo = demo(settings).await;
    let folder = tempfile::Builder::new().prefix("axum-refresh-schemathesis.").tempdir().unwrap();
    let url = format!("{}{PATH}", demo.origin());
    let config = format!("{FOLDER}/schemathesis.toml");
    let mut command = Command::new(tool("python/bin/schemathesis"));
    command
        .args(["--config-file", &config, "run", &url])
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", FOLDER)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("DEMO", demo.origin())
        .current_dir(folder.path())
        .kill_on_drop(true);
    let output = command.output().await.unwrap();
    println!("{}", succeeded(&output));
    demo.is_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    schemathesis(PLAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_with_all_settings() {
    schemathesis(FULL).await;
}

/// Generates the types of a demo's document beside a program, and checks the program.
async fn checked(program: &str) -> Output {
    let demo = demo(PLAIN).await;
    let (folder, file) = saved(&demo).await;
    let types = folder.path().join("schema.d.ts");
    succeeded(
        &run("node_modules/.bin/openapi-typescript", &[&file, "-o", types.to_str().unwrap()], folder.path()).await,
    );
    for name in [program, "tsconfig.json"] {
        std::fs::copy(format!("{FOLDER}/{name}"), folder.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink(tool("node_modules"), folder.path().join("node_modules")).unwrap();
    run("node_modules/.bin/tsc", &["--pretty", "false", "--project", "."], folder.path()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typescript_client_handles_every_code() {
    succeeded(&checked("client.ts").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typescript_client_with_mistakes_is_refused_for_each_of_them() {
    let output = checked("mistakes.ts").await;
    let text = text(&output);
    assert!(!output.status.success(), "{text}");
    let source = std::fs::read_to_string(format!("{FOLDER}/mistakes.ts")).unwrap();
    // A comment that ends with a colon stands before every mistake.
    let expected: Vec<_> = source.lines().filter_map(|line| line.strip_prefix("// ")?.strip_suffix(':')).collect();
    assert_eq!(expected.len(), 8);
    let mut found = vec![false; expected.len()];
    for error in text.lines().filter_map(|line| line.strip_prefix("mistakes.ts(")) {
        let line: usize = error.split(',').next().unwrap().parse().unwrap();
        let before = source.lines().take(line).filter(|line| line.starts_with("// ") && line.ends_with(':')).count();
        found[before.checked_sub(1).unwrap_or_else(|| panic!("{error}"))] = true;
    }
    for (mistake, found) in expected.iter().zip(found) {
        assert!(found, "{mistake}: {text}");
    }
}
