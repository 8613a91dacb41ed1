//! Checksums of a worker's KV blocks, which only a server that reads workers' memory can compute.

use super::super::Answer;
use super::super::body::{FieldErrors, Fields, object};
use super::super::error::ApiError;
use super::super::extract::Body;

/// Fails as in LMCache, where workers that copy themselves are not registered for this.
pub(in crate::http) async fn checksums(Body(body): Body) -> Answer {
    let map = object(&body)?;
    let (fields, mut errors) = (Fields::of_body(&map), FieldErrors::default());
    for name in ["block_ids", "chunk_size", "instance_id"] {
        fields.must_have(&mut errors, name);
    }
    let blocks = fields.list(&mut errors, "block_ids").map_or(0, Vec::len);
    let chunk_size = fields.whole(&mut errors, "chunk_size", i64::MIN).unwrap_or_default();
    let instance = fields.whole(&mut errors, "instance_id", i64::MIN).unwrap_or_default();
    fields.switch(&mut errors, "layerwise");
    errors.check()?;
    Err(match (blocks, chunk_size) {
        (0, _) => ApiError::BadRequest("block_ids is required".to_owned()),
        (_, ..=0) => ApiError::BadRequest("chunk_size must be positive".to_owned()),
        _ => ApiError::NotFound(format!("instance_id {instance} not registered for copies by the server")),
    })
}
