//! Looking through L1 and taking single objects out of it, as an operator does.

use std::sync::Arc;

use larder_types::object::ObjectKey;

use super::{Index, Object, ShardKey, State};

/// A readable object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Names it.
    pub key: ObjectKey,
    /// Its exact size.
    pub bytes: u64,
}

/// A part of a listing, in the order of memory. Objects that come or go while somebody pages may be
/// missed or seen; every other one is listed exactly once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Listed>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<u64>,
}

/// What came of an object that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is no longer found. Memory that somebody holds is kept until they let go of it.
    Removed,
    /// Somebody holds it.
    Held,
    /// It was not there.
    Absent,
}

impl Index {
    /// At most `limit` objects from place `from` on; 0 is the first place. Looks at no more than four
    /// times as many places, so a page may be short and not the last.
    pub fn list(&self, from: u64, limit: usize) -> Page {
        let mut page = Page::default();
        for (looked_at, (&offset, &id)) in self.by_offset.range(from..).enumerate() {
            if page.objects.len() == limit || looked_at == limit.saturating_mul(4) {
                page.next = Some(offset);
                break;
            }
            let object = self.object(id);
            if object.state == State::Resident {
                page.objects.push(Listed { key: self.key_of(object), bytes: object.layout.bytes() });
            }
        }
        page
    }

    /// Removes one object, if nobody holds it or by `force`.
    pub fn remove(&mut self, key: &ObjectKey, force: bool) -> Removal {
        let cell = ShardKey { rank: key.kv_rank, group: key.object_group };
        let chunk = self.chunk(&key.model_name, &key.cache_salt, &key.chunk_hash);
        let Some(id) = chunk.and_then(|chunk| self.resident(chunk, cell)) else { return Removal::Absent };
        let object = self.object(id);
        if object.pins + object.loans > 0 && !force {
            return Removal::Held;
        }
        self.unlink(id);
        self.counters.cleared_objects += 1;
        Removal::Removed
    }

    pub(super) fn key_of(&self, object: &Object) -> ObjectKey {
        let chunk = &self.chunks[object.chunk.0 as usize];
        let (model, salt) = self.names.get(chunk.name);
        ObjectKey {
            chunk_hash: chunk.hash,
            model_name: Arc::clone(model),
            kv_rank: object.cell.rank,
            object_group: object.cell.group,
            cache_salt: Arc::clone(salt),
        }
    }
}
