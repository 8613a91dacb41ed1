//! How long requests took, in a form that can be read back: the registry's histograms can only be scraped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_wire::operation::Operation;

use super::{DURATION_BUCKETS, Outcome};

/// The buckets of [`DURATION_BUCKETS`], and one for what took longer.
const BUCKETS: usize = DURATION_BUCKETS.len() + 1;

/// Counts by operation.
#[derive(Debug)]
pub(super) struct Latencies(Vec<Counts>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; BUCKETS],
    failed: AtomicU64,
}

/// The requests of one operation since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many took at most as long as each of [`DURATION_BUCKETS`] and longer than the one before; the
    /// last is for those that took longer than all of them.
    pub buckets: [u64; BUCKETS],
    /// How many of all failed.
    pub failed: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self(Operation::ALL.iter().map(|_| Counts::default()).collect())
    }
}

impl Latencies {
    pub(super) fn count(&self, operation: Operation, outcome: Outcome, time: Duration) {
        let counts = &self.0[operation as usize];
        let seconds = time.as_secs_f64();
        let bucket = DURATION_BUCKETS.partition_point(|bound| *bound < seconds);
        counts.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        if outcome != Outcome::Ok {
            counts.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> impl Iterator<Item = (Operation, Latency)> {
        let read = |counts: &Counts| Latency {
            buckets: std::array::from_fn(|i| counts.buckets[i].load(Ordering::Relaxed)),
            failed: counts.failed.load(Ordering::Relaxed),
        };
        let all =
            Operation::ALL.iter().map(move |operation| (*operation, read(&self.0[*operation as usize])));
        all.filter(|(_, latency)| latency.buckets.iter().any(|count| *count > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_at_the_first_bound_that_it_keeps() {
        let latencies = Latencies::default();
        let times = [Duration::ZERO, Duration::from_micros(10), Duration::from_micros(11), Duration::MAX];
        for time in times {
            latencies.count(Operation::Lookup, Outcome::Ok, time);
        }
        latencies.count(Operation::Lookup, Outcome::Failed, Duration::from_secs(2));
        let read: Vec<(Operation, Latency)> = latencies.read().collect();
        let [(Operation::Lookup, latency)] = &read[..] else { panic!("{read:?}") };
        assert_eq!((latency.failed, latency.buckets[0], latency.buckets[1]), (1, 2, 1));
        assert_eq!(latency.buckets[BUCKETS - 2..], [1, 1]);
    }
}
