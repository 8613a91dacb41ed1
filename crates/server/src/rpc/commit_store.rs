use bytes::Bytes;
use larder_store::ConnectionId;
use larder_store::transfer::Committed;
use larder_wire::key::CacheKey;
use larder_wire::registration::InstanceId;
use larder_wire::response::Response;

use super::Answer;
use super::transfer::Transfer;
use crate::state::State;

/// Publishes the slots that a worker has filled, or the chunks that it brings along.
pub(super) fn serve(
    state: &State,
    connection: ConnectionId,
    key: &CacheKey,
    instance: InstanceId,
    data: &Bytes,
) -> Answer {
    let transfer = Transfer::new(state, connection, key, instance)?;
    let stored = if data.is_empty() {
        let committed = state.core().commit_store(state.clock.now(), &transfer.spec());
        matches!(committed, Committed::Published(_))
    } else {
        false
    };
    Ok(Response::Bool(stored))
}
