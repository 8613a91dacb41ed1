//! The three operations by which another server finds objects in this one's arena.

use larder_core::PeerLeaseId;
use larder_types::ConnectionId;
use larder_types::object::ObjectKey;
use larder_wire::ops::p2p_query_lookup_results::Address;

use super::Answer;
use crate::app::state::State;

/// Looks objects up and holds those found. Answers the id of the lookup.
pub(super) fn lookup(state: &State, connection: ConnectionId, keys: &[ObjectKey]) -> Answer<i64> {
    let id = state.core().with(|core, now| core.peer_lookup(now, connection, keys));
    Ok(i64::try_from(id.0).unwrap_or(i64::MAX))
}

/// Where they lie, once.
pub(super) fn query(state: &State, lookup_id: i64) -> Answer<Option<Vec<Address>>> {
    let id = PeerLeaseId(u64::try_from(lookup_id).unwrap_or(u64::MAX));
    let Some(found) = state.core().with(|core, now| core.peer_result(now, id)) else {
        return Ok(None);
    };
    let address = |object: Option<(u64, u64)>| match object {
        // Sizes and offsets of an arena fit 63 bits.
        Some((offset, size)) => Address { offset: offset as i64, size: size as i64 },
        None => Address::MISSING,
    };
    Ok(Some(found.into_iter().map(address).collect()))
}

/// Lets go of them.
pub(super) fn unlock(state: &State, connection: ConnectionId, keys: &[ObjectKey]) -> Answer<()> {
    state.core().with(|core, now| core.peer_unlock(now, connection, keys));
    Ok(())
}
