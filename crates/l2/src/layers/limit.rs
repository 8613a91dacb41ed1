//! Limits concurrent operations and the bytes of the arena that they hold.
//!
//! First come, first served: a smaller operation does not overtake a waiting one. A permit is released when the
//! inner operation ends, even if its caller dropped the future. Lookups, deletes and listings have permits of
//! their own, so that they do not wait for bytes.

use std::num::NonZeroUsize;
use std::sync::Arc;

use larder_types::object::ObjectKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::adapter::{Adapter, BoxFuture, Cursor, Page, Results, Stored, Transfer};
use crate::error::L2Error;
use crate::in_flight::InFlight;
use crate::pool::job_failed;

/// Bytes are counted in units of this many.
const UNIT_BYTES: u64 = 4096;

/// Limits of concurrent work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitConfig {
    /// Maximum concurrent operations. At least 1.
    pub jobs: usize,
    /// Maximum bytes that they hold together. A larger object runs alone.
    pub bytes: u64,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self { jobs: 64, bytes: 1 << 30 }
    }
}

/// The layer.
#[derive(Debug)]
pub struct Limit {
    inner: Arc<dyn Adapter>,
    metadata: Arc<Semaphore>,
    jobs: Arc<Semaphore>,
    units: Arc<Semaphore>,
    units_max: u32,
    in_flight: InFlight,
}

type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Limit {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Adapter>, config: LimitConfig) -> Self {
        let units_max = u32::try_from(config.bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        let jobs = config.jobs.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            inner,
            metadata: Arc::new(Semaphore::new(jobs)),
            jobs: Arc::new(Semaphore::new(jobs)),
            units: Arc::new(Semaphore::new((units_max as usize).min(Semaphore::MAX_PERMITS))),
            units_max,
            in_flight: InFlight::new(),
        }
    }

    fn units(&self, transfer: &Transfer) -> u32 {
        let units = transfer.region.len().div_ceil(UNIT_BYTES);
        u32::try_from(units).unwrap_or(u32::MAX).clamp(1, self.units_max)
    }

    /// Splits a batch into parts that fit the limit, each as large as possible.
    fn parts(&self, transfers: Vec<Transfer>) -> Vec<(u32, Vec<Transfer>)> {
        let mut parts: Vec<(u32, Vec<Transfer>)> = Vec::new();
        for transfer in transfers {
            let units = self.units(&transfer);
            match parts.last_mut() {
                Some((sum, part)) if sum.saturating_add(units) <= self.units_max => {
                    *sum += units;
                    part.push(transfer);
                }
                _ => parts.push((units, vec![transfer])),
            }
        }
        parts
    }

    async fn permits(&self, units: u32) -> Option<Permits> {
        let job = Arc::clone(&self.jobs).acquire_owned().await.ok()?;
        let units = Arc::clone(&self.units).acquire_many_owned(units).await.ok()?;
        Some((job, units))
    }

    async fn each<T: Send + 'static>(
        &self,
        transfers: Vec<Transfer>,
        call: impl Fn(Arc<dyn Adapter>, Vec<Transfer>) -> BoxFuture<'static, Results<T>>,
    ) -> Results<T> {
        let count = transfers.len();
        let mut tasks = Vec::new();
        for (units, part) in self.parts(transfers) {
            let permits = self.permits(units).await;
            let len = part.len();
            let work = call(Arc::clone(&self.inner), part);
            let task = self.in_flight.spawn(async move {
                let _permits = permits;
                work.await
            });
            tasks.push((len, task));
        }
        let mut results = Vec::with_capacity(count);
        for (len, task) in tasks {
            let part = match task {
                Ok(task) => task.await.map_err(|_| job_failed()),
                Err(closed) => Err(closed),
            };
            match part {
                Ok(part) => results.extend(part),
                Err(error) => results.extend(error.for_all(len)),
            }
        }
        results
    }
}

impl Adapter for Limit {
    forward!(inner: kind, capabilities, usage, usage_by_salt, set_quota, health, failures);

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        Box::pin(async move {
            // The semaphores are never closed.
            let _permit = self.metadata.acquire().await.ok();
            self.inner.lookup(keys).await
        })
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        Box::pin(self.each(transfers, |inner, part| Box::pin(async move { inner.load(part).await })))
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        Box::pin(self.each(transfers, |inner, part| Box::pin(async move { inner.store(part).await })))
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        Box::pin(async move {
            let _permit = self.metadata.acquire().await.ok();
            self.inner.delete(keys).await
        })
    }

    fn list(&self, cursor: Option<Cursor>, limit: NonZeroUsize) -> BoxFuture<'_, Result<Page, L2Error>> {
        Box::pin(async move {
            let _permit = self.metadata.acquire().await.ok();
            self.inner.list(cursor, limit).await
        })
    }

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
    use crate::testing::TestArena;
    use std::time::Duration;
    use tokio::time::Instant;

    fn slow(jobs: usize, bytes: u64) -> Limit {
        let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 30, bandwidth_bytes_per_second: 1 << 20 });
        Limit::new(Arc::new(mock), LimitConfig { jobs, bytes })
    }

    #[tokio::test(start_paused = true)]
    async fn limits_jobs_and_bytes() {
        let arena = TestArena::new(16 << 20);
        let started = Instant::now();
        let by_jobs = slow(2, 1 << 30);
        let stores = |limit: Arc<Limit>| {
            let objects: Vec<_> = (0..6).map(|n| arena.object(n, 1 << 20)).collect();
            objects.into_iter().map(move |object| {
                let limit = Arc::clone(&limit);
                tokio::spawn(async move { limit.store(vec![object]).await[0].is_ok() })
            })
        };
        for task in stores(Arc::new(by_jobs)).collect::<Vec<_>>() {
            assert!(task.await.unwrap());
        }
        assert_eq!(started.elapsed(), Duration::from_secs(3), "six seconds of work, two at a time");
        let started = Instant::now();
        for task in stores(Arc::new(slow(100, 3 << 20))).collect::<Vec<_>>() {
            assert!(task.await.unwrap());
        }
        assert_eq!(started.elapsed(), Duration::from_secs(2), "three MiB at a time");
    }

    #[tokio::test(start_paused = true)]
    async fn splits_large_batches_and_runs_large_objects_alone() {
        let arena = TestArena::new(16 << 20);
        let limit = slow(100, 2 << 20);
        let mut objects: Vec<_> = (0..5).map(|n| arena.object(n, 1 << 20)).collect();
        objects.push(arena.object(9, 5 << 20));
        let parts: Vec<_> = limit.parts(objects.clone()).into_iter().map(|(_, part)| part.len()).collect();
        assert_eq!(parts, [2, 2, 1, 1]);
        assert!(limit.store(objects).await.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_call_holds_its_permit_until_it_ends() {
        let arena = TestArena::new(16 << 20);
        let limit = slow(1, 1 << 30);
        let mut store = limit.store(vec![arena.object(0, 4 << 20)]);
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut store).await;
        drop(store);
        let started = Instant::now();
        assert!(limit.store(vec![arena.object(1, 1 << 20)]).await[0].is_ok());
        assert_eq!(started.elapsed(), Duration::from_secs(4), "3 s for the rest of the first, 1 s for this");
    }
}
