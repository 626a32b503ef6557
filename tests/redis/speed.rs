//! How much slower the store is than its driver.

use std::time::Instant;

use axum_refresh::{RedisStore, SessionStore};
use redis::aio::ConnectionManager;
use redis::{Client, Script, Value, cmd};

use crate::server::{ALONE, prefix, session, url};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn against_the_bare_driver() {
    let prefix = prefix();
    let store = RedisStore::options().prefix(&prefix).push(false).connect(&url()).await.unwrap();
    let first = session("alice");
    store.insert(&first, ALONE).await.unwrap();
    let row = format!("{prefix}:{{{:x}}}:session:{}", first.id.shard(), first.id);
    let manager = ConnectionManager::new(
        Client::open(
            redis::IntoConnectionInfo::into_connection_info(url().as_str())
                .unwrap()
                .set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true)),
        )
        .unwrap(),
    )
    .await
    .unwrap();
    let bare = format!("{row}:bare");
    let _: Value = cmd("COPY").arg(&row).arg(&bare).query_async(&mut manager.clone()).await.unwrap();
    let script = Script::new("redis.call('HSET', KEYS[1], unpack(ARGV)) return 1");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // In turn, and by the median: whatever else the machine does is done to both.
    for version in 0..20_000 {
        let started = Instant::now();
        let mut manager = manager.clone();
        let _: Value = cmd("HGETALL").arg(&bare).query_async(&mut manager).await.unwrap();
        let mut call = script.key(&bare);
        call.arg("version").arg(version).arg("generation").arg(version).arg("parent").arg("").arg("rotated").arg("");
        call.arg("recoveries").arg(0).arg("claims").arg("{}").arg("seen").arg(1_700_000_000_000_i64).arg("ack");
        let _: bool = call.arg(-1).invoke_async(&mut manager).await.unwrap();
        theirs.push(started.elapsed());
        let started = Instant::now();
        let mut read = store.load(first.id).await.unwrap().unwrap();
        read.chain.generation += 1;
        assert!(store.swap(version, &read).await.unwrap());
        ours.push(started.elapsed());
    }
    let [theirs, ours] = [theirs, ours].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    println!("bare {theirs:?}, store {ours:?}, ratio {:.3}", theirs.as_secs_f64() / ours.as_secs_f64());
}
