//! Lookups that need L2, and prefetch requests: finding objects in L2 and loading them into L1.
//!
//! ```text
//! lookup -> waiting -> probing -> reserving -> loading -> answered
//!           (holds     (batch     (at once)    (each      (pins go to
//!           nothing)   by batch)               object)    the session)
//! ```
//!
//! 1. **Waiting.** At most [`prefetch_jobs_max`](crate::CoreConfig::prefetch_jobs_max) jobs are past this phase, first
//!    come, first served. A lookup that L1 can answer alone never becomes a job.
//! 2. **Probing** (`probe`). From the first chunk on, objects in L1 are pinned; all adapters are asked at once for
//!    missing ones that could make the hit longer, 32 chunks first, then twice as many each time, until a gap ends
//!    every longer prefix.
//! 3. **Reserving** (`reserve`). The [policy](larder_policy::prefetch) plans, and pins that are not in the plan are
//!    released; the policy decides what is retained; memory is reserved for whole leading chunks, for as many as
//!    fit. A load that is under way for another job is shared (`loads`).
//! 4. **Loading.** Each object is admitted when it is there, pinned for every job that waits for it.
//! 5. **Answered** (`answer`), when the last load has ended or at the deadline, with what is there by then. Each job
//!    gets one answer.

mod answer;
mod job;
mod loads;
mod probe;
mod requests;
mod reserve;
mod retain;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;
use larder_policy::PrefetchPolicy;
use larder_types::AdapterId;
use larder_types::object::{ChunkHash, ObjectKey};

use self::job::{CellState, Job, Owner, Phase};
use self::loads::Loads;
use self::requests::Requests;
use crate::context::Context;
use crate::ids::{JobId, LookupId, SessionId};
use crate::index::{ObjectId, ShardKey};
use crate::requests::lease::ShardPins;

pub(crate) use self::job::Shape;
pub use self::requests::{
    PREFETCH_REQUESTS_MAX, PrefetchRefused, PrefetchResult, PrefetchSpec, PrefetchStatus,
};

/// The state of a request's lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupStatus {
    /// L2 is being asked.
    Pending,
    /// The hit in chunks. It is reported once.
    Ready(u32),
    /// There is no lookup, its hit was reported, or it was cancelled.
    Unknown,
}

/// Pending jobs, for reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefetchJobs {
    /// The id of the next job is at least this.
    pub next_id: u64,
    /// Jobs that have not been answered, the oldest first.
    pub ids: Vec<u64>,
    /// The requests that wait for them; prefetch requests have none.
    pub requests: Vec<Arc<str>>,
}

/// A prompt as the workers of a model see it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) model: Arc<str>,
    pub(crate) salt: Arc<str>,
    pub(crate) chunk_hashes: Arc<[ChunkHash]>,
}

impl Target {
    pub(crate) fn key(&self, shard: ShardKey, column: u32) -> ObjectKey {
        ObjectKey {
            chunk_hash: self.chunk_hashes[column as usize],
            model_name: self.model.clone(),
            kv_rank: shard.rank,
            object_group: shard.group,
            cache_salt: self.salt.clone(),
            layout: shard.layout,
        }
    }
}

/// Takes the answers of lookups.
pub(crate) trait LookupSink {
    /// The lookup of a session has ended: the session owns the pins of its hit, of `hit` chunks.
    fn answer(
        &mut self,
        cx: &mut Context,
        session: SessionId,
        target: Target,
        pins: Vec<ShardPins>,
        hit: u32,
    );
}

/// All jobs, with their probes and loads.
#[derive(Debug)]
pub(crate) struct Prefetch {
    policy: Box<dyn PrefetchPolicy>,
    jobs: BTreeMap<JobId, Job>,
    /// Jobs that have not begun, oldest first.
    waiting: VecDeque<JobId>,
    /// Probes without an answer: the job that asks, and the adapter.
    probes: HashMap<LookupId, (JobId, AdapterId)>,
    loads: Loads,
    requests: Requests,
}

impl Prefetch {
    pub(crate) fn new(policy: Box<dyn PrefetchPolicy>, adapters: usize) -> Self {
        Self {
            policy,
            jobs: BTreeMap::new(),
            waiting: VecDeque::new(),
            probes: HashMap::new(),
            loads: Loads::new(adapters),
            requests: Requests::default(),
        }
    }

    /// Jobs that have their plans keep to them.
    pub(crate) fn set_policy(&mut self, policy: Box<dyn PrefetchPolicy>) {
        self.policy = policy;
    }

    /// Jobs that are past waiting.
    pub(crate) fn running(&self) -> usize {
        self.jobs.len() - self.waiting.len()
    }

    /// Jobs that wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes and objects that an adapter loads.
    pub(crate) fn loading(&self, adapter: AdapterId) -> (u64, u64) {
        self.loads.under_io(adapter)
    }

    /// The first `max` jobs that have not been answered.
    pub(crate) fn jobs(&self, cx: &Context, max: usize) -> PrefetchJobs {
        let jobs = || self.jobs.iter().take(max);
        let request = |job: &Job| match &job.owner {
            Owner::Session { name, .. } => Some(name.request_id.clone()),
            Owner::Request(_) => None,
        };
        PrefetchJobs {
            next_id: cx.last_id() + 1,
            ids: jobs().map(|(id, _)| id.0).collect(),
            requests: jobs().filter_map(|(_, job)| request(job)).collect(),
        }
    }

    /// A worker wants to store an object that is being loaded; see [`Loads::yield_to_store`].
    pub(crate) fn yield_to_store(&mut self, cx: &mut Context, object: ObjectId) {
        self.loads.yield_to_store(cx, object);
    }

    /// All pins of jobs and loads. For tests.
    pub(crate) fn pins(&self) -> impl Iterator<Item = (ObjectId, u32)> + '_ {
        let jobs = self.jobs.values().flat_map(|job| job.pinned().map(|object| (object, job.pins)));
        jobs.chain(self.loads.reserved().map(|object| (object, 1)))
    }

    /// Armed timers. For tests.
    pub(crate) fn timers(&self) -> usize {
        self.jobs.len() + self.requests.timers() + self.loads.timers()
    }

    /// `pending`: the jobs that sessions wait for. For tests.
    pub(crate) fn check(&self, cx: &Context, pending: impl Iterator<Item = (SessionId, JobId)>) {
        self.loads.check(|adapter| cx.ios.usage(adapter, true));
        for id in &self.waiting {
            assert!(matches!(self.jobs[id].phase, Phase::Waiting), "{id:?} is queued and has begun");
        }
        let pending: HashMap<SessionId, JobId> = pending.collect();
        for (session, job) in &pending {
            assert!(self.jobs.contains_key(job), "{session:?} waits for {job:?}, which has ended");
        }
        let mut open = 0;
        for (id, job) in &self.jobs {
            match &job.owner {
                Owner::Session { session, .. } => {
                    assert_eq!(pending.get(session), Some(id), "job of a session")
                }
                Owner::Request(request) => {
                    assert!(self.requests.is_pending(*request), "{request:?} ended early")
                }
            }
            let loading = job.cells.iter().filter(|c| matches!(c, CellState::Loading(_))).count();
            match &job.phase {
                Phase::Waiting => assert!(job.cells.is_empty(), "a waiting job holds something"),
                Phase::Probing(batch) => {
                    assert_eq!(loading, 0, "loads before the plan");
                    assert!(!batch.open.is_empty(), "{id:?} waits for nothing");
                    assert!(batch.open.iter().all(|probe| self.probes[probe].0 == *id), "probes of {id:?}");
                    open += batch.open.len();
                }
                Phase::Loading(left) => {
                    assert_eq!(*left as usize, loading, "loads of {id:?}");
                    assert!(loading > 0, "{id:?} waits for nothing");
                }
            }
            for (cell, state) in job.cells.iter().enumerate() {
                if let CellState::Loading(io) = state {
                    assert!(self.loads.is_waited_for(*io, *id, cell as u32), "{io:?} is waited for");
                }
            }
        }
        assert_eq!(open, self.probes.len(), "open probes");
        let waiting =
            self.jobs.values().flat_map(|j| &j.cells).filter(|c| matches!(c, CellState::Loading(_)));
        assert_eq!(waiting.count(), self.loads.waiters(), "cells that wait for loads");
    }
}
