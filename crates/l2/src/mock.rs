//! Objects in memory behind a simulated bandwidth, for tests and for trying things out.
//!
//! Each operation takes as long as its bytes need at the bandwidth, on the runtime's clock, so paused
//! tests need no time. Bounded like the real ones: whoever was not used for longest leaves.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use larder_types::object::ObjectKey;

use crate::adapter::{
    Adapter, BoxFuture, Capabilities, Cursor, Health, Listed, Page, Results, Stored, Transfer, Usage, holds,
};
use crate::books::{Books, Room};
use crate::capacity::CapacityLimits;
use crate::error::{ErrorKind, L2Error};
use crate::eviction::{EvictionListener, EvictionReason};
use crate::in_flight::InFlight;
use crate::pool::job_failed;

/// Settings of the `mock` adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockConfig {
    /// Bytes it may hold. More than 0.
    pub max_size_bytes: u64,
    /// Bytes it moves in a second. More than 0.
    pub bandwidth_bytes_per_second: u64,
}

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
    watch: OnceLock<Arc<dyn EvictionListener>>,
}

#[derive(Debug)]
struct Memory {
    books: Books,
    objects: HashMap<ObjectKey, Arc<[u8]>>,
}

impl Mock {
    /// An empty one.
    pub fn new(config: &MockConfig) -> Self {
        let memory = Memory {
            books: Books::new(CapacityLimits::capacity(config.max_size_bytes)),
            objects: HashMap::new(),
        };
        let bandwidth = config.bandwidth_bytes_per_second.max(1);
        let shared = Shared { bandwidth, memory: Mutex::new(memory), watch: OnceLock::new() };
        Self { shared: Arc::new(shared), in_flight: InFlight::new() }
    }

    /// Tells `watch` of what leaves from now on. The first one stays.
    pub fn watch(&self, watch: Arc<dyn EvictionListener>) {
        let _ = self.shared.watch.set(watch);
    }

    /// Moves the bytes in a task of its own, so that it ends whether or not anybody waits.
    async fn transfer<T: Clone + Send + 'static>(
        &self,
        transfers: Vec<Transfer>,
        act: impl Fn(&Shared, &Transfer) -> Result<T, L2Error> + Send + 'static,
    ) -> Results<T> {
        let count = transfers.len();
        let running = match self.in_flight.begin() {
            Ok(running) => running,
            Err(error) => return vec![Err(error); count],
        };
        let shared = Arc::clone(&self.shared);
        let task = tokio::spawn(async move {
            let bytes: u64 = transfers.iter().map(|transfer| transfer.region.len()).sum();
            tokio::time::sleep(shared.duration(bytes)).await;
            let results: Vec<_> = transfers.iter().map(|transfer| act(&shared, transfer)).collect();
            drop(transfers);
            drop(running);
            results
        });
        task.await.unwrap_or_else(|_| vec![Err(job_failed()); count])
    }

    fn with_each<T: Clone>(
        &self,
        keys: &[ObjectKey],
        mut act: impl FnMut(&mut Memory, &ObjectKey) -> T,
    ) -> Results<T> {
        match self.in_flight.begin() {
            Ok(_running) => {
                let mut memory = self.shared.lock();
                keys.iter().map(|key| Ok(act(&mut memory, key))).collect()
            }
            Err(error) => vec![Err(error); keys.len()],
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
            memory.books.touch(&transfer.key);
            memory.objects.get(&transfer.key).cloned().ok_or_else(L2Error::not_found)?
        };
        let wrong_size = |_| L2Error::wrong_size(object.len() as u64, transfer.region.len());
        transfer.region.fill(&object).map_err(wrong_size)
    }

    fn store(&self, transfer: &Transfer) -> Result<Stored, L2Error> {
        let bytes = transfer.region.len();
        let mut memory = self.lock();
        if memory.books.get(&transfer.key).is_some_and(|stored| holds(stored, bytes)) {
            memory.books.touch(&transfer.key);
            return Ok(Stored { written_bytes: 0 });
        }
        memory.remove(&transfer.key);
        let salt = &transfer.key.cache_salt;
        loop {
            match memory.books.reserve(salt, bytes) {
                Room::Reserved => break,
                Room::Leaves(victim) => {
                    memory.books.evicted(&victim);
                    memory.objects.remove(&victim);
                    self.watch.get().inspect(|watch| watch.on_removed(&victim, EvictionReason::Evicted));
                }
                Room::None | Room::Never(_) => {
                    return Err(L2Error::permanent(ErrorKind::Full, "the object is larger than max_size_gb"));
                }
            }
        }
        memory.books.release(salt, bytes);
        let mut object = vec![0; transfer.region.len() as usize];
        let copied = transfer.region.copy_to(&mut object);
        copied.map_err(|error| L2Error::permanent(ErrorKind::Io, "copy object").with_source(error))?;
        memory.books.put(&transfer.key, bytes);
        memory.objects.insert(transfer.key.clone(), object.into());
        Ok(Stored { written_bytes: bytes })
    }
}

impl Memory {
    fn remove(&mut self, key: &ObjectKey) -> bool {
        self.books.remove(key);
        self.objects.remove(key).is_some()
    }

    fn list(&self, cursor: Option<&Cursor>, limit: usize) -> Page {
        let mut names: Vec<_> =
            self.objects.iter().map(|(key, object)| (key.native_key(), key, object)).collect();
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
        Capabilities { list: true, persistent: false, evicts: true, batched: false }
    }

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        Box::pin(async move {
            self.with_each(&keys, |memory, key| {
                memory.books.touch(key);
                memory.books.get(key)
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
        self.shared.lock().books.usage(false)
    }

    fn usage_by_salt(&self) -> Vec<(Arc<str>, u64)> {
        self.shared.lock().books.usage_by_salt()
    }

    fn set_quota(&self, _: &Arc<str>, _: Option<u64>) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn health(&self) -> Health {
        Health::default()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.in_flight.close())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[tokio::test(start_paused = true)]
    async fn an_operation_takes_its_bytes_over_the_bandwidth() {
        let bench = Bench::new(1 << 20);
        let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1000 });
        let started = tokio::time::Instant::now();
        let stored = mock.store(vec![bench.object(1, 3000), bench.object(2, 1000)]).await;
        assert!(stored.iter().all(Result::is_ok));
        assert_eq!(started.elapsed(), Duration::from_secs(4));
        mock.load(vec![bench.blank(1, 3000)]).await[0].as_ref().unwrap();
        assert_eq!(started.elapsed(), Duration::from_secs(7));
    }
}
