use std::sync::Arc;

use larder_wire::ops::UnregisterEngineDriven;

use super::context::{Call, Context};
use super::reply::Answer;

/// Removes a worker. Its uncommitted stores are discarded.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: UnregisterEngineDriven) -> Answer<()> {
    let instance = request.instance_id;
    if cx.core.with(|core, now| core.unregister(now, call.connection, instance)) {
        tracing::info!(%instance, "worker unregistered");
    }
    Ok(())
}
