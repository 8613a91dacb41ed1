use larder_types::ids::InstanceId;
use larder_wire::response::Response;

use super::Answer;
use crate::state::State;

/// A worker leaves. Stores it has not committed are discarded.
pub(super) fn serve(state: &State, instance: InstanceId) -> Answer {
    if state.core().unregister(state.clock.now(), instance) {
        tracing::info!(%instance, "worker unregistered");
    }
    Ok(Response::Nil)
}
