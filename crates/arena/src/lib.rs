//! The arena: the memory that objects lie in, shared with every engine worker on the node.
//!
//! Workers map the segment by name and copy in and out of slots themselves. So this side never
//! forms a reference to its bytes: a peer may be writing any of them. It copies through raw
//! pointers, and only what a lease says is still ([`Arena::read`], [`Arena::write`]).
//!
//! **Memory is committed as it is needed**, from low offsets to high. [`Arena::populate`] backs
//! everything below an offset with pages: slots are handed out only below that mark, so a worker
//! never meets a full `/dev/shm` as a `SIGBUS`. Where the kernel offers it, a whole 2 MiB page is
//! made at a time: one small page is touched and the range collapsed (`MADV_COLLAPSE`, which works
//! on tmpfs whatever its `huge=` option says). A worker then takes one page fault per 2 MiB instead
//! of 512; measured here, its first copy into such memory is as fast as any later one.

#![expect(unsafe_code, reason = "maps and copies memory that other processes write")]

mod mapping;
mod region;
mod segment;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub use self::region::{Hold, Region};

use self::mapping::{Backing, Mapping};
use self::segment::Segment;

/// What workers' names for the segment begin with.
pub const SEGMENT_PREFIX: &str = "lmcache_l1_pool_";

/// Size of a huge page, and so the step in which memory is committed, in bytes.
pub const POPULATE_STEP: u64 = 2 << 20;

/// Why there is no arena.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// A living process holds the segment of that name.
    #[error(
        "shared memory /dev/shm/{name} is held by a running server; stop it or choose another --shm-name"
    )]
    InUse {
        /// The segment's name.
        name: String,
    },
    /// The name cannot be that of a segment.
    #[error("shared memory name {name:?} is empty, too long or contains '/'")]
    BadName {
        /// The name as given.
        name: String,
    },
    /// The file system for shared memory is too small.
    #[error(
        "/dev/shm has {free} bytes free, L1 needs {need}: enlarge it (docker: --shm-size, \
         kubernetes: an emptyDir of medium Memory or the host's /dev/shm), or lower --l1-size-gb"
    )]
    NoSpace {
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The system refused.
    #[error("{action} for L1 of {bytes} bytes")]
    System {
        /// What was tried.
        action: &'static str,
        /// Size of the arena.
        bytes: u64,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A range outside the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes {offset}..+{len} lie outside an arena of {size}")]
pub struct OutOfRange {
    /// First byte asked for.
    pub offset: u64,
    /// Bytes asked for.
    pub len: u64,
    /// Bytes there are.
    pub size: u64,
}

/// The memory of L1. The segment's name is free again once the arena is dropped, or [before](Arena::free_name).
#[derive(Debug)]
pub struct Arena {
    mapping: Mapping,
    segment: Option<Segment>,
    populated: AtomicU64,
    maker: Mutex<Maker>,
    /// A step has been made, or has failed.
    stepped: Condvar,
}

/// Who makes pages.
#[derive(Debug, Default)]
struct Maker {
    /// Somebody is making a step.
    is_busy: bool,
    /// The kernel is not worth asking for huge pages.
    no_huge: bool,
}

impl Arena {
    /// A segment that workers can map as `/dev/shm/lmcache_l1_pool_NAME`, mode 0600. The prefix is
    /// not doubled and a leading `/` is dropped. A segment that a crashed server left behind is
    /// replaced; one that a living server holds is not.
    ///
    /// # Errors
    /// See [`ArenaError`].
    pub fn shared(name: &str, bytes: u64) -> Result<Self, ArenaError> {
        let segment = Segment::create(name, bytes)?;
        let mapping = Mapping::of_file(segment.file(), bytes).map_err(|source| ArenaError::System {
            action: "map shared memory",
            bytes,
            source,
        })?;
        Ok(Self::new(mapping, Some(segment)))
    }

    /// Memory of this process alone, for workers that are sent the bytes.
    ///
    /// # Errors
    /// [`ArenaError::System`].
    pub fn private(bytes: u64) -> Result<Self, ArenaError> {
        let mapping = Mapping::anonymous(bytes).map_err(|source| ArenaError::System {
            action: "map memory",
            bytes,
            source,
        })?;
        Ok(Self::new(mapping, None))
    }

    fn new(mapping: Mapping, segment: Option<Segment>) -> Self {
        Self {
            mapping,
            segment,
            populated: AtomicU64::new(0),
            maker: Mutex::default(),
            stepped: Condvar::new(),
        }
    }

    /// The name workers map the arena by, without a leading slash. `None` if it is private.
    pub fn name(&self) -> Option<&str> {
        self.segment.as_ref().map(Segment::name)
    }

    /// Frees the segment's name, as dropping the arena does, while the memory is still in use. Doing it again
    /// does nothing.
    pub fn free_name(&self) {
        if let Some(segment) = &self.segment {
            segment.free_name();
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.mapping.len()
    }

    /// Everything below this offset is backed by pages.
    pub fn populated(&self) -> u64 {
        self.populated.load(Ordering::Acquire)
    }

    /// Backs everything below `end` with pages, and the rest of the step that `end` lies in.
    /// Cheap if that is done already. One caller at a time makes pages; the others wait for what they
    /// need and no longer, however much more it goes on to make.
    ///
    /// # Errors
    /// If the system has no memory left; what was backed before stays so.
    pub fn populate(&self, end: u64) -> io::Result<()> {
        let target = end.next_multiple_of(POPULATE_STEP).min(self.size());
        if self.populated() >= target {
            return Ok(());
        }
        // Not a lock around the whole: whoever makes step after step would take it again before anybody
        // who waits for it has woken up.
        let mut maker = self.maker();
        while self.populated() < target {
            if maker.is_busy {
                maker = self.stepped.wait(maker).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            maker.is_busy = true;
            let mut no_huge = maker.no_huge;
            drop(maker);
            let from = self.populated();
            let len = POPULATE_STEP.min(self.size() - from);
            let made = self.populate_step(&mut no_huge, from, len);
            if made.is_ok() {
                self.populated.store(from + len, Ordering::Release);
            }
            maker = self.maker();
            *maker = Maker { is_busy: false, no_huge };
            self.stepped.notify_all();
            made?;
        }
        Ok(())
    }

    fn maker(&self) -> MutexGuard<'_, Maker> {
        self.maker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn populate_step(&self, no_huge: &mut bool, offset: u64, len: u64) -> io::Result<()> {
        match self.mapping.backing(offset, len)? {
            // Somebody else has been here: a worker that backs the whole pool when it maps it.
            Backing::All => return Ok(()),
            Backing::Some => {}
            // Only an empty range is worth a huge page: collapsing pages that exist copies them.
            Backing::None if !*no_huge && len == POPULATE_STEP => match self.mapping.make_huge(offset, len) {
                Ok(()) => return Ok(()),
                // Not this time (no free huge page, or a page in use) or not with this kernel.
                Err(e) => *no_huge = e.kind() == io::ErrorKind::InvalidInput,
            },
            Backing::None => {}
        }
        match &self.segment {
            Some(segment) => segment.allocate(offset, len),
            None => self.mapping.make_small(offset, len),
        }
    }

    /// Copies `bytes` into the arena at `offset`.
    ///
    /// The caller holds the reservation of that range; nobody else may be writing there.
    ///
    /// # Errors
    /// [`OutOfRange`]; nothing is written then.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.check(offset, bytes.len() as u64)?;
        self.mapping.copy_in(offset, bytes);
        Ok(())
    }

    /// Fills `into` with the bytes at `offset`.
    ///
    /// The caller holds a share of the object that lies there; nobody may be writing it.
    ///
    /// # Errors
    /// [`OutOfRange`]; `into` is left as it was then.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfRange> {
        self.check(offset, into.len() as u64)?;
        self.mapping.copy_out(offset, into);
        Ok(())
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), OutOfRange> {
        let size = self.size();
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(OutOfRange { offset, len, size });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    fn name(test: &str) -> String {
        format!("test_{test}_{}", std::process::id())
    }

    fn path(name: &str) -> PathBuf {
        PathBuf::from(format!("/dev/shm/{SEGMENT_PREFIX}{name}"))
    }

    #[test]
    fn workers_see_what_is_written_and_the_file_goes_with_the_arena() {
        let name = name("see");
        let arena = Arena::shared(&name, 3 * POPULATE_STEP + 4096).unwrap();
        assert_eq!(arena.name(), Some(format!("{SEGMENT_PREFIX}{name}").as_str()));
        let meta = std::fs::metadata(path(&name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert_eq!(meta.len(), 3 * POPULATE_STEP + 4096);
        arena.populate(arena.size()).unwrap();
        assert_eq!(arena.populated(), arena.size());
        arena.write(POPULATE_STEP - 2, b"across").unwrap();
        let file = std::fs::read(path(&name)).unwrap();
        assert_eq!(&file[POPULATE_STEP as usize - 2..][..6], b"across");
        let mut back = [0; 6];
        arena.read(POPULATE_STEP - 2, &mut back).unwrap();
        assert_eq!(&back, b"across");
        drop(arena);
        assert!(!path(&name).exists());
    }

    #[test]
    fn populating_commits_memory_only_below_the_mark() {
        let name = name("commit");
        let arena = Arena::shared(&name, 16 * POPULATE_STEP).unwrap();
        let blocks = || std::fs::metadata(path(&name)).unwrap().blocks() * 512;
        assert_eq!(blocks(), 0, "nothing is committed at the start");
        arena.populate(1).unwrap();
        assert_eq!(arena.populated(), POPULATE_STEP);
        assert_eq!(blocks(), POPULATE_STEP);
        arena.populate(POPULATE_STEP + 1).unwrap();
        assert_eq!(blocks(), 2 * POPULATE_STEP);
    }

    #[test]
    fn a_living_server_keeps_its_name_and_a_dead_one_does_not() {
        let name = name("lock");
        let first = Arena::shared(&name, 4096).unwrap();
        let inode = std::fs::metadata(path(&name)).unwrap().ino();
        assert!(matches!(Arena::shared(&name, 4096), Err(ArenaError::InUse { .. })));
        assert_eq!(std::fs::metadata(path(&name)).unwrap().ino(), inode, "it was not touched");
        drop(first);
        // What a crash leaves behind: the file, and nobody who holds it.
        std::fs::write(path(&name), b"stale").unwrap();
        let stale = std::fs::metadata(path(&name)).unwrap().ino();
        let second = Arena::shared(&name, 8192).unwrap();
        let meta = std::fs::metadata(path(&name)).unwrap();
        assert_ne!(meta.ino(), stale, "workers of the dead server keep their own memory");
        assert_eq!(meta.len(), 8192);
        drop(second);
    }

    #[test]
    fn names_and_ranges_are_checked() {
        for bad in ["", "/", "a/b", &"x".repeat(300)] {
            assert!(matches!(Arena::shared(bad, 4096), Err(ArenaError::BadName { .. })), "{bad}");
        }
        assert!(matches!(Arena::shared(&name("huge"), 1 << 60), Err(ArenaError::NoSpace { .. })));
        let arena = Arena::private(8192).unwrap();
        arena.populate(8192).unwrap();
        assert_eq!(arena.name(), None);
        assert!(arena.write(8191, b"xy").is_err());
        assert!(arena.write(u64::MAX, b"xy").is_err());
        assert!(arena.read(1, &mut [0; 8192]).is_err());
        assert!(arena.write(8190, b"xy").is_ok());
    }
}
