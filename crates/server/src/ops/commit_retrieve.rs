use larder_core::{Copied, TransferSpec};
use larder_types::ConnectionId;
use larder_types::ids::InstanceId;
use larder_wire::key::CacheKey;

use super::Answer;
use super::transfer::Transfer;
use crate::app::state::State;
use crate::metrics::Direction;

/// A worker has read its slots, or given up. True in every case: there is nothing it could do about
/// anything else.
pub(super) fn serve(
    state: &State,
    connection: ConnectionId,
    key: &CacheKey,
    instance: InstanceId,
) -> Answer<bool> {
    let transfer = Transfer::new(state, connection, key, instance)?;
    commit(state, &transfer.spec());
    Ok(true)
}

/// Ends a retrieve, if there is one, and counts what was read.
pub(super) fn commit(state: &State, spec: &TransferSpec<'_>) {
    let copied = state.core().with(|core, now| {
        let copied = core.commit_retrieve(now, spec)?;
        if let Some(recorder) = &state.recorder {
            recorder.retrieve(now, spec);
        }
        Some(copied)
    });
    if let Some(copied) = copied {
        state.metrics.copied(Direction::Retrieve, spec, (copied.objects, copied.bytes));
    }
    traced(state, spec, copied);
}

fn traced(state: &State, spec: &TransferSpec<'_>, copied: Option<Copied>) {
    if let Some(traces) = &state.traces {
        traces.copy_ends(Direction::Retrieve, spec, copied);
    }
}
