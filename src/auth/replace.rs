//! What a login replaces: a session that the app names, and those that the browser has.

use std::sync::Arc;

use tokio::time::Instant;

use crate::error::Error;
use crate::node::unfinished::Unfinished;
use crate::node::{Cause, Node};
use crate::session::{Client, RevocationReason, SessionId};
use crate::store::{RevokeTarget, SessionRecord};
use crate::token::refresh::RefreshToken;

/// What a login is to replace.
#[derive(Default)]
pub(super) struct Replacing {
    /// The session that the app has named.
    pub(super) named: Option<SessionId>,
    /// The session that the new one continues. It was loaded, and is the same user's.
    pub(super) continued: Option<SessionId>,
    /// The contents of the browser's refresh cookies, as far as they are signed by us.
    pub(super) refresh: Vec<RefreshToken>,
    /// The sessions of the browser's valid access tokens, and their users.
    pub(super) access: Vec<(SessionId, Arc<str>)>,
    /// A session that is not replaced, whatever the browser has: that of the one who acts.
    pub(super) except: Option<SessionId>,
}

/// What was found of it.
pub(super) struct Found {
    /// A session of the user who logs in. A store replaces one in the same step in which it inserts the new one.
    pub(super) with_insert: Option<SessionId>,
    /// The others. They follow once the new session exists.
    pub(super) afterwards: Vec<(SessionId, Arc<str>)>,
}

impl Replacing {
    /// Finds them before the new session is inserted.
    pub(super) async fn find(&self, new: &SessionRecord, node: &Node) -> Result<Found, Error> {
        let (mut in_browser, named) = tokio::join!(self.in_browser(node), self.named_of_same_user(new, node));
        let named = named?;
        let own = || in_browser.iter().find(|(_, user_id)| *user_id == new.user_id).map(|(id, _)| *id);
        let with_insert = named.or_else(own);
        in_browser.retain(|(id, _)| Some(*id) != with_insert && Some(*id) != self.named);
        Ok(Found { with_insert, afterwards: in_browser })
    }

    /// The sessions that the browser has, with their users.
    ///
    /// A refresh token may be of any generation, as for a logout. One that is superseded is no evidence of theft here: the
    /// cookie may have outlived a lost response, or the refresh that raced with this login. And whoever has stolen it gains
    /// nothing: at a refresh or a logout, it ends its session too.
    ///
    /// What cannot be loaded is left out, and no error: any of the cookies may be planted, and must not keep the user from
    /// logging in.
    async fn in_browser(&self, node: &Node) -> Vec<(SessionId, Arc<str>)> {
        let started = Instant::now();
        let mut found: Vec<(SessionId, Arc<str>)> = Vec::new();
        for token in &self.refresh {
            // If the store is away, nobody waits for one timeout per cookie.
            if started.elapsed() >= node.settings.store_timeout {
                break;
            }
            // As stored: a revocation that only this node knows is lost if it crashes.
            let Ok(Some(session)) = node.load_as_stored(token.session_id).await else { continue };
            if session.secret_hash != token.secret_hash() {
                continue;
            }
            match session.rotation.revoked {
                None => found.push((session.id, session.user_id)),
                // The feed has it, but this node may not have read it yet.
                Some(_) => node.found_revoked(session.id),
            }
        }
        for (id, user_id) in &self.access {
            if !found.iter().any(|(known, _)| known == id) && !node.revoked.has_session(*id) {
                found.push((*id, Arc::clone(user_id)));
            }
        }
        found.retain(|(id, _)| Some(*id) != self.except);
        found
    }

    /// Returns the session that is continued, or the named one if it is the same user's. Another user's session, from the same device, is revoked here,
    /// because a store may keep it in another place. It ends before the new session begins, so that a failure leaves nothing
    /// behind.
    async fn named_of_same_user(&self, new: &SessionRecord, node: &Node) -> Result<Option<SessionId>, Error> {
        if self.continued.is_some() {
            return Ok(self.continued);
        }
        let Some(id) = self.named.filter(|id| Some(*id) != self.except) else { return Ok(None) };
        match node.load(id).await? {
            Some(session) if session.user_id != new.user_id => {
                let cause = Cause::from(RevocationReason::Replaced).of(&session.user_id).by(Some(new.client.clone()));
                node.revoke(RevokeTarget::Session(id), cause).await?;
                Ok(None)
            }
            found => Ok(found.map(|session| session.id)),
        }
    }
}

impl Found {
    /// A session that has begun and must not go on.
    pub(super) fn only(id: SessionId, user_id: &Arc<str>) -> Self {
        Self { with_insert: None, afterwards: vec![(id, Arc::clone(user_id))] }
    }

    /// Revokes those that are left. What the store refuses is left to the background task: the new session exists, and the
    /// client needs its tokens.
    pub(super) async fn revoke_afterwards(self, node: &Arc<Node>, client: &Client) {
        for (session_id, user_id) in self.afterwards {
            let reason = RevocationReason::Replaced;
            let cause = Cause::from(reason).of(&user_id).by(Some(client.clone()));
            let at = node.now();
            if node.revoke(RevokeTarget::Session(session_id), cause).await.is_err() {
                let client = client.clone();
                node.finish_later(&Unfinished {
                    user_id,
                    session_id,
                    reason,
                    at,
                    session: true,
                    others: false,
                    client,
                });
            }
        }
    }
}
