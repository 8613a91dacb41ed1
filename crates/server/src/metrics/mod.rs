//! What is counted, under LMCache's names where it has one.
//!
//! Two sources: counters that requests bump as they pass ([`Metrics`]), and the core's own counters
//! and gauges, read once per scrape so that one scrape is one moment. Label values are bounded:
//! operations and outcomes by their enums, models and salts by a fixed number of pairs.

mod core_metrics;
mod exposition;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use larder_wire::operation::Operation;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::state::State;

/// What every name begins with.
const PREFIX: &str = "lmcache_mp";

/// Distinct (model, salt) pairs that get series of their own; the others share one.
const TENANTS_MAX: usize = 256;

/// The label value that those beyond [`TENANTS_MAX`] share.
const OTHER_TENANTS: &str = "(other)";

/// Upper bounds of request durations, in seconds.
const DURATION_BUCKETS: [f64; 15] =
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantLabels {
    model_name: String,
    cache_salt: String,
}

/// Counters of one (model, salt) pair.
#[derive(Clone, Debug)]
struct Tenant {
    lookups: Counter,
    requested_tokens: Counter,
    hit_tokens: Counter,
    hit_l1_tokens: Counter,
    hit_l2_tokens: Counter,
}

/// Counters that requests bump.
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
    tenant_families: TenantFamilies,
    tenants: RwLock<HashMap<TenantName, Tenant>>,
}

/// Model and cache salt.
type TenantName = (Arc<str>, Arc<str>);

type TenantFamily = Family<TenantLabels, Counter<u64, AtomicU64>>;

#[derive(Debug, Default)]
struct TenantFamilies {
    lookups: TenantFamily,
    requested_tokens: TenantFamily,
    hit_tokens: TenantFamily,
    hit_l1_tokens: TenantFamily,
    hit_l2_tokens: TenantFamily,
}

impl TenantFamilies {
    fn register(&self, registry: &mut Registry) {
        let families = [
            ("lookups_requests", "Finished lookups", &self.lookups),
            ("lookup_requested_tokens", "Tokens looked up, in whole chunks", &self.requested_tokens),
            ("lookup_hit_tokens", "Tokens of the prefixes found", &self.hit_tokens),
            ("lookup_hit_l1_tokens", "The part of them that L1 could serve alone", &self.hit_l1_tokens),
            ("lookup_hit_l2_tokens", "The part of them that L2 added", &self.hit_l2_tokens),
        ];
        for (name, help, family) in families {
            registry.register(name, help, family.clone());
        }
    }

    fn tenant(&self, model_name: &str, cache_salt: &str) -> Tenant {
        let labels = TenantLabels { model_name: model_name.to_owned(), cache_salt: cache_salt.to_owned() };
        let counter = |family: &TenantFamily| family.get_or_create(&labels).clone();
        Tenant {
            lookups: counter(&self.lookups),
            requested_tokens: counter(&self.requested_tokens),
            hit_tokens: counter(&self.hit_tokens),
            hit_l1_tokens: counter(&self.hit_l1_tokens),
            hit_l2_tokens: counter(&self.hit_l2_tokens),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
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
        let tenant_families = TenantFamilies::default();
        tenant_families.register(&mut registry);
        Self {
            registry,
            connections,
            dropped_messages,
            unsent_replies,
            durations,
            by_operation: Operation::ALL.iter().map(|_| Default::default()).collect(),
            tenant_families,
            tenants: RwLock::default(),
        }
    }

    /// A request that arrived at `started` has ended.
    pub fn request(&self, operation: Operation, outcome: Outcome, started: Instant) {
        let cell = &self.by_operation[operation as usize][outcome as usize];
        let histogram = cell.get_or_init(|| {
            self.durations.get_or_create(&RequestLabels { operation: operation.name(), outcome }).clone()
        });
        histogram.observe(started.elapsed().as_secs_f64());
    }

    /// A lookup of `requested` tokens has found the first `l1` of them in L1 and the next `l2` in L2.
    pub fn lookup(&self, model: &Arc<str>, salt: &Arc<str>, requested: u64, l1: u64, l2: u64) {
        let tenant = self.tenant(model, salt);
        tenant.lookups.inc();
        tenant.requested_tokens.inc_by(requested);
        tenant.hit_tokens.inc_by(l1 + l2);
        tenant.hit_l1_tokens.inc_by(l1);
        tenant.hit_l2_tokens.inc_by(l2);
    }

    fn tenant(&self, model: &Arc<str>, salt: &Arc<str>) -> Tenant {
        let key = (model.clone(), salt.clone());
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = tenants.get(&key) {
            return tenant.clone();
        }
        let is_full = tenants.len() >= TENANTS_MAX;
        drop(tenants);
        if is_full {
            return self.tenant_families.tenant(OTHER_TENANTS, OTHER_TENANTS);
        }
        let tenant = self.tenant_families.tenant(model, salt);
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).insert(key, tenant.clone());
        tenant
    }
}

/// Everything, in the text format that Prometheus scrapes.
pub fn exposition(state: &State) -> String {
    exposition::render(&state.metrics.registry, &core_metrics::snapshot(state))
}
