//! Notices when the backend gives back other bytes than it was given.
//!
//! A checksum of each object that passes is kept beside the data, never in it: the files stay those of
//! the reference. A load that does not match is [`ErrorKind::Corrupt`], and the object is deleted so
//! that it can be stored again. Objects without a checksum are accepted as they are. While an object is
//! being stored its loads wait: nothing would tell the old bytes, sound or not, from the new ones.
//!
//! The backend must belong to this server alone. Where others write too, an object of theirs does not
//! match what we remember, and is deleted for nothing.

mod sidecar;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_arena::Region;
use larder_types::object::ObjectKey;
use tokio::sync::Notify;

use self::sidecar::{Line, Record, Sidecar};
use crate::adapter::{Adapter, BoxFuture, Results, Stored, Transfer};
use crate::error::{ErrorKind, L2Error};
use crate::in_flight::InFlight;
use crate::pool::{Lane, Pool, job_failed};

pub use self::sidecar::SIDECAR_NAME;

/// Threads that hash.
const WORKERS: usize = 2;

/// Bytes that are hashed at a time: whole subtrees of the hash, and well inside a processor's cache.
const PIECE_BYTES: usize = 128 << 10;

/// Checksums of objects that are gone are tolerated up to this number, or to as many as there are objects.
const STALE_RECORDS: usize = 4096;

/// Objects in one page when stale checksums are looked for.
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
    /// Locked before `memory`, and by threads of the pool alone: it is held while the file is written.
    sidecar: Mutex<Option<Sidecar>>,
    in_flight: InFlight,
    /// Rung when stores have ended.
    settles: Notify,
}

#[derive(Debug)]
struct Memory {
    records: HashMap<ObjectKey, Record>,
    /// Stores under way: what is read meanwhile may be the old or the new bytes.
    storing: HashMap<ObjectKey, usize>,
    pruning: bool,
}

impl Checksum {
    /// Wraps `inner`. Checksums are kept in `directory` if there is one, else in memory.
    ///
    /// # Errors
    /// The file with the checksums cannot be opened, or another server uses it.
    pub fn new(inner: Arc<dyn Adapter>, directory: Option<&Path>) -> Result<Self, L2Error> {
        let (sidecar, records) = match directory.map(Sidecar::open).transpose()? {
            Some((sidecar, records)) => (Some(sidecar), records),
            None => (None, HashMap::new()),
        };
        let memory = Mutex::new(Memory { records, storing: HashMap::new(), pruning: false });
        let pool = Pool::new("larder-l2-sum", WORKERS)?;
        let (sidecar, in_flight, settles) = (Mutex::new(sidecar), InFlight::new(), Notify::new());
        Ok(Self { shared: Arc::new(Shared { inner, pool, memory, sidecar, in_flight, settles }) })
    }

    /// Runs `work` to its end, whether or not anybody waits.
    async fn to_the_end<T, F>(&self, count: usize, work: impl FnOnce(Arc<Shared>) -> F) -> Results<T>
    where
        T: Send + 'static,
        F: Future<Output = Results<T>> + Send + 'static,
    {
        let fail = |error: L2Error| std::iter::repeat_with(move || Err(error.clone())).take(count).collect();
        let running = match self.shared.in_flight.begin() {
            Ok(running) => running,
            Err(closed) => return fail(closed),
        };
        let work = work(Arc::clone(&self.shared));
        let task = tokio::spawn(async move {
            let results = work.await;
            drop(running);
            results
        });
        task.await.unwrap_or_else(|_| fail(job_failed()))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sums(&self, regions: Vec<Region>) -> Results<[u8; 16]> {
        self.pool.run_each(Lane::Ask, regions.into_iter().map(|region| move || sum(&region))).await
    }

    async fn store(self: Arc<Self>, transfers: Vec<Transfer>) -> Results<Stored> {
        let keys: Vec<_> = transfers.iter().map(|transfer| transfer.key.clone()).collect();
        let lens: Vec<_> = transfers.iter().map(|transfer| transfer.region.len()).collect();
        let sums = self.sums(transfers.iter().map(|transfer| transfer.region.clone()).collect()).await;
        self.lock().begin_stores(&keys);
        let stored = self.inner.store(transfers).await;
        let mut lines = Vec::new();
        for (((key, bytes), sum), result) in keys.iter().zip(lens).zip(sums).zip(&stored) {
            // What was there already keeps the checksum it has, or has none.
            if result.as_ref().is_ok_and(|stored| stored.written_bytes > 0 || bytes == 0) {
                lines.push(match sum {
                    Ok(sum) => Line::Add(key.clone(), Record { sum, bytes }),
                    Err(_) => Line::Remove(key.clone()),
                });
            }
        }
        self.write(lines).await;
        self.lock().end_stores(&keys);
        self.settles.notify_waiters();
        self.prune_if_stale();
        stored
    }

    /// What is known of the objects, once none of them is being stored.
    async fn expected(&self, transfers: &[Transfer]) -> Vec<Option<Record>> {
        loop {
            let mut settles = pin!(self.settles.notified());
            settles.as_mut().enable();
            let expected = {
                let memory = self.lock();
                transfers.iter().map(|transfer| memory.expected(transfer)).collect::<Vec<_>>()
            };
            let settled = |expected| match expected {
                Settled::Yes(record) => Some(record),
                Settled::No => None,
            };
            if let Some(records) = expected.into_iter().map(settled).collect() {
                return records;
            }
            settles.await;
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
                // Stored anew while we read: the bytes may be of either.
                Ok(_) if self.lock().expected(&transfers[at]) != Settled::Yes(Some(record)) => {
                    let text = "the object was stored anew while it was read";
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
            tracing::warn!(objects = corrupt.len(), "deleting objects whose checksums do not match");
            let _ = self.delete(corrupt).await;
        }
        results
    }

    async fn delete(self: &Arc<Self>, keys: Vec<ObjectKey>) -> Results<bool> {
        let deleted = self.inner.delete(keys.clone()).await;
        let gone = keys.into_iter().zip(&deleted).filter(|(_, result)| result.is_ok());
        self.write(gone.map(|(key, _)| Line::Remove(key)).collect()).await;
        deleted
    }

    /// Takes `lines` into the records and the file, in the same order for both.
    async fn write(self: &Arc<Self>, lines: Vec<Line>) {
        if lines.is_empty() {
            return;
        }
        let shared = Arc::clone(self);
        if let Ok(written) = self.pool.run(Lane::Ask, move || shared.write_blocking(lines)) {
            // It has failed only if that thread panicked; then these objects are unverified.
            let _ = written.await;
        }
    }

    fn write_blocking(&self, mut lines: Vec<Line>) {
        let mut sidecar = self.sidecar.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = self.lock();
        lines.retain(|line| memory.apply(line));
        let Some(sidecar) = sidecar.as_mut().filter(|_| !lines.is_empty()) else { return };
        let all = sidecar.wants_rewrite(lines.len(), memory.records.len()).then(|| memory.records.clone());
        drop(memory);
        let written = match all {
            Some(records) => sidecar.rewrite(&records),
            None => sidecar.append(&lines),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "checksums are not written: objects are unverified after a restart");
        }
    }

    /// Forgets objects that the backend has removed by itself, once there are many.
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
        // At worst this forgets one that was stored meanwhile, which is then unverified.
        let gone = known.into_iter().filter(|key| !there.contains(key)).map(Line::Remove);
        self.write(gone.collect()).await;
    }
}

/// Whether what is known of an object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    /// It does; nothing is known of what others wrote.
    Yes(Option<Record>),
    /// The object is being stored.
    No,
}

impl Memory {
    fn expected(&self, transfer: &Transfer) -> Settled {
        if self.storing.contains_key(&transfer.key) {
            return Settled::No;
        }
        let record = self.records.get(&transfer.key).copied();
        Settled::Yes(record.filter(|record| record.bytes == transfer.region.len()))
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

    /// Whether `line` says anything new.
    fn apply(&mut self, line: &Line) -> bool {
        match line {
            Line::Add(key, record) => self.records.insert(key.clone(), *record) != Some(*record),
            Line::Remove(key) => self.records.remove(key).is_some(),
        }
    }
}

/// The first half of the object's BLAKE3 hash, taken piece by piece: nobody may refer to the arena's
/// memory itself, and a piece that was just copied is still in the processor's cache.
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
    forward!(shared.inner: kind, capabilities, lookup, list, usage, usage_by_salt, set_quota, health);

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
