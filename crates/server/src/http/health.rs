//! Whether the server lives, and whether it serves.

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::AppState;
use super::extract::Query;
use crate::state::State;

/// What keeps the server from serving; nothing if it serves.
fn problems(state: &State) -> Vec<String> {
    let mut problems = state.l2.problems();
    if !state.is_sound() {
        problems.push("the storage core has stopped after an internal error; restart the server".to_owned());
    }
    problems
}

/// The stock probe; with `deep=1` it means what `/readyz` means.
pub(super) async fn healthcheck(Shared(state): Shared<AppState>, Query(query): Query) -> Response {
    let problems = problems(&state);
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
    let problems = problems(&state);
    if problems.is_empty() {
        return Json(json!({"status": "ready", "reasons": []})).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not ready", "reasons": problems})))
        .into_response()
}
