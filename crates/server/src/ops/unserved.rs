//! Operations that this server does not do, each answered at once with what its client takes for
//! "no": an engine that asks for one runs on without the cache.

use larder_wire::request::Request;
use larder_wire::response::Response;

use super::{Answer, Failure};
use crate::app::state::State;

/// The version of the blend protocol that the handshake names; it matches no client's.
const BLEND_VERSION_NONE: i64 = 0;

pub(super) fn serve(state: &State, request: Request) -> Answer {
    match request {
        // The engine goes on; its stores and retrieves get a plain "no".
        Request::RegisterKvCache(registration) | Request::RegisterQCache(registration) => {
            let instance = registration.instance_id;
            tracing::warn!(
                %instance, model = &*registration.model_name,
                "worker not served: it asks the server to copy (lmcache_driven), which this version does \
                 not do; set lmcache.mp.mp_transfer_mode to engine_driven in vLLM's extra config"
            );
            state.core().with(|core, now| core.register_unserved(now, instance));
            Ok(Response::Nil)
        }
        Request::CbProtocolHandshake { .. } => {
            Ok(Response::Handshake { server_version: BLEND_VERSION_NONE, matches: false })
        }
        Request::CbRegisterRope(_) => Ok(Response::Nil),
        _ => Err(Failure::Unserved("not served by this version")),
    }
}
