//! Liveness and readiness.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::extract::Query;
use super::part::Part;
use crate::app::core_handle::{CORE_POISONED, CoreHandle};
use crate::l2::L2;
use crate::overview::problems;

fn unhealthy(reason: &str) -> Response {
    let body = json!({"status": "unhealthy", "reason": reason});
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// LMCache's probe: L1 is served. With `deep=1` it checks the same as `/readyz`.
pub(super) async fn healthcheck(core: Part<CoreHandle>, l2: Part<L2>, Query(query): Query) -> Response {
    let problems = problems(&core, &l2);
    if query.get("deep").is_some_and(|d| d == "1" || d == "true") && !problems.is_empty() {
        return unhealthy(&problems.join("; "));
    }
    if core.is_poisoned() {
        return unhealthy(CORE_POISONED);
    }
    Json(json!({"status": "healthy"})).into_response()
}

/// Fails if only a restart helps: the core has stopped after an internal error.
pub(super) async fn livez(core: Part<CoreHandle>) -> Response {
    if core.is_poisoned() {
        return unhealthy(CORE_POISONED);
    }
    Json(json!({"status": "alive"})).into_response()
}

/// Requests are served, and L2 works. The HTTP port opens after the request port is bound and L1 is mapped.
pub(super) async fn readyz(core: Part<CoreHandle>, l2: Part<L2>) -> Response {
    let problems = problems(&core, &l2);
    if problems.is_empty() {
        return Json(json!({"status": "ready", "reasons": []})).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not ready", "reasons": problems})))
        .into_response()
}
