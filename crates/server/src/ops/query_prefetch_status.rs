use larder_core::LookupStatus;
use larder_wire::response::Response;

use super::Answer;
use crate::app::state::State;

/// The hit of a lookup in chunks, once; nothing yet while it goes on; 0 for whatever else is asked.
pub(super) fn serve(state: &State, request_id: &str) -> Answer {
    Ok(match state.core().with(|core, now| core.take_result(now, request_id)) {
        LookupStatus::Pending => Response::Nil,
        LookupStatus::Ready(hit) => Response::Int(i64::from(hit)),
        LookupStatus::Unknown => Response::Int(0),
    })
}
