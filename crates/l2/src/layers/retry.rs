//! Retries temporary failures: only [`Retry::Temporary`] errors, only the keys that failed, with growing
//! pauses, a bounded number of times.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder_types::object::ObjectKey;

use crate::adapter::{Adapter, BoxFuture, Cursor, Page, Results, Stored, Transfer};
use crate::error::{L2Error, Retry};

/// Number of attempts and the pauses between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Attempts in total; 1 means no retry.
    pub attempts: u32,
    /// The pause after the first attempt; it doubles with each further one.
    pub first_pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// Seed of the jitter: pauses are shortened by up to a half, so that simultaneous failures are not retried
    /// simultaneously.
    pub seed: u64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: 3,
            first_pause: Duration::from_millis(20),
            pause_max: Duration::from_secs(1),
            seed: 0,
        }
    }
}

/// The layer.
#[derive(Debug)]
pub struct Retrying {
    inner: Arc<dyn Adapter>,
    config: RetryConfig,
    rng: Mutex<fastrand::Rng>,
}

impl Retrying {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Adapter>, config: RetryConfig) -> Self {
        Self { inner, config, rng: Mutex::new(fastrand::Rng::with_seed(config.seed)) }
    }

    /// The pause after attempt number `attempt`, counted from 1.
    fn pause(&self, attempt: u32) -> Duration {
        let doubled = self.config.first_pause.saturating_mul(1 << (attempt - 1).min(20));
        let jitter = self.rng.lock().unwrap_or_else(PoisonError::into_inner).f64();
        doubled.min(self.config.pause_max).mul_f64(0.5 + jitter / 2.0)
    }

    async fn each<'a, I: Clone, T>(
        &'a self,
        items: Vec<I>,
        call: impl Fn(Vec<I>) -> BoxFuture<'a, Results<T>>,
    ) -> Results<T> {
        let mut kept: Vec<Option<I>> = items.iter().cloned().map(Some).collect();
        let mut results = call(items).await;
        for attempt in 1..self.config.attempts {
            let mut again = Vec::new();
            for (at, result) in results.iter().enumerate() {
                match result {
                    Err(error) if error.retry() == Retry::Temporary => again.push(at),
                    // Regions of finished keys are released before the others are retried.
                    _ => kept[at] = None,
                }
            }
            if again.is_empty() {
                return results;
            }
            tokio::time::sleep(self.pause(attempt)).await;
            let items = again.iter().filter_map(|at| kept[*at].clone()).collect();
            for (at, result) in again.into_iter().zip(call(items).await) {
                results[at] = result;
            }
        }
        results.into_iter().map(|result| result.map_err(give_up)).collect()
    }
}

/// Marks an error that was retried in vain.
fn give_up(error: L2Error) -> L2Error {
    match error.retry() {
        Retry::Temporary => error.with_retry(Retry::Persistent),
        Retry::Permanent | Retry::Persistent => error,
    }
}

impl Adapter for Retrying {
    forward!(inner: kind, capabilities, usage, usage_by_salt, set_quota, health, failures, close);

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        Box::pin(self.each(keys, |keys| self.inner.lookup(keys)))
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        Box::pin(self.each(transfers, |transfers| self.inner.load(transfers)))
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        Box::pin(self.each(transfers, |transfers| self.inner.store(transfers)))
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        Box::pin(self.each(keys, |keys| self.inner.delete(keys)))
    }

    fn list(&self, cursor: Option<Cursor>, limit: NonZeroUsize) -> BoxFuture<'_, Result<Page, L2Error>> {
        Box::pin(async move {
            for attempt in 1..self.config.attempts {
                match self.inner.list(cursor.clone(), limit).await {
                    Err(error) if error.retry() == Retry::Temporary => {
                        tokio::time::sleep(self.pause(attempt)).await;
                    }
                    other => return other,
                }
            }
            self.inner.list(cursor, limit).await.map_err(give_up)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::adapters::mock::{Mock, MockConfig};
    use crate::layers::fault::{Fault, FaultConfig};
    use crate::testing::TestArena;
    use tokio::time::Instant;

    fn retrying(error: f64, attempts: u32) -> Retrying {
        let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 40 });
        let faulty = Fault::new(Arc::new(mock), FaultConfig { error, seed: 9, ..FaultConfig::default() });
        Retrying::new(Arc::new(faulty), RetryConfig { attempts, ..RetryConfig::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn retries_until_all_keys_succeed() {
        let arena = TestArena::new(1 << 20);
        let adapter = retrying(0.3, 20);
        let stored = adapter.store((0..64).map(|n| arena.object(n, 64)).collect()).await;
        assert!(stored.iter().all(Result::is_ok));
        assert_eq!(adapter.usage().objects, 64);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_and_pauses_are_bounded() {
        let arena = TestArena::new(1 << 20);
        let adapter = retrying(1.0, 4);
        let started = Instant::now();
        let stored = adapter.store(vec![arena.object(1, 64)]).await;
        let error = stored[0].as_ref().unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Persistent));
        let millis = started.elapsed().as_millis();
        assert!((70..=145).contains(&millis), "between half of and all of 20 + 40 + 80 ms: {millis}");
    }

    #[tokio::test(start_paused = true)]
    async fn miss_is_not_retried() {
        let arena = TestArena::new(1 << 20);
        let adapter = retrying(0.0, 10);
        let started = Instant::now();
        assert_eq!(
            adapter.load(vec![arena.blank(1, 1)]).await[0].as_ref().unwrap_err().retry(),
            Retry::Permanent
        );
        assert!(started.elapsed() < Duration::from_millis(2));
    }
}
