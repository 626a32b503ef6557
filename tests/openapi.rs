//! The OpenAPI document: that it says what the routes do.
#![cfg(feature = "openapi")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum_refresh::config::{BindingMode, CookieSettings, OnMaxSessions, Transport};
use axum_refresh::rejection::Problem;
use axum_refresh::router::{Route, Routes, openapi_route};
use axum_refresh::{Auth, AuthBuilder, MemoryStore, NoClaims, Secret, Settings};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathItem};
use utoipa::openapi::{Info, OpenApi, PathsBuilder, ResponseBuilder};

fn built(change: impl FnOnce(AuthBuilder<NoClaims>) -> AuthBuilder<NoClaims>) -> Auth {
    change(Auth::builder(Secret::random().unwrap(), MemoryStore::new())).build().unwrap()
}

fn auth(change: impl FnOnce(&mut Settings)) -> Auth {
    built(|builder| builder.configure(change))
}

fn json_of(document: &OpenApi) -> Value {
    serde_json::to_value(document).unwrap()
}

fn operation<'a>(document: &'a Value, method: &str, path: &str) -> &'a Value {
    let operation = &document["paths"][path][method];
    assert!(operation.is_object(), "{method} {path}");
    operation
}

fn responses(operation: &Value) -> impl Iterator<Item = (&str, &Value)> {
    operation["responses"].as_object().unwrap().iter().map(|(status, response)| (status.as_str(), response))
}

fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

fn names(document: &Value) -> Vec<String> {
    operations(document).map(|(name, _)| name).collect()
}

/// The codes of a response, in order.
fn codes_in(response: &Value) -> Vec<&str> {
    let schema = &response["content"]["application/problem+json"]["schema"];
    let codes = schema["properties"]["code"]["enum"].as_array();
    codes.into_iter().flatten().map(|code| code.as_str().unwrap()).collect()
}

fn codes(operation: &Value) -> BTreeSet<(u16, String)> {
    let all = responses(operation).map(|(status, response)| {
        codes_in(response).into_iter().map(move |code| (status.parse().unwrap(), code.to_owned()))
    });
    all.flatten().collect()
}

fn has(operation: &Value, code: &str) -> bool {
    codes(operation).iter().any(|(_, known)| known == code)
}

async fn get(app: &Router, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Vec<u8>) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

async fn fetch(app: &Router, path: &str) -> Value {
    let (status, _, body) = get(app, path, &[]).await;
    assert_eq!(status, 200, "{path}");
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn the_document_has_the_routes_that_were_chosen() {
    let auth = auth(|_| {});
    let routes = Routes::all().without(Route::LogoutAll).without(Route::OpenApi);
    #[cfg(feature = "browser")]
    let routes = routes.without(Route::Browser);
    let expected = ["post /logout", "post /logout/others", "post /refresh", "get /sessions", "delete /sessions/{id}"]
        .map(str::to_owned);
    assert_eq!(names(&json_of(&auth.openapi_with(&routes))), expected);
    let all: BTreeSet<_> = names(&json_of(&auth.openapi())).into_iter().collect();
    assert!(all.contains("post /logout/all") && all.contains("get /openapi.json"), "{all:?}");
    assert_eq!(all.contains("get /client.js"), cfg!(feature = "browser"));
    let admin = [
        "delete /sessions",
        "delete /sessions/{id}",
        "post /tokens/revoke",
        "delete /users/{user}/sessions",
        "get /users/{user}/sessions",
    ];
    assert_eq!(names(&json_of(&auth.admin_openapi())), admin);
}

#[tokio::test]
async fn it_is_served_with_the_paths_at_which_the_router_is_mounted() {
    let auth = auth(|settings| settings.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]);
    let paths = |document: &Value| document["paths"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let expected = |prefix: &str| -> BTreeSet<_> {
        paths(&json_of(&auth.openapi())).iter().map(|path| format!("{prefix}{path}")).collect()
    };
    for prefix in ["/auth", "/api/v1/auth"] {
        let app: Router = Router::new().nest(prefix, auth.router());
        assert_eq!(paths(&fetch(&app, &format!("{prefix}/openapi.json")).await), expected(prefix));
    }
    let nested: Router = Router::new().nest("/api", Router::new().nest("/auth", auth.router()));
    assert_eq!(paths(&fetch(&nested, "/api/auth/openapi.json").await), expected("/api/auth"));
    let merged: Router = Router::new().merge(auth.router());
    assert_eq!(paths(&fetch(&merged, "/openapi.json").await), expected(""));
    // One router at two paths, in any order.
    let twice: Router = Router::new().nest("/{tenant}/auth", auth.router());
    for prefix in ["/a/auth", "/b/auth", "/a/auth"] {
        assert_eq!(paths(&fetch(&twice, &format!("{prefix}/openapi.json")).await), expected(prefix));
    }
    // Only a trusted proxy says which prefix it has removed.
    let peer = |ip: [u8; 4]| axum::extract::connect_info::MockConnectInfo(std::net::SocketAddr::from((ip, 1)));
    for (ip, prefix) in [([10, 0, 0, 1], "/shop/auth"), ([203, 0, 113, 7], "/auth")] {
        let app: Router = Router::new().nest("/auth", auth.router()).layer(peer(ip));
        let (_, _, body) = get(&app, "/auth/openapi.json", &[("x-forwarded-prefix", "/shop")]).await;
        assert_eq!(paths(&serde_json::from_slice(&body).unwrap()), expected(prefix));
    }
}

#[tokio::test]
async fn an_unchanged_document_is_not_sent_again() {
    let auth = auth(|_| {});
    let app: Router = Router::new().nest("/auth", auth.router()).route("/own.json", openapi_route(&auth.openapi()));
    for path in ["/auth/openapi.json", "/own.json"] {
        let (status, headers, body) = get(&app, path, &[]).await;
        assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"application/json".parse().unwrap()));
        assert_eq!(headers["cache-control"], "no-cache");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let tag = headers["etag"].to_str().unwrap();
        let (status, headers, rest) = get(&app, path, &[("if-none-match", tag)]).await;
        assert_eq!((status.as_u16(), headers["etag"].to_str().unwrap(), rest.len()), (304, tag, 0));
        let (status, _, again) = get(&app, path, &[("if-none-match", "\"x\"")]).await;
        assert_eq!((status.as_u16(), again), (200, body));
    }
}

#[tokio::test]
async fn a_route_that_is_left_out_is_not_served() {
    let auth = auth(|_| {});
    let app: Router = Router::new().nest("/auth", auth.router_with(&Routes::all().without(Route::OpenApi)));
    assert_eq!(get(&app, "/auth/openapi.json", &[]).await.0, 404);
}

/// An `Auth` with all that adds to the document.
fn with_everything() -> Auth {
    built(|builder| {
        builder.configure(|settings| {
            settings.transport = Transport::Both;
            settings.access_cookie = Some(CookieSettings::access());
            settings.hint_cookie = true;
            settings.login_page = Some("/login".to_owned());
            settings.step_up_page = Some("/confirm".to_owned());
            settings.revocation_max_age = Some(Duration::from_secs(60));
            settings.policy.binding.ip = BindingMode::StepUp;
            settings.policy.binding.user_agent = BindingMode::Reject;
            settings.policy.max_sessions = Some(3);
            settings.policy.on_max_sessions = OnMaxSessions::Refuse;
        })
    })
}

/// The documents of an app with everything, as one.
fn whole(auth: &Auth) -> Value {
    let admin = auth.guarded_openapi(auth.admin_openapi());
    let app = OpenApi::new(Info::new("app", "1"), PathsBuilder::new());
    json_of(
        &app.merge_from(auth.login_openapi(own_operation("/login")))
            .nest("/auth", auth.openapi())
            .nest("/admin", admin),
    )
}

fn own_operation(path: &str) -> OpenApi {
    let operation = OperationBuilder::new().operation_id(Some("own"));
    OpenApi::new(Info::new("own", "1"), PathsBuilder::new().path(path, PathItem::new(HttpMethod::Post, operation)))
}

#[test]
fn every_code_of_the_contract_is_in_the_document_of_an_operation_that_has_it() {
    let guide = include_str!("../src/guide/http.md");
    let (_, table) = guide.split_once("| status | code | when |\n|---|---|---|\n").unwrap();
    let mut expected = BTreeSet::new();
    for row in table.lines().take_while(|line| line.starts_with('|')) {
        let codes = row.split('|').nth(2).unwrap();
        expected.extend(codes.split(", ").map(|code| code.trim().trim_matches('`').to_owned()));
    }
    assert!(expected.len() > 20, "{expected:?}");
    let hooked = built(|builder| builder.claims_hook(async |_| Ok::<_, String>(None)));
    let documents = [whole(&with_everything()), whole(&hooked)];
    let found = documents.iter().flat_map(|document| operations(document).collect::<Vec<_>>());
    let found: BTreeSet<_> = found.flat_map(|(_, operation)| codes(operation)).map(|(_, code)| code).collect();
    assert_eq!(found, expected);
    let schema = &documents[0]["components"]["schemas"]["AuthProblem"]["properties"]["code"]["enum"];
    let schema: BTreeSet<_> = schema.as_array().unwrap().iter().map(|code| code.as_str().unwrap().to_owned()).collect();
    assert_eq!(schema, expected);
}

#[test]
fn a_code_is_there_only_if_the_settings_lead_to_it() {
    let plain = json_of(&auth(|_| {}).openapi());
    let full = json_of(&with_everything().openapi());
    let refresh = |document| operation(document, "post", "/refresh");
    for code in ["client_mismatch", "insufficient_user_authentication", "malformed_body", "body_too_large"] {
        assert_eq!((has(refresh(&plain), code), has(refresh(&full), code)), (false, true), "{code}");
    }
    let hooked = json_of(&built(|builder| builder.claims_hook(async |_| Ok::<_, String>(None))).openapi());
    for (document, refused, outdated) in [(&plain, false, true), (&hooked, true, false)] {
        assert_eq!(
            (has(refresh(document), "user_refused"), has(refresh(document), "session_outdated")),
            (refused, outdated)
        );
    }
    // The page refuses GET too, if a cookie authenticates it.
    let sessions = |document| has(operation(document, "get", "/sessions"), "cross_origin");
    assert_eq!((sessions(&plain), sessions(&full)), (false, true));
    let all = |document| has(operation(document, "post", "/logout/all"), "insufficient_user_authentication");
    let recent = json_of(&auth(|settings| settings.revocation_max_age = Some(Duration::from_secs(7))).openapi());
    assert_eq!((all(&plain), all(&recent)), (false, true));
    let challenge = &operation(&recent, "delete", "/sessions/{id}")["responses"]["401"];
    let example =
        challenge["content"]["application/problem+json"]["examples"]["insufficient_user_authentication"].clone();
    assert_eq!(example["value"]["status"], 401);
    let login = |auth: &Auth| json_of(&auth.login_openapi(own_operation("/login")));
    let limited = |document: &Value| has(operation(document, "post", "/login"), "session_limit");
    assert_eq!((limited(&login(&auth(|_| {}))), limited(&login(&with_everything()))), (false, true));
}

#[test]
fn the_document_has_the_names_and_attributes_of_the_cookies() {
    let schemes = |auth: &Auth| json_of(&auth.openapi())["components"]["securitySchemes"].clone();
    let bearer =
        json!({ "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The access token." });
    let plain = schemes(&auth(|_| {}));
    assert_eq!(plain["auth_bearer"], bearer);
    assert_eq!(plain["auth_refresh_cookie"]["name"], "__Secure-refresh");
    assert_eq!(plain.as_object().unwrap().len(), 2);
    let native = schemes(&auth(|settings| settings.transport = Transport::Body));
    assert_eq!(native, json!({ "auth_bearer": bearer }));
    let staff = auth(|settings| {
        settings.realm = Some("staff".to_owned());
        settings.access_cookie = Some(CookieSettings::access());
    });
    let named = schemes(&staff);
    assert_eq!(named["auth_refresh_cookie_staff"]["name"], "__Secure-refresh-staff");
    assert_eq!(named["auth_access_cookie_staff"]["name"], "__Host-access-staff");
    let document = json_of(&staff.openapi());
    let security = |method, path| operation(&document, method, path)["security"].clone();
    assert_eq!(security("post", "/refresh"), json!([{ "auth_refresh_cookie_staff": [] }]));
    assert_eq!(security("get", "/sessions"), json!([{ "auth_bearer": [] }, { "auth_access_cookie_staff": [] }]));
    assert_eq!(security("post", "/logout")[0], json!({}));
    assert_eq!(security("get", "/openapi.json"), json!([]));
    let cookie = &operation(&document, "post", "/refresh")["responses"]["200"]["headers"]["Set-Cookie"];
    let example = cookie["example"].as_str().unwrap();
    assert!(
        example.starts_with("__Secure-refresh-staff=") && example.contains("; Path=/auth; Max-Age=2592000"),
        "{example}"
    );
    let cleared = &operation(&document, "post", "/logout/all")["responses"]["204"]["headers"]["Set-Cookie"];
    assert!(cleared["example"].as_str().unwrap().ends_with("; Max-Age=0"), "{cleared}");
    assert_eq!((&cleared["required"], &cookie["required"]), (&json!(true), &Value::Null));
}

#[test]
fn a_refresh_has_a_body_only_if_the_token_may_be_in_it() {
    let body = |transport| {
        let document = json_of(&auth(|settings| settings.transport = transport).openapi());
        let refresh = operation(&document, "post", "/refresh");
        (refresh["requestBody"].is_object(), refresh["security"].clone(), refresh["responses"]["413"].is_object())
    };
    let cookie = json!({ "auth_refresh_cookie": [] });
    assert_eq!(body(Transport::Cookie), (false, json!([cookie]), false));
    assert_eq!(body(Transport::Body), (true, json!([{}]), true));
    assert_eq!(body(Transport::Both), (true, json!([{}, cookie]), true));
}

#[test]
fn a_login_page_is_a_redirect_of_what_layers_refuse() {
    let document = json_of(&with_everything().openapi());
    let location =
        |method, path| operation(&document, method, path)["responses"]["303"]["headers"]["Location"]["example"].clone();
    assert_eq!(location("get", "/sessions"), "/login?next=/");
    assert_eq!(location("post", "/logout"), "/login");
    assert_eq!(location("post", "/logout/others"), "/confirm?next=/");
    assert_eq!(location("post", "/refresh"), Value::Null);
    // What the handler finds out is no redirect.
    let recent = auth(|settings| {
        settings.step_up_page = Some("/confirm".to_owned());
        settings.revocation_max_age = Some(Duration::from_secs(60));
    });
    let recent = json_of(&recent.openapi());
    assert!(operation(&recent, "post", "/logout/all")["responses"]["303"].is_object());
    let by_handler = &operation(&recent, "delete", "/sessions/{id}")["responses"];
    assert_eq!((&by_handler["303"], &by_handler["401"]["headers"]["HX-Redirect"]), (&Value::Null, &Value::Null));
    let htmx = &operation(&document, "get", "/sessions")["responses"]["401"]["headers"]["HX-Redirect"];
    assert_eq!(htmx["example"], "/login");
    let plain = json_of(&auth(|_| {}).openapi());
    assert!(operations(&plain).all(|(_, operation)| operation["responses"]["303"].is_null()));
}

#[test]
fn every_response_has_the_headers_of_the_contract() {
    for document in [whole(&auth(|_| {})), whole(&with_everything())] {
        for (name, operation) in operations(&document) {
            for (status, response) in responses(operation) {
                let header = |header: &str| response["headers"][header]["required"] == true;
                assert!(header("Cache-Control"), "{name} {status}");
                assert_eq!(header("WWW-Authenticate"), status == "401", "{name} {status}");
                let comes_back = status == "503" || codes_in(response).contains(&"refresh_busy");
                assert_eq!(header("Retry-After"), comes_back, "{name} {status}");
                assert_eq!(header("Location"), status == "303", "{name} {status}");
                assert!(!response["description"].as_str().unwrap().is_empty(), "{name} {status}");
            }
        }
    }
}

#[test]
fn every_operation_has_a_name_of_its_own_also_with_two_realms() {
    let staff = auth(|settings| settings.realm = Some("staff".to_owned()));
    let mut document = whole(&auth(|_| {}));
    let other = whole(&staff);
    let ids = |document: &Value| -> Vec<String> {
        operations(document).map(|(_, operation)| operation["operationId"].as_str().unwrap().to_owned()).collect()
    };
    let (mut all, others) = (ids(&document), ids(&other));
    all.extend(others.into_iter().filter(|id| id != "own"));
    let unique: BTreeSet<_> = all.iter().collect();
    assert_eq!(unique.len(), all.len(), "{all:?}");
    assert_eq!(document["openapi"].take(), "3.1.0");
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let partial = auth(|_| {}).openapi_with(&Routes::all().without(Route::RevokeSession));
    for document in [whole(&auth(|_| {})), whole(&with_everything()), json_of(&partial)] {
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 1);
        for reference in found {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
        for (name, operation) in operations(&document) {
            for (_, response) in responses(operation) {
                for link in response["links"].as_object().into_iter().flat_map(serde_json::Map::values) {
                    let id = link["operationId"].as_str().unwrap();
                    assert!(operations(&document).any(|(_, operation)| operation["operationId"] == id), "{name}: {id}");
                }
            }
            for requirement in operation["security"].as_array().unwrap_or(&Vec::new()) {
                for scheme in requirement.as_object().unwrap().keys() {
                    assert!(document["components"]["securitySchemes"][scheme].is_object(), "{name}: {scheme}");
                }
            }
        }
    }
}

#[test]
fn the_refusals_of_the_app_join_those_of_the_layers_and_other_responses_stay() {
    const FORBIDDEN: Problem = Problem::new(StatusCode::FORBIDDEN, "forbidden");
    const GONE: Problem = Problem::new(StatusCode::GONE, "gone");
    let auth = auth(|_| {});
    let mut admin = auth.guarded_openapi(auth.admin_openapi());
    FORBIDDEN.add_to_openapi(&mut admin);
    FORBIDDEN.add_to_openapi(&mut admin);
    let admin = json_of(&admin);
    let forbidden = |method, path| codes_in(&operation(&admin, method, path)["responses"]["403"]);
    assert_eq!(forbidden("delete", "/sessions"), ["cross_origin", "forbidden"]);
    assert_eq!(forbidden("get", "/users/{user}/sessions"), ["forbidden"]);
    let response = &operation(&admin, "delete", "/sessions")["responses"]["403"];
    let lines: Vec<_> = response["description"].as_str().unwrap().lines().collect();
    assert_eq!((lines.len(), lines[1]), (2, "- `forbidden`"));
    let examples = response["content"]["application/problem+json"]["examples"].as_object().unwrap();
    assert_eq!(examples["forbidden"]["value"]["code"], "forbidden");
    assert_eq!(operation(&admin, "delete", "/sessions")["security"], json!([{ "auth_bearer": [] }]));

    // A response of the app's own, in a form of its own.
    let mut own = own_operation("/own");
    let operation_of = |document: &mut OpenApi| document.paths.paths.get_mut("/own").unwrap().post.clone().unwrap();
    let text = ResponseBuilder::new().description("Gone.").build();
    let mut changed = operation_of(&mut own);
    changed.responses.responses.insert("410".to_owned(), text.into());
    changed.security = Some(Vec::new());
    own.paths.paths.get_mut("/own").unwrap().post = Some(changed);
    GONE.add_to_openapi(&mut own);
    let own = json_of(&auth.guarded_openapi(own));
    let own = operation(&own, "post", "/own");
    assert_eq!((&own["responses"]["410"], &own["security"]), (&json!({ "description": "Gone." }), &json!([])));
    assert!(has(own, "access_token_missing") && has(own, "store_unavailable"));
}

#[test]
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
fn the_jwk_set_is_in_the_document_where_there_are_keys() {
    assert_eq!(auth(|_| {}).jwks_openapi().err().unwrap().setting(), "signing_key");
    let pem = include_bytes!("../src/token/keys_for_tests/ed25519.pem");
    let auth = built(|builder| builder.signing_key(axum_refresh::keys::SigningKey::from_pem(pem).unwrap()));
    let document = json_of(&auth.jwks_openapi().unwrap());
    let set = &operation(&document, "get", "/.well-known/jwks.json")["responses"]["200"];
    assert_eq!(set["headers"]["Cache-Control"]["example"], "public, max-age=300");
    assert_eq!(set["content"]["application/json"]["example"], auth.jwks());
}
