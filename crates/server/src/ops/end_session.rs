use super::Answer;
use crate::app::state::State;

/// A request is over: what its lookup still holds is let go.
pub(super) fn serve(state: &State, request_id: &str) -> Answer<()> {
    state.core().with(|core, now| {
        if let Some(recorder) = &state.recorder {
            recorder.end(now, request_id, core.hit(request_id));
        }
        core.end_session(now, request_id);
    });
    if let Some(traces) = &state.traces {
        traces.request_ends(request_id);
    }
    Ok(())
}
