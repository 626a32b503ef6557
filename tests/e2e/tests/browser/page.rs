//! The demo's page: the messages in its console, and its accessibility.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::scene::Scene;

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn the_console_contains_no_errors() {
    let scene = Scene::new("the console, from login to logout").await;
    let windows = scene.windows(1).await;
    // A browser that is not logged in gets a 401, which Chromium logs.
    let first: Vec<_> = scene.browser.console().await;
    assert!(first.iter().all(|line| line.contains("/auth/refresh") && line.contains("401")), "{first:#?}");
    scene.browser.reload().await;
    scene.is_in("alice").await;
    for id in ["refresh", "end-others"] {
        scene.click(id).await;
    }
    scene.browser.run("document.getElementById('admin-user').value = 'alice'; document.querySelector('#admin-form button').click()").await;
    scene.browser.until("!document.getElementById('admin-result').hidden").await;
    scene.is_in("alice").await;
    assert_eq!(scene.row(&windows).await.logouts, 0);
    scene.click("logout").await;
    scene.is_out().await;
    assert_eq!(scene.browser.console().await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn the_sessions_are_listed_with_this_device_marked_and_can_be_revoked() {
    let scene = Scene::new("sessions listed and revoked").await;
    let mut other = scene.demo.browser();
    other.login("alice").await;
    let windows = scene.windows(1).await;
    let rows = "[...document.querySelectorAll('#sessions tbody tr')]";
    scene.browser.until(&format!("{rows}.length === 2")).await;
    let marked = format!("{rows}.filter(row => row.innerText.includes('this device')).length === 1");
    scene.browser.until(&marked).await;
    scene
        .browser
        .run(&format!("{rows}.find(row => !row.innerText.includes('this device')).querySelector('button').click()"))
        .await;
    scene.browser.until(&format!("{rows}.length === 1")).await;
    scene.is_in("alice").await;
    let mut others = [scene.demo.browser(), scene.demo.browser()];
    for other in &mut others {
        other.login("alice").await;
    }
    scene.click("end-others").await;
    scene.browser.until("document.getElementById('notice').textContent === 'Ended 2 sessions.'").await;
    scene.browser.until(&format!("{rows}.length === 1")).await;
    assert_eq!(scene.row(&windows).await.logouts, 0);
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn the_page_is_accessible() {
    let scene = Scene::new("axe on every view, light, dark and narrow").await;
    let axe = axe();
    scene.browser.open(&scene.url("/?idle=3600&warn=3599")).await;
    scene.wait_until_known().await;
    check(&scene, &axe, "logged out").await;
    scene.log_in("alice").await;
    scene.browser.until("!document.getElementById('idle').hidden").await;
    scene.browser.run("document.getElementById('admin-user').value = 'alice'; document.querySelector('#admin-form button').click(); document.querySelector('details').open = true").await;
    scene
        .browser
        .until("!document.getElementById('admin-result').hidden && document.querySelector('#sessions tbody tr')")
        .await;
    check(&scene, &axe, "logged in").await;
    scene.browser.run("document.getElementById('confirm').showModal()").await;
    check(&scene, &axe, "dialog").await;
    scene.row(&[]).await;
}

async fn check(scene: &Scene, axe: &str, view: &str) {
    for (scheme, width) in [("light", 1100), ("dark", 1100), ("light", 400), ("dark", 400)] {
        scene.browser.show_in(scheme, width).await;
        let overflow = "return document.documentElement.scrollWidth - innerWidth";
        assert!(scene.browser.run(overflow).await.as_i64().unwrap() <= 0, "{view} is wider than {width}");
        scene.browser.run(axe).await;
        let found = scene.browser.wait_for("axe.run().then(({ violations, passes }) => ({ passes: passes.length, violations: violations.map(({ id, help, nodes }) => ({ id, help, nodes: nodes.map(node => node.html) })) }))").await;
        assert_eq!(found["violations"], json!([]), "{view}, {scheme}, {width}: {found:#}");
        assert!(found["passes"].as_u64() > Some(15), "{view}: axe checked nothing: {found}");
        if let Some(folder) = std::env::var_os("SCREENSHOTS") {
            let file =
                Path::new(&folder).join(format!("{}-{}-{scheme}-{width}.png", Browser::name(), view.replace(' ', "-")));
            std::fs::write(file, scene.browser.screenshot().await).unwrap();
        }
    }
}

/// The script of axe-core, fetched with npm. The tests of the other browser may fetch it at the same time.
fn axe() -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("axe-{}", Browser::name()));
    let script = folder.join("node_modules/axe-core/axe.min.js");
    if !script.exists() {
        std::fs::create_dir_all(&folder).unwrap();
        let install = ["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@4"];
        let npm = Command::new("npm").args(install).arg("--prefix").arg(&folder).status();
        assert!(npm.expect("npm, which fetches axe-core").success(), "npm could not fetch axe-core");
    }
    let source = std::fs::read_to_string(script).unwrap();
    assert!(source.contains("axe"), "{:?}", Value::from(source.len()));
    source
}
