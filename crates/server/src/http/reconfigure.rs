//! Reconfiguration of hardware at run time: LMCache's answers for a server without such hardware.

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::error::ApiError;
use super::extract::Segment;

/// L1 on a DAX device.
pub(super) async fn l1_status() -> ApiError {
    ApiError::Conflict("L1 is not Device-DAX backed (--l1-devdax-path not set)")
}

/// Adapters of a type that can be reconfigured.
pub(super) async fn l2_status(Segment(backend): Segment) -> Response {
    Json(json!({"enabled": false, "backend": backend, "num_adapters": 0, "adapters": []})).into_response()
}

/// Reconfigures an adapter.
pub(super) async fn l2_change(Path((backend, _)): Path<(String, String)>) -> ApiError {
    ApiError::NotFound(format!("{backend} adapter not found"))
}
