//! L2 adapters: transfers as the server sees them, counts of the core, and what adapters report themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::observe::event::Batch;
use larder_core::AdapterGauges;
use larder_core::stats::AdapterCounters;
use larder_core::stats::residency::Histogram;
use larder_l2::{Adapter, Call, Circuit, ErrorKind, Integrity, Space};
use larder_types::ids::AdapterId;

use super::family::{Collect, Distribution, Families, Labels, owned};
use super::speed::{SPEED_BUCKETS, SpeedHistogram, gigabytes_per_second};

/// Transfers of one adapter in one direction since the start.
#[derive(Debug)]
struct Transfers {
    batches: u64,
    failures: [u64; ErrorKind::ALL.len()],
    bytes: u64,
    time: Duration,
    speed: SpeedHistogram,
}

/// Transfers of one adapter in one direction since the start, without details.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Batches answered, failed ones included.
    pub batches: u64,
    /// Objects whose transfer failed, each attempt.
    pub failed_objects: u64,
    /// Bytes of the objects that succeeded.
    pub bytes: u64,
    /// Time from the adapter's call to its answer, summed over batches.
    pub time: Duration,
}

/// Stores and loads of each adapter, in the order of their ids.
#[derive(Debug)]
pub(super) struct AdapterTransfers {
    /// Adapter types. Adapters of one type are exposed together.
    kinds: Vec<&'static str>,
    stores: Vec<Mutex<Transfers>>,
    loads: Vec<Mutex<Transfers>>,
}

impl Default for Transfers {
    fn default() -> Self {
        let (batches, failures, bytes, time) = Default::default();
        Self { batches, failures, bytes, time, speed: Histogram::new(&SPEED_BUCKETS) }
    }
}

impl Transfers {
    fn count(&mut self, batch: &Batch) {
        self.batches += 1;
        for kind in &batch.failures {
            self.failures[index(*kind)] += 1;
        }
        self.bytes += batch.bytes;
        self.time += batch.time;
        if batch.bytes > 0 {
            self.speed.observe(gigabytes_per_second(batch.bytes, batch.time));
        }
    }

    fn traffic(&self) -> Traffic {
        let failed_objects = self.failures.iter().sum();
        Traffic { batches: self.batches, failed_objects, bytes: self.bytes, time: self.time }
    }
}

fn index(kind: ErrorKind) -> usize {
    ErrorKind::ALL.iter().position(|listed| *listed == kind).expect("all kinds are listed")
}

impl AdapterTransfers {
    pub(super) fn new(kinds: &[&'static str]) -> Self {
        let empty = || kinds.iter().map(|_| Mutex::default()).collect();
        Self { kinds: kinds.to_vec(), stores: empty(), loads: empty() }
    }

    pub(super) fn stored(&self, adapter: AdapterId, batch: &Batch) {
        with(&self.stores[adapter.0 as usize], |transfers| transfers.count(batch));
    }

    pub(super) fn loaded(&self, adapter: AdapterId, batch: &Batch) {
        with(&self.loads[adapter.0 as usize], |transfers| transfers.count(batch));
    }

    /// The loads and the stores of an adapter.
    pub(super) fn traffic(&self, adapter: AdapterId) -> (Traffic, Traffic) {
        let [loads, stores] =
            [&self.loads, &self.stores].map(|all| with(&all[adapter.0 as usize], |t| t.traffic()));
        (loads, stores)
    }

    /// A value for each adapter type, summed by `add`.
    fn by_kind<T: Default>(
        &self,
        all: &[Mutex<Transfers>],
        add: impl Fn(&mut T, &Transfers),
    ) -> BTreeMap<&'static str, T> {
        let mut sums = BTreeMap::new();
        for (kind, transfers) in self.kinds.iter().zip(all) {
            with(transfers, |transfers| add(sums.entry(*kind).or_default(), transfers));
        }
        sums
    }

    fn collect_direction(
        &self,
        out: &mut Families,
        all: &[Mutex<Transfers>],
        names: [(&'static str, &'static str); 3],
    ) {
        let [completed, failed, speed] = names;
        let label = |kind: &str| owned(&[("l2_name", kind)]);
        let batches = self.by_kind(all, |sum: &mut u64, transfers| *sum += transfers.batches);
        out.counters(
            completed.0,
            completed.1,
            batches.into_iter().map(|(kind, sum)| (label(kind), sum as f64)),
        );
        let failures = self.by_kind(all, |sums: &mut [u64; ErrorKind::ALL.len()], transfers| {
            sums.iter_mut().zip(transfers.failures).for_each(|(sum, failures)| *sum += failures);
        });
        let failures = failures.into_iter().flat_map(|(kind, sums)| {
            ErrorKind::ALL.into_iter().zip(sums).map(move |(reason, sum)| {
                (owned(&[("l2_name", kind), ("reason", reason.as_str())]), sum as f64)
            })
        });
        out.counters(failed.0, failed.1, failures);
        let speeds = self.by_kind(all, |sum: &mut Distribution, transfers| {
            sum.merge(&Distribution::from(&transfers.speed))
        });
        out.histograms(speed.0, speed.1, speeds.into_iter().map(|(kind, sum)| (label(kind), sum)));
    }
}

fn with<T>(transfers: &Mutex<Transfers>, read: impl FnOnce(&mut Transfers) -> T) -> T {
    read(&mut transfers.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Collect for AdapterTransfers {
    fn collect(&self, out: &mut Families) {
        self.collect_direction(
            out,
            &self.stores,
            [
                (
                    "lmcache_mp_l2_store_completed_requests_total",
                    "Store batches that L2 answered, failed ones included",
                ),
                ("lmcache_mp_l2_store_failure_chunks_total", "Objects whose store failed, each attempt"),
                ("lmcache_mp_l2_store_throughput_GB_per_second", "Speed of store batches of L2"),
            ],
        );
        self.collect_direction(
            out,
            &self.loads,
            [
                (
                    "lmcache_mp_l2_load_completed_requests_total",
                    "Load batches that L2 answered, failed ones included",
                ),
                ("lmcache_mp_l2_load_failure_chunks_total", "Objects whose load failed, each attempt"),
                ("lmcache_mp_l2_load_throughput_GB_per_second", "Speed of load batches of L2"),
            ],
        );
    }
}

/// An adapter with the core's counts of it.
pub(super) struct AdapterStats<'a> {
    pub(super) id: AdapterId,
    pub(super) adapter: &'a Arc<dyn Adapter>,
    pub(super) counters: &'a AdapterCounters,
    pub(super) gauges: &'a AdapterGauges,
}

/// Adds what adapters report and what the core counts for each of them.
pub(super) fn collect(out: &mut Families, adapters: &[AdapterStats<'_>], l1_tag: &str) {
    for row in AdapterCounters::EXPOSED {
        match row.labels {
            [] => out.counter(row.name, row.help, &[], adapters.iter().map(|a| (row.read)(a.counters)).sum()),
            _ => out.counters(row.name, row.help, by_kind(adapters, |a| (row.read)(a.counters))),
        }
    }
    let mut gauge = |name, help, read: fn(&dyn Adapter) -> u64| {
        out.gauges(name, help, by_kind(adapters, |a| read(&**a.adapter)));
    };
    gauge("lmcache_mp_l2_usage_bytes", "Bytes stored in L2", |a| a.usage().used_bytes);
    gauge("lmcache_mp_l2_capacity_bytes", "Capacity of L2 in bytes; 0 without a limit", |a| {
        a.usage().capacity_bytes.unwrap_or(0)
    });
    gauge("lmcache_mp_l2_objects", "Objects stored in L2", |a| a.usage().objects);
    gauge("lmcache_mp_l2_failing_circuits", "Directions (reads, writes) of L2 adapters that fail now", |a| {
        let health = a.health();
        [health.reads, health.writes].into_iter().filter(|circuit| *circuit != Circuit::Closed).count() as u64
    });
    failures(out, adapters);
    integrity(out, adapters);
    in_progress(out, adapters);
    file_systems(out, adapters);
    // Adapters serve from start to stop, so none is draining.
    let states = |labels: &[(&'static str, &str)]| {
        [("active", adapters.len() as f64), ("draining", 0.0)]
            .map(|(state, count)| (owned(&[labels, &[("state", state)]].concat()), count))
    };
    out.gauges("lmcache_mp_l2_store_adapters", "Adapters that L1 stores to", states(&[("l1_tag", l1_tag)]));
    out.gauges("lmcache_mp_l2_prefetch_adapters", "Adapters that L1 loads from", states(&[]));
}

/// Sums by adapter type.
fn by_kind(adapters: &[AdapterStats<'_>], read: impl Fn(&AdapterStats<'_>) -> u64) -> Vec<(Labels, f64)> {
    let mut sums = BTreeMap::<&str, u64>::new();
    for adapter in adapters {
        *sums.entry(adapter.adapter.kind()).or_default() += read(adapter);
    }
    sums.into_iter().map(|(kind, sum)| (owned(&[("l2_name", kind)]), sum as f64)).collect()
}

/// Labels that distinguish adapters of one type.
fn indexed(stats: &AdapterStats<'_>) -> Labels {
    owned(&[("l2_name", stats.adapter.kind()), ("adapter_index", &stats.id.0.to_string())])
}

/// What adapters could not do, by adapter, call and kind.
fn failures(out: &mut Families, adapters: &[AdapterStats<'_>]) {
    let counts = adapters.iter().flat_map(|stats| {
        let labels = indexed(stats);
        // The most usual kind is there before the first failure, so that its rate is known.
        let mut counts: BTreeMap<_, u64> =
            Call::ALL.map(|call| ((call, ErrorKind::Unavailable), 0)).into_iter().collect();
        for (call, kind, count) in stats.adapter.failures().counts {
            *counts.entry((call, kind)).or_default() += count;
        }
        counts.into_iter().map(move |((call, kind), count)| {
            let of = owned(&[("call", call.as_str()), ("reason", kind.as_str())]);
            ([labels.clone(), of].concat(), count as f64)
        })
    });
    let help = "Objects that an L2 adapter failed to look up, load, store, delete or list, after its retries";
    out.counters("lmcache_mp_l2_failures_total", help, counts);
}

/// What checksums have shown, by adapter type.
fn integrity(out: &mut Families, adapters: &[AdapterStats<'_>]) {
    let mut counter = |name, help, read: fn(&Integrity) -> u64| {
        out.counters(name, help, by_kind(adapters, |a| read(&a.adapter.usage().integrity)));
    };
    let help = "Objects loaded from L2 whose bytes match their checksum";
    counter("lmcache_mp_l2_verified_chunks_total", help, |i| i.verified_loads);
    let help = "Objects loaded from L2 files without a checksum, or while checksums are off";
    counter("lmcache_mp_l2_unverified_chunks_total", help, |i| i.unverified_loads);
    let help = "L2 files found damaged by their checksum; each is a miss";
    counter("lmcache_mp_l2_damaged_chunks_total", help, |i| i.damaged_objects);
}

/// Transfers in progress, by adapter.
fn in_progress(out: &mut Families, adapters: &[AdapterStats<'_>]) {
    let mut gauge = |name, help, read: fn(&AdapterGauges) -> u64| {
        out.gauges(name, help, adapters.iter().map(|a| (indexed(a), read(a.gauges) as f64)));
    };
    gauge("lmcache_mp_num_inflight_l2_stores", "Store batches in progress", |g| g.storing_tasks);
    gauge("lmcache_mp_num_inflight_l2_loads", "Objects being loaded", |g| g.loading_objects);
    gauge("lmcache_mp_inflight_load_memory_usage_bytes", "Bytes of L1 being loaded", |g| g.loading_bytes);
    gauge("lmcache_mp_inflight_store_memory_usage_bytes", "Bytes of L1 being stored", |g| g.storing_bytes);
    gauge("lmcache_mp_l2_store_queued_objects", "Objects queued for an adapter", |g| g.queued_keys);
}

/// Space in file systems, by adapter: two adapters may use the same one.
fn file_systems(out: &mut Families, adapters: &[AdapterStats<'_>]) {
    let spaces: Vec<(Labels, Space)> =
        adapters.iter().filter_map(|a| Some((indexed(a), a.adapter.usage().space?))).collect();
    if spaces.is_empty() {
        return;
    }
    let mut gauge = |name, help, read: fn(&Space) -> u64| {
        out.gauges(name, help, spaces.iter().map(|(labels, space)| (labels.clone(), read(space) as f64)));
    };
    let help = "Bytes available in an adapter's file system, as of the previous scrape";
    gauge("lmcache_mp_l2_disk_free_bytes", help, |s| s.free_bytes);
    gauge("lmcache_mp_l2_disk_size_bytes", "Size of an adapter's file system", |s| s.size_bytes);
}
