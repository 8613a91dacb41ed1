use larder_wire::response::Response;

use super::Answer;
use crate::state::State;

/// The hit of a lookup in chunks, once; 0 for whatever else is asked.
pub(super) fn serve(state: &State, request_id: &str) -> Answer {
    let hit = state.core().take_result(state.clock.now(), request_id);
    Ok(Response::Int(i64::from(hit.unwrap_or(0))))
}
