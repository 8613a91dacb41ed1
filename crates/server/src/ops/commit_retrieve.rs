use std::sync::Arc;

use larder_core::Copied;
use larder_wire::ops::CommitRetrieve;

use super::context::{Call, Context};
use super::reply::Answer;
use super::transfer::Transfer;
use crate::observe::event::{Direction, RequestEvent};

/// Ends a worker's retrieve: it has read its slots, or given up. False if its pins ended before, as what it has read
/// may be something else. A worker that got the bytes by the socket has nothing to end.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: CommitRetrieve) -> Answer<bool> {
    let transfer = Transfer::new(cx, call.connection, request.key, request.instance_id)?;
    let is_valid = commit(cx, &transfer).is_some();
    Ok(is_valid || cx.arena.name().is_none())
}

/// Ends a retrieve, if there is one, and reports what was read.
pub(super) fn commit(cx: &Context, transfer: &Transfer) -> Option<Copied> {
    let spec = &transfer.spec();
    let copied = cx.observe(|core, now| {
        let copied = core.commit_retrieve(now, spec);
        (copied, copied.map(|copied| RequestEvent::Retrieved { now, spec, copied }))
    });
    transfer.emit_ended(cx, Direction::Retrieve, copied);
    copied
}
