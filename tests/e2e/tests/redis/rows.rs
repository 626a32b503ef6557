//! The content of Redis, and how the store reads it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum_refresh::config::OnMaxSessions;
use axum_refresh::store::conformance;
use axum_refresh::store::{
    Actor, ExternalId, FeedCursor, FeedWindow, InsertOptions, Inserted, RevokeTarget, Revoked, RevokedItem,
    SessionLimit, SessionRecord, Timestamp,
};
use axum_refresh::{RedisStore, SessionStore};
use redis::Client;
use redis::aio::ConnectionManager;

use crate::server::{ALONE, LIFETIME, LOGOUT, NOW, Server, WINDOW, plain, prefix, session, url};

/// As the store's, in milliseconds.
const FEED_RETENTION: i64 = axum_refresh::store::FEED_RETENTION.as_secs() as i64 * 1_000;

/// A session at an identity provider.
const EXTERNAL: ExternalId = ExternalId::from_bytes([7; 32]);

struct Rig {
    prefix: String,
    store: RedisStore,
}

async fn rig() -> Rig {
    let prefix = prefix();
    let store = RedisStore::options().prefix(&prefix).connect(&url()).await.unwrap();
    Rig { prefix, store }
}

impl Rig {
    fn key(&self, session: &SessionRecord, name: &str) -> String {
        format!("{}:{{{:x}}}:{name}", self.prefix, session.id.shard())
    }

    fn row(&self, session: &SessionRecord) -> String {
        self.key(session, &format!("session:{}", session.id))
    }

    /// The sessions that belong to [`EXTERNAL`].
    fn external(&self, session: &SessionRecord) -> String {
        self.key(session, "external:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc")
    }

    async fn insert(&self, session: &SessionRecord) {
        assert_eq!(self.store.insert(session, ALONE).await.unwrap(), Inserted::Done(Revoked::default()));
    }
}

fn with_limit(max: u32) -> InsertOptions {
    let limit = SessionLimit { max, on_max_sessions: OnMaxSessions::Refuse, idle_timeout: Duration::from_secs(600) };
    InsertOptions { limit: Some(limit), ..ALONE }
}

#[tokio::test]
async fn an_unreadable_row_is_an_error_and_not_none() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    let damages: [&[&str]; 12] = [
        &["HSET", "ROW", "v", "2"],
        &["HDEL", "ROW", "v"],
        &["HDEL", "ROW", "generation"],
        &["HDEL", "ROW", "login"],
        &["HSET", "ROW", "external", "short"],
        &["HSET", "ROW", "idle", "never"],
        &["HSET", "ROW", "secret", "short"],
        &["HSET", "ROW", "user", "x\u{0}", "client", "{"],
        &["HSET", "ROW", "expires", "soon"],
        &["HSET", "ROW", "revoked", "{\"at\":1,\"until\":2,\"reason\":\"a reason to come\"}"],
        &["HSET", "ROW", "version", "-1"],
        &["SET", "ROW", "a text"],
    ];
    for damage in damages {
        let damaged = session("alice");
        rig.insert(&damaged).await;
        let row = rig.row(&damaged);
        let words: Vec<_> = damage.iter().map(|word| if *word == "ROW" { row.as_str() } else { word }).collect();
        server.ask::<redis::Value>(&words).await;
        let error = rig.store.load(damaged.id).await.unwrap_err().to_string();
        assert!(error.starts_with("session store: "), "{error}");
    }
}

#[tokio::test]
async fn a_row_of_another_version_is_not_changed() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    let foreign = session("alice");
    rig.insert(&foreign).await;
    let row = rig.row(&foreign);
    server.ask::<()>(&["HSET", &row, "v", "2"]).await;
    // In any order.
    let before: BTreeMap<String, Vec<u8>> = server.ask(&["HGETALL", &row]).await;
    rig.store.compare_and_swap(foreign.version, &foreign).await.unwrap_err();
    rig.store.revoke(RevokeTarget::Session(foreign.id), LOGOUT).await.unwrap_err();
    rig.store.list("alice", 1_000).await.unwrap_err();
    rig.store.insert(&session("alice"), with_limit(5)).await.unwrap_err();
    assert_eq!(server.ask::<BTreeMap<String, Vec<u8>>>(&["HGETALL", &row]).await, before);
}

#[tokio::test]
async fn a_call_that_fails_on_a_row_of_another_version_revokes_nothing() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    let everything = RevokeTarget::Users { scope: "alice", except: None, created_until: None };
    let (first, second) = (session("alice"), session("alice"));
    // Already revoked, so that it does not count towards the limit.
    rig.insert(&second).await;
    rig.store.revoke(everything, LOGOUT).await.unwrap();
    rig.insert(&first).await;
    server.ask::<()>(&["HSET", &rig.row(&second), "v", "2"]).await;
    let limit = SessionLimit { on_max_sessions: OnMaxSessions::EvictOldest, ..with_limit(1).limit.unwrap() };
    let replacing = InsertOptions { limit: Some(limit), replacing: Some(second.id) };
    rig.store.insert(&session("alice"), replacing).await.unwrap_err();
    assert_eq!(rig.store.load(first.id).await.unwrap().as_ref(), Some(&first));

    let third = session("alice");
    rig.insert(&third).await;
    server.ask::<()>(&["HSET", &rig.row(&third), "v", "2"]).await;
    rig.store.revoke(everything, LOGOUT).await.unwrap_err();
    assert_eq!(rig.store.load(first.id).await.unwrap(), Some(first));
}

#[tokio::test]
async fn a_field_of_a_later_version_survives_a_swap() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    let first = session("alice");
    rig.insert(&first).await;
    let row = rig.row(&first);
    server.ask::<()>(&["HSET", &row, "device_key", "of a later version"]).await;
    let mut next = rig.store.load(first.id).await.unwrap().unwrap();
    assert_eq!(next, first);
    next.rotation.generation = 7;
    assert!(rig.store.compare_and_swap(0, &next).await.unwrap());
    assert_eq!(rig.store.load(first.id).await.unwrap().unwrap().rotation.generation, 7);
    assert_eq!(server.ask::<String>(&["HGET", &row, "device_key"]).await, "of a later version");
}

#[tokio::test]
async fn numbers_too_large_for_a_double_are_read_back_exactly() {
    let rig = rig().await;
    let mut first = session("alice");
    first.version = (1 << 53) + 1;
    first.rotation.expires_at = Timestamp::MAX;
    rig.insert(&first).await;
    let mut next = first.clone();
    next.rotation.last_seen_at = Timestamp::from_millis((1 << 53) + 1);
    assert!(!rig.store.compare_and_swap(1 << 53, &next).await.unwrap());
    assert!(rig.store.compare_and_swap(first.version, &next).await.unwrap());
    let read = rig.store.load(first.id).await.unwrap().unwrap();
    assert_eq!(read, SessionRecord { version: first.version + 1, ..next });
}

#[tokio::test]
async fn every_key_expires_by_itself() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    let long = SessionRecord { external: Some(EXTERNAL), ..conformance::session("alice", NOW, 10 * LIFETIME) };
    rig.insert(&long).await;
    let short = SessionRecord { external: Some(EXTERNAL), ..session("alice") };
    rig.insert(&short).await;
    rig.store
        .revoke(RevokeTarget::Users { scope: "alice", except: Some(long.id), created_until: None }, LOGOUT)
        .await
        .unwrap();
    rig.insert(&session("alice")).await;
    rig.store.revoke(RevokeTarget::Token("jti"), LOGOUT).await.unwrap();
    let keys: Vec<String> = server.ask(&["KEYS", &format!("{}:*", rig.prefix)]).await;
    assert!(keys.len() >= 8, "{keys:?}");
    for key in &keys {
        let left: i64 = server.ask(&["PTTL", key]).await;
        assert!(left > LIFETIME / 2 && left <= 26 * LIFETIME, "{key}: {left}");
    }
    for (key, least) in [
        (rig.row(&short), LIFETIME),
        (rig.row(&long), 10 * LIFETIME),
        (rig.key(&long, "user:alice"), 10 * LIFETIME),
        (rig.external(&long), 10 * LIFETIME),
        (rig.key(&long, "expiries"), 10 * LIFETIME),
    ] {
        let left: i64 = server.ask(&["PTTL", &key]).await;
        assert!(left > least && left <= least + 3_600_000, "{key}: {left}");
    }
}

#[tokio::test]
async fn all_keys_of_a_session_share_a_slot() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    let one = SessionRecord { external: Some(EXTERNAL), ..session("alice") };
    rig.insert(&one).await;
    rig.store.revoke(RevokeTarget::Session(one.id), LOGOUT).await.unwrap();
    let keys: Vec<String> = server.ask(&["KEYS", &format!("{}:*", rig.prefix)]).await;
    assert_eq!(keys.len(), 5, "{keys:?}");
    let mut tags: Vec<_> = keys.iter().map(|key| key.split(['{', '}']).nth(1).unwrap()).collect();
    tags.dedup();
    assert_eq!(tags, [format!("{:x}", one.id.shard())]);
}

#[tokio::test]
async fn the_index_of_a_user_forgets_sessions_that_are_gone() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    let (gone, stays) = (session("alice"), session("alice"));
    rig.insert(&gone).await;
    rig.insert(&stays).await;
    server.ask::<()>(&["DEL", &rig.row(&gone)]).await;
    assert_eq!(rig.store.insert(&session("alice"), with_limit(2)).await.unwrap(), Inserted::Done(Revoked::default()));
    let index = rig.key(&gone, "user:alice");
    assert_eq!(server.ask::<usize>(&["ZCARD", &index]).await, 2);
    server.ask::<()>(&["ZADD", &index, "0", &gone.id.to_string()]).await;
    assert_eq!(rig.store.list("alice", 1_000).await.unwrap().len(), 2);
    assert_eq!(server.ask::<usize>(&["ZCARD", &index]).await, 2);
    server.ask::<()>(&["ZADD", &index, "0", &gone.id.to_string()]).await;
    let all = RevokeTarget::Users { scope: "alice", except: Some(stays.id), created_until: None };
    assert_eq!(rig.store.revoke(all, LOGOUT).await.unwrap().count, 1);
    assert_eq!(server.ask::<usize>(&["ZCARD", &index]).await, 1);
}

#[tokio::test]
async fn the_members_of_a_session_at_an_identity_provider_forget_those_that_are_gone() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    let [gone, stays] = ["alice", "bob"].map(|user| SessionRecord { external: Some(EXTERNAL), ..session(user) });
    rig.insert(&gone).await;
    rig.insert(&stays).await;
    server.ask::<()>(&["DEL", &rig.row(&gone)]).await;
    assert_eq!(rig.store.find_external(EXTERNAL).await.unwrap(), [stays.id]);
    assert_eq!(server.ask::<usize>(&["EXISTS", &rig.external(&gone)]).await, 0);
    assert_eq!(server.ask::<usize>(&["SCARD", &rig.external(&stays)]).await, 1);
}

#[tokio::test]
async fn a_session_in_which_somebody_acts_outlives_a_login_that_evicts_hundreds() {
    let rig = rig().await;
    let mut acting = session("alice");
    acting.client.actor = Some(Arc::new(Actor { user_id: "admin".into(), session_id: session("admin").id }));
    for _ in 0..300 {
        rig.insert(&session("alice")).await;
    }
    rig.insert(&acting).await;
    let newest = session("alice");
    let limit = SessionLimit { on_max_sessions: OnMaxSessions::EvictOldest, ..with_limit(1).limit.unwrap() };
    let login = InsertOptions { limit: Some(limit), ..ALONE };
    let Inserted::Done(evicted) = rig.store.insert(&newest, login).await.unwrap() else { panic!("refused") };
    assert_eq!((evicted.count, evicted.users.is_some()), (300, true));
    let listed = rig.store.list("alice", 10).await.unwrap().into_iter().map(|session| session.id);
    assert_eq!(listed.collect::<HashSet<_>>(), HashSet::from([acting.id, newest.id]));
}

#[tokio::test]
async fn purging_leaves_nothing_behind_and_respects_its_limit_in_all_shards() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    for n in 0..60 {
        rig.insert(&session(&format!("user{n}"))).await;
    }
    rig.store.revoke(RevokeTarget::Token("jti"), LOGOUT).await.unwrap();
    let mut steps = Vec::new();
    while steps.last().is_none_or(|step| *step == 7) {
        steps.push(rig.store.purge(Timestamp::MAX, 7).await.unwrap());
    }
    assert_eq!(steps, [7, 7, 7, 7, 7, 7, 7, 7, 4]);
    assert_eq!(rig.store.purge(Timestamp::MAX, 0).await.unwrap(), 0);
    // The feed is kept for a day, whatever the caller's clock says.
    let keys: Vec<String> = server.ask(&["KEYS", &format!("{}:*", rig.prefix)]).await;
    let [feed] = keys.as_slice() else { panic!("{keys:?}") };
    let time: Vec<i64> = server.ask(&["TIME"]).await;
    let almost_old = (time[0] * 1_000 - FEED_RETENTION + 60_000).to_string();
    server.ask::<()>(&["ZADD", feed, &almost_old, "t:jti"]).await;
    rig.store.purge(Timestamp::MAX, 7).await.unwrap();
    assert_eq!(server.ask::<usize>(&["ZCARD", feed]).await, 1);
    let old = (time[0] * 1_000 - FEED_RETENTION - 1).to_string();
    server.ask::<()>(&["ZADD", feed, &old, "t:jti"]).await;
    rig.store.purge(Timestamp::MAX, 7).await.unwrap();
    let keys: Vec<String> = server.ask(&["KEYS", &format!("{}:*", rig.prefix)]).await;
    assert_eq!(keys, [""; 0]);
}

#[tokio::test]
async fn nodes_that_purge_concurrently_leave_nothing_behind() {
    let rig = rig().await;
    for n in 0..100 {
        rig.insert(&session(&format!("user{n}"))).await;
    }
    let purge = || {
        let store = rig.store.clone();
        tokio::spawn(async move { store.purge(Timestamp::MAX, 1_000).await.unwrap() })
    };
    let (one, other) = (purge(), purge());
    assert_eq!(one.await.unwrap() + other.await.unwrap(), 100);
}

#[tokio::test]
async fn a_cursor_ahead_of_the_servers_clock_misses_nothing() {
    let rig = rig().await;
    rig.store.revoke(RevokeTarget::Token("jti"), LOGOUT).await.unwrap();
    let now = rig.store.read_revocations(FeedCursor::START, WINDOW).await.unwrap().next;
    let ahead = FeedCursor(now.0 + 7_200_000);
    let feed = rig.store.read_revocations(ahead, WINDOW).await.unwrap();
    assert_eq!(
        feed.entries.iter().map(|revoked| &revoked.item).collect::<Vec<_>>(),
        [&RevokedItem::Token("jti".into())]
    );
    assert_eq!(feed.next, ahead);
}

#[tokio::test]
async fn the_feed_is_not_read_from_the_start_again() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    rig.store.revoke(RevokeTarget::Token("old:with:colons"), LOGOUT).await.unwrap();
    rig.store.revoke(RevokeTarget::Token("new"), LOGOUT).await.unwrap();
    let feed = rig.store.read_revocations(FeedCursor::START, WINDOW).await.unwrap();
    let now = feed.next.0 / 2;
    let named: HashSet<_> = feed.entries.into_iter().map(|revoked| revoked.item).collect();
    assert_eq!(named, HashSet::from(["old:with:colons", "new"].map(|jti| RevokedItem::Token(jti.into()))));
    let feeds: Vec<String> = server.ask(&["KEYS", &format!("{}:*:feed", rig.prefix)]).await;
    let old = "t:old:with:colons";
    for feed in feeds {
        server.ask::<()>(&["ZADD", &feed, "XX", &(now - 20_000).to_string(), old]).await;
    }
    let cursor = rig.store.read_revocations(FeedCursor::START, WINDOW).await.unwrap().next;
    let again = rig.store.read_revocations(cursor, WINDOW).await.unwrap().entries;
    assert_eq!(again.iter().map(|revoked| &revoked.item).collect::<Vec<_>>(), [&RevokedItem::Token("new".into())]);
}

#[tokio::test]
async fn a_load_and_a_swap_are_one_script_each() {
    let server = Server::start(&[]).await;
    let store = RedisStore::options().push(false).connect(&server.url()).await.unwrap();
    let first = session("alice");
    store.insert(&first, ALONE).await.unwrap();
    store.compare_and_swap(0, &first).await.unwrap();
    store.load(first.id).await.unwrap();
    let mut plain = plain(&server.url()).await;
    plain.ask::<()>(&["CONFIG", "RESETSTAT"]).await;
    for version in 1..=10 {
        assert_eq!(store.load(first.id).await.unwrap().unwrap().version, version);
        assert!(store.compare_and_swap(version, &first).await.unwrap());
    }
    let info: String = plain.ask(&["INFO", "commandstats"]).await;
    let mut calls: Vec<_> = info
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name, rest.split_once(',')?.0.parse().unwrap()))
        })
        .collect();
    calls.sort_unstable();
    // The commands inside the scripts are counted as well.
    let expected = [("config|resetstat", 1), ("evalsha", 20), ("hgetall", 10), ("hmget", 30), ("hset", 10)];
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn the_scripts_are_loaded_again_if_the_server_has_lost_them() {
    let server = Server::start(&[]).await;
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let first = session("alice");
    store.insert(&first, ALONE).await.unwrap();
    plain(&server.url()).await.ask::<()>(&["SCRIPT", "FLUSH"]).await;
    assert!(store.compare_and_swap(0, &first).await.unwrap());
}

#[tokio::test]
async fn an_own_connection_manager_can_be_used() {
    let server = Server::start(&[]).await;
    let manager = ConnectionManager::new(Client::open(server.url()).unwrap()).await.unwrap();
    let store = RedisStore::new(manager.clone());
    let first = session("alice");
    store.insert(&first, ALONE).await.unwrap();
    assert_eq!(store.load(first.id).await.unwrap(), Some(first.clone()));
    let other = RedisStore::options().prefix("other").over_manager(manager).await.unwrap();
    assert_eq!(other.load(first.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_session_with_the_id_of_another_users_session_is_refused() {
    let rig = rig().await;
    let theirs = (0..).map(|n| format!("user{n}")).find(|user| session(user).id.shard() != session("alice").id.shard());
    let odd = SessionRecord { user_id: theirs.unwrap().into(), ..session("alice") };
    rig.store.insert(&odd, ALONE).await.unwrap_err();
    assert_eq!(rig.store.load(odd.id).await.unwrap(), None);
}

#[tokio::test]
async fn revoking_a_session_that_the_server_has_lost_still_adds_it_to_the_feed() {
    let rig = rig().await;
    let lost = session("alice");
    assert_eq!(rig.store.revoke(RevokeTarget::Session(lost.id), LOGOUT).await.unwrap(), Revoked::default());
    let feed = rig.store.read_revocations(FeedCursor::START, WINDOW).await.unwrap().entries;
    assert_eq!(feed.iter().map(|revoked| &revoked.item).collect::<Vec<_>>(), [&RevokedItem::Session(lost.id)]);
    assert_eq!(rig.store.load(lost.id).await.unwrap(), None);
}

/// The server's time.
async fn server_time(server: &mut crate::server::Plain) -> Timestamp {
    let time: Vec<i64> = server.ask(&["TIME"]).await;
    Timestamp::from_millis(time[0] * 1_000)
}

#[tokio::test]
async fn a_caller_whose_clock_is_a_month_ahead_purges_nothing_that_has_not_expired() {
    let rig = rig().await;
    let now = server_time(&mut plain(&url()).await).await;
    let (live, expired) = (conformance::session("alice", now, LIFETIME), session("bob"));
    rig.insert(&live).await;
    rig.insert(&expired).await;
    let ahead = Timestamp::from_millis(now.as_millis() + 31 * 24 * LIFETIME);
    assert_eq!(rig.store.purge(ahead, 10).await.unwrap(), 1);
    assert_eq!(rig.store.load(live.id).await.unwrap(), Some(live));
    assert_eq!(rig.store.load(expired.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_cutoff_is_purged_only_after_the_last_session_that_it_concerns() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    let now = server_time(&mut server).await;
    let long = conformance::session("alice", now, 1_000 * LIFETIME);
    rig.insert(&long).await;
    let all = RevokeTarget::Users { scope: "alice", except: None, created_until: None };
    rig.store.revoke(all, LOGOUT).await.unwrap();
    // The second cutoff concerns a session that is gone sooner, but the first session still needs it.
    rig.insert(&conformance::session("alice", now, LIFETIME)).await;
    rig.store.revoke(all, LOGOUT).await.unwrap();
    let (cutoffs, expiries) = (rig.key(&long, "cutoffs"), rig.key(&long, "cutoff-expiries"));
    let gone_at: f64 = server.ask(&["ZSCORE", &expiries, "alice"]).await;
    assert!(gone_at > long.rotation.expires_at.as_millis() as f64 + 3_500_000.0);
    let left: f64 = server.ask(&["PTTL", &cutoffs]).await;
    assert!(left + 5_000.0 > gone_at - now.as_millis() as f64);
    rig.store.purge(Timestamp::MAX, 10).await.unwrap();
    assert_eq!(rig.store.load(long.id).await.unwrap().unwrap().rotation.revoked, Some(LOGOUT));
    server.ask::<()>(&["ZADD", &expiries, &(now.as_millis() - 1).to_string(), "alice"]).await;
    rig.store.purge(Timestamp::MAX, 10).await.unwrap();
    assert_eq!(server.ask::<usize>(&["EXISTS", &cutoffs, &expiries]).await, 0);
}

#[tokio::test]
async fn a_user_with_20_000_sessions_is_revoked_and_logs_in_at_once() {
    let rig = rig().await;
    let mut users = Vec::new();
    for user in ["alice", "bob"] {
        let sessions: Vec<_> = (0..20_000)
            .map(|n| conformance::session(user, Timestamp::from_millis(NOW.as_millis() + n), LIFETIME))
            .collect();
        for chunk in sessions.chunks(1_000) {
            let inserts: Vec<_> = chunk
                .iter()
                .cloned()
                .map(|new| {
                    let store = rig.store.clone();
                    tokio::spawn(async move { store.insert(&new, ALONE).await.unwrap() })
                })
                .collect();
            for insert in inserts {
                insert.await.unwrap();
            }
        }
        users.push(sessions);
    }
    let later = Timestamp::from_millis(NOW.as_millis() + 200_000);
    let limit = SessionLimit { on_max_sessions: OnMaxSessions::EvictOldest, ..with_limit(5).limit.unwrap() };
    let login = InsertOptions { limit: Some(limit), ..ALONE };
    let started = std::time::Instant::now();
    let newest = conformance::session("alice", later, LIFETIME);
    let Inserted::Done(evicted) = rig.store.insert(&newest, login).await.unwrap() else { panic!("refused") };
    println!("a login that evicts 19,996 sessions: {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!((evicted.count, evicted.sessions.len(), evicted.users.is_some()), (19_996, 0, true));
    let live: HashSet<_> = rig.store.list("alice", 10).await.unwrap().into_iter().map(|session| session.id).collect();
    assert_eq!(live, users[0][19_996..].iter().chain([&newest]).map(|session| session.id).collect());

    let until = Timestamp::from_millis(NOW.as_millis() + 19_500);
    for (created_until, count) in [(Some(until), 19_501), (None, 499)] {
        let started = std::time::Instant::now();
        let all = RevokeTarget::Users { scope: "bob", except: None, created_until };
        let revoked = rig.store.revoke(all, LOGOUT).await.unwrap();
        println!("a revocation of {count} sessions: {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(1));
        assert_eq!(revoked.count, count);
    }
    assert_eq!(rig.store.load(users[1][0].id).await.unwrap().unwrap().rotation.revoked, Some(LOGOUT));
    assert_eq!(rig.store.list("bob", 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_login_that_reaches_the_limit_drops_thousands_of_idle_sessions() {
    let rig = rig().await;
    for chunk in 0..11 {
        let inserts: Vec<_> = (0..1_000)
            .map(|n| {
                let created = Timestamp::from_millis(NOW.as_millis() + 1_000 * chunk + n);
                let (store, new) = (rig.store.clone(), conformance::session("alice", created, LIFETIME));
                tokio::spawn(async move { store.insert(&new, ALONE).await.unwrap() })
            })
            .collect();
        for insert in inserts {
            insert.await.unwrap();
        }
    }
    let later = Timestamp::from_millis(NOW.as_millis() + 1_000_000);
    let login = async |on_max_sessions| {
        let session = conformance::session("alice", later, LIFETIME);
        let limit = SessionLimit { max: 3, on_max_sessions, idle_timeout: Duration::from_secs(600) };
        let options = InsertOptions { limit: Some(limit), ..ALONE };
        let Inserted::Done(revoked) = rig.store.insert(&session, options).await.unwrap() else { panic!("refused") };
        (session.id, revoked)
    };
    // Nobody else's login ends a session where the limit refuses, not even an idle one.
    let (first, revoked) = login(OnMaxSessions::Refuse).await;
    assert_eq!((revoked.count, revoked.users), (0, None));
    // Nor where the limit is not reached.
    let (second, revoked) = login(OnMaxSessions::EvictOldest).await;
    assert_eq!((revoked.count, revoked.users), (0, None));
    let (third, revoked) = login(OnMaxSessions::EvictOldest).await;
    assert!(revoked.users.is_some());
    let listed = rig.store.list("alice", 10).await.unwrap();
    assert_eq!(listed.iter().map(|session| session.id).collect::<HashSet<_>>(), HashSet::from([first, second, third]));
    let (_, revoked) = login(OnMaxSessions::EvictOldest).await;
    assert_eq!((revoked.sessions, revoked.users), (vec![first], None));
}

#[tokio::test]
async fn a_long_feed_is_read_in_pages_without_gaps() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    let now = server_time(&mut server).await.as_millis();
    let mut written = HashSet::new();
    for n in 0..2_000_i64 {
        // Five at a time have the same score, and one time a hundred.
        let age = if n < 100 { 600_000 } else { 500_000 - n / 5 * 1_000 };
        let jti = format!("jti-{n}");
        let feed = format!("{}:{{{:x}}}:feed", rig.prefix, n % 3);
        server.ask::<()>(&["ZADD", &feed, &(now - age).to_string(), &format!("t:{jti}")]).await;
        written.insert(RevokedItem::Token(jti.into()));
    }
    let (mut cursor, mut read, mut steps) = (FeedCursor::START, HashSet::new(), 0);
    loop {
        let batch = rig.store.read_revocations(cursor, FeedWindow { limit: 160, ..WINDOW }).await.unwrap();
        assert!(batch.entries.len() < 400, "{}", batch.entries.len());
        assert!(batch.entries.iter().all(|entry| entry.age >= Duration::from_secs(90)));
        read.extend(batch.entries.into_iter().map(|entry| entry.item));
        assert!(batch.next > cursor);
        cursor = batch.next;
        steps += 1;
        if !batch.has_more {
            break;
        }
    }
    assert_eq!(read, written);
    assert!(steps > 10, "{steps}");
}
