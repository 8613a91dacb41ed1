use larder_core::PreparedStore;
use larder_types::ConnectionId;
use larder_types::ids::InstanceId;
use larder_wire::key::CacheKey;
use larder_wire::ops::prepare_store::StorePlan;

use super::transfer::{Transfer, wire_slot};
use super::{Answer, Failure};
use crate::app::state::State;
use crate::metrics::Direction;
use crate::observe::traces::UnixTime;

/// Reserves slots for the chunks that are not cached yet. A worker without a common arena is told to
/// send the bytes instead.
pub(super) fn serve(
    state: &State,
    connection: ConnectionId,
    key: &CacheKey,
    instance: InstanceId,
) -> Answer<StorePlan> {
    let traced = state.traces.as_deref().map(|traces| (traces, UnixTime::now()));
    let transfer = Transfer::new(state, connection, key, instance)?;
    if state.arena.name().is_none() {
        return Ok(StorePlan::Pickle);
    }
    let prepared = reserve(state, &transfer, transfer.start, transfer.end)?;
    if let Some((traces, at)) = traced.filter(|_| !prepared.slots.is_empty()) {
        traces.copy_begins(at, Direction::Store, &transfer.spec());
    }
    Ok(StorePlan::Slots {
        slots: prepared.slots.iter().map(wire_slot).collect(),
        chunk_indices: prepared.chunks.iter().map(|i| u64::from(*i)).collect(),
    })
}

/// Reserves slots whose memory is there.
///
/// If the machine has no memory for them, L1 is as large as what it has had so far: nothing stays
/// reserved, and the next store makes room there.
pub(super) fn reserve(
    state: &State,
    transfer: &Transfer<'_>,
    start: u32,
    end: u32,
) -> Result<PreparedStore, Failure> {
    let spec = transfer.part(start, end);
    let prepared = state.core().with(|core, now| core.prepare_store(now, &spec))?;
    let needed = prepared.slots.iter().map(|s| s.offset + s.layout.bytes()).max().unwrap_or(0);
    if let Err(error) = state.memory.need(needed) {
        state.core().with(|core, now| {
            core.abort_store(now, &spec);
            core.truncate_capacity(state.arena.committed());
        });
        return Err(error.into());
    }
    if !prepared.slots.is_empty() {
        state.metrics.copy_begins(Direction::Store, &spec);
    }
    Ok(prepared)
}
