//! Counters by model and cache salt, and by nothing that clients could make up without end.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use larder_core::Hit;
use larder_core::stats::NAMES_MAX;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{DEVICE, OTHERS, speeds};

/// Distinct (model, salt) pairs that get series of their own; the others share one.
const TENANTS_MAX: usize = NAMES_MAX;

/// Ranks that get series of their own; those beyond share one.
const RANKS_MAX: u32 = 16;

/// Why a lookup ended before it looked, in LMCache's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyExit {
    /// No worker of that model is registered.
    NoWorker,
    /// The prompt has no whole chunk.
    NoChunk,
}

impl EarlyExit {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::NoWorker => "no_gpu_context",
            Self::NoChunk => "empty_chunk_hashes",
        }
    }
}

/// Which way bytes go between a worker and L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the worker.
    Store,
    /// To the worker.
    Retrieve,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantLabels {
    model_name: String,
    cache_salt: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExitLabels {
    model_name: String,
    cache_salt: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RankLabels {
    worker_id: String,
    model_name: String,
    cache_salt: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    device: &'static str,
    model_name: String,
}

/// Model and cache salt.
type TenantName = (Arc<str>, Arc<str>);
type ByTenant = Family<TenantLabels, Counter<u64, AtomicU64>>;
type Speeds = Family<ModelLabels, Histogram, fn() -> Histogram>;

#[derive(Debug)]
struct Families {
    lookups: ByTenant,
    early_exits: Family<ExitLabels, Counter>,
    requested_tokens: ByTenant,
    hit_tokens: ByTenant,
    hit_l1_tokens: ByTenant,
    hit_l2_tokens: ByTenant,
    hit_l1_keys: ByTenant,
    hit_l2_keys: ByTenant,
    stored_bytes: ByTenant,
    retrieved_bytes: ByTenant,
    chunks_loaded: Family<RankLabels, Counter>,
    store_speed: Speeds,
    retrieve_speed: Speeds,
}

/// Counters of one (model, salt) pair.
#[derive(Clone, Debug)]
struct Tenant {
    labels: TenantLabels,
    lookups: Counter,
    requested_tokens: Counter,
    hit_tokens: Counter,
    hit_l1_tokens: Counter,
    hit_l2_tokens: Counter,
    hit_l1_keys: Counter,
    hit_l2_keys: Counter,
    stored_bytes: Counter,
    retrieved_bytes: Counter,
    store_speed: Histogram,
    retrieve_speed: Histogram,
}

/// Counters of all pairs.
#[derive(Debug)]
pub(super) struct Tenants {
    families: Families,
    known: RwLock<HashMap<TenantName, Tenant>>,
    others: Tenant,
}

impl Families {
    fn register(registry: &mut Registry) -> Self {
        let by_tenant = |registry: &mut Registry, name: &str, help: &str| {
            let family = ByTenant::default();
            registry.register(name, help, family.clone());
            family
        };
        let speed = |registry: &mut Registry, name: &str, help: &str| {
            let family: Speeds = Family::new_with_constructor(speeds);
            registry.register(name, help, family.clone());
            family
        };
        let early_exits = Family::default();
        let help = "Lookups that ended before they looked";
        registry.register("lookup_early_exit_requests", help, early_exits.clone());
        let chunks_loaded = Family::default();
        registry.register("num_chunks_loaded", "Objects that workers read", chunks_loaded.clone());
        let r = registry;
        Self {
            lookups: by_tenant(r, "lookups_requests", "Finished lookups"),
            early_exits,
            requested_tokens: by_tenant(r, "lookup_requested_tokens", "Tokens looked up, in whole chunks"),
            hit_tokens: by_tenant(r, "lookup_hit_tokens", "Tokens of the prefixes found"),
            hit_l1_tokens: by_tenant(r, "lookup_hit_l1_tokens", "The part of them that L1 could serve alone"),
            hit_l2_tokens: by_tenant(r, "lookup_hit_l2_tokens", "The part of them that L2 added"),
            hit_l1_keys: by_tenant(r, "lookup_hit_l1_keys", "Objects of hits that were in L1"),
            hit_l2_keys: by_tenant(r, "lookup_hit_l2_keys", "Objects of hits that were loaded from L2"),
            stored_bytes: by_tenant(r, "stored_bytes", "Bytes that workers stored"),
            retrieved_bytes: by_tenant(r, "retrieved_bytes", "Bytes that workers retrieved"),
            chunks_loaded,
            store_speed: speed(
                r,
                "l0_l1_store_throughput_GB_per_second",
                "Bytes of a store by the time from slots given to slots filled",
            ),
            retrieve_speed: speed(
                r,
                "l0_l1_load_throughput_GB_per_second",
                "Bytes of a retrieve by the time from slots told to slots read",
            ),
        }
    }

    /// The counters of a pair, from now on at 0 in every scrape.
    fn tenant(&self, model_name: &str, cache_salt: &str) -> Tenant {
        let labels = TenantLabels { model_name: model_name.to_owned(), cache_salt: cache_salt.to_owned() };
        let of_model = ModelLabels { device: DEVICE, model_name: model_name.to_owned() };
        let counter = |family: &ByTenant| family.get_or_create(&labels).clone();
        let tenant = Tenant {
            lookups: counter(&self.lookups),
            requested_tokens: counter(&self.requested_tokens),
            hit_tokens: counter(&self.hit_tokens),
            hit_l1_tokens: counter(&self.hit_l1_tokens),
            hit_l2_tokens: counter(&self.hit_l2_tokens),
            hit_l1_keys: counter(&self.hit_l1_keys),
            hit_l2_keys: counter(&self.hit_l2_keys),
            stored_bytes: counter(&self.stored_bytes),
            retrieved_bytes: counter(&self.retrieved_bytes),
            store_speed: self.store_speed.get_or_create(&of_model).clone(),
            retrieve_speed: self.retrieve_speed.get_or_create(&of_model).clone(),
            labels,
        };
        for reason in [EarlyExit::NoWorker.reason(), EarlyExit::NoChunk.reason(), "no_group_layout_descs"] {
            self.early_exit(&tenant, reason).inc_by(0);
        }
        self.chunks_loaded(&tenant, 0).inc_by(0);
        tenant
    }

    fn early_exit(&self, tenant: &Tenant, reason: &'static str) -> Counter {
        let TenantLabels { model_name, cache_salt } = tenant.labels.clone();
        self.early_exits.get_or_create(&ExitLabels { model_name, cache_salt, reason }).clone()
    }

    fn chunks_loaded(&self, tenant: &Tenant, rank: u32) -> Counter {
        let TenantLabels { model_name, cache_salt } = tenant.labels.clone();
        let worker_id = if rank < RANKS_MAX { rank.to_string() } else { OTHERS.to_owned() };
        self.chunks_loaded.get_or_create(&RankLabels { worker_id, model_name, cache_salt }).clone()
    }
}

impl Tenants {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let families = Families::register(registry);
        let others = families.tenant(OTHERS, OTHERS);
        Self { families, known: RwLock::default(), others }
    }

    /// A worker of this model has registered: its series begin.
    pub(super) fn expect(&self, model: &Arc<str>) {
        self.tenant(model, &"".into());
    }

    pub(super) fn lookup(
        &self,
        model: &Arc<str>,
        salt: &Arc<str>,
        requested: u64,
        hit: &Hit,
        chunk_tokens: u64,
    ) {
        let tenant = self.tenant(model, salt);
        let tokens = |chunks: u32| u64::from(chunks) * chunk_tokens;
        tenant.lookups.inc();
        tenant.requested_tokens.inc_by(requested * chunk_tokens);
        tenant.hit_tokens.inc_by(tokens(hit.chunks));
        tenant.hit_l1_tokens.inc_by(tokens(hit.l1_chunks));
        tenant.hit_l2_tokens.inc_by(tokens(hit.chunks - hit.l1_chunks));
        tenant.hit_l1_keys.inc_by(u64::from(hit.l1_objects));
        tenant.hit_l2_keys.inc_by(u64::from(hit.l2_objects));
    }

    /// Models that nobody serves get no series.
    pub(super) fn early_exit(&self, model: &Arc<str>, salt: &Arc<str>, why: EarlyExit) {
        let known = self.find(model, salt);
        self.families.early_exit(known.as_ref().unwrap_or(&self.others), why.reason()).inc();
    }

    /// A copy has ended. `speed` in GB/s, if its beginning is known.
    pub(super) fn copied(
        &self,
        (model, salt, rank): (&Arc<str>, &Arc<str>, u32),
        direction: Direction,
        (objects, bytes): (u64, u64),
        speed: Option<f64>,
    ) {
        let tenant = self.tenant(model, salt);
        let (total, speeds) = match direction {
            Direction::Store => (&tenant.stored_bytes, &tenant.store_speed),
            Direction::Retrieve => (&tenant.retrieved_bytes, &tenant.retrieve_speed),
        };
        total.inc_by(bytes);
        speed.into_iter().for_each(|speed| speeds.observe(speed));
        if direction == Direction::Retrieve {
            self.families.chunks_loaded(&tenant, rank).inc_by(objects);
        }
    }

    fn find(&self, model: &Arc<str>, salt: &Arc<str>) -> Option<Tenant> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&(model.clone(), salt.clone())).cloned()
    }

    fn tenant(&self, model: &Arc<str>, salt: &Arc<str>) -> Tenant {
        if let Some(tenant) = self.find(model, salt) {
            return tenant;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= TENANTS_MAX {
            return self.others.clone();
        }
        let new = || self.families.tenant(model, salt);
        known.entry((model.clone(), salt.clone())).or_insert_with(new).clone()
    }
}
