//! One file per object, in one directory.
//!
//! Names and bytes are those of LMCache (`docs/formats.md`): either server reads what the other wrote. A
//! file is written under a unique temporary name and then renamed, so a reader finds an object complete or
//! not at all. Unless [`SyncPolicy::None`] is chosen, its bytes are synced before, and its name after that.
//!
//! **Checksums** are attributes of the files (`records`). A file with other bytes than were stored, or with those of
//! another object, is a miss, and is removed so that the next store repairs it.
//!
//! An object is opened once and moved in one call where the kernel does that, directly between the file
//! and the arena, on threads of the adapter. Objects are not split: a batch keeps the threads busy, and one
//! thread was measured to read one object as fast as memory is copied.
//!
//! **Capacity** is exact: before an object is written its bytes are reserved, and the least recently used
//! objects are evicted until they fit. Objects that are being read are not evicted. A bounded adapter
//! stores nothing until it has counted what earlier processes left; loads do not wait for that. The same
//! holds for quotas of cache salts ([`CapacityLimits`]). A file system that is full before the capacity is makes the
//! oldest objects leave likewise (`full_disk`). What others remove is noticed (`dir_watch`), and a fault of one
//! file is a miss of its object (`faults`). What a restart finds of a salt over its
//! quota stays until the salt stores or its quota is set: without `--state-dir` quotas are not kept over a
//! restart, and no data should be evicted before its quota is known.

mod access;
mod commit;
mod config;
mod dir_watch;
mod directory;
mod faults;
mod file;
mod file_system;
mod full_disk;
mod long_names;
mod names;
mod object_dir;
mod record;
mod records;
mod scan;
mod space;
mod sync_policy;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use larder_types::object::ObjectKey;
use tokio::sync::{oneshot, watch};

use crate::adapter::{
    Adapter, BoxFuture, Capabilities, Circuit, Cursor, Failures, Health, Page, Results, Space, Stored,
    Transfer, Usage,
};
use crate::capacity::CapacityLimits;
use crate::error::{ErrorKind, L2Error};
use crate::eviction::EvictionListener;
use crate::pool::{JobKind, Pool, job_failed};

use self::commit::Committer;
use self::dir_watch::DirWatch;
use self::file::Mode;
use self::file_system::{FileSystem, Mounted};
use self::object_dir::ObjectDir;
use self::space::SpaceMonitor;

pub use self::access::FileMode;
pub use self::config::{FsConfig, FsNativeConfig};
pub use self::record::Record;
pub use self::sync_policy::SyncPolicy;

/// Unfinished files without locks, such as LMCache's, are abandoned when they are older than this.
const STALE_AFTER: Duration = Duration::from_secs(3600);

/// Keys that one job looks up: each takes a microsecond or two.
const LOOKUP_KEYS: usize = 64;

/// The `fs` and `fs_native` adapters.
#[derive(Debug)]
pub struct Fs {
    kind: &'static str,
    dir: Arc<ObjectDir>,
    pool: Arc<Pool>,
    /// Commits objects under [`SyncPolicy::Batch`].
    committer: Arc<Committer>,
    /// Whether all objects in the directory have been counted.
    counted: watch::Receiver<bool>,
    space: Arc<SpaceMonitor>,
    watch: DirWatch,
}

impl Fs {
    /// Opens the `fs` adapter.
    ///
    /// # Errors
    /// The directory cannot be created, or the settings contradict each other.
    pub fn open(
        config: &FsConfig,
        num_workers: usize,
        limits: CapacityLimits,
        listener: Option<Arc<dyn EvictionListener>>,
    ) -> Result<Self, L2Error> {
        let mode = Mode { pad: false, ..config.io_mode() };
        Self::start("fs", config, mode, num_workers, limits, listener, Arc::new(Mounted))
    }

    /// Opens the `fs_native` adapter: files are padded to whole blocks under `use_odirect`.
    ///
    /// # Errors
    /// As [`Fs::open`].
    pub fn open_native(
        config: &FsNativeConfig,
        limits: CapacityLimits,
        listener: Option<Arc<dyn EvictionListener>>,
    ) -> Result<Self, L2Error> {
        let FsNativeConfig { fs, num_workers } = config;
        let mode = Mode { pad: true, ..fs.io_mode() };
        Self::start("fs_native", fs, mode, *num_workers, limits, listener, Arc::new(Mounted))
    }

    fn start(
        kind: &'static str,
        config: &FsConfig,
        mode: Mode,
        num_workers: usize,
        limits: CapacityLimits,
        listener: Option<Arc<dyn EvictionListener>>,
        files: Arc<dyn FileSystem>,
    ) -> Result<Self, L2Error> {
        let place = config.place(mode, files);
        let place = place.map_err(|error| L2Error::permanent(ErrorKind::Unsupported, error))?;
        let dir = Arc::new(ObjectDir::new(place, limits, listener));
        if dir.files().is_directory(dir.base()) {
            config.mode.warn_if_wider(dir.base());
        }
        dir.make_directories()?;
        // The scan counts what is there.
        dir.take_uncounted();
        let pool = Arc::new(Pool::new("larder-l2-fs", num_workers)?);
        let counted = count_in_background(&dir, &pool)?;
        let space = Arc::new(SpaceMonitor::new(dir.base()));
        let watch = DirWatch::start(&dir)?;
        let committer = Arc::new(Committer::new(Arc::clone(&dir)));
        Ok(Self { kind, dir, pool, committer, counted, space, watch })
    }

    /// Returns once all objects that were in the directory at the start have been counted.
    pub async fn counted(&self) {
        // An error means that the thread has ended.
        let _ = self.counted.clone().wait_for(|counted| *counted).await;
    }

    /// Stores objects, each alone or with those that other calls store at the same time.
    async fn store_each(&self, transfers: Vec<Transfer>) -> Results<Stored> {
        if self.dir.sync() != SyncPolicy::Batch {
            let jobs = transfers.into_iter().map(|transfer| {
                let dir = Arc::clone(&self.dir);
                move || dir.store(&transfer)
            });
            return self.pool.run_each(JobKind::Store, jobs).await;
        }
        let start = |transfer| {
            let (result, receiver) = oneshot::channel();
            let committer = Arc::clone(&self.committer);
            self.pool.run(JobKind::Store, move || committer.store(transfer, result)).map(|_| receiver)
        };
        let started: Vec<_> = transfers.into_iter().map(start).collect();
        let mut results = Vec::with_capacity(started.len());
        for receiver in started {
            results.push(match receiver {
                Ok(receiver) => receiver.await.unwrap_or_else(|_| Err(job_failed())),
                Err(refused) => Err(refused),
            });
        }
        results
    }

    /// Records a use of these objects, the chunks of a prompt in order, so that the first is evicted last.
    async fn touch(&self, keys: Vec<ObjectKey>) {
        if !keys.is_empty() {
            // An error means that the adapter is closed.
            let _ = self.run(JobKind::Metadata, move |dir| dir.touch(&keys)).await;
        }
    }

    /// Evicts in advance, once the objects of a batch are in order: its last chunks go first.
    async fn trim(&self, salts: BTreeSet<Arc<str>>) {
        if !self.dir.trims() || salts.is_empty() {
            return;
        }
        // An error of the pool means that the adapter is closed.
        let trimmed =
            self.run(JobKind::Metadata, move |dir| dir.trim(salts.iter().map(|salt| &**salt))).await;
        if let Ok(Err(error)) = trimmed {
            tracing::debug!(%error, "could not evict objects in advance");
        }
    }

    /// The last known size of the file system. Starts a refresh if it is old: a file system that hangs blocks
    /// that thread only.
    fn space(&self) -> Option<Space> {
        if self.space.claim_refresh(Instant::now()) {
            let (space, dir) = (Arc::clone(&self.space), Arc::clone(&self.dir));
            // An error means that the adapter is closed.
            if self.pool.run(JobKind::Metadata, move || space.refresh(dir.base(), Instant::now())).is_err() {
                self.space.abandon_refresh();
            }
        }
        self.space.last()
    }

    async fn run<T: Send + 'static>(
        &self,
        kind: JobKind,
        job: impl FnOnce(&ObjectDir) -> T + Send + 'static,
    ) -> Result<T, L2Error> {
        let dir = Arc::clone(&self.dir);
        self.pool.run(kind, move || job(&dir))?.await.map_err(|_| job_failed())
    }
}

fn count_in_background(dir: &Arc<ObjectDir>, pool: &Arc<Pool>) -> Result<watch::Receiver<bool>, L2Error> {
    let (done, counted) = watch::channel(false);
    let (dir, pool) = (Arc::clone(dir), Arc::clone(pool));
    let count = move || {
        let result = scan::recover(&dir, STALE_AFTER, || !pool.is_closed() && !done.is_closed());
        let result = result.and_then(|()| dir.fit());
        if let Err(error) = result {
            let path = dir.base().display();
            tracing::warn!(%path, %error, "could not count the objects of an L2 directory; its usage is reported too low until they are used");
        }
        done.send_replace(true);
    };
    let builder = thread::Builder::new().name("larder-l2-scan".to_owned());
    builder.spawn(count).map_err(|error| L2Error::system("start the scan", error))?;
    Ok(counted)
}

impl Adapter for Fs {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { list: true, evicts: self.dir.is_bounded(), batched: false }
    }

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        Box::pin(async move {
            let mut waiting = Vec::with_capacity(keys.len().div_ceil(LOOKUP_KEYS));
            for part in keys.chunks(LOOKUP_KEYS) {
                let (part, dir) = (part.to_vec(), Arc::clone(&self.dir));
                let len = part.len();
                waiting.push((len, self.pool.run(JobKind::Metadata, move || dir.lookup(&part))));
            }
            let mut results = Vec::with_capacity(keys.len());
            for (len, part) in waiting {
                let part = match part {
                    Ok(receiver) => receiver.await.map_err(|_| job_failed()),
                    Err(refused) => Err(refused),
                };
                match part {
                    Ok(part) => results.extend(part),
                    Err(error) => results.extend(error.for_all(len)),
                }
            }
            let found = keys.into_iter().zip(&results).filter(|(_, found)| matches!(found, Ok(Some(_))));
            self.touch(found.map(|(key, _)| key).collect()).await;
            results
        })
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        let jobs = transfers.into_iter().map(|transfer| {
            let dir = Arc::clone(&self.dir);
            move || dir.load(&transfer)
        });
        Box::pin(self.pool.run_each(JobKind::Load, jobs))
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        Box::pin(async move {
            if self.dir.is_bounded() {
                self.counted().await;
            }
            let keys: Vec<_> = transfers.iter().map(|transfer| transfer.key.clone()).collect();
            let results = self.store_each(transfers).await;
            let stored = keys.into_iter().zip(&results).filter(|(_, stored)| stored.is_ok());
            let stored: Vec<_> = stored.map(|(key, _)| key).collect();
            let salts: BTreeSet<_> = stored.iter().map(|key| key.cache_salt.clone()).collect();
            self.touch(stored).await;
            self.trim(salts).await;
            results
        })
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        let jobs = keys.into_iter().map(|key| {
            let dir = Arc::clone(&self.dir);
            move || dir.delete(&key)
        });
        Box::pin(self.pool.run_each(JobKind::Metadata, jobs))
    }

    fn list(&self, cursor: Option<Cursor>, limit: NonZeroUsize) -> BoxFuture<'_, Result<Page, L2Error>> {
        Box::pin(async move {
            self.run(JobKind::Metadata, move |dir| scan::list(dir, cursor.as_ref(), limit)).await?
        })
    }

    fn usage(&self) -> Usage {
        let recovering = !*self.counted.borrow();
        let integrity = self.dir.integrity();
        Usage { space: self.space(), integrity, ..self.dir.tracker().usage(recovering) }
    }

    fn usage_by_salt(&self) -> Vec<(Arc<str>, u64)> {
        self.dir.tracker().usage_by_salt()
    }

    fn set_quota(&self, salt: &Arc<str>, limit_bytes: Option<u64>) -> BoxFuture<'_, ()> {
        self.dir.tracker().set_limit(salt, limit_bytes);
        let salt = salt.clone();
        Box::pin(async move {
            self.counted().await;
            // An error of the pool means that the adapter is closed, and nothing is evicted any more.
            if let Ok(Err(error)) = self.run(JobKind::Metadata, move |dir| dir.fit_salt(&salt)).await {
                tracing::warn!(%error, "could not evict objects of a cache salt that is over its quota");
            }
        })
    }

    fn health(&self) -> Health {
        match self.watch.problem() {
            Some(_) => Health { reads: Circuit::Failing, writes: Circuit::Failing },
            None => Health::default(),
        }
    }

    fn failures(&self) -> Failures {
        Failures { counts: Vec::new(), problems: self.watch.problem().into_iter().collect() }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.pool.close().await;
            self.counted().await;
        })
    }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod identities;
#[cfg(test)]
mod power_loss;
#[cfg(test)]
mod simulated_disk;
#[cfg(test)]
mod tests;
