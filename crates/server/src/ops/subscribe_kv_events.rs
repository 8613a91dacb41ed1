use larder_wire::message::Envelope;
use larder_wire::ops::SubscribeKvEvents;
use larder_wire::ops::subscribe_kv_events::EventBatch;
use larder_zmtp::Peer;

use crate::app::state::State;
use crate::observe::kv_events::Subscription;

/// Begins a stream, whose batches come by themselves. What is no subscription ends at once.
pub(super) fn serve(
    state: &State,
    peer: &Peer,
    envelope: &Envelope,
    request: &SubscribeKvEvents,
) -> Option<Option<EventBatch>> {
    let Some((cursor, events_max)) = request.window() else { return Some(None) };
    let follows = Subscription {
        peer: peer.clone(),
        envelope: envelope.clone(),
        model: request.model_name.clone(),
        cursor,
        events_max,
    };
    let begun = state.events.subscribe(state, request.instance_id, follows);
    (!begun).then_some(None)
}
