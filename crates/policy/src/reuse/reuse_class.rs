//! Classes of chunks that are expected to behave alike: by how often a chunk was used, and at what interval.
//!
//! The reuse interval of a chunk is the mean of the times between its uses, on a logarithmic scale, as these spread
//! over many orders of magnitude; the last ones count most ([`NEWEST`]).

use std::ops::Range;

/// Number of classes.
pub(super) const CLASSES: usize = USED_AGAIN + 4 * INTERVALS;
/// The first class of chunks that were used more than once.
const USED_AGAIN: usize = 24;
/// Intervals of those: octaves of the mean, from one tick on.
const INTERVALS: usize = 16;
/// Steps of a [`ReuseInterval`] per octave.
const STEPS: u32 = 8;
/// Weight of the last of many intervals.
const NEWEST: f32 = 0.35;
/// A chunk with this many uses begins many prompts, and says nothing about the chunks that follow.
const SHARED_USES: u8 = 9;

/// A class of chunks that are expected to behave alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReuseClass(pub(super) u8);

/// A mean time between uses, on a logarithmic scale: 0 for none, then an octave for every [`STEPS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReuseInterval(u8);

impl ReuseInterval {
    /// The interval of one reuse after `ticks`.
    pub(super) fn of(ticks: u32) -> Self {
        let Some(octave) = ticks.checked_ilog2() else { return Self(0) };
        let part = (u64::from(ticks) * u64::from(STEPS)) >> octave;
        Self((octave * STEPS + part as u32).min(u32::from(u8::MAX)) as u8)
    }

    /// The mean after `uses` uses and another one `ticks` later.
    pub(super) fn then(self, uses: u8, ticks: u32) -> Self {
        let (so_far, new) = (f32::from(self.0), f32::from(Self::of(ticks).0));
        let weight = f32::from(uses.max(1)).recip().max(NEWEST);
        Self((so_far + weight * (new - so_far)).round() as u8)
    }

    /// The octave, from one tick on.
    fn octave(self) -> u8 {
        self.0.saturating_sub(STEPS as u8) / STEPS as u8
    }
}

impl ReuseClass {
    /// The class of `new` chunks that a request adds. `before`: uses and interval of the chunk before them, if any.
    pub(super) fn new(before: Option<(u8, ReuseInterval)>, new: usize) -> Self {
        let size = (usize::BITS - new.leading_zeros()).div_ceil(2).min(4) as u8;
        Self(match before {
            Some((uses, interval)) if uses < SHARED_USES => {
                8 + (interval.octave() / 2).min(7) + if new > 4 { 8 } else { 0 }
            }
            Some(_) => 4 + size - 1,
            None => size - 1,
        })
    }

    /// The class of a chunk that was used `uses` times at that interval.
    pub(super) fn used_again(uses: u8, interval: ReuseInterval) -> Self {
        let often = match uses {
            ..=2 => 0,
            3..=4 => 1,
            5..=8 => 2,
            _ => 3,
        };
        let interval = usize::from(interval.octave()).min(INTERVALS - 1);
        Self((USED_AGAIN + often * INTERVALS + interval) as u8)
    }

    /// Every class.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..CLASSES as u8).map(Self)
    }

    /// The class and those with the next shorter and longer interval; of chunks used once, only the class.
    pub(super) fn kin(self) -> Range<usize> {
        let class = usize::from(self.0);
        let Some(nth) = class.checked_sub(USED_AGAIN) else { return class..class + 1 };
        let first = class - nth % INTERVALS;
        class.saturating_sub(1).max(first)..(class + 2).min(first + INTERVALS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_grows_with_ticks_by_eight_steps_an_octave() {
        let intervals: Vec<u8> =
            [0, 1, 2, 3, 4, 6, 8, 1 << 20, u32::MAX].map(|ticks| ReuseInterval::of(ticks).0).into();
        assert_eq!(intervals, [0, 8, 16, 20, 24, 28, 32, 168, u8::MAX]);
        assert!((0..100_000).is_sorted_by_key(ReuseInterval::of));
    }

    #[test]
    fn interval_is_a_mean_at_first_and_follows_the_last_ones_later() {
        let first = ReuseInterval::default().then(1, 64);
        assert_eq!(first, ReuseInterval::of(64));
        assert_eq!(first.then(2, 4), ReuseInterval::of(16), "the mean of the two logarithms");
        let settled = (3..40).fold(first, |interval, uses| interval.then(uses, 64));
        assert_eq!(settled, first);
        let once = settled.then(40, 1024);
        let many = (40..60).fold(settled, |interval, uses| interval.then(uses, 1024));
        assert!(settled < once && once < ReuseInterval::of(256), "one interval counts little");
        assert_eq!(many.octave(), 10 - 1, "many count fully, up to rounding");
    }

    #[test]
    fn kin_is_next_in_interval_and_used_as_often() {
        let mut seen = 0;
        for class in ReuseClass::all() {
            let (class_number, kin) = (usize::from(class.0), class.kin());
            assert!(kin.contains(&class_number) && kin.end <= CLASSES);
            if class_number < USED_AGAIN {
                assert_eq!(kin.len(), 1);
                continue;
            }
            seen += 1;
            let often = |n: usize| (n - USED_AGAIN) / INTERVALS;
            assert!(kin.clone().all(|n| often(n) == often(class_number) && n.abs_diff(class_number) < 2));
            let at_an_end = matches!((class_number - USED_AGAIN) % INTERVALS, 0 | 15);
            assert_eq!(kin.len(), if at_an_end { 2 } else { 3 });
        }
        assert_eq!(seen, 4 * INTERVALS);
    }

    #[test]
    fn every_history_has_a_class() {
        for uses in 0..=u8::MAX {
            for ticks in (0..32).map(|n| 1 << n).chain([0, u32::MAX]) {
                let interval = ReuseInterval::of(ticks);
                assert!(usize::from(ReuseClass::used_again(uses, interval).0) < CLASSES);
                for new in [1, 2, 4, 5, 16, 64, 100_000] {
                    assert!(usize::from(ReuseClass::new(Some((uses, interval)), new).0) < USED_AGAIN);
                    assert!(ReuseClass::new(None, new).0 < 4);
                }
            }
        }
    }
}
