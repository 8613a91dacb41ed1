use std::io;
use std::sync::Arc;

use larder_core::PreparedStore;
use larder_wire::ops::PrepareStore;
use larder_wire::ops::prepare_store::StorePlan;

use super::context::{Call, Context};
use super::reply::{Answer, Failure, Reply};
use super::transfer::{Transfer, chunk_indices, group_ids, wire_slot};
use crate::observe::event::{Direction, RequestEvent};

/// Reserves slots for the chunks that are not cached yet. A worker that does not share the arena sends the bytes
/// instead.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: PrepareStore) -> Reply<StorePlan> {
    Reply::from_result(prepare(cx, call, request))
}

fn prepare(cx: &Arc<Context>, call: &Call<'_>, request: PrepareStore) -> Result<Reply<StorePlan>, Failure> {
    let transfer = Transfer::new(cx, call.connection, request.key, request.instance_id)?;
    let skipped = skipped_chunks(request.skipped_chunks.as_deref().unwrap_or_default(), transfer.chunks())?;
    if cx.arena.name().is_none() {
        return Ok(Ok(StorePlan::Inline).into());
    }
    let (prepared, groups) = cx.core.with(|core, now| {
        let groups = transfer.groups(core)?.len();
        if !skipped.is_empty() && skipped.len() != groups {
            return Err(Failure::Skipped("another number of groups than the worker has"));
        }
        Ok((core.prepare_store_except(now, &transfer.spec(), &skipped)?, groups))
    })?;
    let (end, has_slots) = (memory_end(&prepared), !prepared.slots.is_empty());
    let started = call.started;
    let plan = move |cx: &Context, committed: io::Result<()>| -> Answer<StorePlan> {
        finish_reserve(cx, &transfer, (transfer.start, transfer.end), &prepared, committed)?;
        if !prepared.slots.is_empty() {
            transfer.emit_started(cx, Direction::Store, started);
        }
        Ok(StorePlan::Slots {
            slots: prepared.slots.iter().map(wire_slot).collect(),
            chunk_indices: chunk_indices(&prepared.slots),
            group_ids: (groups > 1).then(|| group_ids(&prepared.slots)),
        })
    };
    let (connection, is_new) = (call.connection, has_slots && cx.processes.transfers(call.connection));
    if !is_new && cx.memory.is_committed(end) {
        return Ok(plan(cx, Ok(())).into());
    }
    let cx = cx.clone();
    Ok(Reply::copy(move || {
        if is_new {
            cx.processes.identify(connection);
        }
        let committed = commit_memory(&cx, end);
        plan(&cx, committed)
    }))
}

/// Commits memory up to `end`. Blocks if it is not committed yet.
fn commit_memory(cx: &Context, end: u64) -> io::Result<()> {
    if cx.memory.is_committed(end) { Ok(()) } else { cx.memory.commit(end) }
}

/// The chunks of each group that the worker does not write, as the request names them for a range of `chunks` chunks.
fn skipped_chunks(lists: &[Vec<i64>], chunks: u32) -> Result<Vec<Vec<u32>>, Failure> {
    let position = |position: &i64| u32::try_from(*position).ok().filter(|position| *position < chunks);
    let positions = |list: &Vec<i64>| list.iter().map(position).collect::<Option<Vec<u32>>>();
    let lists: Option<Vec<Vec<u32>>> = lists.iter().map(positions).collect();
    lists.ok_or(Failure::Skipped("a chunk outside the range"))
}

/// Reserves slots for a part of the range, but for `skipped` of each group, and commits their memory. Blocks while memory
/// is committed.
pub(super) fn reserve(
    cx: &Context,
    transfer: &Transfer,
    (start, end): (u32, u32),
    skipped: &[Vec<u32>],
) -> Result<PreparedStore, Failure> {
    let spec = transfer.part(start, end);
    let prepared = cx.core.with(|core, now| core.prepare_store_except(now, &spec, skipped))?;
    let committed = commit_memory(cx, memory_end(&prepared));
    finish_reserve(cx, transfer, (start, end), &prepared, committed)?;
    Ok(prepared)
}

/// The end of the memory that a store needs, in bytes from the start of the arena.
fn memory_end(prepared: &PreparedStore) -> u64 {
    prepared.slots.iter().map(|s| s.offset + s.layout.bytes()).max().unwrap_or(0)
}

/// Gives the reservation back if the machine has no memory for it. L1 then stays as large as it is.
fn finish_reserve(
    cx: &Context,
    transfer: &Transfer,
    (start, end): (u32, u32),
    prepared: &PreparedStore,
    committed: io::Result<()>,
) -> Result<(), Failure> {
    let spec = transfer.part(start, end);
    if let Err(error) = committed {
        cx.core.with(|core, now| {
            core.abort_store(now, &spec);
            core.truncate_capacity(cx.arena.committed());
        });
        cx.memory.ran_out();
        return Err(error.into());
    }
    if !prepared.slots.is_empty() {
        cx.bus.emit(&RequestEvent::CopyStarted { direction: Direction::Store, spec: &spec });
    }
    Ok(())
}
