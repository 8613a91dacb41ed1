//! Rates from the counters of successive overviews.

use std::collections::VecDeque;

use larder_server::overview::{L2Adapter, L2Traffic, Overview};

/// Rates are averages over this time.
const RATE_SECONDS: f64 = 60.0;

/// Overviews kept for rates, however short the interval is.
const OVERVIEWS_MAX: usize = 600;

/// Samples kept for curves: more than a wide terminal has columns.
const SAMPLES_MAX: usize = 400;

/// The latest overviews of a server, and samples for curves.
#[derive(Debug, Default)]
pub(super) struct Rates {
    overviews: VecDeque<Overview>,
    samples: VecDeque<Sample>,
}

/// The rates between two successive overviews.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Fraction of the requested tokens that was found; `None` without requests.
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

/// Fractions of the requested tokens that were found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HitRate {
    pub(super) l1: f64,
    pub(super) l2: f64,
}

impl HitRate {
    pub(super) fn total(self) -> f64 {
        self.l1 + self.l2
    }
}

/// The difference between two overviews of one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval<'a> {
    first: &'a Overview,
    last: &'a Overview,
}

/// One operation within an interval.
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
    /// Adds the next overview.
    pub(super) fn add(&mut self, overview: Overview) {
        if let Some(last) = self.overviews.back()
            && (last.instance_id != overview.instance_id || last.uptime_seconds >= overview.uptime_seconds)
        {
            // Another server, or a restarted one: its counters start at 0.
            self.overviews.clear();
        }
        if let Some(last) = self.overviews.back() {
            let interval = Interval { first: last, last: &overview };
            let hit_rate = interval.hit_rate().map(HitRate::total);
            self.samples.push_front(Sample { hit_rate, traffic: interval.traffic() });
            self.samples.truncate(SAMPLES_MAX);
        }
        let start = overview.uptime_seconds - RATE_SECONDS;
        self.overviews.push_back(overview);
        while self.overviews.len() > OVERVIEWS_MAX
            || self.overviews.get(1).is_some_and(|a| a.uptime_seconds <= start)
        {
            self.overviews.pop_front();
        }
    }

    /// The latest overview.
    pub(super) fn last(&self) -> Option<&Overview> {
        self.overviews.back()
    }

    /// The last minute, or the part of it that is known; `None` before the second overview.
    pub(super) fn recent(&self) -> Option<Interval<'_>> {
        let (first, last) = (self.overviews.front()?, self.overviews.back()?);
        (self.overviews.len() > 1).then_some(Interval { first, last })
    }

    /// The samples, the newest first.
    pub(super) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter()
    }
}

impl<'a> Interval<'a> {
    pub(super) fn seconds(self) -> f64 {
        (self.last.uptime_seconds - self.first.uptime_seconds).max(1e-3)
    }

    /// The increase of a counter.
    pub(super) fn increase(self, read: impl Fn(&Overview) -> u64) -> u64 {
        read(self.last).saturating_sub(read(self.first))
    }

    fn per_second(self, read: impl Fn(&Overview) -> u64) -> f64 {
        self.increase(read) as f64 / self.seconds()
    }

    /// `None` without lookups.
    pub(super) fn hit_rate(self) -> Option<HitRate> {
        let requested = self.increase(|o| o.lookups.requested_tokens);
        let part = |read: fn(&Overview) -> u64| self.increase(read) as f64 / requested as f64;
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

    /// Mean seconds of an L2 batch in one direction; `None` without batches.
    pub(super) fn l2_batch_seconds(self, traffic: fn(&L2Adapter) -> &L2Traffic) -> Option<f64> {
        let sum = |o: &Overview| {
            o.l2.adapters.iter().map(traffic).fold((0, 0.0), |(batches, seconds), traffic| {
                (batches + traffic.batches, seconds + traffic.seconds)
            })
        };
        let (before, after) = (sum(self.first), sum(self.last));
        let batches = after.0.saturating_sub(before.0);
        (batches > 0).then(|| (after.1 - before.1) / batches as f64)
    }

    /// Operations, the most frequent first.
    pub(super) fn operations(self) -> Vec<Operation<'a>> {
        let bounds = &self.last.bucket_bounds_seconds;
        let operation = |now: &'a larder_server::overview::Operation| {
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
        let mut operations: Vec<Operation<'_>> = self.last.operations.iter().filter_map(operation).collect();
        operations.sort_by(|a, b| b.per_second.total_cmp(&a.per_second).then_with(|| a.name.cmp(b.name)));
        operations
    }
}

/// The quantile `q` of a histogram, in seconds; `None` if it is empty. Assumes a uniform distribution within a bucket; the
/// last bucket counts as its lower bound.
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
    fn rates_are_of_the_last_minute() {
        let mut rates = Rates::default();
        rates.add(overview(10.0, 1_000, 1_000, 0));
        assert!(rates.recent().is_none());
        for (time, requested) in [(40.0, 2_000), (70.0, 3_000), (100.0, 4_000)] {
            rates.add(overview(time, requested, 1_000, requested / 4));
        }
        let recent = rates.recent().expect("several overviews");
        assert_eq!((recent.seconds(), recent.increase(|o| o.lookups.requested_tokens)), (60.0, 2_000));
        assert_eq!(recent.hit_rate(), Some(HitRate { l1: 0.0, l2: 0.25 }));
        assert_eq!(rates.samples().count(), 3);
    }

    #[test]
    fn restart_clears_overviews() {
        let mut rates = Rates::default();
        rates.add(overview(10.0, 1_000, 1_000, 0));
        rates.add(overview(1.0, 10, 0, 0));
        assert!(rates.recent().is_none() && rates.samples().count() == 0);
        rates.add(overview(2.0, 20, 5, 0));
        let recent = rates.recent().expect("two overviews since the restart");
        assert_eq!(recent.hit_rate().map(HitRate::total), Some(0.5));
    }

    #[test]
    fn quantile_is_within_its_bucket() {
        let bounds = [1.0, 2.0, 4.0];
        assert_eq!(quantile(0.5, &[0, 0, 0, 0], &bounds), None);
        assert_eq!(quantile(0.5, &[2, 0, 0, 0], &bounds), Some(0.5));
        assert_eq!(quantile(0.5, &[1, 0, 2, 1], &bounds), Some(3.0));
        assert_eq!(quantile(0.99, &[1, 0, 2, 1], &bounds), Some(4.0), "beyond the last bound");
    }
}
