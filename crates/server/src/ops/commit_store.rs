use std::sync::Arc;
use std::time::Instant;

use larder_core::{Copied, Group, Slot, TransferSpec};
use larder_types::ConnectionId;
use larder_wire::ops::CommitStore;
use larder_wire::pickle::{Tensor, read_tensors};
use larder_wire::tensor_map::{self, ChunkBytes};

use super::context::{Call, Context};
use super::prepare_store::reserve;
use super::reply::{Answer, Failure, Reply};
use super::transfer::Transfer;
use crate::observe::event::{Direction, RequestEvent};

/// Publishes the slots that a worker has filled, or stores the chunks that it sends.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: CommitStore) -> Reply<bool> {
    if request.data.is_empty() {
        return publish(cx, call.connection, request).into();
    }
    let (cx, connection, started) = (cx.clone(), call.connection, call.started);
    Reply::copy(move || store_inline(&cx, connection, started, request))
}

fn publish(cx: &Context, connection: ConnectionId, request: CommitStore) -> Answer<bool> {
    let transfer = Transfer::new(cx, connection, request.key, request.instance_id)?;
    let copied = commit(cx, &transfer.spec());
    transfer.emit_ended(cx, Direction::Store, copied);
    Ok(copied.is_some())
}

/// Stores chunks that came with the message. True if all of them are cached now.
fn store_inline(
    cx: &Context,
    connection: ConnectionId,
    started: Instant,
    request: CommitStore,
) -> Answer<bool> {
    let transfer = Transfer::new(cx, connection, request.key, request.instance_id)?;
    transfer.emit_started(cx, Direction::Store, started);
    let groups = cx.core.read(|core, _| transfer.groups(core));
    let stored = groups.and_then(|groups| match request.data.first() {
        Some(&tensor_map::FIRST_BYTE) => store_map(cx, &transfer, &groups, &request.data),
        _ => store_pickle(cx, &transfer, &groups, &request.data),
    });
    let copied = stored.as_ref().ok().map(|(copied, _)| *copied);
    transfer.emit_ended(cx, Direction::Store, copied);
    stored.map(|(_, is_whole)| is_whole)
}

/// Stores the chunks of a map, of all groups at once. What was copied, and whether all is cached now. A map that is not
/// what the worker registered is refused as a whole.
fn store_map(
    cx: &Context,
    transfer: &Transfer,
    groups: &[Group],
    data: &[u8],
) -> Result<(Copied, bool), Failure> {
    let layouts: Vec<_> = groups.iter().map(|group| &group.layout).collect();
    let sent = tensor_map::read_chunks(data, &layouts, transfer.chunks())?;
    let prepared = reserve(cx, transfer, (transfer.start, transfer.end), &absent(&sent, groups, transfer))?;
    if prepared.slots.is_empty() {
        return Ok((Copied::default(), !prepared.no_space));
    }
    let spec = transfer.spec();
    let write = |slot: &Slot| {
        // Groups are numbered by their places.
        let at = sent.binary_search_by_key(&(slot.group as usize, slot.chunk), |c| (c.group, c.chunk));
        at.is_ok_and(|at| cx.arena.write(slot.offset, sent[at].bytes).is_ok())
    };
    if !prepared.slots.iter().all(write) {
        cx.core.with(|core, now| core.abort_store(now, &spec));
        return Ok((Copied::default(), false));
    }
    let copied = commit(cx, &spec);
    Ok((copied.unwrap_or_default(), copied.is_some() && !prepared.no_space))
}

/// For each group the chunks of the range that were not sent.
fn absent(sent: &[ChunkBytes<'_>], groups: &[Group], transfer: &Transfer) -> Vec<Vec<u32>> {
    let mut sent = sent.iter().peekable();
    let mut of_group = |group| {
        let mut is_sent = |chunk: &u32| sent.next_if(|c| (c.group, c.chunk) == (group, *chunk)).is_some();
        (0..transfer.chunks()).filter(|chunk| !is_sent(chunk)).collect()
    };
    (0..groups.len()).map(&mut of_group).collect()
}

/// Stores pickled chunks, the i-th of the list as the i-th of the range. What was copied, and whether all is cached now.
/// Chunks that are missing or have another shape than the worker's are left out; the others are kept.
fn store_pickle(
    cx: &Context,
    transfer: &Transfer,
    groups: &[Group],
    data: &[u8],
) -> Result<(Copied, bool), Failure> {
    let tensors = read_tensors(data)?;
    let [Group { layout, .. }] = groups else {
        return Err(Failure::Unserved("a pickle cannot say which groups its tensors belong to"));
    };
    let fits = |t: &Tensor<'_>| t.shape() == &layout.shape()[..] && t.dtype() == layout.dtype();
    let chunks = transfer.chunks() as usize;
    let (mut copied, mut is_whole) = (Copied::default(), tensors.len() >= chunks);
    for (i, tensor) in tensors.iter().take(chunks).enumerate() {
        if !fits(tensor) {
            is_whole = false;
            continue;
        }
        match store_chunk(cx, transfer, transfer.start + i as u32, tensor)? {
            Some(more) => copied += more,
            None => is_whole = false,
        }
    }
    Ok((copied, is_whole))
}

/// Stores one chunk. Returns what was copied if the chunk is cached now, by this store or by another.
fn store_chunk(
    cx: &Context,
    transfer: &Transfer,
    chunk: u32,
    tensor: &Tensor<'_>,
) -> Result<Option<Copied>, Failure> {
    let prepared = reserve(cx, transfer, (chunk, chunk + 1), &[])?;
    let Some(slot) = prepared.slots.first() else {
        return Ok((!prepared.no_space).then(Copied::default));
    };
    let spec = transfer.part(chunk, chunk + 1);
    let mut offset = slot.offset;
    for run in tensor.runs() {
        if cx.arena.write(offset, run).is_err() {
            cx.core.with(|core, now| core.abort_store(now, &spec));
            return Ok(None);
        }
        offset += run.len() as u64;
    }
    Ok(commit(cx, &spec))
}

/// Makes stored objects readable; `None` if nothing was prepared or it has expired.
fn commit(cx: &Context, spec: &TransferSpec<'_>) -> Option<Copied> {
    cx.observe(|core, now| {
        let copied = core.commit_store(now, spec).published();
        let l1_chunks = cx.bus.l1_chunks(core, spec.model, spec.rank.world_size());
        (copied, copied.map(|copied| RequestEvent::Stored { now, spec, copied, l1_chunks }))
    })
}
