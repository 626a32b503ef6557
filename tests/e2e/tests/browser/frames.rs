//! Frames and browsers whose APIs throw: the module neither throws nor loops, and its state is true.

use std::time::Duration;

use tokio::time::sleep;

use crate::browser::Browser;
use crate::scene::{Row, Scene};

/// An expression that creates the module in a frame with these attributes, and keeps what the frame reports in
/// `window.seen`. No opaque origin may read the server's module, so the frame has a copy.
fn frame(attributes: &str, base: &str) -> String {
    format!(
        "(async () => {{
            const source = await (await fetch('{base}/auth/client.js')).text();
            window.seen = [];
            window.addEventListener('message', ({{ data }}) => window.seen.push(data));
            const frame = document.createElement('iframe');
            frame.id = 'frame';
            for (const [name, value] of Object.entries({attributes})) frame.setAttribute(name, value);
            frame.srcdoc = `<script type=module>
                const report = text => parent.postMessage(text, '*');
                try {{
                    const {{ createAuth }} = await import('data:text/javascript,${{encodeURIComponent(source).replace(/'/g, '%27')}}');
                    const auth = createAuth({{ onChange: ({{ state }}) => report(state) }});
                    addEventListener('message', async ({{ data }}) => {{
                        if (data === 'log in') await auth.login('/login', {{ username: 'alice', password: 'password' }});
                        if (data === 'refresh') report((await auth.refresh()) ? 'refreshed' : 'not refreshed');
                    }});
                    report('created');
                }} catch (error) {{ report('failed: ' + error); }}
            </script>`;
            document.body.append(frame);
        }})()"
    )
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_srcdoc_frame_logs_in_and_refreshes() {
    let scene = Scene::new("a srcdoc frame").await;
    // A page without a policy that would block the frame's script.
    scene.browser.open(&scene.url("/health")).await;
    scene.browser.wait_for(&frame("{}", &scene.url(""))).await;
    scene.browser.until("window.seen.includes('out')").await;
    scene.browser.run("document.getElementById('frame').contentWindow.postMessage('log in', '*')").await;
    scene.browser.until("window.seen.includes('in')").await;
    scene.grace_passes().await;
    scene.browser.run("document.getElementById('frame').contentWindow.postMessage('refresh', '*')").await;
    scene.browser.until("window.seen.includes('refreshed')").await;
    assert_eq!(scene.row(&[]).await, Row { refreshes: 1, rotations: 1, logouts: 0 });
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_browser_that_blocks_cookies_is_out_after_one_request() {
    let browser = Browser::start_without_cookies;
    let scene = Scene::in_browser("all cookies blocked", browser).await;
    scene.browser.open(&scene.url("/")).await;
    scene.is_out().await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.proxy.refreshes(), 1);
    // The login succeeds, and lasts as long as the access token.
    scene.log_in("alice").await;
    scene.click("refresh").await;
    scene.is_out().await;
    assert_eq!(scene.proxy.refreshes(), 2);
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_sandboxed_frame_is_never_logged_in_and_does_not_loop() {
    let scene = Scene::new("a sandboxed frame").await;
    scene.browser.open(&scene.url("/health")).await;
    scene.browser.wait_for(&frame("{ sandbox: 'allow-scripts' }", &scene.url(""))).await;
    scene.browser.until("window.seen.includes('offline')").await;
    sleep(Duration::from_secs(3)).await;
    let seen = scene.browser.run("return window.seen").await;
    assert!(seen.as_array().unwrap().iter().all(|seen| seen == "created" || seen == "offline"), "{seen}");
    assert!(scene.proxy.refreshes() <= 6, "{}", scene.proxy.refreshes());
}
