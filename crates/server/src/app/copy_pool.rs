//! Threads for work that takes long because it copies or commits memory.
//!
//! Requests are served on the tasks of their connections; copying the bytes of one (up to a gibibyte) there would
//! hold up other connections. The pool's size is `--max-gpu-workers`.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// A bounded number of jobs at a time. Those beyond wait; callers bound how many wait.
#[derive(Clone, Debug)]
pub struct CopyPool {
    permits: Arc<Semaphore>,
    workers: u32,
    runtime: Handle,
}

impl CopyPool {
    /// A pool of `workers` threads, at least one.
    pub fn new(workers: usize, runtime: Handle) -> Self {
        let workers = u32::try_from(workers.clamp(1, 1 << 16)).unwrap_or(1);
        Self { permits: Arc::new(Semaphore::new(workers as usize)), workers, runtime }
    }

    /// Runs a job once a thread is free. Jobs start in the order of the calls.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let permits = self.permits.clone();
        self.runtime.spawn(async move {
            // The semaphore is never closed.
            let permit = permits.acquire_owned().await;
            let done = tokio::task::spawn_blocking(job).await;
            drop(permit);
            if let Err(error) = done {
                tracing::error!(%error, "a copy has failed");
            }
        });
    }

    /// Completes once every job that was started before has ended.
    pub async fn idle(&self) {
        let _all = self.permits.acquire_many(self.workers).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn runs_no_more_jobs_than_it_has_workers_and_in_order() {
        let pool = CopyPool::new(1, Handle::current());
        let (release, released) = channel::<()>();
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = order.clone();
        pool.run(move || {
            let _ = released.recv();
            first.lock().unwrap().push(1);
        });
        let second = order.clone();
        pool.run(move || second.lock().unwrap().push(2));
        tokio::task::yield_now().await;
        assert!(order.lock().unwrap().is_empty());
        drop(release);
        // Both tasks have asked for a permit by the time that this one has all.
        pool.idle().await;
        assert_eq!(*order.lock().unwrap(), [1, 2]);
    }

    #[tokio::test]
    async fn goes_on_after_a_job_that_panics() {
        let pool = CopyPool::new(1, Handle::current());
        pool.run(|| panic!("a bug in a copy"));
        let (done, ran) = tokio::sync::oneshot::channel();
        pool.run(move || done.send(()).unwrap());
        ran.await.unwrap();
    }
}
