//! Hot-plug of vendors' hardware, of which there is none here: LMCache's answers for a server without it.

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Refusal;
use super::extract::Segment;

/// L1 on a DAX device.
pub(super) async fn l1_status() -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "L1 is not Device-DAX backed (--l1-devdax-path not set)")
}

/// Adapters of a type that can be changed while the server runs.
pub(super) async fn l2_status(Segment(backend): Segment) -> Response {
    Json(json!({"enabled": false, "backend": backend, "num_adapters": 0, "adapters": []})).into_response()
}

/// A change to one.
pub(super) async fn l2_change(Path((backend, _)): Path<(String, String)>) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("{backend} adapter not found"))
}
