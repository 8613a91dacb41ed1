//! The storage core's counters and gauges: L1, requests, failures, leases, residency, policies.

use std::sync::Arc;

use larder_core::Core;
use larder_core::stats::residency::{Gaps, Histogram, ResidencyStats};
use larder_core::stats::{AdapterCounters, Counters, L1Counters, L2Counters};
use larder_core::stats::{Labelled, LabelledCounters, ModelCounters, SaltCounters};
use larder_core::{AdapterGauges, Gauges};
use larder_policy::reuse;
use larder_types::Time;

use super::family::{DEVICE, Families, Labels, OTHERS, owned};

/// Everything that a scrape reads from the core, at one moment.
pub(super) struct Snapshot {
    pub(super) adapters: Vec<(AdapterCounters, AdapterGauges)>,
    counters: Counters,
    l1: L1Counters,
    gauges: Gauges,
    tally: LabelledCounters,
    residency: ResidencyStats,
    learned: Option<reuse::Snapshot>,
    chunk_events: usize,
    /// Time since the last sign of the worker that has been silent longest.
    silent_ms: u64,
    /// Age of the oldest read lock and of the oldest write lock.
    locked_ms: (u64, u64),
}

impl Snapshot {
    pub(super) fn of(core: &Core, now: Time) -> Self {
        let seen = core.workers().map(|(_, seen)| seen).min();
        let adapter = |(id, _)| (*core.stats().adapter(id), core.adapter_gauges(id));
        let gauges = core.gauges();
        let ms_since =
            |since: Option<Time>| since.map_or(0, |since| now.as_millis().saturating_sub(since.as_millis()));
        Self {
            adapters: core.adapters().map(adapter).collect(),
            counters: *core.stats().requests(),
            l1: *core.stats().l1(),
            gauges,
            tally: core.stats().labelled().clone(),
            residency: core.stats().residency().clone(),
            learned: core.learned(),
            chunk_events: core.stats().chunk_events().len(),
            silent_ms: ms_since(seen),
            locked_ms: (ms_since(gauges.oldest_read_pin), ms_since(gauges.oldest_write_reservation)),
        }
    }

    pub(super) fn collect(&self, out: &mut Families, l1_tag: &str) {
        let label = |name| {
            let value = match name {
                "l1_tag" => l1_tag,
                "device" => DEVICE,
                "exception_type" => "TimeoutError",
                other => other,
            };
            value.to_owned()
        };
        let one = Labels::new;
        out.exposed(L1Counters::EXPOSED, label, [(one(), &self.l1)].into_iter());
        out.exposed(Counters::EXPOSED, label, [(one(), &self.counters)].into_iter());
        out.exposed(L2Counters::EXPOSED, label, [(one(), &self.counters.l2)].into_iter());
        let salts = by_salt(&self.tally.salts);
        out.exposed(
            SaltCounters::EXPOSED,
            label,
            salts.iter().map(|(labels, counts)| (labels.clone(), counts)),
        );
        // As in LMCache, what failed has finished too; the difference is in progress.
        let (c, device) = (&self.counters, [("device", DEVICE)]);
        let stores = c.stores_committed + c.stores_abandoned;
        out.counter(
            "lmcache_mp_num_finished_stores_total",
            "Stores that ended, committed or not",
            &device,
            stores,
        );
        let retrieves = c.retrieves_committed + c.retrieves_abandoned;
        let name = "lmcache_mp_num_finished_retrieves_total";
        out.counter(name, "Retrieves that ended, committed or not", &device, retrieves);
        self.l1_gauges(out, l1_tag);
        self.request_gauges(out);
        failures(out, &self.tally.models);
        residency(out, &self.residency, l1_tag);
        if let Some(learned) = &self.learned {
            policies(out, learned);
        }
    }

    fn l1_gauges(&self, out: &mut Families, l1_tag: &str) {
        let usage = &self.gauges.l1;
        let tag = [("l1_tag", l1_tag)];
        let mut gauge = |name, help, value: f64| out.gauge(name, help, &tag, value);
        gauge("lmcache_mp_l1_objects", "Readable objects in L1", usage.resident_objects as f64);
        let help = "Readable objects that are pinned and cannot be evicted";
        gauge("lmcache_mp_l1_held_objects", help, usage.held_objects as f64);
        gauge("lmcache_mp_l1_staging_objects", "Objects being written", usage.staged_objects as f64);
        let help = "Objects removed from L1 whose memory may still be in use";
        gauge("lmcache_mp_l1_unlinked_objects", help, usage.unlinked_objects as f64);
        let help = "Age of the oldest lookup, retrieve or peer lease that pins objects; 0 without one";
        gauge("lmcache_mp_l1_oldest_read_lock_seconds", help, self.locked_ms.0 as f64 / 1000.0);
        let help = "Age of the oldest slots that a worker writes or may still write; 0 without any";
        gauge("lmcache_mp_l1_oldest_write_lock_seconds", help, self.locked_ms.1 as f64 / 1000.0);
        let backend = [("backend", "dram"), tag[0]];
        let mut gauge = |name, help, value: f64| out.gauge(name, help, &backend, value);
        gauge("lmcache_mp_l1_memory_usage_bytes", "Bytes allocated in L1", usage.used_bytes as f64);
        gauge("lmcache_mp_l1_capacity_bytes", "Size of L1", usage.capacity_bytes as f64);
        let ratio = usage.used_bytes as f64 / (usage.capacity_bytes as f64).max(1.0);
        gauge("lmcache_mp_l1_usage_ratio", "Allocated part of L1", ratio);
        let help = "Bytes reserved for writing and not committed";
        gauge("lmcache_mp_l1_staging_bytes", help, usage.staged_bytes as f64);
    }

    fn request_gauges(&self, out: &mut Families) {
        let g = &self.gauges;
        let mut gauge = |name, help, value: u64| out.gauge(name, help, &[], value as f64);
        gauge("lmcache_mp_workers", "Registered workers", g.workers);
        gauge("lmcache_mp_sessions", "Open request sessions", g.sessions);
        gauge("lmcache_mp_session_bytes", "Bytes that open sessions take, about", g.session_bytes);
        gauge("lmcache_mp_lookup_leases", "Lookups that pin objects for their readers", g.lookup_leases);
        gauge("lmcache_mp_active_stores", "Stores prepared and not committed", g.stores);
        gauge("lmcache_mp_active_retrieves", "Retrieves prepared and not committed", g.retrieves);
        gauge("lmcache_mp_peer_leases", "Lookups of other servers that pin objects", g.peer_leases);
        gauge("lmcache_mp_peer_lease_keys", "Keys in lookups of other servers", g.peer_keys);
        let help = "Objects whose memory a lost worker may still use";
        gauge("lmcache_mp_quarantined_objects", help, g.quarantined_objects);
        let help = "Bytes that a lost or late worker may still write to";
        gauge("lmcache_mp_quarantined_bytes", help, g.quarantined_bytes);
        let help = "Lookups and prefetch requests that use L2 now";
        gauge("lmcache_mp_active_prefetch_jobs", help, g.prefetch_jobs);
        let help = "Lookups and prefetch requests that wait for the limit of concurrent ones";
        gauge("lmcache_mp_waiting_prefetch_jobs", help, g.prefetch_waiting);
        gauge("lmcache_mp_l2_store_pending_objects", "Objects to be stored to L2", g.write_back_pending);
        gauge(
            "lmcache_mp_kv_events_log_depth",
            "Cache events kept for subscribers",
            self.chunk_events as u64,
        );
        let help = "Time since the last request of the worker that has been silent longest";
        out.gauge("lmcache_mp_worker_silence_seconds", help, &[], self.silent_ms as f64 / 1000.0);
    }
}

/// Counts by cache salt. As in LMCache, objects without a salt are counted without the label.
fn by_salt(salts: &Labelled<SaltCounters>) -> Vec<(Labels, SaltCounters)> {
    let unsalted =
        salts.named().find(|(salt, _)| salt.is_empty()).map_or_else(SaltCounters::default, |(_, c)| *c);
    let salted = salts.named().filter(|(salt, _)| !salt.is_empty()).map(|(salt, counts)| (&**salt, *counts));
    let others = Some((OTHERS, *salts.others())).filter(|(_, counts)| *counts != SaltCounters::default());
    let salted = salted.chain(others).map(|(salt, counts)| (owned(&[("cache_salt", salt)]), counts));
    [(Labels::new(), unsalted)].into_iter().chain(salted).collect()
}

/// Failures by model.
fn failures(out: &mut Families, models: &Labelled<ModelCounters>) {
    type Read = fn(&ModelCounters) -> u64;
    type Row<'a> = (&'a [(&'static str, &'a str)], Read);
    let others: Arc<str> = OTHERS.into();
    let mut counters = |name, help, rows: &[Row<'_>]| {
        let mut series = Vec::new();
        for (model, counts) in models.named().chain([(&others, models.others())]) {
            for (labels, read) in rows {
                series.push((owned(&[*labels, &[("model_name", model)]].concat()), read(counts) as f64));
            }
        }
        out.counters(name, help, series);
    };
    counters(
        "lmcache_mp_l1_allocation_failure_chunks_total",
        "Objects that L1 had no free memory for",
        &[
            (&[("during", "l1_store")], |c| c.store_no_room),
            (&[("during", "l2_prefetch")], |c| c.load_no_room),
        ],
    );
    // A reader cannot find an object that is being written, so `write_locked` stays 0.
    counters(
        "lmcache_mp_l1_read_failure_chunks_total",
        "Objects that were missing in L1 when they were to be read",
        &[
            (&[("during", "l1_retrieve"), ("reason", "not_found")], |c| c.retrieve_missing),
            (&[("during", "l1_retrieve"), ("reason", "write_locked")], |_| 0),
            (&[("during", "l2_store"), ("reason", "not_found")], |c| c.write_back_gone),
            (&[("during", "l2_store"), ("reason", "write_locked")], |_| 0),
        ],
    );
    counters(
        "lmcache_mp_l2_prefetch_failure_chunks_total",
        "Objects found in L2 and not delivered",
        &[
            (&[("reason", "l1_oom")], |c| c.load_no_room),
            (&[("reason", "l1_contended")], |c| c.load_contended),
            (&[("reason", "not_found")], |c| c.load_missing),
            (&[("reason", "late")], |c| c.load_late),
        ],
    );
}

/// How long chunks stay in L1 and when they are used again.
fn residency(out: &mut Families, stats: &ResidencyStats, l1_tag: &str) {
    let tag = [("l1_tag", l1_tag)];
    out.counter(
        "lmcache_mp_l1_premature_eviction_chunks_total",
        "Chunks that returned to L1 while their eviction was remembered, one of about the last 65,536",
        &tag,
        stats.premature_evictions,
    );
    out.counter(
        "lmcache_mp_l2_reread_chunks_total",
        "Chunks that returned to L1 after they were loaded from L2 and removed after their last read, if that was one \
         of about the last 65,536 such removals: `--l2-prefetch-policy retain` would have kept them",
        &[],
        stats.rereads,
    );
    let mut times = |name, help, histogram: &Histogram<13>| {
        out.histograms(name, help, [(owned(&tag), histogram.into())]);
    };
    let help = "From a chunk's first reservation in L1 to its eviction, sampled";
    times("lmcache_mp_l1_chunk_lifetime_seconds", help, &stats.lifetime);
    let help = "From a chunk's last use in L1 to its eviction, sampled";
    times("lmcache_mp_l1_chunk_idle_before_evict_seconds", help, &stats.idle_before_evict);
    let help = "Between two uses of a chunk in L1, sampled";
    times("lmcache_mp_l1_chunk_reuse_gap_seconds", help, &stats.reuse_gap);
    let help = "From a chunk's eviction to its return to L1, at most 300, sampled";
    times("lmcache_mp_l1_chunk_evict_reuse_gap_seconds", help, &stats.evict_reuse_gap);
    let others: Arc<str> = OTHERS.into();
    let mut gaps = |name, help, read: fn(&Gaps) -> &Histogram<16>| {
        let by_salt = stats.request_gaps.named().chain([(&others, stats.request_gaps.others())]);
        let series = by_salt.map(|(salt, gaps)| (owned(&[("cache_salt", salt)]), read(gaps).into()));
        out.histograms(name, help, series);
    };
    let help = "Seconds between two requests for a chunk, in L1 or not, sampled";
    gaps("lmcache_mp_real_reuse_gap_seconds", help, |gaps| &gaps.seconds);
    let help = "Chunks requested between two requests for a chunk, in L1 or not, sampled";
    gaps("lmcache_mp_real_reuse_gap_objects", help, |gaps| &gaps.chunks);
    let help = "The same under the name that LMCache's dashboard uses, sampled";
    gaps("lmcache_mp_real_reuse_gap_objects_chunks", help, |gaps| &gaps.chunks);
}

/// What the adaptive policies have learned.
fn policies(out: &mut Families, learned: &reuse::Snapshot) {
    let experts = |value: &dyn Fn(&reuse::Expert, f64) -> f64| -> Vec<(Labels, f64)> {
        let sample = |(expert, loss): &(reuse::Expert, f64)| {
            (owned(&[("expert", &expert.to_string())]), value(expert, *loss))
        };
        learned.losses.iter().map(sample).collect()
    };
    let leads = experts(&|expert, _| f64::from(u8::from(*expert == learned.active)));
    out.gauges("lmcache_mp_policy_leader", "1 for the expert whose decisions are applied", leads);
    let help = "Chunks that each expert would have lost recently";
    out.gauges("lmcache_mp_policy_lost_chunks", help, experts(&|_, loss| loss));
    let help = "Changes of the expert whose decisions are applied";
    out.counter("lmcache_mp_policy_leader_changes_total", help, &[], learned.changes);
    out.counter("lmcache_mp_policy_requests_total", "Requests learned from", &[], learned.requests);
    out.gauge("lmcache_mp_policy_keys", "Chunks whose history is kept", &[], learned.keys as f64);
}
