//! How long chunks stay in L1, how long they are idle, and when they come back: statistics for operators who
//! size L1. No decision depends on them.
//!
//! A sample of all chunks is followed, chosen by their hash, so that the same chunks are followed wherever they
//! come up. Of each the times of its last events are kept, whether it is in L1 or not, for [`REMEMBERED`] chunks
//! at most; the older half is forgotten when the table is full. Premature evictions are counted for every chunk,
//! sampled or not: an eviction is premature if the chunk comes back to L1 while its eviction is remembered.
//! There are [`REMEMBERED`] places for evictions, chosen by the digest of the chunk, so after that many further
//! evictions a third are still remembered. Rereads are counted in the same way: a chunk that was loaded from L2,
//! was dropped after its last reader, and is loaded again.
//!
//! Cost: one look at a place when a chunk enters L1 or is evicted; for any other event one comparison if the
//! chunk is not sampled, and a few hash-map look-ups if it is.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use larder_types::object::ChunkHash;

use crate::stats::labelled::Labelled;
use larder_types::time::Time;

/// Sampled chunks that are remembered at most, and places for evicted ones.
pub const REMEMBERED: usize = 1 << 16;

/// Upper bounds of histogram buckets for times in L1, in seconds, as in LMCache.
pub const RESIDENCY_BOUNDS: [f64; 13] =
    [1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0];

/// A longer time from eviction to return counts as this many seconds.
const RETURN_SECONDS_MAX: f64 = 300.0;

/// Upper bounds of histogram buckets for gaps between two requests, in seconds and in chunks.
pub const GAP_BOUNDS: [f64; 16] = [
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0, 10_000.0,
    100_000.0,
];

/// A histogram with fixed bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    counts: [u64; N],
    above: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    /// Without observations.
    pub const fn new(bounds: &'static [f64; N]) -> Self {
        Self { bounds, counts: [0; N], above: 0, sum: 0.0 }
    }

    /// Counts an observation.
    pub fn observe(&mut self, value: f64) {
        self.sum += value;
        match self.bounds.iter().position(|bound| value <= *bound) {
            Some(at) => self.counts[at] += 1,
            None => self.above += 1,
        }
    }

    /// Each upper bound with the number of observations that are not above it.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let sums = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        self.bounds.iter().copied().zip(sums)
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    /// Sum of the observations.
    pub const fn sum(&self) -> f64 {
        self.sum
    }
}

/// Gaps between two requests for the same chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gaps {
    /// In seconds.
    pub seconds: Histogram<16>,
    /// In chunks that were requested between them.
    pub chunks: Histogram<16>,
}

impl Default for Gaps {
    fn default() -> Self {
        Self { seconds: Histogram::new(&GAP_BOUNDS), chunks: Histogram::new(&GAP_BOUNDS) }
    }
}

/// The statistics. Times are in seconds.
#[derive(Clone, Debug)]
pub struct ResidencyStats {
    /// From the first reservation to eviction.
    pub lifetime: Histogram<13>,
    /// From the last use to eviction.
    pub idle_before_evict: Histogram<13>,
    /// Between two uses in L1; a store is the first.
    pub reuse_gap: Histogram<13>,
    /// From eviction to the return to L1, at most 300 s.
    pub evict_reuse_gap: Histogram<13>,
    /// Between two requests for a chunk, wherever it was, by cache salt.
    pub request_gaps: Labelled<Gaps>,
    /// Chunks that came back to L1 while their eviction was remembered; not sampled.
    pub premature_evictions: u64,
    /// Chunks loaded again after they were loaded from L2 and dropped after their last reader; not sampled.
    pub rereads: u64,
}

impl Default for ResidencyStats {
    fn default() -> Self {
        Self {
            lifetime: Histogram::new(&RESIDENCY_BOUNDS),
            idle_before_evict: Histogram::new(&RESIDENCY_BOUNDS),
            reuse_gap: Histogram::new(&RESIDENCY_BOUNDS),
            evict_reuse_gap: Histogram::new(&RESIDENCY_BOUNDS),
            request_gaps: Labelled::default(),
            premature_evictions: 0,
            rereads: 0,
        }
    }
}

/// When a sampled chunk was last inserted, used, evicted and requested.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// When it entered L1, if it is there.
    inserted: Option<Time>,
    /// When it was last used there.
    used: Option<Time>,
    /// When it was evicted, if it has not come back since.
    evicted: Option<Time>,
    /// When it was last requested, and how many chunks had been requested by then.
    requested: Option<(Time, u64)>,
}

/// A digest of a chunk's model, salt and hash.
pub(crate) type Digest = u64;

/// Collects the statistics.
#[derive(Debug)]
pub(crate) struct ResidencyTracker {
    now: Time,
    /// A chunk is sampled if its hash begins with a smaller number.
    threshold: u64,
    /// Chunks requested so far.
    requested: u64,
    known: Remembered<Times>,
    evicted: RecentDigests,
    dropped: RecentDigests,
    stats: ResidencyStats,
}

impl ResidencyTracker {
    /// Samples this part of all chunks, from 0 to 1.
    pub(crate) fn new(part: f64) -> Self {
        Self {
            now: Time::ZERO,
            // The cast saturates, so that 1 means all chunks.
            threshold: (part * u64::MAX as f64) as u64,
            requested: 0,
            known: Remembered::default(),
            evicted: RecentDigests::default(),
            dropped: RecentDigests::default(),
            stats: ResidencyStats::default(),
        }
    }

    /// The statistics so far.
    pub(crate) fn stats(&self) -> &ResidencyStats {
        &self.stats
    }

    /// Sets the time of the events that follow.
    pub(crate) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    fn is_sampled(&self, hash: &ChunkHash) -> bool {
        begins_below(hash, self.threshold)
    }

    /// A request asks for the chunks of a prompt, in L1 or not.
    pub(crate) fn on_request(
        &mut self,
        salt: &Arc<str>,
        chunk_hashes: &[ChunkHash],
        digest: impl Fn(&ChunkHash) -> Digest,
    ) {
        if self.threshold > 0 {
            let threshold = self.threshold;
            let numbered = (self.requested..).zip(chunk_hashes);
            for (at, hash) in numbered.filter(|(_, hash)| begins_below(hash, threshold)) {
                let requested = self.known.entry(digest(hash)).requested.replace((self.now, at));
                if let Some((time, last)) = requested {
                    let gaps = self.stats.request_gaps.get_or_insert(salt);
                    gaps.seconds.observe(seconds(self.now.since(time)));
                    gaps.chunks.observe((at - last) as f64);
                }
            }
        }
        self.requested += chunk_hashes.len() as u64;
    }

    /// A chunk enters L1: its first object is reserved.
    pub(crate) fn on_insert(&mut self, hash: &ChunkHash, digest: Digest) {
        if self.evicted.forget(digest) {
            self.stats.premature_evictions += 1;
        }
        if self.dropped.forget(digest) {
            self.stats.rereads += 1;
        }
        if self.is_sampled(hash) {
            let now = self.now;
            let times = self.known.entry(digest);
            (times.inserted, times.used) = (Some(now), Some(now));
            if let Some(evicted) = times.evicted.take() {
                let gap = seconds(now.since(evicted)).min(RETURN_SECONDS_MAX);
                self.stats.evict_reuse_gap.observe(gap);
            }
        }
    }

    /// A lookup found a chunk in L1.
    pub(crate) fn on_hit(&mut self, hash: &ChunkHash, digest: impl FnOnce() -> Digest) {
        if self.is_sampled(hash) {
            let now = self.now;
            if let Some(used) = self.known.entry(digest()).used.replace(now) {
                self.stats.reuse_gap.observe(seconds(now.since(used)));
            }
        }
    }

    /// A temporary object that was loaded from L2 is dropped after its last reader.
    pub(crate) fn on_drop(&mut self, digest: Digest) {
        self.dropped.remember(digest);
    }

    /// A chunk left L1, by eviction or for another reason.
    pub(crate) fn on_remove(&mut self, hash: &ChunkHash, digest: Digest, evicted: bool) {
        if evicted {
            self.evicted.remember(digest);
        }
        if !self.is_sampled(hash) {
            return;
        }
        let now = self.now;
        let times = self.known.entry(digest);
        let (inserted, used) = (times.inserted.take(), times.used.take());
        if evicted {
            times.evicted = Some(now);
            inserted.into_iter().for_each(|at| self.stats.lifetime.observe(seconds(now.since(at))));
            used.into_iter().for_each(|at| self.stats.idle_before_evict.observe(seconds(now.since(at))));
        }
    }
}

/// Whether the first 8 bytes of a hash, which are as good as random, are a number below `threshold`.
fn begins_below(hash: &ChunkHash, threshold: u64) -> bool {
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)) < threshold
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Digests, each in the place that it selects, until another digest replaces it.
#[derive(Debug)]
struct RecentDigests(Box<[Digest]>);

impl Default for RecentDigests {
    fn default() -> Self {
        // Zero marks an empty place; a digest of zero is not remembered.
        Self(vec![0; REMEMBERED].into())
    }
}

impl RecentDigests {
    fn place(&mut self, digest: Digest) -> &mut Digest {
        &mut self.0[digest as usize % REMEMBERED]
    }

    fn remember(&mut self, digest: Digest) {
        *self.place(digest) = digest;
    }

    /// Forgets a digest. Returns whether it was remembered.
    fn forget(&mut self, digest: Digest) -> bool {
        let place = self.place(digest);
        let known = *place == digest && digest != 0;
        *place = if known { 0 } else { *place };
        known
    }
}

/// The entries touched last: between half of [`REMEMBERED`] and all of them. When the young half is full, it
/// replaces the old one.
#[derive(Debug)]
struct Remembered<V> {
    young: HashMap<Digest, V>,
    old: HashMap<Digest, V>,
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<V: Copy + Default> Remembered<V> {
    /// The value of a digest, created if there is none.
    fn entry(&mut self, digest: Digest) -> &mut V {
        if !self.young.contains_key(&digest) {
            let known = self.old.remove(&digest).unwrap_or_default();
            if self.young.len() >= REMEMBERED / 2 {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(digest, known);
        }
        self.young.get_mut(&digest).expect("it was just seen or made")
    }

    /// The value of a digest, if there is one.
    #[cfg(test)]
    fn get(&self, digest: Digest) -> Option<V> {
        self.young.get(&digest).or_else(|| self.old.get(&digest)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> ChunkHash {
        ChunkHash::new(&[n; 32]).expect("a hash")
    }

    fn tracker() -> ResidencyTracker {
        ResidencyTracker::new(1.0)
    }

    fn at(tracker: &mut ResidencyTracker, seconds: u64) -> &mut ResidencyTracker {
        tracker.advance(Time::from_millis(seconds * 1000));
        tracker
    }

    fn seen<const N: usize>(histogram: &Histogram<N>) -> (u64, f64) {
        (histogram.count(), histogram.sum())
    }

    #[test]
    fn eviction_records_lifetime_and_idle_time() {
        let mut tracker = tracker();
        at(&mut tracker, 10).on_insert(&hash(1), 1);
        at(&mut tracker, 12).on_hit(&hash(1), || 1);
        at(&mut tracker, 20).on_hit(&hash(1), || 1);
        assert_eq!(seen(&tracker.stats().reuse_gap), (2, 10.0));
        at(&mut tracker, 50).on_remove(&hash(1), 1, true);
        assert_eq!(seen(&tracker.stats().lifetime), (1, 40.0));
        assert_eq!(seen(&tracker.stats().idle_before_evict), (1, 30.0));
        at(&mut tracker, 5000).on_insert(&hash(1), 1);
        assert_eq!(seen(&tracker.stats().evict_reuse_gap), (1, 300.0), "as at most 300 s");
        assert_eq!(tracker.stats().premature_evictions, 1);
        at(&mut tracker, 5001).on_remove(&hash(1), 1, false);
        at(&mut tracker, 5002).on_insert(&hash(1), 1);
        assert_eq!(seen(&tracker.stats().lifetime), (1, 40.0), "it was not evicted");
        assert_eq!(tracker.stats().premature_evictions, 1);
    }

    #[test]
    fn a_dropped_chunk_that_is_inserted_again_is_a_reread() {
        let mut tracker = ResidencyTracker::new(0.0);
        tracker.on_insert(&hash(1), 1);
        tracker.on_drop(1);
        tracker.on_remove(&hash(1), 1, false);
        tracker.on_insert(&hash(2), 2);
        assert_eq!(tracker.stats().rereads, 0, "another chunk");
        tracker.on_insert(&hash(1), 1);
        assert_eq!((tracker.stats().rereads, tracker.stats().premature_evictions), (1, 0));
        tracker.on_remove(&hash(1), 1, false);
        tracker.on_insert(&hash(1), 1);
        assert_eq!(tracker.stats().rereads, 1, "it was removed, not dropped");
    }

    #[test]
    fn request_gaps_are_in_seconds_and_in_chunks() {
        let (mut tracker, salt): (_, Arc<str>) = (tracker(), "s".into());
        let first = |hash: &ChunkHash| u64::from(hash.as_bytes()[0]);
        at(&mut tracker, 1).on_request(&salt, &[hash(1), hash(2)], first);
        at(&mut tracker, 8).on_request(&"other".into(), &[hash(3)], first);
        at(&mut tracker, 9).on_request(&salt, &[hash(2), hash(4)], first);
        let gaps = *tracker.stats().request_gaps.named().find(|(name, _)| **name == salt).expect("a gap").1;
        assert_eq!((seen(&gaps.seconds), seen(&gaps.chunks)), ((1, 8.0), (1, 2.0)));
    }

    #[test]
    fn times_are_sampled_and_premature_evictions_are_all_counted() {
        let mut tracker = ResidencyTracker::new(0.5);
        for n in [0, 100, 200, 255] {
            let digest = u64::from(n) + 1;
            tracker.on_insert(&hash(n), digest);
            tracker.on_remove(&hash(n), digest, true);
            tracker.on_insert(&hash(n), digest);
        }
        assert_eq!((tracker.stats().lifetime.count(), tracker.stats().premature_evictions), (2, 4));
        let mut none = ResidencyTracker::new(0.0);
        none.on_insert(&hash(0), 0);
        none.on_remove(&hash(0), 0, true);
        assert_eq!(none.stats().lifetime.count(), 0);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_entries_are_forgotten() {
        let mut remembered = Remembered::<u64>::default();
        for n in 0..3 * REMEMBERED as u64 {
            *remembered.entry(n) = n;
            *remembered.entry(0) += 1;
            assert!(remembered.young.len() + remembered.old.len() <= REMEMBERED);
        }
        let last = 3 * REMEMBERED as u64 - 1;
        assert_eq!((remembered.get(last), remembered.get(1)), (Some(last), None));
        assert_eq!(remembered.get(0), Some(last + 1), "touched all the time");
    }

    #[test]
    fn an_eviction_is_remembered_until_another_replaces_it() {
        let mut evicted = RecentDigests::default();
        let other = 7 + REMEMBERED as u64;
        evicted.remember(7);
        assert!(!evicted.forget(other) && evicted.forget(7), "another digest of the same place is not found");
        assert!(!evicted.forget(7), "it was forgotten");
        evicted.remember(7);
        evicted.remember(other);
        assert!(!evicted.forget(7) && evicted.forget(other));
    }

    #[test]
    fn observations_count_up_to_their_bound() {
        let mut histogram = Histogram::new(&RESIDENCY_BOUNDS);
        for value in [0.5, 1.0, 1.5, 20_000.0] {
            histogram.observe(value);
        }
        let cumulative: Vec<(f64, u64)> = histogram.cumulative().collect();
        assert_eq!((cumulative[0], cumulative[1], cumulative[12]), ((1.0, 2), (5.0, 3), (14_400.0, 3)));
        assert_eq!(seen(&histogram), (4, 20_003.0));
    }
}
