//! Every combination of sizes and policies, on all traces, in parallel.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use larder_policy::eviction::EvictionKind;
use larder_policy::{OffloadKind, PrefetchKind};

use super::belady::{Bound, bound};
use super::model::{Counts, L2Size, Setup, run};
use super::size::{Size, SizeError};
use super::trace::Trace;

/// Sizes and policies to combine, and how to run them.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Sizes of L1.
    pub l1: Vec<Size>,
    /// Sizes of L2; zero is no L2, `None` is an unbounded one.
    pub l2: Vec<Option<Size>>,
    /// Prefetch policies.
    pub prefetch: Vec<PrefetchKind>,
    /// Eviction policies.
    pub eviction: Vec<EvictionKind>,
    /// Store policies.
    pub store: Vec<OffloadKind>,
    /// Requests that are open at the same time.
    pub concurrency: usize,
    /// Fraction of the requests, from the start of the trace, that is not counted.
    pub warmup: f64,
    /// Combinations that run at the same time.
    pub threads: usize,
}

/// One combination of sizes and policies on one trace.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The requests.
    pub trace: &'a Trace,
    /// Size of L1 as the user gave it.
    pub l1: Size,
    /// Sizes and policies.
    pub setup: Setup,
}

/// Result of one combination.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The combination.
    pub job: Job<'a>,
    /// Counts after the warm-up.
    pub counts: Counts,
    /// Bounds that no policy can beat at these sizes.
    pub bound: Bound,
}

/// Inputs of a bound that differ between jobs of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BoundOf {
    /// Address of the trace, which identifies it.
    trace: usize,
    l1_chunks: u64,
    l2: L2Size,
}

impl BoundOf {
    fn new(job: &Job<'_>) -> Self {
        Self { trace: std::ptr::from_ref(job.trace).addr(), l1_chunks: job.setup.l1_chunks, l2: job.setup.l2 }
    }
}

impl Sweep {
    /// All combinations on a trace, in the order of the lists, L1 varying slowest.
    ///
    /// # Errors
    /// [`SizeError`] if a size cannot be converted to chunks of this trace.
    pub fn jobs<'a>(&self, trace: &'a Trace) -> Result<Vec<Job<'a>>, SizeError> {
        let mut jobs = Vec::new();
        for l1 in &self.l1 {
            let l1_chunks = l1.chunks(trace)?;
            for l2 in &self.l2 {
                let l2 = match l2 {
                    None => L2Size::Unbounded,
                    Some(size) if size.is_zero() => L2Size::None,
                    Some(size) => L2Size::Chunks(size.chunks(trace)?),
                };
                for (prefetch, eviction, store) in self.policies() {
                    let Self { concurrency, warmup, .. } = *self;
                    let setup = Setup { l1_chunks, l2, prefetch, store, eviction, concurrency, warmup };
                    jobs.push(Job { trace, l1: *l1, setup });
                }
            }
        }
        Ok(jobs)
    }

    fn policies(&self) -> impl Iterator<Item = (PrefetchKind, EvictionKind, OffloadKind)> + '_ {
        self.prefetch.iter().flat_map(move |prefetch| {
            self.eviction
                .iter()
                .flat_map(move |eviction| self.store.iter().map(move |store| (*prefetch, *eviction, *store)))
        })
    }

    /// Runs jobs on `threads` threads and adds each simulated request to `done`.
    pub fn run<'a>(&self, jobs: &[Job<'a>], done: &AtomicU64) -> Vec<Outcome<'a>> {
        let outcomes: Vec<Mutex<Option<Outcome<'a>>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
        // A bound does not depend on policies, so jobs with equal sizes use one.
        let mut bounds: Vec<(BoundOf, OnceLock<Bound>)> = Vec::new();
        for job in jobs {
            if bounds.iter().all(|(of, _)| *of != BoundOf::new(job)) {
                bounds.push((BoundOf::new(job), OnceLock::new()));
            }
        }
        let bound_for = |job: &Job<'_>| {
            let known = bounds.iter().find(|(of, _)| *of == BoundOf::new(job));
            let warmup = job.setup.warmup_requests(job.trace);
            let compute = || bound(job.trace, job.setup.l1_chunks, job.setup.l2, warmup);
            known.map_or_else(compute, |(_, bound)| *bound.get_or_init(compute))
        };
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((job, outcome)) = {
                let place = next.fetch_add(1, Ordering::Relaxed);
                jobs.get(place).zip(outcomes.get(place))
            } {
                let counts = run(job.trace, &job.setup, &mut || {
                    done.fetch_add(1, Ordering::Relaxed);
                });
                let bound = bound_for(job);
                *outcome.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Outcome { job: *job, counts, bound });
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.threads.clamp(1, jobs.len().max(1)) {
                scope.spawn(work);
            }
            work();
        });
        let outcome = |slot: Mutex<_>| slot.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.into_iter().filter_map(outcome).collect()
    }
}

/// Total requests of all jobs, the final value of the `done` counter.
pub fn requests(jobs: &[Job<'_>]) -> u64 {
    jobs.iter().map(|job| job.trace.requests().len() as u64).sum()
}
