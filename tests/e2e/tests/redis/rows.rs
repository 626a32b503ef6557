//! The content of Redis, and how the store reads it.

use std::collections::HashSet;
use std::time::Duration;

use axum_refresh::config::OnMaxSessions;
use axum_refresh::store::conformance;
use axum_refresh::store::{
    FeedCursor, InsertOptions, Inserted, RevokeTarget, RevokedItem, SessionLimit, SessionRecord, Timestamp,
};
use axum_refresh::{RedisStore, SessionStore};
use redis::Client;
use redis::aio::ConnectionManager;

use crate::server::{ALONE, LIFETIME, LOGOUT, NOW, Server, plain, prefix, session, url};

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

    async fn insert(&self, session: &SessionRecord) {
        assert_eq!(self.store.insert(session, ALONE).await.unwrap(), Inserted::Done(vec![]));
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
    let damages: [&[&str]; 9] = [
        &["HSET", "ROW", "v", "2"],
        &["HDEL", "ROW", "v"],
        &["HDEL", "ROW", "generation"],
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
    let before: Vec<Vec<u8>> = server.ask(&["HVALS", &row]).await;
    rig.store.compare_and_swap(foreign.version, &foreign).await.unwrap_err();
    rig.store.revoke(RevokeTarget::Session(foreign.id), LOGOUT).await.unwrap_err();
    rig.store.list("alice").await.unwrap_err();
    rig.store.insert(&session("alice"), with_limit(5)).await.unwrap_err();
    assert_eq!(server.ask::<Vec<Vec<u8>>>(&["HVALS", &row]).await, before);
}

#[tokio::test]
async fn a_call_that_fails_on_a_row_of_another_version_revokes_nothing() {
    let rig = rig().await;
    let mut server = plain(&url()).await;
    let everything = RevokeTarget::User { user_id: "alice", except: None };
    let (first, second) = (session("alice"), session("alice"));
    // Already revoked, so that it does not count towards the limit.
    rig.insert(&second).await;
    rig.store.revoke(everything, LOGOUT).await.unwrap();
    rig.insert(&first).await;
    server.ask::<()>(&["HSET", &rig.row(&second), "v", "2"]).await;
    let limit = SessionLimit { on_max_sessions: OnMaxSessions::EvictOldest, ..with_limit(1).limit.unwrap() };
    let replacing = InsertOptions { limit: Some(limit), replacing: Some(second.id), ..ALONE };
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
    let long = conformance::session("alice", NOW, 10 * LIFETIME);
    rig.insert(&long).await;
    let short = session("alice");
    rig.insert(&short).await;
    rig.store.revoke(RevokeTarget::User { user_id: "alice", except: Some(long.id) }, LOGOUT).await.unwrap();
    rig.insert(&session("alice")).await;
    rig.store.revoke(RevokeTarget::Token("jti"), LOGOUT).await.unwrap();
    let keys: Vec<String> = server.ask(&["KEYS", &format!("{}:*", rig.prefix)]).await;
    assert!(keys.len() >= 7, "{keys:?}");
    for key in &keys {
        let left: i64 = server.ask(&["PTTL", key]).await;
        assert!(left > LIFETIME / 2 && left <= 11 * LIFETIME, "{key}: {left}");
    }
    for (key, least) in [
        (rig.row(&short), LIFETIME),
        (rig.row(&long), 10 * LIFETIME),
        (rig.key(&long, "user:alice"), 10 * LIFETIME),
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
    let one = session("alice");
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
    assert_eq!(rig.store.insert(&session("alice"), with_limit(2)).await.unwrap(), Inserted::Done(vec![]));
    let index = rig.key(&gone, "user:alice");
    assert_eq!(server.ask::<usize>(&["ZCARD", &index]).await, 2);
    server.ask::<()>(&["ZADD", &index, "0", &gone.id.to_string()]).await;
    assert_eq!(rig.store.list("alice").await.unwrap().len(), 2);
    assert_eq!(server.ask::<usize>(&["ZCARD", &index]).await, 2);
    server.ask::<()>(&["ZADD", &index, "0", &gone.id.to_string()]).await;
    let all = RevokeTarget::User { user_id: "alice", except: Some(stays.id) };
    assert_eq!(rig.store.revoke(all, LOGOUT).await.unwrap().len(), 1);
    assert_eq!(server.ask::<usize>(&["ZCARD", &index]).await, 1);
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
    let now = rig.store.read_revocations(FeedCursor::START).await.unwrap().next;
    let ahead = FeedCursor(now.0 + 3_600_000);
    let feed = rig.store.read_revocations(ahead).await.unwrap();
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
    let feed = rig.store.read_revocations(FeedCursor::START).await.unwrap();
    let now = feed.next.0;
    let named: HashSet<_> = feed.entries.into_iter().map(|revoked| revoked.item).collect();
    assert_eq!(named, HashSet::from(["old:with:colons", "new"].map(|jti| RevokedItem::Token(jti.into()))));
    let feeds: Vec<String> = server.ask(&["KEYS", &format!("{}:*:feed", rig.prefix)]).await;
    let old = format!("{}:t:old:with:colons", LOGOUT.expires_at.as_millis());
    for feed in feeds {
        server.ask::<()>(&["ZADD", &feed, "XX", &(now - 20_000).to_string(), &old]).await;
    }
    let cursor = rig.store.read_revocations(FeedCursor::START).await.unwrap().next;
    let again = rig.store.read_revocations(cursor).await.unwrap().entries;
    assert_eq!(again.iter().map(|revoked| &revoked.item).collect::<Vec<_>>(), [&RevokedItem::Token("new".into())]);
}

#[tokio::test]
async fn a_load_is_one_command_and_a_swap_one_script() {
    let server = Server::start(&[]).await;
    let store = RedisStore::options().push(false).connect(&server.url()).await.unwrap();
    let first = session("alice");
    store.insert(&first, ALONE).await.unwrap();
    store.compare_and_swap(0, &first).await.unwrap();
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
    // The two commands inside the script are counted with ours.
    let expected = [("config|resetstat", 1), ("evalsha", 10), ("hgetall", 10), ("hmget", 10), ("hset", 10)];
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
    assert_eq!(rig.store.revoke(RevokeTarget::Session(lost.id), LOGOUT).await.unwrap(), []);
    let feed = rig.store.read_revocations(FeedCursor::START).await.unwrap().entries;
    assert_eq!(feed.iter().map(|revoked| &revoked.item).collect::<Vec<_>>(), [&RevokedItem::Session(lost.id)]);
    assert_eq!(rig.store.load(lost.id).await.unwrap(), None);
}
