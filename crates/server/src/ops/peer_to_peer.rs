//! The three operations by which another server finds objects in this one's arena.

use std::sync::Arc;

use larder_core::PeerLeaseId;
use larder_wire::ops::p2p_lookup_and_lock;
use larder_wire::ops::p2p_query_lookup_results::Address;
use larder_wire::ops::{P2pLookupAndLock, P2pQueryLookupResults, P2pUnlockObjects};

use super::context::{Call, Context};
use super::reply::Answer;

/// The id of a lookup of no objects. Other lookups have larger ones.
const OF_NOTHING: i64 = 0;

/// Looks objects up in the layouts that the peer expects, and pins those found. Answers the id of the lookup.
pub(super) fn lookup(cx: &Arc<Context>, call: &Call<'_>, request: P2pLookupAndLock) -> Answer<i64> {
    let P2pLookupAndLock { mut keys, layouts } = request;
    if keys.is_empty() {
        return Ok(OF_NOTHING);
    }
    for key in &mut keys {
        key.layout = layouts.of(key.object_group);
    }
    let id = cx.core.with(|core, now| core.peer_lookup(now, call.connection, &keys));
    Ok(id.map_or(p2p_lookup_and_lock::REFUSED, |id| i64::try_from(id.0).unwrap_or(i64::MAX)))
}

/// The addresses of the objects found, once.
pub(super) fn query(
    cx: &Arc<Context>,
    _: &Call<'_>,
    request: P2pQueryLookupResults,
) -> Answer<Option<Vec<Address>>> {
    if [p2p_lookup_and_lock::REFUSED, OF_NOTHING].contains(&request.lookup_id) {
        return Ok(Some(Vec::new()));
    }
    let id = PeerLeaseId(u64::try_from(request.lookup_id).unwrap_or(u64::MAX));
    let found = cx.core.with(|core, now| core.peer_result(now, id));
    let address = |object: Option<(u64, u64)>| match object {
        // Sizes and offsets of an arena fit 63 bits.
        Some((offset, size)) => Address { offset: offset as i64, size: size as i64 },
        None => Address::MISSING,
    };
    Ok(found.map(|found| found.into_iter().map(address).collect()))
}

/// Unpins objects.
pub(super) fn unlock(cx: &Arc<Context>, call: &Call<'_>, request: P2pUnlockObjects) -> Answer<()> {
    cx.core.with(|core, now| core.peer_unlock(now, call.connection, &request.keys));
    Ok(())
}
