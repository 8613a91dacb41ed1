//! A range of addresses and the copies in and out of it.

use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::COMMIT_STEP;

/// `MADV_COLLAPSE` of the Linux headers, which neither rustix nor older libc headers name.
const MADV_COLLAPSE: libc::c_int = 25;

/// How much of a range is backed by pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backing {
    None,
    Some,
    All,
}

/// Mapped memory whose address is a multiple of [`COMMIT_STEP`].
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory stays mapped until the value is dropped and is only accessed by raw copies;
// reservations and leases of the caller decide which ranges may be accessed when.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method hands out a reference into the memory.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn of_file(file: &File, len: u64) -> io::Result<Self> {
        Self::map(len, |address, len| {
            let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
            // SAFETY: `address..+len` lies within the range that `map` has just reserved, so no other
            // mapping is replaced.
            unsafe { rustix::mm::mmap(address, len, ProtFlags::READ | ProtFlags::WRITE, flags, file, 0) }
        })
    }

    pub(super) fn anonymous(len: u64) -> io::Result<Self> {
        Self::map(len, |address, len| {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            // SAFETY: as in `of_file`.
            unsafe { rustix::mm::mmap_anonymous(address, len, ProtFlags::READ | ProtFlags::WRITE, flags) }
        })
    }

    /// Reserves addresses, then has `place` map something at an aligned one among them.
    fn map(
        len: u64,
        place: impl FnOnce(*mut libc::c_void, usize) -> rustix::io::Result<*mut libc::c_void>,
    ) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let len = usize::try_from(len).map_err(|_| too_large())?;
        let step = COMMIT_STEP as usize;
        let reserved = len.checked_add(step).ok_or_else(too_large)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no address is asked for, so nothing that is mapped can be replaced.
        let start =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), reserved, ProtFlags::empty(), flags)? };
        let skip = start.addr().next_multiple_of(step) - start.addr();
        // SAFETY: `skip < step`, so the result stays within the `len + step` bytes reserved.
        let aligned = unsafe { start.byte_add(skip) };
        let placed = place(aligned, len);
        let (unused_from, unused) = match placed {
            Ok(_) => {
                let end = skip + len.next_multiple_of(rustix::param::page_size());
                (end, reserved.next_multiple_of(rustix::param::page_size()).saturating_sub(end))
            }
            Err(_) => (0, reserved),
        };
        if unused > 0 {
            // SAFETY: the range lies within the addresses reserved above and outside the mapping that
            // `place` made. An error would leave addresses reserved, which costs nothing.
            let _ = unsafe { rustix::mm::munmap(start.byte_add(unused_from), unused) };
        }
        let base = NonNull::new(placed?.cast()).ok_or_else(too_large)?;
        Ok(Self { base, len })
    }

    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether a range has pages, committed by this or another process.
    pub(super) fn backing(&self, offset: u64, len: u64) -> io::Result<Backing> {
        let page = rustix::param::page_size();
        let mut pages = vec![0_u8; (len as usize).div_ceil(page)];
        let address = self.at(offset, len).cast();
        // SAFETY: the range is inside this mapping; the kernel writes one byte per page, as many as
        // `pages` has.
        if unsafe { libc::mincore(address, len as usize, pages.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let backed = pages.iter().filter(|p| **p & 1 != 0).count();
        Ok(match backed {
            0 => Backing::None,
            n if n == pages.len() => Backing::All,
            _ => Backing::Some,
        })
    }

    /// Backs a whole step with one huge page.
    pub(super) fn make_huge(&self, offset: u64, len: u64) -> io::Result<()> {
        // An empty range cannot be collapsed; one page in it is enough.
        self.make_small(offset, rustix::param::page_size() as u64)?;
        let address = self.at(offset, len).cast();
        // SAFETY: the range is inside this mapping; collapsing changes which pages back it, not their
        // content.
        let failed = unsafe { libc::madvise(address, len as usize, MADV_COLLAPSE) } != 0;
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Backs a range with small pages.
    pub(super) fn make_small(&self, offset: u64, len: u64) -> io::Result<()> {
        let address = self.at(offset, len).cast();
        // SAFETY: the range is inside this mapping; committing pages changes no bytes.
        unsafe { rustix::mm::madvise(address, len as usize, Advice::LinuxPopulateWrite) }?;
        Ok(())
    }

    pub(super) fn copy_in(&self, offset: u64, bytes: &[u8]) {
        let to = self.at(offset, bytes.len() as u64);
        // SAFETY: `at` has checked the range; `bytes` is memory of this process that cannot overlap
        // it, as no reference into the mapping ever exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    pub(super) fn copy_out(&self, offset: u64, into: &mut [u8]) {
        let from = self.at(offset, into.len() as u64);
        // SAFETY: as in `copy_in`, the other way round.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
    }

    /// Address of a range.
    ///
    /// # Panics
    /// The range is not inside the mapping. Callers check ranges that come from outside this crate.
    pub(super) fn at(&self, offset: u64, len: u64) -> *mut u8 {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|e| e <= self.len as u64), "{offset}..+{len} outside the mapping");
        // SAFETY: `offset` is at most the mapping's length.
        unsafe { self.base.as_ptr().add(offset as usize) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more. An error could only mean that it is not
        // mapped.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
