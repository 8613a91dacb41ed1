use super::Answer;
use crate::app::state::State;

/// Empties L1: of what nobody holds, or with `force` of everything. Memory that a worker may still
/// be copying in or out of stays until it is done.
pub(super) fn serve(state: &State, force: bool) -> Answer<()> {
    let objects = state.core().with(|core, now| core.clear(now, force));
    tracing::info!(objects, force, "cleared L1");
    Ok(())
}
