//! What the server sees of L2's adapters at work: how fast they are and why they fail.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_l2::ErrorKind;
use larder_types::ids::AdapterId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{gigabytes_per_second, speeds};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    l2_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    l2_name: String,
    reason: &'static str,
}

type Done = Family<NameLabels, Counter>;
type Failures = Family<FailureLabels, Counter>;
type Speeds = Family<NameLabels, Histogram, fn() -> Histogram>;

/// One way of one kind of adapter.
#[derive(Debug)]
struct Way {
    done: Counter,
    failures: [Counter; ErrorKind::ALL.len()],
    speed: Histogram,
    /// The same once more, by adapter and not by name.
    traffic: TrafficCounts,
}

/// What one adapter has done in one direction, as [`Traffic`].
#[derive(Debug, Default)]
struct TrafficCounts {
    batches: AtomicU64,
    failed_objects: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

/// What one adapter has done in one direction since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Batches answered, failed ones too.
    pub batches: u64,
    /// Objects whose transfer failed, each attempt.
    pub failed_objects: u64,
    /// Bytes of the objects that succeeded.
    pub bytes: u64,
    /// Time from the adapter's call to its answer, summed over batches.
    pub time: Duration,
}

/// Both ways of every adapter, in the order of their numbers. Adapters of one name share their series.
#[derive(Debug)]
pub(super) struct Adapters {
    stores: Vec<Way>,
    loads: Vec<Way>,
}

impl Adapters {
    pub(super) fn register(registry: &mut Registry, names: &[&str]) -> Self {
        Self { stores: ways(registry, names, "store"), loads: ways(registry, names, "load") }
    }

    pub(super) fn stored(&self, adapter: AdapterId, batch: &Batch) {
        self.stores[adapter.0 as usize].count(batch);
    }

    pub(super) fn loaded(&self, adapter: AdapterId, batch: &Batch) {
        self.loads[adapter.0 as usize].count(batch);
    }

    /// What an adapter has loaded and stored.
    pub(super) fn traffic(&self, adapter: AdapterId) -> (Traffic, Traffic) {
        let [loads, stores] = [&self.loads, &self.stores].map(|ways| ways[adapter.0 as usize].traffic.read());
        (loads, stores)
    }
}

impl TrafficCounts {
    fn count(&self, batch: &Batch) {
        let nanoseconds = u64::try_from(batch.time.as_nanos()).unwrap_or(u64::MAX);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.failed_objects.fetch_add(batch.failures.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(batch.bytes, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn read(&self) -> Traffic {
        Traffic {
            batches: self.batches.load(Ordering::Relaxed),
            failed_objects: self.failed_objects.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            time: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)),
        }
    }
}

/// How a batch went.
#[derive(Debug, Default)]
pub struct Batch {
    /// Bytes of the objects that succeeded.
    pub bytes: u64,
    /// Why the others did not.
    pub failures: Vec<ErrorKind>,
    /// From the adapter's call to its answer.
    pub time: Duration,
}

impl Way {
    fn count(&self, batch: &Batch) {
        self.done.inc();
        for kind in &batch.failures {
            self.failures[ErrorKind::ALL.iter().position(|k| k == kind).expect("all kinds")].inc();
        }
        if batch.bytes > 0 {
            self.speed.observe(gigabytes_per_second(batch.bytes, batch.time));
        }
        self.traffic.count(batch);
    }
}

fn ways(registry: &mut Registry, names: &[&str], way: &str) -> Vec<Way> {
    let (done, failures): (Done, Failures) = Default::default();
    let speed: Speeds = Family::new_with_constructor(speeds);
    let name = format!("l2_{way}_completed_requests");
    registry.register(name, format!("Batches that L2 has answered, {way}s, failed ones too"), done.clone());
    let name = format!("l2_{way}_failure_chunks");
    registry.register(name, format!("Objects whose {way} failed, each attempt"), failures.clone());
    let name = format!("l2_{way}_throughput_GB_per_second");
    registry.register(name, format!("Bytes of a batch by the time L2 took, {way}s"), speed.clone());
    let way = |name: &&str| {
        let l2_name = (*name).to_owned();
        let labels = NameLabels { l2_name: l2_name.clone() };
        let failure = |kind: ErrorKind| {
            let labels = FailureLabels { l2_name: l2_name.clone(), reason: kind.as_str() };
            failures.get_or_create(&labels).clone()
        };
        Way {
            done: done.get_or_create(&labels).clone(),
            failures: ErrorKind::ALL.map(failure),
            speed: speed.get_or_create(&labels).clone(),
            traffic: TrafficCounts::default(),
        }
    };
    names.iter().map(way).collect()
}
