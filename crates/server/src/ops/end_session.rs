use std::sync::Arc;

use larder_wire::ops::EndSession;

use super::context::{Call, Context};
use super::reply::Answer;
use crate::observe::event::RequestEvent;

/// Ends a request and releases what its lookup still pins.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: EndSession) -> Answer<()> {
    let (connection, request_id) = (call.connection, &*request.request_id);
    cx.observe(|core, now| {
        let hit = core.hit(connection, request_id);
        core.end_session(now, connection, request_id);
        ((), Some(RequestEvent::Ended { now, request_id, hit }))
    });
    Ok(())
}
