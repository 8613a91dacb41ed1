//! The HTTP side: what operators' tools, probes and Prometheus ask.

mod auth;
mod body;
mod cache;
mod health;
mod status;
mod version;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, middleware};
use serde_json::json;

use crate::state::State;

type AppState = Arc<State>;

/// Every path of the API.
pub fn router(state: AppState) -> Router {
    let changes = Router::new()
        .route("/cache/clear", post(cache::clear::clear))
        .route("/clear-cache", post(cache::clear::clear))
        .route("/api/clear-cache", post(cache::clear::clear))
        .route("/cache/objects", delete(cache::objects::delete))
        .route("/cache/prefetches", post(cache::prefetches::submit))
        .layer(DefaultBodyLimit::max(cache::BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(state.clone(), auth::require_token));
    Router::new()
        .route("/", get(async || Json(json!({"status": "ok", "service": "LMCache HTTP API"}))))
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
        return error(StatusCode::NOT_FOUND, "metrics are off (--disable-metrics)");
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

/// An error under both names that stock tools look for.
fn error(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({"detail": text, "error": text}))).into_response()
}

async fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "Not Found")
}

async fn method_not_allowed() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
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
