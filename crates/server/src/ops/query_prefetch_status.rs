use std::sync::Arc;

use larder_core::LookupStatus;
use larder_types::ConnectionId;
use larder_wire::ops::QueryPrefetchStatus;

use super::context::{Call, Context};
use super::reply::Answer;

/// The hit of a lookup in chunks, once; nil while it goes on; 0 for an unknown request.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: QueryPrefetchStatus) -> Answer<Option<i64>> {
    Ok(take_result(cx, call.connection, &request.request_id))
}

/// The same, without a request.
pub(super) fn take_result(cx: &Context, connection: ConnectionId, request_id: &str) -> Option<i64> {
    match cx.core.with(|core, now| core.take_result(now, connection, request_id)) {
        LookupStatus::Pending => None,
        LookupStatus::Ready(hit) => Some(i64::from(hit)),
        LookupStatus::Unknown => Some(0),
    }
}
