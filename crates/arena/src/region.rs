//! A range of the arena that an I/O operation works on.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::{Arena, OutOfRange};

/// The bytes of one object, for one I/O operation.
///
/// The memory is not reused before every clone of the region is dropped: dropping the last one drops the
/// [`IoPin`] that it was made with, by which the core learns that the I/O is over. The region is moved
/// into the I/O operation, so the pin is released even if the result is no longer awaited.
#[derive(Clone, Debug)]
pub struct Region {
    arena: Arc<Arena>,
    offset: u64,
    len: u64,
    _pin: Arc<dyn IoPin>,
}

/// Keeps a region's memory from being reused; its `Drop` reports that the I/O is over.
pub trait IoPin: Send + Sync + std::fmt::Debug {}

impl Region {
    /// The `len` bytes at `offset`, pinned by `pin`.
    ///
    /// # Errors
    /// [`OutOfRange`].
    pub fn new(arena: Arc<Arena>, offset: u64, len: u64, pin: Arc<dyn IoPin>) -> Result<Self, OutOfRange> {
        arena.check(offset, len)?;
        Ok(Self { arena, offset, len, _pin: pin })
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies all of `bytes`, which have the region's length, into it.
    ///
    /// # Errors
    /// [`OutOfRange`] if the lengths differ.
    pub fn fill(&self, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.same_len(bytes.len())?;
        self.arena.write(self.offset, bytes)
    }

    /// Copies `bytes` into the region from its byte `at` on.
    ///
    /// # Errors
    /// [`OutOfRange`] if they reach behind the end; nothing is copied then.
    pub fn fill_part(&self, at: u64, bytes: &[u8]) -> Result<(), OutOfRange> {
        let len = bytes.len() as u64;
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(OutOfRange { offset: at, len, size: self.len });
        }
        self.arena.write(self.offset + at, bytes)
    }

    /// Copies the region to `bytes`, which have its length.
    ///
    /// # Errors
    /// [`OutOfRange`] if the lengths differ.
    pub fn copy_to(&self, bytes: &mut [u8]) -> Result<(), OutOfRange> {
        self.same_len(bytes.len())?;
        self.arena.read(self.offset, bytes)
    }

    /// Copies bytes from position `at` on to `bytes`, until either ends. Returns their number; 0 at the end.
    ///
    /// # Errors
    /// [`OutOfRange`] if `at` lies behind the end.
    pub fn copy_part(&self, at: u64, bytes: &mut [u8]) -> Result<usize, OutOfRange> {
        let rest = self.len.checked_sub(at);
        let rest = rest.ok_or(OutOfRange { offset: at, len: bytes.len() as u64, size: self.len })?;
        let len = usize::try_from(rest).map_or(bytes.len(), |rest| rest.min(bytes.len()));
        self.arena.read(self.offset + at, &mut bytes[..len])?;
        Ok(len)
    }

    /// Reads from `file` at `file_offset` into the region from its byte `at` on, in one system call.
    /// Returns how many bytes were read; 0 at the end of the file.
    ///
    /// # Errors
    /// The error of the system call; `InvalidInput` if `at` lies behind the end.
    pub fn read_from(&self, at: u64, file: &File, file_offset: u64) -> io::Result<usize> {
        let (address, len) = self.rest(at)?;
        let file_offset = signed(file_offset)?;
        // SAFETY: `rest` has checked the range, and the arena stays mapped as long as this value
        // exists. Nothing else writes there: one load has the region.
        let read = unsafe { libc::pread(file.as_raw_fd(), address.cast(), len, file_offset) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Writes the region from its byte `at` on to `file` at `file_offset`, in one system call.
    /// Returns how many bytes were written.
    ///
    /// # Errors
    /// The error of the system call; `InvalidInput` if `at` lies behind the end.
    pub fn write_to(&self, at: u64, file: &File, file_offset: u64) -> io::Result<usize> {
        let (address, len) = self.rest(at)?;
        let file_offset = signed(file_offset)?;
        // SAFETY: as in `read_from`; the bytes are only read.
        let written = unsafe { libc::pwrite(file.as_raw_fd(), address.cast(), len, file_offset) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    fn rest(&self, at: u64) -> io::Result<(*mut u8, usize)> {
        let len = self.len.checked_sub(at).ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.arena.mapping.at(self.offset + at, len), len as usize))
    }

    fn same_len(&self, len: usize) -> Result<(), OutOfRange> {
        if len as u64 != self.len {
            return Err(OutOfRange { offset: self.offset, len: len as u64, size: self.len });
        }
        Ok(())
    }
}

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}
