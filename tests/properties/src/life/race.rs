//! Races on real threads: a session that goes on while it is refreshed, ended or goes on elsewhere, and an actor whose
//! session ends while they begin to act.

use std::sync::Arc;
use std::time::Duration;

use axum_refresh::{Auth, AuthUser, Error, RevocationReason, Secret, SessionId, Tokens};
use tokio::sync::Barrier;

use crate::race::{Random, Slow, on_threads};
use crate::{Claims, Clock, Open, SECRET, claims, client};

/// Two nodes on one store.
struct Nodes {
    store: Slow,
    clock: Clock,
    nodes: [Auth<Claims>; 2],
}

impl Nodes {
    fn new(open: Open) -> Self {
        let store = Slow::over(open());
        let clock = Clock::new();
        let nodes = [0, 1].map(|_| start(&store, &clock));
        Self { store, clock, nodes }
    }

    /// One that has to learn everything from the store.
    fn another(&self) -> Auth<Claims> {
        start(&self.store, &self.clock)
    }
}

fn start(store: &Slow, clock: &Clock) -> Auth<Claims> {
    Auth::<Claims>::builder(Secret::new(SECRET), store.clone()).clock(clock.reader()).build().unwrap()
}

/// A call in a race about one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    GoOn,
    Refresh,
    Logout,
    RevokeUser,
    /// With refresh tokens, for another user.
    Act,
}

/// What it has led to.
#[derive(Debug)]
enum Outcome {
    /// Tokens of another session.
    Began(Tokens),
    /// Tokens of the same session.
    Refreshed(Tokens),
    Ended,
    Refused,
}

/// A session and what its browser has.
#[derive(Clone)]
struct Held {
    user: String,
    subject: String,
    caller: AuthUser<Claims>,
    access: String,
    refresh: String,
}

impl Held {
    async fn begin(auth: &Auth<Claims>, number: usize) -> Self {
        let (user, subject) = (format!("user{number}"), format!("subject{number}"));
        let tokens = auth.login(&user, claims("0")).client(client()).await.unwrap().tokens;
        let caller = auth.authenticate(&tokens.access_token).await.unwrap();
        Self { user, subject, caller, access: tokens.access_token, refresh: tokens.refresh_token.unwrap() }
    }

    fn session(&self) -> SessionId {
        self.caller.session_id
    }

    async fn call(&self, auth: &Auth<Claims>, call: Call) -> Outcome {
        let result = match call {
            Call::GoOn => {
                auth.reauthenticated(&self.caller).client(client()).await.map(|login| Outcome::Began(login.tokens))
            }
            Call::Refresh => {
                auth.refresh(&self.refresh, client()).await.map(|refreshed| Outcome::Refreshed(refreshed.tokens))
            }
            Call::Logout => auth.logout(&self.refresh).await.map(|()| Outcome::Ended),
            Call::RevokeUser => {
                auth.revoke_user(&self.user, None, RevocationReason::Other).await.map(|_| Outcome::Ended)
            }
            Call::Act => {
                let login = auth.login(&self.subject, claims("0")).client(client()).acting(&self.caller);
                login.with_refresh().await.map(|login| Outcome::Began(login.tokens))
            }
        };
        match result {
            Ok(outcome) => outcome,
            Err(Error::SessionNotFound | Error::SessionRevoked | Error::AccessTokenRevoked) => Outcome::Refused,
            Err(error) => panic!("{call:?}: {error}"),
        }
    }

    /// All calls at once.
    async fn race(&self, nodes: &Nodes, calls: &[(usize, Call)]) -> Vec<(usize, Call, Outcome)> {
        let barrier = Arc::new(Barrier::new(calls.len()));
        let calls = calls.iter().map(|(node, call)| {
            let (node, call, held, auth) = (*node, *call, self.clone(), nodes.nodes[*node].clone());
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                barrier.wait().await;
                (node, call, held.call(&auth, call).await)
            })
        });
        let mut outcomes = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            outcomes.push(call.await.unwrap());
        }
        outcomes
    }
}

/// The sessions that are listed.
async fn listed(auth: &Auth<Claims>, user: &str) -> Vec<SessionId> {
    auth.sessions(user).await.unwrap().iter().map(|session| session.id).collect()
}

async fn is_accepted(auth: &Auth<Claims>, access: &str) -> bool {
    match auth.authenticate(access).await {
        Ok(_) => true,
        Err(Error::AccessTokenRevoked) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn is_refreshed(auth: &Auth<Claims>, refresh: &str) -> bool {
    match auth.refresh(refresh, client()).await {
        Ok(_) => true,
        Err(Error::SessionRevoked) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Whatever wins: the old session is dead once it has gone on, exactly one session goes on from it, and a revocation of the
/// user ends both.
pub(crate) fn reauthentication_races(open: Open, rounds: usize) {
    on_threads(async {
        let nodes = Nodes::new(open);
        for number in 0..rounds {
            let random = &mut Random((u64::try_from(number).unwrap() << 20) + 2);
            let held = Held::begin(&nodes.nodes[random.below(2)], number).await;
            nodes.clock.advance(Duration::from_secs(31));
            let others = [Call::GoOn, Call::Refresh, Call::Refresh, Call::Logout, Call::RevokeUser];
            let more = 1 + random.below(3);
            let mut calls = vec![(random.below(2), Call::GoOn)];
            calls.extend((0..more).map(|_| (random.below(2), others[random.below(others.len())])));
            let outcomes = held.race(&nodes, &calls).await;
            let round = || format!("round {number}: {outcomes:?}");
            let had = |call| outcomes.iter().any(|(_, made, _)| *made == call);
            let began: Vec<_> = outcomes
                .iter()
                .filter_map(|(_, _, outcome)| if let Outcome::Began(tokens) = outcome { Some(tokens) } else { None })
                .collect();
            // A logout and a revocation may come first.
            let may_fail = had(Call::Logout) || had(Call::RevokeUser);
            assert!(began.len() == 1 || may_fail && began.is_empty(), "{}", round());
            // The old session, on the nodes that have ended it and on one that reads the feed.
            let another = nodes.another();
            let ends = |outcome: &Outcome| matches!(outcome, Outcome::Began(_) | Outcome::Ended);
            let is_only = outcomes.iter().filter(|(.., outcome)| ends(outcome)).count() == 1;
            for (node, call, outcome) in &outcomes {
                // A revocation of a user who has no session left is not written, and the feed has the one before it.
                if ends(outcome) && (is_only || *call != Call::RevokeUser) {
                    assert!(!is_accepted(&nodes.nodes[*node], &held.access).await, "{}", round());
                }
            }
            assert!(!is_accepted(&another, &held.access).await, "{}", round());
            for (.., outcome) in &outcomes {
                if let Outcome::Refreshed(tokens) = outcome {
                    assert!(!is_accepted(&another, &tokens.access_token).await, "{}", round());
                    let next = tokens.refresh_token.as_ref().unwrap_or(&held.refresh);
                    assert!(!is_refreshed(&another, next).await, "{}", round());
                }
            }
            assert!(!is_refreshed(&another, &held.refresh).await, "{}", round());
            // The new one. A revocation of the user has ended it, because the old one could not go on after that.
            let lives = !had(Call::RevokeUser);
            for tokens in &began {
                assert_eq!(is_accepted(&another, &tokens.access_token).await, lives, "{}", round());
                assert_eq!(is_refreshed(&another, tokens.refresh_token.as_ref().unwrap()).await, lives, "{}", round());
            }
            let expected: Vec<_> = began.iter().filter(|_| lives).map(|tokens| tokens.session_id).collect();
            assert_eq!(listed(&another, &held.user).await, expected, "{}", round());
            assert!(!expected.contains(&held.session()), "{}", round());
        }
    });
}

/// Whatever wins: once the actor's session has ended, nobody acts on from it.
pub(crate) fn actor_races(open: Open, rounds: usize) {
    on_threads(async {
        let nodes = Nodes::new(open);
        for number in 0..rounds {
            let random = &mut Random((u64::try_from(number).unwrap() << 20) + 3);
            let held = Held::begin(&nodes.nodes[random.below(2)], number).await;
            let before = held.call(&nodes.nodes[random.below(2)], Call::Act).await;
            let Outcome::Began(before) = before else { panic!("{before:?}") };
            nodes.clock.advance(Duration::from_secs(31));
            let end = [Call::Logout, Call::RevokeUser, Call::GoOn][random.below(3)];
            let ends_at = random.below(2);
            let mut calls = vec![(ends_at, end)];
            calls.extend((0..=random.below(3)).map(|_| (random.below(2), Call::Act)));
            let outcomes = held.race(&nodes, &calls).await;
            let round = || format!("round {number}: {outcomes:?}");
            let acting = outcomes.iter().filter_map(|(_, call, outcome)| match outcome {
                Outcome::Began(tokens) if *call == Call::Act => Some(tokens),
                _ => None,
            });
            let acting: Vec<_> = acting.chain([&before]).collect();
            assert!(
                outcomes.iter().all(|(_, call, outcome)| *call == Call::Act || !matches!(outcome, Outcome::Refused))
            );
            let (here, another) = (&nodes.nodes[ends_at], nodes.another());
            // The other node reads the feed when it was not read for a while.
            nodes.clock.advance(Duration::from_secs(31));
            for auth in [here, &another, &nodes.nodes[1 - ends_at]] {
                for tokens in &acting {
                    assert!(!is_accepted(auth, &tokens.access_token).await, "{}", round());
                    assert!(!is_refreshed(auth, tokens.refresh_token.as_ref().unwrap()).await, "{}", round());
                }
                assert_eq!(listed(auth, &held.subject).await, [], "{}", round());
            }
        }
    });
}
