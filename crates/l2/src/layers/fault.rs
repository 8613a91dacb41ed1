//! Injected faults for tests: errors, delays, hangs, short reads, flipped bits, torn writes.
//!
//! The seed alone decides what happens to the n-th operation of one kind on one key, whatever else runs, so
//! that a failing test can be repeated.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_arena::{Arena, IoPin, Region};
use larder_policy::eviction::digest;
use larder_types::object::ObjectKey;

use crate::adapter::{Adapter, BoxFuture, Results, Stored, Transfer};
use crate::error::{ErrorKind, L2Error};

/// Fault rates: fractions of operations on one key, in [0, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct FaultConfig {
    /// Selects the operations that fail.
    pub seed: u64,
    /// Any operation fails at once with a temporary error.
    pub error: f64,
    /// Any operation waits first.
    pub delay: f64,
    /// The longest such wait.
    pub delay_max: Duration,
    /// Any operation gives no result for [`FaultConfig::hang_time`], then fails.
    pub hang: f64,
    /// How long a hang lasts.
    pub hang_time: Duration,
    /// A load finds too few bytes.
    pub short_read: f64,
    /// A load succeeds with one wrong bit.
    pub bit_flip: f64,
    /// A store succeeds, but writes only half of the bytes.
    pub torn_write: f64,
}

impl Default for FaultConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            error: 0.0,
            delay: 0.0,
            delay_max: Duration::from_millis(100),
            hang: 0.0,
            hang_time: Duration::from_secs(3600),
            short_read: 0.0,
            bit_flip: 0.0,
            torn_write: 0.0,
        }
    }
}

/// The layer.
#[derive(Debug)]
pub struct Fault {
    inner: Arc<dyn Adapter>,
    config: Mutex<FaultConfig>,
    /// Number of operations of each kind on each key.
    counts: Mutex<HashMap<(Op, ObjectKey), u64>>,
    calls: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    Lookup,
    Load,
    Store,
    Delete,
}

/// The faults of one operation on one key.
#[derive(Clone, Debug, PartialEq)]
struct FaultPlan {
    pause: Duration,
    fails: Option<ErrorKind>,
    short_read: bool,
    flipped_bit: Option<u64>,
    torn_write: bool,
}

impl Fault {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Adapter>, config: FaultConfig) -> Self {
        Self { inner, config: Mutex::new(config), counts: Mutex::default(), calls: AtomicU64::new(0) }
    }

    /// Replaces the fault rates.
    pub fn set(&self, config: FaultConfig) {
        *self.config() = config;
    }

    /// Calls that reached this layer.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn config(&self) -> MutexGuard<'_, FaultConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, op: Op, key: &ObjectKey) -> FaultPlan {
        let nth = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let nth = counts.entry((op, key.clone())).or_default();
            *nth += 1;
            *nth
        };
        let config = self.config().clone();
        let name = digest(config.seed, key.native_key().as_bytes());
        let mut rng =
            fastrand::Rng::with_seed(digest(name, &[nth, op as u64].map(u64::to_le_bytes).concat()));
        let hangs = rng.f64() < config.hang;
        let fails = rng.f64() < config.error;
        let delayed = rng.f64() < config.delay;
        let delay = config.delay_max.mul_f64(rng.f64());
        let short_read = op == Op::Load && rng.f64() < config.short_read;
        let flips = op == Op::Load && rng.f64() < config.bit_flip;
        FaultPlan {
            pause: match (hangs, delayed) {
                (true, _) => config.hang_time,
                (false, true) => delay,
                (false, false) => Duration::ZERO,
            },
            fails: match (hangs, fails) {
                (true, _) => Some(ErrorKind::Timeout),
                (false, true) => Some(ErrorKind::Unavailable),
                (false, false) => None,
            },
            short_read,
            flipped_bit: flips.then(|| rng.u64(..)),
            torn_write: op == Op::Store && rng.f64() < config.torn_write,
        }
    }

    /// Runs `call` on the items that do not fail, after the longest pause of all.
    async fn each<I, T>(
        &self,
        op: Op,
        items: Vec<I>,
        key: impl Fn(&I) -> &ObjectKey,
        call: impl AsyncFnOnce(Vec<(I, FaultPlan)>) -> Results<T>,
    ) -> Results<T> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let plans: Vec<_> = items.iter().map(|item| self.plan(op, key(item))).collect();
        let pause = plans.iter().map(|plan| plan.pause).max().unwrap_or_default();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let fails: Vec<_> = plans.iter().map(|plan| plan.fails).collect();
        let remaining = items.into_iter().zip(plans).filter(|(_, plan)| plan.fails.is_none()).collect();
        let mut done = call(remaining).await.into_iter();
        let injected = |kind| L2Error::temporary(kind, "injected fault");
        let result = |fails: Option<ErrorKind>| match fails {
            Some(kind) => Err(injected(kind)),
            None => done.next().unwrap_or_else(|| Err(injected(ErrorKind::Io))),
        };
        fails.into_iter().map(result).collect()
    }
}

fn flip(region: &Region, random: u64) {
    let mut bytes = vec![0; region.len() as usize];
    if bytes.is_empty() || region.copy_to(&mut bytes).is_err() {
        return;
    }
    let at = (random >> 3) as usize % bytes.len();
    bytes[at] ^= 1 << (random % 8);
    // The length is the region's own, so this succeeds.
    let _ = region.fill(&bytes);
}

#[derive(Debug)]
struct NoPin;

impl IoPin for NoPin {}

/// The first half of an object, in separate memory.
fn torn(transfer: &Transfer) -> Option<Transfer> {
    let mut bytes = vec![0; transfer.region.len() as usize];
    transfer.region.copy_to(&mut bytes).ok()?;
    let half = transfer.region.len() / 2;
    let arena = Arena::private(half.max(1)).ok()?;
    arena.commit(half.max(1)).ok()?;
    arena.write(0, &bytes[..half as usize]).ok()?;
    let region = Region::new(Arc::new(arena), 0, half, Arc::new(NoPin)).ok()?;
    Some(Transfer { key: transfer.key.clone(), region })
}

impl Adapter for Fault {
    forward!(inner: kind, capabilities, list, usage, usage_by_salt, set_quota, health, failures, close);

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        let call = async |left: Vec<(ObjectKey, FaultPlan)>| {
            self.inner.lookup(left.into_iter().map(|(key, _)| key).collect()).await
        };
        Box::pin(async move { self.each(Op::Lookup, keys, |key| key, call).await })
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        let call = async |left: Vec<(Transfer, FaultPlan)>| {
            let plans: Vec<_> = left.iter().map(|(t, plan)| (t.region.clone(), plan.clone())).collect();
            let loaded = self.inner.load(left.into_iter().map(|(transfer, _)| transfer).collect()).await;
            let corrupt = |((region, plan), result): ((Region, FaultPlan), Result<(), L2Error>)| {
                result?;
                if plan.short_read {
                    return Err(L2Error::wrong_size(region.len() / 2, region.len()));
                }
                if let Some(random) = plan.flipped_bit {
                    flip(&region, random);
                }
                Ok(())
            };
            plans.into_iter().zip(loaded).map(corrupt).collect()
        };
        Box::pin(async move { self.each(Op::Load, transfers, |transfer| &transfer.key, call).await })
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        let call = async |left: Vec<(Transfer, FaultPlan)>| {
            let tear = |(transfer, plan): (Transfer, FaultPlan)| {
                if plan.torn_write { torn(&transfer).unwrap_or(transfer) } else { transfer }
            };
            self.inner.store(left.into_iter().map(tear).collect()).await
        };
        Box::pin(async move { self.each(Op::Store, transfers, |transfer| &transfer.key, call).await })
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        let call = async |left: Vec<(ObjectKey, FaultPlan)>| {
            self.inner.delete(left.into_iter().map(|(key, _)| key).collect()).await
        };
        Box::pin(async move { self.each(Op::Delete, keys, |key| key, call).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::mock::{Mock, MockConfig};
    use crate::testing::{TestArena, bytes, contents};

    fn faulty(config: FaultConfig) -> Fault {
        let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 40 });
        Fault::new(Arc::new(mock), config)
    }

    #[tokio::test(start_paused = true)]
    async fn same_seed_gives_same_faults_in_any_order() {
        let arena = TestArena::new(1 << 20);
        let failed = async |seed, numbers: Vec<u64>| {
            let adapter = faulty(FaultConfig { seed, error: 0.4, ..FaultConfig::default() });
            let mut failed = Vec::new();
            for n in numbers {
                if adapter.store(vec![arena.object(n, 8)]).await[0].is_err() {
                    failed.push(n);
                }
            }
            failed.sort_unstable();
            failed
        };
        let first = failed(1, (0..64).collect()).await;
        assert_eq!(first, failed(1, (0..64).rev().collect()).await);
        assert_ne!(first, failed(2, (0..64).collect()).await);
        assert!((10..45).contains(&first.len()), "{first:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn corrupts_bytes() {
        let arena = TestArena::new(1 << 20);
        let adapter = faulty(FaultConfig { torn_write: 1.0, ..FaultConfig::default() });
        adapter.store(vec![arena.object(1, 1000)]).await[0].as_ref().unwrap();
        let short = adapter.load(vec![arena.blank(1, 1000)]).await;
        assert_eq!(short[0].as_ref().unwrap_err().kind(), ErrorKind::WrongSize);
        adapter.set(FaultConfig { bit_flip: 1.0, ..FaultConfig::default() });
        adapter.store(vec![arena.object(1, 1000)]).await[0].as_ref().unwrap();
        let blank = arena.blank(1, 1000);
        let region = blank.region.clone();
        adapter.load(vec![blank]).await[0].as_ref().unwrap();
        let differ = contents(&region).iter().zip(bytes(1, 1000)).filter(|(a, b)| **a != *b).count();
        assert_eq!(differ, 1);
        adapter.set(FaultConfig { short_read: 1.0, ..FaultConfig::default() });
        let short = adapter.load(vec![arena.blank(1, 1000)]).await;
        assert_eq!(short[0].as_ref().unwrap_err().kind(), ErrorKind::WrongSize);
    }
}
