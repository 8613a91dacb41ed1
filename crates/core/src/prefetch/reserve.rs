//! Reserving: from what was found to a plan, to memory, and to loads.

use larder_policy::prefetch::plan::{Fetch, L1Id, PlanInput};
use larder_policy::prefetch::shard_bitmap::ShardBitmap;
use larder_types::AdapterId;

use super::job::{CellState, Job, Phase};
use super::loads::{Joined, Waiter};
use super::{LookupSink, Prefetch, Target};
use crate::context::Context;
use crate::ids::{IoId, JobId};
use crate::index::{ObjectId, Refused, Retention};

/// The cells that a job uses, of L1 and of each adapter.
struct Plan {
    l1: ShardBitmap,
    l2: Vec<(AdapterId, ShardBitmap)>,
}

/// Why a cell got no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// L1 is full of pinned objects.
    NoSpace,
    /// Another writer holds the reservation of the object.
    Contended,
}

impl Plan {
    fn contains(&self, row: u32, column: u32) -> bool {
        self.l1.contains(row, column) || self.adapter(row, column).is_some()
    }

    /// The adapter that a cell is to be loaded from.
    fn adapter(&self, row: u32, column: u32) -> Option<AdapterId> {
        self.l2.iter().find(|(_, cells)| cells.contains(row, column)).map(|(adapter, _)| *adapter)
    }
}

impl Prefetch {
    /// All that matters is known: plans, reserves, and queues the loads.
    pub(super) fn reserve(&mut self, cx: &mut Context, id: JobId, sink: &mut dyn LookupSink) {
        let mut job = self.jobs.remove(&id).expect("ids name live jobs");
        job.found.sort_by_key(|(adapter, _)| *adapter);
        cx.index_mut().begin_operation();
        let mut new = Vec::new();
        let mut limit = job.columns;
        let mut barred = Vec::new();
        // Each round has fewer columns than the one before; usually there is one round.
        for round in 0.. {
            let plan = self.plan(cx, &job, limit, &barred, round > 0);
            self.release_unplanned(cx, id, &mut job, &plan);
            pin_planned(cx, &mut job, &plan);
            self.judge(cx, &mut job, &plan);
            match self.take_planned(cx, id, &mut job, &plan, &mut new) {
                None => break,
                Some((column, Stop::Contended)) if job.fetch == Fetch::Full => barred.push(column),
                Some((column, _)) => limit = column,
            }
        }
        let loading = job.cells.iter().filter(|c| matches!(c, CellState::Loading(_))).count();
        job.phase = Phase::Loading(loading as u32);
        self.jobs.insert(id, job);
        new.into_iter().for_each(|io| self.loads.enqueue(io));
        if loading == 0 {
            self.finish(cx, id, sink);
        }
    }

    /// The policy's plan for the first `limit` columns, restricted to what was found. With `again`, cells that were
    /// released are looked up in L1 once more.
    fn plan(&self, cx: &Context, job: &Job, limit: u32, barred: &[u32], again: bool) -> Plan {
        let rows = job.rows();
        let mut l1 = ShardBitmap::new(rows, limit);
        for column in (0..limit).filter(|c| !barred.contains(c)) {
            for row in 0..rows {
                let in_l1 = match job.state(row, column) {
                    CellState::L1(object) | CellState::Loaded(object) => cx.index.is_resident(object),
                    CellState::Absent => again && job.find_readable(&cx.index, row, column).is_some(),
                    CellState::Loading(_) => false,
                };
                if in_l1 {
                    l1.insert(row, column);
                }
            }
        }
        let found = job.found.iter().map(|(adapter, cells)| (*adapter, without(cells.first(limit), barred)));
        let found: Vec<(AdapterId, ShardBitmap)> = found.collect();
        let mut answer = self.policy.plan(&PlanInput {
            windows: &job.windows(),
            columns: limit,
            fetch: job.fetch,
            l1: &[(L1Id::default(), l1.clone())],
            l2: &found,
        });
        let planned = answer.l1.remove(&L1Id::default()).unwrap_or_else(|| ShardBitmap::new(rows, limit));
        let mut plan = Plan { l1: both(&planned, &l1), l2: Vec::new() };
        for (adapter, cells) in &found {
            if let Some(planned) = answer.l2.remove(adapter) {
                plan.l2.push((*adapter, both(&planned, cells)));
            }
        }
        plan
    }

    /// Releases the cells that are not in the plan, the last chunk first.
    fn release_unplanned(&mut self, cx: &mut Context, id: JobId, job: &mut Job, plan: &Plan) {
        for index in (0..job.cells.len()).rev() {
            let (row, column) = job.position(index);
            if job.cells[index] != CellState::Absent && !plan.contains(row, column) {
                self.release_cell(cx, id, job, index);
            }
        }
    }

    /// Releases what a cell pins or waits for.
    pub(super) fn release_cell(&mut self, cx: &mut Context, id: JobId, job: &mut Job, index: usize) {
        match std::mem::replace(&mut job.cells[index], CellState::Absent) {
            CellState::L1(object) | CellState::Loaded(object) => cx.index_mut().unpin(object, job.pins),
            CellState::Loading(io) => self.loads.leave(cx, io, id),
            CellState::Absent => {}
        }
    }

    /// Asks the policy what to retain, adapter by adapter, of the cells that it has not been asked about.
    fn judge(&self, cx: &mut Context, job: &mut Job, plan: &Plan) {
        let (rows, columns) = (job.rows(), job.columns);
        let (mut asked, mut retained) = job
            .judged
            .take()
            .unwrap_or_else(|| (ShardBitmap::new(rows, columns), ShardBitmap::new(rows, columns)));
        for (adapter, cells) in &plan.l2 {
            let new = |(r, c): &(u32, u32)| !asked.contains(*r, *c) && job.state(*r, *c) == CellState::Absent;
            let cells: Vec<(u32, u32)> = cells.cells().filter(new).collect();
            if cells.is_empty() {
                continue;
            }
            let answer = if job.retains_all() {
                vec![true; cells.len()]
            } else {
                let keys: Vec<_> = cells.iter().map(|(r, c)| job.key(*r, *c)).collect();
                let columns: Vec<u32> = cells.iter().map(|(_, c)| *c).collect();
                self.ask_to_retain(cx, &keys, &columns, *adapter)
            };
            for ((row, column), retain) in cells.into_iter().zip(answer) {
                asked.insert(row, column);
                if retain {
                    retained.insert(row, column);
                }
            }
        }
        job.judged = Some((asked, retained));
    }

    /// Gets memory for every planned cell that has none, chunk by chunk. Returns where it had to stop.
    fn take_planned(
        &mut self,
        cx: &mut Context,
        id: JobId,
        job: &mut Job,
        plan: &Plan,
        new: &mut Vec<IoId>,
    ) -> Option<(u32, Stop)> {
        for column in 0..plan.l1.columns() {
            for row in 0..job.rows() {
                let Some(adapter) = plan.adapter(row, column) else { continue };
                if job.state(row, column) != CellState::Absent {
                    continue;
                }
                if let Err(stop) = self.take_cell(cx, id, job, (row, column), adapter, new) {
                    count_stop(cx, job, plan, column, stop);
                    return Some((column, stop));
                }
            }
        }
        None
    }

    /// Begins the load of a cell into new memory, or joins one that is under way, or pins the object if it has been
    /// loaded meanwhile.
    fn take_cell(
        &mut self,
        cx: &mut Context,
        id: JobId,
        job: &mut Job,
        (row, column): (u32, u32),
        adapter: AdapterId,
        new: &mut Vec<IoId>,
    ) -> Result<(), Stop> {
        let index = job.index(row, column);
        let retain = job.judged.as_ref().is_some_and(|(_, retained)| retained.contains(row, column));
        let retention = if retain { Retention::Permanent } else { Retention::Temporary };
        let Target { model, salt, chunk_hashes } = &job.target;
        let name = (model, salt, &chunk_hashes[column as usize]);
        let place = &job.shape.rows[row as usize];
        let waiter = Waiter { job: id, cell: index as u32, pins: job.pins };
        // More than once if something in the way has to be removed first.
        for _ in 0..3 {
            let refused = match cx.index_mut().reserve(name, place.shard, &place.layout, retention) {
                Ok(object) => {
                    let io = self.loads.insert(cx, object, adapter, job.key(row, column), waiter);
                    job.cells[index] = CellState::Loading(io);
                    new.push(io);
                    return Ok(());
                }
                Err(refused) => refused,
            };
            let chunk = cx.index.chunk(name.0, name.1, name.2);
            match refused {
                Refused::NoSpace => return Err(Stop::NoSpace),
                Refused::Resident => {
                    let object = job.find_readable(&cx.index, row, column).expect("it was just met");
                    cx.promote_if(object, retain);
                    pin_cell(cx, job, index, object);
                    return Ok(());
                }
                Refused::Staged => {
                    let object =
                        chunk.and_then(|c| cx.index.staged(c, place.shard)).expect("it was just met");
                    match self.loads.join(cx, object, waiter) {
                        Joined::Yes(io) => {
                            cx.promote_if(object, retain);
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
}

/// Pins planned cells of L1 that were released before.
fn pin_planned(cx: &mut Context, job: &mut Job, plan: &Plan) {
    for (row, column) in plan.l1.cells() {
        if job.state(row, column) == CellState::Absent
            && let Some(object) = job.find_readable(&cx.index, row, column)
        {
            let index = job.index(row, column);
            pin_cell(cx, job, index, object);
        }
    }
}

fn pin_cell(cx: &mut Context, job: &mut Job, index: usize, object: ObjectId) {
    cx.index_mut().pin(object, job.pins);
    job.cells[index] = CellState::L1(object);
}

fn count_stop(cx: &mut Context, job: &Job, plan: &Plan, from: u32, stop: Stop) {
    match stop {
        Stop::NoSpace => {
            let cells = plan.l2.iter().flat_map(|(_, cells)| cells.cells());
            let objects =
                cells.filter(|(r, c)| *c >= from && job.state(*r, *c) == CellState::Absent).count() as u64;
            cx.stats.requests.l2.no_room_objects += objects;
            cx.stats.model(&job.target.model).load_no_room += objects;
        }
        Stop::Contended => {
            cx.stats.requests.l2.contended_objects += 1;
            cx.stats.model(&job.target.model).load_contended += 1;
        }
    }
}

/// The cells of `planned` that are in `allowed` as well.
fn both(planned: &ShardBitmap, allowed: &ShardBitmap) -> ShardBitmap {
    let mut cells = ShardBitmap::new(allowed.rows(), allowed.columns());
    planned.cells().filter(|(r, c)| allowed.contains(*r, *c)).for_each(|(r, c)| cells.insert(r, c));
    cells
}

/// The cells outside some columns.
fn without(cells: ShardBitmap, columns: &[u32]) -> ShardBitmap {
    if columns.is_empty() {
        return cells;
    }
    let mut rest = ShardBitmap::new(cells.rows(), cells.columns());
    cells.cells().filter(|(_, c)| !columns.contains(c)).for_each(|(r, c)| rest.insert(r, c));
    rest
}
