//! Whether the server lives, and whether it serves.

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::AppState;
use super::extract::Query;
use crate::app::core_handle::CORE_POISONED;

fn unhealthy(reason: &str) -> Response {
    let body = json!({"status": "unhealthy", "reason": reason});
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// The stock probe: L1 is served. With `deep=1` it means what `/readyz` means.
pub(super) async fn healthcheck(Shared(state): Shared<AppState>, Query(query): Query) -> Response {
    let problems = state.problems();
    if query.get("deep").is_some_and(|d| d == "1" || d == "true") && !problems.is_empty() {
        return unhealthy(&problems.join("; "));
    }
    if state.core().is_poisoned() {
        return unhealthy(CORE_POISONED);
    }
    Json(json!({"status": "healthy"})).into_response()
}

/// A restart would not help: the process answers and its core is sound.
pub(super) async fn livez(Shared(state): Shared<AppState>) -> Response {
    if state.core().is_poisoned() {
        return unhealthy(CORE_POISONED);
    }
    Json(json!({"status": "alive"})).into_response()
}

/// Requests are served. This port opens when the request port is bound and L1 is mapped.
pub(super) async fn readyz(Shared(state): Shared<AppState>) -> Response {
    let problems = state.problems();
    if problems.is_empty() {
        return Json(json!({"status": "ready", "reasons": []})).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not ready", "reasons": problems})))
        .into_response()
}
