//! An order by worth over chunks with a class and a time of use.
//!
//! There is one list, in order of use, for each class and age: all chunks in it are worth the same. A chunk moves to the
//! list of the next age when it reaches it. A bitmap of the lists that are not empty, by rank, finds the lowest worth in
//! a few words.
//!
//! Chunks that were used at one time are one *batch*: the chunks of a request, its last first. When a chunk of a batch
//! has the lowest worth, the first of the batch is evicted instead: a chunk is of no use to a request that does not find
//! those before it, so it cannot be worth more than they are, whatever was estimated.
//!
//! Every operation is O(1), amortised. Memory: 24 bytes for each number up to the largest, and about 20 for each time
//! of use.

use hashbrown::HashSet;

use super::age_histogram::{AGES, AgeHistogram, PLACES, Place, Ranks, age_of, place};
use super::reuse_class::ReuseClass;
use crate::eviction::digest;
use crate::linear_table::LinearTable;
use crate::lru::{LruLinks, LruList};
use crate::segmented::SegmentedVec;

const WORDS: usize = PLACES.div_ceil(64);

/// A set of places.
#[derive(Clone, Debug)]
struct Places([u64; WORDS]);

impl Places {
    fn set(&mut self, p: Place, on: bool) {
        let (word, bit) = (usize::from(p) / 64, 1 << (p % 64));
        if on { self.0[word] |= bit } else { self.0[word] &= !bit }
    }

    fn iter(&self) -> impl Iterator<Item = Place> + '_ {
        self.0.iter().enumerate().flat_map(|(word, bits)| {
            let rest = |bits: &u64| Some(bits & (bits - 1)).filter(|rest| *rest != 0);
            let all = std::iter::successors(Some(*bits).filter(|bits| *bits != 0), rest);
            all.map(move |bits| (word * 64) as Place + bits.trailing_zeros() as Place)
        })
    }
}

/// The hash of a tick.
fn hash_of(tick: u32) -> u64 {
    digest(0, &tick.to_le_bytes())
}

#[derive(Clone, Copy, Debug, Default)]
struct Member {
    tick: u32,
    place: Place,
}

/// See the module.
#[derive(Debug)]
pub struct WorthOrder {
    links: LruLinks,
    lists: Vec<LruList>,
    members: SegmentedVec<Member>,
    /// Members by tick of their last use, in order of use.
    together: LruLinks,
    batches: LinearTable<(u32, LruList)>,
    /// Places with members, and the same by rank.
    filled: Places,
    ranked: Places,
    /// The ranks at the last update.
    ranks: Ranks,
}

impl Default for WorthOrder {
    fn default() -> Self {
        Self {
            links: LruLinks::default(),
            lists: vec![LruList::default(); PLACES],
            members: SegmentedVec::default(),
            together: LruLinks::default(),
            batches: LinearTable::default(),
            filled: Places([0; WORDS]),
            ranked: Places([0; WORDS]),
            ranks: Ranks::default(),
        }
    }
}

impl WorthOrder {
    /// Whether `n` is in the order.
    pub fn contains(&self, n: u32) -> bool {
        self.links.contains(n)
    }

    /// Inserts `n`, which is not in the order and was used at `now`.
    pub fn insert(&mut self, n: u32, class: ReuseClass, now: u32) {
        self.members.grow_to_hold(n as usize, Member::default());
        let place = place(class, 0) as Place;
        self.members[n as usize] = Member { tick: now, place };
        let hash = hash_of(now);
        if self.batches.find(hash, |(tick, _)| *tick == now).is_none() {
            self.batches.insert_unique(hash, (now, LruList::default()), |(tick, _)| hash_of(*tick));
        }
        let (_, batch) =
            self.batches.find_mut(hash, |(tick, _)| *tick == now).expect("it was just seen or made");
        self.together.push(batch, n);
        self.put(n, place);
    }

    fn put(&mut self, n: u32, place: Place) {
        let list = &mut self.lists[usize::from(place)];
        if list.is_empty() {
            self.filled.set(place, true);
            self.ranked.set(self.ranks.rank(place), true);
        }
        self.links.push(list, n);
    }

    /// Removes a member.
    pub fn remove(&mut self, n: u32) {
        let tick = self.members[n as usize].tick;
        let hash = hash_of(tick);
        let found = self.batches.find_mut(hash, |(of, _)| *of == tick);
        let (_, batch) = found.expect("every member is in its batch");
        self.together.remove(batch, n);
        if batch.is_empty() {
            self.batches.remove(hash, |(of, _)| *of == tick);
        }
        self.take(n);
    }

    /// Removes a member from its list.
    fn take(&mut self, n: u32) {
        let place = self.members[n as usize].place;
        let list = &mut self.lists[usize::from(place)];
        self.links.remove(list, n);
        if list.is_empty() {
            self.filled.set(place, false);
            self.ranked.set(self.ranks.rank(place), false);
        }
    }

    /// Updates ages and ranks.
    pub(super) fn update(&mut self, now: u32, ages: &AgeHistogram) {
        // Older lists first, so that they stay in the order of use.
        let mut filled: Vec<Place> = self.filled.iter().collect();
        filled.reverse();
        for from in filled {
            let age = usize::from(from) % AGES;
            while let Some(n) = self.lists[usize::from(from)].coldest() {
                let is = age_of(now.wrapping_sub(self.members[n as usize].tick));
                if is <= age {
                    break;
                }
                self.take(n);
                let place = from - age as Place + is as Place;
                self.members[n as usize].place = place;
                self.put(n, place);
            }
        }
        if self.ranks.update(ages.ranks()) {
            self.ranked = Places([0; WORDS]);
            let (filled, ranked) = (&self.filled, &mut self.ranked);
            filled.iter().for_each(|p| ranked.set(self.ranks.rank(p), true));
        }
    }

    /// The next victim.
    pub fn worst(&self) -> Option<u32> {
        self.by_worth().next().and_then(|n| self.batch_of(n).next())
    }

    /// All members, the next victim first. AgeHistogram and ranks are those of the last time that the order was
    /// settled.
    pub fn worst_first(&self) -> impl Iterator<Item = u32> + '_ {
        let mut gone = HashSet::new();
        self.by_worth().flat_map(move |n| {
            let mut victims = Vec::new();
            if !gone.contains(&n) {
                let batch = self.batch_of(n).take_while(|first| *first != n).chain([n]);
                victims.extend(batch.filter(|n| gone.insert(*n)));
            }
            victims
        })
    }

    fn by_worth(&self) -> impl Iterator<Item = u32> + '_ {
        let places = self.ranked.iter().map(|rank| self.ranks.place(rank));
        places.flat_map(|place| self.links.iter(&self.lists[usize::from(place)]))
    }

    fn batch_of(&self, n: u32) -> impl Iterator<Item = u32> + '_ {
        let tick = self.members[n as usize].tick;
        let found = self.batches.find(hash_of(tick), |(of, _)| *of == tick);
        self.together.iter(&found.expect("every member is in its batch").1)
    }
}
