use larder_types::object::KvRank;
use larder_wire::key::CacheKey;

use super::Answer;
use crate::app::state::State;

/// Lets go of the chunks of a lookup's hit that nobody will retrieve. They are found by the request
/// that holds them, so the tokens need no hashing.
pub(super) fn serve(state: &State, key: &CacheKey) -> Answer<()> {
    let chunk_tokens = state.chains.chunk_tokens() as u64;
    let rank = key.worker_id.map(|rank| KvRank::checked(key.world_size, rank)).transpose();
    let rank = rank.map_err(larder_wire::key::KeyError::from)?;
    let chunk = |tokens: u64| u32::try_from(tokens / chunk_tokens).unwrap_or(u32::MAX);
    let (start, end) = (chunk(key.start), chunk(key.end));
    if start < end {
        state.core().with(|core, now| core.free(now, &key.request_id, rank, start, end));
    }
    Ok(())
}
