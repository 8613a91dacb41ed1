//! Lookups and warm-ups that L1 alone cannot answer: looking, loading, answering.

use std::collections::{BTreeMap, BTreeSet};

use larder_core::{Hit, PrefetchResult};
use larder_policy::PrefetchKind;
use larder_types::object::KvRank;

use super::{ChunkKey, Expected, Key, Model, Row, State, Uid, View};
use crate::scenario::Millis;

/// Chunks lacking something that the first questions are about.
const FIRST_WINDOW: usize = 32;

/// What a job knows of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShardKey {
    Absent,
    L1(Uid),
    /// The load that will bring it.
    Loading(u64),
    Loaded(Uid),
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Waiting,
    Looking {
        /// Adapters that have not answered.
        open: Vec<u32>,
        /// Cells asked for: row and column.
        asked: Vec<(usize, usize)>,
        /// Columns that lack something in this window.
        window: usize,
        l1_hit: u32,
    },
    Loading,
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Request(u32),
    Warm(u64),
}

/// A lookup or a warm-up on its way.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) owner: Owner,
    pub(crate) chunks: Vec<ChunkKey>,
    pub(crate) ranks: Vec<KvRank>,
    pub(crate) window: Option<u32>,
    pub(crate) bytes: u64,
    /// Sizes that can be read.
    pub(crate) sizes: Vec<u64>,
    /// Gaps do not matter.
    pub(crate) full: bool,
    pub(crate) shares: u32,
    pub(crate) deadline: Millis,
    pub(crate) phase: Phase,
    /// Column by column, as far as looked at.
    pub(crate) cells: Vec<Vec<ShardKey>>,
    /// What each adapter said it has.
    pub(crate) found: BTreeMap<u32, BTreeSet<(usize, usize)>>,
}

impl Job {
    pub(crate) fn key(&self, row: usize, column: usize) -> Key {
        Key { chunk: self.chunks[column], rank: self.ranks[row] }
    }

    pub(crate) fn holds(&self) -> impl Iterator<Item = Uid> + '_ {
        self.cells.iter().flatten().filter_map(|cell| match cell {
            ShardKey::L1(uid) | ShardKey::Loaded(uid) => Some(*uid),
            ShardKey::Absent | ShardKey::Loading(_) => None,
        })
    }

    fn is_known(&self, row: usize, column: usize) -> bool {
        self.cells[column][row] != ShardKey::Absent || self.found.values().any(|f| f.contains(&(row, column)))
    }

    /// The longest prefix of the first `columns` that every row can serve.
    pub(crate) fn longest(&self, columns: usize, present: impl Fn(usize, usize) -> bool) -> u32 {
        let rows = self.ranks.len();
        let table: Vec<bool> = (0..columns).map(|c| (0..rows).all(|r| present(r, c))).collect();
        let servable = |hit: &usize| needed(self.window, *hit as u32).all(|c| table[c as usize]);
        (0..=columns).rev().find(servable).expect("nothing is always servable") as u32
    }
}

/// What a prefix of `hit` chunks needs of a row.
pub(crate) fn needed(window: Option<u32>, hit: u32) -> std::ops::Range<u32> {
    window.map_or(0, |w| hit.saturating_sub(w))..hit
}

impl Model {
    pub(crate) fn readable(&self, job: &Job, row: usize, column: usize) -> Option<Uid> {
        let uid = self.resident(job.key(row, column))?;
        job.sizes.contains(&self.allocs[uid].bytes).then_some(uid)
    }

    /// A job is queued.
    pub(crate) fn submit(&mut self, job: Job) -> u64 {
        self.counters.jobs += 1;
        let seq = self.next_seq();
        self.jobs.insert(seq, job);
        seq
    }

    /// Jobs that wait.
    pub fn waiting_jobs(&self) -> usize {
        self.jobs.values().filter(|j| j.phase == Phase::Waiting).count()
    }

    /// All jobs.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Jobs begin, as far as the limit allows, first come, first served.
    pub(crate) fn begin_jobs(&mut self, view: &View<'_>) {
        while self.jobs.len() - self.waiting_jobs() < self.scenario.l2.jobs {
            let next = self.jobs.iter().find(|(_, j)| j.phase == Phase::Waiting).map(|(seq, _)| *seq);
            let Some(seq) = next else { break };
            self.begin_job(seq, view);
        }
    }

    pub(crate) fn begin_job(&mut self, seq: u64, view: &View<'_>) {
        let job = &self.jobs[&seq];
        let l1_hit = match job.window {
            Some(_) => job.longest(job.chunks.len(), |r, c| self.readable(job, r, c).is_some()),
            None => 0,
        };
        let window = if self.scenario.l2.adapters.is_empty() { usize::MAX } else { FIRST_WINDOW };
        let phase = Phase::Looking { open: Vec::new(), asked: Vec::new(), window, l1_hit };
        self.jobs.get_mut(&seq).expect("just seen").phase = phase;
        self.look(seq, view);
    }

    /// The next window: what L1 has is held, the rest is asked for.
    fn look(&mut self, seq: u64, view: &View<'_>) {
        let mut job = self.jobs.remove(&seq).expect("it is alive");
        let Phase::Looking { window, l1_hit, .. } = job.phase else { panic!("the job is looking") };
        let reached = l1_hit.max(job.longest(job.cells.len(), |r, c| job.is_known(r, c)));
        let (mut questions, mut lacking) = (Vec::new(), 0);
        while job.cells.len() < job.chunks.len() && lacking < window {
            let column = job.cells.len();
            let cells: Vec<ShardKey> = (0..job.ranks.len())
                .map(|row| self.readable(&job, row, column).map_or(ShardKey::Absent, ShardKey::L1))
                .collect();
            let behind = job.window.is_some_and(|w| column as u32 + w <= reached);
            let lacks = |row: &usize| cells[*row] == ShardKey::Absent && !behind;
            let before = questions.len();
            questions.extend((0..job.ranks.len()).filter(lacks).map(|row| (row, column)));
            lacking += usize::from(questions.len() > before);
            job.cells.push(cells);
            self.touch_held(&job, column);
        }
        let adapters = self.scenario.l2.adapters.len() as u32;
        if questions.is_empty() || adapters == 0 {
            self.jobs.insert(seq, job);
            return self.reserve_job(seq, view);
        }
        let keys: Vec<Key> = questions.iter().map(|(row, column)| job.key(*row, *column)).collect();
        for adapter in 0..adapters {
            self.of_adapter[adapter as usize].lookups += 1;
            self.of_adapter[adapter as usize].lookup_objects += keys.len() as u64;
            self.expected.push(Expected::Lookup { adapter, job: seq, keys: keys.clone() });
        }
        let open = (0..adapters).collect();
        job.phase = Phase::Looking { open, asked: questions, window, l1_hit };
        self.jobs.insert(seq, job);
        self.settle();
    }

    /// A question has got its name.
    pub fn bind_question(&mut self, id: u64, job: u64, adapter: u32) {
        if self.jobs.contains_key(&job) {
            self.questions.insert(id, (job, adapter));
        }
    }

    /// An adapter tells the sizes of what it has.
    pub fn l2_found(&mut self, id: u64, sizes: &[Option<u64>], view: &View<'_>) {
        let Some((seq, adapter)) = self.questions.remove(&id) else { return };
        let job = self.jobs.get_mut(&seq).expect("questions end with their job");
        let bytes = job.bytes;
        let Phase::Looking { open, asked, window, .. } = &mut job.phase else {
            panic!("a question was open")
        };
        open.retain(|a| *a != adapter);
        // Some adapters store whole blocks.
        let fits = |size: &u64| *size == bytes || *size == bytes.next_multiple_of(4096);
        let found = job.found.entry(adapter).or_default();
        for (cell, size) in asked.iter().zip(sizes) {
            if size.as_ref().is_some_and(fits) {
                found.insert(*cell);
            }
        }
        // Each cell comes from the first adapter that has it: once the first ones have all, nobody waits.
        let first_open = open.iter().min().copied();
        let has = |cell| job.found.iter().any(|(a, found)| Some(*a) < first_open && found.contains(cell));
        if !open.is_empty() && !asked.iter().all(has) {
            return;
        }
        open.clear();
        *window = window.saturating_mul(2);
        self.questions.retain(|_, (job, _)| *job != seq);
        let job = &self.jobs[&seq];
        let all = || (0..job.cells.len()).flat_map(|c| (0..job.ranks.len()).map(move |r| (r, c)));
        let gap = job.window.is_none() && all().any(|(r, c)| !job.is_known(r, c));
        if gap && !job.full {
            self.reserve_job(seq, view);
        } else {
            self.look(seq, view);
        }
    }

    /// Time is up: what is there counts.
    pub(crate) fn job_overdue(&mut self, seq: u64) {
        self.counters.jobs_overdue += 1;
        let job = &self.jobs[&seq];
        let late = job.cells.iter().flatten().filter(|c| matches!(c, ShardKey::Loading(_))).count();
        self.counters.late_objects += late as u64;
        if job.phase == Phase::Waiting {
            let columns = job.longest(job.chunks.len(), |r, c| self.readable(job, r, c).is_some());
            let cells = |column: usize| {
                let cell = |row| self.readable(job, row, column).map_or(ShardKey::Absent, ShardKey::L1);
                (0..job.ranks.len()).map(cell).collect::<Vec<ShardKey>>()
            };
            let cells: Vec<Vec<ShardKey>> = (0..columns as usize).map(cells).collect();
            self.jobs.get_mut(&seq).expect("just seen").cells = cells;
        }
        self.finish_job(seq);
    }

    /// Releases what a cell holds, or no longer waits for it.
    pub(crate) fn let_go_cell(&mut self, seq: u64, job: &mut Job, row: usize, column: usize) {
        self.touch_held(job, column);
        if let ShardKey::Loading(load) = std::mem::replace(&mut job.cells[column][row], ShardKey::Absent) {
            self.leave_load(load, seq);
        }
    }

    /// What a job holds is used when it lets go.
    pub(crate) fn touch_held(&mut self, job: &Job, column: usize) {
        if job.cells[column].iter().any(|c| matches!(c, ShardKey::L1(_) | ShardKey::Loaded(_))) {
            self.touch(&job.chunks[column..=column]);
        }
    }

    /// A job is answered with what is there.
    pub(crate) fn finish_job(&mut self, seq: u64) {
        let mut job = self.remove_job(seq);
        for column in 0..job.cells.len() {
            for row in 0..job.ranks.len() {
                let gone = match job.cells[column][row] {
                    ShardKey::Loading(_) => true,
                    ShardKey::L1(uid) | ShardKey::Loaded(uid) => self.allocs[uid].state != State::Resident,
                    ShardKey::Absent => false,
                };
                if gone {
                    self.let_go_cell(seq, &mut job, row, column);
                }
            }
        }
        match job.owner {
            Owner::Request(request) => self.answer_request(request, &job),
            Owner::Warm(id) => self.answer_warm(id, &job),
        }
        self.answered += 1;
        self.settle();
    }

    fn answer_request(&mut self, request: u32, job: &Job) {
        let columns = job.cells.len();
        let hit = job.longest(columns, |r, c| job.cells[c][r] != ShardKey::Absent);
        let in_l1 = |r: usize, c: usize| matches!(job.cells[c][r], ShardKey::L1(_));
        let l1_chunks = job.longest(columns, in_l1).min(hit);
        let mut report = Hit { chunks: hit, l1_chunks, ..Hit::default() };
        let mut rows = Vec::new();
        for (row, rank) in job.ranks.iter().enumerate() {
            let range = needed(job.window, hit);
            let mut grants = Vec::new();
            for column in range.clone() {
                match job.cells[column as usize][row] {
                    ShardKey::L1(uid) => {
                        report.l1_objects += 1;
                        self.keep_hit(uid);
                        grants.push((uid, job.shares));
                    }
                    ShardKey::Loaded(uid) => {
                        report.l2_objects += 1;
                        grants.push((uid, job.shares));
                    }
                    ShardKey::Absent | ShardKey::Loading(_) => panic!("part of the hit is missing"),
                }
            }
            rows.push(Row { rank: *rank, first: range.start, grants });
        }
        (0..columns).for_each(|column| self.touch_held(job, column));
        self.counters.hit_chunks += u64::from(hit - l1_chunks);
        self.counters.hit_objects += u64::from(report.l2_objects);
        let chunk = job.chunks.first().copied();
        let done = Expected::LookupDone { request, chunk, chunks: job.chunks.len(), hit: Some(report) };
        self.expected.push(done);
        let deadline = self.now + self.scenario.read_ttl;
        let session = self.sessions.iter_mut().find(|s| s.request == request).expect("jobs end with theirs");
        session.job = None;
        session.result = Some(hit);
        if hit > 0 {
            session.lookup = Some(super::Lookup { chunks: job.chunks.clone(), hit, rows, deadline });
        }
    }

    fn answer_warm(&mut self, id: u64, job: &Job) {
        let (rows, columns) = (job.ranks.len(), job.cells.len());
        let there = |r: usize, c: usize| job.cells[c][r] != ShardKey::Absent;
        let total_objects = (rows * job.chunks.len()) as u32;
        let mut result = PrefetchResult { total_objects, ..PrefetchResult::default() };
        let wanted: Vec<usize> = if job.full {
            (0..columns).filter(|c| (0..rows).all(|r| there(r, *c))).collect()
        } else {
            needed(job.window, job.longest(columns, there)).map(|c| c as usize).collect()
        };
        result.chunks = if job.full { wanted.len() as u32 } else { job.longest(columns, there) };
        for column in wanted {
            for row in 0..rows {
                if let ShardKey::L1(uid) = job.cells[column][row] {
                    result.l1_objects += 1;
                    self.promote(uid);
                } else {
                    result.l2_objects += 1;
                }
            }
        }
        self.touch(&job.chunks[..columns]);
        self.warm_done(id, result);
    }

    /// The result of a warm-up, until it is forgotten.
    pub(crate) fn warm_done(&mut self, id: u64, result: PrefetchResult) {
        self.warms.insert(id, Some((result, self.now + self.scenario.session_ttl)));
        self.expected.push(Expected::PrefetchDone { id });
    }

    /// The request no longer wants its answer.
    pub(crate) fn cancel_job(&mut self, seq: u64) {
        let mut job = self.remove_job(seq);
        self.counters.jobs_cancelled += 1;
        for column in 0..job.cells.len() {
            for row in 0..job.ranks.len() {
                self.let_go_cell(seq, &mut job, row, column);
            }
        }
        if let Owner::Request(request) = job.owner {
            let chunk = job.chunks.first().copied();
            self.expected.push(Expected::LookupDone { request, chunk, chunks: job.chunks.len(), hit: None });
        }
    }

    fn remove_job(&mut self, seq: u64) -> Job {
        self.questions.retain(|_, (job, _)| *job != seq);
        self.jobs.remove(&seq).expect("it is alive")
    }

    /// A temporary object that a policy keeps when it is hit.
    pub(crate) fn keep_hit(&mut self, uid: Uid) {
        if self.allocs[uid].origin.is_some() && self.retains(self.allocs[uid].key) {
            self.promote(uid);
        }
    }

    /// Whether the policy keeps an object that is loaded.
    pub(crate) fn retains(&self, key: Key) -> bool {
        match self.prefetch {
            PrefetchKind::Default => false,
            PrefetchKind::Retain => true,
            PrefetchKind::Adaptive => self.kept.as_ref().is_none_or(|kept| kept.contains(&key.chunk)),
        }
    }

    /// Somebody wants the object to stay. Says whether that is news.
    pub(crate) fn promote(&mut self, uid: Uid) -> bool {
        let news = std::mem::take(&mut self.allocs[uid].temporary);
        self.counters.promoted_objects += u64::from(news);
        news
    }
}
