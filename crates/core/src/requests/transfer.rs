//! What stores and retrieves have in common.
//!
//! A worker copies between its own memory and slots of the arena:
//!
//! ```text
//! store:     prepare -> slots reserved, not findable -> worker writes -> commit -> readable
//! retrieve:  prepare -> pins move from the lookup to the retrieve -> worker reads -> commit -> released
//! ```
//!
//! A transfer that takes longer than its TTL, or that lost its worker or connection, has *expired*: a store can no
//! longer be committed, and a retrieve no longer holds its pins. But its copy may still be running, so the memory
//! of a store is reused only when its worker commits, when its process is known to be gone, or after the quarantine,
//! which is long. A retrieve that lost its worker or connection keeps its pins for the rest of its time.
//!
//! The protocol has no transfer ids: a transfer is identified by instance, request, range and last hash. So that
//! a commit cannot be taken for that of another copy which is still running, a store is not prepared again under
//! the identity of a running one (no slot is handed out), and retrieves of one identity end together.
//!
//! A worker may have several groups of layers, with a layout each. A transfer copies the chunks of all of them: a store
//! all but those that the worker leaves out, a retrieve of each group the last chunks of the range that its window
//! needs. Slots are ordered by group, then by chunk.

use std::ops::{AddAssign, Range};
use std::sync::Arc;

use larder_policy::prefix_scan::required_range;
use larder_types::object::{ChunkHash, KvRank, ObjectGroup};
use larder_types::{ConnectionId, InstanceId, Layout};

use super::worker_spec::Group;
use crate::index::{IndexMut, ObjectId, ShardKey};

/// Where the bytes of one object are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First byte, from the start of the arena.
    pub offset: u64,
    /// Layout of the bytes.
    pub layout: Layout,
    /// The group of layers.
    pub group: ObjectGroup,
    /// The chunk, counted from the start of the transfer's range.
    pub chunk: u32,
}

/// One transfer: chunks `start..end` of a prompt, one rank.
#[derive(Clone, Debug)]
pub struct TransferSpec<'a> {
    /// The worker that copies.
    pub instance: InstanceId,
    /// The connection of the request.
    pub connection: ConnectionId,
    /// The request that the copy is for.
    pub request_id: &'a Arc<str>,
    /// Model as the engine names it; the worker's own.
    pub model: &'a Arc<str>,
    /// The worker's piece.
    pub rank: KvRank,
    /// Cache salt, which isolates tenants.
    pub salt: &'a Arc<str>,
    /// Hashes of the prompt's chunks from its start; at least `end` of them.
    pub chunk_hashes: &'a [ChunkHash],
    /// First chunk.
    pub start: u32,
    /// Behind the last chunk.
    pub end: u32,
}

/// What a transfer copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Objects.
    pub objects: u64,
    /// Their exact bytes.
    pub bytes: u64,
}

impl AddAssign for Copied {
    fn add_assign(&mut self, more: Self) {
        self.objects += more.objects;
        self.bytes += more.bytes;
    }
}

/// The instance is not registered for the model. After a restart it must not use the arena that it still maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("instance is not registered for this model")]
pub struct NotRegistered;

/// The identity of a transfer; equal for its prepare and its commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TransferId {
    pub(crate) instance: InstanceId,
    request_id: Arc<str>,
    rank: KvRank,
    pub(crate) salt: Arc<str>,
    start: u32,
    end: u32,
    /// Hashes are chained, so the last one stands for all tokens before it.
    last_hash: Option<ChunkHash>,
}

/// The leading chunks of a prompt.
#[derive(Clone, Debug)]
pub(crate) struct Prefix {
    pub(crate) model: Arc<str>,
    pub(crate) salt: Arc<str>,
    pub(crate) chunk_hashes: Arc<[ChunkHash]>,
    /// How many of the chunks belong to the prefix.
    pub(crate) len: u32,
}

impl TransferSpec<'_> {
    pub(crate) fn id(&self) -> TransferId {
        TransferId {
            instance: self.instance,
            request_id: self.request_id.clone(),
            rank: self.rank,
            salt: self.salt.clone(),
            start: self.start,
            end: self.end,
            last_hash: self.range().last().copied(),
        }
    }

    /// The hashes of the range.
    pub(crate) fn range(&self) -> &[ChunkHash] {
        &self.chunk_hashes[self.start as usize..self.end as usize]
    }

    /// The shard that is copied of a group.
    pub(crate) fn shard(&self, group: &Group) -> ShardKey {
        ShardKey { rank: self.rank, group: group.id, layout: group.layout.id() }
    }

    /// The chunks of the range that a retrieve copies of a group: the last ones, as many as its window needs.
    pub(crate) fn needed(&self, group: &Group) -> Range<u32> {
        let needed = required_range(self.end - self.start, group.window);
        self.start + needed.start..self.start + needed.end
    }
}

impl Prefix {
    pub(crate) fn touch(&self, index: &mut IndexMut<'_>) {
        index.touch_prefix(&self.model, &self.salt, &self.chunk_hashes[..self.len as usize]);
    }
}

/// Expired transfers. Their memory may still be in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expired {
    pub(crate) transfers: u64,
    pub(crate) objects: u64,
}

impl Expired {
    pub(crate) fn add(&mut self, objects: usize) {
        self.transfers += 1;
        self.objects += objects as u64;
    }

    pub(crate) fn remove(&mut self, objects: usize) {
        self.transfers -= 1;
        self.objects -= objects as u64;
    }
}

/// Releases one pin of each object, the first one last, so that it becomes the most recent.
pub(crate) fn unpin_all(index: &mut IndexMut<'_>, objects: &[ObjectId]) {
    objects.iter().rev().for_each(|object| index.unpin(*object, 1));
}
