//! Counts and latencies of the last minutes, for `GET /cache/stats`.
//!
//! Time is divided into steps. A ring of counts, one for each step, covers the longest reported span. The counts of a
//! step are reset when the ring reaches it again, so no timer is needed and memory is fixed. Latencies fall into
//! buckets whose bounds double; a quantile is reported as the upper bound of its bucket.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder_core::Hit;
use serde_json::{Map, Value, json};

/// Length of a step.
const STEP: Duration = Duration::from_secs(15);

/// Names and lengths of the reported spans, in steps. A span also includes the step in progress.
const SPANS: [(&str, u64); 3] = [("1m", 4), ("5m", 20), ("15m", 60)];

/// Steps of the ring: the longest span, and the step in progress.
const STEPS: usize = 61;

/// Latency buckets: the first up to 2^4 microseconds, the last but one up to 2^23 (8.4 s).
const BUCKETS: usize = 21;
const FIRST_BOUND_LOG2: u32 = 4;

/// The reported quantiles.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

/// A transfer that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timed {
    /// A worker copied to L1: from the answer with slots to the commit.
    L1Store,
    /// A worker copied from L1.
    L1Retrieve,
    /// L2 stored a batch.
    L2Store,
    /// L2 loaded a batch.
    L2Load,
}

impl Timed {
    const ALL: [(Self, &str); 4] = [
        (Self::L1Store, "l1_store"),
        (Self::L1Retrieve, "l1_retrieve"),
        (Self::L2Store, "l2_store"),
        (Self::L2Load, "l2_load"),
    ];
}

/// Counts of one step, or of several.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    lookups: u64,
    requested_tokens: u64,
    hit_tokens: u64,
    l2_hit_tokens: u64,
    bytes: [u64; Timed::ALL.len()],
    times: [[u64; BUCKETS]; Timed::ALL.len()],
}

/// The steps of the last 15 minutes.
#[derive(Debug)]
struct Ring {
    /// Counts, each with the number of its step since the start.
    steps: [(u64, Counts); STEPS],
}

/// The counts of the last minutes. No other lock is taken while theirs is held.
#[derive(Debug)]
pub(super) struct Recent {
    started: Instant,
    ring: Mutex<Ring>,
}

impl Default for Recent {
    fn default() -> Self {
        Self { started: Instant::now(), ring: Mutex::default() }
    }
}

impl Recent {
    /// Counts a finished lookup of `requested` chunks.
    pub(super) fn lookup(&self, requested: u64, hit: &Hit, chunk_tokens: u64) {
        self.count(|counts| {
            counts.lookups += 1;
            counts.requested_tokens += requested * chunk_tokens;
            counts.hit_tokens += u64::from(hit.chunks) * chunk_tokens;
            counts.l2_hit_tokens += u64::from(hit.chunks.saturating_sub(hit.l1_chunks)) * chunk_tokens;
        });
    }

    /// Counts a transfer. Its time may be unknown.
    pub(super) fn moved(&self, what: Timed, bytes: u64, time: Option<Duration>) {
        self.count(|counts| {
            counts.bytes[what as usize] += bytes;
            if let Some(time) = time {
                counts.times[what as usize][bucket(time)] += 1;
            }
        });
    }

    /// The counts of each reported span.
    pub(super) fn report(&self) -> Value {
        let now = self.step();
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let spans = SPANS.map(|(name, steps)| (name.to_owned(), ring.sum(now, steps).report()));
        spans.into_iter().collect::<Map<_, _>>().into()
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) {
        let now = self.step();
        count(self.ring.lock().unwrap_or_else(PoisonError::into_inner).step(now));
    }

    fn step(&self) -> u64 {
        self.started.elapsed().as_secs() / STEP.as_secs()
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self { steps: [(0, Counts::default()); STEPS] }
    }
}

impl Ring {
    /// The counts of step `now`.
    fn step(&mut self, now: u64) -> &mut Counts {
        let (step, counts) = &mut self.steps[(now % STEPS as u64) as usize];
        if *step != now {
            (*step, *counts) = (now, Counts::default());
        }
        counts
    }

    /// The sum of step `now` and the `steps` before it.
    fn sum(&self, now: u64, steps: u64) -> Counts {
        let mut sum = Counts::default();
        let within = |step: u64| step <= now && now - step <= steps;
        self.steps.iter().filter(|(step, _)| within(*step)).for_each(|(_, counts)| sum.add(counts));
        sum
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.lookups += other.lookups;
        self.requested_tokens += other.requested_tokens;
        self.hit_tokens += other.hit_tokens;
        self.l2_hit_tokens += other.l2_hit_tokens;
        for (sum, bytes) in self.bytes.iter_mut().zip(other.bytes) {
            *sum += bytes;
        }
        for (sum, count) in self.times.as_flattened_mut().iter_mut().zip(other.times.as_flattened()) {
            *sum += count;
        }
    }

    fn report(&self) -> Value {
        let bytes = |what: Timed| self.bytes[what as usize];
        let latencies = Timed::ALL.into_iter().map(|(what, name)| {
            let times = &self.times[what as usize];
            let mut latency = json!({"count": times.iter().sum::<u64>()});
            for (quantile, fraction) in QUANTILES {
                latency[quantile] = upper_bound(times, fraction).into();
            }
            (name.to_owned(), latency)
        });
        json!({
            "lookups": self.lookups,
            "requested_tokens": self.requested_tokens,
            "hit_tokens": self.hit_tokens,
            "l2_hit_tokens": self.l2_hit_tokens,
            "hit_rate": self.hit_tokens as f64 / (self.requested_tokens as f64).max(1.0),
            "stored_bytes": bytes(Timed::L1Store),
            "retrieved_bytes": bytes(Timed::L1Retrieve),
            "l2_stored_bytes": bytes(Timed::L2Store),
            "l2_loaded_bytes": bytes(Timed::L2Load),
            "latency_seconds": latencies.collect::<Map<_, _>>(),
        })
    }
}

/// Which bucket a time falls into.
fn bucket(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let log2 = micros.checked_ilog2().map_or(0, |log2| log2 + u32::from(!micros.is_power_of_two()));
    (log2.saturating_sub(FIRST_BOUND_LOG2) as usize).min(BUCKETS - 1)
}

/// A time in seconds that at least this share took at most; `None` without times, or beyond the last bound.
fn upper_bound(times: &[u64; BUCKETS], share: f64) -> Option<f64> {
    let wanted = (times.iter().sum::<u64>() as f64 * share).ceil().max(1.0);
    let mut seen = 0;
    let bucket = times.iter().position(|count| {
        seen += count;
        seen as f64 >= wanted
    })?;
    let micros = 1u64 << (FIRST_BOUND_LOG2 + bucket as u32);
    (bucket < BUCKETS - 1).then_some(micros as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_sums_its_steps_only() {
        let mut ring = Ring::default();
        for step in [0, 1, 4, 5, 20, 65] {
            ring.step(step).lookups += 1;
        }
        // Step 65 has replaced step 4.
        let lookups = |now, steps| ring.sum(now, steps).lookups;
        assert_eq!((lookups(5, 4), lookups(20, 20), lookups(65, 60), lookups(200, 60)), (2, 4, 3, 0));
    }

    #[test]
    fn quantile_is_the_upper_bound_of_its_bucket() {
        let mut times = [0; BUCKETS];
        assert_eq!(upper_bound(&times, 0.5), None);
        for micros in [3, 16, 17, 1000, 1_000_000] {
            times[bucket(Duration::from_micros(micros))] += 1;
        }
        assert_eq!(upper_bound(&times, 0.2), Some(16e-6));
        assert_eq!(upper_bound(&times, 0.5), Some(32e-6));
        assert_eq!(upper_bound(&times, 0.8), Some(1024e-6));
        assert_eq!(upper_bound(&times, 0.99), Some(1.048_576));
        times[bucket(Duration::from_secs(3600))] += 1000;
        assert_eq!(upper_bound(&times, 0.99), None, "above the last bound");
    }

    #[test]
    fn reports_counts_of_each_span() {
        let recent = Recent::default();
        recent.lookup(4, &Hit { chunks: 3, l1_chunks: 1, ..Hit::default() }, 16);
        recent.moved(Timed::L2Load, 1000, Some(Duration::from_millis(2)));
        recent.moved(Timed::L2Load, 500, None);
        let report = recent.report();
        for span in ["1m", "5m", "15m"] {
            let span = &report[span];
            assert_eq!((&span["hit_rate"], &span["l2_hit_tokens"]), (&json!(0.75), &json!(32)));
            assert_eq!(span["l2_loaded_bytes"], 1500);
            let p99 = json!({"count": 1, "p50": 0.002048, "p90": 0.002048, "p99": 0.002048});
            assert_eq!(span["latency_seconds"]["l2_load"], p99);
            assert_eq!(span["latency_seconds"]["l1_store"]["p50"], Value::Null);
        }
    }
}
