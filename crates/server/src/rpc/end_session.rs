use larder_wire::response::Response;

use super::Answer;
use crate::state::State;

/// A request is over: what its lookup still holds is let go.
pub(super) fn serve(state: &State, request_id: &str) -> Answer {
    state.core().end_session(state.clock.now(), request_id);
    Ok(Response::Nil)
}
