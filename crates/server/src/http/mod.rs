//! The HTTP side: what operators' tools, probes and Prometheus ask.

mod auth;
mod body;
mod cache;
mod health;
mod page;
mod quota;
mod status;
mod version;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, middleware};
use serde_json::json;

use crate::overview::Overview;
use crate::state::State;

pub(crate) use self::version::COMMIT;

type AppState = Arc<State>;

/// Every path of the API.
pub fn router(state: AppState) -> Router {
    let changes = Router::new()
        .route("/cache/clear", post(cache::clear::clear))
        .route("/clear-cache", post(cache::clear::clear))
        .route("/api/clear-cache", post(cache::clear::clear))
        .route("/cache/objects", delete(cache::objects::delete))
        .route("/cache/prefetches", post(cache::prefetches::submit))
        .route("/quota/{salt}", put(quota::put).delete(quota::delete))
        .layer(DefaultBodyLimit::max(cache::BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(state.clone(), auth::require_token));
    Router::new()
        .route("/", get(page::root))
        .route("/page/{file}", get(page::file))
        .route("/overview", get(async |Shared(state): Shared<AppState>| Json(Overview::of(&state))))
        .route("/healthcheck", get(health::healthcheck))
        .route("/api/healthcheck", get(health::healthcheck))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/status", get(status::status))
        .route("/api/status", get(status::status))
        .route("/workers", get(status::workers_only))
        .route("/version", get(version::version))
        .route("/lmc_version", get(version::lmcache_version))
        .route("/commit_id", get(version::commit_id))
        .route("/config", get(config))
        .route("/conf", get(config))
        .route("/config/adapters", get(adapters))
        .route("/cache/objects", get(cache::objects::list))
        .route("/cache/prefetches/{request_id}", get(cache::prefetches::status))
        .route("/metrics", get(metrics))
        .route("/quota", get(quota::list))
        .route("/quota/{salt}", get(quota::get))
        // LMCache resets nothing either: its counters live elsewhere.
        .route("/metrics/reset", post(async || "ok"))
        .merge(changes)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), access_log))
        .with_state(state)
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
