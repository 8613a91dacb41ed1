use std::sync::Arc;

use bytes::Bytes;
use larder_core::Slot;
use larder_wire::ops::PrepareRetrieve;
use larder_wire::ops::prepare_retrieve::RetrievePlan;
use larder_wire::pickle::PickleWriter;

use super::commit_retrieve::commit;
use super::context::{Call, Context};
use super::reply::{Failure, Reply};
use super::transfer::{Transfer, wire_slot};
use crate::observe::event::{Direction, RequestEvent};

/// Pins the chunks of a hit until the worker commits, and answers where they are. A worker that does not share the
/// arena gets the bytes.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: PrepareRetrieve) -> Reply<RetrievePlan> {
    Reply::from_result(prepare(cx, call, request))
}

fn prepare(
    cx: &Arc<Context>,
    call: &Call<'_>,
    request: PrepareRetrieve,
) -> Result<Reply<RetrievePlan>, Failure> {
    let transfer = Transfer::new(cx, call.connection, request.key, request.instance_id)?;
    let spec = transfer.spec();
    let Some(slots) = cx.core.with(|core, now| core.prepare_retrieve(now, &spec))? else {
        return Ok(Ok(RetrievePlan::Missing).into());
    };
    cx.bus.emit(&RequestEvent::CopyStarted { direction: Direction::Retrieve, spec: &spec });
    transfer.emit_started(cx, Direction::Retrieve, call.started);
    if cx.arena.name().is_some() {
        cx.processes.copies(call.connection);
        return Ok(Ok(RetrievePlan::Slots(slots.iter().map(wire_slot).collect())).into());
    }
    let cx = cx.clone();
    Ok(Reply::copy(move || {
        // The worker has the bytes with the answer, so nothing stays pinned.
        let pickle = pickle(&cx, &slots);
        commit(&cx, &transfer);
        Ok(RetrievePlan::Pickle(pickle?))
    }))
}

fn pickle(cx: &Context, slots: &[Slot]) -> Result<Bytes, Failure> {
    let mut writer = PickleWriter::new();
    for Slot { offset, layout } in slots {
        let mut read = Ok(());
        writer.push_with(layout.dtype(), layout.shape(), |bytes| read = cx.arena.read(*offset, bytes))?;
        read?;
    }
    Ok(writer.finish())
}
