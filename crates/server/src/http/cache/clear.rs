use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::super::body::{Faults, Fields, object};
use super::super::extract::Body;
use super::super::{Answer, AppState, Refusal};

/// Empties L1: of what nobody holds, or with `force` of everything.
pub(in crate::http) async fn clear(Shared(state): Shared<AppState>, Body(body): Body) -> Answer<Response> {
    let force = parse(&body)?;
    let objects = state.core().with(|core, now| core.clear(now, force));
    tracing::info!(objects, force, "cleared L1");
    Ok(Json(json!({"status": "ok", "cleared": {"tier": "l1"}, "objects": objects})).into_response())
}

/// Whether it is by force.
fn parse(body: &[u8]) -> Answer<bool> {
    let map = object(body)?;
    let (fields, mut faults) = (Fields::of_body(&map), Faults::default());
    let tier = fields.text(&mut faults, "tier").unwrap_or("l1");
    let force = fields.switch(&mut faults, "force").unwrap_or(false);
    faults.answer()?;
    match tier {
        "l1" => Ok(force),
        other => Err(Refusal::bad_request(format!("tier '{other}' not supported; only 'l1'"))),
    }
}
