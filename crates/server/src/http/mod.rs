//! The HTTP side: what operators' tools, probes and Prometheus ask.

mod auth;
mod body;
mod cache;
mod debug;
mod extract;
mod health;
mod page;
mod quota;
mod reconfigure;
mod routes;
mod status;
mod tasks;
mod version;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, middleware};
use serde_json::json;

use self::routes::Routes;
use crate::app::state::State;
use crate::overview::Overview;

pub use self::routes::Route;
pub(crate) use self::version::COMMIT;

type AppState = Arc<State>;

/// What anybody may ask.
fn open_routes() -> Routes {
    Routes::default()
        .get("/", page::root)
        .get("/page/{file}", page::file)
        .get("/overview", async |Shared(state): Shared<AppState>| Json(Overview::of(&state)))
        .get("/healthcheck", health::healthcheck)
        .get("/api/healthcheck", health::healthcheck)
        .get("/livez", health::livez)
        .get("/readyz", health::readyz)
        .get("/status", status::status)
        .get("/api/status", status::status)
        .get("/workers", status::workers_only)
        .get("/periodic-threads", tasks::list)
        .get("/periodic-threads/{name}", tasks::one)
        .get("/periodic-threads-health", tasks::health)
        .get("/version", version::version)
        .get("/lmc_version", version::lmcache_version)
        .get("/commit_id", version::commit_id)
        .get("/openapi.json", openapi)
        .get("/config", config)
        .get("/conf", config)
        .get("/config/adapters", adapters)
        .get("/reconfigure/dax/l1/status", reconfigure::l1_status)
        .get("/reconfigure/{backend}/l2/status", reconfigure::l2_status)
        .post("/reconfigure/{backend}/l2/{operation}", reconfigure::l2_change)
        .get("/cache/objects", cache::objects::list)
        .get("/cache/stats", async |Shared(state): Shared<AppState>| Json(state.metrics.recent()))
        .get("/cache/prefetches/{request_id}", cache::prefetches::status)
        .get("/cache/whatif", cache::whatif::whatif)
        .post("/cache/checksums", cache::checksums::checksums)
        .get("/metrics", metrics)
        // LMCache resets nothing either: its counters live elsewhere.
        .post("/metrics/reset", async || "ok")
        .get("/quota", quota::list)
        .get("/quota/{salt}", quota::get)
}

/// What changes something, and needs the token if there is one.
fn changing_routes() -> Routes {
    Routes::default()
        .post("/cache/clear", cache::clear::clear)
        .post("/clear-cache", cache::clear::clear)
        .post("/api/clear-cache", cache::clear::clear)
        .delete("/cache/objects", cache::objects::delete)
        .post("/cache/prefetches", cache::prefetches::submit)
        .put("/quota/{salt}", quota::put)
        .delete("/quota/{salt}", quota::delete)
}

/// What shows or changes the insides of the process.
fn debug_routes() -> Routes {
    Routes::default()
        .get("/env", debug::env)
        .get("/threads", debug::threads)
        .get("/loglevel", debug::log_level)
        .put("/loglevel", debug::put_log_level)
}

/// Every method and path of the API.
pub fn routes() -> Vec<Route> {
    [open_routes(), changing_routes(), debug_routes()].iter().flat_map(|r| r.list().to_vec()).collect()
}

/// The whole API.
pub fn router(state: AppState) -> Router {
    let token = || middleware::from_fn_with_state(state.clone(), auth::require_token);
    let changes = changing_routes().into_router().layer(token());
    let gate = middleware::from_fn_with_state(state.clone(), debug::gate);
    let debug = debug_routes().into_router().layer(token()).layer(gate);
    open_routes()
        .into_router()
        .merge(changes)
        .merge(debug)
        .layer(DefaultBodyLimit::max(cache::BODY_BYTES_MAX))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), access_log))
        .with_state(state)
}

/// The description of this API.
async fn openapi() -> Response {
    const TEXT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json"));
    ([(header::CONTENT_TYPE, "application/json")], TEXT).into_response()
}

/// `/metrics` alone, for a port of its own.
pub fn metrics_router(state: AppState) -> Router {
    Router::new().route("/metrics", get(metrics)).fallback(not_found).with_state(state)
}

async fn metrics(Shared(state): Shared<AppState>) -> Response {
    if !state.config.metrics.enabled {
        return Refusal::new(StatusCode::NOT_FOUND, "metrics are off (--disable-metrics)").into_response();
    }
    let content_type = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (content_type, crate::metrics::exposition(&state)).into_response()
}

async fn config(Shared(state): Shared<AppState>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    let body = format!("{:#}", state.config.to_reference_json());
    (content_type, body).into_response()
}

async fn adapters(Shared(state): Shared<AppState>) -> Response {
    let adapters: Vec<_> = state
        .l2
        .adapters()
        .map(|(id, adapter)| {
            json!({
                "index": id.0, "type_name": adapter.kind(), "tier": "l2", "primary": id.0 == 0,
                "reconfigurable": false,
            })
        })
        .collect();
    Json(json!({"adapters": adapters})).into_response()
}

/// A call that is not done, and why.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    body: serde_json::Value,
}

impl Refusal {
    /// The reason under both names that stock tools look for.
    fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { status, body: json!({"detail": reason, "error": reason}) }
    }

    fn bad_request<T: Into<String>>(reason: T) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// What a call gives.
type Answer<T = Response> = Result<T, Refusal>;

async fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "Not Found")
}

async fn method_not_allowed() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}

async fn access_log(
    Shared(state): Shared<AppState>,
    request: axum::extract::Request,
    next: middleware::Next,
) -> Response {
    if !state.config.http.access_log {
        return next.run(request).await;
    }
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = next.run(request).await;
    tracing::info!(%method, %uri, status = response.status().as_u16(), "http");
    response
}
