//! Operations that this server does not do, each answered at once with what its client takes for
//! "no": an engine that asks for one runs on without the cache.

use larder_wire::ops::RegisterKvCache;
use larder_wire::ops::cb_protocol_handshake::Handshake;

use super::{Answer, Failure};
use crate::app::state::State;

/// The version of the blend protocol that the handshake names; it matches no client's.
const BLEND_VERSION_NONE: i64 = 0;

/// The engine goes on; its stores and retrieves get a plain "no".
pub(super) fn register(state: &State, registration: &RegisterKvCache) -> Answer<()> {
    let instance = registration.instance_id;
    tracing::warn!(
        %instance, model = &*registration.model_name,
        "worker not served: it asks the server to copy (lmcache_driven), which this version does \
         not do; set lmcache.mp.mp_transfer_mode to engine_driven in vLLM's extra config"
    );
    state.core().with(|core, now| core.register_unserved(now, instance));
    Ok(())
}

pub(super) fn handshake() -> Answer<Handshake> {
    Ok(Handshake { server_version: BLEND_VERSION_NONE, matches: false })
}

pub(super) fn refuse() -> Answer<()> {
    Err(Failure::Unserved("not served by this version"))
}
