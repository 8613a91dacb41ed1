//! The simulated node: clients, their copies, adapters, the arena's bytes, the core and the model.

mod adapters;
mod audit;
mod calls;
mod checks;
mod clients;
mod events;
mod faults;
mod l2;

use larder_types::{AdapterId, Time};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use larder_core::stats::{Counters, L1Counters};
use larder_core::{Core, CoreConfig};
use larder_policy::AdapterDesc;
use larder_types::object::KvRank;

use self::adapters::{Adapter, Io, Question, Task};
use self::events::Follower;
use crate::model::{Key, Model, Name};
use crate::rng::Rng;
use crate::scenario::{EngineSpec, Millis, Scenario};
use crate::trace::Trace;

/// A scheduled step of a client or an adapter, or a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    Query(usize),
    Retrieve {
        request: usize,
        worker: usize,
        start: u32,
    },
    Store {
        request: usize,
        worker: usize,
        start: u32,
        end: u32,
    },
    End(usize),
    Copy(usize),
    Commit(usize),
    Ping(usize),
    /// The process that used a connection has ended.
    Gone(u64),
    Fault,
    Answer(usize),
    Io(usize),
    IoResult(usize),
    IoEnd(usize),
    TaskResult(usize),
}

/// A worker process of an engine.
#[derive(Clone, Debug)]
struct Worker {
    spec: EngineSpec,
    rank: KvRank,
    instance: i64,
    connection: u64,
    silent_until: Millis,
}

/// An engine's scheduler.
#[derive(Clone, Debug)]
struct Engine {
    spec: EngineSpec,
    connection: u64,
    workers: Vec<usize>,
}

/// A request of an engine.
#[derive(Clone, Debug)]
struct Request {
    engine: usize,
    id: u32,
    salt: u8,
    node: u16,
    /// The hit that the query returned.
    hit: u32,
}

/// A slot: its first page, its number of pages, and the key of its object.
#[derive(Clone, Copy, Debug)]
struct Place {
    page: u64,
    pages: u64,
    key: Key,
}

/// The slots of a transfer.
#[derive(Clone, Debug)]
struct Granted {
    seq: u64,
    places: Vec<Place>,
}

/// A copy between a worker and the arena.
#[derive(Clone, Debug)]
struct Copy {
    write: bool,
    worker: usize,
    model: u8,
    node: u16,
    name: Name,
    seq: u64,
    places: Vec<Place>,
    /// Pages copied so far.
    at: u64,
    /// Pages of a step.
    stride: u64,
    /// Until when it may access its slots: one TTL, and for a store the quarantine after that, or after its worker or
    /// connection is lost.
    limit: Millis,
    connection: u64,
    /// Whether it is committed at its end: not if its process has died.
    commits: bool,
    running: bool,
}

/// A lookup of a peer.
#[derive(Clone, Debug)]
struct PeerRequest {
    id: u64,
    owner: u64,
    keys: Vec<Key>,
}

/// Events that the harness counted in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Pages that retrieves read and checked.
    pub pages_read: u64,
    /// Pages that stores wrote.
    pub pages_written: u64,
    /// Of those, pages written after the store expired or lost its worker or connection.
    pub orphan_pages_written: u64,
    /// The same for pages read by retrieves.
    pub orphan_pages_read: u64,
    /// Stores that got fewer slots than they needed.
    pub stores_refused: u64,
    /// Copies stopped at their time limit.
    pub copies_cut: u64,
    /// Stores prepared with the name of a transfer that was still known.
    pub stores_equal: u64,
    /// Objects that workers left out of stores.
    pub chunks_skipped: u64,
    /// Commits of stores that had expired.
    pub commits_late: u64,
    /// Chunks evicted with their exact order checked.
    pub evictions_judged: u64,
    /// Chunks evicted after a change of quotas.
    pub evicted_for_quotas: u64,
    /// Objects reserved for loads.
    pub loads_reserved: u64,
    /// Pages that adapters loaded.
    pub pages_loaded: u64,
    /// Pages that adapters stored, after checking them.
    pub pages_stored: u64,
    /// Steps of adapters that hung.
    pub hung: u64,
    /// Queries answered as pending.
    pub queries_pending: u64,
    /// Objects loaded by prefetch requests.
    pub warm_objects: u64,
    /// Reads of the core's reuse predictor that excluded some chunks.
    pub learned_otherwise: u64,
    /// Server crashes.
    pub server_crashes: u64,
    /// Objects of stores to L2 that were retried.
    pub stores_retried: u64,
    /// Objects of stores to L2 that failed after the last attempt.
    pub stores_failed: u64,
    /// Objects of stores to L2 that were dropped from a full queue.
    pub stores_dropped: u64,
    /// Objects of stores to L2 that had been removed before.
    pub stores_gone: u64,
    /// Lookups at the end of a run with their exact hit checked.
    pub lookups_audited: u64,
}

/// The state of a run.
#[derive(Debug)]
pub struct World {
    scenario: Rc<Scenario>,
    rng: Rng,
    now: Millis,
    core: Core,
    /// A reader of the core's event logs.
    follower: Follower,
    model: Model,
    /// The [tag](clients::tag) in each page.
    memory: Vec<u64>,
    /// Pages that the core may use.
    pages: u64,
    copies: Vec<Copy>,
    engines: Vec<Engine>,
    workers: Vec<Worker>,
    requests: Vec<Request>,
    /// Request ids by number.
    ids: Vec<Arc<str>>,
    peers: Vec<PeerRequest>,
    warms: Vec<u64>,
    adapters: Vec<Adapter>,
    questions: Vec<Question>,
    ios: Vec<Io>,
    tasks: Vec<Task>,
    /// All loads begun, by I/O operation.
    loads: BTreeMap<u64, crate::model::Io>,
    /// Sizes that adapters have reported.
    sizes_reported: BTreeMap<(u32, Key), Vec<u64>>,
    /// Counts for each adapter: lookups, their keys, loads, their objects, stores, their objects.
    asked: Vec<[u64; 6]>,
    /// Counters of the servers that have died.
    ended: Vec<(Counters, L1Counters)>,
    queue: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    scheduled: u64,
    calls: u64,
    next_name: u64,
    seen: Seen,
    /// The steps so far.
    pub trace: Trace,
}

impl World {
    /// Draws the scenario of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let scenario = Rc::new(Scenario::draw(&mut rng));
        let scenario_adapters = scenario.l2.adapters.len();
        let mut core = Core::new(Self::config(&scenario));
        Self {
            follower: Follower::new(&mut core),
            core,
            model: Model::new(scenario.clone()),
            memory: vec![0; (scenario.capacity / scenario.page) as usize],
            pages: scenario.capacity / scenario.page,
            scenario,
            rng,
            now: 0,
            copies: Vec::new(),
            engines: Vec::new(),
            workers: Vec::new(),
            requests: Vec::new(),
            ids: Vec::new(),
            peers: Vec::new(),
            warms: Vec::new(),
            adapters: vec![Adapter::default(); scenario_adapters],
            questions: Vec::new(),
            ios: Vec::new(),
            tasks: Vec::new(),
            loads: BTreeMap::new(),
            sizes_reported: BTreeMap::new(),
            asked: vec![[0; 6]; scenario_adapters],
            ended: Vec::new(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            calls: 0,
            next_name: 1,
            seen: Seen::default(),
            trace: Trace::default(),
        }
    }

    fn config(scenario: &Scenario) -> CoreConfig {
        let l2 = &scenario.l2;
        let adapters = l2
            .adapters
            .iter()
            .enumerate()
            .map(|(i, a)| AdapterDesc { name: format!("adapter-{i}").into(), readable: a.persists });
        CoreConfig {
            capacity_bytes: scenario.capacity,
            align_bytes: scenario.page,
            eviction: scenario.eviction,
            trim: scenario.trim,
            read_ttl: Duration::from_millis(scenario.read_ttl),
            write_ttl: Duration::from_millis(scenario.write_ttl),
            session_ttl: Duration::from_millis(scenario.session_ttl),
            sessions_max: usize::MAX,
            sessions_bytes_max: usize::MAX,
            client_share: 1.0,
            workers_max: usize::MAX,
            workers_per_connection_max: usize::MAX,
            worker_groups_max: usize::MAX,
            worker_name_bytes_max: usize::MAX,
            peer_leases_max: usize::MAX,
            peer_keys_max: usize::MAX,
            worker_reap_timeout: scenario.reap.map(Duration::from_millis),
            worker_registration_grace: Duration::from_millis(scenario.grace),
            worker_disconnect_grace: scenario.disconnect_grace.map(Duration::from_millis),
            quarantine: Duration::from_millis(scenario.quarantine),
            adapters: adapters.collect(),
            prefetch_policy: l2.prefetch,
            store_policy: l2.store,
            load_deadline: Duration::from_millis(l2.load_deadline),
            prefetch_jobs_max: l2.jobs,
            prefetch_bytes_max: l2.load_bytes,
            write_back_tasks_max: l2.tasks,
            write_back_objects_max: l2.batch,
            write_back_bytes_max: l2.store_bytes,
            write_back_queue_max: l2.queue,
            write_back_retries: l2.retries,
            residency_sample: 1.0,
        }
    }

    /// Runs the scenario to its end.
    ///
    /// # Panics
    /// If a check fails.
    pub fn run(&mut self) {
        self.learn();
        self.start();
        while self.calls < self.scenario.calls {
            let Some(Reverse((at, _, event))) = self.queue.peek().copied() else { break };
            if self.wake_before(at) {
                continue;
            }
            self.queue.pop();
            self.now = at;
            self.model.advance(at);
            self.cut_copies();
            self.handle(event);
        }
        self.finish();
    }

    /// Counters of all server processes, in order.
    pub fn counted(&self) -> Vec<(Counters, L1Counters)> {
        let last = (*self.core.stats().requests(), *self.core.stats().l1());
        self.ended.iter().copied().chain([last]).collect()
    }

    /// Events counted so far.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Adds this server's counters of adapters to the counted events.
    fn note_adapters(&mut self) {
        for i in 0..self.adapters.len() {
            let counters = self.core.stats().adapter(AdapterId(i as u32));
            self.seen.stores_retried += counters.store_retried_objects;
            self.seen.stores_failed += counters.store_failed_objects;
            self.seen.stores_dropped += counters.store_dropped_objects;
            self.seen.stores_gone += counters.store_gone_objects;
        }
    }

    /// The core.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The scenario.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    fn fresh(&mut self) -> u64 {
        self.next_name += 1;
        self.next_name
    }

    fn schedule(&mut self, after: Millis, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((self.now + after, self.scheduled, event)));
    }

    /// A random wait, on average the clients' typical pause.
    fn pause(&mut self) -> Millis {
        self.rng.between(0, 2 * self.scenario.pace)
    }

    /// Wakes the core at its next deadline if that is before `at`, in runs that do so. Returns whether it did.
    fn wake_before(&mut self, at: Millis) -> bool {
        let due = self.core.next_deadline().map(Time::as_millis);
        let wakes = |due: &Millis| self.scenario.driven && *due < at || self.scenario.stepped() && *due <= at;
        let Some(due) = due.filter(wakes) else { return false };
        self.now = due;
        self.advance();
        true
    }

    /// Advances time without calls of clients.
    fn pass(&mut self, time: Millis) {
        let until = self.now + time;
        while self.scenario.stepped() && self.wake_before(until) {}
        self.now = until;
        self.advance();
    }

    /// Stops all clients, lets everything expire, and checks that nothing is held.
    fn finish(&mut self) {
        let s = self.scenario.clone();
        if self.rng.chance(50) {
            let connections: Vec<u64> = self.workers.iter().map(|w| w.connection).collect();
            connections
                .into_iter()
                .chain(self.engines.clone().iter().map(|e| e.connection))
                .for_each(|c| self.lose(c));
            self.peers.clone().iter().for_each(|p| self.lose(p.owner));
        }
        let longest =
            s.session_ttl.max(2 * s.write_ttl + s.quarantine).max(2 * s.read_ttl).max(s.l2.load_deadline);
        // Adapters complete what hung. Results that were lost time out in the core, and stores are retried.
        for _ in 0..s.l2.retries + 3 {
            self.work_off();
            self.pass(longest + s.quarantine + 1001);
        }
        assert!(self.model.is_idle(), "the model still holds something");
        let gauges = self.core.gauges();
        let held =
            [gauges.sessions, gauges.lookup_leases, gauges.stores, gauges.retrieves, gauges.peer_leases];
        assert_eq!(held, [0; 5], "sessions, leases, stores, retrieves and peers at the end");
        assert_eq!(
            (gauges.quarantined_objects, gauges.l1.staged_objects, gauges.l1.unlinked_objects),
            (0, 0, 0),
            "quarantined, staged and unlinked objects at the end"
        );
        let busy = [gauges.prefetch_jobs, gauges.prefetch_waiting, gauges.write_back_pending];
        assert_eq!(
            (busy, gauges.l1.temporary_objects),
            ([0; 3], 0),
            "jobs, write-back and temporary objects at the end"
        );
        assert_eq!(
            gauges.l1.evictable_bytes, gauges.l1.used_bytes,
            "bytes that cannot be evicted at the end"
        );
        self.audit();
        self.clear(true);
        assert_eq!(self.core.gauges().l1.used_bytes, 0, "bytes used after a forced clear");
        self.note_adapters();
    }
}
