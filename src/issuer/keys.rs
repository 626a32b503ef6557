//! Fetching the issuer's keys: its JWK set.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AGE, CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use super::request::{self, check_status, read_body, send};
use super::{Issuer, outcome};
use crate::metrics::Outcome;
use crate::store::StoreError;
use crate::time::jitter;
use crate::token::jwks;

/// The shortest time between two fetches because of an unknown key. Anybody can send a token that names one.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// The same if the last one has failed.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(5);
/// The same as long as no key is known at all.
const ASK_FIRST_EVERY: Duration = Duration::from_secs(1);
/// How long a set is kept whose response does not say so.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(300);
/// The bounds of how long a set is kept, whatever its response says.
const MIN_MAX_AGE: Duration = Duration::from_secs(30);
const MAX_MAX_AGE: Duration = Duration::from_secs(3600);
/// The bounds of the pause after a fetch that has failed.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// What the last fetches have found.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    etag: Option<HeaderValue>,
    /// When the last one has begun.
    began: Option<Instant>,
    /// What was wrong with the last one.
    error: Option<String>,
}

impl Issuer {
    /// Whether fetching the keys may help with a token that none of the known keys verifies.
    pub(crate) fn may_have_key_of(&self, token: &[u8]) -> bool {
        self.jwks.is_some() && self.keys.ring.lacks_key_of(token) && self.may_ask()
    }

    /// Whether the keys may be fetched because of a token, or are being fetched.
    fn may_ask(&self) -> bool {
        // While it is not known whether the issuer has the key, nobody may say that the token is invalid.
        self.fetched.try_lock().map_or(true, |fetched| fetched.may_have_others() || fetched.is_older_than(ASK_EVERY))
    }

    /// Fetches the keys, unless that is being done already or was done too recently. An error says that none is known.
    pub(crate) async fn learn_keys(self: &Arc<Self>) -> Result<(), StoreError> {
        self.start();
        let seen = *self.fetches.borrow();
        let issuer = Arc::clone(self);
        // In a task of its own, so that a client that goes away does not interrupt it for others.
        let fetch = tokio::spawn(async move {
            let mut fetched = issuer.fetched.lock().await;
            let every = match fetched.error {
                _ if issuer.keys.ring.is_empty() => ASK_FIRST_EVERY,
                Some(_) => ASK_AGAIN_EVERY,
                None => ASK_EVERY,
            };
            if *issuer.fetches.borrow() == seen && fetched.is_older_than(every) {
                issuer.fetch(&mut fetched).await;
            }
            fetched.may_have_others().then(|| fetched.error.clone())
        });
        let span = request::span(self.jwks.as_ref());
        let fetched =
            self.within_timeout(fetch, "the issuer's keys were not received in time").instrument(span.clone());
        let failure = fetched.await.inspect_err(|_| Outcome::Timeout.record_in(&span))?;
        let Some(why) = failure.map_err(StoreError::new)? else { return Ok(()) };
        let why = why.unwrap_or_else(|| "they were not received yet".to_owned());
        Outcome::Error.record_in(&span);
        Err(StoreError::new(format!("the issuer's keys are not known: {why}")))
    }

    /// Keeps the keys up to date.
    pub(super) async fn keep_keys(&self) {
        if self.jwks.is_none() {
            return;
        }
        let mut pause = MIN_PAUSE;
        loop {
            let mut fetched = self.fetched.lock().await;
            let max_age = self.fetch(&mut fetched).await;
            drop(fetched);
            match max_age {
                Some(max_age) => {
                    pause = MIN_PAUSE;
                    // Ahead of time: the next key may sign as soon as the set is too old. And not all verifiers at once.
                    sleep(max_age.mul_f64(0.7 + 0.2 * jitter())).await;
                }
                None => {
                    sleep(pause.mul_f64(0.5 + 0.5 * jitter())).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    /// Fetches the keys, and returns for how long they need not be fetched again. None if it fails, which is an event: the known
    /// keys stay known.
    async fn fetch(&self, fetched: &mut Fetched) -> Option<Duration> {
        fetched.began = Some(Instant::now());
        let timed = self.settings.meter.store_call("fetch_keys");
        let result = self.within_timeout(self.try_fetch(fetched.etag.clone()), "it took too long").await;
        timed.end(outcome(&result));
        self.fetches.send_modify(|fetches| *fetches += 1);
        match result.and_then(|result| result) {
            Ok((etag, max_age)) => {
                (fetched.etag, fetched.error) = (etag, None);
                Some(max_age)
            }
            Err(error) => {
                self.report("fetch_keys", &error);
                fetched.error = Some(error.to_string());
                None
            }
        }
    }

    async fn try_fetch(&self, etag: Option<HeaderValue>) -> Result<(Option<HeaderValue>, Duration), StoreError> {
        let url = self.jwks.clone().ok_or_else(|| StoreError::new("no URL of the keys"))?;
        let mut request = self.client.get(url).header(ACCEPT, "application/json, application/jwk-set+json");
        if let Some(etag) = &etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let mut response = send(request).await?;
        let max_age = max_age(response.headers());
        if response.status() == StatusCode::NOT_MODIFIED && etag.is_some() {
            return Ok((etag, max_age));
        }
        check_status(&response)?;
        let document = read_body(&mut response, jwks::MAX_BYTES).await?;
        let keys = jwks::read(&document).map_err(StoreError::new)?;
        self.keys.ring.follow_set(keys);
        Ok((response.headers().get(ETAG).cloned(), max_age))
    }
}

impl Fetched {
    /// Whether the issuer may have keys that are not known here: none was received, or not lately.
    const fn may_have_others(&self) -> bool {
        self.error.is_some() || self.began.is_none()
    }

    fn is_older_than(&self, age: Duration) -> bool {
        self.began.is_none_or(|began| began.elapsed() >= age)
    }
}

/// For how long a response may be kept (RFC 9111 §4.2), within our bounds.
fn max_age(headers: &HeaderMap) -> Duration {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let directives = text(CACHE_CONTROL).into_iter().flat_map(|value| value.split(','));
    let max_age = directives.filter_map(|directive| {
        let (name, value) = directive.trim().split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse().ok()).flatten()
    });
    let max_age = max_age.map(Duration::from_secs).next().unwrap_or(DEFAULT_MAX_AGE);
    let age = text(AGE).and_then(|age| age.trim().parse().ok()).map_or(Duration::ZERO, Duration::from_secs);
    max_age.saturating_sub(age).clamp(MIN_MAX_AGE, MAX_MAX_AGE)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::Request;
    use axum::routing::get;
    use tokio::sync::watch;
    use tower::ServiceExt as _;

    use super::*;
    use crate::config::{ResolvedSettings, Settings};
    use crate::event::Events;
    use crate::node::revocations::LiveRevocations;
    use crate::token::access::AccessKeys;
    use crate::token::asymmetric::SigningKey;
    use crate::token::ring::Key;

    /// What a server answers, and how often it was asked.
    type Served = Arc<std::sync::Mutex<(Router, u32)>>;

    fn point(n: u8) -> Key {
        Key::asymmetric(SigningKey::seeded(n).0, None)
    }

    fn set(keys: &[u8]) -> String {
        let keys: Vec<_> = keys.iter().filter_map(|n| point(*n).jwk()).collect();
        serde_json::json!({ "keys": keys }).to_string()
    }

    /// An app that answers with a set, unless the client has it.
    fn app(document: String) -> Router {
        let tag = format!("\"{}\"", document.bytes().map(u64::from).sum::<u64>());
        Router::new().route(
            "/jwks",
            get(move |headers: HeaderMap| async move {
                let known = headers.get(IF_NONE_MATCH).is_some_and(|known| known == tag.as_str());
                let (status, body) = if known { (304, String::new()) } else { (200, document) };
                (StatusCode::from_u16(status).unwrap(), [(ETAG, tag), (CACHE_CONTROL, "max-age=60".to_owned())], body)
            }),
        )
    }

    async fn issuer() -> (Arc<Issuer>, Served, watch::Sender<()>) {
        let served: Served = Arc::new(std::sync::Mutex::new((app(set(&[1])), 0)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let now = Arc::clone(&served);
        let serve = Router::new().fallback(move |request: Request| async move {
            let app = {
                let mut served = now.lock().unwrap();
                served.1 += 1;
                served.0.clone()
            };
            app.oneshot(request).await
        });
        tokio::spawn(async move { axum::serve(listener, serve).await });
        let settings = Arc::new(ResolvedSettings::new(Settings::default()).unwrap());
        let keys = Arc::new(AccessKeys::verifying(&settings));
        let (issuer, running) = Issuer::new(
            settings,
            Events::default(),
            Arc::new(std::time::SystemTime::now),
            keys,
            Arc::new(LiveRevocations::unannounced()),
            reqwest::Client::new(),
            Some(url.parse().unwrap()),
            None,
        );
        (issuer, served, running)
    }

    fn serve(served: &Served, app: Router) {
        served.lock().unwrap().0 = app;
    }

    /// The keys that are known, of those from 1 to 3.
    fn known(issuer: &Issuer) -> Vec<u8> {
        let token = |n: u8| format!("{}.e30.AA", point(n).header.trim_end_matches('.'));
        (1..=3).filter(|n| !issuer.keys.ring.lacks_key_of(token(*n).as_bytes())).collect()
    }

    #[tokio::test]
    async fn a_set_that_has_not_changed_is_not_sent_again_and_one_that_has_is() {
        let (issuer, served, _running) = issuer().await;
        let mut fetched = Fetched::default();
        assert_eq!(issuer.fetch(&mut fetched).await, Some(Duration::from_secs(60)));
        let etag = fetched.etag.clone();
        assert!(etag.is_some());
        assert_eq!(issuer.fetch(&mut fetched).await, Some(Duration::from_secs(60)));
        assert_eq!((known(&issuer), &fetched.etag), (vec![1], &etag));
        serve(&served, app(set(&[1, 2])));
        issuer.fetch(&mut fetched).await;
        assert_eq!(known(&issuer), [1, 2]);
        assert_ne!(fetched.etag, etag);
    }

    #[tokio::test]
    async fn a_key_that_is_gone_from_the_set_is_gone_here_and_a_failure_takes_none() {
        let (issuer, served, _running) = issuer().await;
        let mut fetched = Fetched::default();
        serve(&served, app(set(&[1, 2])));
        issuer.fetch(&mut fetched).await;
        let bad = [app(set(&[])), app("<html>".repeat(20)), Router::new()];
        for app in bad {
            serve(&served, app);
            assert_eq!(issuer.fetch(&mut fetched).await, None);
            assert!(fetched.error.is_some());
            assert_eq!(known(&issuer), [1, 2]);
        }
        serve(&served, app(set(&[2, 3])));
        issuer.fetch(&mut fetched).await;
        assert_eq!((known(&issuer), fetched.error), (vec![2, 3], None));
    }

    #[tokio::test]
    async fn an_unknown_key_is_asked_for_once_a_minute_and_many_at_once_cause_one_request() {
        let (issuer, served, _running) = issuer().await;
        issuer.background.hold();
        let requests = || served.lock().unwrap().1;
        let token = format!("{}.e30.AA", point(2).header.trim_end_matches('.'));
        let may_ask = || issuer.may_have_key_of(token.as_bytes());
        issuer.learn_keys().await.unwrap();
        assert_eq!((known(&issuer), requests()), (vec![1], 1));
        assert!(!may_ask());
        let ask_later = async || {
            issuer.fetched.lock().await.began = Instant::now().checked_sub(ASK_EVERY);
            assert!(may_ask());
        };
        ask_later().await;
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let issuer = Arc::clone(&issuer);
            all.spawn(async move { issuer.learn_keys().await });
        }
        assert!(all.join_all().await.iter().all(Result::is_ok));
        assert_eq!(requests(), 2);
        assert!(!may_ask());
        serve(&served, app(set(&[1, 2])));
        ask_later().await;
        issuer.learn_keys().await.unwrap();
        assert_eq!((known(&issuer), requests()), (vec![1, 2], 3));
    }

    fn kept(cache_control: Option<&str>, age: Option<&str>) -> u64 {
        let mut headers = HeaderMap::new();
        for (name, value) in [(CACHE_CONTROL, cache_control), (AGE, age)] {
            value.map(|value| headers.insert(name, value.parse().unwrap()));
        }
        max_age(&headers).as_secs()
    }

    #[test]
    fn a_set_is_kept_for_as_long_as_its_response_says_within_bounds() {
        assert_eq!(kept(None, None), 300);
        assert_eq!(kept(Some("public, max-age=120"), None), 120);
        assert_eq!(kept(Some("Max-Age=\"120\", public"), Some("20")), 100);
        assert_eq!(kept(Some("max-age=300"), Some("1000")), 30);
        assert_eq!(kept(Some("max-age=0"), None), 30);
        assert_eq!(kept(Some("max-age=99999999999999999999"), None), 300);
        assert_eq!(kept(Some("max-age=604800"), None), 3600);
        assert_eq!(kept(Some("no-store"), None), 300);
    }
}
