//! How long requests take, by operation and outcome.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::observe::event::Outcome;
use larder_core::stats::residency::Histogram;
use larder_wire::operation::Operation;

use super::family::{Collect, Families, owned};

/// Operations whose series exist before their first request.
const EVERYDAY: [Operation; 10] = [
    Operation::Lookup,
    Operation::QueryPrefetchStatus,
    Operation::FreeLookupLocks,
    Operation::EndSession,
    Operation::PrepareStore,
    Operation::CommitStore,
    Operation::PrepareRetrieve,
    Operation::CommitRetrieve,
    Operation::RegisterEngineDriven,
    Operation::Ping,
];

/// Upper bounds of request durations, in seconds.
pub const DURATION_BUCKETS: [f64; 15] =
    [10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.5, 2.0];

/// The buckets of [`DURATION_BUCKETS`], and one for longer durations.
const BUCKETS: usize = DURATION_BUCKETS.len() + 1;

impl Outcome {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Ok, "ok"), (Self::Failed, "failed"), (Self::Undecodable, "undecodable")];
}

type Durations = Histogram<{ DURATION_BUCKETS.len() }>;

/// Durations of all requests since the start.
#[derive(Debug)]
pub(super) struct Requests(Vec<Mutex<[Durations; Outcome::ALL.len()]>>);

/// Durations of the requests of one operation since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Requests by the bucket of [`DURATION_BUCKETS`] that they fall into, not cumulative. The last bucket is for
    /// requests longer than all bounds.
    pub buckets: [u64; BUCKETS],
    /// Requests that failed.
    pub failed: u64,
}

impl Default for Requests {
    fn default() -> Self {
        let empty = || Mutex::new([Durations::new(&DURATION_BUCKETS); Outcome::ALL.len()]);
        Self(Operation::ALL.iter().map(|_| empty()).collect())
    }
}

impl Requests {
    pub(super) fn count(&self, operation: Operation, outcome: Outcome, time: Duration) {
        let mut durations = self.0[operation as usize].lock().unwrap_or_else(PoisonError::into_inner);
        durations[outcome as usize].observe(time.as_secs_f64());
    }

    /// The latencies of each operation that was requested.
    pub(super) fn latencies(&self) -> impl Iterator<Item = (Operation, Latency)> {
        let all = Operation::ALL.iter().map(|operation| (*operation, Latency::of(&self.of(*operation))));
        all.filter(|(_, latency)| latency.buckets.iter().any(|count| *count > 0))
    }

    fn of(&self, operation: Operation) -> [Durations; Outcome::ALL.len()] {
        *self.0[operation as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latency {
    fn of(durations: &[Durations]) -> Self {
        let mut buckets = [0; BUCKETS];
        for histogram in durations {
            let up_to = histogram.cumulative().map(|(_, count)| count).chain([histogram.count()]);
            let mut below = 0;
            for (bucket, up_to) in buckets.iter_mut().zip(up_to) {
                *bucket += up_to - std::mem::replace(&mut below, up_to);
            }
        }
        Self { buckets, failed: durations[1..].iter().map(Histogram::count).sum() }
    }
}

impl Collect for Requests {
    fn collect(&self, out: &mut Families) {
        let mut series = Vec::new();
        for operation in Operation::ALL {
            for ((outcome, name), histogram) in Outcome::ALL.into_iter().zip(&self.of(*operation)) {
                if histogram.count() > 0 || outcome == Outcome::Ok && EVERYDAY.contains(operation) {
                    let labels = owned(&[("operation", operation.name()), ("outcome", name)]);
                    series.push((labels, histogram.into()));
                }
            }
        }
        let help = "Time from a request's arrival to its answer";
        out.histograms("lmcache_mp_request_duration_seconds", help, series);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_counted_in_the_bucket_of_its_duration() {
        let requests = Requests::default();
        for time in [Duration::ZERO, Duration::from_micros(10), Duration::from_micros(11), Duration::MAX] {
            requests.count(Operation::Lookup, Outcome::Ok, time);
        }
        requests.count(Operation::Lookup, Outcome::Failed, Duration::from_secs(2));
        let read: Vec<(Operation, Latency)> = requests.latencies().collect();
        let [(Operation::Lookup, latency)] = &read[..] else { panic!("{read:?}") };
        assert_eq!((latency.failed, latency.buckets[0], latency.buckets[1]), (1, 2, 1));
        assert_eq!(latency.buckets[BUCKETS - 2..], [1, 1]);
    }
}
