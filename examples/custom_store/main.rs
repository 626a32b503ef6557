//! A session store of your own: the nine methods it needs, and how to test them.
//!
//! The store is in `journal.rs`. This program logs in once more at every run and lists the sessions in the file:
//!
//! ```sh
//! cargo run --example custom_store -- sessions.jsonl
//! ```
//!
//! The tests below run the crate's conformance tests against the store:
//!
//! ```sh
//! cargo test --example custom_store --features conformance
//! ```

mod journal;

use std::time::SystemTime;

use axum_refresh::{Auth, NoClaims, Secret};
use journal::JournalStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("usage: custom_store FILE")?;
    let auth: Auth = Auth::builder(Secret::random()?, JournalStore::open(file)?).build()?;
    let login = auth.login("alice", NoClaims {}).await?;
    for session in auth.sessions("alice").await? {
        let age = SystemTime::now().duration_since(session.created_at).unwrap_or_default().as_secs();
        let is_new = if session.id == login.tokens.session_id { " (this login)" } else { "" };
        println!("{}, logged in {age} s ago{is_new}", session.id);
    }
    Ok(())
}

#[cfg(all(test, feature = "conformance"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::JournalStore;

    /// A file that does not exist yet.
    fn new_file() -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("axum-refresh-{}-{}.jsonl", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        // A process with the same id may have left one.
        std::fs::remove_file(&path).ok();
        path
    }

    /// An empty store, whose file is deleted with it: on Unix an open file needs no name.
    fn new_store() -> JournalStore {
        let file = new_file();
        let store = JournalStore::open(&file).unwrap();
        std::fs::remove_file(&file).ok();
        store
    }

    mod contract {
        axum_refresh::store_conformance!(async { super::new_store() });
    }

    #[tokio::test]
    async fn everything_written_is_there_after_the_file_is_opened_again() {
        use axum_refresh::store::conformance::session;
        use std::time::Duration;

        use axum_refresh::RevocationReason;
        use axum_refresh::store::{
            FeedCursor, FeedWindow, InsertOptions, Revocation, RevokeTarget, RevokedItem, SessionStore as _, Timestamp,
        };

        let (file, now) = (new_file(), Timestamp::from_millis(1_700_000_000_000));
        let store = JournalStore::open(&file).unwrap();
        let (kept, revoked, purged) = (session("a", now, 9_000), session("a", now, 9_000), session("b", now, 10));
        for session in [&kept, &revoked, &purged] {
            store.insert(session, InsertOptions::default()).await.unwrap();
        }
        let revocation = Revocation { at: now, reason: RevocationReason::Logout };
        store.revoke(RevokeTarget::Session(revoked.id), revocation).await.unwrap();
        store.purge(Timestamp::from_millis(now.as_millis() + 100), 10).await.unwrap();
        drop(store);
        // Cut off the last line, as a crash does.
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str(r#"{"Session":[9,{"id":"#);
        std::fs::write(&file, text).unwrap();

        let store = JournalStore::open(&file).unwrap();
        assert_eq!(store.load(kept.id).await.unwrap(), Some(kept));
        assert_eq!(store.load(revoked.id).await.unwrap().unwrap().rotation.revoked, Some(revocation));
        assert_eq!(store.load(purged.id).await.unwrap(), None);
        let window = FeedWindow { max_age: Duration::MAX, overlap: Duration::ZERO, limit: 10 };
        let feed = store.read_revocations(FeedCursor::START, window).await.unwrap();
        let items: Vec<_> = feed.entries.into_iter().map(|entry| entry.item).collect();
        assert_eq!(items, [RevokedItem::Session(revoked.id)]);
        std::fs::remove_file(&file).unwrap();
    }
}
