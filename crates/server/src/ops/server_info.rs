//! Operations that ask about the server.

use std::sync::Arc;

use larder_wire::ops::{GetChunkSize, GetExperimental, NegotiateChunkSize, Noop};

use super::context::{Call, Context};
use super::not_understood::Reason;
use super::reply::{Answer, Failure};

/// The optional feature that this server has.
const EVENT_STREAM: &str = "kv_event_stream";

/// Tokens per chunk.
pub(super) fn chunk_size(cx: &Arc<Context>, _: &Call<'_>, _: GetChunkSize) -> Answer<i64> {
    Ok(cx.chunk_tokens() as i64)
}

/// Tokens per chunk, if the engine's blocks fit into them. The size is fixed when the server starts: another one would
/// make all that is stored unreadable, and a client that comes back after a restart wants the same as before.
///
/// Otherwise there is no answer, as from LMCache's server: any would be taken for the size, and the engine would store
/// chunks of another one.
pub(super) fn negotiate_chunk_size(
    cx: &Arc<Context>,
    call: &Call<'_>,
    request: NegotiateChunkSize,
) -> Answer<i64> {
    let (size, alignment) = (cx.chunk_tokens() as u64, request.required_alignment);
    let needed = u64::try_from(alignment).ok().filter(|alignment| *alignment > 0);
    let fitting = needed.and_then(|needed| size.checked_next_multiple_of(needed));
    if fitting == Some(size) {
        return Ok(size as i64);
    }
    let remedy = fitting.map_or(String::new(), |fitting| {
        format!(
            ", and here they have {size}; start the server with --chunk-size {fitting}, or another multiple"
        )
    });
    let text = format!("its KV blocks need chunks of a multiple of {alignment} tokens{remedy}");
    cx.not_understood.warn(call.connection, Reason::ChunkSize, text);
    Err(Failure::Unserved("the chunk size does not fit"))
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
