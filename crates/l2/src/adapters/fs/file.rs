//! Reads and writes of whole files, with and without the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use larder_arena::Region;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::access::FileMode;
use crate::adapter::BLOCK_BYTES;

/// Size of the first read of a file, unless configured.
const FIRST_READ_BYTES: u64 = 16 << 10;

/// The largest first read: it uses separate memory.
const FIRST_READ_BYTES_MAX: u64 = 1 << 20;

/// Smaller objects are read in one call.
const SEQUENCE_BYTES_MIN: u64 = 128 << 10;

/// How files are opened, read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    /// Bypass the page cache where size and file system allow it.
    pub(super) direct: bool,
    /// Pad files to whole blocks, so that the page cache is bypassed for every size.
    pub(super) pad: bool,
    /// Size of a first small read; `None`: [`FIRST_READ_BYTES`].
    pub(super) read_ahead: Option<u64>,
    /// Who may read and write the files.
    pub(super) access: FileMode,
}

impl Mode {
    /// Bytes that a file takes for an object of `len`.
    pub(super) fn stored_bytes(self, len: u64) -> u64 {
        if self.pads(len) { len.next_multiple_of(BLOCK_BYTES) } else { len }
    }

    fn pads(self, len: u64) -> bool {
        self.direct && self.pad && !len.is_multiple_of(BLOCK_BYTES)
    }

    fn is_direct(self, len: u64) -> bool {
        self.direct && len > 0 && (self.pad || len.is_multiple_of(BLOCK_BYTES))
    }

    /// Opens a file for [`Mode::read`].
    pub(super) fn open(self, path: &Path, len: u64) -> io::Result<File> {
        // A region that is not a multiple of a block is read through the page cache.
        let direct = self.direct && len > 0 && len.is_multiple_of(BLOCK_BYTES);
        open(OpenOptions::new().read(true), path, direct)
    }

    /// Creates a file for [`Mode::write`]. It must not exist.
    pub(super) fn create(self, path: &Path, len: u64) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(self.access.of_files());
        open(&options, path, self.is_direct(len))
    }

    /// Reads `region` from the start of `file`.
    pub(super) fn read(self, file: &File, region: &Region) -> io::Result<()> {
        self.begin_sequence(file, region.len());
        transfer(file, region.len(), |at| region.read_from(at, file, at), io::ErrorKind::UnexpectedEof)
    }

    /// Makes a small read before the large one. A large first read makes the kernel fetch single pages; after a
    /// small one it detects sequential access and reads ahead in large steps, which halves the CPU time of a cold
    /// read and saves a third of that of each later one.
    fn begin_sequence(self, file: &File, len: u64) {
        let bytes = self.read_ahead.unwrap_or(FIRST_READ_BYTES).min(FIRST_READ_BYTES_MAX);
        if self.direct && len.is_multiple_of(BLOCK_BYTES) || len < SEQUENCE_BYTES_MIN.max(2 * bytes) {
            return;
        }
        // The bytes, or the error, are read again.
        let _ = file.read_at(&mut vec![0; bytes as usize], 0);
    }

    /// Writes `region` and its padding to the start of `file`.
    pub(super) fn write(self, file: &File, region: &Region) -> io::Result<()> {
        let len = region.len();
        if !self.pads(len) {
            return transfer(file, len, |at| region.write_to(at, file, at), io::ErrorKind::WriteZero);
        }
        let padded = Padded::of(region)?;
        let bytes = padded.bytes();
        let write = |at: u64| file.write_at(&bytes[at as usize..], at);
        transfer(file, bytes.len() as u64, write, io::ErrorKind::WriteZero)
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
                std::fs::remove_file(path)?;
                options.open(path)
            }
            other => other,
        };
    }
    options.open(path)
}

/// Moves `len` bytes by calls that may each move less.
fn transfer(
    file: &File,
    len: u64,
    mut call: impl FnMut(u64) -> io::Result<usize>,
    at_zero: io::ErrorKind,
) -> io::Result<()> {
    let mut at = 0;
    let mut may_be_direct = true;
    while at < len {
        match call(at) {
            Ok(0) => return Err(at_zero.into()),
            Ok(bytes) => at += bytes as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Direct I/O needs aligned memory and offsets; a short call before may have broken that.
            Err(error) if is_invalid(&error) && may_be_direct => {
                may_be_direct = false;
                let flags = rustix::fs::fcntl_getfl(file)?;
                rustix::fs::fcntl_setfl(file, flags - OFlags::DIRECT)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_invalid(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INVAL)
}

/// A copy of an object, padded with zeros to whole blocks, at an aligned address.
struct Padded {
    buffer: Vec<u8>,
    start: usize,
    len: usize,
}

impl Padded {
    fn of(region: &Region) -> io::Result<Self> {
        let too_large = |_| io::Error::from(io::ErrorKind::OutOfMemory);
        let object = usize::try_from(region.len()).map_err(too_large)?;
        let block = BLOCK_BYTES as usize;
        let len = object.next_multiple_of(block);
        let mut buffer = vec![0; len + block];
        let start = buffer.as_ptr().align_offset(block).min(block);
        region.copy_to(&mut buffer[start..start + object]).map_err(io::Error::other)?;
        Ok(Self { buffer, start, len })
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn short_calls_continue_where_they_ended() {
        let file = File::open("/dev/null").unwrap();
        let calls = RefCell::new(Vec::new());
        let call = |at| {
            calls.borrow_mut().push(at);
            match calls.borrow().len() {
                2 => Err(io::ErrorKind::Interrupted.into()),
                3 => Err(Errno::INVAL.into()),
                _ => Ok(4),
            }
        };
        transfer(&file, 10, call, io::ErrorKind::WriteZero).unwrap();
        assert_eq!(*calls.borrow(), [0, 4, 4, 4, 8]);
        let error = transfer(&file, 10, |_| Ok(0), io::ErrorKind::WriteZero).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        let error = transfer(&file, 10, |_| Err(Errno::INVAL.into()), io::ErrorKind::WriteZero).unwrap_err();
        assert!(is_invalid(&error), "retried once without O_DIRECT");
    }

    #[test]
    fn only_fs_native_pads() {
        let fs = Mode { direct: true, pad: false, read_ahead: None, access: FileMode::default() };
        let native = Mode { pad: true, ..fs };
        assert_eq!((fs.stored_bytes(541), native.stored_bytes(541)), (541, 4096));
        assert_eq!((fs.stored_bytes(8192), native.stored_bytes(8192)), (8192, 8192));
        assert!(!fs.is_direct(541) && native.is_direct(541) && fs.is_direct(4096));
        assert_eq!(Mode { direct: false, ..native }.stored_bytes(541), 541);
    }
}
