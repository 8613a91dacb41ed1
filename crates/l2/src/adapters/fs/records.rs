//! Where records are kept, what they say about a file that is read, and what was found so far.
//!
//! A record is an extended attribute of the object's own file, set before the file gets its name. On a file system
//! without such attributes it is a file of its own, of the object's name, in the directory [`RECORDS`], there
//! before the object is.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder_arena::Region;
use larder_types::object::ObjectKey;

use super::access::FileMode;
use super::file_system::{FileSystem, OpenFile};
use super::names::ObjectFile;
use super::record::{RECORD_BYTES, Record, Sum, identity};
use crate::adapter::Integrity;
use crate::config::ChecksumMode;
use crate::error::{ErrorKind, L2Error};

/// The directory, in that of the objects, of records that are files.
pub(super) const RECORDS: &str = ".larder-records";

/// The directory's log lines about damaged files are at least this far apart.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The records of one directory.
#[derive(Debug)]
pub(super) struct Records {
    mode: ChecksumMode,
    access: FileMode,
    files: Arc<dyn FileSystem>,
    directory: PathBuf,
    /// Whether there are, or were, records that are files.
    as_files: AtomicBool,
    counts: Counts,
    logged: Mutex<Logged>,
}

#[derive(Debug, Default)]
struct Counts {
    verified: AtomicU64,
    unverified: AtomicU64,
    damaged: AtomicU64,
}

#[derive(Debug, Default)]
struct Logged {
    last: Option<Instant>,
    omitted: u64,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Its record is not one, or of an unknown version.
    Record,
    /// It was stored as another object.
    OtherObject,
    /// It was stored with another length.
    Length,
    /// Its bytes are not those that were stored.
    Bytes,
}

impl Damage {
    fn text(self) -> &'static str {
        match self {
            Self::Record => "its checksum cannot be read",
            Self::OtherObject => "it holds another object, or one of another layout",
            Self::Length => "it holds an object of another length",
            Self::Bytes => "its bytes do not match their checksum",
        }
    }
}

/// Whether the bytes of a file may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// If this is their sum.
    IfSum([u8; 16]),
    /// Without a check: checksums are off, or the file has none.
    Unchecked,
    /// Not: the file has no checksum, and one is required.
    Refused,
    /// Not: the file is damaged.
    Damaged(Damage),
}

/// What was found about one file.
enum Found {
    Absent,
    Bytes(Vec<u8>),
}

impl Records {
    pub(super) fn new(mode: ChecksumMode, access: FileMode, files: Arc<dyn FileSystem>, base: &Path) -> Self {
        let directory = base.join(RECORDS);
        let as_files = AtomicBool::new(files.is_directory(&directory));
        Self { mode, access, files, directory, as_files, counts: Counts::default(), logged: Mutex::default() }
    }

    /// A sum to compute while an object is written; `None`: checksums are off.
    pub(super) fn new_sum(&self) -> Option<Sum> {
        (self.mode != ChecksumMode::Off).then(Sum::new)
    }

    /// The directory of records that are files, if there are any.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.as_files.load(Ordering::Relaxed).then_some(self.directory.as_path())
    }

    /// Keeps the record of `file`, which has no name yet. Whether it is a file of its own; `new_file` is the
    /// path to write it under first, and `sync` whether it must survive a loss of power.
    pub(super) fn attach(
        &self,
        open: &dyn OpenFile,
        object: &ObjectFile,
        (key, region, sum): (&ObjectKey, &Region, &Sum),
        new_file: &Path,
        sync: bool,
    ) -> io::Result<bool> {
        let record = Record { identity: identity(key), bytes: region.len(), sum: sum.finish() }.encode();
        match open.set_attribute(&record) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            other => return other.map(|()| false),
        }
        let Some(path) = self.path_for(object) else { return Ok(false) };
        if !self.as_files.load(Ordering::Relaxed) {
            self.files.create_directories(&self.directory, self.access)?;
            self.as_files.store(true, Ordering::Relaxed);
        }
        let written = self.write_file(new_file, &path, &record, sync);
        if written.is_err() {
            // If this fails as well, a later start removes the file.
            let _ = self.files.remove(new_file);
        }
        written.map(|()| true)
    }

    fn write_file(&self, new_file: &Path, path: &Path, record: &[u8], sync: bool) -> io::Result<()> {
        let file = self.files.create(new_file, false, self.access)?;
        // So that a starting server does not take it for abandoned.
        let _ = file.lock();
        if file.write(0, record)? != record.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if sync {
            file.sync()?;
        }
        self.files.rename(new_file, path)
    }

    /// Makes the names of records that are files survive a loss of power.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.files.sync_directory(&self.directory)
    }

    /// Removes the record of an object that was removed.
    pub(super) fn forget(&self, object: &ObjectFile) {
        if let Some(path) = self.directory().and_then(|_| self.path_for(object)) {
            // A record without an object does no harm.
            let _ = self.files.remove(&path);
        }
    }

    fn path_for(&self, object: &ObjectFile) -> Option<PathBuf> {
        object.path.file_name().map(|name| self.path_of(name))
    }

    fn path_of(&self, name: &OsStr) -> PathBuf {
        self.directory.join(name)
    }

    /// What the record of an open file says about an object of `bytes` that is to be read from it.
    pub(super) fn verdict(
        &self,
        open: &dyn OpenFile,
        object: &ObjectFile,
        key: &ObjectKey,
        bytes: u64,
    ) -> Result<Verdict, L2Error> {
        if self.mode == ChecksumMode::Off {
            return Ok(Verdict::Unchecked);
        }
        let found = self.or_file(open.attribute(), object);
        let found = found.map_err(|error| L2Error::system("read the checksum of an object", error))?;
        Ok(self.judge(found, key, bytes))
    }

    /// Whether the file of an object of `bytes`, which has a fitting length, may stay as it is. If not, it is replaced.
    pub(super) fn may_stay(&self, object: &ObjectFile, key: &ObjectKey, bytes: u64) -> bool {
        if self.mode == ChecksumMode::Off {
            return true;
        }
        let found = self.or_file(self.files.attribute(&object.path), object);
        let verdict = found.map(|found| self.judge(found, key, bytes));
        matches!(verdict, Ok(Verdict::IfSum(_) | Verdict::Unchecked))
    }

    /// The attribute, or the record that is a file.
    fn or_file(&self, attribute: io::Result<Option<Vec<u8>>>, object: &ObjectFile) -> io::Result<Found> {
        match attribute {
            Ok(Some(bytes)) => return Ok(Found::Bytes(bytes)),
            Ok(None) if self.directory().is_none() => return Ok(Found::Absent),
            Ok(None) => {}
            // Another server that shares the directory may have begun to write records.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(error) => return Err(error),
        }
        let Some(path) = self.path_for(object) else { return Ok(Found::Absent) };
        match self.files.open(&path, false) {
            Ok(file) => {
                let mut bytes = [0; RECORD_BYTES + 1];
                let len = file.read(0, &mut bytes)?;
                Ok(Found::Bytes(bytes[..len].to_vec()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Absent),
            Err(error) => Err(error),
        }
    }

    fn judge(&self, found: Found, key: &ObjectKey, bytes: u64) -> Verdict {
        let Found::Bytes(record) = found else {
            return match self.mode {
                ChecksumMode::Require => Verdict::Refused,
                ChecksumMode::Off | ChecksumMode::Check => Verdict::Unchecked,
            };
        };
        match Record::decode(&record) {
            None => Verdict::Damaged(Damage::Record),
            Some(record) if record.identity != identity(key) => Verdict::Damaged(Damage::OtherObject),
            Some(record) if record.bytes != bytes => Verdict::Damaged(Damage::Length),
            Some(record) => Verdict::IfSum(record.sum),
        }
    }

    /// Counts a load that succeeded.
    pub(super) fn loaded(&self, verdict: Verdict) {
        let count = match verdict {
            Verdict::IfSum(_) => &self.counts.verified,
            _ => &self.counts.unverified,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts and logs a damaged file. The error of its load.
    pub(super) fn damaged(&self, object: &ObjectFile, damage: Damage) -> L2Error {
        self.counts.damaged.fetch_add(1, Ordering::Relaxed);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if logged.last.is_some_and(|last| now.saturating_duration_since(last) < LOG_INTERVAL) {
            logged.omitted += 1;
        } else {
            let omitted = std::mem::take(&mut logged.omitted);
            logged.last = Some(now);
            tracing::warn!(
                file = %object.path.display(), reason = damage.text(), since_the_last_line = omitted + 1,
                "a file of L2 does not match its checksum: it is a miss, and is stored again"
            );
        }
        L2Error::permanent(ErrorKind::Corrupt, damage.text())
    }

    /// Counts of loads.
    pub(super) fn integrity(&self) -> Integrity {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Integrity {
            verified_loads: read(&self.counts.verified),
            unverified_loads: read(&self.counts.unverified),
            damaged_objects: read(&self.counts.damaged),
        }
    }
}
