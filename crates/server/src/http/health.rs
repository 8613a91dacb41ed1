//! Whether the server lives, and whether it serves.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::AppState;

/// The stock probe; with `deep=1` it means what `/readyz` means.
pub(super) async fn healthcheck(
    Shared(state): Shared<AppState>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let problems = state.problems();
    if query.get("deep").is_some_and(|d| d == "1" || d == "true") && !problems.is_empty() {
        let body = json!({"status": "unhealthy", "reason": problems.join("; ")});
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    }
    Json(json!({"status": "healthy"})).into_response()
}

/// The process answers.
pub(super) async fn livez() -> Response {
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
