//! One job: what it wants, its phase, and what it pins.
//!
//! A job works on a table of *cells*: a row for each shard (KV rank and object group), a column for each chunk.

use larder_policy::prefetch::plan::Fetch;
use larder_policy::prefetch::shard_bitmap::ShardBitmap;
use larder_policy::prefix_scan::{AttentionWindow, PrefixScan};
use larder_types::object::{KvRank, ObjectKey};
use larder_types::{AdapterId, ChunkId, Layout};
use smallvec::SmallVec;

use super::Target;
use crate::ids::{IoId, LookupId, PrefetchId, SessionId};
use crate::index::{Index, ObjectId, ShardKey};
use crate::requests::sessions::SessionName;
use crate::requests::worker_spec::Group;
use crate::timers::Timer;

/// What waits for the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A session, which gets the pins.
    Session { session: SessionId, name: SessionName },
    /// A prefetch request. What was loaded is retained without pins.
    Request(PrefetchId),
}

/// A row of a job.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) shard: ShardKey,
    pub(super) window: AttentionWindow,
    pub(super) layout: Layout,
}

/// The rows of a job: what the engine that asks can read.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(super) rows: Vec<Row>,
}

impl Shape {
    /// Bytes of a chunk's objects.
    pub(crate) fn chunk_bytes(&self) -> impl Iterator<Item = u64> + '_ {
        self.rows.iter().map(|row| row.layout.bytes())
    }

    /// The shards of `world_size` ranks, or of one of them: group by group, ranks in order. `groups`: what the worker
    /// of a rank registered. `None` if that is not known for one of them, or if they do not have the same groups.
    pub(crate) fn new<'a>(
        world_size: u32,
        worker_id: Option<u32>,
        groups: impl Fn(KvRank) -> Option<&'a [Group]>,
    ) -> Option<Self> {
        let ranks = match worker_id {
            Some(rank) => rank..rank + 1,
            None => 0..world_size,
        };
        let ranks: SmallVec<[KvRank; 8]> = ranks.map(|rank| KvRank::new(world_size, rank)).collect();
        let of_ranks: SmallVec<[&[Group]; 8]> =
            ranks.iter().map(|rank| groups(*rank)).collect::<Option<_>>()?;
        let first = of_ranks.first()?;
        let mut rows = Vec::with_capacity(ranks.len() * first.len());
        for (at, Group { id, window, .. }) in first.iter().enumerate() {
            for (rank, groups) in ranks.iter().zip(&of_ranks) {
                let group = groups.get(at).filter(|g| g.id == *id && groups.len() == first.len())?;
                let layout = group.layout.clone();
                let shard = ShardKey { rank: *rank, group: *id, layout: layout.id() };
                rows.push(Row { shard, window: *window, layout });
            }
        }
        Some(Self { rows })
    }

    /// The shards with their attention windows.
    pub(crate) fn shards(&self) -> Vec<(ShardKey, AttentionWindow)> {
        self.rows.iter().map(|row| (row.shard, row.window)).collect()
    }
}

/// The state of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CellState {
    /// Neither pinned nor being loaded.
    Absent,
    /// It was in L1, and is pinned.
    L1(ObjectId),
    /// It is being loaded, and will be pinned.
    Loading(IoId),
    /// It was loaded, and is pinned.
    Loaded(ObjectId),
}

impl CellState {
    pub(super) fn object(self) -> Option<ObjectId> {
        match self {
            Self::L1(object) | Self::Loaded(object) => Some(object),
            Self::Absent | Self::Loading(_) => None,
        }
    }
}

/// The phase of a job.
#[derive(Debug)]
pub(super) enum Phase {
    /// It has not begun and pins nothing.
    Waiting,
    /// Adapters are being asked.
    Probing(ProbeBatch),
    /// So many objects are being loaded.
    Loading(u32),
}

/// A batch of columns that adapters are asked about.
#[derive(Debug)]
pub(super) struct ProbeBatch {
    /// The scan of the columns before the batch.
    pub(super) scan: PrefixScan,
    /// The prefix that L1 alone can serve, if a row has a window.
    pub(super) l1_hit: u32,
    /// How many columns with missing objects the batch may have.
    pub(super) columns_max: u32,
    /// The cells asked for, in the order asked.
    pub(super) asked: Vec<u32>,
    /// Probes without an answer.
    pub(super) open: SmallVec<[LookupId; 2]>,
}

/// A lookup that needs L2, or a prefetch request.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) owner: Owner,
    pub(super) target: Target,
    pub(super) shape: Shape,
    pub(super) fetch: Fetch,
    /// Pins taken of each object.
    pub(super) pins: u32,
    /// Fires when the job must be answered.
    pub(super) deadline: Timer,
    pub(super) phase: Phase,
    /// Columns with cells.
    pub(super) columns: u32,
    /// The cells, column by column.
    pub(super) cells: Vec<CellState>,
    /// What each adapter has.
    pub(super) found: Vec<(AdapterId, ShardBitmap)>,
    /// Cells that the policy was asked about, and those of them to retain.
    pub(super) judged: Option<(ShardBitmap, ShardBitmap)>,
}

impl Job {
    pub(super) fn rows(&self) -> u32 {
        self.shape.rows.len() as u32
    }

    /// The index of a cell.
    pub(super) fn index(&self, row: u32, column: u32) -> usize {
        column as usize * self.shape.rows.len() + row as usize
    }

    /// Row and column of a cell.
    pub(super) fn position(&self, index: usize) -> (u32, u32) {
        ((index % self.shape.rows.len()) as u32, (index / self.shape.rows.len()) as u32)
    }

    pub(super) fn state(&self, row: u32, column: u32) -> CellState {
        self.cells[self.index(row, column)]
    }

    pub(super) fn key(&self, row: u32, column: u32) -> ObjectKey {
        self.target.key(self.shape.rows[row as usize].shard, column)
    }

    pub(super) fn windows(&self) -> Vec<AttentionWindow> {
        self.shape.rows.iter().map(|r| r.window).collect()
    }

    /// Whether everything loaded is retained, whatever the policy decides.
    pub(super) fn retains_all(&self) -> bool {
        matches!(self.owner, Owner::Request(_))
    }

    /// The pinned objects.
    pub(super) fn pinned(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.cells.iter().filter_map(|cell| cell.object())
    }

    /// Chunks of the prompt.
    pub(super) fn chunks(&self) -> u32 {
        self.target.chunk_hashes.len() as u32
    }

    /// The resident object of a cell that workers can read.
    pub(super) fn find_readable(&self, index: &Index, row: u32, column: u32) -> Option<ObjectId> {
        let Target { model, salt, chunk_hashes } = &self.target;
        let chunk = index.chunk(model, salt, &chunk_hashes[column as usize])?;
        self.readable_in(index, chunk, row)
    }

    /// The same, in a chunk that was found.
    pub(super) fn readable_in(&self, index: &Index, chunk: ChunkId, row: u32) -> Option<ObjectId> {
        index.resident(chunk, self.shape.rows[row as usize].shard)
    }
}
