//! The routes as OpenAPI documents, and the routes that serve these.

mod draft;
mod operations;
mod refusals;
mod schemas;
mod security;
mod serve;

use http::StatusCode;
use utoipa::openapi::path::{PathItem, PathsBuilder};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, Paths};

use self::draft::in_realm;
use self::refusals::Refusals;
use self::security::{by_access_token, components};
pub use self::serve::openapi_route;
pub(super) use self::serve::route;
use super::problem::Problem;
use super::routes::Routes;
use crate::auth::{Auth, Claims};
use crate::config::ResolvedSettings;

/// # OpenAPI
#[cfg_attr(docsrs, doc(cfg(feature = "openapi")))]
impl<C: Claims> Auth<C> {
    /// The routes of [`router`](Self::router) as an OpenAPI 3.1 document, for the [`utoipa`] of the app. Nest it where the
    /// router is nested:
    ///
    /// ```
    /// use axum_refresh::Auth;
    /// use utoipa::openapi::{Info, OpenApi, Paths};
    ///
    /// fn document(auth: &Auth) -> OpenApi {
    ///     // Or `ApiDoc::openapi()`, if the app derives its own.
    ///     let app = OpenApi::new(Info::new("Shop", "1.0.0"), Paths::new());
    ///     app.nest("/auth", auth.openapi())
    /// }
    /// ```
    ///
    /// An app without a document of its own has that of the router at `/auth/openapi.json`
    /// ([`Route::OpenApi`](crate::router::Route::OpenApi)).
    ///
    /// - It has every status, code and header of the [HTTP contract](crate::guide::http). The codes of a response are those
    ///   that this operation has with these settings.
    /// - It follows the settings: names and attributes of the cookies, refresh tokens in cookies or in the body, an access
    ///   cookie, a [login page](crate::Settings::login_page), [step-up](crate::Settings::revocation_max_age) and the
    ///   [binding](crate::Policy::binding).
    /// - The app's own routes can refer to its schemas: `AuthTokens`, the response to a login; `AuthProblem`, a refusal with
    ///   any of the codes; `AuthSessions` and `AuthSession`. The security schemes are `auth_bearer`, `auth_access_cookie` and
    ///   `auth_refresh_cookie`. The names of the cookies' schemes and of the operations end with the
    ///   [realm](crate::Settings::realm), as in `auth_refresh_staff`, so that an app can have the documents of several realms.
    /// - It describes neither gRPC statuses nor the form that [`Auth::refusals`](Self::refusals) gives to refusals.
    ///
    /// [`utoipa`]: https://docs.rs/utoipa/6
    pub fn openapi(&self) -> OpenApi {
        self.openapi_with(&Routes::all())
    }

    /// [`openapi`](Self::openapi) for the routes of [`router_with`](Self::router_with).
    pub fn openapi_with(&self, routes: &Routes) -> OpenApi {
        let settings = self.resolved();
        let tag = in_realm(settings, "auth");
        let mut paths = PathsBuilder::new();
        for route in routes.0.iter().filter(|route| self.has_route(**route)) {
            let (method, operation) = self.operation(*route, routes, &tag);
            paths = paths.path(route.path(), PathItem::new(method, operation));
        }
        let mut document =
            document(settings, paths.build(), &tag, "Access tokens, refresh tokens and the user's own sessions.");
        if let Some(components) = document.components.as_mut().filter(|_| self.has_verifiers()) {
            security::add_verifier(components, settings);
        }
        document
    }

    /// The routes of [`admin_router`](Self::admin_router) as an OpenAPI document. It does not say who may call them, because
    /// the router has no access control of its own.
    ///
    /// The app adds what its own access control says. If that includes the layers of this crate,
    /// [`guarded_openapi`](Self::guarded_openapi) adds their part:
    ///
    /// ```
    /// use axum_refresh::Auth;
    /// use utoipa::openapi::OpenApi;
    ///
    /// fn document(auth: &Auth, app: OpenApi) -> OpenApi {
    ///     app.nest("/auth", auth.openapi()).nest("/admin", auth.guarded_openapi(auth.admin_openapi()))
    /// }
    /// ```
    pub fn admin_openapi(&self) -> OpenApi {
        let settings = self.resolved();
        let tag = in_realm(settings, "auth_admin");
        let paths =
            self.admin_operations(&tag).into_iter().fold(PathsBuilder::new(), |paths, (path, method, operation)| {
                paths.path(path, PathItem::new(method, operation))
            });
        document(settings, paths.build(), &tag, "Anybody's sessions, for administrators.")
    }

    /// The route of [`jwks_router`](Self::jwks_router) as an OpenAPI document. Merge it.
    ///
    /// # Errors
    ///
    /// As [`jwks_router`](Self::jwks_router): if there is no public key.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "signing"))))]
    pub fn jwks_openapi(&self) -> Result<OpenApi, crate::config::SettingsError> {
        self.check_public_keys()?;
        let settings = self.resolved();
        let tag = in_realm(settings, "auth");
        let paths = PathsBuilder::new().path(super::jwks::PATH, self.jwks_operation(&tag));
        Ok(document(settings, paths.build(), &tag, "Access tokens, refresh tokens and the user's own sessions."))
    }

    /// Adds to the operations of a document what [`layer`](Self::layer) and [`guard`](Self::guard) around their routes mean
    /// for them: the access token that is required, and the responses for refusals.
    ///
    /// An operation that has security requirements keeps them. If it has refusals of the same status, as
    /// [`Problem::add_to_openapi`] adds them, there are the codes of both; another response of its own stays as it is.
    pub fn guarded_openapi(&self, mut document: OpenApi) -> OpenApi {
        let settings = self.resolved();
        for (method, operation) in draft::operations(&mut document) {
            operation.security.get_or_insert_with(|| by_access_token(settings));
            for (status, response) in draft::refusals(settings, Refusals::default().and_layers(self), &method) {
                draft::add(operation, status, response);
            }
        }
        document.merge_from(OpenApiBuilder::new().components(Some(components(settings))).build())
    }

    /// Adds to the operations of a document what their handlers return that end with [`login`](Self::login), behind
    /// [`csrf`](Self::csrf): the tokens, with the cookies, and the refusals. The app adds what is its own, such as the code for
    /// a wrong password.
    ///
    /// ```
    /// use axum::http::StatusCode;
    /// use axum_refresh::Auth;
    /// use axum_refresh::rejection::Problem;
    /// use utoipa::openapi::OpenApi;
    ///
    /// const BAD_CREDENTIALS: Problem = Problem::new(StatusCode::UNAUTHORIZED, "bad_credentials");
    ///
    /// /// `login` has the operation `POST /login`, with its request.
    /// fn document(auth: &Auth, login: OpenApi, app: OpenApi) -> OpenApi {
    ///     let mut login = auth.login_openapi(login);
    ///     BAD_CREDENTIALS.add_to_openapi(&mut login);
    ///     app.merge_from(login).nest("/auth", auth.openapi())
    /// }
    /// ```
    pub fn login_openapi(&self, mut document: OpenApi) -> OpenApi {
        let settings = self.resolved();
        for (method, operation) in draft::operations(&mut document) {
            let tokens = operations::with_tokens(settings, operations::tokens());
            draft::add(operation, StatusCode::OK.as_str().to_owned(), tokens.build());
            for (status, response) in draft::refusals(settings, Refusals::of_login(self), &method) {
                draft::add(operation, status, response);
            }
        }
        document.merge_from(OpenApiBuilder::new().components(Some(components(settings))).build())
    }
}

/// # OpenAPI
#[cfg_attr(docsrs, doc(cfg(feature = "openapi")))]
impl Problem {
    /// Adds this refusal to all operations of a document, for a problem [of the app's own](Problem::new).
    ///
    /// If an operation has refusals of the same status, it gets the code of this one too; another response of its own stays as
    /// it is.
    ///
    /// ```
    /// use axum::http::StatusCode;
    /// use axum_refresh::Auth;
    /// use axum_refresh::rejection::Problem;
    /// use utoipa::openapi::OpenApi;
    ///
    /// /// What a middleware of the app says to everybody else than administrators.
    /// const FORBIDDEN: Problem = Problem::new(StatusCode::FORBIDDEN, "forbidden");
    ///
    /// fn admin(auth: &Auth) -> OpenApi {
    ///     let mut admin = auth.guarded_openapi(auth.admin_openapi());
    ///     FORBIDDEN.add_to_openapi(&mut admin);
    ///     admin
    /// }
    /// ```
    pub fn add_to_openapi(&self, document: &mut OpenApi) {
        for (_, operation) in draft::operations(document) {
            let response = draft::refusal(self.status(), std::slice::from_ref(self)).build();
            draft::add(operation, self.status().as_str().to_owned(), response);
        }
    }
}

fn document(settings: &ResolvedSettings, paths: Paths, tag: &str, description: &str) -> OpenApi {
    let info = InfoBuilder::new().title("Authentication").version(env!("CARGO_PKG_VERSION")).description(Some(
        "Refusals are `application/problem+json` (RFC 9457); clients go by the member `code`. No refusal clears a cookie.",
    ));
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components(settings)))
        .tags(Some([TagBuilder::new().name(tag).description(Some(description)).build()]))
        .build()
}
