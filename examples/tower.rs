//! The layers around a plain tower service, without a router, a server or a framework. The service has a body type of its
//! own: the layers fit around every `http::Response<B>` whose body can be made from `Bytes`.
//!
//! ```sh
//! cargo run --example tower
//! ```

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use axum::http::{Request, Response, StatusCode};
use axum_refresh::{Auth, AuthUser, MemoryStore, NoClaims, RevocationReason, Secret};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use tower::{Service, ServiceBuilder, ServiceExt as _};

/// Greets the user. It may be any HTTP service that can be cloned.
#[derive(Clone)]
struct Greeter;

impl<B> Service<Request<B>> for Greeter {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The layers have put the user there. They let no anonymous request pass.
        let user: Option<AuthUser> = AuthUser::from_extensions(request.extensions());
        let greeting = user.map_or("Hello!".to_owned(), |user| format!("Hello, {}!", user.id));
        ready(Ok(Response::new(Full::from(greeting))))
    }
}

/// Sends a request without a token, with one, and with the same one after the session has ended.
async fn greetings() -> Result<Vec<(StatusCode, String)>, Box<dyn std::error::Error>> {
    let auth: Auth = Auth::builder(Secret::random()?, MemoryStore::new()).build()?;
    let service = ServiceBuilder::new()
        .layer(auth.layer()) // verifies the access token and rejects revoked ones
        .layer(auth.guard()) // enforces idle timeout and binding
        .service(Greeter);

    let mut answers = Vec::new();
    answers.push(read(service.clone().oneshot(Request::get("/").body(())?).await?).await?);

    // A login needs no HTTP either.
    let tokens = auth.login("alice", NoClaims {}).await?.tokens;
    let with_token = || Request::get("/").header("authorization", format!("Bearer {}", tokens.access_token)).body(());
    answers.push(read(service.clone().oneshot(with_token()?).await?).await?);

    auth.revoke_session(tokens.session_id, RevocationReason::Logout).await?;
    answers.push(read(service.oneshot(with_token()?).await?).await?);
    Ok(answers)
}

async fn read(response: Response<Full<Bytes>>) -> Result<(StatusCode, String), Box<dyn std::error::Error>> {
    let (status, body) = (response.status(), response.into_body().collect().await?.to_bytes());
    Ok((status, String::from_utf8(body.into())?))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (status, body) in greetings().await? {
        println!("{status}: {body}");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    #[tokio::test]
    async fn only_a_user_who_is_logged_in_is_greeted() {
        let answers = super::greetings().await.unwrap();
        let [missing, greeted, revoked] = answers.as_slice() else { panic!("{answers:?}") };
        assert_eq!((missing.0.as_u16(), missing.1.contains("access_token_missing")), (401, true), "{missing:?}");
        assert_eq!((greeted.0.as_u16(), greeted.1.as_str()), (200, "Hello, alice!"));
        assert_eq!((revoked.0.as_u16(), revoked.1.contains("access_token_revoked")), (401, true), "{revoked:?}");
    }
}
