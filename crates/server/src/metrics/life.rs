//! How long chunks live in L1 and when they come back, as the core has followed them.

use std::sync::Arc;

use larder_core::stats::residency::{Gaps, Histogram, ResidencyStats};

use super::OTHERS;
use super::core_metrics::{Metric, counter, labels};

/// One histogram under one name, with its series.
#[derive(Debug)]
pub(super) struct Distribution {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) series: Vec<Series>,
}

/// One series of a histogram.
#[derive(Debug)]
pub(super) struct Series {
    /// Without braces.
    pub(super) labels: String,
    /// Upper bounds, and the observations up to each.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) sum: f64,
    pub(super) count: u64,
}

impl Series {
    fn new<const N: usize>(labels: String, of: &Histogram<N>) -> Self {
        Self { labels, buckets: of.cumulative().collect(), sum: of.sum(), count: of.count() }
    }
}

pub(super) fn premature_evictions(life: &ResidencyStats, tag: &str) -> Metric {
    counter(
        "lmcache_mp_l1_premature_eviction_chunks_total",
        "Chunks that came back to L1 while their eviction was remembered",
        &labels(&[("l1_tag", tag)]),
        life.premature_evictions,
    )
}

pub(super) fn rereads(life: &ResidencyStats) -> Metric {
    counter(
        "lmcache_mp_l2_reread_chunks_total",
        "Chunks that came back while it was remembered that they were loaded and went with their last reader",
        "",
        life.rereads,
    )
}

pub(super) fn distributions(life: &ResidencyStats, tag: &str) -> Vec<Distribution> {
    let tagged = |name, help, of| Distribution {
        name,
        help,
        series: vec![Series::new(labels(&[("l1_tag", tag)]), of)],
    };
    let gaps = |name, help, read: fn(&Gaps) -> &Histogram<16>| {
        let others: Arc<str> = OTHERS.into();
        let by_salt = life.request_gaps.named().chain([(&others, life.request_gaps.others())]);
        let series = by_salt.map(|(salt, gaps)| Series::new(labels(&[("cache_salt", salt)]), read(gaps)));
        Distribution { name, help, series: series.collect() }
    };
    vec![
        tagged(
            "lmcache_mp_l1_chunk_lifetime_seconds",
            "From a chunk's first reservation in L1 to its eviction, sampled",
            &life.lifetime,
        ),
        tagged(
            "lmcache_mp_l1_chunk_idle_before_evict_seconds",
            "From a chunk's last use in L1 to its eviction, sampled",
            &life.idle_before_evict,
        ),
        tagged(
            "lmcache_mp_l1_chunk_reuse_gap_seconds",
            "Between two uses of a chunk in L1, sampled",
            &life.reuse_gap,
        ),
        tagged(
            "lmcache_mp_l1_chunk_evict_reuse_gap_seconds",
            "From a chunk's eviction to its return to L1, at most 300, sampled",
            &life.evict_reuse_gap,
        ),
        gaps(
            "lmcache_mp_real_reuse_gap_seconds",
            "Between two requests for a chunk, wherever it was, sampled",
            |gaps| &gaps.seconds,
        ),
        gaps(
            "lmcache_mp_real_reuse_gap_objects",
            "The same in chunks asked for between them, sampled",
            |gaps| &gaps.chunks,
        ),
        // LMCache's dashboard asks for it under this name.
        gaps(
            "lmcache_mp_real_reuse_gap_objects_chunks",
            "The same under the name that LMCache's dashboard uses, sampled",
            |gaps| &gaps.chunks,
        ),
    ]
}
