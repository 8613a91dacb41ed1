use std::sync::Arc;

use larder_wire::ops::SubscribeKvEvents;
use larder_wire::ops::subscribe_kv_events::EventBatch;

use super::context::{Call, Context};
use super::reply::Reply;
use crate::app::refusals::Refused;
use crate::observe::kv_events::Subscription;

/// Begins a stream of event batches. An invalid subscription, or one too many, ends at once.
pub(super) fn serve(
    cx: &Arc<Context>,
    call: &Call<'_>,
    request: SubscribeKvEvents,
) -> Reply<Option<EventBatch>> {
    let ended: Option<EventBatch> = None;
    let Some((cursor, events_max)) = request.window() else { return Ok(ended).into() };
    let subscription = Subscription {
        connection: call.connection,
        responder: call.responder.detach(),
        model: request.model_name.clone(),
        cursor,
        events_max,
    };
    match cx.streams.subscribe(request.instance_id, subscription) {
        true => Reply::Later,
        false => {
            cx.refusals.warn(Refused::Subscriptions, "too many subscriptions of cache events");
            Ok(ended).into()
        }
    }
}
