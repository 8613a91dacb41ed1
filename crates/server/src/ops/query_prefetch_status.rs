use std::sync::Arc;

use larder_core::LookupStatus;
use larder_types::ConnectionId;
use larder_wire::ops::{QueryPrefetchLookupHits, QueryPrefetchStatus};

use super::context::{Call, Context};
use super::reply::Answer;

/// The hit of a lookup in chunks, once; nil while it goes on; 0 for an unknown request.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: QueryPrefetchStatus) -> Answer<Option<i64>> {
    Ok(take_result(cx, call.connection, &request.request_id))
}

/// The same, and the hit can be asked for again.
pub(super) fn peek(
    cx: &Arc<Context>,
    call: &Call<'_>,
    request: QueryPrefetchLookupHits,
) -> Answer<Option<i64>> {
    let status = cx.core.with(|core, now| core.peek_result(now, call.connection, &request.request_id));
    Ok(chunks(status))
}

/// The same, without a request.
pub(super) fn take_result(cx: &Context, connection: ConnectionId, request_id: &str) -> Option<i64> {
    chunks(cx.core.with(|core, now| core.take_result(now, connection, request_id)))
}

fn chunks(status: LookupStatus) -> Option<i64> {
    match status {
        LookupStatus::Pending => None,
        LookupStatus::Ready(hit) => Some(i64::from(hit)),
        LookupStatus::Unknown => Some(0),
    }
}
