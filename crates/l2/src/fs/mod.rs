//! One file for each object, in one directory.
//!
//! Names and bytes are those of the reference (`storage.md` 5.3): either server reads what the other
//! wrote. A file is written under a name of its own and then renamed, so a reader finds an object
//! complete or not at all. There is no `fsync`: what a crash of the machine cuts short has the wrong
//! length, and is a miss that the next store repairs.
//!
//! An object is opened once and moved in one call where the kernel does that, straight between the
//! file and the arena, on threads that belong to the adapter. Objects are not cut into parts: a batch
//! keeps the threads busy, and measured here one thread reads one object as fast as memory is copied.
//!
//! **Capacity** is exact: before an object is written, room for it is reserved, and whoever was not
//! used for longest is removed until there is room. Objects that are being read stay. A bounded adapter
//! stores nothing before it has counted what earlier processes left; loads do not wait for that. The
//! same holds for the limits of cache salts ([`CapacityLimits::quotas`]). What a restart finds of a salt that is
//! over its limit stays until the salt stores or its limit is set: limits are not kept over a restart,
//! and nobody's data should go before its owner has been heard of.

mod file;
mod names;
mod scan;
mod shelf;
mod space;

use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use larder_types::object::ObjectKey;
use tokio::sync::watch;

use crate::adapter::{
    Adapter, BoxFuture, Capabilities, Cursor, Health, Page, Results, Space, Stored, Transfer, Usage,
};
use crate::capacity::CapacityLimits;
use crate::error::{ErrorKind, L2Error};
use crate::eviction::EvictionListener;
use crate::pool::{Lane, Pool, job_failed};

use self::file::Mode;
use self::shelf::Shelf;
use self::space::LastLook;

/// Threads of an adapter that is not told how many.
pub const DEFAULT_WORKERS: usize = 8;

/// Unfinished files that nobody locks, as those of the reference, belong to nobody when they are older.
const STALE_AFTER: Duration = Duration::from_secs(3600);

/// Keys that one thread looks up in a row: each takes a microsecond or two.
const LOOKUP_KEYS: usize = 64;

/// Settings of the `fs` adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsConfig {
    /// The directory of the files. Created when missing.
    pub base_path: PathBuf,
    /// Where unfinished files live, relative to [`FsConfig::base_path`] and on the same file system;
    /// `None`: beside the finished ones.
    pub relative_tmp_dir: Option<PathBuf>,
    /// Size of a first small read of a large object, before the rest is read; `None`: 16 KiB.
    pub read_ahead_bytes: Option<u64>,
    /// Whether to bypass the page cache where sizes allow it.
    pub use_odirect: bool,
    /// How much the directory may hold, and what leaves it.
    pub bounds: CapacityLimits,
}

/// Settings of the `fs_native` adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsNativeConfig {
    /// The files.
    pub fs: FsConfig,
    /// Concurrent file operations. At least 1.
    pub num_workers: usize,
}

/// The `fs` and `fs_native` adapters.
#[derive(Debug)]
pub struct Fs {
    kind: &'static str,
    shelf: Arc<Shelf>,
    pool: Arc<Pool>,
    /// Whether everything in the directory is in the books.
    counted: watch::Receiver<bool>,
    /// How full the file system was.
    looked: Arc<LastLook>,
}

impl Fs {
    /// The `fs` adapter: no padding.
    ///
    /// # Errors
    /// The directory cannot be made, or the settings contradict themselves.
    pub fn open(config: FsConfig) -> Result<Self, L2Error> {
        let config = FsNativeConfig { fs: config, num_workers: DEFAULT_WORKERS };
        Self::start("fs", config, false)
    }

    /// The `fs_native` adapter: files padded to whole blocks under `use_odirect`.
    ///
    /// # Errors
    /// As [`Fs::open`].
    pub fn open_native(config: FsNativeConfig) -> Result<Self, L2Error> {
        Self::start("fs_native", config, true)
    }

    fn start(kind: &'static str, config: FsNativeConfig, pad: bool) -> Result<Self, L2Error> {
        let FsNativeConfig { fs, num_workers } = config;
        let mode = Mode { direct: fs.use_odirect, pad, read_ahead: fs.read_ahead_bytes };
        let temporary = match &fs.relative_tmp_dir {
            Some(relative) if escapes(relative) => {
                let text = "relative_tmp_dir must stay inside base_path: relative, and without '..'";
                return Err(L2Error::permanent(ErrorKind::Unsupported, text));
            }
            Some(relative) => fs.base_path.join(relative),
            None => fs.base_path.clone(),
        };
        let shelf = Arc::new(Shelf::new(fs.base_path, temporary, mode, fs.bounds));
        shelf.make_directories()?;
        let pool = Arc::new(Pool::new("larder-l2-fs", num_workers)?);
        let counted = count_in_background(&shelf, &pool)?;
        let looked = Arc::new(LastLook::at(&shelf.base));
        Ok(Self { kind, shelf, pool, counted, looked })
    }

    /// Returns once everything that was in the directory at the start is in the books.
    pub async fn counted(&self) {
        // An error means that the thread has ended, one way or the other.
        let _ = self.counted.clone().wait_for(|counted| *counted).await;
    }

    /// Tells `watch` of what leaves from now on. The first one stays.
    pub fn watch(&self, watch: Arc<dyn EvictionListener>) {
        let _ = self.shelf.watch.set(watch);
    }

    /// Notes a use of these objects, the chunks of a prompt in their order: the first is the last to
    /// leave.
    async fn used(&self, keys: Vec<ObjectKey>) {
        if self.shelf.is_bounded() && !keys.is_empty() {
            // It fails if the adapter is closed.
            let _ = self.run(Lane::Ask, move |shelf| shelf.touch(&keys)).await;
        }
    }

    /// How full the file system was when last looked at. Has a thread look again, if that is some time ago:
    /// a file system that hangs holds up that thread and nobody who asks.
    fn space(&self) -> Option<Space> {
        if self.looked.is_old(Instant::now()) {
            let (looked, shelf) = (Arc::clone(&self.looked), Arc::clone(&self.shelf));
            // It fails if the adapter is closed.
            if self.pool.run(Lane::Ask, move || looked.look(&shelf.base, Instant::now())).is_err() {
                self.looked.give_up();
            }
        }
        self.looked.space()
    }

    async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        job: impl FnOnce(&Shelf) -> T + Send + 'static,
    ) -> Result<T, L2Error> {
        let shelf = Arc::clone(&self.shelf);
        self.pool.run(lane, move || job(&shelf))?.await.map_err(|_| job_failed())
    }
}

fn count_in_background(shelf: &Arc<Shelf>, pool: &Arc<Pool>) -> Result<watch::Receiver<bool>, L2Error> {
    let (done, counted) = watch::channel(false);
    let (shelf, pool) = (Arc::clone(shelf), Arc::clone(pool));
    let count = move || {
        let result = scan::recover(&shelf, STALE_AFTER, || !pool.is_closed() && !done.is_closed());
        let result = result.and_then(|()| shelf.fit());
        if let Err(error) = result {
            let path = shelf.base.display();
            tracing::warn!(%path, %error, "the directory could not be counted; usage starts too low");
        }
        done.send_replace(true);
    };
    let builder = thread::Builder::new().name("larder-l2-scan".to_owned());
    builder.spawn(count).map_err(|error| L2Error::system("start the scan", error))?;
    Ok(counted)
}

/// Whether `path`, taken relative to a directory, may lead out of it.
fn escapes(path: &Path) -> bool {
    !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

impl Adapter for Fs {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { list: true, persistent: true, evicts: self.shelf.is_bounded(), batched: false }
    }

    fn lookup(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<Option<u64>>> {
        Box::pin(async move {
            let mut waiting = Vec::with_capacity(keys.len().div_ceil(LOOKUP_KEYS));
            for part in keys.chunks(LOOKUP_KEYS) {
                let (part, shelf) = (part.to_vec(), Arc::clone(&self.shelf));
                let len = part.len();
                waiting.push((len, self.pool.run(Lane::Ask, move || shelf.lookup(&part))));
            }
            let mut results = Vec::with_capacity(keys.len());
            for (len, part) in waiting {
                let part = match part {
                    Ok(receiver) => receiver.await.map_err(|_| job_failed()),
                    Err(refused) => Err(refused),
                };
                match part {
                    Ok(part) => results.extend(part),
                    Err(error) => results.extend(std::iter::repeat_n(Err(error), len)),
                }
            }
            let found = keys.into_iter().zip(&results).filter(|(_, found)| matches!(found, Ok(Some(_))));
            self.used(found.map(|(key, _)| key).collect()).await;
            results
        })
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        let jobs = transfers.into_iter().map(|transfer| {
            let shelf = Arc::clone(&self.shelf);
            move || shelf.load(&transfer)
        });
        Box::pin(self.pool.run_each(Lane::Load, jobs))
    }

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        Box::pin(async move {
            if self.shelf.is_bounded() {
                self.counted().await;
            }
            let keys: Vec<_> = transfers.iter().map(|transfer| transfer.key.clone()).collect();
            let jobs = transfers.into_iter().map(|transfer| {
                let shelf = Arc::clone(&self.shelf);
                move || shelf.store(&transfer)
            });
            let results = self.pool.run_each(Lane::Store, jobs).await;
            let stored = keys.into_iter().zip(&results).filter(|(_, stored)| stored.is_ok());
            self.used(stored.map(|(key, _)| key).collect()).await;
            results
        })
    }

    fn delete(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Results<bool>> {
        let jobs = keys.into_iter().map(|key| {
            let shelf = Arc::clone(&self.shelf);
            move || shelf.delete(&key)
        });
        Box::pin(self.pool.run_each(Lane::Ask, jobs))
    }

    fn list(&self, cursor: Option<Cursor>, limit: NonZeroUsize) -> BoxFuture<'_, Result<Page, L2Error>> {
        Box::pin(async move {
            self.run(Lane::Ask, move |shelf| scan::list(&shelf.base, cursor.as_ref(), limit)).await?
        })
    }

    fn usage(&self) -> Usage {
        let recovering = !*self.counted.borrow();
        Usage { space: self.space(), ..self.shelf.books().usage(recovering) }
    }

    fn usage_by_salt(&self) -> Vec<(Arc<str>, u64)> {
        self.shelf.books().usage_by_salt()
    }

    fn set_quota(&self, salt: &Arc<str>, limit_bytes: Option<u64>) -> BoxFuture<'_, ()> {
        self.shelf.books().limit(salt, limit_bytes);
        let salt = salt.clone();
        Box::pin(async move {
            self.counted().await;
            // It fails if the adapter is closed: then nothing leaves any more.
            if let Ok(Err(error)) = self.run(Lane::Ask, move |shelf| shelf.fit_salt(&salt)).await {
                tracing::warn!(%error, "a cache salt is over its quota and could not be trimmed");
            }
        })
    }

    fn health(&self) -> Health {
        Health::default()
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
mod tests;
