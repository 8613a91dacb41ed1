//! The calls of the file system that the adapter makes: an interface, so that tests run the adapter over a
//! simulated disk that loses power.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use larder_arena::Region;
use rustix::fs::{
    Access, FlockOperation, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags, flock,
};
use rustix::io::Errno;

use super::access::FileMode;

/// The extended attribute of an object's file that holds its [`Record`](super::record::Record).
const ATTRIBUTE: &str = "user.larder.checksum";

/// Longer attributes are not ours: they are read as empty.
const ATTRIBUTE_BYTES_MAX: usize = 128;

/// What a file system knows about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Length in bytes.
    pub(super) bytes: u64,
    /// Whether it is a regular file.
    pub(super) is_file: bool,
    /// The later of the last access and the last change.
    pub(super) used: SystemTime,
    /// The last change of the bytes.
    pub(super) modified: SystemTime,
    /// The last change of the file or of what is known about it, in seconds and nanoseconds.
    pub(super) changed: (i64, i64),
    /// Device and inode: equal for two names of one file only.
    pub(super) id: (u64, u64),
    /// Number of names that it has.
    pub(super) links: u64,
}

/// The names in a directory, in no order.
pub(super) type Names = Box<dyn Iterator<Item = io::Result<OsString>>>;

/// Calls that work on paths.
pub(super) trait FileSystem: Debug + Send + Sync {
    /// Opens a file for reading, bypassing the page cache if `direct` and possible.
    fn open(&self, path: &Path, direct: bool) -> io::Result<Box<dyn OpenFile>>;

    /// Creates a file for writing. It must not exist.
    fn create(&self, path: &Path, direct: bool, access: FileMode) -> io::Result<Box<dyn OpenFile>>;

    /// Whether this process may read a file.
    fn is_readable(&self, path: &Path) -> bool;

    /// Replaces `to` by `from`, in one step for all who look.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file another name. There must be no file of that name.
    ///
    /// # Errors
    /// `Unsupported`: this file system has no hard links.
    fn link(&self, path: &Path, name: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// `None`: there is no such file.
    fn stat(&self, path: &Path) -> io::Result<Option<Stat>>;

    /// The attribute of a file, as [`OpenFile::attribute`].
    fn attribute(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;

    /// Whether `path` is a directory.
    fn is_directory(&self, path: &Path) -> bool;

    /// Creates a directory and those that lead to it, unless they are there.
    fn create_directories(&self, path: &Path, access: FileMode) -> io::Result<()>;

    /// The names in a directory.
    fn names(&self, directory: &Path) -> io::Result<Names>;

    /// Returns once the names in a directory would survive a loss of power.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// Calls that work on an open file.
pub(super) trait OpenFile: Debug + Send + Sync {
    fn stat(&self) -> io::Result<Stat>;

    /// Reads into `bytes` from position `at`, in one call.
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<usize>;

    /// Reads into the region from its byte `at` on, from the same position, in one call.
    fn read_region(&self, at: u64, region: &Region) -> io::Result<usize>;

    /// Writes `bytes` at position `at`, in one call.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Writes the region from its byte `at` on, to the same position, in one call.
    fn write_region(&self, at: u64, region: &Region) -> io::Result<usize>;

    /// Stops to bypass the page cache.
    fn leave_direct(&self) -> io::Result<()>;

    /// Sets the attribute.
    ///
    /// # Errors
    /// `Unsupported`: this file system has none.
    fn set_attribute(&self, value: &[u8]) -> io::Result<()>;

    /// The attribute; `None` if the file has none.
    ///
    /// # Errors
    /// `Unsupported`: this file system has none.
    fn attribute(&self) -> io::Result<Option<Vec<u8>>>;

    /// Returns once bytes, length and attribute would survive a loss of power.
    fn sync(&self) -> io::Result<()>;

    /// Locks the file for this process, until it is closed. `false`: another process has locked it.
    fn lock(&self) -> io::Result<bool>;

    /// Sets the time of the last access to now.
    fn renew_access(&self) -> io::Result<()>;
}

/// The file systems of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mounted;

impl FileSystem for Mounted {
    fn open(&self, path: &Path, direct: bool) -> io::Result<Box<dyn OpenFile>> {
        Ok(Box::new(open(OpenOptions::new().read(true), path, direct)?))
    }

    fn create(&self, path: &Path, direct: bool, access: FileMode) -> io::Result<Box<dyn OpenFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(access.of_files());
        let file = open(&options, path, direct)?;
        access.apply(&file, file.metadata()?.mode())?;
        Ok(Box::new(file))
    }

    fn is_readable(&self, path: &Path) -> bool {
        rustix::fs::access(path, Access::READ_OK).is_ok()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, path: &Path, name: &Path) -> io::Result<()> {
        fs::hard_link(path, name).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                io::ErrorKind::Unsupported.into()
            }
            _ => error,
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        match fs::metadata(path) {
            Ok(meta) => stat_of(&meta).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn attribute(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let mut value = [0; ATTRIBUTE_BYTES_MAX];
        let len = rustix::fs::getxattr(path, ATTRIBUTE, &mut value[..]);
        attribute(len, &value)
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn create_directories(&self, path: &Path, access: FileMode) -> io::Result<()> {
        access.create_directories(path)
    }

    fn names(&self, directory: &Path) -> io::Result<Names> {
        Ok(Box::new(fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()))))
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

impl OpenFile for File {
    fn stat(&self) -> io::Result<Stat> {
        stat_of(&self.metadata()?)
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.read_at(bytes, at)
    }

    fn read_region(&self, at: u64, region: &Region) -> io::Result<usize> {
        region.read_from(at, self, at)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        self.write_at(bytes, at)
    }

    fn write_region(&self, at: u64, region: &Region) -> io::Result<usize> {
        region.write_to(at, self, at)
    }

    fn leave_direct(&self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(self)?;
        Ok(rustix::fs::fcntl_setfl(self, flags - OFlags::DIRECT)?)
    }

    fn set_attribute(&self, value: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::fsetxattr(self, ATTRIBUTE, value, XattrFlags::empty())?)
    }

    fn attribute(&self) -> io::Result<Option<Vec<u8>>> {
        let mut value = [0; ATTRIBUTE_BYTES_MAX];
        let len = rustix::fs::fgetxattr(self, ATTRIBUTE, &mut value[..]);
        attribute(len, &value)
    }

    fn sync(&self) -> io::Result<()> {
        // Not only the data: `fdatasync` may leave the attribute out. Both cost the same for a new file.
        self.sync_all()
    }

    fn lock(&self) -> io::Result<bool> {
        match flock(self, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn renew_access(&self) -> io::Result<()> {
        let at = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let times = Timestamps { last_access: at(UTIME_NOW), last_modification: at(UTIME_OMIT) };
        Ok(rustix::fs::futimens(self, &times)?)
    }
}

/// Opens `path`, bypassing the page cache if `direct` and the file system allows it.
fn open(options: &OpenOptions, path: &Path, direct: bool) -> io::Result<File> {
    if direct {
        let mut options = options.clone();
        match options.custom_flags(OFlags::DIRECT.bits() as i32).open(path) {
            // A file system without O_DIRECT. Some create the file before they fail.
            Err(error) if is_invalid(&error) => {}
            other => return other,
        }
        return match options.custom_flags(0).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(path)?;
                options.open(path)
            }
            other => other,
        };
    }
    options.open(path)
}

pub(super) fn is_invalid(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INVAL)
}

fn attribute(len: rustix::io::Result<usize>, value: &[u8]) -> io::Result<Option<Vec<u8>>> {
    match len {
        Ok(len) => Ok(Some(value[..len].to_vec())),
        Err(Errno::NODATA) => Ok(None),
        Err(Errno::RANGE) => Ok(Some(Vec::new())),
        Err(error) => Err(error.into()),
    }
}

fn stat_of(meta: &fs::Metadata) -> io::Result<Stat> {
    let modified = meta.modified()?;
    Ok(Stat {
        bytes: meta.len(),
        is_file: meta.is_file(),
        used: meta.accessed().map_or(modified, |accessed| accessed.max(modified)),
        modified,
        changed: (meta.ctime(), meta.ctime_nsec()),
        id: (meta.dev(), meta.ino()),
        links: meta.nlink(),
    })
}
