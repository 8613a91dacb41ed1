//! Checksums of a worker's own KV blocks, which only a server that copies by itself can read.

use axum::extract::State as Shared;
use axum::http::StatusCode;

use super::super::body::{Faults, Fields, object};
use super::super::extract::Body;
use super::super::{Answer, AppState, Refusal};

/// Refuses, for the reason that LMCache would have: a worker that copies by itself is not known there.
pub(in crate::http) async fn checksums(Shared(_): Shared<AppState>, Body(body): Body) -> Answer {
    let map = object(&body)?;
    let (fields, mut faults) = (Fields::of_body(&map), Faults::default());
    for name in ["block_ids", "chunk_size", "instance_id"] {
        fields.must_have(&mut faults, name);
    }
    let blocks = fields.list(&mut faults, "block_ids").map_or(0, Vec::len);
    let chunk_size = fields.whole(&mut faults, "chunk_size", i64::MIN).unwrap_or_default();
    let instance = fields.whole(&mut faults, "instance_id", i64::MIN).unwrap_or_default();
    fields.switch(&mut faults, "layerwise");
    faults.answer()?;
    Err(match (blocks, chunk_size) {
        (0, _) => Refusal::bad_request("block_ids is required"),
        (_, ..=0) => Refusal::bad_request("chunk_size must be positive"),
        _ => Refusal::new(
            StatusCode::NOT_FOUND,
            format!("instance_id {instance} not registered for copies by the server"),
        ),
    })
}
