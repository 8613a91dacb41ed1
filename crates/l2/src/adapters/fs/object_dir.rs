//! Blocking operations on single objects of one directory, and the accounting of what it holds.
//!
//! Locks: a stripe keeps one file and its entry in the tracker consistent; it is held for a few system
//! calls, never while bytes move. Order: stripe, then tracker, or stripe, then the locks that an
//! [`EvictionListener`] takes. A thread holds at most one stripe.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use larder_types::object::ObjectKey;

use super::commit::Written;
use super::directory::Directory;
use super::faults::{Need, UnreadableObjects, is_of_object, object_error};
use super::file::Mode;
use super::file_system::{FileSystem, OpenFile, Stat};
use super::full_disk::FullDisk;
use super::names::{ObjectFile, TemporaryNames, counted_as};
use super::record::Sum;
use super::records::{Damage, Records, Verdict};
use super::sync_policy::SyncPolicy;
use crate::adapter::{Integrity, Transfer, holds};
use crate::capacity::{CapacityLimits, CapacityTracker, Reserve};
use crate::config::ChecksumMode;
use crate::error::{ErrorKind, L2Error, Retry};
use crate::eviction::{EvictionListener, EvictionReason};

const STRIPES: usize = 256;

/// Objects whose use is recorded under one lock.
const TOUCHED_AT_ONCE: usize = 256;

/// A file's access time is updated once it is older than this: enough to order objects after a restart, on
/// file systems that do not maintain it.
const ACCESS_STEP: Duration = Duration::from_secs(600);

/// One directory of objects.
#[derive(Debug)]
pub(super) struct ObjectDir {
    base: Directory,
    temporary: PathBuf,
    mode: Mode,
    sync: SyncPolicy,
    files: Arc<dyn FileSystem>,
    records: Records,
    bounded: bool,
    trims: bool,
    own_objects_only: bool,
    tracker: Mutex<CapacityTracker>,
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
    names: TemporaryNames,
    recreate: Mutex<()>,
    /// The directory was missing, so what it has now is not counted.
    uncounted: AtomicBool,
    unreadable: UnreadableObjects,
    full_disk: FullDisk,
    listener: Option<Arc<dyn EvictionListener>>,
}

/// Where and how objects are kept.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The directory of the objects.
    pub(super) base: PathBuf,
    /// The directory of unfinished files.
    pub(super) temporary: PathBuf,
    pub(super) mode: Mode,
    pub(super) sync: SyncPolicy,
    pub(super) checksums: ChecksumMode,
    pub(super) files: Arc<dyn FileSystem>,
}

impl ObjectDir {
    pub(super) fn new(
        place: Place,
        limits: CapacityLimits,
        listener: Option<Arc<dyn EvictionListener>>,
    ) -> Self {
        let Place { base, temporary, mode, sync, checksums, files } = place;
        Self {
            records: Records::new(checksums, mode.access, Arc::clone(&files), &base),
            base: Directory::new(base, mode.access, Arc::clone(&files)),
            temporary,
            mode,
            sync,
            files,
            bounded: limits.is_bounded(),
            trims: limits.trim.is_some(),
            own_objects_only: limits.own_objects_only,
            tracker: Mutex::new(CapacityTracker::new(limits)),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            hasher: RandomState::new(),
            names: TemporaryNames::new(),
            recreate: Mutex::new(()),
            uncounted: AtomicBool::new(false),
            unreadable: UnreadableObjects::default(),
            full_disk: FullDisk::default(),
            listener,
        }
    }

    pub(super) fn base(&self) -> &Directory {
        &self.base
    }

    /// The directories that may hold files of this adapter.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        let temporary = Some(self.temporary.as_path()).filter(|temporary| *temporary != &*self.base);
        std::iter::once(&*self.base).chain(temporary)
    }

    pub(super) fn files(&self) -> &dyn FileSystem {
        &*self.files
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// When stored objects become durable.
    pub(super) fn sync(&self) -> SyncPolicy {
        self.sync
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.bounded
    }

    /// Whether objects are evicted in advance.
    pub(super) fn trims(&self) -> bool {
        self.trims
    }

    /// Whether only what this process stored is counted and evicted.
    pub(super) fn own_objects_only(&self) -> bool {
        self.own_objects_only
    }

    /// What the checksums of the files have shown.
    pub(super) fn integrity(&self) -> Integrity {
        self.records.integrity()
    }

    pub(super) fn tracker(&self) -> MutexGuard<'_, CapacityTracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unreadable_objects(&self) -> &UnreadableObjects {
        &self.unreadable
    }

    pub(super) fn full_disk(&self) -> &FullDisk {
        &self.full_disk
    }

    pub(super) fn stripe(&self, key: &ObjectKey) -> MutexGuard<'_, ()> {
        let at = self.hasher.hash_one(key) as usize % STRIPES;
        self.stripes[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes stored for each key. If any is absent, checks that the directory itself is there, or makes it again.
    pub(super) fn lookup(&self, keys: &[ObjectKey]) -> Vec<Result<Option<u64>, L2Error>> {
        let mut results: Vec<_> = keys.iter().map(|key| self.lookup_one(key)).collect();
        let any_absent = results.iter().any(|result| matches!(result, Ok(None)));
        if any_absent && let Err(error) = self.restore_base() {
            results.iter_mut().filter(|r| matches!(r, Ok(None))).for_each(|r| *r = Err(error.clone()));
        }
        results
    }

    fn lookup_one(&self, key: &ObjectKey) -> Result<Option<u64>, L2Error> {
        let file = ObjectFile::to_look_up(&self.base, key)?;
        if self.unreadable.contains(&file.key, Instant::now()) {
            return Ok(None);
        }
        let stored = self.stored_bytes(&file.path)?;
        let known = self.tracker().get(&file.key);
        let is_counted = known.is_some() || !self.own_objects_only;
        if stored != known && is_counted {
            // Other servers share the directory, or an eviction is in progress.
            return self.reconcile(&file);
        }
        Ok(stored)
    }

    /// Records a use of each object, the last key first.
    pub(super) fn touch(&self, keys: &[ObjectKey]) {
        for part in keys.rchunks(TOUCHED_AT_ONCE) {
            let counted: Vec<_> = part.iter().map(|key| counted_as(&self.base, key)).collect();
            let mut tracker = self.tracker();
            counted.iter().rev().for_each(|key| {
                tracker.touch(key);
            });
        }
    }

    /// Updates the tracker to what the directory has for one object.
    fn reconcile(&self, file: &ObjectFile) -> Result<Option<u64>, L2Error> {
        let _stripe = self.stripe(&file.key);
        let stored = self.stored_bytes(&file.path)?;
        match stored {
            Some(bytes) => self.count_found(&file.key, bytes),
            None => self.forget(&file.key),
        }
        Ok(stored)
    }

    /// Stops counting an object that is missing. Called under its stripe.
    fn forget(&self, key: &ObjectKey) {
        let was_known = self.tracker().remove(key).is_some();
        if was_known {
            self.notify_removed(key, EvictionReason::Missing);
        }
    }

    /// Whether a counted object is missing. If so it is not counted any more. Its presence is no use.
    pub(super) fn forget_if_missing(&self, key: &ObjectKey) -> bool {
        let is_missing = |file: &ObjectFile| matches!(self.stored_bytes(&file.path), Ok(None));
        let Ok(file) = ObjectFile::new(&self.base, key) else { return false };
        if !is_missing(&file) {
            return false;
        }
        let _stripe = self.stripe(key);
        let missing = is_missing(&file);
        if missing {
            self.forget(key);
        }
        missing
    }

    /// Counts an object that is there, as used just now, unless others may have stored it.
    fn count_found(&self, key: &ObjectKey, bytes: u64) {
        let mut tracker = self.tracker();
        if !self.own_objects_only || tracker.get(key).is_some() {
            tracker.insert(key, bytes);
        }
    }

    /// Records an object that was found at start, if it is still there and not known yet.
    pub(super) fn insert_found(&self, key: &ObjectKey) -> Result<(), L2Error> {
        let file = ObjectFile::new(&self.base, key)?;
        let _stripe = self.stripe(key);
        if let Some(bytes) = self.stored_bytes(&file.path)? {
            self.tracker().insert_found(key, bytes);
        }
        Ok(())
    }

    /// Reads an object into the region.
    pub(super) fn load(&self, transfer: &Transfer) -> Result<(), L2Error> {
        let file = ObjectFile::new(&self.base, &transfer.key)?;
        let pin = Pin::new(self, &file.key);
        let len = transfer.region.len();
        let open = match self.files.open(&file.path, self.mode.reads_direct(len)) {
            Ok(open) => open,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.restore_base()?;
                self.reconcile(&file)?;
                return Err(L2Error::not_found());
            }
            Err(error) => return Err(self.unreadable(&file, "open", error)),
        };
        let stat = open.stat().map_err(|error| L2Error::system("stat object", error))?;
        if !holds(stat.bytes, len) {
            return Err(L2Error::wrong_size(stat.bytes, len));
        }
        self.read(&file, &*open, &stat, transfer)?;
        if self.is_bounded() {
            renew_access(&*open, &stat);
        }
        if !pin.known && !self.own_objects_only {
            self.reconcile(&file)?;
        }
        Ok(())
    }

    /// The error of a call that reads an object. If it is a fault of the object it is remembered.
    fn unreadable(&self, file: &ObjectFile, action: &str, error: io::Error) -> L2Error {
        let error = object_error(&self.base, &file.path, action, Need::Read, error);
        if is_of_object(&error) {
            self.unreadable.add(&file.key, Instant::now());
        }
        error
    }

    /// Reads the bytes, and compares them with the file's record.
    fn read(
        &self,
        file: &ObjectFile,
        open: &dyn OpenFile,
        stat: &Stat,
        transfer: &Transfer,
    ) -> Result<(), L2Error> {
        let region = &transfer.region;
        let verdict = self.records.verdict(open, file, &transfer.key, region.len())?;
        let mut sum = match verdict {
            Verdict::IfSum(_) => Some(Sum::new()),
            Verdict::Unchecked => None,
            Verdict::Refused => {
                let text = "the file has no checksum, and \"checksum\" is \"require\"";
                return Err(L2Error::permanent(ErrorKind::NotFound, text));
            }
            Verdict::Damaged(damage) => return Err(self.damaged(file, stat, damage)),
        };
        self.mode.read(open, region, sum.as_mut()).map_err(|error| match error.kind() {
            // Truncated during the read: this server never does that.
            io::ErrorKind::UnexpectedEof => L2Error::wrong_size(0, region.len()).with_source(error),
            _ => self.unreadable(file, "read", error),
        })?;
        if let Verdict::IfSum(expected) = verdict
            && sum.is_none_or(|sum| sum.finish() != expected)
        {
            return Err(self.damaged(file, stat, Damage::Bytes));
        }
        self.records.loaded(verdict);
        Ok(())
    }

    /// Removes a damaged file, so that its object can be stored again; that of another object is left until a store
    /// replaces it. The error of the load.
    fn damaged(&self, file: &ObjectFile, stat: &Stat, damage: Damage) -> L2Error {
        let error = self.records.damaged(file, damage);
        if damage == Damage::OtherObject {
            return error;
        }
        let _stripe = self.stripe(&file.key);
        // Unless it has been replaced since it was opened.
        if matches!(self.files.stat(&file.path), Ok(Some(now)) if now.id == stat.id)
            && matches!(self.remove_files(file), Ok(true))
            && self.tracker().remove(&file.key).is_some()
        {
            self.notify_removed(&file.key, EvictionReason::Missing);
        }
        error
    }

    /// Writes the region to a file without a name yet, unless an object of that length is there.
    pub(super) fn write(self: &Arc<Self>, transfer: &Transfer) -> Result<Option<Written>, L2Error> {
        if !self.files.is_directory(&self.base) {
            self.make_directories()?;
        }
        let file = ObjectFile::new(&self.base, &transfer.key)?;
        let len = transfer.region.len();
        if self.is_there(&file, transfer)? {
            return Ok(None);
        }
        let reservation = self.reserve(&file.key.cache_salt, self.mode.stored_bytes(len))?;
        let salt = &file.key.cache_salt;
        let (unfinished, separate_record) =
            self.with_space(salt, len, || self.write_unfinished(&file, transfer))?;
        Ok(Some(Written { file, unfinished, reservation, bytes: len, separate_record }))
    }

    fn is_there(&self, file: &ObjectFile, transfer: &Transfer) -> Result<bool, L2Error> {
        let _stripe = self.stripe(&file.key);
        let len = transfer.region.len();
        match self.stored_bytes(&file.path)? {
            Some(stored)
                if holds(stored, len)
                    && self.is_readable(file)
                    && self.records.may_stay(file, &transfer.key, len) =>
            {
                self.count_found(&file.key, stored);
                Ok(true)
            }
            // Of another length, damaged or of no use: it is replaced.
            _ => Ok(false),
        }
    }

    fn is_readable(&self, file: &ObjectFile) -> bool {
        !self.unreadable.contains(&file.key, Instant::now()) && self.files.is_readable(&file.path)
    }

    /// Reserves space, evicting other objects if needed.
    fn reserve(self: &Arc<Self>, salt: &Arc<str>, bytes: u64) -> Result<Reservation, L2Error> {
        loop {
            let reserved = self.tracker().reserve(salt, bytes);
            match reserved {
                Reserve::Reserved => {
                    return Ok(Reservation { dir: Arc::clone(self), salt: salt.clone(), bytes });
                }
                Reserve::Evict(victim) => self.evict(&victim)?,
                Reserve::Busy => {
                    let text = "all objects that could be evicted are being read";
                    return Err(L2Error::temporary(ErrorKind::Busy, text));
                }
                Reserve::Never(why) => {
                    let text = format!("an object of {bytes} bytes {why}");
                    return Err(L2Error::permanent(ErrorKind::OverLimit, text));
                }
            }
        }
    }

    /// Evicts a victim, unless it is used again or cannot be removed for reasons of its own.
    pub(super) fn evict(&self, victim: &ObjectKey) -> Result<(), L2Error> {
        let file = ObjectFile::new(&self.base, victim)?;
        let _stripe = self.stripe(victim);
        if !self.tracker().may_evict(victim) {
            self.tracker().keep(victim);
            return Ok(());
        }
        match self.remove_files(&file) {
            Ok(_) => {
                self.tracker().evicted(victim);
                self.notify_removed(victim, EvictionReason::Evicted);
                Ok(())
            }
            Err(error) => {
                let error = object_error(&self.base, &file.path, "remove", Need::Write, error);
                if is_of_object(&error) {
                    self.tracker().set_stuck(victim);
                    tracing::debug!(%error, "could not evict an object");
                    return Ok(());
                }
                self.tracker().keep(victim);
                Err(error)
            }
        }
    }

    /// Called under the object's stripe, so that the object is not stored again before the listener returns.
    fn notify_removed(&self, key: &ObjectKey, reason: EvictionReason) {
        if let Some(listener) = &self.listener {
            listener.on_removed(key, reason);
        }
    }

    /// Evicts until the capacity holds, for a directory that was fuller before.
    pub(super) fn fit(&self) -> Result<(), L2Error> {
        self.evict_all(CapacityTracker::next_over_capacity)?;
        let salts = self.tracker().usage_by_salt();
        self.trim(salts.iter().map(|(salt, _)| &**salt))
    }

    /// Evicts objects of a cache salt until its quota holds.
    pub(super) fn fit_salt(&self, salt: &str) -> Result<(), L2Error> {
        self.evict_all(|tracker| tracker.next_over_quota(salt))
    }

    /// Evicts in advance, after objects of these cache salts were stored.
    pub(super) fn trim<'a>(&self, mut salts: impl Iterator<Item = &'a str>) -> Result<(), L2Error> {
        if !self.trims {
            return Ok(());
        }
        salts.try_for_each(|salt| self.evict_all(|tracker| tracker.next_to_trim(salt)))
    }

    fn evict_all(&self, next: impl Fn(&mut CapacityTracker) -> Option<ObjectKey>) -> Result<(), L2Error> {
        loop {
            // The tracker is unlocked before `evict`, which locks it again.
            let victim = next(&mut self.tracker());
            let Some(victim) = victim else { return Ok(()) };
            self.evict(&victim)?;
        }
    }

    /// Writes bytes and record. Whether the record is a file of its own.
    fn write_unfinished(
        self: &Arc<Self>,
        file: &ObjectFile,
        transfer: &Transfer,
    ) -> Result<(Unfinished, bool), L2Error> {
        let Transfer { key, region } = transfer;
        let unfinished = match self.create_unfinished(region.len()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_directories()?;
                self.create_unfinished(region.len())
            }
            other => other,
        }
        .map_err(|error| self.write_error("create a file in", error))?;
        let open = &*unfinished.open;
        let mut sum = self.records.new_sum();
        let written = self.mode.write(open, region, sum.as_mut());
        written.map_err(|error| self.write_error("write an object in", error))?;
        let must_sync = self.sync != SyncPolicy::None;
        let separate_record = match &sum {
            Some(sum) => {
                let new_file = self.temporary.join(self.names.next());
                let attached = self.records.attach(open, file, (key, region, sum), &new_file, must_sync);
                attached.map_err(|error| self.write_error("write a checksum in", error))?
            }
            None => false,
        };
        if must_sync {
            open.sync().map_err(|error| self.write_error("sync an object in", error))?;
        }
        Ok((unfinished, separate_record))
    }

    /// A new file, locked until it is renamed, so that a starting server can distinguish it from an abandoned
    /// one ([`is_abandoned`]).
    fn create_unfinished(self: &Arc<Self>, len: u64) -> io::Result<Unfinished> {
        loop {
            let path = self.temporary.join(self.names.next());
            let open = self.files.create(&path, self.mode.writes_direct(len), self.mode.access)?;
            let unfinished = Unfinished { dir: Arc::clone(self), path, open, renamed: false };
            let locked = unfinished.open.lock();
            // Between the two calls another server may have taken the file for abandoned.
            let taken = matches!(locked, Ok(false)) || unfinished.open.stat()?.links == 0;
            if !taken {
                return Ok(unfinished);
            }
        }
    }

    /// Removes an object. Whether it was there.
    pub(super) fn delete(&self, key: &ObjectKey) -> Result<bool, L2Error> {
        let file = ObjectFile::new(&self.base, key)?;
        let _stripe = self.stripe(&file.key);
        let removed = self
            .remove_files(&file)
            .map_err(|error| object_error(&self.base, &file.path, "remove", Need::Write, error))?;
        if !removed {
            self.restore_base()?;
        }
        self.unreadable.remove(&file.key);
        self.tracker().remove(&file.key);
        Ok(removed)
    }

    /// Creates the directories, at start and after they were removed. Objects of a removed directory are
    /// forgotten.
    pub(super) fn make_directories(&self) -> Result<(), L2Error> {
        let _recreate = self.recreate.lock().unwrap_or_else(PoisonError::into_inner);
        let unavailable = |path: &Path, error| directory_error("create directory", path, error);
        if !self.files.is_directory(&self.base) {
            let gone = self.tracker().clear();
            self.uncounted.store(true, Ordering::Release);
            gone.iter().for_each(|key| self.notify_removed(key, EvictionReason::Missing));
            self.create_base().map_err(|error| unavailable(&self.base, error))?;
        }
        let created = self.files.create_directories(&self.temporary, self.mode.access);
        created.map_err(|error| unavailable(&self.temporary, error))
    }

    /// Creates the base directory and those that lead to it, as durable as objects are.
    fn create_base(&self) -> io::Result<()> {
        let is_new = |path: &&Path| !path.as_os_str().is_empty() && !self.files.is_directory(path);
        let new: Vec<&Path> = self.base.ancestors().take_while(is_new).collect();
        self.files.create_directories(&self.base, self.mode.access)?;
        if self.sync == SyncPolicy::None {
            return Ok(());
        }
        let parents = new.into_iter().filter_map(Path::parent);
        let parents = parents.map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
        parents.into_iter().try_for_each(|parent| self.files.sync_directory(parent))
    }

    /// Removes an object's file and record. Whether the file was there.
    fn remove_files(&self, file: &ObjectFile) -> io::Result<bool> {
        match self.files.remove(&file.path) {
            Ok(()) => {
                self.records.forget(file);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the directory was missing since the last call.
    pub(super) fn take_uncounted(&self) -> bool {
        self.uncounted.swap(false, Ordering::AcqRel)
    }

    /// Makes the directory again if it was removed: L2 is empty then.
    pub(super) fn restore_base(&self) -> Result<(), L2Error> {
        if self.files.is_directory(&self.base) {
            return Ok(());
        }
        self.make_directories()?;
        tracing::warn!(path = %self.base.display(), "the L2 directory was removed with all objects; it was made again");
        Ok(())
    }

    fn stored_bytes(&self, path: &Path) -> Result<Option<u64>, L2Error> {
        let stat = self.files.stat(path);
        let stat = stat.map_err(|error| object_error(&self.base, path, "look for", Need::Read, error))?;
        Ok(stat.filter(|stat| stat.is_file).map(|stat| stat.bytes))
    }

    /// "Not found" from a write means that the directory is gone.
    pub(super) fn write_error(&self, action: &'static str, error: io::Error) -> L2Error {
        let error = L2Error::system(format!("{action} {}", self.temporary.display()), error);
        match error.kind() {
            ErrorKind::NotFound => error.with_kind(ErrorKind::Unavailable).with_retry(Retry::Temporary),
            _ => error,
        }
    }
}

/// Protects an object that is being read from eviction.
struct Pin<'a> {
    dir: &'a ObjectDir,
    key: &'a ObjectKey,
    known: bool,
}

impl<'a> Pin<'a> {
    fn new(dir: &'a ObjectDir, key: &'a ObjectKey) -> Self {
        let known = dir.tracker().pin(key);
        Self { dir, key, known }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        if self.known {
            self.dir.tracker().unpin(self.key);
        }
    }
}

/// Space reserved for an object that is being written.
#[derive(Debug)]
pub(super) struct Reservation {
    dir: Arc<ObjectDir>,
    salt: Arc<str>,
    bytes: u64,
}

impl Reservation {
    /// Counts the object itself instead.
    pub(super) fn become_object(mut self, key: &ObjectKey) {
        let mut tracker = self.dir.tracker();
        tracker.release(&self.salt, self.bytes);
        tracker.insert(key, self.bytes);
        drop(tracker);
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.dir.tracker().release(&self.salt, self.bytes);
        }
    }
}

/// A file under a temporary name; removed on drop unless it was renamed.
#[derive(Debug)]
pub(super) struct Unfinished {
    dir: Arc<ObjectDir>,
    path: PathBuf,
    open: Box<dyn OpenFile>,
    renamed: bool,
}

impl Unfinished {
    /// Gives the file its name. From here on readers find it.
    pub(super) fn rename(mut self, to: &Path) -> io::Result<()> {
        self.dir.files.rename(&self.path, to)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.renamed {
            // If this fails, a later start removes the file.
            let _ = self.dir.files.remove(&self.path);
        }
    }
}

/// Whether the writer of an unfinished file has ended. `None`: this file system has no locks.
pub(super) fn is_abandoned(files: &dyn FileSystem, path: &Path) -> Option<bool> {
    files.open(path, false).ok()?.lock().ok()
}

/// The error of a call on a whole directory: if it is absent, the backend is.
pub(super) fn directory_error(action: &str, path: &Path, error: io::Error) -> L2Error {
    let error = L2Error::system(format!("{action} {}", path.display()), error);
    match error.kind() {
        ErrorKind::NotFound => error.with_kind(ErrorKind::Unavailable),
        _ => error,
    }
}

/// Updates the access time of the file if it is old. Fails silently if another user owns the file.
fn renew_access(open: &dyn OpenFile, stat: &Stat) {
    if SystemTime::now().duration_since(stat.used).is_ok_and(|age| age >= ACCESS_STEP) {
        let _ = open.renew_access();
    }
}
