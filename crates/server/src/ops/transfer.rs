//! What the four transfer operations have in common.

use std::sync::Arc;

use larder_core::TransferSpec;
use larder_types::ConnectionId;
use larder_types::ids::InstanceId;
use larder_types::object::KvRank;
use larder_wire::key::CacheKey;
use larder_wire::slot::Slot;

use super::Failure;
use crate::app::state::State;
use crate::prefix_hashes::Chain;

/// A worker's key with its tokens hashed.
pub(super) struct Transfer<'a> {
    key: &'a CacheKey,
    instance: InstanceId,
    connection: ConnectionId,
    rank: KvRank,
    chain: Chain,
    /// First chunk of the range.
    pub(super) start: u32,
    /// Behind its last chunk.
    pub(super) end: u32,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(
        state: &State,
        connection: ConnectionId,
        key: &'a CacheKey,
        instance: InstanceId,
    ) -> Result<Self, Failure> {
        let rank = key.worker_rank()?;
        let chunk_tokens = state.chains.chunk_tokens();
        let range = key.worker_chunks(chunk_tokens)?;
        let tokens = key.tokens.hashable(range.end * chunk_tokens)?;
        let chain = state.chains.chain(&key.request_id, tokens);
        state.events.bind(&chain, tokens, chunk_tokens, range.start);
        // A frame holds fewer tokens than fit into 32 bits.
        let (start, end) = (range.start as u32, range.end as u32);
        Ok(Self { key, instance, connection, rank, chain, start, end })
    }

    /// The whole range, for the core.
    pub(super) fn spec(&self) -> TransferSpec<'_> {
        self.part(self.start, self.end)
    }

    /// A part of the range, for the core.
    pub(super) fn part(&self, start: u32, end: u32) -> TransferSpec<'_> {
        TransferSpec {
            instance: self.instance,
            connection: self.connection,
            request_id: &self.key.request_id,
            model: &self.key.model_name,
            rank: self.rank,
            salt: &self.key.cache_salt,
            chunk_hashes: &self.chain,
            start,
            end,
        }
    }
}

/// A slot as workers are told of it.
pub(super) fn wire_slot(slot: &larder_core::Slot) -> Slot {
    Slot {
        offset: slot.offset,
        length: slot.layout.bytes(),
        shape: Arc::clone(slot.layout.shape()),
        dtype: slot.layout.dtype(),
    }
}
