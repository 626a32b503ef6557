//! Tests for stores: the whole contract of [`SessionStore`](crate::SessionStore), as the macro
//! [`store_conformance!`](crate::store_conformance), and [`session`], which creates a record for tests of your own.

#[doc(hidden)]
pub mod rules;

use super::{Authentication, Client, RotationState, SecretHash, SessionId, SessionRecord, Timestamp, Transport};

/// Tests a session store against the whole contract of [`SessionStore`](crate::SessionStore): one test function for
/// each rule, races included. Requires the feature `conformance`.
///
/// The argument is an expression of a future that creates a new, empty store. Each test awaits a store of its own, on a
/// multi-threaded tokio runtime, and the tests run concurrently: stores that share a database need separate schemas,
/// files or key prefixes. Put the call in a module of its own. The crate that calls it needs `tokio` with the features
/// `macros` and `rt-multi-thread` as a dev-dependency.
///
/// ```
/// # mod my { pub use axum_refresh::MemoryStore as Store; }
/// #[cfg(test)]
/// mod contract {
///     axum_refresh::store_conformance!(async { my::Store::new() });
/// }
/// # fn main() {}
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "conformance")))]
#[macro_export]
macro_rules! store_conformance {
    ($store:expr) => {
        $crate::store_conformance! { @each $store;
            a_session_is_loaded_as_it_was_inserted
            an_unknown_session_is_none
            a_session_that_the_store_has_lost_can_still_be_revoked
            inserting_an_existing_id_is_an_error_and_changes_nothing
            compare_and_swap_writes_the_rotation_and_the_claims_and_increments_the_version
            compare_and_swap_from_another_version_changes_nothing
            compare_and_swap_never_recreates_a_missing_session
            compare_and_swap_never_turns_back_activity
            compare_and_swap_writes_the_last_client
            compare_and_swap_to_revoked_enters_the_feed
            list_returns_the_sessions_of_the_user_that_are_not_revoked
            sessions_are_found_by_the_one_at_the_identity_provider
            user_ids_are_compared_byte_for_byte
            the_session_limit_evicts_the_oldest
            the_session_limit_evicts_any_number_of_sessions_at_once
            the_session_limit_evicts_sessions_of_one_millisecond_in_the_order_of_insertion
            the_session_limit_refuses_and_writes_nothing
            the_session_limit_counts_only_live_sessions
            the_session_limit_counts_by_the_idle_timeout_of_each_session
            the_session_limit_neither_counts_nor_evicts_a_session_in_which_somebody_acts
            a_replaced_session_is_revoked_and_does_not_count
            a_replaced_session_that_has_expired_enters_the_feed_too
            only_a_session_of_the_same_user_is_replaced
            a_revoked_session_keeps_its_first_reason
            revoke_returns_the_sessions_that_were_live
            revoking_a_user_spares_the_exception
            a_late_revocation_of_a_user_spares_later_logins
            revoking_everyone_revokes_the_sessions_of_one_realm
            each_revocation_of_a_user_has_a_higher_cutoff
            a_list_is_limited_to_the_latest_logins
            revoke_makes_a_concurrent_compare_and_swap_fail
            the_feed_returns_everything_when_read_from_the_start
            the_feed_is_read_in_steps
            an_entry_of_the_feed_has_the_age_that_it_has_by_the_clock_of_the_store
            the_feed_continues_from_its_cursor
            revoking_a_revoked_session_enters_the_feed_again
            recorded_activity_is_a_maximum_and_does_not_change_the_version
            recorded_activity_revives_nothing
            purge_deletes_expired_sessions_in_bounded_steps
            purge_keeps_recent_entries_of_the_feed_whatever_the_clock_of_the_caller_says
            of_many_concurrent_swaps_from_one_version_one_succeeds
            concurrent_logins_keep_to_the_session_limit
            a_revocation_wins_against_concurrent_swaps
            when_a_user_is_revoked_while_logging_in_each_session_is_either_live_or_revoked_for_good
        }
    };
    (@each $store:expr; $($test:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                $crate::store::conformance::rules::$test($store.await).await;
            }
        )*
    };
}

/// Creates a record of a new session, for tests of a store: created at `created_at`, expiring `lifetime` milliseconds
/// later, without claims and without a known client.
///
/// Its id is random; each call returns another session.
///
/// # Panics
///
/// Panics if the operating system provides no random numbers.
#[allow(clippy::expect_used)]
pub fn session(user_id: &str, created_at: Timestamp, lifetime: i64) -> SessionRecord {
    let id = SessionId::generate(user_id).expect("the operating system provides random numbers");
    SessionRecord {
        id,
        user_id: user_id.into(),
        secret_hash: SecretHash::from_bytes([id.as_bytes()[3]; 32]),
        created_at,
        client: Client::default(),
        authentication: Authentication::at(created_at),
        persistent: None,
        transport: Transport::Cookie,
        can_refresh: true,
        external: None,
        last_client: None,
        claims: "{}".into(),
        rotation: RotationState::new(
            created_at,
            Timestamp::from_millis(created_at.as_millis().saturating_add(lifetime)),
        ),
        version: 0,
    }
}
