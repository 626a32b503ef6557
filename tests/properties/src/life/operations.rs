//! What begins and ends sessions.

use std::time::{Duration, SystemTime};

use axum_refresh::{Auth, Error, LoginBuilder, RevocationReason, SessionId};

use super::node::{How, Way};
use super::oracle::{Expected, Login, Session};
use super::world::{Client, EXTERNAL, USERS, World};
use crate::oracle::Millis;
use crate::world::Check;
use crate::{Claims, claims, client};

/// What an app chooses for a login.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) acr: Option<&'static str>,
    pub(super) amr: &'static [&'static str],
    /// How long ago an identity provider has authenticated the user.
    pub(super) authenticated_ago: Option<Millis>,
    pub(super) label: Option<&'static str>,
    pub(super) persistent: Option<bool>,
    pub(super) external: Option<usize>,
    pub(super) idle_timeout: Option<Millis>,
    pub(super) lifetime: Option<Millis>,
    pub(super) with_refresh: Option<bool>,
}

/// How a handler names the session whose user it has authenticated again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Named {
    Caller,
    Id,
    RefreshToken,
}

fn duration(millis: Millis) -> Duration {
    Duration::from_millis(millis.unsigned_abs())
}

impl Terms {
    fn apply(self, mut login: LoginBuilder<Claims>, now: Millis) -> LoginBuilder<Claims> {
        login = login.amr(self.amr.iter().copied());
        if let Some(acr) = self.acr {
            login = login.acr(acr);
        }
        if let Some(ago) = self.authenticated_ago {
            login = login.auth_time(SystemTime::UNIX_EPOCH + duration(now - ago));
        }
        if let Some(label) = self.label {
            login = login.label(label);
        }
        if let Some(persistent) = self.persistent {
            login = login.persistent(persistent);
        }
        if let Some(external) = self.external {
            login = login.external(EXTERNAL[external].0, EXTERNAL[external].1);
        }
        if let Some(idle_timeout) = self.idle_timeout {
            login = login.idle_timeout(duration(idle_timeout));
        }
        if let Some(lifetime) = self.lifetime {
            login = login.lifetime(duration(lifetime));
        }
        match self.with_refresh {
            Some(true) => login.with_refresh(),
            Some(false) => login.without_refresh(),
            None => login,
        }
    }

    fn auth_time(self, now: Millis) -> i64 {
        (now - self.authenticated_ago.unwrap_or(0).max(0)) / 1000
    }

    fn agreed(self, user: usize, now: Millis) -> Login {
        Login {
            user,
            auth_time: self.auth_time(now),
            acr: self.acr,
            amr: self.amr,
            actor: None,
            label: self.label,
            persistent: self.persistent,
            external: self.external,
            idle_timeout: self.idle_timeout,
            lifetime: self.lifetime,
            with_refresh: self.with_refresh.unwrap_or(true),
        }
    }
}

/// Whether it is granted. A failure is no refusal.
fn is_granted<T>(result: &Result<T, Error>) -> Check<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(Error::SessionNotFound | Error::AccessTokenRevoked | Error::Login(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

impl World {
    pub(super) fn login(&mut self, node: usize, user: usize, terms: Terms) -> Check {
        let agreed = terms.agreed(user, self.nodes[node].now());
        let begin = async |auth: &Auth<Claims>, now| {
            terms.apply(auth.login(USERS[user], claims("0")).client(client()), now).await
        };
        let what = || format!("node {node}: {} logs in: {terms:?}", USERS[user]);
        self.begin(node, what, Expected::Granted, &agreed, 0, None, begin).map(drop)
    }

    /// A handler acts for a user on behalf of whoever it was called for, perhaps a while ago.
    pub(super) fn act(&mut self, node: usize, admin: usize, user: usize, terms: Terms) -> Check {
        let actor = self.clients[admin].session;
        let caller = self.clients[admin].caller.clone();
        let now = self.nodes[node].now();
        let its = self.oracle.sessions[actor].login.clone();
        let may_act = its.user != user && its.actor.is_none();
        let expected = if may_act { self.oracle.expected(node, actor, now) } else { Expected::Refused };
        let agreed = Login {
            actor: Some(actor),
            auth_time: terms.authenticated_ago.map_or(its.auth_time.min(now / 1000), |_| terms.auth_time(now)),
            acr: terms.acr.or(its.acr),
            amr: if terms.amr.is_empty() { its.amr } else { terms.amr },
            with_refresh: terms.with_refresh.unwrap_or(false),
            ..terms.agreed(user, now)
        };
        let begin = async |auth: &Auth<Claims>, now| {
            let login = auth.login(USERS[user], claims("0")).client(client()).acting(&caller);
            terms.apply(login, now).await
        };
        let what = || format!("node {node}: session {actor} acts for {}: {terms:?}", USERS[user]);
        self.begin(node, what, expected, &agreed, 0, None, begin).map(drop)
    }

    /// Rule 4.
    pub(super) fn reauthenticate(&mut self, node: usize, client: usize, named: Named, terms: Terms) -> Check {
        let known = &self.clients[client];
        let (old, caller, refresh) = (known.session, known.caller.clone(), known.refresh.clone());
        let now = self.nodes[node].now();
        let before = self.oracle.sessions[old].clone();
        // Only what says how the user was authenticated is said again.
        let terms = Terms {
            label: None,
            persistent: None,
            external: None,
            idle_timeout: None,
            lifetime: None,
            with_refresh: None,
            ..terms
        };
        let agreed = Login { auth_time: terms.auth_time(now), acr: terms.acr, amr: terms.amr, ..before.login.clone() };
        let expected = self.oracle.reauthentication(old, now);
        let begin = async |auth: &Auth<Claims>, now| {
            let session = match (named, refresh) {
                (Named::Caller, _) => SessionId::from(&caller),
                (Named::RefreshToken, Some(refresh)) => {
                    let found = auth.session_of_refresh_token(&refresh).await?;
                    found.ok_or(Error::SessionNotFound)?.id
                }
                (Named::Id | Named::RefreshToken, _) => caller.session_id,
            };
            terms.apply(auth.reauthenticated(session), now).await
        };
        let what = || format!("node {node}: session {old} goes on, by {named:?}: {terms:?}");
        self.begin(node, what, expected, &agreed, before.claims, Some(old), begin).map(drop)
    }

    #[expect(clippy::too_many_arguments, reason = "what differs between the three ways in which a session begins")]
    fn begin(
        &mut self,
        node: usize,
        what: impl Fn() -> String,
        expected: Expected,
        agreed: &Login,
        role: u32,
        old: Option<usize>,
        begin: impl AsyncFnOnce(&Auth<Claims>, Millis) -> Result<axum_refresh::Login, Error>,
    ) -> Check<bool> {
        let now = self.nodes[node].now();
        let login = self.nodes[node].run(async |auth| begin(auth, now).await);
        let with_what = |error: String| format!("{}: {error}", what());
        let granted = is_granted(&login).map_err(with_what)?;
        let Some(login) = login.ok().filter(|_| granted) else { return self.compare(&what, false, expected) };
        self.compare(&what, true, expected)?;
        self.ids.push(login.tokens.session_id);
        let session = self.oracle.begin(node, agreed.clone(), role, now, old);
        let tokens = self.nodes[node].respond(login).handed_out().map_err(with_what)?;
        if tokens.refresh.is_some() != agreed.with_refresh {
            return Err(format!("{}: a refresh token: {}", what(), tokens.refresh.is_some()));
        }
        // Passive, because it is no use of the actor's.
        let caller = self.nodes[node].access(&tokens.access, Way::Layer, How::PassiveHeader)?;
        let caller = caller.ok_or_else(|| format!("{}: the access token is refused", what()))?;
        self.clients.push(Client::new(session, caller));
        let how = if agreed.actor.is_some() { How::PassiveHeader } else { How::Active };
        self.keep(node, self.clients.len() - 1, how, tokens).map_err(with_what)?;
        Ok(true)
    }

    pub(super) fn logout(&mut self, node: usize, client: usize, by_refresh: bool) -> Check {
        let known = &self.clients[client];
        let session = known.session;
        let refresh = known.refresh.clone().filter(|_| by_refresh);
        let access = known.newest_pass().to_owned();
        let now = self.nodes[node].now();
        // An expired access token identifies nobody.
        let until = self.clients[client].valid_until();
        if refresh.is_none() && (until.0..until.1).contains(&now) {
            return Ok(());
        }
        let is_named = refresh.is_some() || now < until.0;
        let status = self.nodes[node].logout_by(refresh.as_deref(), &access);
        self.log(|| format!("node {node}: logout of session {session}: {status}"));
        if status != 204 {
            return Err(format!("node {node}: logout of session {session}: status {status}"));
        }
        if is_named {
            self.oracle.end(node, session);
        }
        Ok(())
    }

    pub(super) fn revoke_session(&mut self, node: usize, client: usize) -> Check {
        let session = self.clients[client].session;
        let (id, now) = (self.ids[session], self.nodes[node].now());
        let revoked =
            self.nodes[node].run(async |auth| auth.revoke_session(id, RevocationReason::RevokedByAdmin).await);
        let what = || format!("node {node}: revocation of session {session}");
        let expected = self.oracle.expected(node, session, now);
        if self.compare(what, is_granted(&revoked)?, expected)? {
            self.oracle.end(node, session);
        }
        Ok(())
    }

    pub(super) fn revoke_user(&mut self, node: usize, user: usize, except: Option<usize>) -> Check {
        let except = except.map(|client| self.clients[client].session);
        self.log(|| format!("node {node}: revocation of {} but {except:?}", USERS[user]));
        let id = except.map(|session| self.ids[session]);
        let revoked =
            self.nodes[node].run(async |auth| auth.revoke_user(USERS[user], id, RevocationReason::Logout).await);
        revoked.map_err(|error| error.to_string())?;
        self.oracle.end_all(node, |number, session| session.login.user == user && Some(number) != except);
        Ok(())
    }

    pub(super) fn revoke_everyone(&mut self, node: usize) -> Check {
        self.log(|| format!("node {node}: revocation of everyone"));
        let revoked = self.nodes[node].run(async |auth| auth.revoke_all(RevocationReason::Other).await);
        revoked.map_err(|error| error.to_string())?;
        self.oracle.end_all(node, |_, _| true);
        Ok(())
    }

    /// Rule 5.
    pub(super) fn revoke_external(&mut self, node: usize, external: usize) -> Check {
        let now = self.nodes[node].now();
        let (issuer, sid) = EXTERNAL[external];
        let revoked = self.nodes[node].run(async |auth| auth.revoke_external(issuer, sid).await);
        let revoked = revoked.map_err(|error| error.to_string())?;
        self.log(|| format!("node {node}: revocation of external session {external}: {revoked}"));
        let sessions = &self.oracle.sessions;
        let is_found =
            |session: &Session| session.login.external == Some(external) && !session.ended && now < session.expires;
        let found: Vec<_> = (0..sessions.len()).filter(|session| is_found(&sessions[*session])).collect();
        if revoked != found.len() {
            return Err(format!("node {node}: {revoked} sessions of pair {external} were revoked, and not {found:?}"));
        }
        self.oracle.end_all(node, |_, session| session.login.external == Some(external));
        Ok(())
    }

    /// A handler updates the claims of whoever it was called for, perhaps a while ago.
    pub(super) fn update_claims(&mut self, node: usize, client: usize) -> Check {
        let session = self.clients[client].session;
        let caller = self.clients[client].caller.clone();
        let now = self.nodes[node].now();
        self.updates += 1;
        let number = self.updates;
        let expected = self.oracle.expected(node, session, now);
        let updated = self.nodes[node].run(async |auth| auth.update_claims(&caller, claims(&number.to_string())).await);
        let what = || format!("node {node}: session {session} gets claims {number}");
        let granted = is_granted(&updated)?;
        if self.compare(what, granted, expected)?
            && let Ok(login) = updated
        {
            self.oracle.update_claims(node, session, number);
            let tokens = self.nodes[node].respond(login).handed_out()?;
            self.keep(node, client, How::PassiveHeader, tokens)?;
        }
        Ok(())
    }
}
