//! What an app chooses for one login: how the user was authenticated, how long the session lasts, and who acts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{AuthUser, LoginBuilder};
use crate::config::ResolvedSettings;
use crate::error::{Error, LoginError};
use crate::node::Node;
use crate::session::{Actor, Authentication, ExternalId, SessionId};
use crate::store::SessionRecord;
use crate::time::Timestamp;

/// How long somebody may act for a user, at most.
const MAX_ACTING: Duration = Duration::from_secs(3600);

/// What the app has chosen. None of it is checked yet.
#[derive(Clone, Default)]
pub(super) struct Terms {
    auth_time: Option<Timestamp>,
    acr: Option<String>,
    amr: Vec<Box<str>>,
    persistent: Option<bool>,
    lifetime: Option<Duration>,
    /// When the session ends that this one continues.
    expires_at: Option<Timestamp>,
    idle_timeout: Option<Duration>,
    with_refresh: Option<bool>,
    external: Option<ExternalId>,
    actor: Option<Acting>,
}

/// Who acts, as their access token says.
#[derive(Clone)]
struct Acting {
    actor: Actor,
    acts_already: bool,
}

/// What a session gets.
pub(super) struct Agreed {
    pub(super) authentication: Authentication,
    pub(super) persistent: Option<bool>,
    pub(super) expires_at: Timestamp,
    /// Until when the first access token is valid, if it does not expire sooner.
    pub(super) valid_until: Timestamp,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) with_refresh: bool,
    pub(super) external: Option<ExternalId>,
    pub(super) actor: Option<Arc<Actor>>,
}

impl Terms {
    /// Fills in what the app has not chosen from the session that the new one continues.
    pub(super) fn carry_over(&mut self, old: &SessionRecord, settings: &ResolvedSettings) {
        let policy = &settings.policy;
        self.expires_at = Some(old.rotation.expires_at).filter(|_| self.lifetime.is_none());
        let (least, most) = (settings.min_idle_timeout(), policy.idle_timeout);
        let idle_timeout = || Some(old.rotation.idle_timeout?.clamp(least, most));
        self.idle_timeout = self.idle_timeout.or_else(idle_timeout);
        self.with_refresh = self.with_refresh.or(Some(old.can_refresh));
        self.persistent = self.persistent.or(old.persistent);
        self.external = self.external.or(old.external);
    }

    /// The session of the one who acts, if somebody does.
    pub(super) fn actor_session(&self) -> Option<SessionId> {
        self.actor.as_ref().map(|acting| acting.actor.session_id)
    }

    /// Checks everything for a session of this user that begins now.
    pub(super) async fn agree(self, user_id: &str, now: Timestamp, node: &Node) -> Result<Agreed, Error> {
        let settings = &node.settings;
        let policy = &settings.policy;
        if let Some(acr) = self.acr.as_ref().filter(|acr| !settings.acr_values.contains(acr)) {
            return Err(LoginError::UnknownAcr(acr.clone()).into());
        }
        let max = policy.lifetime;
        if let Some(asked) = self.lifetime.filter(|asked| *asked > max || asked.is_zero()) {
            return Err(LoginError::Lifetime { asked, max }.into());
        }
        let (min, max) = (settings.min_idle_timeout(), policy.idle_timeout);
        if let Some(asked) = self.idle_timeout.filter(|asked| !(min..=max).contains(asked)) {
            return Err(LoginError::IdleTimeout { asked, min, max }.into());
        }
        let acting = match &self.actor {
            Some(acting) => Some(acting.session(user_id, now, node).await?),
            None => None,
        };
        let with_refresh = self.with_refresh.unwrap_or(acting.is_none());
        let mut lifetime = self.lifetime.unwrap_or(policy.lifetime);
        if !with_refresh {
            lifetime = lifetime.min(policy.access_ttl);
        }
        let mut authentication = Authentication::at(now);
        let mut expires_at = self.expires_at.unwrap_or_else(|| now.after(lifetime));
        let mut valid_until = expires_at;
        if let Some(acting) = acting {
            // It is the actor whose authentication this session rests on.
            authentication = acting.authentication;
            expires_at = expires_at.min(now.after(MAX_ACTING)).min(acting.rotation.expires_at);
            // The actor's session may become idle before: to begin to act is no use of it by itself.
            valid_until = expires_at.min(acting.rotation.ends_at(policy.idle_timeout).before(settings.leeway));
        }
        // The clock of an identity provider may be ahead.
        authentication.time = self.auth_time.unwrap_or(authentication.time).min(now);
        authentication.acr = self.acr.map(Box::from).or(authentication.acr);
        if !self.amr.is_empty() {
            authentication.amr = self.amr;
        }
        Ok(Agreed {
            authentication,
            persistent: self.persistent,
            expires_at,
            valid_until,
            idle_timeout: self.idle_timeout,
            with_refresh,
            external: self.external,
            actor: self.actor.map(|acting| Arc::new(acting.actor)),
        })
    }
}

impl Acting {
    /// The session of the one who acts for this user. It must be live.
    async fn session(&self, user_id: &str, now: Timestamp, node: &Node) -> Result<SessionRecord, Error> {
        if *self.actor.user_id == *user_id {
            return Err(LoginError::ActsForSelf.into());
        }
        if self.acts_already {
            return Err(LoginError::ActorActs.into());
        }
        let session = node.load(self.actor.session_id).await?.ok_or(Error::AccessTokenRevoked)?;
        let is_live = session.rotation.is_live(now, node.settings.policy.idle_timeout);
        if !is_live || session.user_id != self.actor.user_id {
            return Err(Error::AccessTokenRevoked);
        }
        Ok(session)
    }
}

/// # How the user was authenticated
impl<C> LoginBuilder<C> {
    /// The authentication context class that the user has reached: the claim `acr` of the access tokens. It has to be one of
    /// the [`acr_values`](crate::Settings::acr_values). Default: none.
    pub fn acr(mut self, acr: impl Into<String>) -> Self {
        self.terms.acr = Some(acr.into());
        self
    }

    /// The methods by which the user was authenticated, such as `["pwd", "otp"]` (RFC 8176): the claim `amr` of the access
    /// tokens. Default: none.
    pub fn amr<T: Into<Box<str>>>(mut self, amr: impl IntoIterator<Item = T>) -> Self {
        self.terms.amr = amr.into_iter().map(Into::into).collect();
        self
    }

    /// When the user was actively authenticated: the claim `auth_time` of the access tokens. For a single sign-on, take it
    /// from the `auth_time` of the ID token (OWASP ASVS 5.0, 7.6.1): the provider may have asked for the password hours ago. A
    /// time in the future counts as now. Default: now.
    pub fn auth_time(mut self, auth_time: SystemTime) -> Self {
        self.terms.auth_time = Some(auth_time.into());
        self
    }

    /// The session at the identity provider that this login belongs to, by the claims `iss` and `sid` of the ID token:
    /// [`Auth::revoke_external`](crate::Auth::revoke_external) revokes the sessions of such a pair, and so does a back-channel
    /// logout. Only a hash is stored. Default: none.
    pub fn external(mut self, issuer: &str, session_id: &str) -> Self {
        let realm = self.auth.resolved().realm.as_deref();
        self.terms.external = Some(ExternalId::of(realm, issuer, session_id));
        self
    }
}

/// # How long the session lasts
impl<C> LoginBuilder<C> {
    /// Whether the cookies of this session outlive the browser ("remember me"). If `false`, they are session cookies: the
    /// browser drops them when it is closed, unless it restores its windows. Every refresh keeps it that way. Default: the
    /// [setting](crate::config::CookieSettings::persistent) of each cookie.
    ///
    /// It does not shorten the session. Combine it with [`lifetime`](Self::lifetime) or
    /// [`idle_timeout`](Self::idle_timeout), because a browser may keep session cookies for weeks.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.terms.persistent = Some(persistent);
        self
    }

    /// The absolute lifetime of this session. Longer than 0, and at most the [policy's](crate::Policy::lifetime), which is the
    /// default.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.terms.lifetime = Some(lifetime);
        self
    }

    /// The idle timeout of this session. At most the [policy's](crate::Policy::idle_timeout), which is the default, and at
    /// least [`min_idle_timeout`](crate::Policy::min_idle_timeout).
    pub fn idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.terms.idle_timeout = Some(idle_timeout);
        self
    }

    /// Issues an access token and no refresh token. The session ends with the access token.
    pub fn without_refresh(mut self) -> Self {
        self.terms.with_refresh = Some(false);
        self
    }

    /// Issues a refresh token also to somebody who [acts](Self::acting) for the user. Others get one anyway.
    pub fn with_refresh(mut self) -> Self {
        self.terms.with_refresh = Some(true);
        self
    }
}

/// # Acting for a user
impl<C> LoginBuilder<C> {
    /// Somebody else acts for the user: support that looks into an account, for example. The app has to have checked that they
    /// may.
    ///
    /// - The access token has the user as its `sub` and the actor in the claim `act` (RFC 8693 §4.1):
    ///   [`AuthUser::actor`] returns it. `auth_time`, `acr` and `amr` are the actor's, unless they are
    ///   set.
    /// - The session ends with the actor's session, however that ends, and after an hour at the latest.
    /// - There is no refresh token, so it ends with its access token, unless [`with_refresh`](Self::with_refresh) is called.
    /// - The user sees the session and the actor in the list of sessions, and every event that the session causes names the
    ///   actor. It does not count for the [session limit](crate::Policy::max_sessions).
    /// - What the actor does counts as activity of their own session, too.
    /// - The actor may do what the user may, such as ending the user's other sessions. A handler that they must not call asks
    ///   [`AuthUser::actor`].
    /// - The actor stops by `DELETE /auth/sessions/{id}` of this session, or by `POST /auth/logout` with its access token, which
    ///   spares their own.
    ///
    /// With cookies, hand the tokens to the page in a body of your own: as a response, they would replace the actor's access
    /// cookie, and a refresh token the actor's refresh cookie.
    ///
    /// The login fails with [`Error::AccessTokenRevoked`] if the actor's session has ended, and with [`Error::Login`] if the
    /// actor is the user, or already acts for somebody.
    pub fn acting(mut self, actor: &AuthUser<C>) -> Self {
        let (user_id, session_id) = (Arc::clone(&actor.id), actor.session_id);
        let acts_already = actor.actor().is_some();
        self.terms.actor = Some(Acting { actor: Actor { user_id, session_id }, acts_already });
        self
    }
}
