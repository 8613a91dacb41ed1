//! The event logs, as their readers see them.

use larder_core::stats::events::{Change, ChunkEvent, Tier};
use larder_types::ids::AdapterId;
use larder_types::object::{ChunkHash, KvRank};

use crate::support::{Chain, Rig, Who, layout, prompt, worker};

const RECORDS: usize = 64;

/// The chunk events since `cursor` as `+i` and `-i`, by the chunk's place in `chain`, and the cursor behind.
fn events_after(rig: &Rig, chain: &Chain, cursor: u64) -> (Vec<String>, u64) {
    let page = rig.core.stats().chunk_events().after(cursor, usize::MAX);
    assert!(!page.lost);
    let word = |event: &ChunkEvent| {
        let place = chain.iter().position(|hash| *hash == event.hash).expect("a chunk of the prompt");
        format!("{}{place}", if event.visible { '+' } else { '-' })
    };
    (page.records.iter().map(|(_, event)| word(event)).collect(), page.next_cursor)
}

fn rank(rank: u32, request: &str) -> Who {
    let instance = i64::from(rank) + 10;
    Who { instance, connection: instance as u64, rank: KvRank::new(2, rank), ..worker(1, request) }
}

#[test]
fn nothing_is_recorded_without_a_reader() {
    let mut rig = Rig::new(4);
    rig.store(&worker(1, "r"), &prompt(1, 2), 0, 2);
    rig.clear(false);
    assert_eq!((rig.core.stats().chunk_events().last(), rig.core.stats().object_events().last()), (0, 0));
}

#[test]
fn a_chunk_is_published_when_whole_and_withdrawn_with_its_first_removed_object() {
    let mut rig = Rig::new(8);
    let chain = prompt(1, 2);
    for r in 0..2 {
        rig.register(i64::from(r) + 10, "m", 2, 1);
    }
    rig.core.record_chunk_events(RECORDS);
    rig.store(&rank(0, "a"), &chain, 0, 2);
    let (words, cursor) = events_after(&rig, &chain, 0);
    assert!(words.is_empty(), "half of a chunk is not published: {words:?}");
    rig.store(&rank(1, "a"), &chain, 0, 1);
    let (words, cursor) = events_after(&rig, &chain, cursor);
    assert_eq!(words, ["+0"]);
    let mut half = rig.key(chain[0]);
    half.kv_rank = KvRank::new(2, 1);
    rig.core.remove(rig.time(), &[half], false);
    rig.core.check();
    let (words, cursor) = events_after(&rig, &chain, cursor);
    assert_eq!(words, ["-0"]);
    rig.clear(false);
    assert!(events_after(&rig, &chain, cursor).0.is_empty(), "what was not there is not withdrawn");
}

#[test]
fn eviction_withdraws_chunks() {
    let mut rig = Rig::new(2);
    let (old, new) = (prompt(1, 2), prompt(2, 1));
    rig.core.record_chunk_events(RECORDS);
    rig.store(&worker(1, "a"), &old, 0, 2);
    let (words, cursor) = events_after(&rig, &old, 0);
    assert_eq!(words, ["+0", "+1"], "from its start");
    rig.prepare(&worker(1, "b"), &new, 0, 1);
    // A prompt leaves from its end. What takes its place is not there yet.
    assert_eq!(events_after(&rig, &old, cursor).0, ["-1"]);
}

/// Publishes what is there, as the server does it.
fn publish_snapshot(rig: &mut Rig, place: impl Fn(&ChunkHash) -> Option<u64>) {
    let (mut visible, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next {
        let (chunks, then) = rig.core.index().visible_chunks(from);
        visible.extend(chunks.into_iter().filter_map(|chunk| Some((place(&chunk.hash)?, chunk))));
        next = then;
    }
    visible.sort_by_key(|(place, _)| *place);
    let seen: Vec<_> = visible.into_iter().map(|(_, chunk)| chunk).collect();
    rig.core.publish_seen(&seen);
}

#[test]
fn a_snapshot_publishes_chunks_in_the_order_of_their_positions() {
    let mut rig = Rig::new(8);
    let chain = prompt(1, 3);
    rig.store(&worker(1, "a"), &chain, 0, 3);
    for _ in 0..2 {
        rig.core.record_chunk_events(RECORDS);
        let place = |hash: &_| chain.iter().position(|h| h == hash).filter(|i| *i != 1).map(|i| i as u64);
        publish_snapshot(&mut rig, place);
        publish_snapshot(&mut rig, place);
        let (words, cursor) = events_after(&rig, &chain, 0);
        assert_eq!(words, ["+0", "+2"], "chunk 1 has no position");
        rig.core.remove(rig.time(), &[rig.key(chain[1]), rig.key(chain[2])], false);
        assert_eq!(events_after(&rig, &chain, cursor).0, ["-2"]);
        rig.store(&worker(1, "b"), &chain, 0, 3);
    }
}

#[test]
fn object_events_follow_stores_reads_and_removals() {
    let mut rig = Rig::new(4);
    let chain = prompt(1, 1);
    rig.core.record_object_events(RECORDS);
    let who = worker(1, "a");
    rig.store(&who, &chain, 0, 1);
    assert_eq!(rig.lookup(&who, &chain, 1), 1);
    rig.prepare_retrieve(&who, &chain, 0, 1).expect("it is there");
    rig.commit_retrieve(&who, &chain, 0, 1);
    rig.end("a");
    rig.clear(false);
    let key = rig.key(chain[0]).with_layout(layout(1).id());
    rig.core.l2_removed(rig.time(), AdapterId(3), std::slice::from_ref(&key));
    let events = rig.core.stats().object_events().after(0, usize::MAX).records;
    assert!(events.iter().all(|(_, event)| event.key == key));
    let seen: Vec<_> = events.iter().map(|(_, e)| (e.tier, e.change, e.bytes > 0)).collect();
    let expected = [
        (Tier::L1, Change::Stored, true),
        (Tier::L1, Change::Used, false),
        (Tier::L1, Change::Removed, false),
        (Tier::L2(AdapterId(3)), Change::Removed, false),
    ];
    assert_eq!(seen, expected);
}
