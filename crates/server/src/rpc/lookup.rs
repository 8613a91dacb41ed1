use larder_store::ConnectionId;
use larder_store::session::LookupSpec;
use larder_wire::key::CacheKey;
use larder_wire::object::check_model_name;
use larder_wire::response::Response;

use super::Answer;
use crate::state::State;

/// Looks a prompt up and holds what is found for its readers. The hit is told by
/// `query_prefetch_status`; a lookup that cannot be done is a hit of nothing.
pub(super) fn serve(state: &State, connection: ConnectionId, key: &CacheKey, tp_size: i64) -> Answer {
    check_model_name(&key.model_name).map_err(larder_wire::key::KeyError::from)?;
    key.kv_ranks()?;
    let readers = key.kv_readers(tp_size)?;
    let chunk_tokens = state.chains.chunk_tokens();
    let tokens = key.tokens.hashable(key.lookup_chunks(chunk_tokens) * chunk_tokens)?;
    let chain = state.chains.chain(&key.request_id, tokens);
    let spec = LookupSpec {
        request_id: &key.request_id,
        connection,
        model: &key.model_name,
        world_size: key.world_size,
        worker_id: key.worker_id,
        salt: &key.cache_salt,
        chain: &chain,
        readers,
    };
    // Without an answer now, L2 is asked; it is counted when it is known.
    let now = state.clock.now();
    let answer = {
        let mut core = state.core();
        if let Some(recorder) = &state.recorder {
            recorder.lookup(now, &spec, key.tokens.len() as u64);
        }
        core.lookup(now, &spec)
    };
    if let Some(hit) = answer {
        state.metrics.lookup(
            &key.model_name,
            &key.cache_salt,
            chain.len() as u64 * chunk_tokens as u64,
            u64::from(hit.chunks) * chunk_tokens as u64,
            0,
        );
    }
    Ok(Response::Nil)
}
