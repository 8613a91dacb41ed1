//! The HTTP API for tools, probes and Prometheus.

mod auth;
mod body;
mod browser;
mod cache;
mod debug;
mod error;
mod extract;
mod health;
mod page;
mod part;
mod quota;
mod reconfigure;
mod routes;
pub(crate) mod serve;
mod status;
mod tasks;
mod version;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::State as Shared;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, middleware};
use larder_arena::Arena;
use serde_json::json;

use self::error::ApiError;
use self::part::Part;
use self::routes::Routes;
use crate::app::log_control::LogControl;
use crate::app::state::State;
use crate::config::Config;
use crate::l2::L2;
use crate::metrics::Metrics;
use crate::overview::Overview;

pub use self::routes::Route;
pub(crate) use self::version::COMMIT;

type AppState = Arc<State>;

/// Probes, which never need a token.
fn probe_routes() -> Routes {
    Routes::default()
        .get("/healthcheck", health::healthcheck)
        .get("/api/healthcheck", health::healthcheck)
        .get("/livez", health::livez)
        .get("/readyz", health::readyz)
}

/// Routes that change nothing. They need the token with `--http-auth-reads`.
fn reading_routes() -> Routes {
    Routes::default()
        .get("/", page::root)
        .get("/page/{file}", page::file)
        .get("/overview", async |Shared(state): Shared<AppState>| Json(Overview::of(&state)))
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
        .get("/cache/stats", async |metrics: Part<Metrics>| Json(metrics.recent()))
        .get("/cache/prefetches/{request_id}", cache::prefetches::status)
        .get("/cache/whatif", cache::whatif::whatif)
        .post("/cache/checksums", cache::checksums::checksums)
        .get("/metrics", metrics)
        // As in LMCache, this resets nothing.
        .post("/metrics/reset", async || "ok")
        .get("/quota", quota::list)
        .get("/quota/{salt}", quota::get)
}

/// Routes that change something and need the token if one is configured.
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

/// Routes that show or change the process itself.
fn debug_routes() -> Routes {
    Routes::default()
        .get("/env", debug::env)
        .get("/threads", debug::threads)
        .get("/loglevel", debug::log_level)
        .put("/loglevel", debug::put_log_level)
}

/// Every method and path of the API.
pub fn routes() -> Vec<Route> {
    let all = [probe_routes(), reading_routes(), changing_routes(), debug_routes()];
    all.iter().flat_map(|routes| routes.list().to_vec()).collect()
}

/// Where calls come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A TCP port: another user, or a page in a browser.
    Anyone,
    /// The socket of `--http-uds`, which only this server's user and root can use. They need no token.
    Owner,
}

/// The whole API.
pub fn router(state: AppState, caller: Caller) -> Router {
    let api = match caller {
        Caller::Anyone => refusing_others(api(&state, auth::Rule::Configured), &state),
        Caller::Owner => api(&state, auth::Rule::Open),
    };
    api.layer(middleware::from_fn_with_state(state.clone(), access_log)).with_state(state)
}

fn api(state: &AppState, rule: auth::Rule) -> Router<AppState> {
    let token =
        |kind| middleware::from_fn_with_state((state.config.clone(), rule, kind), auth::require_token);
    let gate = middleware::from_fn_with_state(state.clone(), debug::gate);
    let reads = reading_routes().into_router().layer(token(auth::Kind::Reads));
    let changes = changing_routes().into_router().layer(token(auth::Kind::Changes));
    let debug = debug_routes().into_router().layer(token(auth::Kind::Changes)).layer(gate);
    probe_routes()
        .into_router()
        .merge(reads)
        .merge(changes)
        .merge(debug)
        .layer(DefaultBodyLimit::max(cache::BODY_BYTES_MAX))
        .fallback(async || ApiError::not_found())
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
}

/// Refuses requests on behalf of other sites on all routes.
fn refusing_others(router: Router<AppState>, state: &AppState) -> Router<AppState> {
    // The coordinator addresses the server by this name.
    let advertised = state.config.coordinator.advertise_ip.as_deref();
    let guard = browser::Guard::new(&state.config.http, advertised.as_slice());
    let context = (Arc::new(guard), state.metrics.clone());
    router.layer(middleware::from_fn_with_state(context, browser::refuse_other_sites))
}

/// The OpenAPI description.
async fn openapi() -> Response {
    const TEXT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json"));
    ([(header::CONTENT_TYPE, "application/json")], TEXT).into_response()
}

/// `/metrics` alone, for `--prometheus-port`.
pub fn metrics_router(state: AppState) -> Router {
    let rule = (state.config.clone(), auth::Rule::Configured, auth::Kind::Reads);
    let token = middleware::from_fn_with_state(rule, auth::require_token);
    let router = Router::new().route("/metrics", get(metrics)).layer(token);
    refusing_others(router.fallback(async || ApiError::not_found()), &state).with_state(state)
}

async fn metrics(Shared(state): Shared<AppState>) -> Response {
    if !state.config.metrics.enabled {
        return ApiError::NotFound("metrics are off (--disable-metrics)".to_owned()).into_response();
    }
    let content_type = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (content_type, crate::metrics::scrape::exposition(&state)).into_response()
}

/// The configuration in force: shared memory that was not to be had (`--shm-fallback`) and a log level that was changed
/// are shown as they are.
async fn config(
    config: Part<Config>,
    arena: Part<Arc<Arena>>,
    log: Part<OnceLock<Arc<LogControl>>>,
) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    let mut json = config.to_reference_json();
    if arena.name().is_none() {
        json["mp"]["shm_name"] = "".into();
        for l1 in ["/storage_manager/l1_manager_config", "/storage_manager/l1_manager_configs/0"] {
            let name = json.pointer_mut(&format!("{l1}/memory_config/shm_name"));
            *name.expect("a test compares the members with LMCache's") = "".into();
        }
    }
    if let Some(log) = log.get() {
        json["observability"]["log_level"] = log.level().name().into();
    }
    let body = format!("{json:#}");
    (content_type, body).into_response()
}

async fn adapters(l2: Part<L2>) -> Response {
    let adapters: Vec<_> = l2
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

/// The result of a call.
type Answer<T = Response> = Result<T, ApiError>;

async fn access_log(
    config: Part<Config>,
    request: axum::extract::Request,
    next: middleware::Next,
) -> Response {
    if !config.http.access_log {
        return next.run(request).await;
    }
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = next.run(request).await;
    tracing::info!(%method, %uri, status = response.status().as_u16(), "http");
    response
}
