//! Services in Node, with jose, and in Python, with PyJWT. `tests/run` installs the libraries.

use std::io::Write as _;
use std::process::{Command, Stdio};

use axum_refresh_e2e::demo::{Demo, SECRET};

use super::key_file;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/verifiers");

/// What a service prints for each of these tokens.
fn verify(program: &str, script: &str, jwks_url: &str, tokens: &[&str]) -> Vec<String> {
    let modules =
        std::env::var("VERIFIERS").expect("VERIFIERS: the folder with the libraries; `tests/run verifiers` sets it");
    // Node looks for modules beside the script.
    let script_path = format!("{modules}/{script}");
    std::fs::copy(format!("{FOLDER}/{script}"), &script_path).unwrap();
    let mut service = Command::new(program)
        .args([&script_path, jwks_url])
        .env("PYTHONPATH", format!("{modules}/python"))
        .env("no_proxy", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = service.stdin.take().unwrap();
    for token in tokens {
        writeln!(input, "{token}").unwrap();
    }
    drop(input);
    let output = service.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

async fn is_verified_by(program: &str, script: &str, refusals: [&str; 2]) {
    for key in ["ed25519.pem", "es256.pem"] {
        let demo = Demo::start(&[("SIGNING_KEY", &key_file(key)), ("AUTH_SECRET", SECRET)]).await;
        let symmetric = Demo::new().await;
        let token_of = async |demo: &Demo| demo.browser().login("alice").await.tokens().access;
        let (token, secret) = (token_of(&demo).await, token_of(&symmetric).await);
        let (message, signature) = token.rsplit_once('.').unwrap();
        let other = if signature.starts_with('A') { "B" } else { "A" };
        let forged = format!("{message}.{other}{}", &signature[1..]);
        let jwks = format!("{}/.well-known/jwks.json", demo.origin());
        let printed = verify(program, script, &jwks, &[&token, &forged, &secret]);
        let [bad_signature, no_key] = refusals;
        assert_eq!(printed, ["alice", bad_signature, no_key], "{program} {key}");
    }
}

#[tokio::test]
async fn a_service_in_node_verifies_by_the_jwk_set() {
    is_verified_by("node", "verify.mjs", ["ERR_JWS_SIGNATURE_VERIFICATION_FAILED", "ERR_JOSE_ALG_NOT_ALLOWED"]).await;
}

#[tokio::test]
async fn a_service_in_python_verifies_by_the_jwk_set() {
    is_verified_by("python3", "verify.py", ["InvalidSignatureError", "PyJWKClientError"]).await;
}
