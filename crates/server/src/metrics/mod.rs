//! What is counted, under LMCache's names where it has one.
//!
//! Two sources: what requests and background work count as they pass ([`Metrics`]), and the core's own
//! counters and gauges, read once per scrape so that one scrape is one moment. Label values are bounded:
//! operations, outcomes and reasons by their enums, models and salts by a number of each, behind which
//! all share one. `docs/metrics.md` is the whole list; a test compares it with a scrape.

mod adapters;
mod copies;
mod core_l2;
mod core_metrics;
mod exposition;
#[cfg(feature = "otel")]
pub(crate) mod families;
mod latency;
mod life;
mod process;
mod recent;
mod tenants;
mod whatif;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use larder_core::Hit;
use larder_core::TransferSpec;
use larder_types::ids::AdapterId;
use larder_wire::operation::Operation;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use self::adapters::Adapters;
use self::copies::Copies;
use self::latency::Latencies;
use self::recent::{Recent, Timed};
use self::tenants::Tenants;
use crate::app::state::State;
use crate::config::Config;

pub use self::adapters::{Batch, Traffic};
pub use self::latency::Latency;
pub use self::tenants::{Direction, EarlyExit};

/// What every name begins with.
const PREFIX: &str = "lmcache_mp";

/// The label of every series, if asked for.
const INSTANCE_LABEL: &str = "service_instance_id";

/// The label value that those share who came after the bound was reached. It is there from the start, so
/// that every name has its labels in the first scrape.
const OTHERS: &str = "(other)";

/// Where workers copy to and from. There is only one such place so far.
pub(crate) const DEVICE: &str = "cpu";

/// Operations whose durations are in the first scrape; those of the others come with the first request.
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

/// Upper bounds of speeds, in gigabytes per second.
const SPEED_BUCKETS: [f64; 12] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0];

/// Upper bounds of request durations, in seconds.
pub const DURATION_BUCKETS: [f64; 15] =
    [10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.5, 2.0];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It could not be done and got its failure value.
    Failed,
    /// Its payloads could not be decoded; it got no answer.
    Undecodable,
}

const OUTCOMES: usize = 3;

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Undecodable => "undecodable",
        };
        name.encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    outcome: Outcome,
}

/// What requests and background work count as they pass.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Connected peers.
    pub connections: Gauge,
    /// Messages that nothing could be answered to.
    pub dropped_messages: Counter,
    /// Replies whose peer was gone or did not read.
    pub unsent_replies: Counter,
    durations: Family<RequestLabels, Histogram, fn() -> Histogram>,
    by_operation: Vec<[OnceLock<Histogram>; OUTCOMES]>,
    latencies: Latencies,
    tenants: Tenants,
    copies: Copies,
    adapters: Adapters,
    recent: Recent,
    config_hash: String,
}

impl Metrics {
    /// Everything at zero. `adapters` are the names of L2's, in the order of their numbers.
    pub fn new(adapters: &[&str], config: &Config) -> Self {
        let instance = instance_label(config);
        let labels = instance.map(|id| (INSTANCE_LABEL.into(), id.to_owned().into()));
        let mut registry = Registry::with_prefix_and_labels(PREFIX, labels.into_iter());
        let connections = Gauge::default();
        registry.register("connections", "Connected request peers", connections.clone());
        let dropped_messages = Counter::default();
        registry.register(
            "dropped_messages",
            "Messages that could not be understood and got no answer",
            dropped_messages.clone(),
        );
        let unsent_replies = Counter::default();
        registry.register(
            "unsent_replies",
            "Replies whose peer was gone or did not read",
            unsent_replies.clone(),
        );
        let durations: Family<RequestLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS));
        registry.register(
            "request_duration_seconds",
            "Time from a request's arrival to its answer",
            durations.clone(),
        );
        let metrics = Self {
            connections,
            dropped_messages,
            unsent_replies,
            durations,
            by_operation: Operation::ALL.iter().map(|_| Default::default()).collect(),
            latencies: Latencies::default(),
            tenants: Tenants::register(&mut registry),
            copies: Copies::default(),
            recent: Recent::default(),
            config_hash: hash(config),
            adapters: Adapters::register(&mut registry, adapters),
            registry,
        };
        for operation in EVERYDAY {
            metrics.duration(operation, Outcome::Ok);
        }
        metrics
    }

    /// A request that arrived at `started` has ended.
    pub fn request(&self, operation: Operation, outcome: Outcome, started: Instant) {
        let time = started.elapsed();
        self.duration(operation, outcome).observe(time.as_secs_f64());
        self.latencies.count(operation, outcome, time);
    }

    /// How long the requests of each operation took, for operations that were asked for at all.
    pub fn latencies(&self) -> impl Iterator<Item = (Operation, Latency)> {
        self.latencies.read()
    }

    /// What an adapter has loaded and what it has stored.
    pub fn l2_traffic(&self, adapter: AdapterId) -> (Traffic, Traffic) {
        self.adapters.traffic(adapter)
    }

    fn duration(&self, operation: Operation, outcome: Outcome) -> &Histogram {
        let cell = &self.by_operation[operation as usize][outcome as usize];
        cell.get_or_init(|| {
            self.durations.get_or_create(&RequestLabels { operation: operation.name(), outcome }).clone()
        })
    }

    /// A worker of this model has registered.
    pub fn expect(&self, model: &Arc<str>) {
        self.tenants.expect(model);
    }

    /// A lookup of `requested` chunks has ended.
    pub fn lookup(&self, model: &Arc<str>, salt: &Arc<str>, requested: u64, hit: &Hit, chunk_tokens: u64) {
        self.tenants.lookup(model, salt, requested, hit, chunk_tokens);
        self.recent.lookup(requested, hit, chunk_tokens);
    }

    /// A lookup has ended before it looked.
    pub fn early_exit(&self, model: &Arc<str>, salt: &Arc<str>, why: EarlyExit) {
        self.tenants.early_exit(model, salt, why);
    }

    /// A worker begins to copy.
    pub fn copy_begins(&self, direction: Direction, spec: &TransferSpec<'_>) {
        self.copies.begin(direction, spec);
    }

    /// A worker has copied so many objects, of so many bytes in all.
    pub fn copied(&self, direction: Direction, spec: &TransferSpec<'_>, (objects, bytes): (u64, u64)) {
        let time = self.copies.end(direction, spec);
        let what = match direction {
            Direction::Store => Timed::L1Store,
            Direction::Retrieve => Timed::L1Retrieve,
        };
        self.recent.moved(what, bytes, time);
        let speed = time.filter(|_| bytes > 0).map(|time| gigabytes_per_second(bytes, time));
        let rank = spec.rank.0 & 0xff;
        self.tenants.copied((spec.model, spec.salt, rank), direction, (objects, bytes), speed);
    }

    /// An adapter has answered a batch of stores.
    pub fn l2_stored(&self, adapter: AdapterId, batch: &Batch) {
        self.adapters.stored(adapter, batch);
        self.recent.moved(Timed::L2Store, batch.bytes, Some(batch.time));
    }

    /// An adapter has answered a batch of loads.
    pub fn l2_loaded(&self, adapter: AdapterId, batch: &Batch) {
        self.adapters.loaded(adapter, batch);
        self.recent.moved(Timed::L2Load, batch.bytes, Some(batch.time));
    }

    /// What happened in the last 1, 5 and 15 minutes, as `GET /cache/stats` tells it.
    pub fn recent(&self) -> serde_json::Value {
        self.recent.report()
    }
}

/// An empty histogram of speeds.
fn speeds() -> Histogram {
    Histogram::new(SPEED_BUCKETS)
}

fn gigabytes_per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e9 / time.as_secs_f64().max(1e-9)
}

/// Everything, in the text format that Prometheus scrapes.
pub fn exposition(state: &State) -> String {
    let instance = instance_label(&state.config);
    let (metrics, distributions) = core_metrics::snapshot(state);
    exposition::render(&state.metrics.registry, &metrics, &distributions, instance)
}

/// A hash of all that was configured, but for the server's own name: the same on servers that are meant
/// to be the same.
fn hash(config: &Config) -> String {
    let mut json = config.to_reference_json();
    json["mp"]["instance_id"] = "".into();
    json["observability"]["service_instance_id"] = "".into();
    blake3::hash(json.to_string().as_bytes()).to_hex()[..16].to_owned()
}

/// Who this server is, if every series is to say so.
fn instance_label(config: &Config) -> Option<&str> {
    config.metrics.instance_label.then_some(config.instance_id.as_str())
}
