//! The directory and the books about it: what happens to one object, in calls that block.
//!
//! Locks: a stripe guards the agreement between one file and its entry in the books; it is held for a
//! few system calls, never while bytes move. Order: stripe, then books, or stripe, then what a
//! [`EvictionListener`] takes. Nobody holds two stripes.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use larder_arena::Region;
use larder_types::object::ObjectKey;
use rustix::fs::{FileType, FlockOperation, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, flock};
use rustix::io::Errno;

use super::file::Mode;
use super::names::{Place, TemporaryNames, canonical};
use crate::adapter::{Stored, Transfer, holds};
use crate::books::{Books, Room};
use crate::capacity::CapacityLimits;
use crate::error::{ErrorKind, L2Error, Retry};
use crate::eviction::{EvictionListener, EvictionReason};

const STRIPES: usize = 256;

/// Objects whose use is noted under one lock.
const TOUCHED_AT_ONCE: usize = 256;

/// A file's time of access is renewed once it is older than this: enough to order objects after a
/// restart, on file systems that do not keep it themselves.
const ACCESS_STEP_SECONDS: u64 = 600;

/// The directory and the books about it.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) base: PathBuf,
    pub(super) temporary: PathBuf,
    mode: Mode,
    bounded: bool,
    books: Mutex<Books>,
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
    names: TemporaryNames,
    recreate: Mutex<()>,
    pub(super) watch: OnceLock<Arc<dyn EvictionListener>>,
}

impl Shelf {
    pub(super) fn new(base: PathBuf, temporary: PathBuf, mode: Mode, bounds: CapacityLimits) -> Self {
        Self {
            base,
            temporary,
            mode,
            bounded: bounds.limits_anything(),
            books: Mutex::new(Books::new(bounds)),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            hasher: RandomState::new(),
            names: TemporaryNames::new(),
            recreate: Mutex::new(()),
            watch: OnceLock::new(),
        }
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.bounded
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stripe(&self, key: &ObjectKey) -> MutexGuard<'_, ()> {
        let at = self.hasher.hash_one(key) as usize % STRIPES;
        self.stripes[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes stored for each key. One question about the directory tells whether "no" can be believed.
    pub(super) fn lookup(&self, keys: &[ObjectKey]) -> Vec<Result<Option<u64>, L2Error>> {
        let mut results: Vec<_> = keys.iter().map(|key| self.lookup_one(key)).collect();
        let any_absent = results.iter().any(|result| matches!(result, Ok(None)));
        if any_absent && let Err(error) = self.check_base() {
            results.iter_mut().filter(|r| matches!(r, Ok(None))).for_each(|r| *r = Err(error.clone()));
        }
        results
    }

    fn lookup_one(&self, key: &ObjectKey) -> Result<Option<u64>, L2Error> {
        let place = Place::new(&self.base, key)?;
        let stored = stored_bytes(&place.path)?;
        let known = self.books().get(&place.key);
        if stored != known {
            // Others share the directory, or an eviction is on its way: settle it.
            return self.reconcile(&place);
        }
        Ok(stored)
    }

    /// Notes a use of each, the last key first.
    pub(super) fn touch(&self, keys: &[ObjectKey]) {
        for part in keys.rchunks(TOUCHED_AT_ONCE) {
            let mut books = self.books();
            for key in part.iter().rev() {
                books.touch(&canonical(key));
            }
        }
    }

    /// Makes the books say about one object what the directory says.
    fn reconcile(&self, place: &Place) -> Result<Option<u64>, L2Error> {
        let _stripe = self.stripe(&place.key);
        let stored = stored_bytes(&place.path)?;
        match stored {
            Some(bytes) => self.books().put(&place.key, bytes),
            None => {
                let was_known = self.books().remove(&place.key).is_some();
                self.tell_removed(&place.key, was_known, EvictionReason::Missing);
            }
        }
        Ok(stored)
    }

    /// Notes an object from before our time, if it is still there and not known yet.
    pub(super) fn recovered(&self, key: &ObjectKey) -> Result<(), L2Error> {
        let place = Place::new(&self.base, key)?;
        let _stripe = self.stripe(key);
        if let Some(bytes) = stored_bytes(&place.path)? {
            self.books().put_oldest(key, bytes);
        }
        Ok(())
    }

    /// Fills the region with the object.
    pub(super) fn load(&self, transfer: &Transfer) -> Result<(), L2Error> {
        let place = Place::new(&self.base, &transfer.key)?;
        let pin = Pin::new(self, &place.key);
        let len = transfer.region.len();
        let file = match self.mode.open(&place.path, len) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_base()?;
                self.reconcile(&place)?;
                return Err(L2Error::not_found());
            }
            Err(error) => return Err(L2Error::system("open object", error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|e| L2Error::system("stat object", e.into()))?;
        let stored = u64::try_from(stat.st_size).unwrap_or(0);
        if !holds(stored, len) {
            return Err(L2Error::wrong_size(stored, len));
        }
        self.mode.read(&file, &transfer.region).map_err(|error| match error.kind() {
            // Cut short while we read: no writer of ours does that.
            io::ErrorKind::UnexpectedEof => L2Error::wrong_size(0, len).with_source(error),
            _ => L2Error::system("read object", error),
        })?;
        if self.is_bounded() {
            renew_access(&file, u64::try_from(stat.st_atime.max(stat.st_mtime)).unwrap_or(0));
        }
        if !pin.known {
            self.reconcile(&place)?;
        }
        Ok(())
    }

    /// Stores the region, unless an object of that length is there.
    pub(super) fn store(&self, transfer: &Transfer) -> Result<Stored, L2Error> {
        let place = Place::new(&self.base, &transfer.key)?;
        let len = transfer.region.len();
        if self.is_there(&place, len)? {
            return Ok(Stored { written_bytes: 0 });
        }
        let room = self.make_room(&place.key.cache_salt, self.mode.stored_bytes(len))?;
        let unfinished = self.write_unfinished(&transfer.region)?;
        self.publish(&place, unfinished, room)?;
        if let Err(error) = self.trim() {
            tracing::debug!(%error, "no room could be freed in advance");
        }
        Ok(Stored { written_bytes: len })
    }

    fn is_there(&self, place: &Place, len: u64) -> Result<bool, L2Error> {
        let _stripe = self.stripe(&place.key);
        match stored_bytes(&place.path)? {
            Some(stored) if holds(stored, len) => {
                self.books().put(&place.key, stored);
                Ok(true)
            }
            // Of another length: it is replaced.
            _ => Ok(false),
        }
    }

    /// Reserves room in the books, removing whoever was not used for longest.
    fn make_room(&self, salt: &Arc<str>, bytes: u64) -> Result<Reservation<'_>, L2Error> {
        loop {
            let room = self.books().reserve(salt, bytes);
            match room {
                Room::Reserved => return Ok(Reservation { shelf: self, salt: salt.clone(), bytes }),
                Room::Leaves(victim) => self.evict(&victim)?,
                Room::None => {
                    let text = "everything that could leave is in use";
                    return Err(L2Error::temporary(ErrorKind::Full, text));
                }
                Room::Never(why) => {
                    let text = format!("an object of {bytes} bytes {why}");
                    return Err(L2Error::permanent(ErrorKind::Full, text));
                }
            }
        }
    }

    fn evict(&self, victim: &ObjectKey) -> Result<(), L2Error> {
        let place = Place::new(&self.base, victim)?;
        let _stripe = self.stripe(victim);
        if !self.books().may_leave(victim) {
            self.books().keep(victim);
            return Ok(());
        }
        match remove_if_there(&place.path) {
            Ok(_) => {
                self.books().evicted(victim);
                self.tell_removed(victim, true, EvictionReason::Evicted);
                Ok(())
            }
            Err(error) => {
                self.books().keep(victim);
                Err(L2Error::system("remove the oldest object", error))
            }
        }
    }

    /// Under the object's stripe, so that nobody stores it anew before this is told.
    fn tell_removed(&self, key: &ObjectKey, was_there: bool, reason: EvictionReason) {
        if let Some(watch) = self.watch.get().filter(|_| was_there) {
            watch.on_removed(key, reason);
        }
    }

    /// Makes what is held fit the capacity, for a directory that was fuller before.
    pub(super) fn fit(&self) -> Result<(), L2Error> {
        self.evict_all(Books::over_capacity)?;
        self.trim()
    }

    /// Makes what a cache salt holds fit its limit.
    pub(super) fn fit_salt(&self, salt: &str) -> Result<(), L2Error> {
        self.evict_all(|books| books.over_limit(salt))
    }

    /// Frees some in advance, once the high mark is passed.
    fn trim(&self) -> Result<(), L2Error> {
        self.evict_all(Books::over_marks)
    }

    fn evict_all(&self, next: impl Fn(&mut Books) -> Option<ObjectKey>) -> Result<(), L2Error> {
        loop {
            // The lock is let go before the victim is: evicting takes it again.
            let victim = next(&mut self.books());
            let Some(victim) = victim else { return Ok(()) };
            self.evict(&victim)?;
        }
    }

    fn write_unfinished(&self, region: &Region) -> Result<Unfinished, L2Error> {
        let len = region.len();
        let unfinished = match self.create_unfinished(len) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_directories()?;
                self.create_unfinished(len)
            }
            other => other,
        }
        .map_err(|error| self.write_error("create file", error))?;
        self.mode.write(&unfinished.file, region).map_err(|error| self.write_error("write object", error))?;
        Ok(unfinished)
    }

    /// A new file, locked until it is named, so that a server that starts can tell it from one whose
    /// writer is dead ([`is_abandoned`]).
    fn create_unfinished(&self, len: u64) -> io::Result<Unfinished> {
        loop {
            let path = self.temporary.join(self.names.next());
            let file = self.mode.create(&path, len)?;
            let unfinished = Unfinished { path, file, named: false };
            let locked = flock(&unfinished.file, FlockOperation::NonBlockingLockExclusive);
            // Between the two calls somebody may have looked, and taken the file for abandoned.
            let taken =
                locked == Err(Errno::WOULDBLOCK) || rustix::fs::fstat(&unfinished.file)?.st_nlink == 0;
            if !taken {
                return Ok(unfinished);
            }
        }
    }

    /// The commit point: from here on readers find the object.
    fn publish(
        &self,
        place: &Place,
        mut unfinished: Unfinished,
        room: Reservation<'_>,
    ) -> Result<(), L2Error> {
        let _stripe = self.stripe(&place.key);
        fs::rename(&unfinished.path, &place.path).map_err(|error| self.write_error("name object", error))?;
        unfinished.named = true;
        let bytes = room.bytes;
        let mut books = self.books();
        books.release(&room.salt, bytes);
        books.put(&place.key, bytes);
        drop(books);
        room.taken();
        Ok(())
    }

    /// Removes an object. Whether it was there.
    pub(super) fn delete(&self, key: &ObjectKey) -> Result<bool, L2Error> {
        let place = Place::new(&self.base, key)?;
        let _stripe = self.stripe(&place.key);
        let removed = remove_if_there(&place.path).map_err(|e| L2Error::system("remove object", e))?;
        if !removed {
            self.check_base()?;
        }
        self.books().remove(&place.key);
        Ok(removed)
    }

    /// Makes the directories, at start and when somebody has removed them. What the books said of a
    /// directory that is gone is forgotten.
    pub(super) fn make_directories(&self) -> Result<(), L2Error> {
        let _one_at_a_time = self.recreate.lock().unwrap_or_else(PoisonError::into_inner);
        let unavailable = |path: &Path, error| {
            let text = format!("create directory {}", path.display());
            L2Error::system(text, error).with_kind(ErrorKind::Unavailable)
        };
        if !self.base.is_dir() {
            self.books().clear();
            fs::create_dir_all(&self.base).map_err(|error| unavailable(&self.base, error))?;
        }
        fs::create_dir_all(&self.temporary).map_err(|error| unavailable(&self.temporary, error))
    }

    fn check_base(&self) -> Result<(), L2Error> {
        if self.base.is_dir() {
            return Ok(());
        }
        let text = format!("directory {} is gone", self.base.display());
        Err(L2Error::temporary(ErrorKind::Unavailable, text))
    }

    /// A file that we have just made or looked for cannot be "not found" unless its directory is gone.
    fn write_error(&self, action: &'static str, error: io::Error) -> L2Error {
        let error = L2Error::system(action, error);
        match error.kind() {
            ErrorKind::NotFound => error.with_kind(ErrorKind::Unavailable).with_retry(Retry::Temporary),
            _ => error,
        }
    }
}

/// An object that is being read: it does not leave.
struct Pin<'a> {
    shelf: &'a Shelf,
    key: &'a ObjectKey,
    known: bool,
}

impl<'a> Pin<'a> {
    fn new(shelf: &'a Shelf, key: &'a ObjectKey) -> Self {
        let known = shelf.books().pin(key);
        Self { shelf, key, known }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        if self.known {
            self.shelf.books().unpin(self.key);
        }
    }
}

/// Room in the books for an object that is being written.
struct Reservation<'a> {
    shelf: &'a Shelf,
    salt: Arc<str>,
    bytes: u64,
}

impl Reservation<'_> {
    /// The object is in the books by itself.
    fn taken(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shelf.books().release(&self.salt, self.bytes);
        }
    }
}

/// A file that nobody reads yet; removed unless it is named.
struct Unfinished {
    path: PathBuf,
    file: File,
    named: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.named {
            // If even that fails, the cleaning at some later start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether the writer of an unfinished file of ours is known to be gone. `None`: this file system does
/// not tell.
pub(super) fn is_abandoned(path: &Path) -> Option<bool> {
    let file = File::open(path).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Some(true),
        Err(Errno::WOULDBLOCK) => Some(false),
        Err(_) => None,
    }
}

fn stored_bytes(path: &Path) -> Result<Option<u64>, L2Error> {
    match rustix::fs::stat(path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => Ok(u64::try_from(stat.st_size).ok()),
        Ok(_) => Ok(None),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(L2Error::system("look for object", error.into())),
    }
}

fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Notes the access in the file, if that is long ago. Others may own the file: then it is not noted.
fn renew_access(file: &File, accessed: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now.saturating_sub(accessed) >= ACCESS_STEP_SECONDS {
        let at = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let times = Timestamps { last_access: at(UTIME_NOW), last_modification: at(UTIME_OMIT) };
        let _ = rustix::fs::futimens(file, &times);
    }
}
