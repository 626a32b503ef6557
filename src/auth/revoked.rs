//! Waiting for the end of a session.

use std::future::Future;
use std::pin::Pin;

use super::verify::Authenticator;
use super::{Auth, AuthUser, Claims};

/// # Open streams
impl<C: Claims> Auth<C> {
    /// Completes once the caller's session is revoked: what an open stream or WebSocket waits for beside its own work.
    ///
    /// However it is revoked, and on whichever node: by a logout, by the user or an administrator, because of reuse or of a
    /// client mismatch, by the [session limit](crate::Policy::max_sessions), by a login in its place, with the session of
    /// whoever [acts](crate::LoginBuilder::acting) for the user, together with all
    /// sessions of the user, or with everyone's. It completes on this node at once, on every other one within a second, and at
    /// once if the session is revoked already. It also completes if the access token that the caller was identified by is
    /// [revoked alone](Self::revoke_access_token).
    ///
    /// The future can be moved into a task of its own, and dropped at any time. It is no activity: it does not keep the session
    /// from becoming idle. It holds a clone of the `Auth`, so the background task goes on for as long as somebody waits.
    ///
    /// What it does not see:
    ///
    /// - The end of the session's lifetime or idle time, which nobody writes down when it comes. End a stream after some
    ///   hours, so that its client connects again and the layers check the session.
    /// - The expiry of the access token, at [`AuthUser::expires_at`]. Streams may outlive their token, because the session
    ///   may go on.
    /// - Anything while the store is unreachable. Revocations made meanwhile are seen when it is back. The exception is an access
    ///   token that was revoked alone while the store was unreachable for longer than access tokens live.
    ///
    /// Costs no call of the store, and about 600 bytes of memory. If many sessions of the user were revoked at once, one
    /// `load` tells whether this one was among them; at most 16 on a node run at the same time.
    ///
    /// ```
    /// use axum::extract::State;
    /// use axum::extract::ws::{Message, WebSocketUpgrade};
    /// use axum::response::Response;
    /// use axum_refresh::{Auth, AuthUser};
    ///
    /// async fn echo(upgrade: WebSocketUpgrade, State(auth): State<Auth>, user: AuthUser) -> Response {
    ///     let mut revoked = auth.revoked(&user);
    ///     upgrade.on_upgrade(move |mut socket| async move {
    ///         loop {
    ///             tokio::select! {
    ///                 () = &mut revoked => break,
    ///                 message = socket.recv() => {
    ///                     let Some(Ok(message)) = message else { break };
    ///                     if socket.send(message).await.is_err() {
    ///                         break;
    ///                     }
    ///                 }
    ///             }
    ///         }
    ///         let _ = socket.send(Message::Close(None)).await;
    ///     })
    /// }
    /// # fn app(auth: &Auth) -> axum::Router<Auth> {
    /// #     axum::Router::new().route("/echo", axum::routing::any(echo).layer(auth.layer()))
    /// # }
    /// ```
    pub fn revoked(&self, caller: &AuthUser<C>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.inner.authenticator.revoked(caller, self.clone())
    }
}

impl<C: Claims> Authenticator<C> {
    /// `held` is dropped with the future.
    pub(super) fn revoked(
        &self,
        caller: &AuthUser<C>,
        held: impl Send + 'static,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let authenticator = self.clone();
        self.start();
        // From now on, not from the first poll.
        let has_expired = self.now() >= caller.expires_at;
        let wait = |session_id, user_id| self.wait_for(session_id, user_id, caller.token_id, has_expired);
        let own = wait(caller.session_id, &caller.id);
        let actors = caller.actor().map(|actor| wait(actor.session_id, &actor.user_id));
        Box::pin(async move {
            let _held = held;
            // On the runtime that polls it, if there was none before.
            authenticator.start();
            let own = authenticator.wait_with(&own);
            let Some(actors) = actors else { return own.await };
            tokio::select! {
                () = own => {}
                () = authenticator.wait_with(&actors) => {}
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};
    use std::time::{Duration, SystemTime};

    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;
    use crate::auth::NoClaims;
    use crate::session::RevocationReason;
    use crate::store::MemoryStore;
    use crate::token::keys::Secret;

    fn auth() -> Auth {
        Auth::builder(Secret::random().unwrap(), MemoryStore::new()).build().unwrap()
    }

    async fn log_in(auth: &Auth, user_id: &str) -> AuthUser {
        let login = auth.login(user_id, NoClaims {}).await.unwrap();
        auth.authenticate(&login.tokens.access_token).await.unwrap()
    }

    async fn is_revoked(revoked: impl Future<Output = ()>) -> bool {
        timeout(Duration::from_millis(20), revoked).await.is_ok()
    }

    fn waiting(auth: &Auth) -> (usize, usize) {
        auth.inner.node.revoked.waiters().count()
    }

    #[tokio::test]
    async fn whoever_has_waited_or_stopped_to_wait_leaves_nothing_behind() {
        let auth = auth();
        let (alice, bob) = (log_in(&auth, "alice").await, log_in(&auth, "bob").await);
        let mut of_alice: Vec<_> = (0..10).map(|_| auth.revoked(&alice)).collect();
        let mut of_bob = auth.revoked(&bob);
        assert_eq!(waiting(&auth), (11, 11));
        // One that was never polled, and one that was.
        drop(of_alice.pop());
        let mut polled = of_alice.pop().unwrap();
        assert!(!is_revoked(&mut polled).await);
        drop(polled);
        assert_eq!(waiting(&auth), (9, 9));
        auth.revoke_session(alice.session_id, RevocationReason::Other).await.unwrap();
        for revoked in &mut of_alice {
            assert!(is_revoked(revoked).await);
        }
        assert!(!is_revoked(&mut of_bob).await);
        assert_eq!(waiting(&auth), (1, 1));
        drop(of_bob);
        assert_eq!(waiting(&auth), (0, 0));
    }

    #[tokio::test]
    async fn a_task_that_is_busy_for_longer_than_revocations_are_kept_still_learns_of_its_own() {
        for whole_user in [false, true] {
            let auth = auth();
            let alice = log_in(&auth, "alice").await;
            let revoked = auth.revoked(&alice);
            if whole_user {
                auth.revoke_all(RevocationReason::Other).await.unwrap();
            } else {
                auth.revoke_session(alice.session_id, RevocationReason::Other).await.unwrap();
            }
            let later = SystemTime::now() + Duration::from_secs(3600);
            auth.inner.node.revoked.forget(later.into());
            assert_eq!(auth.inner.node.revoked.len(), 0);
            assert!(is_revoked(revoked).await);
            // With a token that has expired since, the store is asked.
            let mut expired = alice.clone();
            expired.expires_at = auth.now();
            assert!(is_revoked(auth.revoked(&expired)).await);
        }
    }

    /// Counts how often a future is woken.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn a_revocation_wakes_those_whom_it_concerns_and_nobody_else() {
        let auth = auth();
        let mut streams = Vec::new();
        for user_id in ["alice", "alice", "bob", "carol"] {
            let user = log_in(&auth, user_id).await;
            for _ in 0..100 {
                let (mut revoked, counter) = (auth.revoked(&user), Arc::new(Counter::default()));
                let waker = Waker::from(Arc::clone(&counter));
                assert!(revoked.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                streams.push((user.session_id, revoked, counter));
            }
        }
        let woken = || -> Vec<usize> {
            let count = |streams: &[(_, _, Arc<Counter>)]| {
                streams.iter().map(|(.., counter)| counter.0.swap(0, Ordering::SeqCst)).sum()
            };
            streams.chunks(100).map(count).collect()
        };
        auth.revoke_session(streams[0].0, RevocationReason::Other).await.unwrap();
        assert_eq!(woken(), [100, 0, 0, 0]);
        auth.revoke_user("bob", None, RevocationReason::Other).await.unwrap();
        assert_eq!(woken()[1..], [0, 100, 0]);
        auth.revoke_all(RevocationReason::Other).await.unwrap();
        let woken = woken();
        assert_eq!([woken[1], woken[3]], [100, 100]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_revocation_is_not_missed_however_it_races_with_the_wait() {
        const ROUNDS: usize = 1_000;
        let auth = auth();
        for round in 0..ROUNDS {
            let user = log_in(&auth, &format!("user {}", round % 7)).await;
            let mut tasks = JoinSet::new();
            for _ in 0..3 {
                let (auth, user) = (auth.clone(), user.clone());
                tasks.spawn(async move { auth.revoked(&user).await });
            }
            let (revoking, id) = (auth.clone(), user.session_id);
            tasks.spawn(async move {
                for _ in 0..round % 5 {
                    tokio::task::yield_now().await;
                }
                match round % 4 {
                    0 => drop(revoking.revoke_user(&user.id, None, RevocationReason::Other).await.unwrap()),
                    1 => revoking.revoke_token_id(&user.token_id(), user.expires_at()).await.unwrap(),
                    _ => revoking.revoke_session(id, RevocationReason::Other).await.unwrap(),
                }
            });
            let all = timeout(Duration::from_secs(10), tasks.join_all()).await;
            assert!(all.is_ok(), "round {round}");
        }
        assert_eq!(waiting(&auth), (0, 0));
    }
}
