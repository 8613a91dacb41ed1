use std::sync::Arc;

use larder_wire::ops::Clear;

use super::context::{Call, Context};
use super::reply::Reply;

/// Empties L1: of objects without pins, or with `force` of all. Memory that a worker may still be copying in or out
/// of stays until it is done. Objects that become readable while L1 is being cleared stay.
pub(super) fn serve(cx: &Arc<Context>, _: &Call<'_>, request: Clear) -> Reply {
    let (core, force) = (cx.core.clone(), request.force);
    Reply::copy(move || {
        let objects = core.clear(force);
        tracing::info!(objects, force, "cleared L1");
        Ok(())
    })
}
