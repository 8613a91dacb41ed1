use std::sync::Arc;

use bytes::Bytes;
use larder_core::Slot;
use larder_wire::key::CacheKey;
use larder_wire::ops::PrepareRetrieve;
use larder_wire::ops::prepare_retrieve::RetrievePlan;
use larder_wire::pickle::PickleWriter;
use larder_wire::tensor_map::TensorMapWriter;

use super::commit_retrieve::commit;
use super::context::{Call, Context};
use super::reply::{Failure, Reply};
use super::transfer::{Transfer, chunk_indices, group_ids, wire_slot};
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
    let takes_map = takes_map(&request.key);
    let transfer = Transfer::new(cx, call.connection, request.key, request.instance_id)?;
    let spec = transfer.spec();
    let (slots, groups) = cx.core.with(|core, now| {
        let groups = transfer.groups(core)?.len();
        Ok::<_, Failure>((core.prepare_retrieve(now, &spec)?, groups))
    })?;
    let Some(slots) = slots else {
        return Ok(Ok(RetrievePlan::Missing).into());
    };
    cx.bus.emit(&RequestEvent::CopyStarted { direction: Direction::Retrieve, spec: &spec });
    transfer.emit_started(cx, Direction::Retrieve, call.started);
    let (cx, connection) = (cx.clone(), call.connection);
    if cx.arena.name().is_some() {
        if !cx.processes.transfers(connection) {
            return Ok(Ok(plan(&slots, groups)).into());
        }
        return Ok(Reply::copy(move || {
            cx.processes.identify(connection);
            Ok(plan(&slots, groups))
        }));
    }
    Ok(Reply::copy(move || {
        // The worker has the bytes with the answer, so nothing stays pinned.
        let bytes = match groups > 1 || takes_map {
            true => tensor_map(&cx, &slots, groups),
            false => pickle(&cx, &slots),
        };
        commit(&cx, &transfer);
        Ok(RetrievePlan::Inline(bytes?))
    }))
}

/// Whether a client reads chunks as a map, by the key that it sends: the same version brought both.
fn takes_map(key: &CacheKey) -> bool {
    key.tokens.are_packed()
}

fn plan(slots: &[Slot], groups: usize) -> RetrievePlan {
    let wire_slots = slots.iter().map(wire_slot).collect();
    if groups == 1 {
        return RetrievePlan::Slots(wire_slots);
    }
    RetrievePlan::GroupSlots {
        slots: wire_slots,
        group_ids: group_ids(slots),
        chunk_indices: chunk_indices(slots),
    }
}

fn tensor_map(cx: &Context, slots: &[Slot], groups: usize) -> Result<Bytes, Failure> {
    let mut writer =
        if groups == 1 { TensorMapWriter::single(slots.len()) } else { TensorMapWriter::grouped(groups) };
    let bytes = slots.iter().map(|slot| slot.layout.bytes()).sum::<u64>();
    writer.reserve(slots.len(), usize::try_from(bytes).unwrap_or(usize::MAX));
    let mut rest = slots;
    for group in 0..groups as u32 {
        let (own, others) = rest.split_at(rest.partition_point(|slot| slot.group <= group));
        rest = others;
        if groups > 1 {
            writer.begin_group(&chunk_indices(own));
        }
        for Slot { offset, layout, .. } in own {
            let mut read = Ok(());
            writer.push_with(layout, |bytes| read = cx.arena.read(*offset, bytes))?;
            read?;
        }
    }
    Ok(writer.finish())
}

fn pickle(cx: &Context, slots: &[Slot]) -> Result<Bytes, Failure> {
    let mut writer = PickleWriter::new();
    for Slot { offset, layout, .. } in slots {
        let mut read = Ok(());
        writer.push_with(layout.dtype(), layout.shape(), |bytes| read = cx.arena.read(*offset, bytes))?;
        read?;
    }
    Ok(writer.finish())
}
