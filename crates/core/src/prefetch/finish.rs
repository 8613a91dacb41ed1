//! How a job begins and how it ends: with what is there.

use std::sync::Arc;

use smallvec::SmallVec;

use super::job::{CellState, Job, JobRow, Owner, Phase};
use super::{Hit, PrefetchResult, Target};
use crate::core::{Core, Deadline};
use crate::index::ObjectId;
use crate::io::Effect;
use crate::requests::lease::{Grant, Row};
use crate::requests::sessions::LookupSpec;
use crate::requests::workers::Model;
use larder_policy::prefetch::plan::{Fetch, servable_prefix};
use larder_policy::prefix_scan::required_range;
use larder_types::time::Time;

/// How a lookup that had been answered with "pending" ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupReport {
    /// The request.
    pub request_id: Arc<str>,
    /// Its model.
    pub model: Arc<str>,
    /// Its isolation domain.
    pub salt: Arc<str>,
    /// Chunks asked for.
    pub requested_chunks: u32,
    /// What it came to; `None` if it was cancelled.
    pub hit: Option<Hit>,
}

/// What the rows of a job will be, and the sizes that its workers can read.
pub(crate) type Shape = (Vec<JobRow>, SmallVec<[u64; 2]>);

/// The grid of a lookup.
pub(crate) fn shape(model: &Model, world_size: u32, worker_id: Option<u32>) -> Shape {
    let cells = model.cells(world_size, worker_id).into_iter();
    let rows = cells.filter_map(|(cell, window)| {
        Some(JobRow { cell, window, layout: model.group_layout(cell.group)?.clone() })
    });
    (rows.collect(), model.layouts().map(larder_types::layout::Layout::bytes).collect())
}

impl Core {
    /// A lookup goes on with L2.
    pub(crate) fn submit_lookup(
        &mut self,
        now: Time,
        session: u64,
        spec: &LookupSpec<'_>,
        shape: Shape,
    ) -> u64 {
        let target = Target {
            model: spec.model.clone(),
            salt: spec.salt.clone(),
            chunk_hashes: spec.chunk_hashes.clone(),
        };
        self.submit_job(now, Owner::Session(session), target, shape, Fetch::Prefix, spec.readers)
    }

    pub(super) fn submit_job(
        &mut self,
        now: Time,
        owner: Owner,
        target: Target,
        (rows, sizes): Shape,
        fetch: Fetch,
        shares: u32,
    ) -> u64 {
        let id = self.new_id();
        let deadline = now + self.config.load_deadline;
        self.deadlines.insert((deadline, Deadline::Job(id)));
        let job = Job {
            owner,
            target,
            rows,
            sizes,
            fetch,
            shares,
            deadline,
            phase: Phase::Waiting,
            columns: 0,
            cells: Vec::new(),
            found: Vec::new(),
            judged: None,
        };
        self.counters.l2.jobs += 1;
        self.prefetch.jobs.insert(id, job);
        self.prefetch.waiting.push_back(id);
        id
    }

    /// One of the cells that a job waits for is settled.
    pub(super) fn cell_settled(&mut self, id: u64) {
        let job = self.prefetch.jobs.get_mut(&id).expect("job is alive");
        let Phase::Loading(left) = &mut job.phase else { unreachable!("the job is loading") };
        *left -= 1;
        if *left == 0 {
            self.finish_job(id);
        }
    }

    /// A job's time is up. What is there counts, what is not is a miss.
    pub(crate) fn job_overdue(&mut self, id: u64) {
        self.counters.l2.jobs_overdue += 1;
        let job = &self.prefetch.jobs[&id];
        let late = job.cells.iter().filter(|c| matches!(c, CellState::Loading(_))).count();
        self.counters.l2.late_objects += late as u64;
        self.index.tally.models.of(&job.target.model).load_late += late as u64;
        if matches!(job.phase, Phase::Waiting) {
            self.hold_l1_prefix(id);
        }
        self.finish_job(id);
    }

    /// What L1 alone can serve.
    pub(super) fn l1_hit(&self, job: &Job) -> u32 {
        servable_prefix(&job.windows(), job.chunks(), |r, c| self.find_readable(job, r, c).is_some())
    }

    /// A job that has not begun takes what L1 alone can give.
    fn hold_l1_prefix(&mut self, id: u64) {
        let columns = self.l1_hit(&self.prefetch.jobs[&id]);
        let mut job = self.prefetch.jobs.remove(&id).expect("job is alive");
        for column in 0..columns {
            for row in 0..job.rows.len() as u32 {
                let found = self.find_readable(&job, row, column);
                job.cells.push(found.map_or(CellState::Absent, CellState::L1));
                found.into_iter().for_each(|object| self.index.pin(object, job.shares));
            }
        }
        job.columns = columns;
        self.prefetch.jobs.insert(id, job);
    }

    /// Ends a job with what is there.
    pub(super) fn finish_job(&mut self, id: u64) {
        let mut job = self.remove_job(id);
        for index in (0..job.cells.len()).rev() {
            let gone = match job.cells[index] {
                CellState::Loading(_) => true,
                CellState::L1(object) | CellState::Loaded(object) => !self.index.is_resident(object),
                CellState::Absent => false,
            };
            if gone {
                self.let_go_cell(id, &mut job, index);
            }
        }
        match job.owner {
            Owner::Session(session) => self.answer_session(id, session, job),
            Owner::Warm(warm) => self.answer_warm(id, warm, job),
        }
        self.trim();
    }

    /// Hands the shares of the hit to the session.
    fn answer_session(&mut self, id: u64, session: u64, mut job: Job) {
        let there = |r: u32, c: u32| job.state(r, c) != CellState::Absent;
        let in_l1 = |r: u32, c: u32| matches!(job.state(r, c), CellState::L1(_));
        let windows = job.windows();
        let chunks = servable_prefix(&windows, job.columns, there);
        let l1_chunks = servable_prefix(&windows, job.columns, in_l1).min(chunks);
        let mut report = Hit { chunks, l1_chunks, ..Hit::default() };
        self.note_found(&job, chunks);
        let mut hits = Vec::new();
        let mut rows = Vec::with_capacity(job.rows.len());
        for (row, window) in windows.iter().enumerate() {
            let (needed, cell) = (required_range(chunks, *window), job.rows[row].cell);
            let first = needed.start;
            let mut grants = Vec::with_capacity(needed.len());
            for column in needed {
                let index = job.index(row as u32, column);
                let object = match std::mem::replace(&mut job.cells[index], CellState::Absent) {
                    CellState::L1(object) => {
                        report.l1_objects += 1;
                        hits.push((cell, column, object));
                        object
                    }
                    CellState::Loaded(object) => {
                        report.l2_objects += 1;
                        object
                    }
                    CellState::Absent | CellState::Loading(_) => unreachable!("the hit was just found"),
                };
                grants.push(Grant { object, shares: job.shares });
            }
            rows.push(Row { cell, first, grants });
        }
        for index in (0..job.cells.len()).rev() {
            self.let_go_cell(id, &mut job, index);
        }
        self.keep_hits(&job.target, hits);
        self.count_hit(job.chunks(), &report);
        let (model, salt) = (job.target.model.clone(), job.target.salt.clone());
        let requested_chunks = job.chunks();
        let request_id = self.session_answered(self.now, session, job.target, rows, chunks);
        let hit = Some(report);
        self.effects.push(Effect::LookupDone(LookupReport {
            request_id,
            model,
            salt,
            requested_chunks,
            hit,
        }));
    }

    /// Tells L1 which chunks of a hit it had. What was loaded is new to it.
    fn note_found(&mut self, job: &Job, chunks: u32) {
        for column in 0..chunks {
            let l1_object = (0..job.rows.len() as u32).find_map(|row| match job.state(row, column) {
                CellState::L1(object) => Some(object),
                _ => None,
            });
            if let Some(object) = l1_object {
                self.index.found(self.index.chunk_of(object));
            }
        }
    }

    /// Lets everything stay in L1, held by nobody.
    fn answer_warm(&mut self, id: u64, warm: u64, mut job: Job) {
        let rows = job.rows.len() as u32;
        let there = |r: u32, c: u32| job.state(r, c) != CellState::Absent;
        let mut result = PrefetchResult { total_objects: rows * job.chunks(), ..PrefetchResult::default() };
        let wanted: Vec<(u32, u32)> = match job.fetch {
            Fetch::Prefix => {
                let windows = job.windows();
                result.chunks = servable_prefix(&windows, job.columns, there);
                let needed =
                    |(r, w): (usize, &_)| required_range(result.chunks, *w).map(move |c| (r as u32, c));
                windows.iter().enumerate().flat_map(needed).collect()
            }
            Fetch::Full => {
                let whole = (0..job.columns).filter(|c| (0..rows).all(|r| there(r, *c)));
                let whole: Vec<u32> = whole.collect();
                result.chunks = whole.len() as u32;
                whole.into_iter().flat_map(|c| (0..rows).map(move |r| (r, c))).collect()
            }
        };
        for (row, column) in wanted {
            match job.state(row, column) {
                CellState::L1(object) => {
                    result.l1_objects += 1;
                    self.promote_if(object, true);
                }
                _ => result.l2_objects += 1,
            }
        }
        for index in (0..job.cells.len()).rev() {
            self.let_go_cell(id, &mut job, index);
        }
        self.touch_prefix(
            &job.target.model,
            &job.target.salt,
            &job.target.chunk_hashes[..job.columns as usize],
        );
        self.warm_answered(warm, result);
    }

    /// The session no longer wants the answer.
    pub(crate) fn cancel_job(&mut self, id: u64) {
        let mut job = self.remove_job(id);
        self.counters.l2.jobs_cancelled += 1;
        for index in (0..job.cells.len()).rev() {
            self.let_go_cell(id, &mut job, index);
        }
        if let Owner::Session(session) = job.owner {
            self.effects.push(Effect::LookupDone(LookupReport {
                request_id: self.sessions[&session].request_id.clone(),
                requested_chunks: job.chunks(),
                model: job.target.model,
                salt: job.target.salt,
                hit: None,
            }));
        }
    }

    /// Takes a job out of all tables. What it holds is the caller's to let go.
    fn remove_job(&mut self, id: u64) -> Job {
        let job = self.prefetch.jobs.remove(&id).expect("ids name live jobs");
        self.deadlines.remove(&(job.deadline, Deadline::Job(id)));
        match &job.phase {
            Phase::Waiting => self.prefetch.waiting.retain(|w| *w != id),
            Phase::Looking(look) => look.open.iter().for_each(|lookup| {
                self.prefetch.lookups.remove(lookup);
            }),
            Phase::Loading(_) => {}
        }
        job
    }

    pub(crate) fn count_hit(&mut self, requested: u32, hit: &Hit) {
        self.counters.lookups += 1;
        self.counters.lookup_requested_chunks += u64::from(requested);
        self.counters.lookup_hit_chunks += u64::from(hit.chunks);
        self.counters.lookup_hit_objects += u64::from(hit.l1_objects + hit.l2_objects);
        self.counters.l2.hit_chunks += u64::from(hit.chunks - hit.l1_chunks);
        self.counters.l2.hit_objects += u64::from(hit.l2_objects);
    }

    /// Every share that some job holds. For tests.
    pub(crate) fn shares_of_jobs(&self) -> impl Iterator<Item = (ObjectId, u32)> + '_ {
        self.prefetch.jobs.values().flat_map(|job| job.held().map(|object| (object, job.shares)))
    }
}
