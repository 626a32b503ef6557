//! Concurrent calls.

use super::*;

const TASKS: usize = 16;
const ROUNDS: usize = 20;

/// Runs `TASKS` tasks concurrently and collects their results.
async fn race<T, F>(task: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let barrier = Arc::new(tokio::sync::Barrier::new(TASKS));
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| {
            let (barrier, task) = (Arc::clone(&barrier), task(n));
            tokio::spawn(async move {
                barrier.wait().await;
                task.await
            })
        })
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

pub async fn of_many_concurrent_swaps_from_one_version_one_succeeds(store: impl SessionStore) {
    let store = Arc::new(store);
    let mut current = new("alice");
    insert(&*store, &current).await;
    for _ in 0..ROUNDS {
        let swapped = race(|n| {
            let (store, mut next) = (Arc::clone(&store), rotated(&current));
            next.rotation.recoveries = u32::try_from(n).unwrap();
            async move { store.compare_and_swap(next.version, &next).await.unwrap() }
        })
        .await;
        let winner = swapped.iter().position(|swapped| *swapped).expect("one succeeds");
        assert_eq!(swapped.iter().filter(|swapped| **swapped).count(), 1);
        let read = load(&*store, &current).await;
        assert_eq!(read.rotation.generation, current.rotation.generation + 1);
        assert_eq!(usize::try_from(read.rotation.recoveries).unwrap(), winner);
        current = read;
    }
}

pub async fn concurrent_logins_keep_to_the_session_limit(store: impl SessionStore) {
    let store = Arc::new(store);
    for round in 0..ROUNDS {
        for (user, on_max_sessions) in [("evicts", OnMaxSessions::EvictOldest), ("refuses", OnMaxSessions::Refuse)] {
            let user = format!("{user}{round}");
            let inserted = race(|n| {
                let (store, new) = (Arc::clone(&store), session(&user, later(i64::try_from(n).unwrap()), LIFETIME));
                async move { store.insert(&new, limited(3, on_max_sessions)).await.unwrap() }
            })
            .await;
            let refused = inserted.iter().filter(|inserted| **inserted == Inserted::LimitReached).count();
            let evicted: usize = inserted.iter().map(evicted).sum();
            assert_eq!(refused + evicted, TASKS - 3);
            assert_eq!(listed(&*store, &user).await.len(), 3);
        }
    }
}

pub async fn a_revocation_wins_against_concurrent_swaps(store: impl SessionStore) {
    let store = Arc::new(store);
    for _ in 0..ROUNDS {
        let first = new("alice");
        insert(&*store, &first).await;
        race(|n| {
            let (store, id) = (Arc::clone(&store), first.id);
            async move {
                if n == TASKS / 2 {
                    assert_eq!(store.revoke(user("alice"), revocation(NOW)).await.unwrap().count, 1);
                    return;
                }
                for _ in 0..5 {
                    let row = store.load(id).await.unwrap().unwrap();
                    if row.rotation.revoked.is_none() {
                        store.compare_and_swap(row.version, &rotated(&row)).await.unwrap();
                    }
                    store
                        .record_activity(&[Activity { id, last_seen_at: later(1), acknowledged: Some(1) }])
                        .await
                        .unwrap();
                }
            }
        })
        .await;
        assert_eq!(load(&*store, &first).await.rotation.revoked, Some(revocation(NOW)));
        assert!(listed(&*store, "alice").await.is_empty());
    }
}

pub async fn when_a_user_is_revoked_while_logging_in_each_session_is_either_live_or_revoked_for_good(
    store: impl SessionStore,
) {
    let store = Arc::new(store);
    for round in 0..ROUNDS {
        let id = format!("user{round}");
        let sessions: Vec<_> = race(|n| {
            let (store, id) = (Arc::clone(&store), id.clone());
            async move {
                if n % 4 == 0 {
                    store.revoke(user(&id), revocation(NOW)).await.unwrap();
                    return None;
                }
                let new = new(&id);
                store.insert(&new, unlimited()).await.unwrap();
                Some(new)
            }
        })
        .await
        .into_iter()
        .flatten()
        .collect();
        let (live, feed) = (listed(&*store, &id).await, feed(&*store).await);
        for session in &sessions {
            let is_live = load(&*store, session).await.rotation.revoked.is_none();
            assert_eq!(is_live, live.contains(&session.id));
            assert!(is_live || names(&feed, session));
        }
        store.revoke(user(&id), revocation(NOW)).await.unwrap();
        for session in &sessions {
            assert!(load(&*store, session).await.rotation.revoked.is_some());
        }
    }
}
