//! Lookups that L1 alone cannot answer: finding the rest in L2 and loading it.
//!
//! ```text
//! lookup -> waiting -> looking -> reserving -> loading -> answered
//!           (holds     (window    (at once)    (each      (shares go to
//!           nothing)   by window)               object)    the session)
//! ```
//!
//! 1. **Waiting.** At most [`in_flight_max`](crate::CoreConfig::prefetch_jobs_max) jobs are past this, first come,
//!    first served. What L1 can answer alone never comes here.
//! 2. **Looking** (`look`). From the first chunk on, what L1 has is held; what it lacks and what could
//!    still make the hit longer is asked of all adapters at once, 32 chunks first, then twice as many
//!    each time, until a gap ends every longer prefix.
//! 3. **Reserving** (`reserve`). The [policy](larder_policy::prefetch) plans; what is not planned is let go;
//!    the policy says what shall stay; memory is reserved for whole leading chunks, as many as fit.
//!    What another job is loading is shared with it (`in_flight`).
//! 4. **Loading.** Each object is admitted, with the shares of all who wait for it, when it is there.
//! 5. **Answered** (`finish`): when the last load has ended, or at the deadline. What is there by then
//!    counts. Exactly one answer, whatever happens.
//!
//! A job ends early, without an answer that anybody waits for, when its session ends or looks up
//! again. Its loads go on if others wait for them or they are to stay; the memory of the others is
//! free when their I/O is over.

pub(crate) mod finish;
pub(crate) mod job;
pub(crate) mod loads;
pub(crate) mod probe;
pub(crate) mod requests;
pub(crate) mod reserve;
pub(crate) mod retention;

use larder_types::AdapterId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;
use larder_types::object::{ChunkHash, ObjectKey};

use self::job::{CellState, Job, Owner, Phase};
use self::loads::InFlight;
use self::requests::Warm;
use crate::core::Core;
use crate::index::ShardKey;
use crate::io::LookupId;
use crate::requests::sessions::Session;
use larder_policy::PrefetchPolicy;

pub use self::finish::LookupReport;
pub use self::requests::{
    PREFETCH_REQUESTS_MAX, PrefetchRefused, PrefetchResult, PrefetchSpec, PrefetchStatus,
};

/// What a lookup came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// Leading chunks that are ready.
    pub chunks: u32,
    /// How many of them L1 could have served alone; the others are L2's.
    pub l1_chunks: u32,
    /// Objects held for them that were in L1.
    pub l1_objects: u32,
    /// Objects held for them that were loaded.
    pub l2_objects: u32,
}

/// What there is to tell about a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupStatus {
    /// It is still going on.
    Pending,
    /// Its hit in chunks. Told once.
    Ready(u32),
    /// There is none, or its hit has been told, or it was cancelled.
    Unknown,
}

/// Jobs by name, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefetchJobs {
    /// The next job's id will be at least this.
    pub next_id: u64,
    /// Jobs that have not been answered, the oldest first.
    pub ids: Vec<u64>,
    /// The requests that wait for them; warm-ups have none.
    pub requests: Vec<Arc<str>>,
}

/// All jobs and what they share.
#[derive(Debug)]
pub(crate) struct Prefetch {
    pub(crate) policy: Box<dyn PrefetchPolicy>,
    pub(crate) jobs: BTreeMap<u64, Job>,
    /// Jobs that have not begun, oldest first.
    pub(crate) waiting: VecDeque<u64>,
    /// Who asked, and whom.
    pub(crate) lookups: HashMap<LookupId, (u64, AdapterId)>,
    pub(crate) in_flight: InFlight,
    pub(crate) warms: BTreeMap<u64, Warm>,
}

impl Core {
    /// The first `max` jobs that have not been answered.
    pub fn prefetch_jobs(&self, max: usize) -> PrefetchJobs {
        let jobs = || self.prefetch.jobs.iter().take(max);
        let request = |job: &Job| match job.owner {
            Owner::Session(session) => Some(self.sessions.get(&session)?.request_id.clone()),
            Owner::Warm(_) => None,
        };
        PrefetchJobs {
            next_id: self.last_id() + 1,
            ids: jobs().map(|(id, _)| *id).collect(),
            requests: jobs().filter_map(|(_, job)| request(job)).collect(),
        }
    }
}

impl Prefetch {
    pub(crate) fn new(policy: Box<dyn PrefetchPolicy>, adapters: usize) -> Self {
        Self {
            policy,
            jobs: BTreeMap::new(),
            waiting: VecDeque::new(),
            lookups: HashMap::new(),
            in_flight: InFlight::new(adapters),
            warms: BTreeMap::new(),
        }
    }

    /// Jobs that are past waiting.
    pub(crate) fn running(&self) -> usize {
        self.jobs.len() - self.waiting.len()
    }

    /// Deadlines that all of this has.
    pub(crate) fn timers(&self) -> usize {
        self.jobs.len() + self.warms.values().filter(|w| w.is_done()).count() + self.in_flight.graces()
    }

    /// Recomputes what the books say. For tests.
    pub(crate) fn check(&self, sessions: &BTreeMap<u64, Session>) {
        for id in &self.waiting {
            assert!(matches!(self.jobs[id].phase, Phase::Waiting), "job {id} is queued and has begun");
        }
        let mut open = 0;
        for (id, job) in &self.jobs {
            match job.owner {
                Owner::Session(session) => assert_eq!(sessions[&session].job, Some(*id), "job of a session"),
                Owner::Warm(warm) => assert!(!self.warms[&warm].is_done(), "warm-up {warm} ended early"),
            }
            let loading = job.cells.iter().filter(|c| matches!(c, CellState::Loading(_))).count();
            match &job.phase {
                Phase::Waiting => assert!(job.cells.is_empty(), "a waiting job holds something"),
                Phase::Looking(look) => {
                    assert_eq!(loading, 0, "loads before the plan");
                    assert!(!look.open.is_empty(), "job {id} waits for nothing");
                    assert!(look.open.iter().all(|l| self.lookups[l].0 == *id), "whose question");
                    open += look.open.len();
                }
                Phase::Loading(left) => {
                    assert_eq!(*left as usize, loading, "loads of job {id}");
                    assert!(loading > 0, "job {id} waits for nothing");
                }
            }
            for (index, cell) in job.cells.iter().enumerate() {
                if let CellState::Loading(io) = cell {
                    assert!(self.in_flight.is_waited_for(*io, *id, index as u32), "{io:?} is waited for");
                }
            }
        }
        assert_eq!(open, self.lookups.len(), "questions");
        let jobs = sessions.values().filter_map(|s| s.job);
        jobs.for_each(|job| {
            assert!(self.jobs.contains_key(&job), "session waits for job {job}, which is gone")
        });
        let waiting =
            self.jobs.values().flat_map(|j| &j.cells).filter(|c| matches!(c, CellState::Loading(_)));
        assert_eq!(waiting.count(), self.in_flight.waiters(), "who waits for loads");
    }
}

/// What to look up: a prompt as some model's workers see it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) model: Arc<str>,
    pub(crate) salt: Arc<str>,
    pub(crate) chunk_hashes: Arc<[ChunkHash]>,
}

impl Target {
    pub(crate) fn key(&self, cell: ShardKey, column: u32) -> ObjectKey {
        ObjectKey {
            chunk_hash: self.chunk_hashes[column as usize],
            model_name: self.model.clone(),
            kv_rank: cell.rank,
            object_group: cell.group,
            cache_salt: self.salt.clone(),
        }
    }
}
