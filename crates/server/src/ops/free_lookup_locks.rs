use std::sync::Arc;

use larder_types::object::KvRank;
use larder_wire::key::KeyError;
use larder_wire::ops::FreeLookupLocks;

use super::context::{Call, Context};
use super::reply::Answer;

/// Unpins chunks of a lookup's hit that will not be retrieved. The request holds their pins, so the tokens need no
/// hashing.
///
/// The extra ranges are what earlier lookups of the request found that the client has given up. Here each lookup of a
/// request releases what the one before pinned, so there is something left only of the last one.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, request: FreeLookupLocks) -> Answer<()> {
    let key = &request.key;
    let chunk_tokens = cx.chunk_tokens() as u64;
    let rank = key.worker_id.map(|rank| KvRank::checked(key.world_size, rank)).transpose();
    let rank = rank.map_err(KeyError::from)?;
    let chunk = |tokens: u64| u32::try_from(tokens / chunk_tokens).unwrap_or(u32::MAX);
    let (start, end) = (chunk(key.start), chunk(key.end));
    let name = (call.connection, &*key.request_id);
    // First, as it changes nothing of what the own range is about.
    for range in &request.extra_ranges {
        let found = (chunk(range.start), chunk(range.end));
        cx.core.with(|core, now| core.free_lookup(now, name, found));
    }
    if start < end {
        cx.core.with(|core, now| core.free(now, name, rank, (start, end)));
    }
    Ok(())
}
