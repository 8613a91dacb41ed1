//! At what age chunks are used again: a histogram for each class, and what follows from it.
//!
//! Every request makes a *cohort*: how many chunks of each class it was the last to use. Chunks are removed from their
//! cohort when they are used again, which is one event of their class at that age. Cohorts that get older pass from one
//! age to the next, which exposes all chunks that are left to that age. Events over exposures are the hazard of an
//! age: the chance that a chunk that has reached it is used again before it gets older. Chunks are followed whether they
//! are in L1 or not, so the histogram does not depend on evictions.
//!
//! The chunks of a prompt mostly are used again together or not at all, so a hundred of them say hardly more about their
//! class than one. But a mean over chunks is wanted, and long prompts have most of them. As a compromise, the `n` chunks
//! of one class in one request together weigh as much as the root of `n`.
//!
//! The *worth* of a chunk is the best rate at which keeping it can pay: over all horizons, the chance that it is used
//! again within the horizon, by the expected time until then. This is the Gittins index of the chunk (J. Gittins,
//! "Bandit processes and dynamic allocation indices", 1979); with the horizon at the time of eviction it is the hit
//! density of N. Beckmann, H. Chen and A. Cidon, "LHD: Improving cache hit rate by maximizing hit density" (NSDI 2018).
//!
//! Cost: for each request O(classes in it + [`AGES`]), amortised, and a refresh of all worths every
//! [`REFRESH_REQUESTS`]: some 200 µs. Memory: 75 KiB, and about 70 bytes for each of the [`COHORTS_MAX`] requests.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::reuse_class::{CLASSES, ReuseClass};

/// Ages are counted by powers of two: 0, 1, 2 to 3, 4 to 7 ticks and so on.
pub(super) const AGES: usize = 24;
/// Pairs of class and age.
pub(super) const PLACES: usize = CLASSES * AGES;
/// Requests whose chunks are followed.
const COHORTS_MAX: usize = 1 << 16;
/// Worths are computed again after this many requests; more often at the start.
const REFRESH_REQUESTS: u64 = 64;
/// After this many requests the past counts [`DECAY`] times as much.
const DECAY_REQUESTS: u64 = 512;
const DECAY: f64 = 0.95;
/// A class is expected to behave like its kin until its own observations weigh more than this, and its kin like all
/// chunks until theirs weigh more than the second.
const KIN_WEIGHT: f64 = 100.0;
const ALL_WEIGHT: f64 = 2.0;

/// Index of a (class, age) pair, or its rank by worth.
pub(super) type Place = u16;

/// All places, the least worth first, and the rank of each.
#[derive(Clone, Debug)]
pub(super) struct Ranks {
    by_rank: Vec<Place>,
    rank: Vec<Place>,
    version: u64,
}

impl Default for Ranks {
    fn default() -> Self {
        let in_order: Vec<Place> = (0..PLACES as Place).collect();
        Self { by_rank: in_order.clone(), rank: in_order, version: 0 }
    }
}

impl Ranks {
    /// Becomes `other`. Returns whether anything changed.
    pub(super) fn update(&mut self, other: &Self) -> bool {
        let changed = self.version != other.version;
        if changed {
            self.clone_from(other);
        }
        changed
    }

    pub(super) fn rank(&self, place: Place) -> Place {
        self.rank[usize::from(place)]
    }

    pub(super) fn place(&self, rank: Place) -> Place {
        self.by_rank[usize::from(rank)]
    }
}

/// Chunks of one class in one request.
#[derive(Debug)]
struct Group {
    class: ReuseClass,
    /// Those that were not used again.
    left: u32,
    /// Weight of each of them.
    weight: f32,
}

impl Group {
    fn new(class: ReuseClass, chunks: u32) -> Self {
        Self { class, left: chunks, weight: (chunks.max(1) as f32).sqrt().recip() }
    }

    /// Weight of those that are left.
    fn weight_left(&self) -> f64 {
        f64::from(self.left) * f64::from(self.weight)
    }
}

/// Chunks that one request was the last to use.
#[derive(Debug)]
struct Cohort {
    tick: u32,
    groups: SmallVec<[Group; 4]>,
}

/// See the [module](self). Ticks wrap: an age of 2^32 ticks looks young again.
#[derive(Debug)]
pub(super) struct AgeHistogram {
    /// By place, weighted.
    events: Vec<f64>,
    exposed: Vec<f64>,
    /// For each age how many chunks were used again at it, and how many reached it.
    totals: [(f64, f64); AGES],
    hazard: Vec<f64>,
    worth: Vec<f64>,
    ranks: Ranks,
    cohorts: VecDeque<Cohort>,
    /// Requests seen; the number of the next cohort.
    requests: u64,
    /// For each age the number of the first cohort that has not reached it.
    reached: [u64; AGES],
}

/// The age class of a time in ticks.
pub(super) const fn age_of(ticks: u32) -> usize {
    let age = (u32::BITS - ticks.leading_zeros()) as usize;
    if age < AGES { age } else { AGES - 1 }
}

/// The first tick of an age.
const fn start_of(age: usize) -> u32 {
    if age == 0 { 0 } else { 1 << (age - 1) }
}

/// How many ticks an age has.
fn width_of(age: usize) -> f64 {
    f64::from(start_of(age).max(1))
}

impl Default for AgeHistogram {
    fn default() -> Self {
        let mut this = Self {
            events: vec![0.0; PLACES],
            exposed: vec![0.0; PLACES],
            totals: [(0.0, 0.0); AGES],
            hazard: vec![0.0; PLACES],
            worth: vec![0.0; PLACES],
            ranks: Ranks::default(),
            cohorts: VecDeque::new(),
            requests: 0,
            reached: [0; AGES],
        };
        this.refresh();
        this
    }
}

impl AgeHistogram {
    /// The number that the cohort of the running request will have.
    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// When a cohort was made. Forgotten cohorts count as just older than the others.
    pub(super) fn tick_of(&self, cohort: u64) -> u32 {
        let first = self.requests - self.cohorts.len() as u64;
        let at = cohort.saturating_sub(first) as usize;
        self.cohorts.get(at).map_or(0, |c| c.tick)
    }

    /// A chunk of `cohort` is used again, `ticks` later.
    pub(super) fn used_again(&mut self, class: ReuseClass, cohort: u64, ticks: u32) {
        let first = self.requests - self.cohorts.len() as u64;
        let Some(at) = cohort.checked_sub(first) else { return };
        let group = self.cohorts[at as usize].groups.iter_mut().find(|group| group.class == class);
        let group = group.expect("every chunk is in its cohort");
        group.left -= 1;
        self.events[place(class, age_of(ticks))] += f64::from(group.weight);
        self.totals[age_of(ticks)].0 += 1.0;
    }

    /// Ends a request that used this many chunks of each class.
    pub(super) fn add_cohort(&mut self, tick: u32, used: SmallVec<[(ReuseClass, u32); 4]>) {
        let groups: SmallVec<[Group; 4]> = used.into_iter().map(|(class, n)| Group::new(class, n)).collect();
        self.cohorts.push_back(Cohort { tick, groups });
        self.requests += 1;
        if self.cohorts.len() > COHORTS_MAX {
            self.cohorts.pop_front();
        }
        self.advance(tick);
        if self.requests.is_multiple_of(DECAY_REQUESTS) {
            let totals = self.totals.iter_mut().flat_map(|(events, exposed)| [events, exposed]);
            self.events.iter_mut().chain(&mut self.exposed).chain(totals).for_each(|n| *n *= DECAY);
        }
        let often = if self.requests < REFRESH_REQUESTS { 8 } else { REFRESH_REQUESTS };
        if self.requests.is_multiple_of(often) {
            self.refresh();
        }
    }

    /// Exposes what is left of each cohort to the ages that it has reached by `now`. Must be called before
    /// [`used_again`](Self::used_again) at that time.
    pub(super) fn advance(&mut self, now: u32) {
        let Self { cohorts, reached, exposed, totals, .. } = self;
        let first = self.requests - cohorts.len() as u64;
        for (age, reached) in reached.iter_mut().enumerate() {
            *reached = first.max(*reached);
            while let Some(cohort) = cohorts.get((*reached - first) as usize)
                && now.wrapping_sub(cohort.tick) >= start_of(age)
            {
                for group in &cohort.groups {
                    exposed[place(group.class, age)] += group.weight_left();
                    totals[age].1 += f64::from(group.left);
                }
                *reached += 1;
            }
        }
    }

    /// Computes hazards, worths and ranks from the counts.
    fn refresh(&mut self) {
        for age in 0..AGES {
            let all = |counts: &[f64]| (0..CLASSES).map(|c| counts[c * AGES + age]).sum::<f64>();
            let (events, exposed) = (all(&self.events), all(&self.exposed));
            let common = (events / (exposed + 1.0)).min(1.0);
            for class in ReuseClass::all() {
                let of_kin = |counts: &[f64]| class.kin().map(|c| counts[c * AGES + age]).sum::<f64>();
                let (events, exposed) = (of_kin(&self.events), of_kin(&self.exposed));
                let kin = (events + ALL_WEIGHT * common) / (exposed + ALL_WEIGHT);
                let p = place(class, age);
                let hazard = (self.events[p] + KIN_WEIGHT * kin) / (self.exposed[p] + KIN_WEIGHT);
                self.hazard[p] = hazard.min(1.0);
            }
        }
        for p in 0..PLACES {
            let hazards = &self.hazard[p..p / AGES * AGES + AGES - 1];
            let (mut left, mut used, mut kept, mut best) = (1.0, 0.0, 0.0, 0.0_f64);
            for (age, hazard) in (p % AGES..).zip(hazards) {
                used += left * hazard;
                kept += left * width_of(age) * (1.0 - hazard / 2.0);
                left *= 1.0 - hazard;
                best = best.max(used / kept);
            }
            self.worth[p] = best;
        }
        let Ranks { by_rank, rank, version } = &mut self.ranks;
        let worth = &self.worth;
        by_rank.sort_by(|a, b| worth[usize::from(*a)].total_cmp(&worth[usize::from(*b)]).then(a.cmp(b)));
        for (n, p) in by_rank.iter().enumerate() {
            rank[usize::from(*p)] = n as Place;
        }
        *version += 1;
    }

    /// All places by worth.
    pub(super) fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// Hits per tick of a chunk that was just used and is kept for `horizon` ticks at most.
    pub(super) fn density(&self, class: ReuseClass, horizon: f64) -> f64 {
        let (mut left, mut used, mut kept) = (1.0, 0.0, 0.0);
        for age in 0..AGES - 1 {
            let time = (horizon - f64::from(start_of(age))).min(width_of(age));
            if time <= 0.0 {
                break;
            }
            let hazard = self.hazard[place(class, age)] * time / width_of(age);
            used += left * hazard;
            kept += left * time * (1.0 - hazard / 2.0);
            left *= 1.0 - hazard;
        }
        if kept > 0.0 { used / kept } else { 0.0 }
    }

    /// The chance that a chunk that was used `ticks` ago is used again.
    pub(super) fn again(&self, class: ReuseClass, ticks: u32) -> f64 {
        let now = age_of(ticks);
        let left = (now..AGES - 1).fold(1.0, |left, age| {
            let passed = if age == now { f64::from(ticks - start_of(age)) / width_of(age) } else { 0.0 };
            left * (1.0 - self.hazard[place(class, age)] * (1.0 - passed))
        });
        1.0 - left
    }

    /// Hits per tick of chunks of an age, over all classes.
    pub(super) fn common_rate(&self, ticks: u32) -> f64 {
        let age = age_of(ticks).min(AGES - 2);
        let all = |counts: &[f64]| (0..CLASSES).map(|c| counts[c * AGES + age]).sum::<f64>();
        all(&self.events) / all(&self.exposed).max(1.0) / width_of(age)
    }

    /// How many chunks were used again at each age, and how many reached it.
    pub(super) fn totals(&self) -> [(f64, f64); AGES] {
        self.totals
    }
}

pub(super) const fn place(class: ReuseClass, age: usize) -> usize {
    class.0 as usize * AGES + age
}
