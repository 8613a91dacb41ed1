//! One lookup with L2 work: what it wants, how far it is, what it holds.

use larder_types::AdapterId;
use std::sync::Arc;

use larder_types::object::ObjectKey;
use smallvec::SmallVec;

use super::Target;
use crate::index::{ObjectId, ShardKey};
use crate::io::{IoId, LookupId};
use larder_policy::prefetch::plan::Fetch;
use larder_policy::prefetch::shard_bitmap::ShardBitmap;
use larder_policy::prefix_scan::{AttentionWindow, PrefixScan};
use larder_types::layout::Layout;
use larder_types::time::Time;

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A session, by its id. It gets the shares.
    Session(u64),
    /// A warm-up, by its id. What was loaded stays, nobody holds it.
    Warm(u64),
}

/// One (object group, rank) of the grid.
#[derive(Clone, Debug)]
pub(crate) struct JobRow {
    pub(crate) cell: ShardKey,
    pub(crate) window: AttentionWindow,
    pub(crate) layout: Layout,
}

/// What the job knows of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellState {
    /// Neither held nor on its way.
    Absent,
    /// It was in L1; held.
    L1(ObjectId),
    /// Its bytes are on their way; a share of it is promised.
    Loading(IoId),
    /// It was loaded; held.
    Loaded(ObjectId),
}

/// How far a job is.
#[derive(Debug)]
pub(crate) enum Phase {
    /// It has not begun and holds nothing.
    Waiting,
    /// Adapters are being asked.
    Looking(Look),
    /// Objects are being loaded: so many are missing.
    Loading(u32),
}

/// A window of columns that adapters are asked about.
#[derive(Debug)]
pub(crate) struct Look {
    /// Over the columns before the window.
    pub(crate) fold: PrefixScan,
    /// What L1 alone can serve.
    pub(crate) l1_hit: u32,
    /// How many columns that lack something the window may have.
    pub(crate) window: u32,
    /// Indices of the cells asked for, in the order asked.
    pub(crate) asked: Vec<u32>,
    /// Questions without an answer.
    pub(crate) open: SmallVec<[LookupId; 2]>,
}

/// One lookup with L2 work.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) owner: Owner,
    pub(crate) target: Target,
    pub(crate) rows: Vec<JobRow>,
    /// Sizes that some worker of the model can read.
    pub(crate) sizes: SmallVec<[u64; 2]>,
    pub(crate) fetch: Fetch,
    /// Shares taken of each object.
    pub(crate) shares: u32,
    pub(crate) deadline: Time,
    pub(crate) phase: Phase,
    /// Columns looked at.
    pub(crate) columns: u32,
    /// Column by column, as far as looked at.
    pub(crate) cells: Vec<CellState>,
    /// What each adapter has.
    pub(crate) found: Vec<(AdapterId, ShardBitmap)>,
    /// Cells that the policy was asked about, and those that shall stay.
    pub(crate) judged: Option<(ShardBitmap, ShardBitmap)>,
}

impl Job {
    pub(crate) fn index(&self, row: u32, column: u32) -> usize {
        column as usize * self.rows.len() + row as usize
    }

    /// Row and column of a cell.
    pub(crate) fn place(&self, index: usize) -> (u32, u32) {
        ((index % self.rows.len()) as u32, (index / self.rows.len()) as u32)
    }

    pub(crate) fn state(&self, row: u32, column: u32) -> CellState {
        self.cells[self.index(row, column)]
    }

    pub(crate) fn key(&self, row: u32, column: u32) -> ObjectKey {
        self.target.key(self.rows[row as usize].cell, column)
    }

    pub(crate) fn windows(&self) -> Vec<AttentionWindow> {
        self.rows.iter().map(|r| r.window).collect()
    }

    /// Whether what is loaded stays, whatever the policy says.
    pub(crate) fn is_warm(&self) -> bool {
        matches!(self.owner, Owner::Warm(_))
    }

    /// Every share the job holds.
    pub(crate) fn held(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.cells.iter().filter_map(|c| match c {
            CellState::L1(object) | CellState::Loaded(object) => Some(*object),
            CellState::Absent | CellState::Loading(_) => None,
        })
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.target.chunk_hashes.len() as u32
    }

    pub(crate) fn name(&self) -> (&Arc<str>, &Arc<str>) {
        (&self.target.model, &self.target.salt)
    }
}
