//! The file behind the arena: `/dev/shm/lmcache_l1_pool_NAME`.
//!
//! Workers know only the name, so two servers with one name would each hand out slots of the other's
//! memory. A running server therefore holds an exclusive lock on the file. The kernel releases the lock
//! when the process ends, in whatever way; the file may stay, and the next server that gets the lock
//! replaces it. It creates a new file instead of reusing the old one, because workers of the dead server
//! may still be copying in their mapping of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};

use super::{ArenaError, SEGMENT_PREFIX};

const DIRECTORY: &str = "/dev/shm";

/// The longest file name that file systems take, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Attempts, if other servers start at the same time.
const ATTEMPTS_MAX: usize = 16;

/// An open, locked segment. Its name is removed when it is dropped.
#[derive(Debug)]
pub(super) struct Segment {
    name: String,
    path: PathBuf,
    file: File,
}

impl Segment {
    pub(super) fn create(name: &str, bytes: u64) -> Result<Self, ArenaError> {
        let name = full_name(name)?;
        let path = Path::new(DIRECTORY).join(&name);
        let failed = |action, source| file_error(action, &path, bytes, source);
        for _ in 0..ATTEMPTS_MAX {
            let file = match open(&path, OFlags::CREATE | OFlags::EXCL) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    if !remove_leftover(&path).map_err(|e| failed("replace old shared memory", e))? {
                        return Err(ArenaError::InUse { name });
                    }
                    continue;
                }
                Err(e) => return Err(failed("create shared memory", e)),
            };
            // Another server that starts at the same time may have taken the file for a leftover.
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
                || !is_at(&file, &path)
            {
                continue;
            }
            let segment = Self { name, path: path.clone(), file };
            segment.check_size(bytes)?;
            segment.file.set_len(bytes).map_err(|e| failed("size shared memory", e))?;
            return Ok(segment);
        }
        Err(ArenaError::InUse { name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Backs a range with pages; fails if there is no memory.
    pub(super) fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len)?)
    }

    /// Removes the name. The memory stays as long as a process maps it.
    pub(super) fn free_name(&self) {
        // Only if the file there is this one: an operator may have removed it and started another server.
        if is_at(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Frees the pages of a range.
    pub(super) fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, flags, offset, len)?)
    }

    /// Whether the file system can hold `need` bytes. Whether they are free now does not matter: memory is committed
    /// as it is needed, and what engines still map of an earlier segment becomes free when they register again.
    fn check_size(&self, need: u64) -> Result<(), ArenaError> {
        let stat = rustix::fs::fstatvfs(&self.file)
            .map_err(|e| file_error("measure the file system of", &self.path, need, e.into()))?;
        // A tmpfs without a size limit reports no blocks at all.
        let size = stat.f_blocks.saturating_mul(stat.f_frsize);
        if stat.f_blocks > 0 && size < need {
            return Err(ArenaError::NoSpace { size, need });
        }
        Ok(())
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.free_name();
    }
}

fn full_name(name: &str) -> Result<String, ArenaError> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let bare = bare.strip_prefix(SEGMENT_PREFIX).unwrap_or(bare);
    let full = format!("{SEGMENT_PREFIX}{bare}");
    if bare.is_empty() || bare.contains(['/', '\0']) || full.len() > NAME_BYTES_MAX {
        return Err(ArenaError::BadName { name: name.to_owned() });
    }
    Ok(full)
}

/// An error that names the file and, if that is the reason, the other user that it belongs to.
fn file_error(action: &'static str, path: &Path, bytes: u64, source: io::Error) -> ArenaError {
    let name = path.display().to_string();
    let owner = std::fs::symlink_metadata(path).map(|metadata| metadata.uid());
    match owner {
        Ok(owner)
            if source.kind() == io::ErrorKind::PermissionDenied
                && owner != rustix::process::geteuid().as_raw() =>
        {
            ArenaError::Foreign { path: name, owner, source }
        }
        _ => ArenaError::File { action, path: name, bytes, source },
    }
}

fn open(path: &Path, create: OFlags) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | create;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Removes the file at `path` if no running process holds it. Returns whether the name is free now.
fn remove_leftover(path: &Path) -> io::Result<bool> {
    let file = match open(path, OFlags::empty()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other?,
    };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    // While this process holds the lock, only a program that ignores locks can have put another file there.
    if is_at(&file, path) {
        std::fs::remove_file(path)?;
    }
    Ok(true)
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_name_has_the_prefix_once() {
        for name in ["a", "/a", "lmcache_l1_pool_a", "/lmcache_l1_pool_a"] {
            assert_eq!(full_name(name).unwrap(), "lmcache_l1_pool_a");
        }
        for name in ["", "/", "a/b", "a\0", &"x".repeat(NAME_BYTES_MAX)] {
            assert!(matches!(full_name(name), Err(ArenaError::BadName { .. })), "{name:?}");
        }
    }
}
