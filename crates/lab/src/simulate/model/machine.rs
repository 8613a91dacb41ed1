//! Replays a trace on the server's storage core, as a server with one worker would call it.

use larder_policy::AdapterDesc;
use larder_types::AdapterId;
use larder_types::ConnectionId;
use larder_types::InstanceId;
use larder_types::Layout;
use larder_types::Time;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use larder_core::Effect;
use larder_core::LookupSpec;
use larder_core::LookupStatus;
use larder_core::StoreResult;
use larder_core::TransferSpec;
use larder_core::{Core, CoreConfig};
use larder_core::{Group, WorkerSpec};
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank};

use super::tier::Tier;
use super::{Counts, Serve, Setup};
use crate::simulate::trace::{ChunkNumber, Trace};

/// For all timeouts: sessions, leases and loads end only by events of the trace.
const NEVER: Duration = Duration::from_secs(u64::MAX / 10_000);

const WORKER: InstanceId = InstanceId(1);
const CONNECTION: ConnectionId = ConnectionId(1);
const L2: AdapterId = AdapterId(0);

/// A storage core with one model, one worker and an L2 that answers at once.
#[derive(Debug)]
pub struct Machine<'a> {
    trace: &'a Trace,
    core: Core,
    l2: Option<Tier>,
    numbers: HashMap<ChunkHash, u32>,
    model: Arc<str>,
    salt: Arc<str>,
    now: Time,
    open: HashMap<usize, Open>,
}

/// A request between its lookup and its end.
#[derive(Debug)]
struct Open {
    name: Arc<str>,
    chain: Arc<[ChunkHash]>,
    hit: u32,
}

impl<'a> Machine<'a> {
    /// A new core and an empty L2. A chunk is one byte, so the capacity in bytes is the capacity in chunks.
    pub fn new(trace: &'a Trace, setup: &Setup) -> Self {
        let l2 = Tier::new(setup.l2, trace.unique_chunks());
        let adapters = match l2 {
            Some(_) => vec![AdapterDesc { name: "l2".into(), readable: true }],
            None => Vec::new(),
        };
        let mut core = Core::new(CoreConfig {
            capacity_bytes: setup.l1_chunks,
            align_bytes: 1,
            eviction: setup.eviction,
            prefetch_policy: setup.prefetch,
            store_policy: setup.store,
            adapters,
            read_ttl: NEVER,
            write_ttl: NEVER,
            session_ttl: NEVER,
            load_deadline: NEVER,
            sessions_max: usize::MAX,
            sessions_bytes_max: usize::MAX,
            worker_reap_timeout: None,
            prefetch_jobs_max: usize::MAX,
            prefetch_bytes_max: u64::MAX,
            write_back_bytes_max: u64::MAX,
            write_back_queue_max: usize::MAX,
            ..CoreConfig::default()
        });
        let model: Arc<str> = trace.model.clone().unwrap_or_else(|| "model".into());
        let layout = Layout::new(&[1], DType::UInt8).expect("one byte");
        let groups = vec![Group { id: 0, window: None, layout }];
        core.register(
            Time::ZERO,
            CONNECTION,
            WorkerSpec { instance: WORKER, model: model.clone(), world_size: 1, block_tokens: None, groups },
        );
        let numbers = match l2 {
            Some(_) => trace.hashes().iter().copied().zip(0..).collect(),
            None => HashMap::new(),
        };
        Self { trace, core, l2, numbers, model, salt: "".into(), now: Time::ZERO, open: HashMap::new() }
    }

    /// The core, for checks in tests.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Whether a chunk is in L1.
    pub fn holds(&self, chunk: ChunkNumber) -> bool {
        self.core.index().chunk(&self.model, &self.salt, self.trace.hash(chunk)).is_some()
    }

    /// Executes the effects of the core on L2 until there are none left.
    fn carry_out(&mut self) {
        let Some(l2) = &mut self.l2 else { return };
        let number = |hash: &ChunkHash| self.numbers[hash];
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Lookup { lookup, keys, .. } => {
                        let sizes: Vec<Option<u64>> =
                            keys.iter().map(|key| l2.find(number(&key.chunk_hash)).then_some(1)).collect();
                        self.core.l2_found(self.now, lookup, &sizes);
                    }
                    Effect::Load { items, .. } => {
                        for item in items {
                            self.core.l2_loaded(self.now, item.io, true);
                            self.core.io_ended(self.now, item.io);
                        }
                    }
                    Effect::Store { task, items, .. } => {
                        for item in &items {
                            l2.put(number(&item.key.chunk_hash));
                            self.core.io_ended(self.now, item.io);
                        }
                        self.core.l2_stored(self.now, task, &vec![StoreResult::Stored; items.len()]);
                    }
                    Effect::LookupDone(_) | Effect::PrefetchDone { .. } | Effect::CheckProcess { .. } => {}
                }
            }
        }
    }
}

impl Serve for Machine<'_> {
    fn lookup(&mut self, request: usize) {
        let asked = &self.trace.requests()[request];
        self.now = Time::from_millis(asked.at_ms);
        let hashes = |chunks: &[_]| chunks.iter().map(|chunk| *self.trace.hash(*chunk)).collect();
        let chain: Arc<[ChunkHash]> = hashes(self.trace.chunks(asked));
        let looked_up = self.trace.looked_up(asked);
        let shorter = (looked_up.len() < chain.len()).then(|| hashes(looked_up));
        let name: Arc<str> = request.to_string().into();
        let spec = LookupSpec {
            request_id: &name,
            connection: CONNECTION,
            model: &self.model,
            world_size: 1,
            worker_id: None,
            salt: &self.salt,
            chunk_hashes: shorter.as_ref().unwrap_or(&chain),
            start: 0,
            readers: 1,
        };
        self.core.lookup(self.now, &spec);
        self.carry_out();
        let status = self.core.take_result(self.now, CONNECTION, &name);
        let hit = if let LookupStatus::Ready(hit) = status { hit } else { 0 };
        self.open.insert(request, Open { name, chain, hit });
    }

    fn retrieve(&mut self, request: usize, start: u32, end: u32) {
        let Some(open) = self.open.get(&request).filter(|_| start < end) else { return };
        let spec = spec(open, (&self.model, &self.salt), start, end);
        let slots = self.core.prepare_retrieve(self.now, &spec).expect("the worker is registered");
        if slots.is_some() {
            self.core.commit_retrieve(self.now, &spec);
        }
        self.carry_out();
    }

    fn store(&mut self, request: usize, start: u32, end: u32) {
        let Some(open) = self.open.get(&request).filter(|_| start < end) else { return };
        let spec = spec(open, (&self.model, &self.salt), start, end);
        let prepared = self.core.prepare_store(self.now, &spec).expect("the worker is registered");
        if !prepared.slots.is_empty() {
            self.core.commit_store(self.now, &spec);
        }
        self.carry_out();
    }

    fn end(&mut self, request: usize) {
        if let Some(Open { name, .. }) = self.open.remove(&request) {
            self.core.end_session(self.now, CONNECTION, &name);
            self.carry_out();
        }
    }

    fn hit(&self, request: usize) -> u32 {
        self.open.get(&request).map_or(0, |open| open.hit)
    }

    fn counts(&self) -> Counts {
        let (counters, l1) = (self.core.stats().requests(), self.core.stats().l1());
        let l2 = self.l2.as_ref().map(|l2| (self.core.stats().adapter(L2), l2.evicted));
        Counts {
            requests: 0,
            tokens: 0,
            chunk_accesses: counters.lookup_requested_chunks,
            l1_hits: counters.lookup_hit_objects - counters.l2.hit_objects,
            l2_hits: counters.l2.hit_objects,
            l2_reads: l2.map_or(0, |(adapter, _)| adapter.loaded_objects),
            no_space: counters.l2.no_room_objects,
            l2_writes: l2.map_or(0, |(adapter, _)| adapter.stored_objects),
            l1_evictions: l1.evicted_chunks,
            l2_evictions: l2.map_or(0, |(_, evicted)| evicted),
        }
    }
}

/// The store or retrieve of chunks `start..end` of a request.
fn spec<'a>(
    open: &'a Open,
    (model, salt): (&'a Arc<str>, &'a Arc<str>),
    start: u32,
    end: u32,
) -> TransferSpec<'a> {
    TransferSpec {
        instance: WORKER,
        connection: CONNECTION,
        request_id: &open.name,
        model,
        rank: KvRank::new(1, 0),
        salt,
        chunk_hashes: &open.chain,
        start,
        end,
    }
}
