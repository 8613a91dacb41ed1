use std::sync::Arc;

use larder_types::InstanceId;
use larder_wire::ops::Ping;

use super::context::{Call, Context};
use super::reply::Answer;

/// A heartbeat. False, once, to an instance that is not registered, after a restart of the server or after its
/// registration has expired, and to one that is registered over other connections. It then registers again.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: Ping) -> Answer<bool> {
    let ping = |instance| cx.core.with(|core, now| core.ping(now, call.connection, instance));
    match request.instance_id {
        Some(instance) => Ok(ping(instance)),
        None => Ok(ping_of_connection(cx, call, ping)),
    }
}

/// A heartbeat that names no worker counts for those that were registered over its connection. After the loss of a
/// connection a client before 0.5.0 registers its worker again only if it gets a "no", so it gets one.
fn ping_of_connection(cx: &Context, call: &Call<'_>, ping: impl Fn(InstanceId) -> bool) -> bool {
    let has_workers = cx.core.with(|core, now| core.ping_connection(now, call.connection));
    let is_lost = call.dialect.has_process_ids() && call.is_resumed && !has_workers;
    // An instance that no client has, for this connection.
    !is_lost || ping(call.instance(InstanceId(0)))
}
