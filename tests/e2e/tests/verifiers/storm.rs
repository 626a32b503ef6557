//! Revocations reach the other service while it, the issuer and the network between them fail.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum_refresh_e2e::proxy::tcp::Condition;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::pair::{MAX_STALENESS, Pair};

const CLIENTS: usize = 24;
/// How long a request may take to be judged, on a machine that has other things to do.
const SLACK: Duration = Duration::from_millis(400);
/// How soon a revocation is felt when nothing fails.
const SOON: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Seen {
    violations: Mutex<Vec<String>>,
    /// How long it took from the response to the revocation to the first refusal, while nothing failed.
    calm: Mutex<Vec<Duration>>,
    revoked: AtomicUsize,
    accepted: AtomicUsize,
    unavailable: AtomicUsize,
    down: AtomicUsize,
    accepted_late: AtomicUsize,
}

impl Seen {
    fn violation(&self, text: String) {
        self.violations.lock().unwrap().push(text);
    }
}

fn pause(from: u64, to: u64) -> Duration {
    Duration::from_millis(fastrand::u64(from..to))
}

async fn client(pair: Arc<Pair>, seen: Arc<Seen>, is_calm: Arc<AtomicBool>, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::SeqCst) {
        let Some((token, session)) = pair.log_in(fastrand::usize(0..2)).await else {
            sleep(pause(50, 200)).await;
            continue;
        };
        for _ in 0..fastrand::u32(1..12) {
            match pair.ask(&token).await {
                Some((200, _)) => seen.accepted.fetch_add(1, Ordering::SeqCst),
                Some((503, code)) if code == "store_unavailable" => seen.unavailable.fetch_add(1, Ordering::SeqCst),
                None => seen.down.fetch_add(1, Ordering::SeqCst),
                Some(answer) => {
                    seen.violation(format!("a live session is refused: {answer:?}"));
                    0
                }
            };
            sleep(pause(10, 80)).await;
        }
        let was_calm = is_calm.load(Ordering::SeqCst);
        if !pair.revoke(fastrand::usize(0..2), &token, &session).await {
            // Nobody knows whether it is revoked.
            continue;
        }
        let revoked_at = Instant::now();
        seen.revoked.fetch_add(1, Ordering::SeqCst);
        let mut refused_at = None;
        while refused_at.map_or(revoked_at.elapsed() < MAX_STALENESS + 3 * SOON, |at: Instant| at.elapsed() < SOON / 3)
        {
            let began = revoked_at.elapsed();
            match pair.ask(&token).await {
                Some((200, _)) if refused_at.is_some() => seen.violation("it is accepted again".to_owned()),
                Some((200, _)) if began > MAX_STALENESS + SLACK => {
                    seen.violation(format!("accepted {began:?} after its revocation"));
                }
                Some((200, _)) if began > SOON => drop(seen.accepted_late.fetch_add(1, Ordering::SeqCst)),
                Some((401, code)) if code == "access_token_revoked" => {
                    if refused_at.is_none() && was_calm && is_calm.load(Ordering::SeqCst) {
                        seen.calm.lock().unwrap().push(began);
                    }
                    refused_at.get_or_insert_with(Instant::now);
                }
                Some((401, code)) => seen.violation(format!("refused as {code}")),
                Some((503, _)) => drop(seen.unavailable.fetch_add(1, Ordering::SeqCst)),
                _ => {}
            }
            sleep(pause(10, 30)).await;
        }
    }
}

/// One failure, and its end.
async fn fail(pair: &Pair) -> &'static str {
    let down = pause(0, 2_500);
    match fastrand::u32(0..7) {
        0 => {
            pair.issuers[0].kill().await;
            sleep(down).await;
            pair.issuers[0].start().await;
            "killed the issuer"
        }
        1 => {
            pair.issuers[1].kill().await;
            sleep(down).await;
            pair.issuers[1].start().await;
            "killed the other node of the issuer"
        }
        2 => {
            pair.issuers[0].terminate().await;
            pair.issuers[0].start().await;
            "deployed the issuer"
        }
        3 => {
            pair.verifier.kill().await;
            sleep(down / 4).await;
            pair.verifier.start().await;
            "killed the verifier"
        }
        4 => {
            pair.line.cut();
            "cut the line"
        }
        5 => {
            pair.line.set_condition(Condition::Slow(pause(100, 1_500)));
            sleep(pause(1_000, 3_000)).await;
            pair.line.set_condition(Condition::Fine);
            "slowed the line"
        }
        _ => {
            // What was sent arrives at the end, when it is old.
            pair.line.set_condition(Condition::Stalled);
            sleep(pause(1_000, 8_000)).await;
            pair.line.set_condition(Condition::Fine);
            "stalled the line"
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_revoked_session_is_accepted_for_longer_than_max_staleness_and_no_live_one_refused_during_a_storm() {
    let seconds = std::env::var("TORTURE_SECONDS").map_or(25, |text| text.parse().expect("TORTURE_SECONDS"));
    let pair = Arc::new(Pair::start().await);
    let seen = Arc::<Seen>::default();
    let (is_calm, is_over) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(Arc::clone(&pair), Arc::clone(&seen), Arc::clone(&is_calm), Arc::clone(&is_over)));
    }
    sleep(Duration::from_secs(5)).await;
    is_calm.store(false, Ordering::SeqCst);
    let (began, mut tally) = (Instant::now(), std::collections::BTreeMap::new());
    while began.elapsed() < Duration::from_secs(seconds) {
        *tally.entry(fail(&pair).await).or_insert(0) += 1;
        sleep(pause(0, 1_500)).await;
    }
    // Until the verifier has connected again.
    sleep(Duration::from_secs(4)).await;
    is_calm.store(true, Ordering::SeqCst);
    sleep(Duration::from_secs(5)).await;
    is_over.store(true, Ordering::SeqCst);
    clients.join_all().await;

    let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    let mut calm = std::mem::take(&mut *seen.calm.lock().unwrap());
    calm.sort();
    println!("{tally:?}");
    println!(
        "{} sessions revoked; {} requests accepted, {} unavailable, {} without an answer, {} accepted more than a second \
         after the revocation",
        count(&seen.revoked),
        count(&seen.accepted),
        count(&seen.unavailable),
        count(&seen.down),
        count(&seen.accepted_late),
    );
    println!(
        "felt while nothing failed: {} times, median {:?}, 99% within {:?}, at most {:?}",
        calm.len(),
        calm[calm.len() / 2],
        calm[calm.len() * 99 / 100],
        calm[calm.len() - 1]
    );
    let violations = std::mem::take(&mut *seen.violations.lock().unwrap());
    assert_eq!(violations, [] as [String; 0]);
    assert!(calm[calm.len() * 99 / 100] < SOON + SLACK, "{:?}", calm[calm.len() * 99 / 100]);
    // A test in which nothing happened shows nothing.
    assert!(calm.len() > 20 && count(&seen.unavailable) > 0 && count(&seen.down) > 0 && tally.len() > 3);
}
