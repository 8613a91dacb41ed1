//! Helpers for tests of adapters: keys, memory and temporary directories.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use larder_arena::{Arena, IoPin, Region};
use larder_types::object::{ChunkHash, KvRank, ObjectKey};

use crate::adapter::Transfer;

/// Key number `n`.
pub fn key(n: u64) -> ObjectKey {
    let hash = ChunkHash::new(&n.to_be_bytes()).expect("eight bytes are a legal hash");
    ObjectKey::new(hash, "org/model", KvRank::new(1, 0), 0, "").expect("a legal key")
}

/// The bytes of object number `n`: all objects, and all pages of one object, differ.
pub fn bytes(n: u64, len: u64) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ len;
    let mut bytes = Vec::with_capacity(len as usize + 8);
    while (bytes.len() as u64) < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

/// Memory for objects, with a count of the regions in use.
#[derive(Debug)]
pub struct TestArena {
    arena: Arc<Arena>,
    next: AtomicU64,
    regions: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct RegionGuard(Arc<AtomicUsize>);

impl IoPin for RegionGuard {}

impl Drop for RegionGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TestArena {
    /// An arena of `size` bytes, handed out round robin.
    ///
    /// # Panics
    /// If there is no memory.
    pub fn new(size: u64) -> Self {
        let arena = Arena::private(size).expect("memory for a test");
        arena.commit(size).expect("memory for a test");
        Self { arena: Arc::new(arena), next: AtomicU64::new(0), regions: Arc::default() }
    }

    /// Number of regions in use.
    pub fn regions(&self) -> usize {
        self.regions.load(Ordering::SeqCst)
    }

    /// A region of zeros.
    ///
    /// # Panics
    /// If it is larger than the arena.
    pub fn region(&self, len: u64) -> Region {
        let taken = len.next_multiple_of(4096).max(4096);
        let claim = |next: u64| Some(if next + taken > self.arena.size() { taken } else { next + taken });
        let before = self.next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, claim).unwrap_or(0);
        let offset = if before + taken > self.arena.size() { 0 } else { before };
        self.regions.fetch_add(1, Ordering::SeqCst);
        let hold = Arc::new(RegionGuard(Arc::clone(&self.regions)));
        let region = Region::new(Arc::clone(&self.arena), offset, len, hold).expect("space in the arena");
        region.fill(&vec![0; len as usize]).expect("its own length");
        region
    }

    /// Object number `n`, to be stored.
    ///
    /// # Panics
    /// If it is larger than the arena.
    pub fn object(&self, n: u64, len: u64) -> Transfer {
        let region = self.region(len);
        region.fill(&bytes(n, len)).expect("its own length");
        Transfer { key: key(n), region }
    }

    /// A region for object number `n`, to be loaded.
    ///
    /// # Panics
    /// If it is larger than the arena.
    pub fn blank(&self, n: u64, len: u64) -> Transfer {
        Transfer { key: key(n), region: self.region(len) }
    }
}

/// The bytes of a region.
///
/// # Panics
/// Never: the length is the region's own.
pub fn contents(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len() as usize];
    region.copy_to(&mut bytes).expect("its own length");
    bytes
}

/// A directory for one test, removed on drop.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// A new directory whose name contains `test`.
    ///
    /// # Panics
    /// If it cannot be created.
    pub fn new(test: &str) -> Self {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("larder-l2-{test}-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a directory for a test");
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
