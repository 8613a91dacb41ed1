//! Operations that ask about the server.

use std::sync::Arc;

use larder_wire::ops::{GetChunkSize, GetExperimental, Noop};

use super::context::{Call, Context};
use super::reply::Answer;

/// The optional feature that this server has.
const EVENT_STREAM: &str = "kv_event_stream";

/// Tokens per chunk.
pub(super) fn chunk_size(cx: &Arc<Context>, _: &Call<'_>, _: GetChunkSize) -> Answer<i64> {
    Ok(cx.chunk_tokens() as i64)
}

/// The optional features.
pub(super) fn features(cx: &Arc<Context>, _: &Call<'_>, _: GetExperimental) -> Answer<Vec<String>> {
    let stream = cx.streams.are_served().then(|| EVENT_STREAM.to_owned());
    Ok(stream.into_iter().collect())
}

/// Answers that the server serves.
pub(super) fn noop(_: &Arc<Context>, _: &Call<'_>, _: Noop) -> Answer<String> {
    Ok("OK".to_owned())
}
