use std::sync::Arc;

use larder_types::object::KvRank;
use larder_wire::key::KeyError;
use larder_wire::ops::FreeLookupLocks;

use super::context::{Call, Context};
use super::reply::Answer;

/// Unpins chunks of a lookup's hit that will not be retrieved. The request holds their pins, so the tokens need no
/// hashing.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: FreeLookupLocks) -> Answer<()> {
    let key = &request.key;
    let chunk_tokens = cx.chunk_tokens() as u64;
    let rank = key.worker_id.map(|rank| KvRank::checked(key.world_size, rank)).transpose();
    let rank = rank.map_err(KeyError::from)?;
    let chunk = |tokens: u64| u32::try_from(tokens / chunk_tokens).unwrap_or(u32::MAX);
    let (start, end) = (chunk(key.start), chunk(key.end));
    if start < end {
        let name = (call.connection, &*key.request_id);
        cx.core.with(|core, now| core.free(now, name, rank, (start, end)));
    }
    Ok(())
}
