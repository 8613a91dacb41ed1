//! Objects of very different sizes under steady eviction: what fits is never refused, the arena
//! stays full, and what is evicted is cold.

use std::collections::VecDeque;
use std::sync::Arc;

use larder_core::index::{ObjectId, Retention, ShardKey, StandaloneIndex};
use larder_policy::eviction::EvictionKind;
use larder_types::Layout;
use larder_types::LayoutId;
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const ALIGN: u64 = 4 * KIB;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// What came of storing many objects.
struct Outcome {
    refused: u64,
    /// Least used fraction of the arena after it was full once.
    lowest: f64,
    /// Used fraction at the end.
    last: f64,
    /// Evicted bytes over bytes that had to be: what came in once the arena was full.
    evicted: f64,
}

/// Stores `count` objects of sizes from `size`; the last `held` of them are pinned at any time.
fn store(capacity: u64, count: u64, held: usize, mut size: impl FnMut(&mut Rng) -> u64) -> Outcome {
    let mut rng = Rng(7);
    let mut l1 = StandaloneIndex::new(capacity, ALIGN, EvictionKind::Lru);
    let name: Arc<str> = "m".into();
    let cell = ShardKey { rank: KvRank::new(1, 0), group: 0, layout: LayoutId::UNKNOWN };
    let mut pinned = VecDeque::<ObjectId>::new();
    let (mut refused, mut lowest, mut came, mut full) = (0, 1.0f64, 0, false);
    for i in 0..count {
        let bytes = size(&mut rng);
        let layout = Layout::new(&[bytes], DType::UInt8).expect("not empty");
        let hash = ChunkHash::new(&i.to_be_bytes()).expect("eight bytes");
        l1.edit().begin_operation();
        match l1.edit().reserve((&name, &name, &hash), cell, &layout, Retention::Permanent) {
            Ok(id) => {
                l1.edit().admit(id, 1);
                pinned.push_back(id);
            }
            Err(_) => refused += 1,
        }
        if pinned.len() > held {
            l1.edit().unpin(pinned.pop_front().expect("longer than that"), 1);
        }
        let used = l1.usage().used_bytes as f64 / capacity as f64;
        if full {
            lowest = lowest.min(used);
            came += bytes.next_multiple_of(ALIGN);
        }
        full |= l1.stats().l1().evicted_objects > 0;
    }
    l1.check();
    let last = l1.usage().used_bytes as f64 / capacity as f64;
    let evicted = l1.stats().l1().evicted_bytes as f64 / came as f64;
    Outcome { refused, lowest, last, evicted }
}

/// From 4 KiB to 64 MiB, every order of size equally often.
fn any_size(rng: &mut Rng) -> u64 {
    let scale = (4 * KIB) << rng.below(15);
    scale.min(64 * MIB) - rng.below(scale.min(32 * MIB) / 2)
}

#[test]
fn sizes_from_4_kib_to_64_mib() {
    let outcome = store(2 * GIB, 20_000, 8, any_size);
    assert_eq!(outcome.refused, 0);
    assert!(outcome.last >= 0.9 && outcome.lowest >= 0.85, "{} {}", outcome.last, outcome.lowest);
    assert!(outcome.evicted < 1.1, "{}", outcome.evicted);
}

#[test]
fn two_models_whose_sizes_do_not_divide() {
    let sizes = [1280 * KIB, 3 * MIB + 4 * KIB];
    let outcome = store(GIB, 20_000, 16, |rng| sizes[rng.below(2) as usize]);
    assert_eq!(outcome.refused, 0);
    assert!(outcome.last >= 0.9 && outcome.lowest >= 0.9, "{} {}", outcome.last, outcome.lowest);
}

#[test]
fn one_size_fills_the_arena_to_the_last_object() {
    let outcome = store(GIB, 5_000, 16, |_| MIB);
    assert_eq!((outcome.refused, outcome.lowest), (0, 1.0));
    assert!((outcome.evicted - 1.0).abs() < 0.001, "{}", outcome.evicted);
}

/// A model with small objects gives way to one with large ones, and the other way round.
#[test]
fn a_change_of_model() {
    let mut n = 0;
    let outcome = store(GIB, 30_000, 4, |_| {
        n += 1;
        if (n / 5_000) % 2 == 0 { 96 * KIB } else { 40 * MIB }
    });
    assert_eq!(outcome.refused, 0);
    assert!(outcome.lowest >= 0.9, "{}", outcome.lowest);
}

/// A chunk is evicted whole, so an object of it elsewhere may free all the space that is needed.
#[test]
fn no_chunk_is_evicted_for_space_that_another_victim_frees() {
    let mut l1 = StandaloneIndex::new(6 * ALIGN, ALIGN, EvictionKind::Lru);
    let name: Arc<str> = "m".into();
    let reserve = |l1: &mut StandaloneIndex, chunk: u8, rank: u32, pages: u64| {
        l1.edit().begin_operation();
        let hash = ChunkHash::new(&[chunk]).expect("one byte");
        let cell = ShardKey { rank: KvRank::new(2, rank), group: 0, layout: LayoutId::UNKNOWN };
        let layout = Layout::new(&[pages * ALIGN], DType::UInt8).expect("not empty");
        l1.edit().reserve((&name, &name, &hash), cell, &layout, Retention::Permanent).expect("space")
    };
    // In the order of addresses: hole, hole, held, one of `twice`, hole, held.
    let pages: Vec<ObjectId> = (0..6).map(|page| reserve(&mut l1, page, 0, 1)).collect();
    assert!(pages.iter().zip(0..).all(|(id, page)| l1.offset(*id) == page * ALIGN));
    let (twice, alone) = (3, 10);
    l1.edit().abort(pages[0]);
    let other = reserve(&mut l1, twice, 1, 1);
    l1.edit().abort(pages[1]);
    let cold = reserve(&mut l1, alone, 0, 1);
    assert_eq!((l1.offset(other), l1.offset(cold)), (0, ALIGN));
    l1.edit().abort(pages[4]);
    for id in [cold, pages[3], other] {
        assert!(l1.edit().admit(id, 0));
    }
    reserve(&mut l1, 11, 0, 2);
    assert!(l1.is_resident(cold), "what `twice` leaves behind is enough");
    l1.check();
}
