//! What the core asks of L2, and the memory that adapters read and write meanwhile.
//!
//! The core never calls an adapter. It asks by an [`Effect`] (from [`Core::take_effects`](crate::Core::take_effects))
//! and is given the answers in any order, late, or never:
//!
//! ```text
//! Effect::Lookup ----> l2_found            once, or never
//! Effect::Load ------> l2_loaded           once for each item, or never
//! Effect::Store -----> l2_stored           once, or never
//! each item ---------> io_ended            once: its region was dropped, before or after the result
//! ```
//!
//! An object under I/O has an I/O pin: its memory is not reused, whatever becomes of the object, before
//! [`Core::io_ended`](crate::Core::io_ended) was called for each item that refers to it. Ids are used once, so a late
//! answer cannot be taken for another one.

use std::sync::Arc;

use hashbrown::HashMap;
use larder_types::object::ObjectKey;
use larder_types::{AdapterId, ConnectionId};

use crate::ids::{IoId, LookupId, PrefetchId, TaskId};
use crate::index::ObjectId;

/// One object to read from the arena or to write into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoItem {
    /// This piece of I/O.
    pub io: IoId,
    /// The object.
    pub key: ObjectKey,
    /// Its first byte, from the start of the arena.
    pub offset: u64,
    /// Its exact size in bytes.
    pub bytes: u64,
}

/// Something to be done outside the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask an adapter which objects it has. Answer: [`Core::l2_found`](crate::Core::l2_found).
    Lookup {
        /// The id to answer with.
        lookup: LookupId,
        /// The adapter to ask.
        adapter: AdapterId,
        /// The objects.
        keys: Vec<ObjectKey>,
    },
    /// Load objects. Answer: [`Core::l2_loaded`](crate::Core::l2_loaded) for each.
    Load {
        /// The adapter that has them.
        adapter: AdapterId,
        /// The objects, and the memory to load them into.
        items: Vec<IoItem>,
    },
    /// Store objects. Answer: [`Core::l2_stored`](crate::Core::l2_stored).
    Store {
        /// The adapter that is to have them.
        adapter: AdapterId,
        /// The id of the batch.
        task: TaskId,
        /// The objects, and the memory they are in.
        items: Vec<IoItem>,
    },
    /// A lookup that was answered with "pending" has ended: its client can ask for the result.
    LookupDone(LookupReport),
    /// Memory waits for the end of the process that used a connection, as far as its copies go. Answer, once it is
    /// certain: [`Core::process_gone`](crate::Core::process_gone).
    CheckProcess {
        /// The connection, which may be lost.
        connection: ConnectionId,
    },
    /// A prefetch request has ended.
    PrefetchDone {
        /// Its id, from [`Core::prefetch`](crate::Core::prefetch).
        id: PrefetchId,
    },
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// Leading chunks that are ready.
    pub chunks: u32,
    /// How many of them L1 could have served alone; the others come from L2.
    pub l1_chunks: u32,
    /// Pinned objects that were in L1.
    pub l1_objects: u32,
    /// Pinned objects that were loaded.
    pub l2_objects: u32,
}

/// The end of a lookup that was answered with "pending".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupReport {
    /// The connection that asked.
    pub connection: ConnectionId,
    /// Its request.
    pub request_id: Arc<str>,
    /// Its model.
    pub model: Arc<str>,
    /// Its cache salt.
    pub salt: Arc<str>,
    /// Chunks asked for.
    pub requested_chunks: u32,
    /// What it found; `None` if it was cancelled.
    pub hit: Option<Hit>,
}

/// What I/O is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A load from L2.
    Load,
    /// A batch of stores to L2.
    Store(TaskId),
}

/// An object under I/O.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Io {
    pub(crate) object: ObjectId,
    pub(crate) adapter: AdapterId,
    pub(crate) bytes: u64,
    pub(crate) purpose: Purpose,
}

/// All I/O under way.
#[derive(Debug, Default)]
pub(crate) struct IoTable(HashMap<IoId, Io>);

impl IoTable {
    pub(crate) fn insert(&mut self, id: IoId, io: Io) {
        self.0.insert(id, io);
    }

    pub(crate) fn remove(&mut self, id: IoId) -> Option<Io> {
        self.0.remove(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Io> {
        self.0.values()
    }

    /// Bytes and objects that an adapter loads, or stores. For tests: O(I/O under way).
    pub(crate) fn usage(&self, adapter: AdapterId, loads: bool) -> (u64, u64) {
        let of_adapter = |io: &&Io| io.adapter == adapter && (io.purpose == Purpose::Load) == loads;
        let ios = self.0.values().filter(of_adapter);
        ios.fold((0, 0), |(bytes, objects), io| (bytes + io.bytes, objects + 1))
    }
}

/// The size of the blocks to which some adapters pad what they store.
const BLOCK_BYTES: u64 = 4096;

/// What an adapter answered about one object of an [`Effect::Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreResult {
    /// The adapter has it.
    Stored,
    /// It may be tried again.
    Failed,
    /// It would fail again.
    Refused,
}

impl From<bool> for StoreResult {
    /// Whether it was stored. A failure may be tried again.
    fn from(stored: bool) -> Self {
        if stored { Self::Stored } else { Self::Failed }
    }
}

/// Whether `stored` bytes can hold an object of `bytes`: exactly that size, or padded to whole blocks.
pub(crate) const fn can_hold(stored: u64, bytes: u64) -> bool {
    stored == bytes || (stored > bytes && stored - bytes < BLOCK_BYTES && stored.is_multiple_of(BLOCK_BYTES))
}

/// How a lookup began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// No worker of the model is registered: a hit of nothing.
    Unserved,
    /// The answer.
    Answered(Hit),
    /// L2 may have more than L1. The answer follows as [`Effect::LookupDone`].
    Pending,
}

impl Lookup {
    /// The answer, unless it is pending.
    pub fn hit(self) -> Option<Hit> {
        match self {
            Self::Unserved => Some(Hit::default()),
            Self::Answered(hit) => Some(hit),
            Self::Pending => None,
        }
    }
}
