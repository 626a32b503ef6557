//! The settings of a node: plain data that any deploy may change, and always valid.

use std::time::Duration;

use axum_refresh::config::OnReuse;
use axum_refresh::store::OnMaxSessions;
use axum_refresh::{Policy, Settings};
use proptest::prelude::*;
use proptest::sample::select;

use super::server::Version;
use crate::SECRET;
use crate::oracle::{Millis, Rules};

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;
const HOUR: Millis = 60 * MINUTE;
const DAY: Millis = 24 * HOUR;

pub(super) const SECRETS: [&str; 2] = [SECRET, "Wq8Zt3Lr6Yb1Nc5Xv9Mk2Hs7Pd4Jf0Gae5"];
pub(super) const STAFF: &str = "staff";

/// What a deploy may change. The numbers are what was asked for; see [`NodeSettings::valid`].
#[derive(Clone, Debug)]
pub(super) struct NodeSettings {
    pub(super) access_ttl: Millis,
    pub(super) grace: Millis,
    pub(super) leeway: Millis,
    pub(super) idle_timeout: Millis,
    pub(super) lifetime: Millis,
    pub(super) max_staleness: Millis,
    pub(super) rotation: bool,
    pub(super) on_reuse: OnReuse,
    pub(super) max_sessions: Option<u32>,
    pub(super) on_max_sessions: OnMaxSessions,
    pub(super) token_cache: usize,
    /// The secret that signs.
    pub(super) secret: usize,
    /// Whether the other secret is accepted.
    pub(super) verifies_others: bool,
    pub(super) claims: Version,
    pub(super) realm: Option<&'static str>,
}

pub(super) fn duration(millis: Millis) -> Duration {
    Duration::from_millis(millis.unsigned_abs())
}

impl NodeSettings {
    /// What refuses least, for as long as possible, and remembers revocations for as long as possible.
    pub(super) fn generous(realm: Option<&'static str>) -> Self {
        Self {
            access_ttl: DAY,
            grace: 2 * MINUTE,
            leeway: 2 * MINUTE,
            idle_timeout: 3650 * DAY,
            lifetime: 3650 * DAY,
            max_staleness: 30 * SECOND,
            rotation: true,
            on_reuse: OnReuse::Session,
            max_sessions: None,
            on_max_sessions: OnMaxSessions::EvictOldest,
            token_cache: 16,
            secret: 0,
            verifies_others: true,
            claims: Version::Role,
            realm,
        }
    }

    /// Each is at least as long as the one before it requires.
    fn valid(mut self) -> Self {
        self.access_ttl = self.access_ttl.max(self.grace + 1);
        self.idle_timeout = self.idle_timeout.max(self.access_ttl + self.leeway + 1);
        self.lifetime = self.lifetime.max(self.idle_timeout);
        self
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            policy: Policy {
                access_ttl: duration(self.access_ttl),
                grace: duration(self.grace),
                idle_timeout: duration(self.idle_timeout),
                lifetime: duration(self.lifetime),
                rotation: self.rotation,
                on_reuse: self.on_reuse,
                max_sessions: self.max_sessions,
                on_max_sessions: self.on_max_sessions,
                ..Policy::default()
            },
            leeway: duration(self.leeway),
            max_staleness: duration(self.max_staleness),
            token_cache: self.token_cache,
            realm: self.realm.map(str::to_owned),
            ..Settings::default()
        }
    }

    pub(super) const fn rules(&self) -> Rules {
        Rules { grace: self.grace, idle: self.idle_timeout, rotation: self.rotation }
    }

    /// Whether the node has the key of a token that was signed with this secret in this realm.
    pub(super) fn has_key(&self, secret: usize, realm: Option<&str>) -> bool {
        self.realm == realm && (self.verifies_others || self.secret == secret)
    }

    /// How long an access token may be in use after its session was revoked.
    pub(super) const fn retention(&self) -> Millis {
        self.access_ttl + self.grace + self.leeway
    }
}

/// Any settings. Shrinks to the first of each list.
pub(super) fn node_settings() -> impl Strategy<Value = NodeSettings> + Clone {
    let times = (
        select(vec![5 * MINUTE, 2 * SECOND, 10 * SECOND, MINUTE, HOUR, DAY]),
        select(vec![30 * SECOND, SECOND, 5 * SECOND, 2 * MINUTE]),
        select(vec![0, 1, 30 * SECOND, 2 * MINUTE]),
        select(vec![7 * DAY, 0, 10 * MINUTE, HOUR, DAY]),
        select(vec![30 * DAY, 0, 2 * HOUR, 7 * DAY]),
        select(vec![30 * SECOND, 2 * SECOND]),
    );
    let rules = (
        proptest::bool::weighted(0.2).prop_map(|off| !off),
        select(vec![OnReuse::Session, OnReuse::User]),
        select(vec![None, None, Some(1), Some(2), Some(3)]),
        select(vec![OnMaxSessions::EvictOldest, OnMaxSessions::EvictOldest, OnMaxSessions::Refuse]),
        select(vec![16_usize, 0]),
    );
    let keys = (
        select(vec![0_usize, 1]),
        proptest::bool::weighted(0.1).prop_map(|no| !no),
        select(vec![Version::Role, Version::Role, Version::Role, Version::Team, Version::Plan, Version::OnlyRole]),
        select(vec![None, None, None, None, Some(STAFF)]),
    );
    (times, rules, keys).prop_map(|(times, rules, keys)| {
        let (access_ttl, grace, leeway, idle_timeout, lifetime, max_staleness) = times;
        let (rotation, on_reuse, max_sessions, on_max_sessions, token_cache) = rules;
        let (secret, verifies_others, claims, realm) = keys;
        let settings = NodeSettings {
            access_ttl,
            grace,
            leeway,
            idle_timeout,
            lifetime,
            max_staleness,
            rotation,
            on_reuse,
            max_sessions,
            on_max_sessions,
            token_cache,
            secret,
            verifies_others,
            claims,
            realm,
        };
        settings.valid()
    })
}
