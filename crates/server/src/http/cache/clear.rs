use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::super::Answer;
use super::super::body::{FieldErrors, Fields, object};
use super::super::error::ApiError;
use super::super::extract::Body;
use super::super::part::Part;
use crate::app::core_handle::CoreHandle;

/// Removes all objects from L1 that are not pinned; with `force`, pinned ones too. Those that become readable meanwhile
/// stay.
pub(in crate::http) async fn clear(core: Part<CoreHandle>, Body(body): Body) -> Answer<Response> {
    let force = parse(&body)?;
    let clear = tokio::task::spawn_blocking(move || core.clear(force));
    let objects =
        clear.await.map_err(|error| ApiError::Unavailable(format!("clearing L1 failed: {error}")))?;
    tracing::info!(objects, force, "cleared L1");
    Ok(Json(json!({"status": "ok", "cleared": {"tier": "l1"}, "objects": objects})).into_response())
}

/// Reads `force`.
fn parse(body: &[u8]) -> Answer<bool> {
    let map = object(body)?;
    let (fields, mut errors) = (Fields::of_body(&map), FieldErrors::default());
    let tier = fields.text(&mut errors, "tier").unwrap_or("l1");
    let force = fields.switch(&mut errors, "force").unwrap_or(false);
    errors.check()?;
    match tier {
        "l1" => Ok(force),
        other => Err(ApiError::BadRequest(format!("tier '{other}' not supported; only 'l1'"))),
    }
}
