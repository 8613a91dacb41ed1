use larder_core::LookupSpec;
use larder_types::ConnectionId;
use larder_types::object::check_model_name;
use larder_wire::key::CacheKey;

use super::Answer;
use crate::app::state::State;
use crate::metrics::EarlyExit;
use crate::observe::traces::{LookupEnd, UnixTime};

/// Looks a prompt up and holds what is found for its readers. The hit is told by
/// `query_prefetch_status`; a lookup that cannot be done is a hit of nothing.
pub(super) fn serve(state: &State, connection: ConnectionId, key: &CacheKey, tp_size: i64) -> Answer<()> {
    let traced = state.traces.as_deref().map(|traces| (traces, UnixTime::now()));
    check_model_name(&key.model_name).map_err(larder_wire::key::KeyError::from)?;
    key.kv_ranks()?;
    let readers = key.kv_readers(tp_size)?;
    let chunk_tokens = state.chains.chunk_tokens();
    let tokens = key.tokens.hashable(key.lookup_chunks(chunk_tokens) * chunk_tokens)?;
    if let Some((traces, at)) = traced {
        traces.lookup_begins(at, &key.request_id, connection, (&key.model_name, &key.cache_salt));
    }
    let chain = state.chains.chain(&key.request_id, tokens);
    if state.l2.adapters().next().is_some() {
        // It may bring chunks back from L2.
        state.events.bind(&chain, tokens, chunk_tokens, 0);
    }
    let spec = LookupSpec {
        request_id: &key.request_id,
        connection,
        model: &key.model_name,
        world_size: key.world_size,
        worker_id: key.worker_id,
        salt: &key.cache_salt,
        chunk_hashes: &chain,
        readers,
    };
    // Without an answer now, L2 is asked; it is counted when it is known.
    let (now, answer, served, l1_chunks, layouts) = state.core().with(|core, now| {
        if let Some(recorder) = &state.recorder {
            recorder.lookup(now, &spec, key.tokens.len() as u64);
        }
        let served = core.serves(&key.model_name, key.world_size);
        let l1_chunks = state.whatif.is_some().then(|| core.l1_chunks(&key.model_name, key.world_size));
        let layouts = state.lookup_log.is_some().then(|| core.layouts(&key.model_name, key.world_size));
        (now, core.lookup(now, &spec).hit(), served, l1_chunks, layouts)
    });
    // As in LMCache, of those alone that look for something.
    let looks = served && !chain.is_empty();
    if let Some((log, layouts)) = state.lookup_log.as_ref().zip(layouts).filter(|_| looks) {
        log.lookup(UnixTime::now(), &spec, key.tokens.len() as u64, layouts);
    }
    if let Some((whatif, l1_chunks)) = state.whatif.as_ref().zip(l1_chunks).filter(|_| served) {
        whatif.looked_up(now, &spec, key.tokens.len() as u64, l1_chunks);
    }
    let (model, salt, metrics) = (&key.model_name, &key.cache_salt, &state.metrics);
    let end = match &answer {
        None => return Ok(()),
        Some(_) if !served => LookupEnd::Early(EarlyExit::NoWorker),
        Some(_) if chain.is_empty() => LookupEnd::Early(EarlyExit::NoChunk),
        Some(hit) => LookupEnd::Looked { requested_chunks: chain.len() as u64, hit },
    };
    match end {
        LookupEnd::Early(why) => metrics.early_exit(model, salt, why),
        LookupEnd::Looked { requested_chunks, hit } => {
            metrics.lookup(model, salt, requested_chunks, hit, chunk_tokens as u64);
        }
        LookupEnd::Cancelled => {}
    }
    if let Some((traces, _)) = traced {
        traces.lookup_ends(&key.request_id, end);
    }
    Ok(())
}
