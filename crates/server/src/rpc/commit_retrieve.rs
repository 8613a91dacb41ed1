use larder_store::ConnectionId;
use larder_wire::key::CacheKey;
use larder_wire::registration::InstanceId;
use larder_wire::response::Response;

use super::Answer;
use super::transfer::Transfer;
use crate::state::State;

/// A worker has read its slots, or given up. True in every case: there is nothing it could do about
/// anything else.
pub(super) fn serve(state: &State, connection: ConnectionId, key: &CacheKey, instance: InstanceId) -> Answer {
    let transfer = Transfer::new(state, connection, key, instance)?;
    let now = state.clock.now();
    let mut core = state.core();
    if core.commit_retrieve(now, &transfer.spec())
        && let Some(recorder) = &state.recorder
    {
        recorder.retrieve(now, &transfer.spec());
    }
    Ok(Response::Bool(true))
}
