//! The feed of revocations, for services without the store.

use std::time::{Duration, Instant};

use axum_refresh_e2e::demo::{Demo, claims, run_to_end};
use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

const PATH: &str = "/auth/revocations";
const TOKEN: &str = "Zk8vQ2mX7pL4tR9wB3nY6cD1fH5jK0sA";

async fn demo() -> Demo {
    Demo::start(&[("VERIFIER_TOKEN", TOKEN)]).await
}

/// The feed as it arrives.
struct Feed {
    response: Response,
    text: String,
}

impl Feed {
    async fn open(demo: &Demo, last_event_id: Option<&str>) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(format!("{}{PATH}", demo.origin())).bearer_auth(TOKEN);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { response, text: String::new() }
    }

    /// The lines of the next event or comment.
    async fn next(&mut self) -> Vec<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let lines = event.lines().map(str::to_owned).collect();
                self.text = rest.to_owned();
                return lines;
            }
            let piece = timeout(Duration::from_secs(16), self.response.chunk()).await.expect("the feed is silent");
            self.text.push_str(std::str::from_utf8(&piece.unwrap().expect("the feed goes on")).unwrap());
        }
    }

    /// The id and the data of the next revocation.
    async fn revoked(&mut self) -> (String, Value) {
        loop {
            let lines = self.next().await;
            let field = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let Some(data) = field("data: ") {
                assert_eq!(field("event: ").as_deref(), Some("revoked"));
                return (field("id: ").unwrap(), serde_json::from_str(&data).unwrap());
            }
        }
    }

    async fn comment(&mut self) {
        while !self.next().await.iter().any(|line| line.starts_with(':')) {}
    }
}

#[tokio::test]
async fn without_a_verifiers_token_there_is_no_feed() {
    Demo::new().await.get(PATH).bearer(TOKEN).send().await.is(404);
}

#[tokio::test]
async fn nobody_else_may_read_the_feed() {
    let demo = demo().await;
    let user = demo.logged_in("alice").await.access.clone();
    for path in [PATH, &format!("{PATH}/AAAAAAAAAAAAAAAAAAAAAA")] {
        demo.get(path).send().await.refused(401, "access_token_missing");
        for token in [&user, "Wk8vQ2mX7pL4tR9wB3nY6cD1fH5jK0sA"] {
            demo.get(path).bearer(token).send().await.refused(401, "access_token_invalid");
        }
    }
}

#[tokio::test]
async fn a_token_that_can_be_guessed_prevents_the_start() {
    let run = run_to_end(&[("VERIFIER_TOKEN", "secret")]).await;
    let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!((run.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
    assert!(stderr.starts_with("VERIFIER_TOKEN: "), "{stderr}");
}

#[tokio::test]
async fn a_logout_is_announced_within_a_second_and_goes_on_from_there() {
    let demo = demo().await;
    let mut first = demo.logged_in("alice").await;
    let mut second = demo.logged_in("alice").await;
    let sid = |access: &str| claims(access)["sid"].clone();
    let (first_sid, second_sid) = (sid(&first.access), sid(&second.access));
    let mut feed = Feed::open(&demo, None).await;
    feed.comment().await;
    first.logout().await.is(204);
    let began = Instant::now();
    let (id, data) = feed.revoked().await;
    // A second, and one more for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(data["sid"], first_sid);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(data["until"].as_u64().unwrap() > now + 800);
    drop(feed);
    second.logout().await.is(204);
    let (_, data) = Feed::open(&demo, Some(&id)).await.revoked().await;
    assert_eq!(data["sid"], second_sid);
    // Without an id, all is announced again.
    let mut feed = Feed::open(&demo, None).await;
    let mut all = [feed.revoked().await.1["sid"].to_string(), feed.revoked().await.1["sid"].to_string()];
    let mut expected = [first_sid.to_string(), second_sid.to_string()];
    all.sort();
    expected.sort();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn comments_come_for_as_long_as_nothing_happens() {
    let demo = demo().await;
    let mut feed = Feed::open(&demo, None).await;
    for _ in 0..3 {
        feed.comment().await;
    }
}

#[tokio::test]
async fn a_verifier_can_ask_which_session_goes_on() {
    let demo = demo().await;
    let kept = demo.logged_in("alice").await.access.clone();
    let ended = demo.logged_in("alice").await.access.clone();
    let sid = |access: &str| claims(access)["sid"].as_str().unwrap().to_owned();
    demo.post("/auth/logout/others").bearer(&kept).send().await.is(200);
    for (access, revoked) in [(&kept, false), (&ended, true)] {
        let answer = demo.get(&format!("{PATH}/{}", sid(access))).bearer(TOKEN).send().await;
        assert_eq!(answer.is(200).json(), serde_json::json!({ "sid": sid(access), "revoked": revoked }));
    }
    demo.get(&format!("{PATH}/nonsense")).bearer(TOKEN).send().await.refused(404, "session_not_found");
}

#[tokio::test]
async fn a_demo_that_is_followed_stops_at_once() {
    let demo = demo().await;
    let mut feed = Feed::open(&demo, None).await;
    feed.comment().await;
    let began = Instant::now();
    assert_eq!(demo.terminate().await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
