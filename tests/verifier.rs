//! Verifying access tokens in another service, over real connections to the issuer.
#![cfg(feature = "verifier")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_refresh::RevocationReason::Logout;
use axum_refresh::step_up::Recent;
use axum_refresh::verifier::{Verifier, VerifierBuilder};
use axum_refresh::{AuthBuilder, AuthUser, Error, Event, Login, Secret};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::{Claims, Clock, Fault, FaultyStore, Node, code, seeded};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

const TOKEN: &str = "Zk8vQ2mX7pL4tR9wB3nY6cD1fH5jK0sA";
const JWKS: &str = "/.well-known/jwks.json";
const FEED: &str = "/auth/revocations";

/// What happens to requests on the way to the issuer.
#[derive(Clone, Default)]
struct Way {
    jwks: Arc<Mutex<Answer>>,
    feed: Arc<Mutex<Answer>>,
    jwks_requests: Arc<AtomicUsize>,
    feed_requests: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    /// The answers about single sessions.
    ask: Arc<Mutex<Answer>>,
    ask_delay: Arc<AtomicU64>,
    /// Ends the responses of the feed.
    cut: Arc<Notify>,
}

impl Way {
    /// Ends the responses of the feed, and answers with this from now on.
    fn cut(&self, answer: Answer) {
        *self.feed.lock().unwrap() = answer;
        self.cut.notify_waiters();
    }
}

#[derive(Clone, Default)]
enum Answer {
    /// The issuer's.
    #[default]
    Own,
    /// Another one.
    Other(StatusCode, HeaderMap, Bytes),
    /// None.
    Never,
    /// The issuer's, without its comments, and with another one in their place.
    Comments(&'static str),
    /// One that grows and never ends.
    Endless,
}

impl Answer {
    fn of(status: u16, kind: &str, body: impl Into<Bytes>) -> Self {
        let headers = [(header::CONTENT_TYPE, kind.parse().unwrap())].into_iter().collect();
        Self::Other(StatusCode::from_u16(status).unwrap(), headers, body.into())
    }

    fn json(body: &Value) -> Self {
        Self::of(200, "application/json", body.to_string())
    }
}

async fn pass(State(way): State<Way>, request: Request, next: Next) -> Response {
    let (answer, count) = match request.uri().path() {
        JWKS => (way.jwks.lock().unwrap().clone(), &way.jwks_requests),
        FEED => (way.feed.lock().unwrap().clone(), &way.feed_requests),
        path if path.starts_with(FEED) => {
            sleep(Duration::from_millis(way.ask_delay.load(Ordering::SeqCst))).await;
            (way.ask.lock().unwrap().clone(), &way.asked)
        }
        _ => return next.run(request).await,
    };
    count.fetch_add(1, Ordering::SeqCst);
    match answer {
        Answer::Own => {
            let cut = Arc::clone(&way.cut).notified_owned();
            let response = next.run(request).await;
            response.map(|body| Body::from_stream(body.into_data_stream().take_until(cut)))
        }
        Answer::Other(status, headers, body) => (status, headers, body).into_response(),
        Answer::Never => std::future::pending().await,
        Answer::Comments(text) => {
            let response = next.run(request).await;
            response.map(|body| {
                Body::from_stream(body.into_data_stream().map(move |piece| {
                    let piece = piece?;
                    let is_comment = piece.starts_with(b":");
                    Ok::<_, axum::Error>(if is_comment { Bytes::from_static(text.as_bytes()) } else { piece })
                }))
            })
        }
        Answer::Endless => Body::from_stream(futures_util::stream::repeat_with(|| {
            Ok::<_, axum::Error>(Bytes::from_static(&[b' '; 1024]))
        }))
        .into_response(),
    }
}

/// An issuer that listens on a port, and what happens on the way to it.
struct Issuer {
    node: Node,
    way: Way,
    url: String,
    server: JoinHandle<()>,
}

impl Issuer {
    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    async fn with(change: impl FnOnce(AuthBuilder<Claims>) -> AuthBuilder<Claims>) -> Self {
        let node = Node::with(|builder| change(builder.signing_key(seeded(1)).verifier_token(Secret::new(TOKEN))));
        Self::of(node, "127.0.0.1:0").await
    }

    async fn of(node: Node, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let way = Way::default();
        let app = Router::new().nest("/auth", node.auth.router()).merge(node.auth.jwks_router().unwrap());
        let app = app.layer(from_fn_with_state(way.clone(), pass));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { node, way, url, server }
    }

    async fn login(&self, user: &str) -> Login {
        self.node.login(user).await
    }

    fn builder(&self) -> VerifierBuilder<Claims> {
        let clock = self.node.clock.reader();
        Verifier::from_url(format!("{}{JWKS}", self.url))
            .revocations(format!("{}{FEED}", self.url), Secret::new(TOKEN))
            .configure(|settings| settings.store_timeout = Duration::from_millis(500))
            .clock(clock)
    }

    fn service(&self) -> Service {
        Service::new(self.builder())
    }

    /// A service that knows the keys and the revocations.
    async fn ready(&self) -> Service {
        let service = self.service();
        service.verifier.ready().await.unwrap();
        service
    }
}

/// The other service.
struct Service {
    verifier: Verifier<Claims>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Service {
    fn new(builder: VerifierBuilder<Claims>) -> Self {
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let log = Arc::clone(&events);
        let verifier = builder.on_event(move |event| log.lock().unwrap().push(event.clone())).build().unwrap();
        Self { verifier, events }
    }

    async fn user(&self, login: &Login) -> Result<AuthUser<Claims>, Error> {
        self.verifier.authenticate(&login.tokens.access_token).await
    }

    async fn accepts(&self, login: &Login) -> bool {
        self.user(login).await.is_ok()
    }

    async fn code(&self, login: &Login) -> &'static str {
        code(self.user(login).await)
    }

    /// Waits until the login is refused, and returns how long that took.
    async fn refused(&self, login: &Login) -> Duration {
        let began = Instant::now();
        while self.accepts(login).await {
            assert!(began.elapsed() < Duration::from_secs(5), "still accepted");
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(self.code(login).await, "access_token_revoked");
        began.elapsed()
    }

    /// Waits for a failure of a call whose error has this text.
    async fn failure(&self, call: &str, text: &str) {
        let has_failed = || {
            let is_it = |event: &Event| matches!(event, Event::IssuerFailed { request, error } if *request == call && error.contains(text));
            self.events.lock().unwrap().iter().any(is_it)
        };
        let wait = async {
            while !has_failed() {
                sleep(Duration::from_millis(10)).await
            }
        };
        assert!(timeout(Duration::from_secs(8), wait).await.is_ok(), "{text}: {:?}", self.events.lock().unwrap());
    }
}

async fn eventually(is_it: impl AsyncFn() -> bool) {
    let wait = async {
        while !is_it().await {
            sleep(Duration::from_millis(10)).await
        }
    };
    assert!(timeout(Duration::from_secs(8), wait).await.is_ok());
}

// ---- requests -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_token_of_the_issuer_is_accepted_and_its_user_known() {
    let issuer = Issuer::new().await;
    let service = issuer.service();
    let login = issuer.login("alice").await;
    // The first request waits for the keys and the revocations.
    let user = service.user(&login).await.unwrap();
    assert_eq!((&*user.id, user.session_id, &*user.claims.role), ("alice", login.tokens.session_id, "user"));
    assert_eq!(user.auth_time(), issuer.node.auth.authenticate(&login.tokens.access_token).await.unwrap().auth_time());
}

#[tokio::test]
async fn the_layers_and_extractors_refuse_with_the_codes_of_the_issuer() {
    let issuer = Issuer::new().await;
    let builder = issuer.builder().configure(|settings| settings.store_timeout = Duration::from_secs(3));
    let service = Service::new(builder);
    let login = issuer.login("alice").await;
    let verifier = &service.verifier;
    let me = async |user: AuthUser<Claims>| user.id.to_string();
    let someone = async |user: Option<AuthUser<Claims>>| format!("{:?}", user.map(|user| user.id));
    let recent = verifier.require(Recent(Duration::from_secs(60))).unwrap();
    let app = Router::new()
        .route("/me", get(me).layer(verifier.layer()))
        .route("/someone", get(someone).layer(verifier.layer().optional()))
        .route("/recent", get(me).layer(recent))
        .route("/bare", get(me));
    let call = async |path: &str, token: Option<&str>| {
        let mut request = Request::builder().uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let code = serde_json::from_str::<Value>(&body).ok().and_then(|body| Some(body["code"].as_str()?.to_owned()));
        (parts.status.as_u16(), code.unwrap_or(body))
    };
    let token = login.tokens.access_token.as_str();
    assert_eq!(call("/me", Some(token)).await, (200, "alice".to_owned()));
    assert_eq!(call("/me", None).await, (401, "access_token_missing".to_owned()));
    assert_eq!(call("/me", Some("x")).await, (401, "access_token_invalid".to_owned()));
    assert_eq!(call("/someone", None).await, (200, "None".to_owned()));
    assert_eq!(call("/someone", Some(token)).await.1, r#"Some("alice")"#);
    assert_eq!(call("/recent", Some(token)).await, (200, "alice".to_owned()));
    assert_eq!(call("/bare", Some(token)).await.0, 500);
    issuer.node.clock.advance(Duration::from_secs(120));
    assert_eq!(call("/recent", Some(token)).await, (401, "insufficient_user_authentication".to_owned()));
    issuer.node.clock.advance(Duration::from_secs(900));
    assert_eq!(call("/me", Some(token)).await, (401, "access_token_expired".to_owned()));
}

#[tokio::test]
async fn a_token_for_another_audience_or_of_another_issuer_with_the_same_key_is_refused() {
    let issuer = Issuer::new().await;
    let login = issuer.login("alice").await;
    for setting in ["issuer", "audience"] {
        let service = Service::new(issuer.builder().configure(|settings| match setting {
            "issuer" => settings.issuer = "other".to_owned(),
            _ => settings.audience = "other".to_owned(),
        }));
        assert_eq!(service.code(&login).await, "access_token_invalid", "{setting}");
    }
}

#[tokio::test]
async fn two_issuers_do_not_know_each_others_tokens() {
    let one = Issuer::new().await;
    let two = Issuer::of(
        Node::with(|builder| builder.signing_key(seeded(2)).verifier_token(Secret::new(TOKEN))),
        "127.0.0.1:0",
    )
    .await;
    let (of_one, of_two) = (one.ready().await, two.ready().await);
    let (at_one, at_two) = (one.login("alice").await, two.login("alice").await);
    assert!(of_one.accepts(&at_one).await && of_two.accepts(&at_two).await);
    assert_eq!(of_one.code(&at_two).await, "access_token_invalid");
    assert_eq!(of_two.code(&at_one).await, "access_token_invalid");
}

#[tokio::test]
async fn a_token_signed_with_the_secret_of_the_issuer_is_refused() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let symmetric = Node::on(FaultyStore::default(), issuer.node.clock.clone(), |builder| builder);
    assert_eq!(service.code(&symmetric.login("alice").await).await, "access_token_invalid");
    assert_eq!(issuer.way.jwks_requests.load(Ordering::SeqCst), 1, "it names no key of a set");
}

// ---- revocations ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_revoked_session_is_refused_within_a_second() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let other_node =
        Node::on(issuer.node.store.clone(), issuer.node.clock.clone(), |builder| builder.signing_key(seeded(1)));
    for n in 0..5 {
        let (login, kept) = (issuer.login("alice").await, issuer.login("alice").await);
        assert!(service.accepts(&login).await);
        // By the node that the service follows, or by another one.
        let auth = if n % 2 == 0 { &issuer.node.auth } else { &other_node.auth };
        auth.revoke_session(login.tokens.session_id, Logout).await.unwrap();
        let took = service.refused(&login).await;
        assert!(took < Duration::from_millis(1500), "{took:?}");
        assert!(service.accepts(&kept).await);
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused_and_its_session_goes_on() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let login = issuer.login("alice").await;
    let refreshed = issuer.node.refresh(login.tokens.refresh_token.as_deref().unwrap()).await.unwrap();
    issuer.node.auth.revoke_access_token(&login.tokens.access_token).await.unwrap();
    service.refused(&login).await;
    assert!(service.verifier.authenticate(&refreshed.tokens.access_token).await.is_ok());
}

#[tokio::test]
async fn what_was_revoked_before_the_service_has_started_is_refused() {
    let issuer = Issuer::new().await;
    let (login, by_token) = (issuer.login("alice").await, issuer.login("alice").await);
    issuer.node.auth.revoke_session(login.tokens.session_id, Logout).await.unwrap();
    issuer.node.auth.revoke_access_token(&by_token.tokens.access_token).await.unwrap();
    let service = issuer.service();
    assert_eq!(service.code(&login).await, "access_token_revoked");
    assert_eq!(service.code(&by_token).await, "access_token_revoked");
}

#[tokio::test]
async fn the_sessions_that_a_revocation_of_a_user_or_of_everyone_has_spared_go_on() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let auth = &issuer.node.auth;
    for round in 0..3 {
        let (kept, ended, bobs) = (issuer.login("alice").await, issuer.login("alice").await, issuer.login("bob").await);
        for login in [&kept, &ended, &bobs] {
            assert!(service.accepts(login).await, "{round}");
        }
        auth.revoke_user("alice", Some(kept.tokens.session_id), Logout).await.unwrap();
        service.refused(&ended).await;
        assert!(service.accepts(&kept).await && service.accepts(&bobs).await, "{round}");
        auth.revoke_all(Logout).await.unwrap();
        service.refused(&kept).await;
        service.refused(&bobs).await;
        let after = issuer.login("alice").await;
        assert!(service.accepts(&after).await, "{round}");
    }
}

#[tokio::test]
async fn a_spared_session_is_asked_about_once() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let login = issuer.login("alice").await;
    issuer.node.auth.revoke_all(Logout).await.unwrap();
    service.refused(&login).await;
    let after = issuer.login("alice").await;
    issuer.way.asked.store(0, Ordering::SeqCst);
    for _ in 0..20 {
        assert!(service.accepts(&after).await);
    }
    assert_eq!(issuer.way.asked.load(Ordering::SeqCst), 1);
}

async fn is_over(stream: impl Future<Output = ()>) -> bool {
    timeout(Duration::from_millis(1_500), stream).await.is_ok()
}

#[tokio::test]
async fn an_open_stream_ends_within_a_second_of_whatever_revokes_its_session_and_no_other_does() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let auth = &issuer.node.auth;
    for round in 0..4 {
        let (login, other) = (issuer.login("alice").await, issuer.login("alice").await);
        let (user, other) = (service.user(&login).await.unwrap(), service.user(&other).await.unwrap());
        // One that is polled before, and one that is not.
        let (mut polled, unpolled) = (service.verifier.revoked(&user), service.verifier.revoked(&user));
        assert!(timeout(Duration::from_millis(20), &mut polled).await.is_err());
        let mut others = service.verifier.revoked(&other);
        match round {
            0 => auth.revoke_session(user.session_id, Logout).await.unwrap(),
            1 => auth.revoke_access_token(&login.tokens.access_token).await.unwrap(),
            2 => drop(auth.revoke_user("alice", Some(other.session_id), Logout).await.unwrap()),
            _ => drop(auth.revoke_all(Logout).await.unwrap()),
        }
        assert!(is_over(polled).await && is_over(unpolled).await, "{round}");
        assert_eq!(is_over(&mut others).await, round == 3, "{round}");
        assert!(is_over(service.verifier.revoked(&user)).await, "{round}: it has ended before");
    }
}

#[tokio::test]
async fn an_open_stream_ends_with_the_session_of_whoever_acts() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let auth = &issuer.node.auth;
    let support = service.user(&issuer.login("support").await).await.unwrap();
    let acting = auth.login("alice", support::claims("user")).acting(&support).await.unwrap();
    let mut revoked = service.verifier.revoked(&service.user(&acting).await.unwrap());
    assert!(timeout(Duration::from_millis(20), &mut revoked).await.is_err());
    auth.revoke_session(support.session_id, Logout).await.unwrap();
    assert!(is_over(revoked).await);
}

#[tokio::test]
async fn an_open_stream_ends_after_an_outage_in_which_its_session_was_revoked() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let login = issuer.login("alice").await;
    let mut revoked = service.verifier.revoked(&service.user(&login).await.unwrap());
    issuer.way.cut(Answer::of(500, "text/plain", ""));
    service.failure("follow_revocations", "500").await;
    issuer.node.auth.revoke_session(login.tokens.session_id, Logout).await.unwrap();
    assert!(timeout(Duration::from_millis(500), &mut revoked).await.is_err());
    *issuer.way.feed.lock().unwrap() = Answer::Own;
    assert!(timeout(Duration::from_secs(5), revoked).await.is_ok());
}

#[tokio::test]
async fn after_a_suspension_the_issuer_is_asked_about_open_streams() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let user = service.user(&issuer.login("alice").await).await.unwrap();
    let mut revoked = service.verifier.revoked(&user);
    issuer.way.cut(Answer::of(500, "text/plain", ""));
    service.failure("follow_revocations", "500").await;
    issuer.node.clock.advance(Duration::from_secs(3600));
    *issuer.way.feed.lock().unwrap() = Answer::Own;
    assert!(timeout(Duration::from_secs(3), &mut revoked).await.is_err());
    assert_eq!(issuer.way.asked.load(Ordering::SeqCst), 1);
}

/// What is left of a stream whose client has stopped to read: nobody polls it.
async fn stop_reading(stream: &mut (impl Future<Output = ()> + Unpin)) {
    assert!(timeout(Duration::ZERO, stream).await.is_err());
}

#[tokio::test]
async fn streams_whose_clients_do_not_read_do_not_keep_others_from_asking() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let auth = &issuer.node.auth;
    let (mallory, other) = (issuer.login("mallory").await, issuer.login("mallory").await);
    let mallory = service.user(&mallory).await.unwrap();
    let alice = service.user(&issuer.login("alice").await).await.unwrap();
    let mut slow: Vec<_> = (0..40).map(|_| service.verifier.revoked(&mallory)).collect();
    let mut revoked = service.verifier.revoked(&alice);
    issuer.way.ask_delay.store(300, Ordering::SeqCst);
    auth.revoke_user("mallory", Some(mallory.session_id), Logout).await.unwrap();
    service.refused(&other).await;
    for slow in &mut slow {
        stop_reading(slow).await;
    }
    // While they ask.
    sleep(Duration::from_millis(100)).await;
    for slow in &mut slow {
        stop_reading(slow).await;
    }
    issuer.way.ask_delay.store(0, Ordering::SeqCst);
    auth.revoke_user("alice", None, Logout).await.unwrap();
    assert!(timeout(Duration::from_secs(5), &mut revoked).await.is_ok());
    drop(slow);
}

#[tokio::test]
async fn streams_that_end_while_they_ask_leave_no_turn_behind() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    issuer.way.ask_delay.store(300, Ordering::SeqCst);
    for millis in [0, 20, 100] {
        let mut users = Vec::new();
        for _ in 0..40 {
            users.push(service.user(&issuer.login("alice").await).await.unwrap());
        }
        let mut streams: Vec<_> = users.iter().map(|user| service.verifier.revoked(user)).collect();
        let kept = service.verifier.revoked(&users[0]);
        issuer.node.auth.revoke_user("alice", None, Logout).await.unwrap();
        sleep(Duration::from_millis(1_100)).await;
        for stream in &mut streams {
            stop_reading(stream).await;
        }
        sleep(Duration::from_millis(millis)).await;
        drop(streams);
        assert!(timeout(Duration::from_secs(5), kept).await.is_ok(), "{millis}");
    }
}

#[tokio::test]
async fn questions_that_nobody_answers_are_reported_once_a_second_and_asked_again() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    *issuer.way.ask.lock().unwrap() = Answer::of(500, "text/plain", "");
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let user = service.user(&issuer.login("alice").await).await.unwrap();
        streams.spawn(service.verifier.revoked(&user));
    }
    let spared = issuer.login("alice").await;
    issuer.node.auth.revoke_user("alice", Some(spared.tokens.session_id), Logout).await.unwrap();
    service.failure("ask_about_session", "500").await;
    sleep(Duration::from_millis(2_500)).await;
    let reports = service.events.lock().unwrap().len();
    assert!((2..=4).contains(&reports), "{reports}");
    assert!(issuer.way.asked.load(Ordering::SeqCst) >= 16);
    *issuer.way.ask.lock().unwrap() = Answer::Own;
    assert!(timeout(Duration::from_secs(10), streams.join_all()).await.is_ok());
}

#[test]
fn a_gap_is_noticed_although_the_background_task_was_started_again() {
    let (one, two) = (tokio::runtime::Runtime::new().unwrap(), tokio::runtime::Runtime::new().unwrap());
    let issuer = one.block_on(Issuer::new());
    let service = {
        let _guard = two.enter();
        issuer.service()
    };
    two.block_on(async { service.verifier.ready().await.unwrap() });
    let user = one.block_on(async { service.user(&issuer.login("alice").await).await.unwrap() });
    let _stream = one.spawn(service.verifier.revoked(&user));
    two.shutdown_timeout(Duration::from_secs(1));
    one.block_on(async {
        // An hour without a request.
        issuer.node.clock.advance(Duration::from_secs(3600));
        // At once, or after another try: the connections have ended with their runtime.
        let bob = issuer.login("bob").await;
        eventually(async || service.accepts(&bob).await).await;
        eventually(async || issuer.way.asked.load(Ordering::SeqCst) == 1).await;
    });
}

#[tokio::test]
async fn without_a_word_of_the_revocations_requests_are_refused_as_unavailable() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let login = issuer.login("alice").await;
    *issuer.way.feed.lock().unwrap() = Answer::Never;
    issuer.node.auth.end_feeds();
    sleep(Duration::from_millis(200)).await;
    issuer.node.clock.advance(Duration::from_secs(29));
    assert!(service.accepts(&login).await);
    issuer.node.clock.advance(Duration::from_secs(2));
    assert_eq!(service.code(&login).await, "store_unavailable");
    service.failure("follow_revocations", "did not answer in time").await;
    // It fails at once from then on.
    let began = Instant::now();
    assert_eq!(service.code(&login).await, "store_unavailable");
    assert!(began.elapsed() < Duration::from_millis(400));
}

#[tokio::test]
async fn an_issuer_that_cannot_read_its_store_does_not_count_as_heard() {
    let issuer = Issuer::new().await;
    let service = Service::new(issuer.builder().configure(|settings| settings.max_staleness = Duration::from_secs(5)));
    let login = issuer.login("alice").await;
    assert!(service.accepts(&login).await);
    issuer.node.store.set(Fault::Fails);
    service.failure("follow_revocations", "cannot read its store").await;
    issuer.node.clock.advance(Duration::from_secs(31));
    assert_eq!(service.code(&login).await, "store_unavailable");
    issuer.node.store.set(Fault::None);
    eventually(async || service.accepts(&login).await).await;
}

#[tokio::test]
async fn words_that_arrive_late_are_not_taken_for_news() {
    let issuer = Issuer::new().await;
    // All is complete as of the moment of the request, and no later, however often that is said.
    *issuer.way.feed.lock().unwrap() = Answer::Comments(": 0\n\n");
    let builder = issuer.builder().configure(|settings| settings.max_staleness = Duration::from_secs(5));
    let service = Service::new(builder.clock(SystemTime::now));
    let node =
        Node::on(FaultyStore::default(), Clock::new(), |builder| builder.signing_key(seeded(1)).clock(SystemTime::now));
    let login = node.login("alice").await;
    assert!(service.accepts(&login).await);
    *issuer.way.feed.lock().unwrap() = Answer::Never;
    sleep(Duration::from_secs(4)).await;
    assert!(service.accepts(&login).await);
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(service.code(&login).await, "store_unavailable");
}

#[tokio::test]
async fn an_announcement_that_cannot_be_read_makes_the_feed_fail() {
    let issuer = Issuer::new().await;
    let bad = "event: revoked\nid: 1-1\ndata: {\"device\":\"x\",\"until\":1}\n\n: 0\n\n";
    *issuer.way.feed.lock().unwrap() = Answer::of(200, "text/event-stream", bad);
    let service = issuer.service();
    let login = issuer.login("alice").await;
    assert_eq!(service.code(&login).await, "store_unavailable");
    service.failure("follow_revocations", "newer version").await;
    *issuer.way.feed.lock().unwrap() = Answer::Own;
    eventually(async || service.accepts(&login).await).await;
}

#[tokio::test]
async fn a_feed_that_repeats_and_ends_again_and_again_loses_nothing() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let mut revoked = Vec::new();
    for _ in 0..10 {
        let login = issuer.login("alice").await;
        // The same again, and the end.
        let again = "event: revoked\ndata: {\"sid\":\"AAAAAAAAAAAAAAAAAAAAAA\",\"until\":1}\n\n".repeat(3);
        *issuer.way.feed.lock().unwrap() = Answer::of(200, "text/event-stream", again);
        issuer.node.auth.revoke_session(login.tokens.session_id, Logout).await.unwrap();
        *issuer.way.feed.lock().unwrap() = Answer::Own;
        revoked.push(login);
    }
    for login in &revoked {
        service.refused(login).await;
    }
    assert!(service.accepts(&issuer.login("alice").await).await);
}

#[tokio::test]
async fn what_is_wrong_with_the_feed_is_reported_with_what_to_do() {
    for (answer, text) in [
        (Answer::of(401, "application/problem+json", "{}"), "the same verifier's token"),
        (Answer::of(404, "text/plain", ""), "AuthBuilder::verifier_token"),
        (Answer::of(200, "text/html", "<html>"), "no feed of revocations"),
        (Answer::of(307, "text/plain", ""), "redirects are not followed"),
        (Answer::of(500, "text/plain", ""), "500"),
        (Answer::of(200, "text/event-stream", vec![b'x'; 10_000]), "8192 bytes"),
    ] {
        let issuer = Issuer::new().await;
        *issuer.way.feed.lock().unwrap() = answer;
        let service = issuer.service();
        let login = issuer.login("alice").await;
        assert_eq!(service.code(&login).await, "store_unavailable", "{text}");
        service.failure("follow_revocations", text).await;
    }
}

#[tokio::test]
async fn a_verifiers_token_that_the_issuer_does_not_know_follows_nothing() {
    let issuer = Issuer::new().await;
    let wrong = Secret::new("Wk8vQ2mX7pL4tR9wB3nY6cD1fH5jK0sA");
    let service = Service::new(issuer.builder().revocations(format!("{}{FEED}", issuer.url), wrong));
    assert_eq!(service.code(&issuer.login("alice").await).await, "store_unavailable");
    service.failure("follow_revocations", "401").await;
}

#[tokio::test]
async fn without_revocations_a_revoked_session_is_accepted_until_its_token_expires() {
    let issuer = Issuer::new().await;
    let service = Service::new(issuer.builder().without_revocations());
    let login = issuer.login("alice").await;
    issuer.node.auth.revoke_session(login.tokens.session_id, Logout).await.unwrap();
    issuer.node.clock.advance(Duration::from_secs(840));
    assert!(service.accepts(&login).await);
    assert_eq!(issuer.way.feed_requests.load(Ordering::SeqCst), 0);
    issuer.node.clock.advance(Duration::from_secs(60));
    assert_eq!(service.code(&login).await, "access_token_expired");
}

#[tokio::test]
async fn a_revocation_is_known_for_as_long_as_a_token_from_before_may_be_accepted() {
    let issuer = Issuer::new().await;
    let service = Service::new(issuer.builder().configure(|settings| {
        settings.leeway = Duration::from_secs(100);
        settings.store_timeout = Duration::from_secs(3);
    }));
    let login = issuer.login("alice").await;
    issuer.node.auth.revoke_session(login.tokens.session_id, Logout).await.unwrap();
    service.verifier.ready().await.unwrap();
    // Its issuer forgets it a little earlier.
    for seconds in [800, 95, 10, 90, 10] {
        issuer.node.clock.advance(Duration::from_secs(seconds));
        let code = service.code(&login).await;
        assert!(["access_token_revoked", "access_token_expired"].contains(&code), "{code}");
    }
}

// ---- keys -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_tokens_of_the_next_key_and_of_the_one_before_are_accepted() {
    let issuer = Issuer::new().await;
    let before = issuer.login("alice").await;
    issuer.node.auth.rotate_to(seeded(2), issuer.node.clock.now().into()).await.unwrap();
    let service = issuer.ready().await;
    issuer.node.clock.advance(Duration::from_secs(301));
    let after = issuer.login("alice").await;
    eventually(async || service.accepts(&after).await && service.accepts(&before).await).await;
    assert_eq!(issuer.way.jwks_requests.load(Ordering::SeqCst), 1);
}

/// A token with the header of an unknown key.
fn token_of(kid: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "EdDSA", "kid": kid, "typ": "at+jwt"}).to_string());
    format!("{header}.{}.{}", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode([7; 64]))
}

#[tokio::test]
async fn tokens_with_unknown_keys_cause_no_more_than_one_request_in_a_minute() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    for n in 0..200 {
        assert_eq!(code(service.verifier.authenticate(&token_of(&n.to_string())).await), "access_token_invalid");
    }
    assert_eq!(issuer.way.jwks_requests.load(Ordering::SeqCst), 1, "that of a moment ago is recent enough");
}

#[tokio::test]
async fn many_requests_at_once_wait_for_one_fetch() {
    let issuer = Issuer::new().await;
    let login = issuer.login("alice").await;
    let service = Arc::new(issuer.service());
    let token: Arc<str> = login.tokens.access_token.as_str().into();
    let requests: Vec<_> = (0..50)
        .map(|_| {
            let (service, token) = (Arc::clone(&service), Arc::clone(&token));
            tokio::spawn(async move { service.verifier.authenticate(&token).await.is_ok() })
        })
        .collect();
    for request in requests {
        assert!(request.await.unwrap());
    }
    assert!(issuer.way.jwks_requests.load(Ordering::SeqCst) <= 2);
}

#[tokio::test]
async fn an_issuer_that_is_down_when_the_service_starts_makes_it_unavailable_until_it_is_up() {
    let issuer = Issuer::new().await;
    let login = issuer.login("alice").await;
    for answer in [Answer::of(503, "text/plain", ""), Answer::Never] {
        *issuer.way.jwks.lock().unwrap() = answer;
        let service = issuer.service();
        assert_eq!(service.code(&login).await, "store_unavailable");
        assert!(service.verifier.ready().await.is_err());
        *issuer.way.jwks.lock().unwrap() = Answer::Own;
        eventually(async || service.accepts(&login).await).await;
    }
}

#[tokio::test]
async fn a_service_that_cannot_reach_the_issuer_says_where_and_why() {
    let issuer = Issuer::new().await;
    let login = issuer.login("alice").await;
    let service = issuer.service();
    issuer.server.abort();
    let builder = Verifier::<Claims>::from_url("http://127.0.0.1:1/.well-known/jwks.json");
    let service = Service {
        events: service.events,
        ..Service::new(builder.without_revocations().clock(issuer.node.clock.reader()))
    };
    let error = service.user(&login).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1") && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn the_known_keys_stay_known_if_a_set_is_bad_or_the_issuer_down() {
    let good = json!({"kty": "OKP", "crv": "Ed25519", "kid": "x", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let mut private = good.clone();
    private["d"] = json!("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A");
    for (answer, text) in [
        (Answer::json(&json!({"keys": [private]})), "private or symmetric"),
        (Answer::json(&json!({"keys": [good, {"kty": "oct", "kid": "y", "k": "AAAA"}]})), "private or symmetric"),
        (Answer::json(&json!({"keys": []})), "without a key"),
        (Answer::json(&json!({"keys": [{"kty": "RSA", "kid": "y", "n": "AQAB", "e": "AQAB"}]})), "without a key"),
        (Answer::of(200, "text/html", "<html>"), "not JSON"),
        (Answer::of(302, "text/plain", ""), "redirects are not followed"),
        (Answer::of(404, "text/plain", ""), "404"),
        (Answer::of(500, "text/plain", ""), "500"),
        (Answer::Endless, "more than 65536 bytes"),
        (Answer::Never, "took too long"),
    ] {
        let issuer = Issuer::new().await;
        let service = issuer.ready().await;
        let login = issuer.login("alice").await;
        assert!(service.accepts(&login).await);
        *issuer.way.jwks.lock().unwrap() = answer.clone();
        // It is fetched at once by another service, which learns nothing.
        let other = issuer.service();
        assert_eq!(other.code(&login).await, "store_unavailable", "{text}");
        other.failure("fetch_keys", text).await;
        assert!(service.accepts(&issuer.login("alice").await).await);
        *issuer.way.jwks.lock().unwrap() = Answer::Own;
        eventually(async || other.accepts(&login).await).await;
    }
}

// ---- building -------------------------------------------------------------------------------------------------------

fn rejected(builder: VerifierBuilder<Claims>) -> (&'static str, String) {
    let error = builder.build().unwrap_err();
    (error.setting(), error.to_string())
}

#[test]
fn whether_revocations_are_followed_has_to_be_chosen() {
    let (setting, text) = rejected(Verifier::from_url("https://login.example/.well-known/jwks.json"));
    assert_eq!(setting, "revocations");
    assert!(text.contains("without_revocations"), "{text}");
}

#[test]
fn a_url_that_others_on_the_way_can_change_is_rejected() {
    let url = "http://login.example/.well-known/jwks.json";
    let (setting, text) = rejected(Verifier::from_url(url).without_revocations());
    assert_eq!(setting, "jwks_url");
    assert!(text.contains("allow_http"), "{text}");
    assert!(Verifier::<Claims>::from_url(url).without_revocations().allow_http().build().is_ok());
    let good = || Verifier::<Claims>::from_url("https://login.example/.well-known/jwks.json");
    let (setting, _) = rejected(good().revocations("http://login.example/auth/revocations", Secret::new(TOKEN)));
    assert_eq!(setting, "revocations");
    for url in ["http://127.0.0.1:3000/x", "http://[::1]:3000/x", "http://localhost/x"] {
        assert!(Verifier::<Claims>::from_url(url).without_revocations().build().is_ok(), "{url}");
    }
    for url in [
        "",
        "/x",
        "login.example",
        "ftp://login.example/x",
        "file:///etc/passwd",
        "http://127.0.0.1.example/x",
        "http://login.localhost/x",
    ] {
        assert_eq!(rejected(Verifier::from_url(url).without_revocations()).0, "jwks_url", "{url}");
    }
}

#[test]
fn settings_that_a_verifier_cannot_keep_are_rejected() {
    let url = "https://login.example/auth/revocations";
    let good = || Verifier::<Claims>::from_url("https://login.example/jwks.json").revocations(url, Secret::new(TOKEN));
    assert!(good().build().is_ok());
    let (setting, _) = rejected(good().configure(|settings| settings.max_staleness = Duration::from_secs(4)));
    assert_eq!(setting, "max_staleness");
    assert_eq!(rejected(good().configure(|settings| settings.leeway = Duration::from_secs(999))).0, "leeway");
    assert_eq!(rejected(good().revocations(url, Secret::new("a b\n"))).0, "revocations");
}

#[tokio::test]
async fn the_keys_may_come_from_a_document() {
    let issuer = Issuer::new().await;
    let login = issuer.login("alice").await;
    let builder = Verifier::from_jwks(issuer.node.auth.jwks()).without_revocations().clock(issuer.node.clock.reader());
    assert!(Service::new(builder).accepts(&login).await);
    assert_eq!(issuer.way.jwks_requests.load(Ordering::SeqCst), 0);
    assert_eq!(rejected(Verifier::from_jwks(json!({"keys": []})).without_revocations()).0, "jwks");
}

#[tokio::test]
async fn the_background_task_ends_with_the_last_clone() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let layer = service.verifier.layer();
    drop(service);
    sleep(Duration::from_millis(50)).await;
    let before = issuer.way.feed_requests.load(Ordering::SeqCst);
    drop(layer);
    sleep(Duration::from_millis(50)).await;
    issuer.node.auth.end_feeds();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(issuer.way.feed_requests.load(Ordering::SeqCst), before);
}

#[test]
fn a_verifier_without_a_runtime_starts_with_its_first_use() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let issuer = runtime.block_on(Issuer::new());
    let service = issuer.service();
    assert!(runtime.block_on(async { service.accepts(&issuer.login("alice").await).await }));
}

#[tokio::test]
async fn a_clock_that_differs_from_the_issuers_is_reported_once() {
    let issuer = Issuer::new().await;
    let ahead = || SystemTime::now() + Duration::from_secs(60);
    let service = Service::new(issuer.builder().clock(ahead));
    let _ = service.verifier.ready().await;
    issuer.node.auth.end_feeds();
    sleep(Duration::from_millis(500)).await;
    let events = service.events.lock().unwrap();
    let differences: Vec<_> = events
        .iter()
        .filter_map(
            |event| if let Event::ClockDiffers { ahead_by_millis } = event { Some(*ahead_by_millis) } else { None },
        )
        .collect();
    assert!(differences.len() == 1 && (58_000..=61_000).contains(&differences[0]), "{differences:?}");
}

#[tokio::test]
async fn a_feed_that_ends_at_once_is_a_failure_with_a_pause() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    let login = issuer.login("alice").await;
    *issuer.way.feed.lock().unwrap() = Answer::of(200, "text/event-stream", "");
    issuer.node.auth.end_feeds();
    service.failure("follow_revocations", "ended at once").await;
    let before = issuer.way.feed_requests.load(Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    assert!(issuer.way.feed_requests.load(Ordering::SeqCst) - before < 12);
    issuer.node.clock.advance(Duration::from_secs(31));
    let began = Instant::now();
    assert_eq!(service.code(&login).await, "store_unavailable");
    assert!(began.elapsed() < Duration::from_millis(400), "it does not wait for what has failed");
}

#[tokio::test]
async fn no_token_is_invalid_while_its_key_could_not_be_asked_for() {
    let issuer = Issuer::new().await;
    let service = issuer.ready().await;
    // Another node of the issuer has another key.
    let other =
        Node::on(issuer.node.store.clone(), issuer.node.clock.clone(), |builder| builder.signing_key(seeded(2)));
    let unknown = other.login("alice").await;
    assert_eq!(service.code(&unknown).await, "access_token_invalid", "the set of a moment ago does not have it");
    *issuer.way.jwks.lock().unwrap() = Answer::of(500, "text/plain", "");
    let restarted = issuer.service();
    assert_eq!(restarted.code(&unknown).await, "store_unavailable");
    *issuer.way.jwks.lock().unwrap() = Answer::Own;
    eventually(async || restarted.accepts(&issuer.login("alice").await).await).await;
    assert_eq!(restarted.code(&unknown).await, "access_token_invalid");
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_make_old_news_recent() {
    let issuer = Issuer::new().await;
    let service = Service::new(issuer.builder().configure(|settings| settings.max_staleness = Duration::from_secs(5)));
    let login = issuer.login("alice").await;
    assert!(service.accepts(&login).await);
    *issuer.way.feed.lock().unwrap() = Answer::Never;
    issuer.node.auth.end_feeds();
    let cut_at = Instant::now();
    // The clock stands still, as far as this goes.
    while service.accepts(&login).await {
        assert!(cut_at.elapsed() < Duration::from_millis(6500), "still accepted");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(cut_at.elapsed() > Duration::from_secs(3));
}

#[test]
fn a_url_with_a_password_is_rejected_and_not_shown() {
    for url in ["https://user:hunter2@login.example/x", "https://user@login.example/x", "https://login.example/x#y"] {
        let (setting, text) = rejected(Verifier::from_url(url).without_revocations());
        assert_eq!(setting, "jwks_url");
        assert!(!text.contains("hunter2") && text.contains("leave them out"), "{text}");
    }
}
