//! Workers with several groups of layers: full attention, windows, and states of a recurrence.

use larder_core::{Group, WorkerSpec};
use larder_types::object::{KvRank, ObjectGroup};
use larder_types::{ConnectionId, InstanceId};

use crate::support::{Chain, PAGE, Rig, Who, layout, prompt, worker};

impl Rig {
    /// A worker of model "m", with objects of `i + 1` pages in group `i`, on the connection of the same number.
    fn register_groups(&mut self, instance: i64, world_size: u32, windows: &[Option<u32>]) {
        let group = |(id, window): (u32, &Option<u32>)| {
            let (window, layout) = (*window, layout(u64::from(id) + 1));
            Group { id, window, layout }
        };
        let groups = (0..).zip(windows).map(group).collect();
        let (model, block_tokens) = ("m".into(), None);
        let spec = WorkerSpec { instance: InstanceId(instance), model, world_size, block_tokens, groups };
        assert!(self.core.register(self.time(), ConnectionId(instance as u64), spec));
    }

    /// Stores a prompt but for some chunks of each group. Returns group and chunk of each slot.
    fn store_except(&mut self, who: &Who, chain: &Chain, skipped: &[Vec<u32>]) -> Vec<(ObjectGroup, u32)> {
        let end = chain.len() as u32;
        let prepared = self.prepare_except(who, (chain, 0, end), skipped);
        if !prepared.slots.is_empty() {
            let copied = self.commit(who, chain, 0, end).published().expect("it was prepared");
            assert_eq!(copied.objects, prepared.slots.len() as u64);
        }
        cells(&prepared.slots)
    }

    /// Looks up, reads all of the hit, and ends the request. Returns group and chunk of each slot.
    fn read_hit(&mut self, request: &str, chain: &Chain) -> Vec<(ObjectGroup, u32)> {
        let who = worker(1, request);
        let hit = self.lookup(&who, chain, 1);
        let slots = self.prepare_retrieve(&who, chain, 0, hit);
        if slots.is_some() {
            assert!(self.commit_retrieve(&who, chain, 0, hit));
        }
        self.end(request);
        assert_eq!(self.held_objects(), 0);
        cells(&slots.unwrap_or_default())
    }

    /// Objects of chunks that a pin keeps.
    fn held_objects(&self) -> u64 {
        self.core.gauges().l1.held_objects
    }
}

fn cells(slots: &[larder_core::Slot]) -> Vec<(ObjectGroup, u32)> {
    assert!(slots.iter().all(|slot| slot.layout == layout(u64::from(slot.group) + 1)), "{slots:?}");
    slots.iter().map(|slot| (slot.group, slot.chunk)).collect()
}

/// A core of so many pages with worker 1 of these groups.
fn rig(pages: u64, windows: &[Option<u32>]) -> Rig {
    let mut rig = Rig::empty(pages, larder_policy::eviction::EvictionKind::Lru, None);
    rig.register_groups(1, 1, windows);
    rig
}

#[test]
fn slots_are_ordered_by_group_and_then_by_chunk() {
    let mut rig = rig(64, &[None, Some(1), None]);
    let p = prompt(1, 2);
    let stored = rig.store_except(&worker(1, "s"), &p, &[]);
    assert_eq!(stored, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
    assert_eq!(rig.read_hit("r", &p), [(0, 0), (0, 1), (1, 1), (2, 0), (2, 1)]);
    assert_eq!(rig.used_pages(), 2 * (1 + 2 + 3));
    assert_eq!(rig.core.stats().requests().retrieved_bytes, PAGE * (2 + 2 + 6));
}

#[test]
fn chunks_that_are_left_out_get_no_slot_and_may_be_written_later() {
    let mut rig = rig(64, &[None, Some(1)]);
    let p = prompt(1, 3);
    let stored = rig.store_except(&worker(1, "s"), &p, &[vec![], vec![0, 1]]);
    assert_eq!(stored, [(0, 0), (0, 1), (0, 2), (1, 2)]);
    assert_eq!(rig.read_hit("r", &p), [(0, 0), (0, 1), (0, 2), (1, 2)]);
    let short: Chain = p[..2].into();
    assert_eq!(rig.read_hit("short", &short), [], "its window was never stored");
    assert_eq!(rig.store_except(&worker(1, "t"), &short, &[]), [(1, 0), (1, 1)]);
    assert_eq!(rig.read_hit("again", &short), [(0, 0), (0, 1), (1, 1)]);
    assert_eq!(rig.store_except(&worker(1, "u"), &p, &[]), [], "all of it is there");
}

#[test]
fn a_hit_ends_where_every_window_is_whole() {
    // A recurrent state is stored at the end of each store: here after two and after five chunks.
    let mut rig = rig(64, &[Some(1), None]);
    let p = prompt(1, 6);
    for (request, end, skipped) in [("a", 2, vec![0]), ("b", 5, vec![0, 2, 3])] {
        let part: Chain = p[..end].into();
        rig.store_except(&worker(1, request), &part, &[skipped, vec![]]);
    }
    let hits: Vec<u32> = (1..=6)
        .map(|chunks| {
            let part: Chain = p[..chunks].into();
            let hit = rig.lookup(&worker(1, "q"), &part, 1);
            rig.end("q");
            hit
        })
        .collect();
    assert_eq!(hits, [0, 2, 2, 2, 5, 5]);
    let expected: Vec<_> = [(0, 4)].into_iter().chain((0..5).map(|chunk| (1, chunk))).collect();
    assert_eq!(rig.read_hit("r", &p), expected);
}

#[test]
fn a_range_within_a_hit_takes_the_window_at_its_own_end() {
    let mut rig = rig(64, &[None, Some(2)]);
    let p = prompt(1, 6);
    rig.store_except(&worker(1, "s"), &p, &[]);
    let r = worker(1, "r");
    assert_eq!(rig.lookup(&r, &p, 1), 6);
    // The engine has the first chunks itself: the rest has the chunks of the window that the lookup pins.
    let slots = rig.prepare_retrieve(&r, &p, 3, 6).expect("promised");
    assert_eq!(cells(&slots), [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]);
    // A shorter range needs other chunks of the window, which are pinned again.
    let slots = rig.prepare_retrieve(&r, &p, 0, 3).expect("it is there");
    assert_eq!(cells(&slots), [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]);
    // A range shorter than the window has what there is of it.
    let slots = rig.prepare_retrieve(&worker(1, "x"), &p, 5, 6).expect("it is there");
    assert_eq!(cells(&slots), [(0, 0), (1, 0)]);
    assert!(rig.commit_retrieve(&r, &p, 3, 6) && rig.commit_retrieve(&r, &p, 0, 3));
    assert!(rig.commit_retrieve(&worker(1, "x"), &p, 5, 6));
    rig.end("r");
    assert_eq!(rig.held_objects(), 0);
}

#[test]
fn all_groups_are_read_or_none() {
    let mut rig = rig(64, &[None, Some(1)]);
    let p = prompt(1, 4);
    rig.store_except(&worker(1, "s"), &p, &[vec![], vec![0, 2]]);
    let r = worker(1, "r");
    assert_eq!(rig.lookup(&r, &p, 2), 4);
    assert_eq!(rig.core.stats().requests().retrieves_failed, 0);
    // The window of the third chunk was not stored: one pin of each object that was to be read is released.
    assert_eq!(rig.prepare_retrieve(&r, &p, 0, 3), None);
    assert_eq!(rig.core.stats().requests().retrieves_failed, 1);
    assert!(rig.held_objects() > 0, "those of the other reader");
    assert!(rig.prepare_retrieve(&r, &p, 0, 4).is_some());
    assert!(rig.commit_retrieve(&r, &p, 0, 4));
    rig.end("r");
    assert_eq!(rig.held_objects(), 0);
    assert!(rig.clear(false) == 6);
}

#[test]
fn what_a_lookup_pins_of_one_group_keeps_all_of_the_chunk() {
    // Eight chunks of three pages fit.
    let mut rig = rig(24, &[None, Some(1)]);
    let p = prompt(1, 4);
    rig.store_except(&worker(1, "s"), &p, &[]);
    let r = worker(1, "r");
    assert_eq!(rig.lookup(&r, &p, 1), 4);
    let other = prompt(2, 8);
    assert_eq!(rig.store_except(&worker(1, "t"), &other, &[]).len(), 2 * 4, "pinned chunks are not evicted");
    assert_eq!(cells(&rig.prepare_retrieve(&r, &p, 0, 4).expect("promised")).len(), 5);
    assert!(rig.commit_retrieve(&r, &p, 0, 4));
    rig.end("r");
    assert_eq!(rig.store_except(&worker(1, "u"), &other, &[]).len(), 2 * 4);
    assert_eq!(rig.read_hit("q", &p), [], "its chunks were evicted, with all their groups");
}

#[test]
fn a_promise_outlives_a_forced_clear_in_all_groups() {
    let mut rig = rig(64, &[None, Some(2), Some(1)]);
    let p = prompt(1, 3);
    rig.store_except(&worker(1, "s"), &p, &[]);
    let r = worker(1, "r");
    assert_eq!(rig.lookup(&r, &p, 1), 3);
    assert_eq!(rig.clear(true), 9);
    assert_eq!(rig.used_pages(), 3 + 2 * 2 + 3, "exactly what the hit needs is pinned");
    let slots = rig.prepare_retrieve(&r, &p, 0, 3).expect("promised");
    assert_eq!(cells(&slots), [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]);
    assert!(rig.commit_retrieve(&r, &p, 0, 3));
    rig.end("r");
    assert_eq!(rig.used_pages(), 0);
}

#[test]
fn without_memory_for_all_groups_of_a_chunk_none_is_reserved() {
    // Two chunks of three pages, and two pages more: the third chunk has room for its first group only.
    let mut rig = rig(8, &[None, Some(1)]);
    let p = prompt(1, 4);
    let prepared = rig.prepare(&worker(1, "s"), &p, 0, 4);
    assert!(prepared.no_space);
    assert_eq!(cells(&prepared.slots), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    assert_eq!(rig.used_pages(), 6);
    let counters = rig.core.stats().labelled();
    assert_eq!(counters.models.named().map(|(_, model)| model.store_no_room).sum::<u64>(), 2);
    rig.abort(&worker(1, "s"), &p, 0, 4);
    assert_eq!(rig.used_pages(), 0);
}

#[test]
fn groups_and_layouts_of_other_workers_are_not_served() {
    let mut rig = rig(64, &[None, Some(1)]);
    let p = prompt(1, 2);
    rig.store_except(&worker(1, "s"), &p, &[]);
    assert_eq!(rig.lookup(&worker(1, "r"), &p, 1), 2);
    // Worker 2 has one group, of the layout of group 1 of worker 1.
    rig.register(2, "m", 1, 2);
    assert_eq!(rig.prepare_retrieve(&worker(2, "r"), &p, 0, 2), None);
    assert_eq!(rig.lookup(&worker(2, "q"), &p, 1), 0);
    assert!(rig.prepare_retrieve(&worker(1, "r"), &p, 0, 2).is_some(), "the other worker took no pin");
}

#[test]
fn every_rank_stores_and_reads_its_own_pieces() {
    let mut rig = Rig::empty(64, larder_policy::eviction::EvictionKind::Lru, None);
    let who =
        |rank: u32, request: &str| Who { rank: KvRank::new(2, rank), ..worker(i64::from(rank) + 1, request) };
    for rank in 0..2 {
        rig.register_groups(i64::from(rank) + 1, 2, &[None, Some(1)]);
    }
    let p = prompt(1, 3);
    let skipped = [vec![], vec![0, 1]];
    assert_eq!(rig.store_except(&who(0, "s"), &p, &skipped).len(), 4);
    assert_eq!(rig.lookup(&who(0, "early"), &p, 1), 0, "the other rank has stored nothing");
    assert_eq!(rig.store_except(&who(1, "s"), &p, &skipped).len(), 4);
    assert_eq!(rig.lookup(&who(0, "r"), &p, 1), 3);
    assert_eq!(rig.held_objects(), 8);
    for rank in 0..2 {
        let slots = rig.prepare_retrieve(&who(rank, "r"), &p, 0, 3).expect("promised");
        assert_eq!(cells(&slots), [(0, 0), (0, 1), (0, 2), (1, 2)]);
        assert!(rig.commit_retrieve(&who(rank, "r"), &p, 0, 3));
    }
    assert_eq!(rig.held_objects(), 0);
    rig.end("r");
}

#[test]
fn a_chunk_is_published_once_whatever_groups_it_has() {
    let mut rig = rig(64, &[None, Some(1)]);
    rig.core.record_chunk_events(64);
    let p = prompt(1, 3);
    rig.store_except(&worker(1, "s"), &p, &[vec![], vec![1, 2]]);
    let page = rig.core.stats().chunk_events().after(0, usize::MAX);
    let hashes: Vec<_> = page.records.iter().map(|(_, event)| event.hash).collect();
    assert_eq!(hashes, *p, "in the order of the prompt");
    let events = |rig: &Rig| rig.core.stats().chunk_events().last();
    rig.store_except(&worker(1, "t"), &p, &[]);
    assert_eq!(events(&rig), 3, "the other group adds nothing");
    rig.clear(true);
    assert_eq!(events(&rig), 6, "and each is withdrawn once");
}
