//! A few threads for calls that block, apart from the runtime's own.
//!
//! Jobs wait in three lanes. Questions go first, then loads, which somebody waits for, then stores;
//! every [`STORE_EVERY`]th job is a store if one waits, so that stores always go on; and stores never
//! take the last thread, so that a load seldom finds all of them writing.
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

/// The most jobs that may wait. More are answered with [`ErrorKind::Busy`].
const WAITING_MAX: usize = 1 << 16;

/// Stack of a thread: jobs do a few system calls.
const STACK_BYTES: usize = 512 << 10;

/// One job in this many is a store, if one waits.
const STORE_EVERY: u64 = 8;

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Short questions, and deletes.
    Ask,
    /// Reads of objects.
    Load,
    /// Writes of objects.
    Store,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Waiting {
    ask: VecDeque<Job>,
    load: VecDeque<Job>,
    store: VecDeque<Job>,
    storing: usize,
    taken: u64,
    stopped: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    storing_max: usize,
}

/// The threads. Dropped without [`Pool::close`], they finish what waits and end.
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
            waiting: Mutex::default(),
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
        lane: Lane,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, L2Error> {
        let running = self.in_flight.begin()?;
        let (result, receiver) = oneshot::channel();
        let job: Job = Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(job));
            drop(running);
            // Nobody may be waiting any more; and a panic closes the channel without a value.
            if let Ok(value) = outcome {
                let _ = result.send(value);
            }
        });
        let mut waiting = self.shared.lock();
        if waiting.ask.len() + waiting.load.len() + waiting.store.len() >= WAITING_MAX {
            // The job, and with it the region it holds, goes only after the lock.
            drop(waiting);
            drop(job);
            return Err(L2Error::temporary(ErrorKind::Busy, "too many operations are waiting"));
        }
        match lane {
            Lane::Ask => waiting.ask.push_back(job),
            Lane::Load => waiting.load.push_back(job),
            Lane::Store => waiting.store.push_back(job),
        }
        drop(waiting);
        self.shared.wake.notify_one();
        Ok(receiver)
    }

    /// Runs all `jobs` and collects their results in order.
    pub(crate) async fn run_each<T: Send + 'static, J>(
        &self,
        lane: Lane,
        jobs: impl Iterator<Item = J>,
    ) -> Results<T>
    where
        J: FnOnce() -> Result<T, L2Error> + Send + 'static,
    {
        let receivers: Vec<_> = jobs.map(|job| self.run(lane, job)).collect();
        let mut results = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            results.push(match receiver {
                Ok(receiver) => receiver.await.unwrap_or_else(|_| Err(job_failed())),
                Err(refused) => Err(refused),
            });
        }
        results
    }

    /// Refuses more jobs and waits for those there are.
    pub(crate) async fn close(&self) {
        self.in_flight.close().await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.in_flight.is_closed()
    }
}

/// A job has panicked, which is a bug of ours.
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
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job; `None` once there will be no more.
    fn next(&self) -> Option<(Job, bool)> {
        let mut waiting = self.lock();
        loop {
            if let Some(job) = waiting.take(self.storing_max) {
                return Some(job);
            }
            if waiting.stopped && waiting.store.is_empty() {
                return None;
            }
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Waiting {
    /// The job that is next in line, and whether it is a store.
    fn take(&mut self, storing_max: usize) -> Option<(Job, bool)> {
        self.taken = self.taken.wrapping_add(1);
        let may_store = self.storing < storing_max && !self.store.is_empty();
        let store_first = may_store && self.taken.is_multiple_of(STORE_EVERY);
        if !store_first && let Some(job) = self.ask.pop_front().or_else(|| self.load.pop_front()) {
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
            let mut waiting = shared.lock();
            waiting.storing -= 1;
            // A store that was passed over because of this one is taken by this very thread, next.
            // But at the end the other threads must learn that there is none.
            if waiting.stopped {
                shared.wake.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(waiting: &mut Waiting, storing_max: usize) -> Vec<bool> {
        std::iter::from_fn(|| waiting.take(storing_max)).map(|(_, is_store)| is_store).collect()
    }

    #[test]
    fn loads_go_before_stores_but_not_for_ever() {
        let mut waiting = Waiting::default();
        for _ in 0..14 {
            waiting.load.push_back(Box::new(|| ()));
            waiting.store.push_back(Box::new(|| ()));
        }
        let order = lanes(&mut waiting, usize::MAX);
        assert_eq!(order.len(), 28);
        assert!(order[..7].iter().all(|is_store| !is_store));
        assert!(order[7], "the eighth is a store");
        assert!(order[16..].iter().all(|is_store| *is_store));
    }

    #[test]
    fn stores_leave_a_thread_to_loads() {
        let mut waiting = Waiting::default();
        for _ in 0..5 {
            waiting.store.push_back(Box::new(|| ()));
        }
        assert_eq!(lanes(&mut waiting, 3).len(), 3);
        waiting.load.push_back(Box::new(|| ()));
        assert_eq!(lanes(&mut waiting, 3), [false]);
    }

    #[tokio::test]
    async fn a_panic_fails_one_job_and_no_thread() {
        let pool = Pool::new("test", 1).unwrap();
        let jobs = (0..3).map(|n| move || if n == 1 { panic!("injected") } else { Ok(n) });
        let results = pool.run_each(Lane::Load, jobs).await;
        assert_eq!(*results[0].as_ref().unwrap(), 0);
        assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(*results[2].as_ref().unwrap(), 2);
        pool.close().await;
        assert_eq!(pool.run(Lane::Ask, || ()).unwrap_err().kind(), ErrorKind::Closed);
    }
}
