//! The route of [`BackChannelLogout`].

use axum::body::Body;
use axum::extract::Request;
use axum::routing::{MethodRouter, post};
use axum_core::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::json;

use super::negotiate::has_type;
use super::problem::Problem;
use crate::auth::{BackChannelLogout, Claims, LogoutError};

/// The largest body, in bytes.
const MAX_BODY: usize = 16 * 1024;

impl<C: Claims> BackChannelLogout<C> {
    /// The route that the identity provider sends its logout tokens to: `POST`, with a form that has the token as
    /// `logout_token`.
    ///
    /// It needs no layer of an `Auth` around it, looks at no cookie, and checks no origin: the signature of the token says who
    /// asks. It answers in the form that the specification has for it (§2.8), with `Cache-Control: no-store`:
    ///
    /// | status | body | when |
    /// |---|---|---|
    /// | 200 | | the sessions are revoked, or there were none |
    /// | 400 | `{"error":"invalid_request","error_description":"…"}` | the request or its token is refused |
    /// | 503, with `Retry-After` | `{"error":"temporarily_unavailable"}` | the store or the hook has failed |
    ///
    /// The specification has 400 for a failed logout too. A provider that repeats requests does so after a 503, and not
    /// after a 400.
    ///
    /// Anybody can send requests to this route. A token that the provider has not signed costs one verification of a
    /// signature, and no call of the store.
    pub fn route<S: Clone + Send + Sync + 'static>(self) -> MethodRouter<S> {
        post(move |request: Request| {
            let logout = self.clone();
            async move { answer(&logout, request).await }
        })
    }
}

async fn answer<C: Claims>(logout: &BackChannelLogout<C>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut response = match read(&parts.headers, body).await {
        Ok(token) => match logout.accept(&token).await {
            Ok(_) => StatusCode::OK.into_response(),
            Err(LogoutError::Token(error)) => refusal(&error.to_string()),
            Err(LogoutError::Failed(error)) => {
                // It is in the log then.
                let status = Problem::reported(&error).status();
                let mut response = error_response(status, &json!({ "error": "temporarily_unavailable" }));
                response.headers_mut().insert(RETRY_AFTER, 2.into());
                response
            }
        },
        Err(problem) => refusal(problem),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn refusal(description: &str) -> Response {
    let body = json!({ "error": "invalid_request", "error_description": description });
    error_response(StatusCode::BAD_REQUEST, &body)
}

fn error_response(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Reads the token of a request, or says what is wrong with it.
async fn read(headers: &HeaderMap, body: Body) -> Result<String, &'static str> {
    if !has_type(headers, "application/x-www-form-urlencoded") {
        return Err("the content type is not application/x-www-form-urlencoded");
    }
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|_| "the body is too long or was cut off")?;
    let body = body.to_bytes();
    let mut tokens = body.split(|byte| *byte == b'&').filter_map(|pair| pair.strip_prefix(b"logout_token="));
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => decoded(token).ok_or("logout_token is malformed"),
        (None, _) => Err("logout_token is missing"),
        (Some(_), Some(_)) => Err("logout_token occurs twice"),
    }
}

/// A value of a form. No character of a token needs to be encoded, but any may be.
fn decoded(value: &[u8]) -> Option<String> {
    let mut text = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, others @ ..] = rest {
        rest = others;
        text.push(match first {
            b'+' => b' ',
            b'%' => {
                let (digits, others) = others.split_at_checked(2)?;
                rest = others;
                let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
                u8::from_str_radix(digits, 16).ok()?
            }
            byte => *byte,
        });
    }
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_a_form_is_decoded() {
        let decode = |value: &str| decoded(value.as_bytes());
        assert_eq!(decode("eyJ.a-b_c.x").as_deref(), Some("eyJ.a-b_c.x"));
        assert_eq!(decode("a%2Eb+%c3%a9").as_deref(), Some("a.b é"));
        for malformed in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert_eq!(decode(malformed), None, "{malformed}");
        }
    }
}
