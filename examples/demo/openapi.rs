//! The OpenAPI document of the demo, at `/auth/openapi.json`: the routes of the crate where the demo mounts them, and the
//! demo's own `/login` and `/me`.

use axum::Router;
use axum_refresh::Auth;
use axum_refresh::config::SettingsError;
use axum_refresh::router::Routes;

use super::Claims;

/// The routes of `Auth::router`. The demo serves a document of its own, which has more.
#[cfg(feature = "openapi")]
pub(crate) fn routes() -> Routes {
    Routes::all().without(axum_refresh::router::Route::OpenApi)
}

#[cfg(not(feature = "openapi"))]
pub(crate) fn routes() -> Routes {
    Routes::all()
}

#[cfg(feature = "openapi")]
pub(crate) fn router(auth: &Auth<Claims>, has_signing_key: bool) -> Result<Router<Auth<Claims>>, SettingsError> {
    let document = document::of(auth, has_signing_key)?;
    Ok(Router::new().route("/auth/openapi.json", axum_refresh::router::openapi_route(&document)))
}

#[cfg(not(feature = "openapi"))]
pub(crate) fn router(_: &Auth<Claims>, _: bool) -> Result<Router<Auth<Claims>>, SettingsError> {
    Ok(Router::new())
}

#[cfg(feature = "openapi")]
mod document {
    use axum_refresh::Auth;
    use axum_refresh::config::SettingsError;
    use serde_json::json;
    use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathItem};
    use utoipa::openapi::request_body::RequestBodyBuilder;
    use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
    use utoipa::openapi::{ContentBuilder, Info, OpenApi, PathsBuilder, Required, ResponseBuilder, Tag};

    use super::super::{BAD_CREDENTIALS, Claims, FORBIDDEN};

    pub(super) fn of(auth: &Auth<Claims>, has_signing_key: bool) -> Result<OpenApi, SettingsError> {
        let mut app =
            OpenApi::new(Info::new("The demo of axum-refresh", env!("CARGO_PKG_VERSION")), PathsBuilder::new());
        app.tags = Some(vec![Tag::new("demo")]);
        let mut login = auth.login_openapi(login());
        BAD_CREDENTIALS.add_to_openapi(&mut login);
        let mut admin = auth.guarded_openapi(auth.admin_openapi());
        FORBIDDEN.add_to_openapi(&mut admin);
        let app = app.merge_from(login).merge_from(auth.guarded_openapi(me()));
        let app = app.nest("/auth", auth.openapi()).nest("/admin", admin);
        Ok(if has_signing_key { with_jwks(app, auth)? } else { app })
    }

    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    fn with_jwks(app: OpenApi, auth: &Auth<Claims>) -> Result<OpenApi, SettingsError> {
        Ok(app.merge_from(auth.jwks_openapi()?))
    }

    #[cfg(not(any(feature = "aws_lc_rs", feature = "signing")))]
    fn with_jwks(app: OpenApi, _: &Auth<Claims>) -> Result<OpenApi, SettingsError> {
        Ok(app)
    }

    fn text() -> ObjectBuilder {
        ObjectBuilder::new().schema_type(Type::String)
    }

    fn operation(path: &str, method: HttpMethod, operation: OperationBuilder) -> OpenApi {
        let paths = PathsBuilder::new().path(path, PathItem::new(method, operation.tag("demo").build()));
        OpenApi::new(Info::default(), paths)
    }

    /// What axum says about a body that is not as the handler needs it.
    fn unreadable(description: &str) -> ResponseBuilder {
        ResponseBuilder::new()
            .description(description)
            .content("text/plain; charset=utf-8", ContentBuilder::new().schema(Some(text())))
    }

    fn login() -> OpenApi {
        let nullable = |kind: Type| ObjectBuilder::new().schema_type(SchemaType::from_iter([kind, Type::Null]));
        let form = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("username", text())
            .required("username")
            .property("password", text())
            .required("password")
            .property("transport", text().enum_values(Some(["cookie", "body", "both"])))
            .property("label", nullable(Type::String).description(Some("The name of the device.")))
            .property("remember", nullable(Type::Boolean).description(Some("Whether the login outlives the browser.")));
        let form = ContentBuilder::new()
            .schema(Some(form))
            .example(Some(json!({ "username": "alice", "password": "password" })));
        let form = RequestBodyBuilder::new().required(Some(Required::True)).content("application/json", form).build();
        let login = OperationBuilder::new()
            .operation_id(Some("login"))
            .summary(Some("Logs in"))
            .securities(Some([]))
            .request_body(Some(form))
            .response("400", unreadable("The body is not JSON."))
            .response("413", unreadable("The body is too large."))
            .response("415", unreadable("The body is not declared as JSON."))
            .response("422", unreadable("A member is missing or has another type."));
        operation("/login", HttpMethod::Post, login)
    }

    fn me() -> OpenApi {
        let claims = ObjectBuilder::new().schema_type(Type::Object).property("role", text()).required("role");
        let user = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("user", text())
            .required("user")
            .property("session", text())
            .required("session")
            .property("claims", claims)
            .required("claims")
            .property("actor", text());
        let found = ResponseBuilder::new()
            .description("The user.")
            .content("application/json", ContentBuilder::new().schema(Some(user)));
        let me =
            OperationBuilder::new().operation_id(Some("me")).summary(Some("Returns the user")).response("200", found);
        operation("/me", HttpMethod::Get, me)
    }
}
