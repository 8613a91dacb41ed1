//! From what was found to memory reserved and loads under way.

use super::job::{CellState, Job, Phase};
use super::loads::Joined;
use super::probe::readable;
use crate::core::Core;
use crate::index::{ObjectId, Refused, Retention};
use crate::io::IoId;
use larder_policy::prefetch::plan::{Fetch, L1Id, PlanInput};
use larder_policy::prefetch::shard_bitmap::ShardBitmap;
use larder_types::AdapterId;

/// What a job is to use: of L1, and of each adapter.
struct Plan {
    l1: ShardBitmap,
    l2: Vec<(AdapterId, ShardBitmap)>,
}

/// Why a cell got no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// L1 is full of what is held.
    NoSpace,
    /// Somebody else is writing it.
    Contended,
}

impl Plan {
    fn contains(&self, row: u32, column: u32) -> bool {
        self.l1.contains(row, column) || self.l2.iter().any(|(_, g)| g.contains(row, column))
    }

    /// The adapter that a cell is to be loaded from.
    fn adapter(&self, row: u32, column: u32) -> Option<AdapterId> {
        self.l2.iter().find(|(_, g)| g.contains(row, column)).map(|(a, _)| *a)
    }
}

impl Core {
    /// Everything that matters has been looked at: plans, reserves, and starts the loads.
    pub(super) fn reserve_job(&mut self, id: u64) {
        let mut job = self.prefetch.jobs.remove(&id).expect("job is alive");
        job.found.sort_by_key(|(adapter, _)| *adapter);
        self.index.begin();
        let mut new = Vec::new();
        let mut limit = job.columns;
        let mut barred = Vec::new();
        // Each round has fewer columns than the one before, and usually there is one round.
        for round in 0.. {
            let plan = self.plan(&job, limit, &barred, round > 0);
            self.let_go_unplanned(id, &mut job, &plan);
            self.hold_planned(&mut job, &plan);
            self.judge(&mut job, &plan);
            match self.take_planned(id, &mut job, &plan, &mut new) {
                None => break,
                Some((column, Stop::Contended)) if job.fetch == Fetch::Full => barred.push(column),
                Some((column, _)) => limit = column,
            }
        }
        let loading = job.cells.iter().filter(|c| matches!(c, CellState::Loading(_))).count();
        job.phase = Phase::Loading(loading as u32);
        self.prefetch.jobs.insert(id, job);
        new.into_iter().for_each(|io| self.prefetch.in_flight.enqueue(io));
        if loading == 0 {
            self.finish_job(id);
        }
    }

    /// The policy's plan for the first `limit` columns, held to its rules. With `again`, L1 is looked at
    /// once more for cells that were let go.
    fn plan(&mut self, job: &Job, limit: u32, barred: &[u32], again: bool) -> Plan {
        let rows = job.rows.len() as u32;
        let mut l1 = ShardBitmap::new(rows, limit);
        for column in (0..limit).filter(|c| !barred.contains(c)) {
            for row in 0..rows {
                let held = match job.state(row, column) {
                    CellState::L1(object) | CellState::Loaded(object) => self.index.is_resident(object),
                    CellState::Absent => again && self.find_readable(job, row, column).is_some(),
                    CellState::Loading(_) => false,
                };
                if held {
                    l1.insert(row, column);
                }
            }
        }
        let found: Vec<(AdapterId, ShardBitmap)> =
            job.found.iter().map(|(a, g)| (*a, g.first(limit))).collect();
        let found = found.into_iter().map(|(a, g)| (a, without(&g, barred))).collect::<Vec<_>>();
        let input = PlanInput {
            windows: &job.windows(),
            columns: limit,
            fetch: job.fetch,
            l1: &[(L1Id::default(), l1.clone())],
            l2: &found,
        };
        let mut answer = self.ask_for_plan(&input);
        let planned = answer.l1.remove(&L1Id::default()).unwrap_or_else(|| ShardBitmap::new(rows, limit));
        let mut plan = Plan { l1: both(&planned, &l1), l2: Vec::new() };
        for (adapter, grid) in &found {
            if let Some(planned) = answer.l2.remove(adapter) {
                plan.l2.push((*adapter, both(&planned, grid)));
            }
        }
        plan
    }

    /// Releases what the plan has no use for, the last chunk first.
    fn let_go_unplanned(&mut self, id: u64, job: &mut Job, plan: &Plan) {
        for index in (0..job.cells.len()).rev() {
            let (row, column) = job.place(index);
            if job.cells[index] != CellState::Absent && !plan.contains(row, column) {
                self.let_go_cell(id, job, index);
            }
        }
    }

    /// Releases whatever a cell holds or waits for.
    pub(super) fn let_go_cell(&mut self, id: u64, job: &mut Job, index: usize) {
        match std::mem::replace(&mut job.cells[index], CellState::Absent) {
            CellState::L1(object) | CellState::Loaded(object) => self.index.unpin(object, job.shares),
            CellState::Loading(io) => self.leave_load(io, id),
            CellState::Absent => {}
        }
    }

    /// Takes shares of planned L1 cells that were let go before.
    fn hold_planned(&mut self, job: &mut Job, plan: &Plan) {
        for (row, column) in plan.l1.cells() {
            if job.state(row, column) == CellState::Absent
                && let Some(object) = self.find_readable(job, row, column)
            {
                self.hold_hit(job, row, column, object);
            }
        }
    }

    fn hold_hit(&mut self, job: &mut Job, row: u32, column: u32, object: ObjectId) {
        self.index.pin(object, job.shares);
        let index = job.index(row, column);
        job.cells[index] = CellState::L1(object);
    }

    /// Asks the policy what is to stay, adapter by adapter, for cells it has not been asked about.
    fn judge(&mut self, job: &mut Job, plan: &Plan) {
        let (rows, columns) = (job.rows.len() as u32, job.columns);
        let (mut asked, mut stays) = job
            .judged
            .take()
            .unwrap_or_else(|| (ShardBitmap::new(rows, columns), ShardBitmap::new(rows, columns)));
        for (adapter, grid) in &plan.l2 {
            let new = |(r, c): &(u32, u32)| !asked.contains(*r, *c) && job.state(*r, *c) == CellState::Absent;
            let cells: Vec<(u32, u32)> = grid.cells().filter(new).collect();
            if cells.is_empty() {
                continue;
            }
            let flags = if job.is_warm() {
                vec![true; cells.len()]
            } else {
                let keys: Vec<_> = cells.iter().map(|(r, c)| job.key(*r, *c)).collect();
                let columns: Vec<u32> = cells.iter().map(|(_, c)| *c).collect();
                self.ask_to_retain(&keys, &columns, *adapter)
            };
            for ((row, column), stay) in cells.into_iter().zip(flags) {
                asked.insert(row, column);
                if stay {
                    stays.insert(row, column);
                }
            }
        }
        job.judged = Some((asked, stays));
    }

    /// Gets memory for every planned cell that has none, chunk by chunk. Returns where it had to stop.
    fn take_planned(
        &mut self,
        id: u64,
        job: &mut Job,
        plan: &Plan,
        new: &mut Vec<IoId>,
    ) -> Option<(u32, Stop)> {
        for column in 0..plan.l1.columns() {
            for row in 0..job.rows.len() as u32 {
                let Some(adapter) = plan.adapter(row, column) else { continue };
                if job.state(row, column) != CellState::Absent {
                    continue;
                }
                if let Err(stop) = self.take_cell(id, job, (row, column), adapter, new) {
                    self.count_stop(job, plan, column, stop);
                    return Some((column, stop));
                }
            }
        }
        None
    }

    fn count_stop(&mut self, job: &Job, plan: &Plan, from: u32, stop: Stop) {
        let without_memory = || {
            let cells = plan.l2.iter().flat_map(|(_, g)| g.cells());
            cells.filter(|(r, c)| *c >= from && job.state(*r, *c) == CellState::Absent).count() as u64
        };
        match stop {
            Stop::NoSpace => {
                let objects = without_memory();
                self.counters.l2.no_room_objects += objects;
                self.index.tally.models.of(&job.target.model).load_no_room += objects;
            }
            Stop::Contended => {
                self.counters.l2.contended_objects += 1;
                self.index.tally.models.of(&job.target.model).load_contended += 1;
            }
        }
    }

    /// Gets one cell on its way: into new memory, or with another job, or it has come meanwhile.
    fn take_cell(
        &mut self,
        id: u64,
        job: &mut Job,
        (row, column): (u32, u32),
        adapter: AdapterId,
        new: &mut Vec<IoId>,
    ) -> Result<(), Stop> {
        let index = job.index(row, column);
        let stays = job.judged.as_ref().is_some_and(|(_, stays)| stays.contains(row, column));
        let retention = if stays { Retention::Permanent } else { Retention::Temporary };
        let (model, salt) = job.name();
        let (name, place) =
            ((model, salt, &job.target.chunk_hashes[column as usize]), &job.rows[row as usize]);
        // Twice if what is in the way had to go first.
        for _ in 0..3 {
            let refused = match self.index.reserve(name, place.cell, &place.layout, retention) {
                Ok(object) => {
                    let io = self.new_load(object, adapter, job.key(row, column), (id, index as u32));
                    job.cells[index] = CellState::Loading(io);
                    new.push(io);
                    return Ok(());
                }
                Err(refused) => refused,
            };
            let chunk = self.index.chunk(name.0, name.1, name.2);
            match refused {
                Refused::NoSpace => return Err(Stop::NoSpace),
                Refused::Resident => match self.find_readable(job, row, column) {
                    Some(object) => {
                        self.promote_if(object, stays);
                        self.hold_hit(job, row, column, object);
                        return Ok(());
                    }
                    None => {
                        let object = chunk.and_then(|c| self.index.resident(c, place.cell));
                        self.index.unlink(object.expect("it was just met"));
                    }
                },
                Refused::Staged => {
                    let object =
                        chunk.and_then(|c| self.index.staged(c, place.cell)).expect("it was just met");
                    match self.join_load(object, (id, index as u32)) {
                        Joined::Yes(io) => {
                            self.promote_if(object, stays);
                            job.cells[index] = CellState::Loading(io);
                            return Ok(());
                        }
                        Joined::Displaced => {}
                        Joined::No => return Err(Stop::Contended),
                    }
                }
            }
        }
        Err(Stop::Contended)
    }

    /// Somebody wants a temporary object to stay, or not. Returns whether that changed anything.
    pub(crate) fn promote_if(&mut self, object: ObjectId, stays: bool) -> bool {
        let promoted = stays && self.index.retention(object) == Retention::Temporary;
        if promoted {
            self.index.promote(object);
            self.counters.l2.promoted_objects += 1;
        }
        promoted
    }

    /// The readable object in a cell of a job.
    pub(super) fn find_readable(&self, job: &Job, row: u32, column: u32) -> Option<ObjectId> {
        let (model, salt) = job.name();
        let chunk = self.index.chunk(model, salt, &job.target.chunk_hashes[column as usize])?;
        readable(&self.index, &job.sizes, chunk, job.rows[row as usize].cell)
    }
}

/// The cells of `planned` that are in `allowed` as well.
fn both(planned: &ShardBitmap, allowed: &ShardBitmap) -> ShardBitmap {
    let mut grid = ShardBitmap::new(allowed.rows(), allowed.columns());
    planned.cells().filter(|(r, c)| allowed.contains(*r, *c)).for_each(|(r, c)| grid.insert(r, c));
    grid
}

/// The cells outside some columns.
fn without(grid: &ShardBitmap, columns: &[u32]) -> ShardBitmap {
    if columns.is_empty() {
        return grid.clone();
    }
    let mut rest = ShardBitmap::new(grid.rows(), grid.columns());
    grid.cells().filter(|(_, c)| !columns.contains(c)).for_each(|(r, c)| rest.insert(r, c));
    rest
}
