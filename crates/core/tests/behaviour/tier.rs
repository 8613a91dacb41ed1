//! The memory tier by itself: reservation, admission, removal, temporary objects, on the index alone.

use std::sync::Arc;

use larder_core::index::{ObjectId, Refused, Retention, ShardKey, StandaloneIndex};
use larder_policy::eviction::EvictionKind;
use larder_types::Layout;
use larder_types::LayoutId;
use larder_types::object::KvRank;

use crate::support::{PAGE, hash, layout};

struct Tier {
    l1: StandaloneIndex,
    model: Arc<str>,
    salt: Arc<str>,
}

const CELL: ShardKey = ShardKey { rank: KvRank::new(1, 0), group: 0, layout: LayoutId::UNKNOWN };

impl Tier {
    fn new(pages: u64) -> Self {
        Self {
            l1: StandaloneIndex::new(pages * PAGE, PAGE, EvictionKind::Lru),
            model: "m".into(),
            salt: "".into(),
        }
    }

    fn try_reserve(
        &mut self,
        i: u8,
        cell: ShardKey,
        layout: &Layout,
        keep: Retention,
    ) -> Result<ObjectId, Refused> {
        self.l1.edit().begin_operation();
        let out = self.l1.edit().reserve((&self.model, &self.salt, &hash(0, i)), cell, layout, keep);
        self.l1.check();
        out
    }

    fn reserve(&mut self, i: u8, keep: Retention) -> ObjectId {
        self.try_reserve(i, CELL, &layout(1), keep).expect("there is space")
    }

    fn resident(&self, i: u8) -> Option<ObjectId> {
        let chunk = self.l1.chunk(&self.model, &self.salt, &hash(0, i))?;
        self.l1.resident(chunk, CELL)
    }

    fn used_pages(&self) -> u64 {
        self.l1.usage().used_bytes / PAGE
    }
}

#[test]
fn a_staged_object_is_not_found() {
    let mut t = Tier::new(4);
    let id = t.reserve(0, Retention::Permanent);
    assert_eq!(t.resident(0), None);
    assert!(!t.l1.is_resident(id));
    assert!(t.l1.edit().admit(id, 0));
    t.l1.check();
    assert_eq!(t.resident(0), Some(id));
}

#[test]
fn a_second_reservation_is_refused_with_its_reason() {
    let mut t = Tier::new(4);
    let id = t.reserve(0, Retention::Permanent);
    assert_eq!(t.try_reserve(0, CELL, &layout(1), Retention::Permanent), Err(Refused::Staged));
    t.l1.edit().admit(id, 0);
    assert_eq!(t.try_reserve(0, CELL, &layout(1), Retention::Permanent), Err(Refused::Resident));
    assert_eq!(t.used_pages(), 1);
    let other = ShardKey { rank: KvRank::new(2, 1), group: 0, layout: LayoutId::UNKNOWN };
    assert!(t.try_reserve(0, other, &layout(1), Retention::Permanent).is_ok());
    assert_eq!(t.try_reserve(1, CELL, &layout(5), Retention::Permanent), Err(Refused::NoSpace));
}

#[test]
fn an_unlinked_reservation_cannot_be_admitted() {
    let mut t = Tier::new(4);
    let id = t.reserve(0, Retention::Permanent);
    t.l1.edit().unlink(id);
    t.l1.check();
    assert_eq!(t.used_pages(), 1, "its writer still has it");
    let second = t.reserve(0, Retention::Permanent);
    assert_ne!(t.l1.offset(id), t.l1.offset(second));
    assert!(!t.l1.edit().admit(id, 3));
    t.l1.check();
    assert_eq!((t.used_pages(), t.resident(0)), (1, None));
    assert!(t.l1.edit().admit(second, 0));
}

#[test]
fn abort_frees_in_every_state() {
    let mut t = Tier::new(4);
    let id = t.reserve(0, Retention::Permanent);
    t.l1.edit().abort(id);
    let id = t.reserve(1, Retention::Permanent);
    t.l1.edit().unlink(id);
    t.l1.edit().abort(id);
    t.l1.check();
    assert_eq!((t.used_pages(), t.l1.usage().chunks), (0, 0));
    assert_eq!(t.l1.stats().l1().admitted_objects, 0);
}

#[test]
#[should_panic(expected = "admitted twice")]
fn admitting_twice_is_a_bug() {
    let mut t = Tier::new(4);
    let id = t.reserve(0, Retention::Permanent);
    t.l1.edit().admit(id, 0);
    t.l1.edit().admit(id, 0);
}

#[test]
fn a_temporary_object_is_dropped_with_its_last_pin() {
    let mut t = Tier::new(4);
    let id = t.reserve(0, Retention::Temporary);
    assert!(t.l1.edit().admit(id, 3));
    t.l1.edit().pin(id, 1);
    for _ in 0..3 {
        t.l1.edit().unpin(id, 1);
        t.l1.check();
        assert_eq!(t.resident(0), Some(id));
    }
    t.l1.edit().unpin(id, 1);
    t.l1.check();
    assert_eq!((t.resident(0), t.used_pages()), (None, 0));
}

#[test]
fn a_promoted_object_stays() {
    let mut t = Tier::new(4);
    let id = t.reserve(0, Retention::Temporary);
    t.l1.edit().admit(id, 1);
    t.l1.edit().promote(id);
    t.l1.edit().unpin(id, 1);
    t.l1.check();
    assert_eq!(t.resident(0), Some(id));
    assert_eq!(t.l1.usage().evictable_bytes, PAGE);
}

#[test]
fn a_temporary_object_without_readers_is_not_admitted() {
    let mut t = Tier::new(4);
    let id = t.reserve(0, Retention::Temporary);
    t.l1.edit().admit(id, 0);
    t.l1.check();
    assert_eq!(t.used_pages(), 0);
}

#[test]
fn a_temporary_object_is_dropped_without_its_chunk() {
    let mut t = Tier::new(4);
    let other = ShardKey { rank: KvRank::new(2, 1), group: 0, layout: LayoutId::UNKNOWN };
    let kept = t.reserve(0, Retention::Permanent);
    let gone = t.try_reserve(0, other, &layout(1), Retention::Temporary).expect("there is space");
    t.l1.edit().admit(kept, 0);
    t.l1.edit().admit(gone, 2);
    assert_eq!(t.l1.usage().evictable_bytes, 0, "a chunk is held as a whole");
    t.l1.edit().unpin(gone, 2);
    t.l1.check();
    assert_eq!((t.resident(0), t.l1.usage().evictable_bytes), (Some(kept), PAGE));
}

/// What may be evicted.
#[test]
fn evictable_matrix() {
    let mut t = Tier::new(8);
    let free = t.reserve(0, Retention::Permanent);
    let held = t.reserve(1, Retention::Permanent);
    let staged = t.reserve(2, Retention::Permanent);
    let unlinked = t.reserve(3, Retention::Permanent);
    t.l1.edit().admit(free, 0);
    t.l1.edit().admit(held, 1);
    t.l1.edit().unlink(unlinked);
    t.l1.edit().begin_operation();
    assert_eq!(t.l1.edit().trim(0, u64::MAX), 1, "neither pinned nor being written");
    t.l1.check();
    assert_eq!((t.resident(0), t.resident(1)), (None, Some(held)));
    t.l1.edit().unpin(held, 1);
    assert_eq!(t.l1.edit().trim(0, u64::MAX), 1);
    t.l1.edit().abort(staged);
    t.l1.edit().abort(unlinked);
    t.l1.check();
    assert_eq!(t.used_pages(), 0);
}

#[test]
fn clear_matrix() {
    for force in [false, true] {
        let mut t = Tier::new(8);
        let free = t.reserve(0, Retention::Permanent);
        let held = t.reserve(1, Retention::Permanent);
        let staged = t.reserve(2, Retention::Permanent);
        t.l1.edit().admit(free, 0);
        t.l1.edit().admit(held, 2);
        assert_eq!(t.l1.edit().clear(force), if force { 3 } else { 1 });
        t.l1.check();
        assert_eq!(t.resident(0), None);
        assert_eq!(t.resident(1).is_some(), !force);
        assert_eq!(t.used_pages(), 2, "what is held or written keeps its memory");
        assert_eq!(t.l1.edit().clear(force), 0, "counted once");
        t.l1.edit().unpin(held, 2);
        assert_eq!(t.l1.edit().admit(staged, 0), !force);
        t.l1.check();
        assert_eq!(t.used_pages(), if force { 0 } else { 2 });
    }
}

#[test]
fn touching_changes_the_order_and_reading_does_not() {
    let mut t = Tier::new(3);
    for i in 0..3 {
        let id = t.reserve(i, Retention::Permanent);
        t.l1.edit().admit(id, 0);
    }
    let chunk = t.l1.chunk(&t.model, &t.salt, &hash(0, 0)).expect("stored");
    t.l1.edit().touch(chunk);
    assert!(t.resident(1).is_some());
    t.reserve(3, Retention::Permanent);
    assert_eq!((t.resident(0).is_some(), t.resident(1).is_some()), (true, false));
}

#[test]
fn a_reservation_does_not_evict_its_own_chunk() {
    let mut t = Tier::new(2);
    let other = ShardKey { rank: KvRank::new(2, 1), group: 0, layout: LayoutId::UNKNOWN };
    let id = t.try_reserve(0, CELL, &layout(2), Retention::Permanent).expect("there is space");
    t.l1.edit().admit(id, 0);
    assert_eq!(t.try_reserve(0, other, &layout(1), Retention::Permanent), Err(Refused::NoSpace));
    assert_eq!(t.resident(0), Some(id));
}

/// Pins of all ranks and readers that the wire allows are counted without overflow.
#[test]
fn pins_do_not_overflow() {
    let mut t = Tier::new(2);
    let id = t.reserve(0, Retention::Permanent);
    t.l1.edit().admit(id, 0);
    for _ in 0..3 {
        t.l1.edit().pin(id, u32::MAX);
    }
    t.l1.check();
    for _ in 0..3 {
        assert_eq!(t.l1.usage().evictable_bytes, 0);
        t.l1.edit().unpin(id, u32::MAX);
    }
    t.l1.check();
    assert_eq!(t.l1.usage().evictable_bytes, PAGE);
}
