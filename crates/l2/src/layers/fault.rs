//! Faults on purpose, for tests: errors, delays, hangs, short reads, flipped bits, torn writes.
//!
//! What happens to the n-th operation of one kind on one key is decided by the seed alone, whatever
//! else runs: a failing test is run again with its seed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_arena::{Arena, IoPin, Region};
use larder_types::object::ObjectKey;

use crate::adapter::{Adapter, BoxFuture, Results, Stored, Transfer};
use crate::error::{ErrorKind, L2Error};
use crate::rng::Rng;

/// How often what goes wrong: shares of keys, in [0, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct FaultConfig {
    /// Decides everything.
    pub seed: u64,
    /// Any operation fails at once, for the moment.
    pub error: f64,
    /// Any operation waits first.
    pub delay: f64,
    /// How long at most.
    pub delay_max: Duration,
    /// Any operation answers nothing for [`FaultConfig::hang_time`], then fails.
    pub hang: f64,
    /// How long a hang lasts.
    pub hang_time: Duration,
    /// A load finds fewer bytes than there should be.
    pub short_read: f64,
    /// A load succeeds with one wrong bit.
    pub bit_flip: f64,
    /// A store succeeds, and only half of the bytes are there.
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
    /// How often each kind of operation has met each key.
    met: Mutex<HashMap<(Op, ObjectKey), u64>>,
    calls: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    Lookup,
    Load,
    Store,
    Delete,
}

/// What happens to one key in one operation.
#[derive(Clone, Debug, PartialEq)]
struct Fate {
    pause: Duration,
    fails: Option<ErrorKind>,
    short_read: bool,
    flipped_bit: Option<u64>,
    torn_write: bool,
}

impl Fault {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Adapter>, config: FaultConfig) -> Self {
        Self { inner, config: Mutex::new(config), met: Mutex::default(), calls: AtomicU64::new(0) }
    }

    /// Changes what goes wrong from now on.
    pub fn set(&self, config: FaultConfig) {
        *self.config() = config;
    }

    /// Calls that have come this far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn config(&self) -> MutexGuard<'_, FaultConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, op: Op, key: &ObjectKey) -> Fate {
        let nth = {
            let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
            let nth = met.entry((op, key.clone())).or_default();
            *nth += 1;
            *nth
        };
        let config = self.config().clone();
        let mut rng = Rng::new(config.seed ^ hash(&key.native_key()) ^ (nth << 8 | op as u64));
        let hangs = rng.share() < config.hang;
        let fails = rng.share() < config.error;
        let delayed = rng.share() < config.delay;
        let delay = config.delay_max.mul_f64(rng.share());
        let short_read = op == Op::Load && rng.share() < config.short_read;
        let flips = op == Op::Load && rng.share() < config.bit_flip;
        Fate {
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
            flipped_bit: flips.then(|| rng.next()),
            torn_write: op == Op::Store && rng.share() < config.torn_write,
        }
    }

    /// Has `call` do what does not fail, after the longest pause of all.
    async fn each<I, T>(
        &self,
        op: Op,
        items: Vec<I>,
        key: impl Fn(&I) -> &ObjectKey,
        call: impl AsyncFnOnce(Vec<(I, Fate)>) -> Results<T>,
    ) -> Results<T> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let fates: Vec<_> = items.iter().map(|item| self.fate(op, key(item))).collect();
        let pause = fates.iter().map(|fate| fate.pause).max().unwrap_or_default();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let fails: Vec<_> = fates.iter().map(|fate| fate.fails).collect();
        let left = items.into_iter().zip(fates).filter(|(_, fate)| fate.fails.is_none()).collect();
        let mut done = call(left).await.into_iter();
        let injected = |kind| L2Error::temporary(kind, "injected fault");
        let result = |fails: Option<ErrorKind>| match fails {
            Some(kind) => Err(injected(kind)),
            None => done.next().unwrap_or_else(|| Err(injected(ErrorKind::Io))),
        };
        fails.into_iter().map(result).collect()
    }
}

/// FNV-1a: the same everywhere.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn flip(region: &Region, random: u64) {
    let mut bytes = vec![0; region.len() as usize];
    if bytes.is_empty() || region.copy_to(&mut bytes).is_err() {
        return;
    }
    let at = (random >> 3) as usize % bytes.len();
    bytes[at] ^= 1 << (random % 8);
    // Its own length, so it fits.
    let _ = region.fill(&bytes);
}

#[derive(Debug)]
struct Copied;

impl IoPin for Copied {}

/// The first half of an object, in memory of its own.
fn torn(transfer: &Transfer) -> Option<Transfer> {
    let mut bytes = vec![0; transfer.region.len() as usize];
    transfer.region.copy_to(&mut bytes).ok()?;
    let half = transfer.region.len() / 2;
    let arena = Arena::private(half.max(1)).ok()?;
    arena.commit(half.max(1)).ok()?;
    arena.write(0, &bytes[..half as usize]).ok()?;
    let region = Region::new(Arc::new(arena), 0, half, Arc::new(Copied)).ok()?;
    Some(Transfer { key: transfer.key.clone(), region })
}

impl Adapter for Fault {
    forward!(inner: kind, capabilities, list, usage, usage_by_salt, set_quota, health, close);

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        let call = async |left: Vec<(ObjectKey, Fate)>| {
            self.inner.lookup(left.into_iter().map(|(key, _)| key).collect()).await
        };
        Box::pin(async move { self.each(Op::Lookup, keys, |key| key, call).await })
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        let call = async |left: Vec<(Transfer, Fate)>| {
            let fates: Vec<_> = left.iter().map(|(t, fate)| (t.region.clone(), fate.clone())).collect();
            let loaded = self.inner.load(left.into_iter().map(|(transfer, _)| transfer).collect()).await;
            let spoil = |((region, fate), result): ((Region, Fate), Result<(), L2Error>)| {
                result?;
                if fate.short_read {
                    return Err(L2Error::wrong_size(region.len() / 2, region.len()));
                }
                if let Some(random) = fate.flipped_bit {
                    flip(&region, random);
                }
                Ok(())
            };
            fates.into_iter().zip(loaded).map(spoil).collect()
        };
        Box::pin(async move { self.each(Op::Load, transfers, |transfer| &transfer.key, call).await })
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        let call = async |left: Vec<(Transfer, Fate)>| {
            let tear = |(transfer, fate): (Transfer, Fate)| {
                if fate.torn_write { torn(&transfer).unwrap_or(transfer) } else { transfer }
            };
            self.inner.store(left.into_iter().map(tear).collect()).await
        };
        Box::pin(async move { self.each(Op::Store, transfers, |transfer| &transfer.key, call).await })
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        let call = async |left: Vec<(ObjectKey, Fate)>| {
            self.inner.delete(left.into_iter().map(|(key, _)| key).collect()).await
        };
        Box::pin(async move { self.each(Op::Delete, keys, |key| key, call).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::mock::{Mock, MockConfig};
    use crate::testing::{Bench, bytes, contents};

    fn faulty(config: FaultConfig) -> Fault {
        let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 40 });
        Fault::new(Arc::new(mock), config)
    }

    #[tokio::test(start_paused = true)]
    async fn the_seed_decides_whatever_the_order() {
        let bench = Bench::new(1 << 20);
        let failed = async |seed, numbers: Vec<u64>| {
            let adapter = faulty(FaultConfig { seed, error: 0.4, ..FaultConfig::default() });
            let mut failed = Vec::new();
            for n in numbers {
                if adapter.store(vec![bench.object(n, 8)]).await[0].is_err() {
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
    async fn bytes_are_spoilt() {
        let bench = Bench::new(1 << 20);
        let adapter = faulty(FaultConfig { torn_write: 1.0, ..FaultConfig::default() });
        adapter.store(vec![bench.object(1, 1000)]).await[0].as_ref().unwrap();
        let short = adapter.load(vec![bench.blank(1, 1000)]).await;
        assert_eq!(short[0].as_ref().unwrap_err().kind(), ErrorKind::WrongSize);
        adapter.set(FaultConfig { bit_flip: 1.0, ..FaultConfig::default() });
        adapter.store(vec![bench.object(1, 1000)]).await[0].as_ref().unwrap();
        let blank = bench.blank(1, 1000);
        let region = blank.region.clone();
        adapter.load(vec![blank]).await[0].as_ref().unwrap();
        let differ = contents(&region).iter().zip(bytes(1, 1000)).filter(|(a, b)| **a != *b).count();
        assert_eq!(differ, 1);
        adapter.set(FaultConfig { short_read: 1.0, ..FaultConfig::default() });
        let short = adapter.load(vec![bench.blank(1, 1000)]).await;
        assert_eq!(short[0].as_ref().unwrap_err().kind(), ErrorKind::WrongSize);
    }
}
