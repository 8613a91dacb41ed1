use std::sync::Arc;

use larder_wire::ops::Ping;

use super::context::{Call, Context};
use super::reply::Answer;

/// A heartbeat. False, once, to an instance that is not registered, after a restart of the server or after its
/// registration has expired, and to one that is registered over other connections. It then registers again.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: Ping) -> Answer<bool> {
    let ping = |instance| cx.core.with(|core, now| core.ping(now, call.connection, instance));
    Ok(request.instance_id.is_none_or(ping))
}
