use std::sync::Arc;

use larder_wire::ops::Clear;

use super::context::{Call, Context};
use super::reply::Answer;

/// Empties L1: of objects without pins, or with `force` of all. Memory that a worker may still be copying in or out
/// of stays until it is done.
pub(super) fn serve(cx: &Arc<Context>, _: &Call<'_>, request: Clear) -> Answer<()> {
    let objects = cx.core.with(|core, now| core.clear(now, request.force));
    tracing::info!(objects, force = request.force, "cleared L1");
    Ok(())
}
