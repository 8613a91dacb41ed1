use larder_store::ConnectionId;
use larder_wire::key::CacheKey;
use larder_wire::registration::InstanceId;
use larder_wire::response::{Response, RetrievePlan};

use super::Answer;
use super::transfer::{Transfer, wire_slot};
use crate::state::State;

/// Tells a worker where the chunks of a hit lie, and holds them until it commits. A worker without a
/// common arena gets the bytes.
pub(super) fn serve(state: &State, connection: ConnectionId, key: &CacheKey, instance: InstanceId) -> Answer {
    let transfer = Transfer::new(state, connection, key, instance)?;
    let spec = transfer.spec();
    let Some(slots) = state.core().prepare_retrieve(state.clock.now(), &spec)? else {
        return Ok(Response::RetrievePlan(RetrievePlan::Missing));
    };
    Ok(Response::RetrievePlan(RetrievePlan::Slots(slots.iter().map(wire_slot).collect())))
}
