use larder_types::ids::InstanceId;

use super::Answer;
use crate::app::state::State;

/// A worker leaves. Stores it has not committed are discarded.
pub(super) fn serve(state: &State, instance: InstanceId) -> Answer<()> {
    if state.core().with(|core, now| core.unregister(now, instance)) {
        tracing::info!(%instance, "worker unregistered");
    }
    Ok(())
}
