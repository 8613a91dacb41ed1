use std::sync::Arc;

use larder_core::LookupSpec;
use larder_types::object::check_model_name;
use larder_wire::key::KeyError;
use larder_wire::ops::Lookup;

use super::context::{Call, Context};
use super::reply::Answer;
use crate::observe::event::{Looked, RequestEvent};

/// Looks a prompt up and pins the hit for its readers. `query_prefetch_status` returns the hit.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: Lookup) -> Answer<()> {
    let key = &request.key;
    check_model_name(&key.model_name).map_err(KeyError::from)?;
    key.kv_ranks()?;
    let readers = key.kv_readers(request.tp_size)?;
    let chunk_tokens = cx.chunk_tokens();
    // A request that wants nothing loaded looks nothing up.
    let chunks = if key.skips_load() { 0 } else { key.lookup_chunks(chunk_tokens) };
    let tokens = key.tokens.hashable(chunks * chunk_tokens)?;
    let (request_id, model, salt) = (&key.request_id, &key.model_name, &key.cache_salt);
    let (started, connection) = (call.started, call.connection);
    cx.bus.emit(&RequestEvent::LookupStarted { started, connection, request_id, model, salt });
    let chunk_hashes = cx.hashes.prefix_hashes(request_id, tokens);
    if cx.has_l2 {
        // L2 may bring chunks back.
        cx.bus.emit(&RequestEvent::Hashed { chunk_hashes: &chunk_hashes, tokens, first: 0 });
    }
    let spec = LookupSpec {
        request_id,
        connection,
        model,
        world_size: key.world_size,
        worker_id: key.worker_id,
        salt,
        chunk_hashes: &chunk_hashes,
        start: u32::try_from(key.start / chunk_tokens as u64).unwrap_or(u32::MAX),
        readers,
    };
    cx.observe(|core, now| {
        let looked = Looked {
            now,
            spec: &spec,
            prompt_tokens: key.tokens.len() as u64,
            is_served: core.serves(model, key.world_size),
            l1_chunks: cx.bus.l1_chunks(core, model, key.world_size),
            layouts: cx.bus.layouts(core, model, key.world_size),
            hit: core.lookup(now, &spec).hit(),
        };
        ((), Some(RequestEvent::Looked(looked)))
    });
    Ok(())
}
