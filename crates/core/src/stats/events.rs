//! What became visible and what is no longer: two bounded logs for those who follow the cache from outside.
//!
//! - [`ChunkEvent`]s say what a lookup could find. A chunk in L1 is told of when it is *whole* (each of its
//!   groups has the objects of all ranks), and withdrawn when that ends. What is in L2 is told of object by
//!   object, as adapters report it: the core keeps no list of what they hold.
//! - [`ObjectEvent`]s say where each object is, how large, and when it was used.
//!
//! Neither is recorded before somebody [asks](Core::record_chunk_events) for it. Each log keeps its last records;
//! whoever reads too slowly learns that some were lost, and cannot slow down anybody.

use std::collections::VecDeque;
use std::sync::Arc;

use larder_types::object::{ChunkHash, ObjectKey};

use crate::core::Core;
use larder_types::AdapterId;
use larder_types::time::Time;

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// In memory.
    L1,
    /// At this adapter.
    L2(AdapterId),
}

/// A chunk can be found, or not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkEvent {
    /// Where.
    pub tier: Tier,
    /// Whether it can be found from now on.
    pub visible: bool,
    /// The model whose chunk it is. Chunks of several cache salts look the same here: their hashes do.
    pub model: Arc<str>,
    /// The chunk.
    pub hash: ChunkHash,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// It can be read.
    Stored,
    /// It is gone.
    Removed,
    /// It was read.
    Used,
}

/// Something happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEvent {
    /// Where.
    pub tier: Tier,
    /// What.
    pub change: Change,
    /// To whom.
    pub key: ObjectKey,
    /// Its exact size if it was stored, else 0.
    pub bytes: u64,
}

/// The last records of something, numbered from 1 on. A number is never used twice.
#[derive(Clone, Debug)]
pub struct Log<T> {
    records: VecDeque<T>,
    /// 0: nothing is recorded.
    capacity: usize,
    /// The number of the last record.
    last: u64,
    /// The last record before the present recording began.
    began_after: u64,
}

/// Records after a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The records with their numbers.
    pub records: Vec<(u64, T)>,
    /// The last record that was looked at: the cursor to go on from.
    pub next_cursor: u64,
    /// Records after the cursor are missing, or it lies ahead of the log.
    pub lost: bool,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { records: VecDeque::new(), capacity: 0, last: 0, began_after: 0 }
    }
}

impl<T> Log<T> {
    /// Keeps the last `capacity` records from now on; with 0, nothing. What was recorded before is forgotten.
    fn restart(&mut self, capacity: usize) {
        *self = Self { records: VecDeque::new(), capacity, last: self.last, began_after: self.last };
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.capacity > 0
    }

    /// Records kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The number of the last record.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// One more record, made only if it is wanted. The oldest gives way to it.
    pub(crate) fn push(&mut self, record: impl FnOnce() -> T) {
        if !self.is_on() {
            return;
        }
        if self.records.len() == self.capacity {
            self.records.pop_front();
        }
        self.records.push_back(record());
        self.last += 1;
    }

    /// Turns the order of the records after the one with this number around.
    pub(crate) fn reverse_after(&mut self, number: u64) {
        let len = self.records.len();
        let tail = usize::try_from(self.last - number).unwrap_or(usize::MAX).min(len);
        (0..tail / 2).for_each(|i| self.records.swap(len - tail + i, len - 1 - i));
    }

    /// At most `limit` records after `cursor`; 0 stands for the beginning of the recording.
    pub fn after(&self, cursor: u64, limit: usize) -> Page<T>
    where
        T: Clone,
    {
        let first = self.last + 1 - self.records.len() as u64;
        let cursor = if cursor == 0 { self.began_after } else { cursor };
        let lost = cursor.saturating_add(1) < first || cursor > self.last;
        let cursor = cursor.clamp(first - 1, self.last);
        let skip = (cursor + 1 - first) as usize;
        let page = (first..).zip(&self.records).skip(skip).take(limit);
        let records: Vec<(u64, T)> = page.map(|(number, record)| (number, record.clone())).collect();
        let next_cursor = records.last().map_or(cursor, |(number, _)| *number);
        Page { records, next_cursor, lost }
    }
}

/// Both logs.
#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) chunks: Log<ChunkEvent>,
    pub(crate) objects: Log<ObjectEvent>,
    /// Which recording of chunks this is. What was told in an earlier one has to be told again.
    pub(crate) recording: u32,
}

impl Events {
    /// Numbers of the last records.
    pub(crate) fn last(&self) -> (u64, u64) {
        (self.chunks.last, self.objects.last)
    }

    /// Turns the order of what was recorded since around.
    pub(crate) fn reverse_after(&mut self, (chunks, objects): (u64, u64)) {
        self.chunks.reverse_after(chunks);
        self.objects.reverse_after(objects);
    }

    /// Something happened to an object at an adapter.
    pub(crate) fn in_l2(&mut self, adapter: AdapterId, change: Change, key: &ObjectKey, bytes: u64) {
        let tier = Tier::L2(adapter);
        self.objects.push(|| ObjectEvent { tier, change, key: key.clone(), bytes });
        if change != Change::Used {
            let (visible, model, hash) = (change == Change::Stored, &key.model_name, key.chunk_hash);
            self.chunks.push(|| ChunkEvent { tier, visible, model: model.clone(), hash });
        }
    }
}

impl Core {
    /// Records from now on what chunks become visible and what ones cease to be, the last `records` such
    /// events; 0 ends it. Chunks that are there already are not told of: see [`Core::publish_snapshot`].
    pub fn record_chunk_events(&mut self, records: usize) {
        let events = &mut self.index.events;
        events.chunks.restart(records);
        events.recording += 1;
    }

    /// Records from now on what happens to each object, the last `records` such events; 0 ends it.
    pub fn record_object_events(&mut self, records: usize) {
        self.index.events.objects.restart(records);
    }

    /// Tells of the whole chunks in L1 that have a place by `place`, in the order of their places. For the
    /// beginning of a recording: looks at every chunk.
    pub fn publish_snapshot(&mut self, place: impl Fn(&ChunkHash) -> Option<u64>) {
        self.index.publish_snapshot(place);
    }

    /// What became of chunks.
    pub fn chunk_events(&self) -> &Log<ChunkEvent> {
        &self.index.events.chunks
    }

    /// What became of objects.
    pub fn object_events(&self) -> &Log<ObjectEvent> {
        &self.index.events.objects
    }

    /// An adapter has removed an object by itself, to make room.
    pub fn l2_evicted(&mut self, now: Time, adapter: AdapterId, key: &ObjectKey) {
        self.index.tally.salts.of(&key.cache_salt).l2_evicted += 1;
        self.l2_removed(now, adapter, std::slice::from_ref(key));
    }

    /// Objects of an adapter are gone, or were removed because somebody outside asked it to.
    pub fn l2_removed(&mut self, now: Time, adapter: AdapterId, keys: &[ObjectKey]) {
        self.advance(now);
        for key in keys {
            self.index.events.in_l2(adapter, Change::Removed, key, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(page: &Page<u32>) -> Vec<u64> {
        page.records.iter().map(|(n, _)| *n).collect()
    }

    fn log(capacity: usize, records: u32) -> Log<u32> {
        let mut log = Log::default();
        log.restart(capacity);
        (0..records).for_each(|i| log.push(|| i));
        log
    }

    #[test]
    fn a_log_that_is_off_makes_no_record() {
        let mut log = Log::<u32>::default();
        log.push(|| unreachable!("nobody wants it"));
        assert_eq!((log.last(), log.len()), (0, 0));
        assert_eq!(log.after(0, 9), Page { records: vec![], next_cursor: 0, lost: false });
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let log = log(8, 5);
        let page = log.after(0, 2);
        assert_eq!((numbers(&page), page.next_cursor, page.lost), (vec![1, 2], 2, false));
        let page = log.after(2, 9);
        assert_eq!((numbers(&page), page.next_cursor, page.lost), (vec![3, 4, 5], 5, false));
        assert_eq!(log.after(5, 9), Page { records: vec![], next_cursor: 5, lost: false });
    }

    #[test]
    fn what_was_dropped_shows_as_lost_once() {
        let log = log(3, 5);
        for cursor in [0, 1] {
            let page = log.after(cursor, 9);
            assert_eq!((numbers(&page), page.next_cursor, page.lost), (vec![3, 4, 5], 5, true));
        }
        assert!(!log.after(2, 9).lost, "everything after 2 is there");
    }

    #[test]
    fn a_cursor_ahead_of_the_log_is_lost_and_comes_back_to_it() {
        let page = log(8, 5).after(999, 9);
        assert_eq!(page, Page { records: vec![], next_cursor: 5, lost: true });
        assert_eq!(log(8, 5).after(u64::MAX, 9).next_cursor, 5);
    }

    #[test]
    fn the_end_of_a_log_can_be_turned_around() {
        let mut log = log(3, 2);
        (10..12).for_each(|i| log.push(|| i));
        log.reverse_after(2);
        let values = |log: &Log<u32>| log.records.iter().copied().collect::<Vec<_>>();
        assert_eq!(values(&log), [1, 11, 10]);
        log.reverse_after(0);
        assert_eq!(values(&log), [10, 11, 1], "as far as it is there");
        log.reverse_after(4);
        assert_eq!(values(&log), [10, 11, 1]);
    }

    #[test]
    fn a_new_recording_begins_empty_and_goes_on_counting() {
        let mut log = log(8, 5);
        log.restart(8);
        assert!(log.is_empty());
        assert_eq!(log.after(0, 9), Page { records: vec![], next_cursor: 5, lost: false });
        assert!(log.after(4, 9).lost, "that record belongs to the recording before");
        log.push(|| 7);
        assert_eq!(numbers(&log.after(0, 9)), [6]);
        assert_eq!(numbers(&log.after(5, 9)), [6]);
    }
}
