//! What an eviction policy costs inside L1: time per operation and memory per chunk.
//!
//! ```text
//! cargo run --release -p larder-core --example eviction_cost -- LRU 1000000
//! ```
//!
//! One policy a process, so that the growth of the process is that policy's. Compare with the
//! growth under `LRU`: the difference is the policy's, the rest is L1's index. The times contain
//! L1's own work, which is the larger part of them.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::sync::Arc;
use std::time::Instant;

use larder_core::index::{Index, Retention, ShardKey};
use larder_policy::eviction::EvictionKind;
use larder_types::Layout;
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank};

const PAGE: u64 = 4096;
const CELL: ShardKey = ShardKey { rank: KvRank::new(1, 0), group: 0 };

/// Chunk number `i` as a digest.
fn hash(i: u64) -> ChunkHash {
    let mut bytes = [0; 32];
    for (k, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&scramble(i * 4 + k as u64).to_le_bytes());
    }
    ChunkHash::from_digest(bytes)
}

/// A fixed permutation of the integers that looks random.
fn scramble(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE
}

fn timed(what: &str, count: u64, mut each: impl FnMut(u64)) {
    let start = Instant::now();
    (0..count).for_each(&mut each);
    let nanos = start.elapsed().as_nanos() as f64 / count as f64;
    println!("{what:28} {nanos:8.1} ns");
}

fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next();
    let kind = EvictionKind::from_name(name.as_deref().unwrap_or("LRU")).expect("a policy's name");
    let count: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let (model, salt): (Arc<str>, Arc<str>) = ("m".into(), "".into());
    let layout = Layout::new(&[PAGE], DType::UInt8).expect("not empty");
    let mut l1 = Index::new(count * PAGE, PAGE, kind);
    println!("{} x {count}", kind.name());

    let before = resident_bytes();
    let store = |l1: &mut Index, i: u64| {
        l1.begin();
        if let Ok(object) = l1.reserve((&model, &salt, &hash(i)), CELL, &layout, Retention::Permanent) {
            l1.admit(object, 0);
        }
    };
    timed("store into free space", count, |i| store(&mut l1, i));
    println!("{:28} {:8.1} B", "growth per chunk", (resident_bytes() - before) as f64 / count as f64);

    let chunks: Vec<_> = (0..count).filter_map(|i| l1.chunk(&model, &salt, &hash(i))).collect();
    let objects: Vec<_> = chunks.iter().filter_map(|c| l1.resident(*c, CELL)).collect();
    let any = |i: u64| (scramble(i) % chunks.len() as u64) as usize;
    timed("touch", count, |i| l1.touch(chunks[any(i)]));
    timed("found", count, |i| l1.found(chunks[any(i)]));
    timed("pin and unpin", count, |i| {
        l1.pin(objects[any(i)], 1);
        l1.unpin(objects[any(i)], 1);
    });
    let before = resident_bytes();
    timed("store, evicting one", count, |i| store(&mut l1, count + i));
    println!("{:28} {:8.1} B", "more growth (ghosts)", (resident_bytes() - before) as f64 / count as f64);
}
