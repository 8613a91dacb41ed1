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
    state.core().commit_retrieve(state.clock.now(), &transfer.spec());
    Ok(Response::Bool(true))
}
