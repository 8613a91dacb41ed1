//! What each client keeps from eviction: bytes that its lookups, retrieves and peer lookups pin and its stores reserve.
//!
//! A client is a connection. One that hangs, or never ends what it begins, must not hold all of L1: of what is held it may
//! hold a share, and beyond it its lookups promise less and its stores get fewer slots. An object that several requests of
//! a client pin counts for each of them, but no more counts in all than L1 really holds.

use std::sync::Arc;

use hashbrown::HashMap;
use larder_types::ConnectionId;
use larder_types::object::ChunkHash;

use crate::context::Context;
use crate::index::ObjectId;

/// Objects that one lookup asks for, at most: chunks, ranks and groups multiplied. Longer prompts are looked up as far as
/// that.
const LOOKUP_CELLS_MAX: usize = 1 << 22;

/// Bytes that each client holds.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    held: HashMap<ConnectionId, u64>,
}

/// Bytes that a request of a client holds. Give it back to [`Clients::release`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Held {
    client: ConnectionId,
    bytes: u64,
}

impl Clients {
    /// A request of this client holds so many bytes from now on.
    pub(crate) fn hold(&mut self, client: ConnectionId, bytes: u64) -> Held {
        if bytes > 0 {
            *self.held.entry(client).or_default() += bytes;
        }
        Held { client, bytes }
    }

    /// It does not any more.
    pub(crate) fn release(&mut self, held: &mut Held) {
        self.release_some(held, u64::MAX);
    }

    /// It does not hold so many of them any more.
    pub(crate) fn release_some(&mut self, held: &mut Held, bytes: u64) {
        let bytes = bytes.min(held.bytes);
        held.bytes -= bytes;
        let Some(sum) = self.held.get_mut(&held.client).filter(|_| bytes > 0) else { return };
        *sum -= bytes;
        if *sum == 0 {
            self.held.remove(&held.client);
        }
    }

    /// Bytes that requests of this client hold.
    pub(crate) fn of(&self, client: ConnectionId) -> u64 {
        self.held.get(&client).copied().unwrap_or(0)
    }

    /// Clients that hold anything. For tests.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }
}

impl Context {
    /// Bytes of L1 that a client may hold besides what it holds. The only request of a client has no limit: a prompt may
    /// be as large as L1.
    pub(crate) fn client_room(&self, client: ConnectionId) -> u64 {
        let share = self.config.client_share;
        let held = self.clients.of(client);
        if share >= 1.0 || held == 0 {
            return u64::MAX;
        }
        let usage = self.index.usage();
        let all = usage.used_bytes.saturating_sub(usage.evictable_bytes);
        let limit = (usage.capacity_bytes as f64 * share) as u64;
        limit.saturating_sub(held.min(all))
    }

    /// The leading chunks that a client may pin besides what it holds, and that one call may look at, if those are fewer
    /// than `chunk_hashes`. `object_bytes`: of the objects of a chunk.
    pub(crate) fn within_share(
        &self,
        client: ConnectionId,
        object_bytes: impl Iterator<Item = u64>,
        chunk_hashes: &[ChunkHash],
    ) -> Option<Arc<[ChunkHash]>> {
        let room = self.client_room(client);
        let (mut rows, mut chunk_bytes) = (0, 0u64);
        object_bytes.for_each(|bytes| {
            rows += 1;
            chunk_bytes = chunk_bytes.saturating_add(self.slot_bytes(bytes));
        });
        let pinned = if room == u64::MAX { room } else { room / chunk_bytes.max(1) };
        let chunks = usize::try_from(pinned).unwrap_or(usize::MAX).min(LOOKUP_CELLS_MAX / rows.max(1));
        chunk_hashes.get(..chunks).filter(|hashes| hashes.len() < chunk_hashes.len()).map(Arc::from)
    }

    /// What an object of so many bytes takes in the arena.
    pub(crate) fn slot_bytes(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.config.align_bytes)
    }

    /// What objects take in the arena.
    pub(crate) fn slots_bytes(&self, objects: impl IntoIterator<Item = ObjectId>) -> u64 {
        objects.into_iter().map(|object| self.slot_bytes(self.index.layout(object).bytes())).sum()
    }
}
