use std::sync::Arc;

use larder_wire::ops::Clear;

use super::context::{Call, Context};
use super::reply::{Answer, Reply};

/// Empties L1: of objects without pins, or with `force` of all. Memory that a worker may still be copying in or out
/// of stays until it is done. Objects that become readable while L1 is being cleared stay.
pub(super) fn serve(cx: &Arc<Context>, _: &Call<'_>, request: Clear) -> Reply<()> {
    let (core, force) = (cx.core.clone(), request.force);
    let mut clearing = core.begin_clear(force);
    let done = move |objects| tracing::info!(objects, force, "cleared L1");
    if clearing.is_done() {
        done(clearing.removed());
        return Answer::Ok(()).into();
    }
    Reply::copy(move || {
        core.finish_clear(&mut clearing);
        done(clearing.removed());
        Ok(())
    })
}
