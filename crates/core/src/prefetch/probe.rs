//! Finding out what there is: L1 first, then the adapters, a window of chunks at a time.
//!
//! Every adapter is asked about a window at once. It ends when all have answered, or when the first ones
//! have all of it: each cell comes from the first adapter that has it, so a slow or dead one behind them
//! delays nobody. A late answer is dropped; nothing is held in L2 by asking.

use larder_types::AdapterId;
use larder_types::ChunkId;
use smallvec::SmallVec;

use super::Target;
use super::job::{CellState, Job, Look, Phase};
use crate::core::Core;
use crate::index::ObjectId;
use crate::io::{Effect, LookupId, can_be};
use larder_policy::prefetch::plan::Fetch;
use larder_policy::prefetch::shard_bitmap::ShardBitmap;
use larder_policy::prefix_scan::PrefixScan;
use larder_types::time::Time;

/// Columns that the first questions are about. Each window has twice as many as the one before.
const FIRST_WINDOW_COLUMNS: u32 = 32;

impl Core {
    /// Lets waiting jobs begin, as far as the limit allows.
    pub(crate) fn start_waiting_jobs(&mut self) {
        while self.prefetch.running() < self.config.prefetch_jobs_max.max(1) {
            let Some(id) = self.prefetch.waiting.pop_front() else { break };
            self.begin_job(id);
        }
    }

    /// A job is past waiting.
    pub(super) fn begin_job(&mut self, id: u64) {
        let job = &self.prefetch.jobs[&id];
        // With nobody to ask, there is one look at L1.
        let window = if self.adapters.is_empty() { u32::MAX } else { FIRST_WINDOW_COLUMNS };
        let windows = job.windows();
        let windowed = windows.iter().any(Option::is_some);
        let l1_hit = if windowed { self.l1_hit(job) } else { 0 };
        let (fold, asked, open) = (PrefixScan::new(windows), Vec::new(), SmallVec::new());
        let job = self.prefetch.jobs.get_mut(&id).expect("just seen");
        job.phase = Phase::Looking(Look { fold, l1_hit, window, asked, open });
        self.look_further(id);
    }

    /// What an adapter has of the keys of one [`Effect::Lookup`]: for each the size stored, in the
    /// order asked. `None` for what it has not, or could not tell.
    pub fn l2_found(&mut self, now: Time, lookup: LookupId, sizes: &[Option<u64>]) {
        self.advance(now);
        let Some((id, adapter)) = self.prefetch.lookups.remove(&lookup) else { return };
        let job = self.prefetch.jobs.get_mut(&id).expect("questions are forgotten with their job");
        let (rows, columns) = (job.rows.len() as u32, job.columns);
        let Phase::Looking(look) = &mut job.phase else { unreachable!("a question was open") };
        look.open.retain(|open| *open != lookup);
        let at = job.found.iter().position(|(a, _)| *a == adapter).unwrap_or_else(|| {
            job.found.push((adapter, ShardBitmap::new(rows, columns)));
            job.found.len() - 1
        });
        let found = &mut job.found[at].1;
        found.widen(columns);
        for (index, size) in look.asked.iter().zip(sizes) {
            let (row, column) = (index % rows, index / rows);
            if size.is_some_and(|s| can_be(s, job.rows[row as usize].layout.bytes())) {
                found.insert(row, column);
            }
        }
        if look.open.is_empty() || self.is_settled(id) {
            self.window_answered(id);
        }
    }

    /// Whether the adapters that have yet to answer about the window can change nothing: the first ones
    /// have it all.
    fn is_settled(&self, id: u64) -> bool {
        let job = &self.prefetch.jobs[&id];
        let Phase::Looking(look) = &job.phase else { return false };
        let open = |lookup: &LookupId| self.prefetch.lookups[lookup].1;
        let first_open = look.open.iter().map(open).min();
        let rows = job.rows.len() as u32;
        let before = job.found.iter().filter(|(adapter, _)| Some(*adapter) < first_open);
        let first: SmallVec<[&ShardBitmap; 2]> = before.map(|(_, found)| found).collect();
        look.asked.iter().all(|i| first.iter().any(|found| found.contains(i % rows, i / rows)))
    }

    /// All adapters that matter have answered about the window.
    fn window_answered(&mut self, id: u64) {
        let job = self.prefetch.jobs.get_mut(&id).expect("job is alive");
        let columns = job.columns;
        let Phase::Looking(look) = &mut job.phase else { unreachable!("the job is looking") };
        for lookup in look.open.drain(..) {
            self.prefetch.lookups.remove(&lookup);
        }
        look.window = look.window.saturating_mul(2);
        look.asked.clear();
        let rows = job.rows.len();
        let mut open = true;
        for column in look.fold.columns()..columns {
            open = look.fold.push(|row| {
                let held = job.cells[column as usize * rows + row] != CellState::Absent;
                held || job.found.iter().any(|(_, g)| g.contains(row as u32, column))
            });
            if !open {
                break;
            }
        }
        if open || job.fetch == Fetch::Full {
            self.look_further(id);
        } else {
            self.reserve_job(id);
        }
    }

    /// Looks at the next window, or goes on to reserving if there is none.
    fn look_further(&mut self, id: u64) {
        let mut job = self.prefetch.jobs.remove(&id).expect("job is alive");
        let asked = self.scan_window(&mut job);
        if asked.is_empty() || self.adapters.is_empty() {
            self.prefetch.jobs.insert(id, job);
            return self.reserve_job(id);
        }
        let rows = job.rows.len() as u32;
        let keys: Vec<_> = asked.iter().map(|i| job.key(i % rows, i / rows)).collect();
        let Phase::Looking(look) = &mut job.phase else { unreachable!("the job is looking") };
        look.asked = asked;
        for adapter in 0..self.adapters.len() as u32 {
            let (lookup, adapter) = (LookupId(self.new_id()), AdapterId(adapter));
            look.open.push(lookup);
            self.prefetch.lookups.insert(lookup, (id, adapter));
            self.adapter_counters[adapter.0 as usize].lookups += 1;
            self.adapter_counters[adapter.0 as usize].lookup_objects += keys.len() as u64;
            if let Some(key) = keys.first() {
                self.index.tally.salts.of(&key.cache_salt).l2_asked += keys.len() as u64;
            }
            self.effects.push(Effect::Lookup { lookup, adapter, keys: keys.clone() });
        }
        self.prefetch.jobs.insert(id, job);
    }

    /// Holds what L1 has, from the first column not looked at on, until the window is full of columns
    /// that lack something. Returns what to ask for.
    fn scan_window(&mut self, job: &mut Job) -> Vec<u32> {
        let Phase::Looking(look) = &mut job.phase else { unreachable!("the job is looking") };
        let reached = look.l1_hit.max(look.fold.hit());
        let Target { model, salt, chunk_hashes } = &job.target;
        let chunks = self.index.leading_chunks(model, salt, &chunk_hashes[job.columns as usize..]);
        let mut asked = Vec::new();
        let mut lacking = 0;
        let first = job.cells.len();
        for (column, chunk) in (job.columns..).zip(chunks) {
            if lacking == look.window {
                break;
            }
            let mut lacks = false;
            for row in &job.rows {
                let found = chunk.and_then(|c| readable(&self.index, &job.sizes, c, row.cell));
                // A longer prefix needs no more of a row than its window.
                let behind = row.window.is_some_and(|w| w > 0 && column.saturating_add(w) <= reached);
                if found.is_none() && !behind {
                    lacks = true;
                    asked.push(job.cells.len() as u32);
                }
                job.cells.push(found.map_or(CellState::Absent, CellState::L1));
            }
            job.columns += 1;
            lacking += u32::from(lacks);
            if asked.is_empty() {
                let cells = &job.cells[job.cells.len() - job.rows.len()..];
                look.fold.push(|row| cells[row] != CellState::Absent);
            }
        }
        for cell in &job.cells[first..] {
            if let CellState::L1(object) = cell {
                self.index.pin(*object, job.shares);
            }
        }
        asked
    }
}

/// The object in a cell, if it is resident and of a size that workers of the model can read.
pub(super) fn readable(
    l1: &crate::index::Index,
    sizes: &[u64],
    chunk: ChunkId,
    cell: crate::index::ShardKey,
) -> Option<ObjectId> {
    l1.resident(chunk, cell).filter(|o| sizes.contains(&l1.layout(*o).bytes()))
}
