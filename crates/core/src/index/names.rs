//! Model names and cache salts, stored once for all chunks of a pair.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::HashMap;
use larder_types::object::ChunkHash;
use slab::Slab;

use larder_policy::eviction::name_digest;
use larder_policy::quota::TenantId;

/// The key of a chunk in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkKey {
    pub(super) name: NameId,
    pub(super) hash: ChunkHash,
}

impl Hash for ChunkKey {
    /// Word by word: a lookup spends most of its time here, once per chunk of the prompt.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bytes = self.hash.as_bytes();
        state.write_u64(u64::from(self.name.0) << 8 | bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| state.write_u64(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            state.write(rest);
        }
    }
}

/// A (model, salt) pair; valid as long as a chunk uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NameId(u32);

#[derive(Debug)]
struct Entry {
    name: (Arc<str>, Arc<str>),
    chunks: u32,
    tenant: TenantId,
    digest: u64,
}

/// All (model, salt) pairs in use. A pair is forgotten with its last chunk, so invented names do not add up.
#[derive(Debug, Default)]
pub(super) struct Names {
    ids: HashMap<(Arc<str>, Arc<str>), NameId>,
    entries: Slab<Entry>,
    /// The pair that was acquired last: the chunks of a prompt follow each other, with the same `Arc`s.
    last: Option<NameId>,
}

impl Names {
    pub(super) fn find(&self, model: &Arc<str>, salt: &Arc<str>) -> Option<NameId> {
        if let Some(last) = self.last {
            let name = &self.entries[last.0 as usize].name;
            if Arc::ptr_eq(&name.0, model) && Arc::ptr_eq(&name.1, salt) {
                return Some(last);
            }
        }
        // A pair of borrowed parts cannot be looked up in a map of pairs; cloning two Arcs is cheap.
        self.ids.get(&(model.clone(), salt.clone())).copied()
    }

    pub(super) fn get(&self, id: NameId) -> &(Arc<str>, Arc<str>) {
        &self.entries[id.0 as usize].name
    }

    /// The tenant of the salt; valid as long as a chunk of the pair has an object.
    pub(super) fn tenant(&self, id: NameId) -> TenantId {
        self.entries[id.0 as usize].tenant
    }

    /// A digest of the pair, the same whenever the pair is used again.
    pub(super) fn digest(&self, id: NameId) -> u64 {
        self.entries[id.0 as usize].digest
    }

    /// Adds a chunk to a pair, which is created if it is new.
    pub(super) fn acquire(&mut self, model: &Arc<str>, salt: &Arc<str>, tenant: TenantId) -> NameId {
        let id = self.find(model, salt).unwrap_or_else(|| {
            let name = (model.clone(), salt.clone());
            let digest = name_digest(model, salt);
            let entry = Entry { name: name.clone(), chunks: 0, tenant, digest };
            let id = NameId(self.entries.insert(entry) as u32);
            self.ids.insert(name, id);
            id
        });
        self.entries[id.0 as usize].chunks += 1;
        self.last = Some(id);
        id
    }

    /// Removes a chunk from a pair. The pair is forgotten with its last chunk.
    pub(super) fn release(&mut self, id: NameId) {
        let entry = &mut self.entries[id.0 as usize];
        entry.chunks -= 1;
        if entry.chunks == 0 {
            let entry = self.entries.remove(id.0 as usize);
            self.last = self.last.filter(|last| *last != id);
            self.ids.remove(&entry.name);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
