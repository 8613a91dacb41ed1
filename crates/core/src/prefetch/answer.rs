//! How a job begins, and how it ends: with what is there.

use larder_policy::prefetch::plan::{Fetch, servable_prefix};
use larder_policy::prefix_scan::required_range;

use super::job::{CellState, Job, Owner, Phase, Shape};
use super::{LookupSink, Prefetch, PrefetchResult, Target};
use crate::context::Context;
use crate::ids::{IoId, JobId, PrefetchId, SessionId};
use crate::index::Index;
use crate::io::{Effect, Hit, Io, LookupReport};
use crate::requests::lease::{PinnedObject, ShardPins};
use crate::requests::sessions::SessionName;
use crate::timers::TimerKind;

impl Prefetch {
    /// A lookup goes on with L2.
    pub(crate) fn submit_lookup(
        &mut self,
        cx: &mut Context,
        (session, name): (SessionId, SessionName),
        target: Target,
        shape: Shape,
        readers: u32,
    ) -> JobId {
        self.submit(cx, Owner::Session { session, name }, target, shape, Fetch::Prefix, readers)
    }

    pub(super) fn submit(
        &mut self,
        cx: &mut Context,
        owner: Owner,
        target: Target,
        shape: Shape,
        fetch: Fetch,
        pins: u32,
    ) -> JobId {
        let id = JobId(cx.new_id());
        let job = Job {
            owner,
            target,
            shape,
            fetch,
            pins,
            deadline: cx.timers.arm(cx.now + cx.config.load_deadline, TimerKind::Job(id)),
            phase: Phase::Waiting,
            columns: 0,
            cells: Vec::new(),
            found: Vec::new(),
            judged: None,
        };
        cx.stats.requests.l2.jobs += 1;
        self.jobs.insert(id, job);
        self.waiting.push_back(id);
        id
    }

    /// Hands out loads, as far as the limits allow.
    pub(crate) fn issue_loads(&mut self, cx: &mut Context, sink: &mut dyn LookupSink) {
        for io in self.loads.issue(cx) {
            self.on_loaded(cx, io, false, sink);
        }
    }

    /// The result of a load is there, or will not come.
    pub(crate) fn on_loaded(&mut self, cx: &mut Context, io: IoId, ok: bool, sink: &mut dyn LookupSink) {
        let Some(ended) = self.loads.end(cx, io, ok) else { return };
        for waiter in ended.waiters {
            let job = self.jobs.get_mut(&waiter.job).expect("jobs leave their loads before they end");
            job.cells[waiter.cell as usize] = ended.admitted.map_or(CellState::Absent, CellState::Loaded);
            let Phase::Loading(left) = &mut job.phase else { unreachable!("the job is loading") };
            *left -= 1;
            if *left == 0 {
                self.finish(cx, waiter.job, sink);
            }
        }
    }

    /// The I/O of a load has ended. Its result may still follow.
    pub(crate) fn on_io_ended(&mut self, cx: &mut Context, id: IoId, io: &Io) {
        self.loads.on_io_ended(cx, id, io);
    }

    /// The deadline of a job. What is there counts, what is not is a miss.
    pub(crate) fn on_deadline(&mut self, cx: &mut Context, id: JobId, sink: &mut dyn LookupSink) {
        let job = self.jobs.get_mut(&id).expect("ids name live jobs");
        let late = job.cells.iter().filter(|c| matches!(c, CellState::Loading(_))).count() as u64;
        cx.stats.requests.l2.jobs_overdue += 1;
        cx.stats.requests.l2.late_objects += late;
        cx.stats.model(&job.target.model).load_late += late;
        if matches!(job.phase, Phase::Waiting) {
            pin_l1_prefix(cx, job);
        }
        self.finish(cx, id, sink);
    }

    /// Ends a job with what is there.
    pub(super) fn finish(&mut self, cx: &mut Context, id: JobId, sink: &mut dyn LookupSink) {
        let mut job = self.remove_job(cx, id);
        for index in (0..job.cells.len()).rev() {
            let gone = match job.cells[index] {
                CellState::Loading(_) => true,
                CellState::L1(object) | CellState::Loaded(object) => !cx.index.is_resident(object),
                CellState::Absent => false,
            };
            if gone {
                self.release_cell(cx, id, &mut job, index);
            }
        }
        match job.owner.clone() {
            Owner::Session { session, name } => {
                self.answer_lookup(cx, id, (session, name), job, sink);
            }
            Owner::Request(request) => self.answer_request(cx, id, request, job),
        }
        cx.trim();
    }

    /// Ends the lookup of a session without an answer.
    pub(crate) fn cancel(&mut self, cx: &mut Context, id: JobId) {
        let mut job = self.remove_job(cx, id);
        cx.stats.requests.l2.jobs_cancelled += 1;
        for index in (0..job.cells.len()).rev() {
            self.release_cell(cx, id, &mut job, index);
        }
        if let Owner::Session { name, .. } = &job.owner {
            let report = report(name.clone(), &job, None);
            cx.effects.push(Effect::LookupDone(report));
        }
    }

    /// Hands the pins of the hit to the session.
    fn answer_lookup(
        &mut self,
        cx: &mut Context,
        id: JobId,
        (session, name): (SessionId, SessionName),
        mut job: Job,
        sink: &mut dyn LookupSink,
    ) {
        let there = |r: u32, c: u32| job.state(r, c) != CellState::Absent;
        let in_l1 = |r: u32, c: u32| matches!(job.state(r, c), CellState::L1(_));
        let windows = job.windows();
        let chunks = servable_prefix(&windows, job.columns, there);
        let l1_chunks = servable_prefix(&windows, job.columns, in_l1).min(chunks);
        let mut hit = Hit { chunks, l1_chunks, ..Hit::default() };
        count_index_hits(cx, &job, chunks);
        let mut hits = Vec::new();
        let mut pins = Vec::with_capacity(windows.len());
        for (row, window) in windows.iter().enumerate() {
            let (needed, shard) = (required_range(chunks, *window), job.shape.rows[row].shard);
            let first = needed.start;
            let mut objects = Vec::with_capacity(needed.len());
            for column in needed {
                let index = job.index(row as u32, column);
                let cell = std::mem::replace(&mut job.cells[index], CellState::Absent);
                let object = cell.object().expect("the hit was just found");
                if matches!(cell, CellState::L1(_)) {
                    hit.l1_objects += 1;
                    hits.push((shard, column, object));
                } else {
                    hit.l2_objects += 1;
                }
                objects.push(PinnedObject::new(object, job.pins));
            }
            pins.push(ShardPins::new(shard, first, objects));
        }
        for index in (0..job.cells.len()).rev() {
            self.release_cell(cx, id, &mut job, index);
        }
        self.retain_hits(cx, &job.target, hits);
        cx.count_hit(job.chunks(), &hit);
        let report = report(name, &job, Some(hit));
        sink.answer(cx, session, job.target, pins, chunks);
        cx.effects.push(Effect::LookupDone(report));
    }

    /// Retains everything that was loaded, without pins.
    fn answer_request(&mut self, cx: &mut Context, id: JobId, request: PrefetchId, mut job: Job) {
        let rows = job.rows();
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
                    cx.promote_if(object, true);
                }
                _ => result.l2_objects += 1,
            }
        }
        for index in (0..job.cells.len()).rev() {
            self.release_cell(cx, id, &mut job, index);
        }
        let Target { model, salt, chunk_hashes } = &job.target;
        cx.index_mut().touch_prefix(model, salt, &chunk_hashes[..job.columns as usize]);
        self.requests.finish(cx, request, result);
    }

    /// Removes a job from all tables. The caller releases what it pins.
    fn remove_job(&mut self, cx: &mut Context, id: JobId) -> Job {
        let job = self.jobs.remove(&id).expect("ids name live jobs");
        cx.timers.disarm(&job.deadline);
        match &job.phase {
            Phase::Waiting => self.waiting.retain(|w| *w != id),
            Phase::Probing(batch) => batch.open.iter().for_each(|probe| {
                self.probes.remove(probe);
            }),
            Phase::Loading(_) => {}
        }
        job
    }
}

impl Job {
    /// The prefix that L1 alone can serve, in chunks.
    pub(super) fn l1_hit(&self, index: &Index) -> u32 {
        let readable = |row, column| self.find_readable(index, row, column).is_some();
        servable_prefix(&self.windows(), self.chunks(), readable)
    }
}

/// Pins what L1 alone can serve, for a job that has not begun.
fn pin_l1_prefix(cx: &mut Context, job: &mut Job) {
    let columns = job.l1_hit(&cx.index);
    for column in 0..columns {
        for row in 0..job.rows() {
            let found = job.find_readable(&cx.index, row, column);
            job.cells.push(found.map_or(CellState::Absent, CellState::L1));
            found.into_iter().for_each(|object| cx.index_mut().pin(object, job.pins));
        }
    }
    job.columns = columns;
}

/// Counts a hit of each chunk that was in L1 before. Loaded chunks are new to L1.
fn count_index_hits(cx: &mut Context, job: &Job, chunks: u32) {
    for column in 0..chunks {
        let in_l1 = (0..job.rows()).find_map(|row| match job.state(row, column) {
            CellState::L1(object) => Some(object),
            _ => None,
        });
        if let Some(object) = in_l1 {
            let chunk = cx.index.chunk_of(object);
            cx.index_mut().on_hit(chunk);
        }
    }
}

fn report(name: SessionName, job: &Job, hit: Option<Hit>) -> LookupReport {
    LookupReport {
        connection: name.connection,
        request_id: name.request_id,
        model: job.target.model.clone(),
        salt: job.target.salt.clone(),
        requested_chunks: job.chunks(),
        hit,
    }
}
