//! Operations that this server does not do. Each is answered at once with what its client takes for "no": an engine
//! that asks for one goes on without the cache.

use std::sync::Arc;

use larder_wire::operation::Operation;
use larder_wire::ops::cb_protocol_handshake::Handshake;
use larder_wire::ops::{CbProtocolHandshake, OperationSpec, RegisterKvCache, RegisterQCache};
use larder_wire::response::Response;

use super::context::{Call, Context};
use super::reply::{Answer, Failure};

/// The version of the blend protocol in the handshake; it matches no client's.
const BLEND_VERSION_NONE: i64 = 0;

/// The engine goes on; its stores and retrieves get a plain "no".
pub(super) fn register_kv_cache(
    cx: &Arc<Context>,
    _: &Call<'_>,
    registration: RegisterKvCache,
) -> Answer<()> {
    let instance = registration.instance_id;
    tracing::warn!(
        %instance, model = &*registration.model_name,
        "worker not served: it asks the server to copy (lmcache_driven), which this version does \
         not do; set lmcache.mp.mp_transfer_mode to engine_driven in vLLM's extra config"
    );
    cx.core.with(|core, now| core.register_unserved(now, instance));
    Ok(())
}

/// The same.
pub(super) fn register_q_cache(cx: &Arc<Context>, call: &Call<'_>, request: RegisterQCache) -> Answer<()> {
    register_kv_cache(cx, call, request.0)
}

/// The client learns that its version of the blend protocol is not spoken.
pub(super) fn handshake(_: &Arc<Context>, _: &Call<'_>, _: CbProtocolHandshake) -> Answer<Handshake> {
    Ok(Handshake { server_version: BLEND_VERSION_NONE, matches: false })
}

/// Accepts a request that has no effect here.
pub(super) fn ignore<T>(_: &Arc<Context>, _: &Call<'_>, _: T) -> Answer<()> {
    Ok(())
}

/// The answer to a client that is too old, with which its engine runs uncached.
pub(super) fn answer_of_old_client(cx: &Context, operation: Operation) -> Answer<Response> {
    Ok(match operation {
        Operation::GetChunkSize => Response::GetChunkSize(cx.chunk_tokens() as i64),
        Operation::Ping => Response::Ping(true),
        Operation::Noop => Response::Noop("OK".to_owned()),
        // Nil, also where later clients get more.
        Operation::RegisterKvCache | Operation::RegisterEngineDriven => Response::RegisterKvCache(()),
        _ => return Err(Failure::Unserved("the client is too old")),
    })
}

/// The answer to a request that cannot be decoded, if there is one with which its engine goes on.
pub(super) fn answer_of_undecodable(operation: Operation) -> Option<Response> {
    match operation {
        Operation::RegisterKvCache => Some(Response::RegisterKvCache(())),
        Operation::RegisterQCache => Some(Response::RegisterQCache(())),
        _ => operation.failure(),
    }
}

/// Fails.
pub(super) fn refuse<T: OperationSpec>(_: &Arc<Context>, _: &Call<'_>, _: T) -> Answer<T::Response> {
    Err(Failure::Unserved("not served by this version"))
}
