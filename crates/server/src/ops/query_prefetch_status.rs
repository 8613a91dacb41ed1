use larder_core::LookupStatus;

use super::Answer;
use crate::app::state::State;

/// The hit of a lookup in chunks, once; nothing yet while it goes on; 0 for whatever else is asked.
pub(super) fn serve(state: &State, request_id: &str) -> Answer<Option<i64>> {
    Ok(match state.core().with(|core, now| core.take_result(now, request_id)) {
        LookupStatus::Pending => None,
        LookupStatus::Ready(hit) => Some(i64::from(hit)),
        LookupStatus::Unknown => Some(0),
    })
}
