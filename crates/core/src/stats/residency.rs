//! How long chunks live in L1, how long they lie idle, and when they come back: statistics for people who
//! size L1. Nothing is decided by them.
//!
//! Of all chunks a share is followed, chosen by their hash, so that the same chunks are followed wherever
//! they come up. Each is remembered with the times of what last happened to it, in L1 or not: of
//! [`REMEMBERED`] chunks at most is anything known, and the longest untouched are forgotten first, half of
//! them at a time. Evictions that came too early are counted for every chunk: one is, if the chunk comes
//! back to L1 while its eviction is remembered. There is one place for each of [`REMEMBERED`] evictions,
//! chosen by the chunk, so after as many others a third are still remembered. What L2 is read for again is
//! counted the same way: a loaded chunk that went with its last reader, and comes back.
//!
//! Cost: when a chunk comes to L1 or is evicted, its place is looked at. Any other event is one comparison
//! of a chunk that is not followed, and a few look-ups of a hash map of one that is.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use larder_types::object::ChunkHash;

use crate::index::Index;
use crate::stats::labelled::Labelled;
use larder_types::time::Time;

/// Chunks whose past is remembered: at most as many followed ones, and as many evicted ones.
pub const REMEMBERED: usize = 1 << 16;

/// Upper bounds of times in L1, in seconds, as LMCache has them.
pub const RESIDENCY_BOUNDS: [f64; 13] =
    [1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0];

/// A return after eviction counts as at most this many seconds.
const RETURN_SECONDS_MAX: f64 = 300.0;

/// Upper bounds of gaps between two uses, in seconds and in chunks asked for between them.
pub const GAP_BOUNDS: [f64; 16] = [
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0, 10_000.0,
    100_000.0,
];

/// How many observations fell between which bounds.
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

    /// One more observation.
    pub fn observe(&mut self, value: f64) {
        self.sum += value;
        match self.bounds.iter().position(|bound| value <= *bound) {
            Some(at) => self.counts[at] += 1,
            None => self.above += 1,
        }
    }

    /// Each upper bound with the observations up to it, those up to the bounds before it included.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let sums = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        self.bounds.iter().copied().zip(sums)
    }

    /// How many observations there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    /// What they add up to.
    pub const fn sum(&self) -> f64 {
        self.sum
    }
}

/// Gaps between two requests for the same chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gaps {
    /// In seconds.
    pub seconds: Histogram<16>,
    /// In chunks that were asked for between them.
    pub chunks: Histogram<16>,
}

impl Default for Gaps {
    fn default() -> Self {
        Self { seconds: Histogram::new(&GAP_BOUNDS), chunks: Histogram::new(&GAP_BOUNDS) }
    }
}

/// What is known of the lives of chunks. Times in seconds.
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
    /// Chunks, of all, that came back to L1 while their eviction was remembered.
    pub premature_evictions: u64,
    /// Chunks, of all, that came back to L1 while it was remembered that they were loaded from L2 and went with
    /// their last reader.
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

/// What last happened to a chunk that is followed.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    /// When it came to L1, if it is there.
    born: Option<Time>,
    /// When it was last used there.
    used: Option<Time>,
    /// When it was evicted, if it has not come back.
    evicted: Option<Time>,
    /// When it was last asked for, and how many chunks had been by then.
    asked: Option<(Time, u64)>,
}

/// A chunk's identity: a digest of its model, salt and hash.
pub(crate) type Digest = u64;

/// Follows chunks through their lives.
#[derive(Debug)]
pub(crate) struct ResidencyTracker {
    now: Time,
    /// Chunks whose hash begins with less are followed.
    threshold: u64,
    /// Chunks asked for, in all.
    asked: u64,
    known: Remembered<Life>,
    evicted: Places,
    passed: Places,
    stats: ResidencyStats,
}

impl ResidencyTracker {
    /// Follows this share of all chunks, from 0 to 1.
    pub(crate) fn new(share: f64) -> Self {
        Self {
            now: Time::ZERO,
            // The cast saturates: all of them.
            threshold: (share * u64::MAX as f64) as u64,
            asked: 0,
            known: Remembered::default(),
            evicted: Places::default(),
            passed: Places::default(),
            stats: ResidencyStats::default(),
        }
    }

    /// What was learned so far.
    pub(crate) fn stats(&self) -> &ResidencyStats {
        &self.stats
    }

    /// It is later now.
    pub(crate) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    fn follows(&self, hash: &ChunkHash) -> bool {
        begins_below(hash, self.threshold)
    }

    /// A request asks for the chunks of a prompt, wherever they are.
    pub(crate) fn asked(
        &mut self,
        salt: &Arc<str>,
        chunk_hashes: &[ChunkHash],
        digest: impl Fn(&ChunkHash) -> Digest,
    ) {
        if self.threshold > 0 {
            let threshold = self.threshold;
            let numbered = (self.asked..).zip(chunk_hashes);
            for (at, hash) in numbered.filter(|(_, hash)| begins_below(hash, threshold)) {
                let asked = self.known.entry(digest(hash)).asked.replace((self.now, at));
                if let Some((time, last)) = asked {
                    let gaps = self.stats.request_gaps.of(salt);
                    gaps.seconds.observe(seconds(self.now.since(time)));
                    gaps.chunks.observe((at - last) as f64);
                }
            }
        }
        self.asked += chunk_hashes.len() as u64;
    }

    /// A chunk comes to L1: its first object is reserved.
    pub(crate) fn born(&mut self, hash: &ChunkHash, digest: Digest) {
        if self.evicted.forget(digest) {
            self.stats.premature_evictions += 1;
        }
        if self.passed.forget(digest) {
            self.stats.rereads += 1;
        }
        if self.follows(hash) {
            let now = self.now;
            let life = self.known.entry(digest);
            (life.born, life.used) = (Some(now), Some(now));
            if let Some(evicted) = life.evicted.take() {
                let gap = seconds(now.since(evicted)).min(RETURN_SECONDS_MAX);
                self.stats.evict_reuse_gap.observe(gap);
            }
        }
    }

    /// A request found a chunk in L1.
    pub(crate) fn used(&mut self, hash: &ChunkHash, digest: impl FnOnce() -> Digest) {
        if self.follows(hash) {
            let now = self.now;
            if let Some(used) = self.known.entry(digest()).used.replace(now) {
                self.stats.reuse_gap.observe(seconds(now.since(used)));
            }
        }
    }

    /// An object that was loaded from L2 goes with its last reader.
    pub(crate) fn passed(&mut self, digest: Digest) {
        self.passed.remember(digest);
    }

    /// A chunk has left L1; `evicted` to make room, or for another reason.
    pub(crate) fn left(&mut self, hash: &ChunkHash, digest: Digest, evicted: bool) {
        if evicted {
            self.evicted.remember(digest);
        }
        if !self.follows(hash) {
            return;
        }
        let now = self.now;
        let life = self.known.entry(digest);
        let (born, used) = (life.born.take(), life.used.take());
        if evicted {
            life.evicted = Some(now);
            born.into_iter().for_each(|at| self.stats.lifetime.observe(seconds(now.since(at))));
            used.into_iter().for_each(|at| self.stats.idle_before_evict.observe(seconds(now.since(at))));
        }
    }
}

impl Index {
    /// Follows this share of all chunks from now on, from 0 to 1.
    pub fn follow(&mut self, share: f64) {
        self.lives = ResidencyTracker::new(share);
    }

    /// How long chunks lived, and when they came back.
    pub fn life(&self) -> &ResidencyStats {
        self.lives.stats()
    }
}

/// Whether a hash, which is as good as random, begins with less than `threshold`.
fn begins_below(hash: &ChunkHash, threshold: u64) -> bool {
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)) < threshold
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Chunks, each in the place that its digest names, until another needs it.
#[derive(Debug)]
struct Places(Box<[Digest]>);

impl Default for Places {
    fn default() -> Self {
        // No digest is all zeros but by a chance that statistics can live with.
        Self(vec![0; REMEMBERED].into())
    }
}

impl Places {
    fn place(&mut self, digest: Digest) -> &mut Digest {
        &mut self.0[digest as usize % REMEMBERED]
    }

    fn remember(&mut self, digest: Digest) {
        *self.place(digest) = digest;
    }

    /// Whether it was remembered.
    fn forget(&mut self, digest: Digest) -> bool {
        let place = self.place(digest);
        let known = *place == digest && digest != 0;
        *place = if known { 0 } else { *place };
        known
    }
}

/// The entries touched last, between half of [`REMEMBERED`] and all of it: when the younger half is full,
/// the older one goes.
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
    /// What is known under a digest, from now on at least nothing.
    fn entry(&mut self, digest: Digest) -> &mut V {
        if !self.young.contains_key(&digest) {
            let known = self.old.remove(&digest).unwrap_or_default();
            if self.young.len() >= REMEMBERED / 2 {
                // Values own nothing, so letting them go takes no time that grows with their number.
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(digest, known);
        }
        self.young.get_mut(&digest).expect("it was just seen or made")
    }

    /// What is known under a digest, if anything is.
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

    fn lives() -> ResidencyTracker {
        ResidencyTracker::new(1.0)
    }

    fn at(lives: &mut ResidencyTracker, seconds: u64) -> &mut ResidencyTracker {
        lives.advance(Time::from_millis(seconds * 1000));
        lives
    }

    fn seen<const N: usize>(histogram: &Histogram<N>) -> (u64, f64) {
        (histogram.count(), histogram.sum())
    }

    #[test]
    fn a_life_is_told_at_its_end() {
        let mut lives = lives();
        at(&mut lives, 10).born(&hash(1), 1);
        at(&mut lives, 12).used(&hash(1), || 1);
        at(&mut lives, 20).used(&hash(1), || 1);
        assert_eq!(seen(&lives.stats().reuse_gap), (2, 10.0));
        at(&mut lives, 50).left(&hash(1), 1, true);
        assert_eq!(seen(&lives.stats().lifetime), (1, 40.0));
        assert_eq!(seen(&lives.stats().idle_before_evict), (1, 30.0));
        at(&mut lives, 5000).born(&hash(1), 1);
        assert_eq!(seen(&lives.stats().evict_reuse_gap), (1, 300.0), "as at most 300 s");
        assert_eq!(lives.stats().premature_evictions, 1);
        at(&mut lives, 5001).left(&hash(1), 1, false);
        at(&mut lives, 5002).born(&hash(1), 1);
        assert_eq!(seen(&lives.stats().lifetime), (1, 40.0), "it was not evicted");
        assert_eq!(lives.stats().premature_evictions, 1);
    }

    #[test]
    fn what_went_with_its_last_reader_and_comes_back_was_read_again() {
        let mut lives = ResidencyTracker::new(0.0);
        lives.born(&hash(1), 1);
        lives.passed(1);
        lives.left(&hash(1), 1, false);
        lives.born(&hash(2), 2);
        assert_eq!(lives.stats().rereads, 0, "that is another");
        lives.born(&hash(1), 1);
        assert_eq!((lives.stats().rereads, lives.stats().premature_evictions), (1, 0));
        lives.left(&hash(1), 1, false);
        lives.born(&hash(1), 1);
        assert_eq!(lives.stats().rereads, 1, "it was removed, not dropped");
    }

    #[test]
    fn requests_are_apart_by_time_and_by_chunks() {
        let (mut lives, salt): (_, Arc<str>) = (lives(), "s".into());
        let first = |hash: &ChunkHash| u64::from(hash.as_bytes()[0]);
        at(&mut lives, 1).asked(&salt, &[hash(1), hash(2)], first);
        at(&mut lives, 8).asked(&"other".into(), &[hash(3)], first);
        at(&mut lives, 9).asked(&salt, &[hash(2), hash(4)], first);
        let gaps = *lives.stats().request_gaps.named().find(|(name, _)| **name == salt).expect("a gap").1;
        assert_eq!((seen(&gaps.seconds), seen(&gaps.chunks)), ((1, 8.0), (1, 2.0)));
    }

    #[test]
    fn a_share_is_followed_and_every_premature_eviction_counted() {
        let mut lives = ResidencyTracker::new(0.5);
        for n in [0, 100, 200, 255] {
            let digest = u64::from(n) + 1;
            lives.born(&hash(n), digest);
            lives.left(&hash(n), digest, true);
            lives.born(&hash(n), digest);
        }
        assert_eq!((lives.stats().lifetime.count(), lives.stats().premature_evictions), (2, 4));
        let mut none = ResidencyTracker::new(0.0);
        none.born(&hash(0), 0);
        none.left(&hash(0), 0, true);
        assert_eq!(none.stats().lifetime.count(), 0);
    }

    #[test]
    fn memory_is_bounded_and_the_longest_untouched_goes_first() {
        let mut remembered = Remembered::<u64>::default();
        for n in 0..3 * REMEMBERED as u64 {
            *remembered.entry(n) = n;
            *remembered.entry(0) += 1;
            assert!(remembered.young.len() + remembered.old.len() <= REMEMBERED);
        }
        let last = 3 * REMEMBERED as u64 - 1;
        assert_eq!((remembered.get(last), remembered.get(1)), (Some(last), None));
        assert_eq!(remembered.get(0), Some(last + 1), "always touched, never forgotten");
    }

    #[test]
    fn an_eviction_is_remembered_until_another_takes_its_place() {
        let mut evicted = Places::default();
        let rival = 7 + REMEMBERED as u64;
        evicted.remember(7);
        assert!(!evicted.forget(rival) && evicted.forget(7), "a rival that comes disturbs nothing");
        assert!(!evicted.forget(7), "it has come back");
        evicted.remember(7);
        evicted.remember(rival);
        assert!(!evicted.forget(7) && evicted.forget(rival));
    }

    #[test]
    fn observations_fall_under_the_first_bound_that_holds_them() {
        let mut histogram = Histogram::new(&RESIDENCY_BOUNDS);
        for value in [0.5, 1.0, 1.5, 20_000.0] {
            histogram.observe(value);
        }
        let cumulative: Vec<(f64, u64)> = histogram.cumulative().collect();
        assert_eq!((cumulative[0], cumulative[1], cumulative[12]), ((1.0, 2), (5.0, 3), (14_400.0, 3)));
        assert_eq!(seen(&histogram), (4, 20_003.0));
    }
}
