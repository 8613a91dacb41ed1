//! Speeds of transfers.

use std::time::Duration;

use larder_core::stats::residency::Histogram;

/// Upper bounds of speeds, in gigabytes per second.
pub(super) const SPEED_BUCKETS: [f64; 12] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0];

pub(super) type SpeedHistogram = Histogram<{ SPEED_BUCKETS.len() }>;

pub(super) fn gigabytes_per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e9 / time.as_secs_f64().max(1e-9)
}
