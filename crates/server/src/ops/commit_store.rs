use bytes::Bytes;
use larder_core::{Copied, NotRegistered, TransferSpec};
use larder_types::ConnectionId;
use larder_types::ids::InstanceId;
use larder_wire::key::CacheKey;
use larder_wire::pickle::{Tensor, read_tensors};

use super::prepare_store::reserve;
use super::transfer::Transfer;
use super::{Answer, Failure};
use crate::app::state::State;
use crate::metrics::Direction;
use crate::observe::traces::UnixTime;

/// Publishes the slots that a worker has filled, or the chunks that it brings along.
pub(super) fn serve(
    state: &State,
    connection: ConnectionId,
    key: &CacheKey,
    instance: InstanceId,
    data: &Bytes,
) -> Answer<bool> {
    let traced = state.traces.as_deref().map(|traces| (traces, UnixTime::now()));
    let transfer = Transfer::new(state, connection, key, instance)?;
    let stored = match data.is_empty() {
        true => Ok((commit(state, &transfer.spec()), true)),
        false => {
            if let Some((traces, at)) = traced {
                traces.copy_begins(at, Direction::Store, &transfer.spec());
            }
            store_pickle(state, &transfer, data).map(|(copied, whole)| (Some(copied), whole))
        }
    };
    if let Some((traces, _)) = traced {
        let copied = stored.as_ref().ok().and_then(|(copied, _)| *copied);
        traces.copy_ends(Direction::Store, &transfer.spec(), copied);
    }
    let (copied, whole) = stored?;
    Ok(copied.is_some() && whole)
}

/// Stores pickled chunks, the i-th of the list as the i-th of the range: what was copied, and whether all is
/// there now. Chunks that are missing or have another shape than the worker's are left out; the others are
/// kept.
fn store_pickle(state: &State, transfer: &Transfer<'_>, data: &[u8]) -> Result<(Copied, bool), Failure> {
    let tensors = read_tensors(data)?;
    let layout =
        state.core().read(|core, _| core.layout_of(transfer.spec().instance).ok_or(NotRegistered))?;
    let fits = |t: &Tensor<'_>| t.shape() == &layout.shape()[..] && t.dtype() == layout.dtype();
    let chunks = (transfer.end - transfer.start) as usize;
    let (mut copied, mut whole) = (Copied::default(), tensors.len() >= chunks);
    for (i, tensor) in tensors.iter().take(chunks).enumerate() {
        if !fits(tensor) {
            whole = false;
            continue;
        }
        match store_chunk(state, transfer, transfer.start + i as u32, tensor)? {
            Some(more) => copied += more,
            None => whole = false,
        }
    }
    Ok((copied, whole))
}

/// Stores one chunk. What that copied if it is cached now, whoever stored it.
fn store_chunk(
    state: &State,
    transfer: &Transfer<'_>,
    chunk: u32,
    tensor: &Tensor<'_>,
) -> Result<Option<Copied>, Failure> {
    let prepared = reserve(state, transfer, chunk, chunk + 1)?;
    let Some(slot) = prepared.slots.first() else {
        return Ok((!prepared.no_space).then(Copied::default));
    };
    let spec = transfer.part(chunk, chunk + 1);
    let mut offset = slot.offset;
    for run in tensor.runs() {
        if state.arena.write(offset, run).is_err() {
            state.core().with(|core, now| core.abort_store(now, &spec));
            return Ok(None);
        }
        offset += run.len() as u64;
    }
    Ok(commit(state, &spec))
}

/// Makes readable what was written; `None` if it is not.
fn commit(state: &State, spec: &TransferSpec<'_>) -> Option<Copied> {
    let (now, copied, l1_chunks) = state.core().with(|core, now| {
        let copied = core.commit_store(now, spec).published();
        if let Some(recorder) = state.recorder.as_ref().filter(|_| copied.is_some()) {
            recorder.store(now, spec);
        }
        let l1_chunks = state.whatif.is_some().then(|| core.l1_chunks(spec.model, spec.rank.world_size()));
        (now, copied, l1_chunks)
    });
    let copied = copied?;
    if let Some((whatif, l1_chunks)) = state.whatif.as_ref().zip(l1_chunks) {
        whatif.stored(now, spec, l1_chunks);
    }
    state.metrics.copied(Direction::Store, spec, (copied.objects, copied.bytes));
    Some(copied)
}
