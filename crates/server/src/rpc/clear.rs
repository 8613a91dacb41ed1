use larder_wire::response::Response;

use super::Answer;
use crate::state::State;

/// Empties L1: of what nobody holds, or with `force` of everything. Memory that a worker may still
/// be copying in or out of stays until it is done.
pub(super) fn serve(state: &State, force: bool) -> Answer {
    let objects = state.core().clear(state.clock.now(), force);
    tracing::info!(objects, force, "cleared L1");
    Ok(Response::Nil)
}
