use bytes::Bytes;
use larder_core::Slot;
use larder_types::ConnectionId;
use larder_types::ids::InstanceId;
use larder_wire::key::CacheKey;
use larder_wire::ops::prepare_retrieve::RetrievePlan;
use larder_wire::pickle::PickleWriter;

use super::transfer::{Transfer, wire_slot};
use super::{Answer, Failure, commit_retrieve};
use crate::app::state::State;
use crate::metrics::Direction;
use crate::observe::traces::UnixTime;

/// Tells a worker where the chunks of a hit lie, and holds them until it commits. A worker without a
/// common arena gets the bytes.
pub(super) fn serve(
    state: &State,
    connection: ConnectionId,
    key: &CacheKey,
    instance: InstanceId,
) -> Answer<RetrievePlan> {
    let traced = state.traces.as_deref().map(|traces| (traces, UnixTime::now()));
    let transfer = Transfer::new(state, connection, key, instance)?;
    let spec = transfer.spec();
    let Some(slots) = state.core().with(|core, now| core.prepare_retrieve(now, &spec))? else {
        return Ok(RetrievePlan::Missing);
    };
    state.metrics.copy_begins(Direction::Retrieve, &spec);
    if let Some((traces, at)) = traced {
        traces.copy_begins(at, Direction::Retrieve, &spec);
    }
    if state.arena.name().is_some() {
        return Ok(RetrievePlan::Slots(slots.iter().map(wire_slot).collect()));
    }
    // The worker has its bytes with the answer, so nothing is held for it afterwards.
    let pickle = pickle(state, &slots);
    commit_retrieve::commit(state, &spec);
    Ok(RetrievePlan::Pickle(pickle?))
}

fn pickle(state: &State, slots: &[Slot]) -> Result<Bytes, Failure> {
    let mut writer = PickleWriter::new();
    for Slot { offset, layout } in slots {
        let mut read = Ok(());
        writer.push_with(layout.dtype(), layout.shape(), |bytes| read = state.arena.read(*offset, bytes))?;
        read?;
    }
    Ok(writer.finish())
}
