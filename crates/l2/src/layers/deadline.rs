//! Limits the time of each call, even if the backend hangs.
//!
//! The inner operation runs in a task of its own. At the deadline, the keys without a result fail with
//! [`ErrorKind::Timeout`], and the task continues: the I/O keeps its regions until it ends. Unless batches matter
//! ([`Capabilities::batched`](crate::Capabilities::batched)), each object has its own task, so that one that hangs
//! does not delay the others.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use larder_types::object::ObjectKey;
use tokio::time::{Instant, timeout_at};

use crate::adapter::{Adapter, BoxFuture, Cursor, Page, Results, Stored, Transfer};
use crate::error::{ErrorKind, L2Error, Retry};
use crate::in_flight::InFlight;
use crate::pool::job_failed;

/// Maximum time of each kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlineConfig {
    /// Lookups, deletes and pages of listings.
    pub lookup: Duration,
    /// Loads: a request waits, and can recompute instead.
    pub load: Duration,
    /// Stores: no request waits, but they hold memory.
    pub store: Duration,
}

impl Default for DeadlineConfig {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { lookup: seconds(5), load: seconds(30), store: seconds(60) }
    }
}

/// The layer.
#[derive(Debug)]
pub struct Deadline {
    inner: Arc<dyn Adapter>,
    config: DeadlineConfig,
    in_flight: InFlight,
}

impl Deadline {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Adapter>, config: DeadlineConfig) -> Self {
        Self { inner, config, in_flight: InFlight::new() }
    }

    /// Runs `call` on `items` and waits at most `time`.
    async fn each<I: Send + 'static, T: Send + 'static>(
        &self,
        time: Duration,
        split: bool,
        items: Vec<I>,
        call: impl Fn(Arc<dyn Adapter>, Vec<I>) -> BoxFuture<'static, Results<T>>,
    ) -> Results<T> {
        let deadline = Instant::now() + time;
        let count = items.len();
        let parts: Vec<Vec<I>> =
            if split { items.into_iter().map(|item| vec![item]).collect() } else { vec![items] };
        let start = |part: Vec<I>| {
            let len = part.len();
            (len, self.in_flight.spawn(call(Arc::clone(&self.inner), part)))
        };
        let tasks: Vec<_> = parts.into_iter().map(start).collect();
        let mut results = Vec::with_capacity(count);
        for (len, task) in tasks {
            let outcome = match task {
                Ok(task) => timeout_at(deadline, task).await,
                Err(closed) => Ok(Ok(closed.for_all(len))),
            };
            results.extend(match outcome {
                Ok(Ok(part)) => part,
                Ok(Err(_)) => job_failed().for_all(len),
                Err(_) => timed_out(time).for_all(len),
            });
        }
        results
    }
}

fn timed_out(time: Duration) -> L2Error {
    // There is no time left for a retry either.
    L2Error::permanent(ErrorKind::Timeout, format!("no answer within {time:?}")).with_retry(Retry::Persistent)
}

impl Adapter for Deadline {
    forward!(inner: kind, capabilities, usage, usage_by_salt, set_quota, health, failures);

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        Box::pin(self.each(self.config.lookup, false, keys, |inner, keys| {
            Box::pin(async move { inner.lookup(keys).await })
        }))
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        let split = !self.capabilities().batched;
        Box::pin(self.each(self.config.load, split, transfers, |inner, transfers| {
            Box::pin(async move { inner.load(transfers).await })
        }))
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        let split = !self.capabilities().batched;
        Box::pin(self.each(self.config.store, split, transfers, |inner, transfers| {
            Box::pin(async move { inner.store(transfers).await })
        }))
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        Box::pin(self.each(self.config.lookup, false, keys, |inner, keys| {
            Box::pin(async move { inner.delete(keys).await })
        }))
    }

    fn list(&self, cursor: Option<Cursor>, limit: NonZeroUsize) -> BoxFuture<'_, Result<Page, L2Error>> {
        Box::pin(async move {
            let time = self.config.lookup;
            let answer = tokio::time::timeout(time, self.inner.list(cursor, limit)).await;
            answer.unwrap_or_else(|_| Err(timed_out(time)))
        })
    }

    /// Waits for running operations without a limit: the caller limits its own wait.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.inner.close().await;
            self.in_flight.close().await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::mock::{Mock, MockConfig};
    use crate::layers::fault::{Fault, FaultConfig};
    use crate::testing::TestArena;

    #[tokio::test(start_paused = true)]
    async fn hanging_object_does_not_delay_others_and_keeps_its_region() {
        let arena = TestArena::new(1 << 20);
        let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 30 });
        let hang = Duration::from_secs(100);
        let faults = FaultConfig { hang: 0.3, hang_time: hang, seed: 5, ..FaultConfig::default() };
        let faulty: Arc<dyn Adapter> = Arc::new(Fault::new(Arc::new(mock), faults));
        let adapter = Deadline::new(faulty, DeadlineConfig::default());
        let stored = adapter.store((0..32).map(|n| arena.object(n, 64)).collect()).await;
        let hung = stored.iter().filter(|result| result.is_err()).count();
        assert!((1..31).contains(&hung), "{hung} hang");
        assert_eq!(arena.regions(), hung, "I/O that still runs keeps its memory");
        let timeouts = stored.iter().filter_map(|result| result.as_ref().err());
        assert!(timeouts.into_iter().all(|error| error.kind() == ErrorKind::Timeout));
        let started = Instant::now();
        adapter.close().await;
        assert_eq!(arena.regions(), 0, "closing has waited for it");
        assert!(started.elapsed() <= hang);
    }
}
