use larder_store::ConnectionId;
use larder_store::transfer::PreparedStore;
use larder_wire::key::CacheKey;
use larder_wire::registration::InstanceId;
use larder_wire::response::{Response, StorePlan};

use super::transfer::{Transfer, wire_slot};
use super::{Answer, Failure};
use crate::state::State;

/// Reserves slots for the chunks that are not cached yet. A worker without a common arena is told to
/// send the bytes instead.
pub(super) fn serve(state: &State, connection: ConnectionId, key: &CacheKey, instance: InstanceId) -> Answer {
    let transfer = Transfer::new(state, connection, key, instance)?;
    if state.arena.name().is_none() {
        return Ok(Response::StorePlan(StorePlan::Pickle));
    }
    let prepared = reserve(state, &transfer, transfer.start, transfer.end)?;
    Ok(Response::StorePlan(StorePlan::Slots {
        slots: prepared.slots.iter().map(wire_slot).collect(),
        chunk_indices: prepared.chunks.iter().map(|i| u64::from(*i)).collect(),
    }))
}

/// Reserves slots whose memory is there. If it is not to be had, nothing stays reserved.
pub(super) fn reserve(
    state: &State,
    transfer: &Transfer<'_>,
    start: u32,
    end: u32,
) -> Result<PreparedStore, Failure> {
    let spec = transfer.part(start, end);
    let (prepared, frontier) = {
        let mut core = state.core();
        let prepared = core.prepare_store(state.clock.now(), &spec)?;
        (prepared, core.l1().frontier())
    };
    if !prepared.slots.is_empty()
        && let Err(error) = state.memory.need(frontier)
    {
        state.core().abort_store(state.clock.now(), &spec);
        return Err(error.into());
    }
    Ok(prepared)
}
