//! An index and the requests of several tenants. All sums are checked after each.

use larder_types::ChunkId;
use std::sync::Arc;

use larder_core::index::{ObjectId, Refused, Retention, ShardKey, StandaloneIndex};
use larder_policy::eviction::EvictionKind;
use larder_policy::quota::Quotas;
use larder_types::Layout;
use larder_types::LayoutId;
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank};

pub(crate) const PAGE: u64 = 4096;
const CELL: ShardKey = ShardKey { rank: KvRank::new(1, 0), group: 0, layout: LayoutId::UNKNOWN };

pub(crate) fn layout(pages: u64) -> Layout {
    Layout::new(&[pages, PAGE], DType::UInt8).expect("not empty")
}

/// `chunks` hashes; prompts of different `seed` have no common chunk.
pub(crate) fn prompt(seed: u16, chunks: u16) -> Vec<ChunkHash> {
    let hash = |i: u16| ChunkHash::new(&[seed.to_le_bytes(), i.to_le_bytes()].concat()).expect("four bytes");
    (0..chunks).map(hash).collect()
}

#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) l1: StandaloneIndex,
    model: Arc<str>,
}

impl Tier {
    pub(crate) fn new(kind: EvictionKind, pages: u64) -> Self {
        Self { l1: StandaloneIndex::new(pages * PAGE, PAGE, kind), model: "m".into() }
    }

    fn chunk(&self, salt: &str, hash: &ChunkHash) -> Option<ChunkId> {
        self.l1.chunk(&self.model, &salt.into(), hash)
    }

    fn object(&self, salt: &str, hash: &ChunkHash) -> Option<ObjectId> {
        self.l1.resident(self.chunk(salt, hash)?, CELL)
    }

    /// Which chunks of a prompt are resident.
    pub(crate) fn resident(&self, salt: &str, chain: &[ChunkHash]) -> Vec<usize> {
        (0..chain.len()).filter(|i| self.object(salt, &chain[*i]).is_some()).collect()
    }

    fn touch(&mut self, salt: &str, chain: &[ChunkHash]) {
        let known: Vec<ChunkId> = chain.iter().filter_map(|h| self.chunk(salt, h)).collect();
        known.iter().rev().for_each(|c| self.l1.edit().touch(*c));
    }

    /// Reserves one object.
    pub(crate) fn reserve(&mut self, salt: &str, hash: &ChunkHash, pages: u64) -> Result<ObjectId, Refused> {
        let name = (&self.model, &Arc::from(salt), hash);
        let object = self.l1.edit().reserve(name, CELL, &layout(pages), Retention::Permanent);
        self.l1.check();
        object
    }

    /// Stores what is missing of a prompt, objects of `pages` pages; stops at the first refusal.
    /// Returns how many chunks were written.
    pub(crate) fn store_sized(&mut self, salt: &str, chain: &[ChunkHash], pages: u64) -> usize {
        self.l1.edit().begin_operation();
        let known: Vec<ChunkId> = chain.iter().filter_map(|h| self.chunk(salt, h)).collect();
        known.iter().rev().for_each(|c| self.l1.edit().protect(*c));
        let mut written = Vec::new();
        for hash in chain {
            match self.reserve(salt, hash, pages) {
                Ok(object) => written.push(object),
                Err(Refused::NoSpace) => break,
                Err(Refused::Resident | Refused::Staged) => {}
            }
        }
        written.iter().rev().for_each(|o| assert!(self.l1.edit().admit(*o, 0)));
        self.touch(salt, chain);
        self.l1.check();
        written.len()
    }

    pub(crate) fn store(&mut self, salt: &str, chain: &[ChunkHash]) -> usize {
        self.store_sized(salt, chain, 1)
    }

    /// Finds what leads a prompt and holds it.
    pub(crate) fn hold(&mut self, salt: &str, chain: &[ChunkHash]) -> Vec<ObjectId> {
        let objects: Vec<ObjectId> = chain.iter().map_while(|h| self.object(salt, h)).collect();
        for hash in &chain[..objects.len()] {
            let chunk = self.chunk(salt, hash).expect("just found");
            self.l1.edit().on_hit(chunk);
        }
        objects.iter().for_each(|o| self.l1.edit().pin(*o, 1));
        self.l1.check();
        objects
    }

    pub(crate) fn release(&mut self, objects: &[ObjectId]) {
        objects.iter().rev().for_each(|o| self.l1.edit().unpin(*o, 1));
        self.l1.check();
    }

    /// Reads what leads a prompt. Returns how much of it that is.
    pub(crate) fn read(&mut self, salt: &str, chain: &[ChunkHash]) -> usize {
        let objects = self.hold(salt, chain);
        self.release(&objects);
        self.touch(salt, chain);
        objects.len()
    }

    pub(crate) fn change_quotas(&mut self, change: impl FnOnce(&mut Quotas)) {
        self.l1.edit().update_quotas(change);
        self.l1.check();
    }

    /// Sets a quota, in pages.
    pub(crate) fn quota(&mut self, salt: &str, pages: u64) {
        self.l1.edit().update_quotas(|q| q.set(&salt.into(), pages * PAGE)).expect("not many");
        self.l1.check();
    }

    pub(crate) fn no_quota(&mut self, salt: &str) {
        self.l1.edit().update_quotas(|q| q.delete(salt));
        self.l1.check();
    }

    /// Pages that a salt owns.
    pub(crate) fn pages_of(&self, salt: &str) -> u64 {
        let found = self.l1.quota_usage().usage().find(|(s, _)| &***s == salt);
        found.map_or(0, |(_, usage)| usage.used_bytes / PAGE)
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.l1.stats().l1().evicted_chunks
    }
}
