//! Metrics, under LMCache's names where it has them.
//!
//! There are two sources: what the server counts ([`Metrics`]), and the core's counters and gauges, read once for each
//! scrape so that a scrape shows one moment. Both become `family::Family` lists, which `/metrics` writes as text and the
//! OTLP exporter pushes. `prometheus-client` is not used because its values can be encoded but not read back, which
//! OTLP, `/overview` and `/cache/stats` need.
//!
//! Label values are bounded: operations, outcomes and reasons by their enums, models and salts by a limit, above which
//! all are counted together. `docs/metrics.md` lists all metrics; a test compares it with a scrape.

mod adapters;
mod copies;
mod core_stats;
pub(crate) mod family;
mod process;
mod recent;
mod requests;
pub mod scrape;
mod server;
mod speed;
mod tenants;
mod text;
mod whatif;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use larder_core::Hit;
use larder_core::TransferSpec;
use larder_types::ids::AdapterId;
use larder_wire::operation::Operation;

use self::adapters::AdapterTransfers;
use self::copies::Copies;
use self::family::{Collect, Families, Labels};
use self::recent::{Recent, Timed};
use self::requests::Requests;
use self::speed::gigabytes_per_second;
use self::tenants::Tenants;
use crate::config::Config;
use crate::observe::event::{Batch, Direction, EarlyExit, Outcome};

pub use self::adapters::Traffic;
pub use self::requests::{DURATION_BUCKETS, Latency};

/// What the server counts.
#[derive(Debug)]
pub struct Metrics {
    /// Connected peers.
    pub connections: Connections,
    counters: Mutex<ServerCounters>,
    requests: Requests,
    tenants: Tenants,
    copies: Copies,
    adapters: AdapterTransfers,
    recent: Recent,
    config_hash: String,
}

larder_core::counters! {
    /// Counts of the server as a whole.
    pub struct ServerCounters {
        /// Messages that could not be understood and got no answer
        dropped_messages => "lmcache_mp_dropped_messages_total",
        /// Replies not sent because the peer was gone or did not read
        unsent_replies => "lmcache_mp_unsent_replies_total",
        /// HTTP requests refused because a browser sent them on behalf of another site, or under an unknown host name
        http_foreign_requests => "lmcache_mp_http_foreign_requests_total",
    }
}

/// The number of open connections.
#[derive(Debug, Default)]
pub struct Connections(AtomicI64);

impl Connections {
    /// Adds 1.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Subtracts 1.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metrics {
    /// Everything at zero. `adapters` are the types of L2's adapters, in the order of their ids.
    pub fn new(adapters: &[&'static str], config: &Config) -> Self {
        Self {
            connections: Connections::default(),
            counters: Mutex::default(),
            requests: Requests::default(),
            tenants: Tenants::default(),
            copies: Copies::default(),
            adapters: AdapterTransfers::new(adapters),
            recent: Recent::default(),
            config_hash: hash(config),
        }
    }

    /// Changes the server's counters.
    pub fn count(&self, add: impl FnOnce(&mut ServerCounters)) {
        add(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts a request that arrived at `started` and has ended now.
    pub fn request(&self, operation: Operation, outcome: Outcome, started: Instant) {
        self.requests.count(operation, outcome, started.elapsed());
    }

    /// Latencies by operation, for operations that were requested.
    pub fn latencies(&self) -> impl Iterator<Item = (Operation, Latency)> {
        self.requests.latencies()
    }

    /// What an adapter has loaded and what it has stored.
    pub fn l2_traffic(&self, adapter: AdapterId) -> (Traffic, Traffic) {
        self.adapters.traffic(adapter)
    }

    /// Starts the series of a model: a worker has registered.
    pub fn expect(&self, model: &Arc<str>) {
        self.tenants.expect(model);
    }

    /// Counts a finished lookup of `requested` chunks.
    pub fn lookup(&self, model: &Arc<str>, salt: &Arc<str>, requested: u64, hit: &Hit, chunk_tokens: u64) {
        self.tenants.lookup(model, salt, requested, hit, chunk_tokens);
        self.recent.lookup(requested, hit, chunk_tokens);
    }

    /// Counts a lookup that ended before the search.
    pub fn early_exit(&self, model: &Arc<str>, salt: &Arc<str>, why: EarlyExit) {
        self.tenants.early_exit(model, salt, why);
    }

    /// Notes the start of a copy by a worker.
    pub fn copy_begins(&self, direction: Direction, spec: &TransferSpec<'_>) {
        self.copies.begin(direction, spec);
    }

    /// Counts the objects and bytes of a finished copy.
    pub fn copied(&self, direction: Direction, spec: &TransferSpec<'_>, (objects, bytes): (u64, u64)) {
        let time = self.copies.end(direction, spec);
        let timed = match direction {
            Direction::Store => Timed::L1Store,
            Direction::Retrieve => Timed::L1Retrieve,
        };
        self.recent.moved(timed, bytes, time);
        let speed = time.filter(|_| bytes > 0).map(|time| gigabytes_per_second(bytes, time));
        let rank = spec.rank.0 & 0xff;
        self.tenants.copied((spec.model, spec.salt, rank), direction, (objects, bytes), speed);
    }

    /// Counts a batch of stores that an adapter has answered.
    pub fn l2_stored(&self, adapter: AdapterId, batch: &Batch) {
        self.adapters.stored(adapter, batch);
        self.recent.moved(Timed::L2Store, batch.bytes, Some(batch.time));
    }

    /// Counts a batch of loads that an adapter has answered.
    pub fn l2_loaded(&self, adapter: AdapterId, batch: &Batch) {
        self.adapters.loaded(adapter, batch);
        self.recent.moved(Timed::L2Load, batch.bytes, Some(batch.time));
    }

    /// The last 1, 5 and 15 minutes, as `GET /cache/stats` reports them.
    pub fn recent(&self) -> serde_json::Value {
        self.recent.report()
    }
}

impl Collect for Metrics {
    fn collect(&self, out: &mut Families) {
        out.gauge("lmcache_mp_connections", "Connected request peers", &[], self.connections.get() as f64);
        let counters = *self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        out.exposed(ServerCounters::EXPOSED, str::to_owned, [(Labels::new(), &counters)].into_iter());
        self.requests.collect(out);
        self.tenants.collect(out);
        self.adapters.collect(out);
    }
}

/// A hash of the configuration without the server's own name: equal on servers that are meant to be equal.
fn hash(config: &Config) -> String {
    let mut json = config.to_reference_json();
    json["mp"]["instance_id"] = "".into();
    json["observability"]["service_instance_id"] = "".into();
    blake3::hash(json.to_string().as_bytes()).to_hex()[..16].to_owned()
}
