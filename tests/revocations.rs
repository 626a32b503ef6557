//! The feed of revocations, for services without the store.
#![cfg(any(feature = "aws_lc_rs", feature = "signing"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, Request};
use axum_refresh::RevocationReason::Logout;
use axum_refresh::{AuthBuilder, Login, Secret, SessionId};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::{Claims, Clock, Fault, FaultyStore, Node, code};
use tokio::time::timeout;
use tower::ServiceExt as _;

const TOKEN: &str = "Zk8vQ2mX7pL4tR9wB3nY6cD1fH5jK0sA";
const NEXT_TOKEN: &str = "aB3nY6cD1fH5jK0sAZk8vQ2mX7pL4tR9w";
const FEED: &str = "/auth/revocations";

fn with_token(builder: AuthBuilder<Claims>) -> AuthBuilder<Claims> {
    builder.verifier_token(Secret::new(TOKEN))
}

fn node() -> Node {
    Node::with(with_token)
}

async fn get(node: &Node, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Body) {
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, body) = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().into_parts();
    (parts.status.as_u16(), parts.headers, body)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The status and the body of a request with the verifier's token.
async fn get_json(node: &Node, path: &str) -> (u16, Value) {
    let (status, _, body) = get(node, path, &[("authorization", &bearer(TOKEN))]).await;
    (status, serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap())
}

/// One event or comment.
#[derive(Clone, Debug, Default, PartialEq)]
struct Message {
    event: Option<String>,
    id: Option<String>,
    data: Option<Value>,
    comment: Option<i64>,
}

struct Feed {
    body: BodyDataStream,
    text: String,
    last_id: Option<String>,
}

impl Feed {
    async fn open(node: &Node) -> Self {
        Self::resume(node, None).await
    }

    async fn resume(node: &Node, id: Option<&str>) -> Self {
        let authorization = bearer(TOKEN);
        let mut headers = vec![("authorization", authorization.as_str())];
        headers.extend(id.map(|id| ("last-event-id", id)));
        let (status, _, body) = get(node, FEED, &headers).await;
        assert_eq!(status, 200);
        Self { body: body.into_data_stream(), text: String::new(), last_id: None }
    }

    /// The next message; none at the end.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let mut read = Message::default();
                for line in message.lines().filter(|line| *line != ":") {
                    match line.split_once(": ").unwrap() {
                        ("", comment) => read.comment = Some(comment.parse().unwrap()),
                        ("event", event) => read.event = Some(event.to_owned()),
                        ("id", id) => read.id = Some(id.to_owned()),
                        ("data", data) => read.data = Some(serde_json::from_str(data).unwrap()),
                        other => panic!("{other:?}"),
                    }
                }
                self.text = rest.to_owned();
                self.last_id = read.id.clone().or(self.last_id.take());
                return Some(read);
            }
            self.text.push_str(std::str::from_utf8(&self.body.next().await?.unwrap()).unwrap());
        }
    }

    /// What is announced until the next comment.
    async fn announced(&mut self) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let message = self.next().await.unwrap();
            if message.comment.is_some() {
                return all;
            }
            if let Some(data) = message.data {
                assert_eq!(message.event.as_deref(), Some("revoked"));
                assert!(message.id.is_some());
                all.push(data);
            }
        }
    }

    /// The next announcement.
    async fn announcement(&mut self) -> Value {
        loop {
            if let Some(data) = self.next().await.unwrap().data {
                return data;
            }
        }
    }

    async fn comment(&mut self) -> i64 {
        loop {
            if let Some(comment) = self.next().await.unwrap().comment {
                return comment;
            }
        }
    }
}

/// The subject of an announcement: without its times.
fn subject(announcement: &Value) -> Value {
    let mut subject = announcement.clone();
    subject.as_object_mut().unwrap().remove("until");
    subject
}

fn sid(login: &Login) -> Value {
    json!({ "sid": login.tokens.session_id })
}

#[tokio::test(start_paused = true)]
async fn there_is_no_feed_without_a_verifiers_token() {
    let node = Node::new();
    assert_eq!(get(&node, FEED, &[("authorization", &bearer(TOKEN))]).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_show_a_verifiers_token_is_refused() {
    let node = node();
    let access_token = node.login("alice").await.tokens.access_token;
    let path = format!("{FEED}/{}", SessionId::from_bytes([7; 16]));
    for path in [FEED, &path] {
        let none: &[(&str, &str)] = &[];
        let (user, wrong) = (bearer(&access_token), bearer(NEXT_TOKEN));
        for (headers, code) in [
            (none, "access_token_missing"),
            (&[("authorization", user.as_str())], "access_token_invalid"),
            (&[("authorization", wrong.as_str())], "access_token_invalid"),
            (&[("authorization", "Bearer ")], "access_token_invalid"),
            (&[("cookie", "__Host-access=x")], "access_token_missing"),
        ] {
            let (status, _, body) = get(&node, path, headers).await;
            let problem: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
            assert_eq!((status, &problem["code"]), (401, &code.into()), "{headers:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_can_be_changed_without_a_gap() {
    let node = Node::with(|builder| with_token(builder).verifier_token(Secret::new(NEXT_TOKEN)));
    for token in [TOKEN, NEXT_TOKEN] {
        assert_eq!(get(&node, FEED, &[("authorization", &bearer(token))]).await.0, 200);
    }
}

#[test]
fn a_token_that_can_be_guessed_or_is_the_apps_secret_or_cannot_be_sent_is_rejected() {
    for token in ["short", support::SECRET, "a secret with spaces, which no header can have: k4Jx0pQm1vN8sT2wZ7yB"] {
        let builder = axum_refresh::Auth::<Claims>::builder(Secret::new(support::SECRET), FaultyStore::default());
        let error = builder.verifier_token(Secret::new(token)).build().unwrap_err();
        assert_eq!(error.setting(), "verifier_token", "{token}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_feed_passes_proxies_unbuffered_and_uncached() {
    let (status, headers, _) = get(&node(), FEED, &[("authorization", &bearer(TOKEN))]).await;
    assert_eq!(status, 200);
    assert_eq!(headers["content-type"], "text/event-stream");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["x-accel-buffering"], "no");
}

#[tokio::test(start_paused = true)]
async fn what_is_in_force_comes_first_and_then_what_is_revoked() {
    let node = node();
    let (first, second) = (node.login("alice").await, node.login("alice").await);
    node.auth.revoke_session(first.tokens.session_id, Logout).await.unwrap();
    let mut feed = Feed::open(&node).await;
    let announced = feed.announced().await;
    assert_eq!(announced.iter().map(subject).collect::<Vec<_>>(), [sid(&first)]);
    // For as long as an access token from before may be accepted somewhere.
    let now = node.clock.now().as_millis() / 1000;
    assert!((now + 900..now + 2000).contains(&announced[0]["until"].as_i64().unwrap()));
    node.auth.revoke_session(second.tokens.session_id, Logout).await.unwrap();
    assert_eq!(subject(&feed.announcement().await), sid(&second));
    let third = node.login("bob").await;
    node.auth.revoke_access_token(&third.tokens.access_token).await.unwrap();
    let user = node.auth.authenticate(&third.tokens.access_token).await;
    assert_eq!(code(user), "access_token_revoked");
    let announcement = feed.announcement().await;
    assert_eq!(announcement["jti"].as_str().unwrap().len(), 24);
}

#[tokio::test(start_paused = true)]
async fn what_another_node_has_revoked_is_announced_too() {
    let node = node();
    let other = Node::on(node.store.clone(), node.clock.clone(), |builder| builder);
    let login = node.login("alice").await;
    let mut feed = Feed::open(&node).await;
    other.auth.revoke_session(login.tokens.session_id, Logout).await.unwrap();
    assert_eq!(subject(&timeout(Duration::from_secs(2), feed.announcement()).await.unwrap()), sid(&login));
}

#[tokio::test(start_paused = true)]
async fn each_revocation_of_a_user_or_of_everyone_has_another_mark() {
    let node = node();
    let mut feed = Feed::open(&node).await;
    let mut marks = std::collections::HashSet::new();
    for _ in 0..2 {
        let (kept, _) = (node.login("alice").await, node.login("alice").await);
        node.auth.revoke_user("alice", Some(kept.tokens.session_id), Logout).await.unwrap();
        let user = feed.announcement().await;
        assert_eq!((&user["sub"], user.get("everyone")), (&"alice".into(), None));
        assert!(marks.insert(user["mark"].to_string()), "{user}");
        node.auth.revoke_all(Logout).await.unwrap();
        let everyone = feed.announcement().await;
        assert_eq!((&everyone["everyone"], everyone.get("sub")), (&true.into(), None));
        assert!(marks.insert(everyone["mark"].to_string()), "{everyone}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_goes_on_from_the_last_message_that_was_received() {
    let node = node();
    let (first, second) = (node.login("alice").await, node.login("alice").await);
    let mut feed = Feed::open(&node).await;
    assert_eq!(feed.announced().await.len(), 0);
    node.auth.revoke_session(first.tokens.session_id, Logout).await.unwrap();
    feed.announcement().await;
    let last_id = feed.last_id.clone().unwrap();
    drop(feed);
    node.auth.revoke_session(second.tokens.session_id, Logout).await.unwrap();
    let mut feed = Feed::resume(&node, Some(&last_id)).await;
    let announced: Vec<_> = feed.announced().await.iter().map(subject).collect();
    assert_eq!(announced, [sid(&second)]);
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_was_cut_while_all_was_announced_announces_all_again() {
    let node = node();
    for _ in 0..3 {
        let login = node.login("alice").await;
        node.auth.revoke_session(login.tokens.session_id, Logout).await.unwrap();
    }
    let mut feed = Feed::open(&node).await;
    feed.announcement().await;
    let last_id = feed.last_id.clone().unwrap();
    let mut feed = Feed::resume(&node, Some(&last_id)).await;
    assert_eq!(feed.announced().await.len(), 3);
    let complete = feed.last_id.clone().unwrap();
    assert_eq!(Feed::resume(&node, Some(&complete)).await.announced().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_id_of_another_node_or_of_nobody_announces_all() {
    let node = node();
    let other = Node::on(node.store.clone(), node.clock.clone(), with_token);
    let login = node.login("alice").await;
    node.auth.revoke_session(login.tokens.session_id, Logout).await.unwrap();
    let mut feed = Feed::open(&other).await;
    feed.announced().await;
    let of_other = feed.last_id.clone().unwrap();
    let own = of_other.split_once('-').unwrap().0;
    let unknown =
        [of_other.as_str(), "", "-", "7", "0000000000000000-0", "x-1", "\u{7f}", &format!("{own}-99999999999")];
    for id in unknown {
        let mut feed = Feed::resume(&node, Some(id).filter(|id| !id.contains('\u{7f}'))).await;
        assert_eq!(feed.announced().await.len(), 1, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_has_missed_more_than_is_kept_gets_all_that_is_in_force() {
    let node = node();
    let mut feed = Feed::open(&node).await;
    feed.announced().await;
    let last_id = feed.last_id.clone().unwrap();
    drop(feed);
    let login = node.login("alice").await;
    node.auth.revoke_session(login.tokens.session_id, Logout).await.unwrap();
    for n in 0..10_001_u32 {
        let jti = base64::Engine::encode(
            &base64::engine::general_purpose::URL_SAFE_NO_PAD,
            [&[0; 14], n.to_be_bytes().as_slice()].concat(),
        );
        node.auth.revoke_token_id(&jti, node.clock.now().into()).await.unwrap();
    }
    let announced = Feed::resume(&node, Some(&last_id)).await.announced().await;
    assert_eq!(announced.len(), 10_002);
    assert!(announced.iter().any(|announcement| subject(announcement) == sid(&login)));
}

#[tokio::test(start_paused = true)]
async fn about_once_a_second_the_feed_says_as_of_when_it_is_complete() {
    let node = node();
    let began = tokio::time::Instant::now();
    let mut feed = Feed::open(&node).await;
    let mut before = feed.comment().await;
    assert!((-2_000..=0).contains(&before), "{before}");
    for _ in 0..5 {
        let comment = feed.comment().await;
        let elapsed = i64::try_from(began.elapsed().as_millis()).unwrap();
        assert!(comment > before && comment <= elapsed && elapsed - comment < 1_500, "{comment} {elapsed}");
        before = comment;
    }
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_read_its_store_says_nothing_of_being_complete() {
    let node = node();
    let mut feed = Feed::open(&node).await;
    feed.comment().await;
    node.store.set(Fault::Fails);
    // One read may have been on its way. The connection is alive.
    let silent = async {
        for _ in 0..3 {
            feed.comment().await;
        }
    };
    assert!(timeout(Duration::from_secs(20), silent).await.is_err());
    node.store.set(Fault::None);
    timeout(Duration::from_secs(3), feed.comment()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_revocations_are_too_old_has_no_feed() {
    let node = node();
    Feed::open(&node).await.comment().await;
    node.store.set(Fault::Fails);
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.clock.advance(Duration::from_secs(31));
    let (status, headers, _) = get(&node, FEED, &[("authorization", &bearer(TOKEN))]).await;
    assert_eq!((status, headers["retry-after"].to_str().unwrap()), (503, "2"));
}

#[tokio::test(start_paused = true)]
async fn a_feed_ends_by_itself_after_about_ten_minutes_and_when_the_server_shuts_down() {
    let node = node();
    let began = tokio::time::Instant::now();
    let mut feed = Feed::open(&node).await;
    while feed.next().await.is_some() {}
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    assert!((8.9..=10.1).contains(&minutes), "{minutes}");

    let mut feed = Feed::open(&node).await;
    feed.comment().await;
    node.auth.end_feeds();
    assert!(timeout(Duration::from_millis(10), async { while feed.next().await.is_some() {} }).await.is_ok());
    assert_eq!(get(&node, FEED, &[("authorization", &bearer(TOKEN))]).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn a_verifier_can_ask_about_a_session() {
    let node = node();
    let (live, revoked) = (node.login("alice").await, node.login("alice").await);
    node.auth.revoke_session(revoked.tokens.session_id, Logout).await.unwrap();
    let state = async |id: SessionId| get_json(&node, &format!("{FEED}/{id}")).await;
    assert_eq!(state(live.tokens.session_id).await, (200, json!({"sid": live.tokens.session_id, "revoked": false})));
    assert_eq!(
        state(revoked.tokens.session_id).await,
        (200, json!({"sid": revoked.tokens.session_id, "revoked": true}))
    );
    let unknown = SessionId::from_bytes([7; 16]);
    assert_eq!(state(unknown).await, (200, json!({"sid": unknown, "revoked": true})));
    let (status, problem) = get_json(&node, &format!("{FEED}/nonsense")).await;
    assert_eq!((status, &problem["code"]), (404, &"session_not_found".into()));
    node.store.set(Fault::Fails);
    assert_eq!(state(live.tokens.session_id).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn a_realm_announces_its_own_revocations_alone() {
    let clock = Clock::new();
    let store = FaultyStore::default();
    let of_realm = |realm: &'static str| {
        Node::on(store.clone(), clock.clone(), move |builder| {
            with_token(builder).configure(|settings| settings.realm = Some(realm.to_owned()))
        })
    };
    let (shop, staff) = (of_realm("shop"), of_realm("staff"));
    let (of_shop, of_staff) = (shop.login("alice").await, staff.login("alice").await);
    shop.auth.revoke_user("alice", None, Logout).await.unwrap();
    staff.auth.revoke_session(of_staff.tokens.session_id, Logout).await.unwrap();
    let mut feed = Feed::open(&shop).await;
    feed.announced().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let announced = Feed::open(&shop).await.announced().await;
    let text = json!(announced).to_string();
    assert!(text.contains(&of_shop.tokens.session_id.to_string()) || text.contains("\"sub\":\"alice\""), "{text}");
    let state = get_json(&shop, &format!("{FEED}/{}", of_staff.tokens.session_id)).await;
    assert_eq!(state.1["revoked"], true, "of another realm");
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_is_kept_for_longer_is_announced_again() {
    let node = node();
    let login = node.login("alice").await;
    node.auth.revoke_session(login.tokens.session_id, Logout).await.unwrap();
    let mut feed = Feed::open(&node).await;
    let first = feed.announced().await;
    node.clock.advance(Duration::from_secs(120));
    node.auth.revoke_session(login.tokens.session_id, Logout).await.ok();
    let again = timeout(Duration::from_secs(5), feed.announcement()).await.unwrap();
    assert_eq!(subject(&again), sid(&login));
    let until = |announcement: &Value| announcement["until"].as_i64().unwrap();
    assert!(until(&again) >= until(&first[0]) + 119);
}
