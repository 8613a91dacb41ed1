//! Reads and writes of whole files, with and without the page cache.
//!
//! Bytes that are hashed pass through a small buffer: read into it, hashed, and copied to the region while they are in
//! the processor's cache. That was measured to be no slower than a read of everything straight into
//! the region (`docs/adr/0005-durable-files.md`).

use std::cell::RefCell;
use std::io;

use larder_arena::Region;

use super::access::FileMode;
use super::file_system::{OpenFile, is_invalid};
use super::record::Sum;
use crate::adapter::BLOCK_BYTES;

/// Size of the first read of a file, unless configured.
const FIRST_READ_BYTES: u64 = 16 << 10;

/// The largest first read: it uses separate memory.
const FIRST_READ_BYTES_MAX: u64 = 1 << 20;

/// Smaller objects are read in one call.
const SEQUENCE_BYTES_MIN: u64 = 128 << 10;

/// Bytes that are read or written, and hashed, at a time: small enough for a processor's second-level cache.
const PIECE_BYTES: usize = 256 << 10;

thread_local! {
    /// The buffer of this thread; allocated at its first use.
    static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

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

    /// Whether an object of `len` is written past the page cache.
    pub(super) fn writes_direct(self, len: u64) -> bool {
        self.direct && len > 0 && (self.pad || len.is_multiple_of(BLOCK_BYTES))
    }

    /// Whether an object of `len` is read past the page cache. A region that is not a multiple of a block is not.
    pub(super) fn reads_direct(self, len: u64) -> bool {
        self.direct && len > 0 && len.is_multiple_of(BLOCK_BYTES)
    }

    /// Reads `region` from the start of `file`, and adds it to `sum`.
    pub(super) fn read(self, file: &dyn OpenFile, region: &Region, sum: Option<&mut Sum>) -> io::Result<()> {
        let len = region.len();
        self.begin_sequence(file, len);
        let at_end = io::ErrorKind::UnexpectedEof;
        match sum {
            Some(sum) if !self.reads_direct(len) => with_piece(len, |piece| {
                transfer(file, len, at_end, |at| {
                    let wanted = piece_at(at, len);
                    let bytes = file.read(at, &mut piece[..wanted])?;
                    sum.add(&piece[..bytes]);
                    region.fill_part(at, &piece[..bytes]).map_err(io::Error::other)?;
                    Ok(bytes)
                })
            }),
            sum => {
                transfer(file, len, at_end, |at| file.read_region(at, region))?;
                sum.map_or(Ok(()), |sum| add_region(sum, region))
            }
        }
    }

    /// Makes a small read before the large one. A large first read makes the kernel fetch single pages; after a
    /// small one it detects sequential access and reads ahead in large steps, which halves the CPU time of a cold
    /// read and saves a third of that of each later one.
    fn begin_sequence(self, file: &dyn OpenFile, len: u64) {
        let bytes = self.read_ahead.unwrap_or(FIRST_READ_BYTES).min(FIRST_READ_BYTES_MAX);
        if self.reads_direct(len) || len < SEQUENCE_BYTES_MIN.max(2 * bytes) {
            return;
        }
        // The bytes, or the error, are read again.
        let _ = file.read(0, &mut vec![0; bytes as usize]);
    }

    /// Writes `region` and its padding to the start of `file`, and adds it, without padding, to `sum`.
    pub(super) fn write(self, file: &dyn OpenFile, region: &Region, sum: Option<&mut Sum>) -> io::Result<()> {
        let len = region.len();
        let at_end = io::ErrorKind::WriteZero;
        if self.pads(len) {
            let padded = Padded::of(region)?;
            let bytes = padded.bytes();
            if let Some(sum) = sum {
                sum.add(&bytes[..len as usize]);
            }
            return transfer(file, bytes.len() as u64, at_end, |at| file.write(at, &bytes[at as usize..]));
        }
        match sum {
            Some(sum) if !self.writes_direct(len) => with_piece(len, |piece| {
                let mut start = 0;
                while start < len {
                    let bytes = region.copy_part(start, &mut piece[..piece_at(start, len)]);
                    let bytes = &piece[..bytes.map_err(io::Error::other)?];
                    sum.add(bytes);
                    transfer(file, bytes.len() as u64, at_end, |at| {
                        file.write(start + at, &bytes[at as usize..])
                    })?;
                    start += bytes.len() as u64;
                }
                Ok(())
            }),
            sum => {
                transfer(file, len, at_end, |at| file.write_region(at, region))?;
                sum.map_or(Ok(()), |sum| add_region(sum, region))
            }
        }
    }
}

/// Length of the piece at `at` of `len` bytes.
fn piece_at(at: u64, len: u64) -> usize {
    usize::try_from(len - at).map_or(PIECE_BYTES, |rest| rest.min(PIECE_BYTES))
}

/// Runs `work` with this thread's buffer, large enough for a piece of `len` bytes.
fn with_piece<T>(len: u64, work: impl FnOnce(&mut [u8]) -> T) -> T {
    PIECE.with_borrow_mut(|piece| {
        let bytes = piece_at(0, len);
        if piece.len() < bytes {
            piece.resize(bytes, 0);
        }
        work(piece)
    })
}

/// Adds a region to `sum`, over copied pieces: there must be no reference to the arena's memory.
fn add_region(sum: &mut Sum, region: &Region) -> io::Result<()> {
    with_piece(region.len(), |piece| {
        let mut at = 0;
        while at < region.len() {
            let bytes = region.copy_part(at, piece).map_err(io::Error::other)?;
            sum.add(&piece[..bytes]);
            at += bytes as u64;
        }
        Ok(())
    })
}

/// Moves `len` bytes by calls that may each move less.
fn transfer(
    file: &dyn OpenFile,
    len: u64,
    at_zero: io::ErrorKind,
    mut call: impl FnMut(u64) -> io::Result<usize>,
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
                file.leave_direct()?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
    use std::fs::File;

    use rustix::io::Errno;

    use crate::testing::{Directory, TestArena, contents};

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
        transfer(&file, 10, io::ErrorKind::WriteZero, call).unwrap();
        assert_eq!(*calls.borrow(), [0, 4, 4, 4, 8]);
        let error = transfer(&file, 10, io::ErrorKind::WriteZero, |_| Ok(0)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        let error = transfer(&file, 10, io::ErrorKind::WriteZero, |_| Err(Errno::INVAL.into())).unwrap_err();
        assert!(is_invalid(&error), "retried once without O_DIRECT");
    }

    #[test]
    fn only_fs_native_pads() {
        let fs = Mode { direct: true, pad: false, read_ahead: None, access: FileMode::default() };
        let native = Mode { pad: true, ..fs };
        assert_eq!((fs.stored_bytes(541), native.stored_bytes(541)), (541, 4096));
        assert_eq!((fs.stored_bytes(8192), native.stored_bytes(8192)), (8192, 8192));
        assert!(!fs.writes_direct(541) && native.writes_direct(541) && fs.writes_direct(4096));
        assert_eq!(Mode { direct: false, ..native }.stored_bytes(541), 541);
    }

    #[test]
    fn every_way_to_write_and_read_gives_the_sum_of_the_bytes() {
        let (arena, directory) = (TestArena::new(8 << 20), Directory::new("pieces"));
        let path = directory.path().join("file");
        let piece = PIECE_BYTES as u64;
        for len in [0, 1, 541, 4096, piece, piece + 1, 3 * piece - 4096] {
            let region = arena.object(7, len).region;
            let mut of_whole = Sum::new();
            of_whole.add(&contents(&region));
            let of_whole = of_whole.finish();
            for (direct, pad) in [(false, false), (true, false), (true, true)] {
                let mode = Mode { direct, pad, read_ahead: None, access: FileMode::default() };
                let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
                let file = file.unwrap();
                let mut written = Sum::new();
                mode.write(&file, &region, Some(&mut written)).unwrap();
                let (back, mut read) = (arena.region(len), Sum::new());
                mode.read(&file, &back, Some(&mut read)).unwrap();
                assert!(contents(&back) == contents(&region), "{len} bytes, {mode:?}");
                assert_eq!((written.finish(), read.finish()), (of_whole, of_whole), "{len} bytes, {mode:?}");
            }
        }
    }
}
