//! A node with any type of claims.

use std::time::Duration;

use axum_refresh::{
    Auth, AuthUser, Claims as AnyClaims, Error, Refreshed, RevocationReason, Secret, SessionId, Tokens,
};
use serde::{Deserialize, Serialize};

use super::settings::{NodeSettings, SECRETS};
use crate::world::{FaultyStore, RealNode};
use crate::{Claims, Clock, claims, client};

/// The versions of the app's claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// [`Claims`].
    Role,
    Team,
    Plan,
    OnlyRole,
}

impl Version {
    /// Whether this version reads what `writer` has written.
    pub(super) fn reads(self, writer: Self) -> bool {
        match self {
            Self::Role | Self::Team => true,
            Self::Plan => writer == Self::Plan,
            Self::OnlyRole => [Self::Role, Self::OnlyRole].contains(&writer),
        }
    }
}

/// A later version, with an optional field.
#[derive(Clone, Serialize, Deserialize)]
struct Team {
    role: String,
    #[serde(default)]
    team: Option<String>,
}

/// A later version, with a required field.
#[derive(Clone, Serialize, Deserialize)]
struct Plan {
    role: String,
    plan: String,
}

/// Reads nothing that a later version has written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnlyRole {
    role: String,
}

trait Versioned: AnyClaims {
    fn new(role: &str) -> Self;
    fn role(&self) -> &str;
}

impl Versioned for Claims {
    fn new(role: &str) -> Self {
        claims(role)
    }

    fn role(&self) -> &str {
        &self.role
    }
}

impl Versioned for Team {
    fn new(role: &str) -> Self {
        Self { role: role.to_owned(), team: None }
    }

    fn role(&self) -> &str {
        &self.role
    }
}

impl Versioned for Plan {
    fn new(role: &str) -> Self {
        Self { role: role.to_owned(), plan: "free".to_owned() }
    }

    fn role(&self) -> &str {
        &self.role
    }
}

impl Versioned for OnlyRole {
    fn new(role: &str) -> Self {
        Self { role: role.to_owned() }
    }

    fn role(&self) -> &str {
        &self.role
    }
}

/// The calls of an `Auth` with any claims. A role is a number.
pub(super) trait Server {
    fn login(&self, user: &str, role: u32, replacing: Option<SessionId>) -> Result<Tokens, Error>;
    fn refresh(&self, token: &str) -> Result<Refreshed, Error>;
    fn authenticate(&self, token: &str) -> Result<String, Error>;
    /// For the caller with this access token.
    fn update_claims(&self, token: &str, role: u32) -> Result<Tokens, Error>;
    fn logout(&self, token: &str) -> Result<(), Error>;
    fn revoke_session(&self, user: &str, id: SessionId) -> Result<(), Error>;
    fn revoke_user(&self, user: &str, except: Option<SessionId>) -> Result<usize, Error>;
    fn revoke_everyone(&self) -> Result<(), Error>;
    fn revoke_token(&self, token: &str) -> Result<(), Error>;
    fn sessions(&self, user: &str) -> Result<Vec<SessionId>, Error>;
    fn flush(&self) -> Result<(), Error>;
    /// Lets the background task do what it does after so much time.
    fn rest(&self, time: Duration);
}

impl<C: Versioned> Server for RealNode<C> {
    fn login(&self, user: &str, role: u32, replacing: Option<SessionId>) -> Result<Tokens, Error> {
        self.run(async |auth| {
            let login = auth.login(user, C::new(&role.to_string())).client(client());
            let login = match replacing {
                Some(old) => login.replacing(old),
                None => login,
            };
            Ok(login.await?.tokens)
        })
    }

    fn refresh(&self, token: &str) -> Result<Refreshed, Error> {
        self.run(async |auth| auth.refresh(token, client()).await)
    }

    fn authenticate(&self, token: &str) -> Result<String, Error> {
        self.run(async |auth| Ok(auth.authenticate(token).await?.claims.role().to_owned()))
    }

    fn update_claims(&self, token: &str, role: u32) -> Result<Tokens, Error> {
        self.run(async |auth| {
            let caller: AuthUser<C> = auth.authenticate(token).await?;
            Ok(auth.update_claims(&caller, C::new(&role.to_string())).await?.tokens)
        })
    }

    fn logout(&self, token: &str) -> Result<(), Error> {
        self.run(async |auth| auth.logout(token).await)
    }

    fn revoke_session(&self, user: &str, id: SessionId) -> Result<(), Error> {
        self.run(async |auth| auth.revoke_own_session(user, id).await)
    }

    fn revoke_user(&self, user: &str, except: Option<SessionId>) -> Result<usize, Error> {
        self.run(async |auth| auth.revoke_user(user, except, RevocationReason::Logout).await)
    }

    fn revoke_everyone(&self) -> Result<(), Error> {
        self.run(async |auth| auth.revoke_all(RevocationReason::RevokedByAdmin).await.map(drop))
    }

    fn revoke_token(&self, token: &str) -> Result<(), Error> {
        self.run(async |auth| auth.revoke_access_token(token).await)
    }

    fn sessions(&self, user: &str) -> Result<Vec<SessionId>, Error> {
        let sessions = self.run(async |auth| auth.sessions(user).await)?;
        Ok(sessions.into_iter().map(|session| session.id).collect())
    }

    fn flush(&self) -> Result<(), Error> {
        self.run(async |auth| auth.flush().await)
    }

    fn rest(&self, time: Duration) {
        self.run(async |_| {
            tokio::time::advance(time).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        });
    }
}

/// Builds a node. Its background task has not run yet.
pub(super) fn start(
    store: &FaultyStore,
    clock: Clock,
    settings: &NodeSettings,
    on_event: impl Fn(&axum_refresh::Event) + Send + Sync + 'static,
) -> Box<dyn Server> {
    fn with<C: Versioned>(
        store: &FaultyStore,
        clock: Clock,
        settings: &NodeSettings,
        on_event: impl Fn(&axum_refresh::Event) + Send + Sync + 'static,
    ) -> Box<dyn Server> {
        let node = RealNode::<C>::start(clock, |clock| {
            let secret = |number: usize| Secret::new(SECRETS[number]);
            let mut builder = Auth::<C>::builder(secret(settings.secret), store.clone());
            if settings.verifies_others {
                let others = (0..SECRETS.len()).filter(|number| *number != settings.secret);
                builder = others.fold(builder, |builder, number| builder.verify_secret(secret(number)));
            }
            builder.settings(settings.settings()).clock(clock.reader()).on_event(on_event).build().unwrap()
        });
        Box::new(node)
    }
    match settings.claims {
        Version::Role => with::<Claims>(store, clock, settings, on_event),
        Version::Team => with::<Team>(store, clock, settings, on_event),
        Version::Plan => with::<Plan>(store, clock, settings, on_event),
        Version::OnlyRole => with::<OnlyRole>(store, clock, settings, on_event),
    }
}
