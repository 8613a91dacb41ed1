//! What the four transfer operations have in common.

use std::sync::Arc;
use std::time::Instant;

use larder_core::{Copied, Core, Group, NotRegistered, TransferSpec};
use larder_types::ConnectionId;
use larder_types::ids::InstanceId;
use larder_types::object::KvRank;
use larder_wire::key::CacheKey;
use larder_wire::slot::{SLOTS_MAX, Slot};

use super::context::Context;
use super::reply::Failure;
use crate::observe::event::{Direction, RequestEvent};
use crate::prefix_hashes::PrefixHashes;

/// A worker's key with its tokens hashed.
pub(super) struct Transfer {
    key: CacheKey,
    instance: InstanceId,
    connection: ConnectionId,
    rank: KvRank,
    chunk_hashes: PrefixHashes,
    /// First chunk of the range.
    pub(super) start: u32,
    /// Behind its last chunk.
    pub(super) end: u32,
}

impl Transfer {
    pub(super) fn new(
        cx: &Context,
        connection: ConnectionId,
        key: CacheKey,
        instance: InstanceId,
    ) -> Result<Self, Failure> {
        let rank = key.worker_rank()?;
        let chunk_tokens = cx.chunk_tokens();
        let range = key.worker_chunks(chunk_tokens)?;
        let tokens = key.tokens.hashable(range.end * chunk_tokens)?;
        let chunk_hashes = cx.hashes.prefix_hashes(&key.request_id, tokens);
        cx.bus.emit(&RequestEvent::Hashed { chunk_hashes: &chunk_hashes, tokens, first: range.start });
        // A frame holds fewer tokens than fit into 32 bits.
        let (start, end) = (range.start as u32, range.end as u32);
        Ok(Self { key, instance, connection, rank, chunk_hashes, start, end })
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
            chunk_hashes: &self.chunk_hashes,
            start,
            end,
        }
    }

    /// Chunks of the range.
    pub(super) fn chunks(&self) -> u32 {
        self.end - self.start
    }

    /// The groups of its worker.
    ///
    /// # Errors
    /// It is not registered, or the range has more objects than one answer can have slots.
    pub(super) fn groups(&self, core: &Core) -> Result<Arc<[Group]>, Failure> {
        let groups = core.groups_of(self.instance).ok_or(NotRegistered)?;
        let objects = groups.len().saturating_mul(self.chunks() as usize);
        if objects > SLOTS_MAX {
            return Err(Failure::TooManyObjects { objects });
        }
        Ok(groups)
    }

    /// Notifies the observers that the transfer of a request that arrived at `started` is accepted.
    pub(super) fn emit_started(&self, cx: &Context, direction: Direction, started: Instant) {
        cx.bus.emit(&RequestEvent::TransferStarted { started, direction, spec: &self.spec() });
    }

    /// Notifies the observers of the transfer's end.
    pub(super) fn emit_ended(&self, cx: &Context, direction: Direction, copied: Option<Copied>) {
        cx.bus.emit(&RequestEvent::TransferEnded { direction, spec: &self.spec(), copied });
    }
}

/// The group of each slot.
pub(super) fn group_ids(slots: &[larder_core::Slot]) -> Vec<u64> {
    slots.iter().map(|slot| u64::from(slot.group)).collect()
}

/// The chunk of each slot.
pub(super) fn chunk_indices(slots: &[larder_core::Slot]) -> Vec<u64> {
    slots.iter().map(|slot| u64::from(slot.chunk)).collect()
}

/// A slot on the wire.
pub(super) fn wire_slot(slot: &larder_core::Slot) -> Slot {
    Slot {
        offset: slot.offset,
        length: slot.layout.bytes(),
        shape: Arc::clone(slot.layout.shape()),
        dtype: slot.layout.dtype(),
    }
}
