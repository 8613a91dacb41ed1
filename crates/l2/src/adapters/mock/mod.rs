//! Objects in memory behind a simulated bandwidth, for tests and experiments.
//!
//! Each operation takes as long as its bytes need at the bandwidth, on the runtime's clock, so tests with a
//! paused clock take no time. Evicts the least recently used objects at its capacity.

mod config;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_types::object::ObjectKey;

use crate::adapter::{
    Adapter, BoxFuture, Capabilities, Cursor, Failures, Health, Listed, Page, Results, Stored, Transfer,
    Usage, holds,
};
use crate::capacity::{CapacityLimits, CapacityTracker, Reserve};
use crate::error::{ErrorKind, L2Error};
use crate::eviction::{EvictionListener, EvictionReason};
use crate::in_flight::InFlight;
use crate::pool::job_failed;

pub use self::config::MockConfig;

/// The `mock` adapter.
#[derive(Debug)]
pub struct Mock {
    shared: Arc<Shared>,
    in_flight: InFlight,
}

#[derive(Debug)]
struct Shared {
    bandwidth: u64,
    memory: Mutex<Memory>,
    listener: Option<Arc<dyn EvictionListener>>,
}

#[derive(Debug)]
struct Memory {
    tracker: CapacityTracker,
    objects: HashMap<ObjectKey, Arc<[u8]>>,
}

impl Mock {
    /// An empty adapter.
    pub fn new(config: &MockConfig) -> Self {
        Self::with_listener(config, None)
    }

    /// An empty adapter that reports evictions to `listener`.
    pub fn with_listener(config: &MockConfig, listener: Option<Arc<dyn EvictionListener>>) -> Self {
        let tracker = CapacityTracker::new(CapacityLimits::capacity(config.max_size_bytes));
        let memory = Memory { tracker, objects: HashMap::new() };
        let bandwidth = config.bandwidth_bytes_per_second.max(1);
        let shared = Shared { bandwidth, memory: Mutex::new(memory), listener };
        Self { shared: Arc::new(shared), in_flight: InFlight::new() }
    }

    /// Moves the bytes in a task of its own, so that it completes even if the caller drops the future.
    async fn transfer<T: Send + 'static>(
        &self,
        transfers: Vec<Transfer>,
        act: impl Fn(&Shared, &Transfer) -> Result<T, L2Error> + Send + 'static,
    ) -> Results<T> {
        let count = transfers.len();
        let shared = Arc::clone(&self.shared);
        let task = self.in_flight.spawn(async move {
            let bytes: u64 = transfers.iter().map(|transfer| transfer.region.len()).sum();
            tokio::time::sleep(shared.duration(bytes)).await;
            transfers.iter().map(|transfer| act(&shared, transfer)).collect()
        });
        match task {
            Ok(task) => task.await.unwrap_or_else(|_| job_failed().for_all(count)),
            Err(closed) => closed.for_all(count),
        }
    }

    fn with_each<T>(
        &self,
        keys: &[ObjectKey],
        mut act: impl FnMut(&mut Memory, &ObjectKey) -> T,
    ) -> Results<T> {
        match self.in_flight.begin() {
            Ok(_running) => {
                let mut memory = self.shared.lock();
                keys.iter().map(|key| Ok(act(&mut memory, key))).collect()
            }
            Err(closed) => closed.for_all(keys.len()),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn duration(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bandwidth);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn load(&self, transfer: &Transfer) -> Result<(), L2Error> {
        let object = {
            let mut memory = self.lock();
            memory.tracker.touch(&transfer.key);
            memory.objects.get(&transfer.key).cloned().ok_or_else(L2Error::not_found)?
        };
        let wrong_size = |_| L2Error::wrong_size(object.len() as u64, transfer.region.len());
        transfer.region.fill(&object).map_err(wrong_size)
    }

    fn store(&self, transfer: &Transfer) -> Result<Stored, L2Error> {
        let bytes = transfer.region.len();
        let mut memory = self.lock();
        if memory.tracker.get(&transfer.key).is_some_and(|stored| holds(stored, bytes)) {
            memory.tracker.touch(&transfer.key);
            return Ok(Stored { written_bytes: 0 });
        }
        memory.remove(&transfer.key);
        let salt = &transfer.key.cache_salt;
        loop {
            match memory.tracker.reserve(salt, bytes) {
                Reserve::Reserved => break,
                Reserve::Evict(victim) => {
                    memory.tracker.evicted(&victim);
                    memory.objects.remove(&victim);
                    if let Some(listener) = &self.listener {
                        listener.on_removed(&victim, EvictionReason::Evicted);
                    }
                }
                Reserve::Busy | Reserve::Never(_) => {
                    return Err(L2Error::permanent(
                        ErrorKind::OverLimit,
                        "the object is larger than max_size_gb",
                    ));
                }
            }
        }
        memory.tracker.release(salt, bytes);
        let mut object = vec![0; transfer.region.len() as usize];
        let copied = transfer.region.copy_to(&mut object);
        copied.map_err(|error| L2Error::permanent(ErrorKind::Io, "copy object").with_source(error))?;
        memory.tracker.insert(&transfer.key, bytes);
        memory.objects.insert(transfer.key.clone(), object.into());
        Ok(Stored { written_bytes: bytes })
    }
}

impl Memory {
    fn remove(&mut self, key: &ObjectKey) -> bool {
        self.tracker.remove(key);
        self.objects.remove(key).is_some()
    }

    fn list(&self, cursor: Option<&Cursor>, limit: usize) -> Page {
        let mut names: Vec<_> =
            self.objects.iter().map(|(key, object)| (key.file_name(), key, object)).collect();
        names.retain(|(name, ..)| cursor.is_none_or(|cursor| *name > cursor.0));
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let more = names.len() > limit;
        names.truncate(limit);
        let next = names.last().filter(|_| more).map(|(name, ..)| Cursor(name.clone()));
        let listed = |(_, key, object): (String, &ObjectKey, &Arc<[u8]>)| Listed {
            key: key.clone(),
            stored_bytes: object.len() as u64,
        };
        Page { objects: names.into_iter().map(listed).collect(), next }
    }
}

impl Adapter for Mock {
    fn kind(&self) -> &'static str {
        "mock"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { list: true, evicts: true, batched: false }
    }

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        Box::pin(async move {
            self.with_each(&keys, |memory, key| {
                memory.tracker.touch(key);
                memory.tracker.get(key)
            })
        })
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        Box::pin(self.transfer(transfers, Shared::load))
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        Box::pin(self.transfer(transfers, Shared::store))
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        Box::pin(async move { self.with_each(&keys, Memory::remove) })
    }

    fn list(&self, cursor: Option<Cursor>, limit: NonZeroUsize) -> BoxFuture<'_, Result<Page, L2Error>> {
        Box::pin(async move {
            let _running = self.in_flight.begin()?;
            Ok(self.shared.lock().list(cursor.as_ref(), limit.get()))
        })
    }

    fn usage(&self) -> Usage {
        self.shared.lock().tracker.usage(false)
    }

    fn usage_by_salt(&self) -> Vec<(Arc<str>, u64)> {
        self.shared.lock().tracker.usage_by_salt()
    }

    fn set_quota(&self, _: &Arc<str>, _: Option<u64>) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn health(&self) -> Health {
        Health::default()
    }

    fn failures(&self) -> Failures {
        Failures::default()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.in_flight.close())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestArena;

    #[tokio::test(start_paused = true)]
    async fn operations_take_bytes_over_bandwidth() {
        let arena = TestArena::new(1 << 20);
        let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1000 });
        let started = tokio::time::Instant::now();
        let stored = mock.store(vec![arena.object(1, 3000), arena.object(2, 1000)]).await;
        assert!(stored.iter().all(Result::is_ok));
        assert_eq!(started.elapsed(), Duration::from_secs(4));
        mock.load(vec![arena.blank(1, 3000)]).await[0].as_ref().unwrap();
        assert_eq!(started.elapsed(), Duration::from_secs(7));
    }
}
