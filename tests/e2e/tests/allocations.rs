//! How often a request allocates memory.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use axum_refresh::config::{Binding, BindingMode};
use axum_refresh::{Auth, AuthUser, ClientInfo, MemoryStore, NoClaims, Policy, Secret, Settings};
use tower::layer::util::Identity;
use tower::{Service as _, ServiceExt as _};

/// How many allocations the second request, and every later one, needs.
fn allocations(app: Router, token: &str) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut service = app.into_service::<Body>();
    let mut count = || {
        let request = Request::get("/")
            .header("authorization", format!("Bearer {token}"))
            .header("user-agent", "curl/8.5.0")
            .body(Body::empty())
            .unwrap();
        let mut response = None;
        let counted = allocation_counter::measure(|| {
            response = Some(runtime.block_on(async { service.ready().await.unwrap().call(request).await.unwrap() }));
        });
        assert_eq!(response.unwrap().status(), 200);
        counted.count_total
    };
    count();
    count();
    let counted = count();
    assert_eq!(counted, count());
    counted
}

#[test]
fn a_token_that_was_seen_before_costs_three_allocations_at_most() {
    let binding = Binding { user_agent: BindingMode::Reject, ..Binding::default() };
    let settings = Settings { policy: Policy { binding, ..Policy::default() }, ..Settings::default() };
    let auth: Auth = Auth::builder(Secret::random().unwrap(), MemoryStore::new()).settings(settings).build().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let login = auth.login("alice", NoClaims {}).client(ClientInfo::new().user_agent("curl/8.5.0"));
    let token = runtime.block_on(login.into_future()).unwrap().tokens.access_token;

    // axum boxes the service and the future of every route_layer, whatever it does.
    let bare = allocations(Router::new().route("/", get(|| async {})).route_layer(Identity::new()), &token);
    let by_user = || Router::new().route("/", get(|_: AuthUser| async {}));
    for (name, app) in [
        ("the layer", by_user().route_layer(auth.layer())),
        ("the guard", by_user().route_layer(auth.guard())),
        ("both", by_user().route_layer((auth.layer(), auth.guard()))),
    ] {
        let counted = allocations(app, &token);
        println!("{name}: {counted}, bare: {bare}");
        assert!(counted <= bare + 3, "{name}: {counted}, bare: {bare}");
    }
}
