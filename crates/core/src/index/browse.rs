//! Listing the objects of L1 and removing single ones, for operators.

use larder_types::object::ObjectKey;

use super::{Index, IndexMut, ShardKey, State};

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: ObjectKey,
    /// Its exact size in bytes.
    pub bytes: u64,
}

/// A page of a listing, in the order of offsets. An object that is added or removed between two pages may be
/// missed; every other one is listed exactly once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Listed>,
    /// Position of the next page; `None` after the last.
    pub next: Option<u64>,
}

/// The outcome of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The object cannot be found any more. Pinned memory is freed when it is unpinned.
    Removed,
    /// The object is pinned or under I/O.
    Held,
    /// There is no such object.
    Absent,
}

impl Index {
    /// At most `limit` resident objects from position `from` on; 0 is the first position. At most four times as
    /// many positions are inspected, so a page can be short without being the last.
    pub fn list(&self, from: u64, limit: usize) -> Page {
        let mut page = Page::default();
        let unit = self.alloc.align();
        for (inspected, (at, id)) in self.objects.in_units(from.div_ceil(unit), u64::MAX).enumerate() {
            if page.objects.len() == limit || inspected == limit.saturating_mul(4) {
                page.next = Some(at * unit);
                break;
            }
            let object = self.object(id);
            if object.state == State::Resident {
                page.objects.push(Listed { key: self.key(id), bytes: self.layout(id).bytes() });
            }
        }
        page
    }
}

impl IndexMut<'_> {
    /// Removes one object; one that is pinned or under I/O only with `force`. A key without a layout names the
    /// objects of all layouts.
    pub fn remove(&mut self, key: &ObjectKey, force: bool) -> Removal {
        let shard = ShardKey::of(key);
        let mut outcome = Removal::Absent;
        let chunk = self.chunk(&key.model_name, &key.cache_salt, &key.chunk_hash);
        let objects = chunk.map(|chunk| self.resident_in_any_layout(chunk, shard)).unwrap_or_default();
        for id in objects {
            let object = self.object(id);
            if shard.layout.is_known() && self.shard(object) != shard {
                continue;
            }
            if (object.pins > 0 || object.io_pins > 0) && !force {
                outcome = Removal::Held;
                continue;
            }
            self.unlink(id);
            self.stats.l1.cleared_objects += 1;
            if outcome == Removal::Absent {
                outcome = Removal::Removed;
            }
        }
        outcome
    }
}
