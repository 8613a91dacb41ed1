//! Probing: finding out which objects are in L1, and asking adapters for the others, a batch of chunks at a time.
//!
//! All adapters are asked about a batch at once. The batch ends when all have answered, or when the first ones
//! have all of it: each cell is loaded from the first adapter that has it, so a slow adapter behind those delays
//! nothing. A late answer is dropped; asking holds nothing in L2.

use larder_policy::prefetch::plan::Fetch;
use larder_policy::prefetch::shard_bitmap::ShardBitmap;
use larder_policy::prefix_scan::PrefixScan;
use smallvec::SmallVec;

use super::job::{CellState, Job, Phase, ProbeBatch};
use super::{LookupSink, Prefetch, Target};
use crate::context::Context;
use crate::ids::{JobId, LookupId};
use crate::io::{Effect, can_hold};

/// Columns with missing objects in the first batch. Each batch has twice as many as the one before.
const FIRST_BATCH_COLUMNS: u32 = 32;

impl Prefetch {
    /// Begins waiting jobs, as far as the limit allows.
    pub(crate) fn start_waiting(&mut self, cx: &mut Context, sink: &mut dyn LookupSink) {
        while self.running() < cx.config.prefetch_jobs_max.max(1) {
            let Some(id) = self.waiting.pop_front() else { break };
            self.begin_job(cx, id, sink);
        }
    }

    /// Begins a job that is not in the queue any more.
    pub(super) fn begin_job(&mut self, cx: &mut Context, id: JobId, sink: &mut dyn LookupSink) {
        let job = self.jobs.get_mut(&id).expect("ids name live jobs");
        let windows = job.windows();
        let l1_hit = if windows.iter().any(Option::is_some) { job.l1_hit(&cx.index) } else { 0 };
        job.phase = Phase::Probing(ProbeBatch {
            scan: PrefixScan::new(windows),
            l1_hit,
            // Without adapters, all of L1 is looked at in one batch.
            columns_max: if cx.has_l2() { FIRST_BATCH_COLUMNS } else { u32::MAX },
            asked: Vec::new(),
            open: SmallVec::new(),
        });
        self.probe_next(cx, id, sink);
    }

    /// An adapter's answer to a probe: for each key the stored size in bytes, in the order asked. `None` for an
    /// object that it does not have, or does not know of.
    pub(crate) fn on_found(
        &mut self,
        cx: &mut Context,
        probe: LookupId,
        sizes: &[Option<u64>],
        sink: &mut dyn LookupSink,
    ) {
        let Some((id, adapter)) = self.probes.remove(&probe) else { return };
        let job = self.jobs.get_mut(&id).expect("probes are forgotten with their job");
        let (rows, columns) = (job.rows(), job.columns);
        let Phase::Probing(batch) = &mut job.phase else { unreachable!("a probe was open") };
        batch.open.retain(|open| *open != probe);
        let at = job.found.iter().position(|(a, _)| *a == adapter).unwrap_or_else(|| {
            job.found.push((adapter, ShardBitmap::new(rows, columns)));
            job.found.len() - 1
        });
        let found = &mut job.found[at].1;
        found.widen(columns);
        for (cell, size) in batch.asked.iter().zip(sizes) {
            let (row, column) = (cell % rows, cell / rows);
            if size.is_some_and(|s| can_hold(s, job.shape.rows[row as usize].layout.bytes())) {
                found.insert(row, column);
            }
        }
        if batch.open.is_empty() || self.is_batch_decided(id) {
            self.on_batch_answered(cx, id, sink);
        }
    }

    /// Whether the adapters that have not answered can change nothing: those before them have the whole batch.
    fn is_batch_decided(&self, id: JobId) -> bool {
        let job = &self.jobs[&id];
        let Phase::Probing(batch) = &job.phase else { return false };
        let first_open = batch.open.iter().map(|probe| self.probes[probe].1).min();
        let before = job.found.iter().filter(|(adapter, _)| Some(*adapter) < first_open);
        let before: SmallVec<[&ShardBitmap; 2]> = before.map(|(_, found)| found).collect();
        let rows = job.rows();
        batch.asked.iter().all(|cell| before.iter().any(|found| found.contains(cell % rows, cell / rows)))
    }

    /// All adapters that matter have answered about the batch.
    fn on_batch_answered(&mut self, cx: &mut Context, id: JobId, sink: &mut dyn LookupSink) {
        let job = self.jobs.get_mut(&id).expect("ids name live jobs");
        let (rows, columns) = (job.shape.rows.len(), job.columns);
        let Phase::Probing(batch) = &mut job.phase else { unreachable!("the job is probing") };
        for probe in batch.open.drain(..) {
            self.probes.remove(&probe);
        }
        batch.columns_max = batch.columns_max.saturating_mul(2);
        batch.asked.clear();
        let mut open = true;
        for column in batch.scan.columns()..columns {
            open = batch.scan.push(|row| {
                let pinned = job.cells[column as usize * rows + row] != CellState::Absent;
                pinned || job.found.iter().any(|(_, found)| found.contains(row as u32, column))
            });
            if !open {
                break;
            }
        }
        if open || job.fetch == Fetch::Full {
            self.probe_next(cx, id, sink);
        } else {
            self.reserve(cx, id, sink);
        }
    }

    /// Probes the next batch, or goes on to reserving if there is none.
    fn probe_next(&mut self, cx: &mut Context, id: JobId, sink: &mut dyn LookupSink) {
        let job = self.jobs.get_mut(&id).expect("ids name live jobs");
        let asked = pin_batch(cx, job);
        if asked.is_empty() || !cx.has_l2() {
            return self.reserve(cx, id, sink);
        }
        let rows = job.rows();
        let keys: Vec<_> = asked.iter().map(|cell| job.key(cell % rows, cell / rows)).collect();
        let Phase::Probing(batch) = &mut job.phase else { unreachable!("the job is probing") };
        batch.asked = asked;
        for adapter in cx.adapter_ids() {
            let probe = LookupId(cx.new_id());
            batch.open.push(probe);
            self.probes.insert(probe, (id, adapter));
            let counters = cx.stats.adapter_mut(adapter);
            counters.lookups += 1;
            counters.lookup_objects += keys.len() as u64;
            cx.stats.tenant(&job.target.salt).l2_asked += keys.len() as u64;
            cx.effects.push(Effect::Lookup { lookup: probe, adapter, keys: keys.clone() });
        }
    }
}

/// Adds columns to a job, and pins what L1 has of them, until the batch is full of columns with missing objects.
/// Returns the cells to ask for.
fn pin_batch(cx: &mut Context, job: &mut Job) -> Vec<u32> {
    let Phase::Probing(batch) = &mut job.phase else { unreachable!("the job is probing") };
    let reached = batch.l1_hit.max(batch.scan.hit());
    let Target { model, salt, chunk_hashes } = &job.target;
    let chunks = cx.index.leading_chunks(model, salt, &chunk_hashes[job.columns as usize..]);
    let (mut asked, mut lacking) = (Vec::new(), 0);
    let first = job.cells.len();
    for (column, chunk) in (job.columns..).zip(chunks) {
        if lacking == batch.columns_max {
            break;
        }
        let mut lacks = false;
        for row in &job.shape.rows {
            let found = chunk.and_then(|chunk| cx.index.resident(chunk, row.shard));
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
            let cells = &job.cells[job.cells.len() - job.shape.rows.len()..];
            batch.scan.push(|row| cells[row] != CellState::Absent);
        }
    }
    let mut index = cx.index_mut();
    for object in job.cells[first..].iter().filter_map(|cell| cell.object()) {
        index.pin(object, job.pins);
    }
    asked
}
