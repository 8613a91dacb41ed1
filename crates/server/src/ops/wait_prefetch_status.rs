use std::sync::Arc;

use larder_wire::ops::WaitPrefetchStatus;
use larder_wire::response::Response;
use tokio::time::{Instant, timeout_at};

use super::context::{Call, Context};
use super::query_prefetch_status::take_result;
use super::reply::Reply;
use crate::app::refusals::Refused;

/// Like `query_prefetch_status`, but waits up to `timeout` for the lookup to end. Does not wait if too many requests do.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: WaitPrefetchStatus) -> Reply<Option<i64>> {
    let WaitPrefetchStatus { request_id, timeout } = request;
    let connection = call.connection;
    let Some(ended) = cx.waiters.join(connection, &request_id) else {
        cx.refusals.warn(Refused::WaitingLookups, "too many requests wait for lookups");
        return Ok(take_result(cx, connection, &request_id)).into();
    };
    let result = take_result(cx, connection, &request_id);
    if result.is_some() {
        cx.waiters.leave(connection, &request_id, ended);
        return Ok(result).into();
    }
    let (cx, responder) = (cx.clone(), call.responder.detach());
    let runtime = cx.runtime.clone();
    runtime.spawn(async move {
        let deadline = Instant::now() + timeout;
        loop {
            let mut woken = std::pin::pin!(ended.notified());
            woken.as_mut().enable();
            // A server that stops answers as if nothing was found.
            let stopped = || cx.waiters.is_closed().then_some(0);
            let result = take_result(&cx, connection, &request_id).or_else(stopped);
            if result.is_some() || timeout_at(deadline, woken).await.is_err() {
                responder.answer(&Response::WaitPrefetchStatus(result));
                break;
            }
        }
        cx.waiters.leave(connection, &request_id, ended);
    });
    Reply::Later
}
