use std::sync::Arc;
use std::time::Duration;

use larder_wire::message::Envelope;
use larder_wire::response::ResultFrame;
use larder_zmtp::Peer;

use super::query_prefetch_status;
use crate::app::state::State;

/// As `query_prefetch_status`, but waits up to `timeout` for the lookup to end. Returns an answer if
/// there is one now; else sends it when there is.
pub(super) fn serve(
    state: &Arc<State>,
    peer: &Peer,
    envelope: &Envelope,
    request_id: &Arc<str>,
    timeout: Duration,
) -> Option<super::Answer<Option<i64>>> {
    let bell = state.waiting.bell(request_id);
    let now = query_prefetch_status::serve(state, request_id);
    if !matches!(now, Ok(None)) {
        state.waiting.leave(request_id, bell);
        return Some(now);
    }
    let (state_, peer, envelope, request_id) =
        (state.clone(), peer.clone(), envelope.clone(), request_id.clone());
    state.spawn(async move {
        let state = state_;
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let rung = bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            let answer = query_prefetch_status::serve(&state, &request_id);
            let pending = matches!(answer, Ok(None));
            let waited = pending && tokio::time::timeout_at(deadline, rung).await.is_ok();
            if !waited {
                let result = ResultFrame::encode(&answer.unwrap_or(Some(0)));
                let _ = peer.send(envelope.response(result));
                break;
            }
        }
        state.waiting.leave(&request_id, bell);
    });
    None
}
