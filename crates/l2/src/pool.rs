//! A thread pool for blocking calls, separate from the runtime's own.
//!
//! Jobs wait in one queue per kind. Metadata jobs go first, then loads, because requests wait for them, then
//! stores. Every [`STORE_EVERY`]th job is a store if one waits, so that stores make progress; and stores never
//! occupy the last thread, so that a load seldom waits for a write.
//!
//! The lock is held only to add or take a job. A job that panics fails alone.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::adapter::Results;
use crate::error::{ErrorKind, L2Error};
use crate::in_flight::InFlight;

/// Maximum number of waiting jobs. More fail with [`ErrorKind::Busy`].
const WAITING_MAX: usize = 1 << 16;

/// Stack of a thread: jobs only do a few system calls.
const STACK_BYTES: usize = 512 << 10;

/// One job in this many is a store, if one waits.
const STORE_EVERY: u64 = 8;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobKind {
    /// Lookups, deletes and other short calls.
    Metadata,
    /// Reads of objects.
    Load,
    /// Writes of objects.
    Store,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queues {
    metadata: VecDeque<Job>,
    load: VecDeque<Job>,
    store: VecDeque<Job>,
    storing: usize,
    taken: u64,
    stopped: bool,
}

struct Shared {
    queues: Mutex<Queues>,
    wake: Condvar,
    storing_max: usize,
}

/// The pool. When it is dropped without [`Pool::close`], its threads finish the waiting jobs and end.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    in_flight: InFlight,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts `workers` threads called `name`.
    pub(crate) fn new(name: &str, workers: usize) -> Result<Self, L2Error> {
        let workers = workers.max(1);
        let shared = Arc::new(Shared {
            queues: Mutex::default(),
            wake: Condvar::new(),
            storing_max: (workers - 1).max(1),
        });
        let pool = Self { shared: Arc::clone(&shared), in_flight: InFlight::new() };
        for _ in 0..workers {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
            builder.spawn(move || work(&shared)).map_err(|e| L2Error::system("start a worker", e))?;
        }
        Ok(pool)
    }

    /// Runs `job` on one of the threads, whether or not the receiver is kept.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        kind: JobKind,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, L2Error> {
        let running = self.in_flight.begin()?;
        let (result, receiver) = oneshot::channel();
        let job: Job = Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(job));
            drop(running);
            // The receiver may be dropped; and a panic closes the channel without a value.
            if let Ok(value) = outcome {
                let _ = result.send(value);
            }
        });
        let mut queues = self.shared.lock();
        if queues.metadata.len() + queues.load.len() + queues.store.len() >= WAITING_MAX {
            // The job, and the region it holds, is dropped outside the lock.
            drop(queues);
            drop(job);
            return Err(L2Error::temporary(ErrorKind::Busy, "too many operations are waiting"));
        }
        match kind {
            JobKind::Metadata => queues.metadata.push_back(job),
            JobKind::Load => queues.load.push_back(job),
            JobKind::Store => queues.store.push_back(job),
        }
        drop(queues);
        self.shared.wake.notify_one();
        Ok(receiver)
    }

    /// Runs all `jobs` and collects their results in order.
    pub(crate) async fn run_each<T: Send + 'static, J>(
        &self,
        kind: JobKind,
        jobs: impl Iterator<Item = J>,
    ) -> Results<T>
    where
        J: FnOnce() -> Result<T, L2Error> + Send + 'static,
    {
        let receivers: Vec<_> = jobs.map(|job| self.run(kind, job)).collect();
        let mut results = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            results.push(match receiver {
                Ok(receiver) => receiver.await.unwrap_or_else(|_| Err(job_failed())),
                Err(refused) => Err(refused),
            });
        }
        results
    }

    /// Refuses new jobs and waits for all others.
    pub(crate) async fn close(&self) {
        self.in_flight.close().await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.in_flight.is_closed()
    }
}

/// A job panicked, which is a bug.
pub(crate) fn job_failed() -> L2Error {
    L2Error::permanent(ErrorKind::Io, "the operation failed inside the adapter")
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job; `None` once the pool has stopped.
    fn next(&self) -> Option<(Job, bool)> {
        let mut queues = self.lock();
        loop {
            if let Some(job) = queues.take(self.storing_max) {
                return Some(job);
            }
            if queues.stopped && queues.store.is_empty() {
                return None;
            }
            queues = self.wake.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Queues {
    /// The next job, and whether it is a store.
    fn take(&mut self, storing_max: usize) -> Option<(Job, bool)> {
        self.taken = self.taken.wrapping_add(1);
        let may_store = self.storing < storing_max && !self.store.is_empty();
        let store_first = may_store && self.taken.is_multiple_of(STORE_EVERY);
        if !store_first && let Some(job) = self.metadata.pop_front().or_else(|| self.load.pop_front()) {
            return Some((job, false));
        }
        if !may_store {
            return None;
        }
        self.storing += 1;
        self.store.pop_front().map(|job| (job, true))
    }
}

fn work(shared: &Shared) {
    while let Some((job, is_store)) = shared.next() {
        job();
        if is_store {
            let mut queues = shared.lock();
            queues.storing -= 1;
            // This thread takes the next waiting store itself, but at the end the other threads must see
            // that there is none.
            if queues.stopped {
                shared.wake.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(queues: &mut Queues, storing_max: usize) -> Vec<bool> {
        std::iter::from_fn(|| queues.take(storing_max)).map(|(_, is_store)| is_store).collect()
    }

    #[test]
    fn loads_go_first_but_do_not_starve_stores() {
        let mut queues = Queues::default();
        for _ in 0..14 {
            queues.load.push_back(Box::new(|| ()));
            queues.store.push_back(Box::new(|| ()));
        }
        let order = take_all(&mut queues, usize::MAX);
        assert_eq!(order.len(), 28);
        assert!(order[..7].iter().all(|is_store| !is_store));
        assert!(order[7], "the eighth job is a store");
        assert!(order[16..].iter().all(|is_store| *is_store));
    }

    #[test]
    fn stores_leave_one_thread_for_loads() {
        let mut queues = Queues::default();
        for _ in 0..5 {
            queues.store.push_back(Box::new(|| ()));
        }
        assert_eq!(take_all(&mut queues, 3).len(), 3);
        queues.load.push_back(Box::new(|| ()));
        assert_eq!(take_all(&mut queues, 3), [false]);
    }

    #[tokio::test]
    async fn panicking_job_does_not_end_its_thread() {
        let pool = Pool::new("test", 1).unwrap();
        let jobs = (0..3).map(|n| move || if n == 1 { panic!("injected") } else { Ok(n) });
        let results = pool.run_each(JobKind::Load, jobs).await;
        assert_eq!(*results[0].as_ref().unwrap(), 0);
        assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(*results[2].as_ref().unwrap(), 2);
        pool.close().await;
        assert_eq!(pool.run(JobKind::Metadata, || ()).unwrap_err().kind(), ErrorKind::Closed);
    }
}
