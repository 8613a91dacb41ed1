use larder_core::TransferSpec;
use larder_types::ConnectionId;
use larder_types::ids::InstanceId;
use larder_wire::key::CacheKey;
use larder_wire::response::Response;

use super::Answer;
use super::transfer::Transfer;
use crate::metrics::Direction;
use crate::state::State;
use crate::traces::Copied;

/// A worker has read its slots, or given up. True in every case: there is nothing it could do about
/// anything else.
pub(super) fn serve(state: &State, connection: ConnectionId, key: &CacheKey, instance: InstanceId) -> Answer {
    let transfer = Transfer::new(state, connection, key, instance)?;
    commit(state, &transfer.spec());
    Ok(Response::Bool(true))
}

/// Ends a retrieve, if there is one, and counts what was read.
pub(super) fn commit(state: &State, spec: &TransferSpec<'_>) {
    let now = state.clock.now();
    let mut core = state.core();
    let before = *core.counters();
    if !core.commit_retrieve(now, spec) {
        drop(core);
        traced(state, spec, None);
        return;
    }
    let after = *core.counters();
    if let Some(recorder) = &state.recorder {
        recorder.retrieve(now, spec);
    }
    drop(core);
    let objects = after.retrieved_objects - before.retrieved_objects;
    let bytes = after.retrieved_bytes - before.retrieved_bytes;
    state.metrics.copied(Direction::Retrieve, spec, (objects, bytes));
    traced(state, spec, Some(Copied { objects, bytes }));
}

fn traced(state: &State, spec: &TransferSpec<'_>, copied: Option<Copied>) {
    if let Some(traces) = &state.traces {
        traces.copy_ends(Direction::Retrieve, spec, copied);
    }
}
