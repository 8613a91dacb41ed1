//! The memory of L1, shared with every engine worker on the node.
//!
//! Workers map the segment by name and copy in and out of slots themselves and may write any byte at any
//! time, so this side never forms a reference to the memory. It copies through raw pointers, and only
//! ranges that a reservation or a lease keeps unchanged ([`Arena::read`], [`Arena::write`]).
//!
//! **Memory is committed as it is needed**, from low offsets to high. [`Arena::commit`] backs everything
//! below an offset with pages. Slots are handed out only below that mark, so that a full `/dev/shm` never
//! reaches a worker as a `SIGBUS`. Where the kernel offers it, a whole 2 MiB page is committed at a time:
//! one small page is touched and the range collapsed (`MADV_COLLAPSE`, which works on tmpfs with any
//! `huge=` option). A worker then takes one page fault per 2 MiB instead of 512, and its first copy is as
//! fast as later ones.

#![expect(unsafe_code, reason = "maps and copies memory that other processes write")]

mod mappers;
mod mapping;
mod region;
mod segment;

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub use self::mappers::Process;
pub use self::region::{IoPin, Region};

use self::mapping::{Backing, Mapping};
use self::segment::Segment;

/// Prefix of the segment's name.
pub const SEGMENT_PREFIX: &str = "lmcache_l1_pool_";

/// Size of a huge page, and so the step in which memory is committed, in bytes.
pub const COMMIT_STEP: u64 = 2 << 20;

/// The arena cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// A running process holds the segment of that name.
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
        "/dev/shm has {size} bytes, L1 needs {need}: enlarge it (docker: --shm-size, \
         kubernetes: an emptyDir of medium Memory or the host's /dev/shm), or lower --l1-size-gb"
    )]
    NoSpace {
        /// Bytes that it can hold.
        size: u64,
        /// Bytes needed.
        need: u64,
    },
    /// A file of that name belongs to another user.
    #[error(
        "shared memory {path} belongs to another user (uid {owner}) and cannot be replaced: remove it as that \
         user, run the server as that user, or choose another --shm-name"
    )]
    Foreign {
        /// The file.
        path: String,
        /// Its owner.
        owner: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// The system refused the file.
    #[error("{action} {path} for L1 of {bytes} bytes: {source}; {ADVICE}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// Size of the arena.
        bytes: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// The system refused the memory.
    #[error("{action} for L1 of {bytes} bytes: {source}")]
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

/// What helps if shared memory cannot be used.
const ADVICE: &str =
    "the server's user needs write access to /dev/shm, or run without shared memory (--shm-name \"\")";

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

/// The memory of L1. Dropping it removes the segment's name, unless [`Arena::free_name`] did.
#[derive(Debug)]
pub struct Arena {
    mapping: Mapping,
    segment: Option<Segment>,
    committed: AtomicU64,
    commit_state: Mutex<CommitState>,
    /// Notified after each step, whether it succeeded or failed.
    step_done: Condvar,
}

#[derive(Debug, Default)]
struct CommitState {
    /// A thread is committing a step.
    is_busy: bool,
    /// The kernel cannot make huge pages here.
    no_huge: bool,
}

impl Arena {
    /// A segment that workers can map as `/dev/shm/lmcache_l1_pool_NAME`, mode 0600. The prefix is
    /// not doubled and a leading `/` is dropped. The segment of a crashed server is replaced, that of a
    /// running one is not.
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

    /// Memory of this process alone, for workers that receive chunks as pickles.
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
            committed: AtomicU64::new(0),
            commit_state: Mutex::default(),
            step_done: Condvar::new(),
        }
    }

    /// Whether a process maps the arena, so that it can write to it.
    ///
    /// # Errors
    /// There is no such process, or its mappings cannot be read.
    pub fn is_mapped_by(&self, pid: u32) -> io::Result<bool> {
        self.segment.as_ref().map_or(Ok(false), |segment| mappers::maps(pid, segment.file()))
    }

    /// The name workers map the arena by, without a leading slash. `None` if it is private.
    pub fn name(&self) -> Option<&str> {
        self.segment.as_ref().map(Segment::name)
    }

    /// Removes the segment's name while the memory is still in use. Calling it again does nothing.
    pub fn free_name(&self) {
        if let Some(segment) = &self.segment {
            segment.free_name();
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.mapping.len()
    }

    /// Gives the pages of the segment back to the system, except for those with a byte of `kept`, also if workers
    /// still map it. They would keep them for as long as they live, and the next server would lack them.
    ///
    /// A worker that reads such a range gets zeros, so `kept` must have every range that one may be reading or that
    /// I/O works on. One that writes makes new pages, at most as many as there were. Nothing may be read from the arena
    /// or committed afterwards.
    ///
    /// # Errors
    /// The system's; some pages may be left then.
    pub fn release_pages(&self, kept: impl IntoIterator<Item = Range<u64>>) -> io::Result<()> {
        let Some(segment) = &self.segment else { return Ok(()) };
        gaps(kept, self.size()).into_iter().try_for_each(|gap| segment.punch(gap.start, gap.end - gap.start))
    }

    /// Everything below this offset is backed by pages.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Backs everything below `end` with pages, rounded up to [`COMMIT_STEP`]. Returns at once if that is
    /// done already. One caller at a time commits; the others wait until their own `end` is reached, not
    /// until that caller is finished.
    ///
    /// # Errors
    /// The system has no memory left; earlier steps stay committed.
    pub fn commit(&self, end: u64) -> io::Result<()> {
        let target = end.next_multiple_of(COMMIT_STEP).min(self.size());
        if self.committed() >= target {
            return Ok(());
        }
        // The lock is released during each step. Held over all steps, or taken again right after each, it
        // would keep a caller waiting whose `end` is reached already.
        let mut state = self.commit_state();
        while self.committed() < target {
            if state.is_busy {
                state = self.step_done.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.is_busy = true;
            let mut no_huge = state.no_huge;
            drop(state);
            let from = self.committed();
            let len = COMMIT_STEP.min(self.size() - from);
            let result = self.commit_step(&mut no_huge, from, len);
            if result.is_ok() {
                self.committed.store(from + len, Ordering::Release);
            }
            state = self.commit_state();
            *state = CommitState { is_busy: false, no_huge };
            self.step_done.notify_all();
            result?;
        }
        Ok(())
    }

    fn commit_state(&self) -> MutexGuard<'_, CommitState> {
        self.commit_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit_step(&self, no_huge: &mut bool, offset: u64, len: u64) -> io::Result<()> {
        match self.mapping.backing(offset, len)? {
            // A worker that commits the whole segment when it maps it.
            Backing::All => return Ok(()),
            Backing::Some => {}
            // Only for an empty range: collapsing existing pages would copy them.
            Backing::None if !*no_huge && len == COMMIT_STEP => match self.mapping.make_huge(offset, len) {
                Ok(()) => return Ok(()),
                // Either not now (no free huge page, or a page in use), or never with this kernel.
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
    /// The caller has reserved the range; nothing else may write there.
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
    /// The caller has pinned the object in that range; nothing may write there.
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

/// The ranges of whole pages in `0..size` that overlap no range of `kept`.
fn gaps(kept: impl IntoIterator<Item = Range<u64>>, size: u64) -> Vec<Range<u64>> {
    let page = rustix::param::page_size() as u64;
    let mut kept: Vec<_> = kept.into_iter().filter(|range| !range.is_empty()).collect();
    kept.sort_by_key(|range| range.start);
    let (mut gaps, mut from) = (Vec::new(), 0);
    for range in kept.into_iter().chain(std::iter::once(size..size)) {
        let until = if range.start == size { size } else { range.start / page * page };
        if from < until {
            gaps.push(from..until);
        }
        from = from.max(range.end.next_multiple_of(page));
    }
    gaps
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
    #[cfg_attr(miri, ignore = "Miri has neither /dev/shm nor mmap of files")]
    fn written_bytes_are_in_segment_file_until_arena_is_dropped() {
        let name = name("see");
        let arena = Arena::shared(&name, 3 * COMMIT_STEP + 4096).unwrap();
        assert_eq!(arena.name(), Some(format!("{SEGMENT_PREFIX}{name}").as_str()));
        let meta = std::fs::metadata(path(&name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert_eq!(meta.len(), 3 * COMMIT_STEP + 4096);
        arena.commit(arena.size()).unwrap();
        assert_eq!(arena.committed(), arena.size());
        arena.write(COMMIT_STEP - 2, b"across").unwrap();
        let file = std::fs::read(path(&name)).unwrap();
        assert_eq!(&file[COMMIT_STEP as usize - 2..][..6], b"across");
        let mut back = [0; 6];
        arena.read(COMMIT_STEP - 2, &mut back).unwrap();
        assert_eq!(&back, b"across");
        drop(arena);
        assert!(!path(&name).exists());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has neither /dev/shm nor mmap of files")]
    fn commits_memory_only_below_the_given_offset() {
        let name = name("commit");
        let arena = Arena::shared(&name, 16 * COMMIT_STEP).unwrap();
        let blocks = || std::fs::metadata(path(&name)).unwrap().blocks() * 512;
        assert_eq!(blocks(), 0, "nothing is committed at the start");
        arena.commit(1).unwrap();
        assert_eq!(arena.committed(), COMMIT_STEP);
        assert_eq!(blocks(), COMMIT_STEP);
        arena.commit(COMMIT_STEP + 1).unwrap();
        assert_eq!(blocks(), 2 * COMMIT_STEP);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has neither /dev/shm nor mmap of files")]
    fn replaces_segment_of_a_dead_server_but_not_of_a_running_one() {
        let name = name("lock");
        let first = Arena::shared(&name, 4096).unwrap();
        let inode = std::fs::metadata(path(&name)).unwrap().ino();
        assert!(matches!(Arena::shared(&name, 4096), Err(ArenaError::InUse { .. })));
        assert_eq!(
            std::fs::metadata(path(&name)).unwrap().ino(),
            inode,
            "the running server's segment is unchanged"
        );
        drop(first);
        // After a crash the file remains, without a lock.
        std::fs::write(path(&name), b"stale").unwrap();
        let stale = std::fs::metadata(path(&name)).unwrap().ino();
        let second = Arena::shared(&name, 8192).unwrap();
        let meta = std::fs::metadata(path(&name)).unwrap();
        assert_ne!(meta.ino(), stale, "workers of the dead server keep their own memory");
        assert_eq!(meta.len(), 8192);
        drop(second);
    }

    #[test]
    fn gaps_are_whole_pages_between_kept_ranges() {
        let page = rustix::param::page_size() as u64;
        let found = |kept: &[(u64, u64)], size| {
            let kept = kept.iter().map(|(start, end)| *start..*end);
            gaps(kept, size).into_iter().map(|gap| (gap.start, gap.end)).collect::<Vec<_>>()
        };
        let all = |kept: &[(u64, u64)]| found(kept, 8 * page);
        assert_eq!(all(&[]), [(0, 8 * page)]);
        assert_eq!(all(&[(0, 8 * page)]), []);
        assert_eq!(all(&[(0, 1), (7 * page + 1, 8 * page)]), [(page, 7 * page)]);
        let overlapping =
            [(3 * page, 5 * page), (page + 1, page + 2), (4 * page, 6 * page), (2 * page, 2 * page)];
        assert_eq!(all(&overlapping), [(0, page), (2 * page, 3 * page), (6 * page, 8 * page)]);
        assert_eq!(found(&[(5 * page, 6 * page)], 5 * page + 9), [(0, 5 * page)]);
        assert_eq!(found(&[(0, page)], 2 * page + 9), [(page, 2 * page + 9)]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has neither /dev/shm nor mmap of files")]
    fn released_pages_are_free_although_a_worker_maps_them() {
        let name = name("release");
        let arena = Arena::shared(&name, 4 * COMMIT_STEP).unwrap();
        arena.commit(arena.size()).unwrap();
        arena.write(COMMIT_STEP, b"being read").unwrap();
        let worker = std::fs::File::options().read(true).write(true).open(path(&name)).unwrap();
        let worker = Mapping::of_file(&worker, 4 * COMMIT_STEP).unwrap();
        arena.release_pages(std::iter::once(COMMIT_STEP..COMMIT_STEP + 10)).unwrap();
        let page = rustix::param::page_size() as u64;
        assert_eq!(std::fs::metadata(path(&name)).unwrap().blocks() * 512, page);
        let mut read = [0; 10];
        worker.copy_out(COMMIT_STEP, &mut read);
        assert_eq!(&read, b"being read");
        worker.copy_in(0, b"late");
        drop(arena);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has neither /dev/shm nor mmap of files")]
    fn name_that_is_taken_by_a_directory_is_an_error_with_path_and_reason() {
        let name = name("directory");
        std::fs::create_dir(path(&name)).unwrap();
        let error = Arena::shared(&name, 4096).unwrap_err().to_string();
        std::fs::remove_dir(path(&name)).unwrap();
        assert!(error.contains(path(&name).to_str().unwrap()) && error.contains("directory (os"), "{error}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has neither /dev/shm nor mmap of files")]
    fn refuses_bad_names_and_sizes() {
        for bad in ["", "/", "a/b", &"x".repeat(300)] {
            assert!(matches!(Arena::shared(bad, 4096), Err(ArenaError::BadName { .. })), "{bad}");
        }
        assert!(matches!(Arena::shared(&name("huge"), 1 << 60), Err(ArenaError::NoSpace { .. })));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no mmap at a given address and no madvise")]
    fn refuses_ranges_outside_the_arena() {
        let arena = Arena::private(8192).unwrap();
        arena.commit(8192).unwrap();
        assert_eq!(arena.name(), None);
        assert!(arena.write(8191, b"xy").is_err());
        assert!(arena.write(u64::MAX, b"xy").is_err());
        assert!(arena.read(1, &mut [0; 8192]).is_err());
        assert!(arena.write(8190, b"xy").is_ok());
    }
}
