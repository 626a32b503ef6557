//! A store of your own: what one takes, and how to test it.
//!
//! `cargo run --example custom_store -- FILE` logs in once more and lists the sessions that the file holds. The tests in
//! here (`cargo test --example custom_store --features conformance`) run the whole contract of a store against it.

mod journal;

use axum_refresh::{Auth, NoClaims, Secret};
use journal::JournalStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("usage: custom_store FILE")?;
    let auth = Auth::<NoClaims>::builder().secret(Secret::random()?).store(JournalStore::open(file)?).build()?;
    let login = auth.login("alice", NoClaims {}).await?;
    for session in auth.sessions("alice").await? {
        let is_new = if session.id == login.tokens.session { " (this one)" } else { "" };
        println!("{}, logged in at {} ms{is_new}", session.id, session.created_at.as_millis());
    }
    Ok(())
}

#[cfg(all(test, feature = "conformance"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::JournalStore;

    fn file() -> std::path::PathBuf {
        tempfile::tempdir().unwrap().keep().join("sessions")
    }

    mod contract {
        axum_refresh::store_conformance!(async { super::JournalStore::open(super::file()).unwrap() });
    }

    #[tokio::test]
    async fn what_was_written_is_there_when_the_file_is_opened_again() {
        use axum_refresh::store::conformance::session;
        use axum_refresh::{Admission, Cursor, Reason, Revocation, SessionStore as _, Target, Timestamp};
        let (file, now) = (file(), Timestamp::from_millis(1_700_000_000_000));
        let store = JournalStore::open(&file).unwrap();
        let (kept, ended, purged) = (session("a", now, 9_000), session("a", now, 9_000), session("b", now, 10));
        for session in [&kept, &ended, &purged] {
            store.insert(session, Admission { cap: None, replacing: None, until: now }).await.unwrap();
        }
        let revocation = Revocation { at: now, until: Timestamp::MAX, reason: Reason::Logout };
        store.revoke(Target::Session(ended.id), revocation).await.unwrap();
        store.purge(Timestamp::from_millis(now.as_millis() + 100), 10).await.unwrap();
        let feed = store.revocations(Cursor::START).await.unwrap();
        drop(store);
        // The last line is cut off, as after a crash.
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str(r#"{"Session":[9,{"id":"#);
        std::fs::write(&file, text).unwrap();
        let store = JournalStore::open(&file).unwrap();
        assert_eq!(store.load(kept.id).await.unwrap(), Some(kept));
        assert_eq!(store.load(ended.id).await.unwrap().unwrap().chain.revoked, Some(revocation));
        assert_eq!(store.load(purged.id).await.unwrap(), None);
        assert_eq!(store.revocations(Cursor::START).await.unwrap(), feed);
    }
}
