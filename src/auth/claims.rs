//! The app's claims: what they have to be, the hook that supplies them, and the snapshot kept with a session.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Auth;
use crate::config::ClaimsRequest;
use crate::error::{ClaimsError, Error};
use crate::event::Event;
use crate::session::Client;
use crate::store::SessionRecord;
use crate::token::claims::{RESERVED, read_app_claims};

/// The app's claims: any type that serde writes as a JSON object and reads back.
///
/// Implemented for every such type. An app without claims of its own uses [`NoClaims`].
pub trait Claims: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<C: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Claims for C {}

/// No claims: access tokens identify the user and the session and carry nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoClaims {}

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
type HookFuture<C> = Pin<Box<dyn Future<Output = Result<Option<C>, BoxError>> + Send>>;
pub(super) type ClaimsHook<C> = Box<dyn Fn(ClaimsRequest<C>) -> HookFuture<C> + Send + Sync>;

impl<C: Claims> Auth<C> {
    /// The claims for the next access token: from the hook, or else from the snapshot kept with the session.
    pub(super) async fn claims_of(&self, session: &SessionRecord, client: &Client) -> Result<Box<str>, Error> {
        let (user_id, session_id) = (Arc::clone(&session.user_id), session.id);
        let Some(hook) = &self.inner.claims_hook else {
            return match read_app_claims::<C>(session.claims.as_bytes()) {
                Ok(_) => Ok(session.claims.clone()),
                Err(error) => {
                    let (error, client) = (error.to_string(), client.clone());
                    self.emit(Event::ClaimsUnreadable { user_id, session_id, error, client });
                    Err(Error::SessionOutdated)
                }
            };
        };
        let claims = read_app_claims::<C>(session.claims.as_bytes()).ok();
        match hook(ClaimsRequest { session: session.into(), claims }).await {
            Ok(Some(claims)) => write_claims(&claims),
            Ok(None) => {
                self.emit(Event::UserRefused { user_id, session_id, client: client.clone() });
                Err(Error::UserRefused)
            }
            Err(error) => Err(Error::Hook(error)),
        }
    }
}

/// The claims as the text of a JSON object that has none of the names of the token's own claims. The text is read back once:
/// a token with it must not be one that is then refused.
pub(super) fn write_claims<C: Claims>(claims: &C) -> Result<Box<str>, Error> {
    let value = serde_json::to_value(claims).map_err(|error| ClaimsError::Json(error.into()))?;
    let members = value.as_object().ok_or(ClaimsError::NotAnObject)?;
    if let Some(name) = RESERVED.into_iter().find(|name| members.contains_key(*name)) {
        return Err(ClaimsError::Reserved(name.to_owned()).into());
    }
    let text = value.to_string();
    read_app_claims::<C>(text.as_bytes()).map_err(|error| ClaimsError::Unreadable(error.into()))?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_an_object_without_the_tokens_own_names() {
        let write = |json: &str| write_claims(&serde_json::from_str::<serde_json::Value>(json).unwrap());
        assert_eq!(&*write(r#"{"role":"admin"}"#).unwrap(), r#"{"role":"admin"}"#);
        assert_eq!(&*write_claims(&NoClaims {}).unwrap(), "{}");
        for json in ["null", "1", "[]", "\"x\""] {
            assert!(matches!(write(json), Err(Error::Claims(ClaimsError::NotAnObject))), "{json}");
        }
        assert!(matches!(write_claims(&()), Err(Error::Claims(ClaimsError::NotAnObject))));
        for name in RESERVED {
            let result = write(&format!(r#"{{"{name}":1}}"#));
            assert!(matches!(result, Err(Error::Claims(ClaimsError::Reserved(reserved))) if reserved == name));
        }
    }
}
