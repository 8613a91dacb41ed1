//! How much memory an object in L1 takes, and that nothing is copied to a larger place when there are more.
//!
//! In a program of its own: its allocator counts.

use std::alloc::System;
use std::sync::Arc;

use larder_core::index::{Retention, ShardKey, StandaloneIndex};
use larder_policy::eviction::EvictionKind;
use larder_types::Layout;
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PAGE: u64 = 4096;
const OBJECTS: u64 = 1 << 17;
/// Bytes for each object, without what the allocator adds. Its chunk and the object are 116 of them.
const BYTES_MAX: usize = 170;
/// Bytes that storing one object allocates, at most: a segment of one table each.
const GROWTH_MAX: usize = 256 << 10;

#[test]
fn an_object_takes_little_memory_and_tables_grow_in_small_steps() {
    let mut l1 = StandaloneIndex::new(OBJECTS * PAGE, PAGE, EvictionKind::Lru);
    let (model, salt): (Arc<str>, Arc<str>) = ("model".into(), "".into());
    let layout = Layout::new(&[PAGE], DType::UInt8).expect("not empty");
    let shard = ShardKey { rank: KvRank::new(1, 0), group: 0, layout: layout.id() };
    let all = Region::new(ALLOCATOR);
    for n in 0..OBJECTS {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let one = Region::new(ALLOCATOR);
        let hash = ChunkHash::from_digest(digest);
        let reserved = l1.edit().reserve((&model, &salt, &hash), shard, &layout, Retention::Permanent);
        l1.edit().admit(reserved.expect("there is space"), 0);
        let grown = one.change().bytes_allocated;
        assert!(grown <= GROWTH_MAX, "{grown} bytes allocated for object {n}");
        // Not only where the tables have just grown, or are about to.
        if n >= 1 << 15 && n % 5000 == 0 {
            let change = all.change();
            let each = (change.bytes_allocated - change.bytes_deallocated) / n as usize;
            assert!(each <= BYTES_MAX, "{each} bytes for each of {n} objects");
        }
    }
    assert_eq!(l1.usage().resident_objects, OBJECTS);
}
