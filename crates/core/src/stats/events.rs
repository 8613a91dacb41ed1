//! Two bounded logs for readers outside the core that follow the cache.
//!
//! - [`ChunkEvent`]s say which chunks a lookup can find. A chunk in L1 is published when it is *whole* (each of
//!   its groups has the objects of all ranks) and withdrawn when that ends. Chunks in L2 are published object by
//!   object, as adapters report them: the core keeps no list of what they hold.
//! - [`ObjectEvent`]s say in which tier each object is, its size, and when it was used.
//!
//! Nothing is recorded until a reader [asks](crate::Core::record_chunk_events) for it. Each log keeps its last
//! records; a reader that is too slow learns that some are lost, and delays nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use larder_types::object::{ChunkHash, ObjectKey};

use larder_types::AdapterId;

/// A tier that can hold an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Host memory.
    L1,
    /// This L2 adapter.
    L2(AdapterId),
}

/// A chunk became findable, or ceased to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkEvent {
    /// The tier.
    pub tier: Tier,
    /// Whether a lookup can find it from now on.
    pub visible: bool,
    /// Its model. Equal chunks of several cache salts look alike here, as their hashes are equal.
    pub model: Arc<str>,
    /// Its hash.
    pub hash: ChunkHash,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// It became readable.
    Stored,
    /// It was removed or evicted.
    Removed,
    /// A worker read it.
    Used,
}

/// A change of one object in one tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEvent {
    /// Where.
    pub tier: Tier,
    /// The change.
    pub change: Change,
    /// The object.
    pub key: ObjectKey,
    /// Its exact size in bytes if it was stored, otherwise 0.
    pub bytes: u64,
}

/// A bounded log. Records are numbered from 1; a number is never used twice.
#[derive(Clone, Debug)]
pub struct Log<T> {
    records: VecDeque<T>,
    /// 0: nothing is recorded.
    capacity: usize,
    /// The number of the last record.
    last: u64,
    /// The last record before the current recording began.
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
    /// Keeps the last `capacity` records from now on, or nothing if 0. Earlier records are dropped.
    /// Returns them.
    fn restart(&mut self, capacity: usize) -> Self {
        // All of the memory is reserved now, not touched: a full queue would be copied to a place of twice its size.
        let records = VecDeque::with_capacity(capacity);
        std::mem::replace(self, Self { records, capacity, last: self.last, began_after: self.last })
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.capacity > 0
    }

    /// Records kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no record is kept.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The number of the last record.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Adds a record, which is made only if the log is on. A full log drops its oldest record.
    fn push(&mut self, record: impl FnOnce() -> T) {
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
pub(crate) struct EventLogs {
    chunks: Log<ChunkEvent>,
    objects: Log<ObjectEvent>,
    /// Grows when a recording of chunk events begins. Chunks published in an earlier epoch are not known to the
    /// readers of this one.
    chunk_epoch: u32,
}

/// The ends of both logs at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    chunk: u64,
    object: u64,
}

impl EventLogs {
    pub(crate) fn chunks(&self) -> &Log<ChunkEvent> {
        &self.chunks
    }

    pub(crate) fn objects(&self) -> &Log<ObjectEvent> {
        &self.objects
    }

    /// Begins a recording of chunk events; see [`Log::restart`].
    pub(crate) fn record_chunks(&mut self, records: usize) -> Log<ChunkEvent> {
        self.chunk_epoch += 1;
        self.chunks.restart(records)
    }

    /// Begins a recording of object events; see [`Log::restart`].
    pub(crate) fn record_objects(&mut self, records: usize) {
        self.objects.restart(records);
    }

    /// The current recording of chunk events; 0 before the first one.
    pub(crate) fn chunk_epoch(&self) -> u32 {
        self.chunk_epoch
    }

    pub(crate) fn push_chunk(&mut self, event: impl FnOnce() -> ChunkEvent) {
        self.chunks.push(event);
    }

    pub(crate) fn push_object(&mut self, event: impl FnOnce() -> ObjectEvent) {
        self.objects.push(event);
    }

    /// The ends of the logs now.
    pub(crate) fn mark(&self) -> Mark {
        Mark { chunk: self.chunks.last, object: self.objects.last }
    }

    /// Reverses the order of the records after a mark.
    pub(crate) fn reverse_after(&mut self, mark: Mark) {
        self.chunks.reverse_after(mark.chunk);
        self.objects.reverse_after(mark.object);
    }

    /// Records what happened to an object at an adapter.
    pub(crate) fn at_adapter(&mut self, adapter: AdapterId, change: Change, key: &ObjectKey, bytes: u64) {
        let tier = Tier::L2(adapter);
        self.objects.push(|| ObjectEvent { tier, change, key: key.clone(), bytes });
        if change != Change::Used {
            let (visible, model, hash) = (change == Change::Stored, &key.model_name, key.chunk_hash);
            self.chunks.push(|| ChunkEvent { tier, visible, model: model.clone(), hash });
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
        log.push(|| unreachable!("the log is off"));
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
    fn dropped_records_are_reported_as_lost_once() {
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
    fn the_end_of_a_log_can_be_reversed() {
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
