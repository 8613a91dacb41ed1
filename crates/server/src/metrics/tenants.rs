//! Counters by model and cache salt. Clients choose both names, so the number of series is bounded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use larder_core::Hit;
use larder_core::counters;
use larder_core::stats::residency::Histogram;
use larder_core::stats::{NAME_BYTES_MAX, NAMES_MAX};

use super::family::{Collect, DEVICE, Distribution, Families, Labels, OTHERS, owned};
use super::speed::{SPEED_BUCKETS, SpeedHistogram};
use crate::observe::event::{Direction, EarlyExit};

/// (model, salt) pairs that get their own series; all others are counted together.
const TENANTS_MAX: usize = NAMES_MAX;

/// Ranks that get their own series; all others are counted together.
const RANKS_MAX: u32 = 16;

/// LMCache's reasons of early exits, those of [`EarlyExit`] first. The last does not occur here.
const EXIT_REASONS: [&str; 3] = ["no_gpu_context", "empty_chunk_hashes", "no_group_layout_descs"];

impl EarlyExit {
    pub(crate) const fn reason(self) -> &'static str {
        EXIT_REASONS[self as usize]
    }
}

counters! {
    /// Counts of one model and cache salt.
    struct TenantCounters {
        /// Finished lookups
        lookups => "lmcache_mp_lookups_requests_total",
        /// Tokens looked up, in whole chunks
        requested_tokens => "lmcache_mp_lookup_requested_tokens_total",
        /// Tokens of the prefixes found
        hit_tokens => "lmcache_mp_lookup_hit_tokens_total",
        /// Tokens of the prefixes found that L1 had
        hit_l1_tokens => "lmcache_mp_lookup_hit_l1_tokens_total",
        /// Tokens of the prefixes found that L2 added
        hit_l2_tokens => "lmcache_mp_lookup_hit_l2_tokens_total",
        /// Objects of hits that were in L1
        hit_l1_keys => "lmcache_mp_lookup_hit_l1_keys_total",
        /// Objects of hits that were loaded from L2
        hit_l2_keys => "lmcache_mp_lookup_hit_l2_keys_total",
        /// Bytes that workers stored
        stored_bytes => "lmcache_mp_stored_bytes_total",
        /// Bytes that workers retrieved
        retrieved_bytes => "lmcache_mp_retrieved_bytes_total",
    }
}

/// Counts of one (model, salt) pair.
#[derive(Debug)]
struct Tenant {
    counters: TenantCounters,
    early_exits: [u64; EXIT_REASONS.len()],
    /// Objects loaded by rank; [`RANKS_MAX`] stands for all higher ranks.
    chunks_loaded: BTreeMap<u32, u64>,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            counters: TenantCounters::default(),
            early_exits: Default::default(),
            chunks_loaded: BTreeMap::from([(0, 0)]),
        }
    }
}

/// Speeds of copies of one model.
#[derive(Debug)]
struct Speeds {
    store: SpeedHistogram,
    retrieve: SpeedHistogram,
}

/// Model and cache salt.
type TenantName = (Arc<str>, Arc<str>);

/// Counts of all pairs. A series exists with 0 from the registration of its model on.
#[derive(Debug)]
struct ByName {
    tenants: BTreeMap<TenantName, Tenant>,
    /// In all names.
    name_bytes: usize,
    speeds: BTreeMap<Arc<str>, Speeds>,
}

/// Counts of all pairs.
#[derive(Debug)]
pub(super) struct Tenants(Mutex<ByName>);

/// The name of all pairs that have no series of their own.
fn others() -> TenantName {
    (OTHERS.into(), OTHERS.into())
}

impl ByName {
    /// The tenant with this name, or the one that stands for all others.
    fn get_or_insert(&mut self, model: &Arc<str>, salt: &Arc<str>) -> (&mut Tenant, &mut Speeds) {
        let mut name = (model.clone(), salt.clone());
        // One more than the bound: the others.
        if !self.tenants.contains_key(&name) {
            let bytes = model.len() + salt.len();
            if self.tenants.len() > TENANTS_MAX || self.name_bytes + bytes > NAME_BYTES_MAX {
                name = others();
            } else {
                self.name_bytes += bytes;
            }
        }
        let empty =
            || Speeds { store: Histogram::new(&SPEED_BUCKETS), retrieve: Histogram::new(&SPEED_BUCKETS) };
        let speeds = self.speeds.entry(name.0.clone()).or_insert_with(empty);
        (self.tenants.entry(name).or_default(), speeds)
    }
}

impl Default for Tenants {
    fn default() -> Self {
        let mut names = ByName { tenants: BTreeMap::new(), name_bytes: 0, speeds: BTreeMap::new() };
        let (model, salt) = others();
        names.get_or_insert(&model, &salt);
        Self(Mutex::new(names))
    }
}

impl Tenants {
    fn with<T>(
        &self,
        model: &Arc<str>,
        salt: &Arc<str>,
        count: impl FnOnce(&mut Tenant, &mut Speeds) -> T,
    ) -> T {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (tenant, speeds) = names.get_or_insert(model, salt);
        count(tenant, speeds)
    }

    /// Starts the series of a model.
    pub(super) fn expect(&self, model: &Arc<str>) {
        self.with(model, &"".into(), |_, _| ());
    }

    pub(super) fn lookup(
        &self,
        model: &Arc<str>,
        salt: &Arc<str>,
        requested: u64,
        hit: &Hit,
        chunk_tokens: u64,
    ) {
        let tokens = |chunks: u32| u64::from(chunks) * chunk_tokens;
        self.with(model, salt, |Tenant { counters, .. }, _| {
            counters.lookups += 1;
            counters.requested_tokens += requested * chunk_tokens;
            counters.hit_tokens += tokens(hit.chunks);
            counters.hit_l1_tokens += tokens(hit.l1_chunks);
            counters.hit_l2_tokens += tokens(hit.chunks - hit.l1_chunks);
            counters.hit_l1_keys += u64::from(hit.l1_objects);
            counters.hit_l2_keys += u64::from(hit.l2_objects);
        });
    }

    /// Counts under "(other)" if the pair has no series: any client can look up any name.
    pub(super) fn early_exit(&self, model: &Arc<str>, salt: &Arc<str>, why: EarlyExit) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = Some((model.clone(), salt.clone())).filter(|name| names.tenants.contains_key(name));
        let (model, salt) = name.unwrap_or_else(others);
        names.get_or_insert(&model, &salt).0.early_exits[why as usize] += 1;
    }

    /// Counts a finished copy. `speed` is in GB/s, if the start of the copy is known.
    pub(super) fn copied(
        &self,
        (model, salt, rank): (&Arc<str>, &Arc<str>, u32),
        direction: Direction,
        (objects, bytes): (u64, u64),
        speed: Option<f64>,
    ) {
        self.with(model, salt, |tenant, speeds| {
            let (total, speeds) = match direction {
                Direction::Store => (&mut tenant.counters.stored_bytes, &mut speeds.store),
                Direction::Retrieve => (&mut tenant.counters.retrieved_bytes, &mut speeds.retrieve),
            };
            *total += bytes;
            speed.into_iter().for_each(|speed| speeds.observe(speed));
            if direction == Direction::Retrieve {
                *tenant.chunks_loaded.entry(rank.min(RANKS_MAX)).or_default() += objects;
            }
        });
    }
}

impl Collect for Tenants {
    fn collect(&self, out: &mut Families) {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tenants = || {
            let labels = |(model, salt): &TenantName| owned(&[("model_name", model), ("cache_salt", salt)]);
            names.tenants.iter().map(move |(name, tenant)| (labels(name), tenant))
        };
        let with = |labels: &Labels, name, value: &str| {
            labels.iter().cloned().chain([(name, value.to_owned())]).collect::<Labels>()
        };
        let counters = tenants().map(|(labels, tenant)| (labels, &tenant.counters));
        out.exposed(TenantCounters::EXPOSED, |label| label.to_owned(), counters);
        let exits = tenants().flat_map(|(labels, tenant)| {
            let exits = EXIT_REASONS.into_iter().zip(tenant.early_exits);
            exits.map(move |(reason, count)| (with(&labels, "reason", reason), count as f64))
        });
        let name = "lmcache_mp_lookup_early_exit_requests_total";
        out.counters(name, "Lookups that ended before the search: unknown model, or no whole chunk", exits);
        let loaded = tenants().flat_map(|(labels, tenant)| {
            tenant.chunks_loaded.iter().map(move |(rank, count)| {
                let rank = if *rank < RANKS_MAX { rank.to_string() } else { OTHERS.to_owned() };
                (with(&labels, "worker_id", &rank), *count as f64)
            })
        });
        let help = "Objects that workers retrieved; `worker_id` is the worker's rank";
        out.counters("lmcache_mp_num_chunks_loaded_total", help, loaded);
        let speeds = |read: fn(&Speeds) -> &SpeedHistogram| {
            names.speeds.iter().map(move |(model, speeds)| {
                (owned(&[("device", DEVICE), ("model_name", model)]), Distribution::from(read(speeds)))
            })
        };
        let name = "lmcache_mp_l0_l1_store_throughput_GB_per_second";
        out.histograms(
            name,
            "Speed of stores, from the answer with slots to the commit",
            speeds(|s| &s.store),
        );
        let name = "lmcache_mp_l0_l1_load_throughput_GB_per_second";
        out.histograms(
            name,
            "Speed of retrieves, from the answer with slots to the commit",
            speeds(|s| &s.retrieve),
        );
    }
}
