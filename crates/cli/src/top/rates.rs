//! From counters that only grow to what happens now.

use std::collections::VecDeque;

use larder_server::overview::{L2Adapter, L2Traffic, Overview};

/// The time that rates are of.
const RECENT_SECONDS: f64 = 60.0;

/// Answers that are kept for that, however short the interval is.
const ANSWERS_MAX: usize = 600;

/// Moments that are kept for curves: more than a wide terminal has columns.
const MOMENTS_MAX: usize = 400;

/// What a server told, and what that makes.
#[derive(Debug, Default)]
pub(super) struct Rates {
    answers: VecDeque<Overview>,
    moments: VecDeque<Moment>,
}

/// What happened from one answer to the next, as curves show it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Moment {
    /// Part of the tokens asked for that was found; none if nobody asked.
    pub(super) hit_rate: Option<f64>,
    /// Bytes per second, as in [`Traffic`].
    pub(super) traffic: Traffic,
}

/// Bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Traffic {
    pub(super) retrieved: f64,
    pub(super) stored: f64,
    pub(super) l2_read: f64,
    pub(super) l2_written: f64,
    pub(super) evicted: f64,
}

/// The parts of the tokens asked for that were found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HitRate {
    pub(super) l1: f64,
    pub(super) l2: f64,
}

impl HitRate {
    pub(super) fn all(self) -> f64 {
        self.l1 + self.l2
    }
}

/// What lies between two answers of one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Between<'a> {
    first: &'a Overview,
    last: &'a Overview,
}

/// One operation in that time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Operation<'a> {
    pub(super) name: &'a str,
    pub(super) per_second: f64,
    /// In seconds.
    pub(super) median: f64,
    /// In seconds.
    pub(super) p99: f64,
    pub(super) failed: u64,
}

impl Rates {
    /// Takes the next answer.
    pub(super) fn add(&mut self, overview: Overview) {
        if let Some(last) = self.answers.back()
            && (last.instance_id != overview.instance_id || last.uptime_seconds >= overview.uptime_seconds)
        {
            // Another server, or the same one anew, has begun to count at 0.
            self.answers.clear();
        }
        if let Some(last) = self.answers.back() {
            let between = Between { first: last, last: &overview };
            let hit_rate = between.hit_rate().map(HitRate::all);
            self.moments.push_front(Moment { hit_rate, traffic: between.traffic() });
            self.moments.truncate(MOMENTS_MAX);
        }
        let begin = overview.uptime_seconds - RECENT_SECONDS;
        self.answers.push_back(overview);
        while self.answers.len() > ANSWERS_MAX
            || self.answers.get(1).is_some_and(|a| a.uptime_seconds <= begin)
        {
            self.answers.pop_front();
        }
    }

    /// The last answer.
    pub(super) fn last(&self) -> Option<&Overview> {
        self.answers.back()
    }

    /// The last minute, or as much of it as was seen; none before the second answer.
    pub(super) fn recent(&self) -> Option<Between<'_>> {
        let (first, last) = (self.answers.front()?, self.answers.back()?);
        (self.answers.len() > 1).then_some(Between { first, last })
    }

    /// Curves, the newest moment first.
    pub(super) fn moments(&self) -> impl Iterator<Item = &Moment> {
        self.moments.iter()
    }
}

impl<'a> Between<'a> {
    pub(super) fn seconds(self) -> f64 {
        (self.last.uptime_seconds - self.first.uptime_seconds).max(1e-3)
    }

    /// How much a counter has gained.
    pub(super) fn gained(self, read: impl Fn(&Overview) -> u64) -> u64 {
        read(self.last).saturating_sub(read(self.first))
    }

    fn per_second(self, read: impl Fn(&Overview) -> u64) -> f64 {
        self.gained(read) as f64 / self.seconds()
    }

    /// None if nobody looked anything up.
    pub(super) fn hit_rate(self) -> Option<HitRate> {
        let requested = self.gained(|o| o.lookups.requested_tokens);
        let part = |read: fn(&Overview) -> u64| self.gained(read) as f64 / requested as f64;
        let rate =
            || HitRate { l1: part(|o| o.lookups.hit_l1_tokens), l2: part(|o| o.lookups.hit_l2_tokens) };
        (requested > 0).then(rate)
    }

    pub(super) fn traffic(self) -> Traffic {
        let l2 = |read: fn(&L2Adapter) -> u64| self.per_second(|o| o.l2.adapters.iter().map(read).sum());
        Traffic {
            retrieved: self.per_second(|o| o.retrieves.bytes),
            stored: self.per_second(|o| o.stores.bytes),
            l2_read: l2(|a| a.loads.bytes),
            l2_written: l2(|a| a.stores.bytes),
            evicted: self.per_second(|o| o.l1.evicted_bytes),
        }
    }

    /// How many seconds L2 took for a batch in the mean, in one direction; none without a batch.
    pub(super) fn l2_seconds(self, way: fn(&L2Adapter) -> &L2Traffic) -> Option<f64> {
        let sum = |o: &Overview| {
            let ways = o.l2.adapters.iter().map(way);
            ways.fold((0, 0.0), |(batches, seconds), way| (batches + way.batches, seconds + way.seconds))
        };
        let (before, after) = (sum(self.first), sum(self.last));
        let batches = after.0.saturating_sub(before.0);
        (batches > 0).then(|| (after.1 - before.1) / batches as f64)
    }

    /// What was asked for, the most frequent first.
    pub(super) fn operations(self) -> Vec<Operation<'a>> {
        let bounds = &self.last.bucket_bounds_seconds;
        let of = |now: &'a larder_server::overview::Operation| {
            let before = self.first.operations.iter().find(|o| o.name == now.name);
            let old = |i: usize| before.and_then(|o| o.buckets.get(i)).copied().unwrap_or(0);
            let buckets: Vec<u64> =
                now.buckets.iter().enumerate().map(|(i, count)| count.saturating_sub(old(i))).collect();
            Some(Operation {
                name: &now.name,
                per_second: buckets.iter().sum::<u64>() as f64 / self.seconds(),
                median: quantile(0.5, &buckets, bounds)?,
                p99: quantile(0.99, &buckets, bounds)?,
                failed: now.failed.saturating_sub(before.map_or(0, |o| o.failed)),
            })
        };
        let mut operations: Vec<Operation<'_>> = self.last.operations.iter().filter_map(of).collect();
        operations.sort_by(|a, b| b.per_second.total_cmp(&a.per_second).then_with(|| a.name.cmp(b.name)));
        operations
    }
}

/// The time that a part `q` of requests kept; none without requests. Within a bucket, requests are taken to
/// lie evenly. Beyond the last bound nothing is known but that bound.
fn quantile(q: f64, buckets: &[u64], bounds: &[f64]) -> Option<f64> {
    let wanted = q * buckets.iter().sum::<u64>() as f64;
    let mut below = 0.0;
    for (i, &count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = count as f64;
        if below + count >= wanted {
            let from = if i == 0 { 0.0 } else { *bounds.get(i - 1)? };
            let to = bounds.get(i).copied().unwrap_or(from);
            return Some(from + (to - from) * (wanted - below) / count);
        }
        below += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview(uptime_seconds: f64, requested: u64, l1: u64, l2: u64) -> Overview {
        let mut overview = Overview { uptime_seconds, ..Overview::default() };
        overview.lookups.requested_tokens = requested;
        overview.lookups.hit_l1_tokens = l1;
        overview.lookups.hit_l2_tokens = l2;
        overview
    }

    #[test]
    fn a_rate_is_of_the_last_minute() {
        let mut rates = Rates::default();
        rates.add(overview(10.0, 1_000, 1_000, 0));
        assert!(rates.recent().is_none());
        for (time, requested) in [(40.0, 2_000), (70.0, 3_000), (100.0, 4_000)] {
            rates.add(overview(time, requested, 1_000, requested / 4));
        }
        let recent = rates.recent().expect("several answers");
        assert_eq!((recent.seconds(), recent.gained(|o| o.lookups.requested_tokens)), (60.0, 2_000));
        assert_eq!(recent.hit_rate(), Some(HitRate { l1: 0.0, l2: 0.25 }));
        assert_eq!(rates.moments().count(), 3);
    }

    #[test]
    fn a_restart_is_not_a_fall() {
        let mut rates = Rates::default();
        rates.add(overview(10.0, 1_000, 1_000, 0));
        rates.add(overview(1.0, 10, 0, 0));
        assert!(rates.recent().is_none() && rates.moments().count() == 0);
        rates.add(overview(2.0, 20, 5, 0));
        let recent = rates.recent().expect("two answers since");
        assert_eq!(recent.hit_rate().map(HitRate::all), Some(0.5));
    }

    #[test]
    fn a_quantile_lies_in_its_bucket() {
        let bounds = [1.0, 2.0, 4.0];
        assert_eq!(quantile(0.5, &[0, 0, 0, 0], &bounds), None);
        assert_eq!(quantile(0.5, &[2, 0, 0, 0], &bounds), Some(0.5));
        assert_eq!(quantile(0.5, &[1, 0, 2, 1], &bounds), Some(3.0));
        assert_eq!(quantile(0.99, &[1, 0, 2, 1], &bounds), Some(4.0), "beyond the last bound");
    }
}
