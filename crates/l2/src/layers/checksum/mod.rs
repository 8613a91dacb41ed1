//! Detects that the backend returns other bytes than were stored, for backends that keep no checksums themselves.
//!
//! The checksum of each stored object is kept in memory. A load that does not match fails with
//! [`ErrorKind::Corrupt`], and the object is deleted so that it can be stored again. Objects without a checksum are
//! accepted. While an object is being stored its loads wait, because its old and new bytes could not be
//! distinguished.
//!
//! No other server may write to the backend: its objects would not match the checksums kept here, and would be
//! deleted.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_arena::Region;
use larder_types::object::ObjectKey;
use tokio::sync::Notify;

use crate::adapter::{Adapter, BoxFuture, Results, Stored, Transfer};
use crate::error::{ErrorKind, L2Error};
use crate::in_flight::InFlight;
use crate::pool::{JobKind, Pool, job_failed};

/// Hashing threads.
const WORKERS: usize = 2;

/// Bytes hashed at a time: whole subtrees of the hash, and small enough for a processor's cache.
const PIECE_BYTES: usize = 128 << 10;

/// Checksums of removed objects are tolerated up to this number, or to the number of objects.
const STALE_RECORDS: usize = 4096;

/// Page size of the listing that finds stale checksums.
const PAGE_OBJECTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// The layer.
#[derive(Debug)]
pub struct Checksum {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Arc<dyn Adapter>,
    pool: Pool,
    memory: Mutex<Memory>,
    in_flight: InFlight,
    /// Notified when stores have ended.
    stores_ended: Notify,
}

/// The checksum of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    sum: [u8; 16],
    bytes: u64,
}

#[derive(Debug, Default)]
struct Memory {
    records: HashMap<ObjectKey, Record>,
    /// Running stores by object: a load at the same time may read the old or the new bytes.
    storing: HashMap<ObjectKey, usize>,
    pruning: bool,
}

impl Checksum {
    /// Wraps `inner`.
    ///
    /// # Errors
    /// The hashing threads cannot be started.
    pub fn new(inner: Arc<dyn Adapter>) -> Result<Self, L2Error> {
        let pool = Pool::new("larder-l2-sum", WORKERS)?;
        let memory = Mutex::default();
        let (in_flight, stores_ended) = (InFlight::new(), Notify::new());
        Ok(Self { shared: Arc::new(Shared { inner, pool, memory, in_flight, stores_ended }) })
    }

    /// Runs `work` to its end, even if the caller drops the future.
    async fn to_the_end<T, F>(&self, count: usize, work: impl FnOnce(Arc<Shared>) -> F) -> Results<T>
    where
        T: Send + 'static,
        F: Future<Output = Results<T>> + Send + 'static,
    {
        match self.shared.in_flight.spawn(work(Arc::clone(&self.shared))) {
            Ok(task) => task.await.unwrap_or_else(|_| job_failed().for_all(count)),
            Err(closed) => closed.for_all(count),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sums(&self, regions: Vec<Region>) -> Results<[u8; 16]> {
        self.pool.run_each(JobKind::Metadata, regions.into_iter().map(|region| move || sum(&region))).await
    }

    async fn store(self: Arc<Self>, transfers: Vec<Transfer>) -> Results<Stored> {
        let keys: Vec<_> = transfers.iter().map(|transfer| transfer.key.clone()).collect();
        let lens: Vec<_> = transfers.iter().map(|transfer| transfer.region.len()).collect();
        let sums = self.sums(transfers.iter().map(|transfer| transfer.region.clone()).collect()).await;
        self.lock().begin_stores(&keys);
        let stored = self.inner.store(transfers).await;
        let mut memory = self.lock();
        for (((key, bytes), sum), result) in keys.iter().zip(lens).zip(sums).zip(&stored) {
            // An object that was there already keeps its checksum, or has none.
            if result.as_ref().is_ok_and(|stored| stored.written_bytes > 0 || bytes == 0) {
                match sum {
                    Ok(sum) => memory.records.insert(key.clone(), Record { sum, bytes }),
                    Err(_) => memory.records.remove(key),
                };
            }
        }
        memory.end_stores(&keys);
        drop(memory);
        self.stores_ended.notify_waiters();
        self.prune_if_stale();
        stored
    }

    /// The checksums of the objects, once none of them is being stored.
    async fn expected(&self, transfers: &[Transfer]) -> Vec<Option<Record>> {
        loop {
            let mut stores_ended = pin!(self.stores_ended.notified());
            stores_ended.as_mut().enable();
            let expected = {
                let memory = self.lock();
                transfers.iter().map(|transfer| memory.expected(transfer)).collect::<Vec<_>>()
            };
            let known = |expected| match expected {
                Expected::Known(record) => Some(record),
                Expected::BeingStored => None,
            };
            if let Some(records) = expected.into_iter().map(known).collect() {
                return records;
            }
            stores_ended.await;
        }
    }

    async fn load(self: Arc<Self>, transfers: Vec<Transfer>) -> Results<()> {
        let expected = self.expected(&transfers).await;
        let mut results = self.inner.load(transfers.clone()).await;
        let to_check: Vec<_> = (0..results.len().min(expected.len()))
            .filter_map(|at| expected[at].filter(|_| results[at].is_ok()).map(|record| (at, record)))
            .collect();
        let sums = self.sums(to_check.iter().map(|(at, _)| transfers[*at].region.clone()).collect()).await;
        let mut corrupt = Vec::new();
        for ((at, record), sum) in to_check.into_iter().zip(sums) {
            match sum {
                Ok(sum) if sum == record.sum => {}
                Err(error) => results[at] = Err(error),
                // Stored again during the read: the bytes may be of either version.
                Ok(_) if self.lock().expected(&transfers[at]) != Expected::Known(Some(record)) => {
                    let text = "the object was stored again while it was read";
                    results[at] = Err(L2Error::temporary(ErrorKind::NotFound, text));
                }
                Ok(_) => {
                    results[at] = Err(L2Error::permanent(ErrorKind::Corrupt, "the checksum does not match"));
                    corrupt.push(transfers[at].key.clone());
                }
            }
        }
        drop(transfers);
        if !corrupt.is_empty() {
            tracing::warn!(objects = corrupt.len(), "deleting L2 objects whose checksums do not match");
            let _ = self.delete(corrupt).await;
        }
        results
    }

    async fn delete(self: &Arc<Self>, keys: Vec<ObjectKey>) -> Results<bool> {
        let deleted = self.inner.delete(keys.clone()).await;
        let mut memory = self.lock();
        for (key, _) in keys.iter().zip(&deleted).filter(|(_, result)| result.is_ok()) {
            memory.records.remove(key);
        }
        drop(memory);
        deleted
    }

    /// Removes the checksums of objects that the backend removed on its own, once there are many.
    fn prune_if_stale(self: &Arc<Self>) {
        let objects = usize::try_from(self.inner.usage().objects).unwrap_or(usize::MAX);
        let may_list = self.inner.capabilities().list;
        let mut memory = self.lock();
        let tolerated = objects.max(STALE_RECORDS).saturating_add(objects);
        if memory.pruning || !may_list || memory.records.len() <= tolerated {
            return;
        }
        let Ok(running) = self.in_flight.begin() else { return };
        memory.pruning = true;
        drop(memory);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            shared.prune().await;
            shared.lock().pruning = false;
            drop(running);
        });
    }

    async fn prune(self: &Arc<Self>) {
        let known: Vec<_> = self.lock().records.keys().cloned().collect();
        let mut there = HashSet::new();
        let mut cursor = None;
        loop {
            let Ok(page) = self.inner.list(cursor, PAGE_OBJECTS).await else { return };
            there.extend(page.objects.into_iter().map(|object| object.key));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        // An object that was stored meanwhile may lose its checksum and is then unverified.
        let mut memory = self.lock();
        for key in known.iter().filter(|key| !there.contains(*key)) {
            memory.records.remove(key);
        }
    }
}

/// The checksum of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// `None`: the object has no checksum.
    Known(Option<Record>),
    /// The object is being stored.
    BeingStored,
}

impl Memory {
    fn expected(&self, transfer: &Transfer) -> Expected {
        if self.storing.contains_key(&transfer.key) {
            return Expected::BeingStored;
        }
        let record = self.records.get(&transfer.key).copied();
        Expected::Known(record.filter(|record| record.bytes == transfer.region.len()))
    }

    fn begin_stores(&mut self, keys: &[ObjectKey]) {
        keys.iter().for_each(|key| *self.storing.entry(key.clone()).or_default() += 1);
    }

    fn end_stores(&mut self, keys: &[ObjectKey]) {
        for key in keys {
            if let Some(count) = self.storing.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.storing.remove(key);
                }
            }
        }
    }
}

/// The first half of the object's BLAKE3 hash, computed over copied pieces: there must be no reference to the
/// arena's memory, and a piece that was just copied is still in the processor's cache.
fn sum(region: &Region) -> Result<[u8; 16], L2Error> {
    let failed = |error| L2Error::permanent(ErrorKind::Io, "hash object").with_source(error);
    let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(region.len()).unwrap_or(PIECE_BYTES))];
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < region.len() {
        let len = region.copy_part(at, &mut piece).map_err(failed)?;
        hasher.update(&piece[..len]);
        at += len as u64;
    }
    let mut sum = [0; 16];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Ok(sum)
}

impl Adapter for Checksum {
    forward!(shared.inner: kind, capabilities, lookup, list, usage, usage_by_salt, set_quota, health, failures);

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        Box::pin(async move { self.to_the_end(transfers.len(), |shared| shared.load(transfers)).await })
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        Box::pin(async move { self.to_the_end(transfers.len(), |shared| shared.store(transfers)).await })
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        Box::pin(async move {
            let count = keys.len();
            self.to_the_end(count, |shared| async move { shared.delete(keys).await }).await
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.shared.in_flight.close().await;
            self.shared.inner.close().await;
            self.shared.pool.close().await;
        })
    }
}

#[cfg(test)]
mod tests;
