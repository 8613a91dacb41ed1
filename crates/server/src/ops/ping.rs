use larder_types::ids::InstanceId;

use super::Answer;
use crate::app::state::State;

/// A sign of life. False, once, to an instance that is not registered: it lived through a restart
/// of the server, or was given up; it registers again when it hears that.
pub(super) fn serve(state: &State, instance: Option<InstanceId>) -> Answer<bool> {
    let known = instance.is_none_or(|i| state.core().with(|core, now| core.ping(now, i)));
    Ok(known)
}
