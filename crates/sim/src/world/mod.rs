//! The simulated node: clients, their copies, the arena's bytes, the core, and the model beside it.

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

/// Something that a client will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    Query(usize),
    Retrieve { request: usize, worker: usize, start: u32 },
    Store { request: usize, worker: usize, start: u32, end: u32 },
    End(usize),
    Copy(usize),
    Commit(usize),
    Ping(usize),
    Fault,
    Answer(usize),
    Io(usize),
    IoResult(usize),
    IoEnd(usize),
    TaskResult(usize),
}

/// A worker process and its place in an engine.
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

/// A request on its way.
#[derive(Clone, Debug)]
struct Request {
    engine: usize,
    id: u32,
    salt: u8,
    node: u16,
    /// What the scheduler was told.
    hit: u32,
}

/// A slot: its first page, its pages, and whose bytes belong there.
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

/// Bytes on their way between a worker and the arena.
#[derive(Clone, Debug)]
struct Copy {
    write: bool,
    worker: usize,
    model: u8,
    node: u16,
    name: Name,
    seq: u64,
    places: Vec<Place>,
    /// Pages copied.
    at: u64,
    /// Pages of each step.
    stride: u64,
    /// Until when it may touch its slots, by what workers are promised: a second TTL for a writer,
    /// one for a reader, the quarantine once its worker or connection is gone.
    limit: Millis,
    connection: u64,
    /// Its process lives to say that it is done.
    commits: bool,
    running: bool,
}

/// What a peer asked for.
#[derive(Clone, Debug)]
struct PeerRequest {
    id: u64,
    owner: u64,
    keys: Vec<Key>,
}

/// What was seen in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Pages that readers checked.
    pub pages_read: u64,
    /// Pages that writers wrote.
    pub pages_written: u64,
    /// Of those, by copies whose worker or connection was gone.
    pub orphan_pages_written: u64,
    /// The same for reading.
    pub orphan_pages_read: u64,
    /// Stores that memory could not be made for.
    pub stores_refused: u64,
    /// Copies that were cut off by the contract, not by their end.
    pub copies_cut: u64,
    /// Stores prepared under the name of one that was still known.
    pub stores_equal: u64,
    /// Commits that came too late.
    pub commits_late: u64,
    /// Chunks evicted by stores where the exact order was checked.
    pub evictions_judged: u64,
    /// Chunks that went because a quota was lowered.
    pub evicted_for_quotas: u64,
    /// Objects reserved to be loaded.
    pub loads_reserved: u64,
    /// Pages that adapters wrote.
    pub pages_loaded: u64,
    /// Pages that adapters read and checked.
    pub pages_stored: u64,
    /// Things that adapters never did.
    pub hung: u64,
    /// Queries before there was a result.
    pub queries_pending: u64,
    /// Objects that warm-ups loaded.
    pub warm_objects: u64,
    /// Lookups after which the core would not have kept all that is loaded, where it learns.
    pub learned_otherwise: u64,
    /// Deaths of the server.
    pub server_crashes: u64,
    /// Stores to L2 tried again.
    pub stores_retried: u64,
    /// Given up.
    pub stores_failed: u64,
    /// Dropped from a full queue.
    pub stores_dropped: u64,
    /// Found to be gone.
    pub stores_gone: u64,
    /// Lookups whose hit was known from end to end.
    pub lookups_audited: u64,
}

/// Everything there is in a run.
#[derive(Debug)]
pub struct World {
    scenario: Rc<Scenario>,
    rng: Rng,
    now: Millis,
    core: Core,
    /// Somebody who reads the core's event logs.
    follower: Follower,
    model: Model,
    /// What lies in each page: whose bytes, and which of them.
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
    /// Loads that were begun, by I/O operation.
    loads: BTreeMap<u64, crate::model::Io>,
    /// Sizes that adapters ever answered with.
    told: BTreeMap<(u32, Key), Vec<u64>>,
    /// What each adapter was asked for: lookups, keys, load requests, objects, store requests, objects.
    asked: Vec<[u64; 6]>,
    /// What the servers counted that have died.
    ended: Vec<(Counters, L1Counters)>,
    queue: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    scheduled: u64,
    calls: u64,
    next_name: u64,
    seen: Seen,
    /// What happened.
    pub trace: Trace,
}

impl World {
    /// Draws a run.
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
            told: BTreeMap::new(),
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
            peer_leases_max: usize::MAX,
            peer_keys_max: usize::MAX,
            worker_reap_timeout: scenario.reap.map(Duration::from_millis),
            worker_registration_grace: Duration::from_millis(scenario.grace),
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

    /// Runs it to its end.
    ///
    /// # Panics
    /// If the core does anything that it should not.
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

    /// What all servers counted, one after the other.
    pub fn counted(&self) -> Vec<(Counters, L1Counters)> {
        let last = (*self.core.stats().requests(), *self.core.stats().l1());
        self.ended.iter().copied().chain([last]).collect()
    }

    /// What was seen.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Adds what the adapters of this server did to what was seen.
    fn note_adapters(&mut self) {
        for i in 0..self.adapters.len() {
            let counters = self.core.stats().adapter(AdapterId(i as u32));
            self.seen.stores_retried += counters.store_retried_objects;
            self.seen.stores_failed += counters.store_failed_objects;
            self.seen.stores_dropped += counters.store_dropped_objects;
            self.seen.stores_gone += counters.store_gone_objects;
        }
    }

    /// The core, to look at.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// What was drawn.
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

    /// A typical wait.
    fn pause(&mut self) -> Millis {
        self.rng.between(0, 2 * self.scenario.pace)
    }

    /// Wakes the core if it asked for it before `at`, in runs in which somebody does.
    fn wake_before(&mut self, at: Millis) -> bool {
        let due = self.core.next_deadline().map(Time::as_millis);
        let wakes = |due: &Millis| self.scenario.driven && *due < at || self.scenario.stepped() && *due <= at;
        let Some(due) = due.filter(wakes) else { return false };
        self.now = due;
        self.advance();
        true
    }

    /// Time goes by, and nobody does anything.
    fn pass(&mut self, time: Millis) {
        let until = self.now + time;
        while self.scenario.stepped() && self.wake_before(until) {}
        self.now = until;
        self.advance();
    }

    /// All clients stop; nothing of them may remain.
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
        let longest = s.session_ttl.max(2 * s.write_ttl).max(2 * s.read_ttl).max(s.l2.load_deadline);
        // What an adapter never did is done now; what it never told is given up, and tried again.
        for _ in 0..s.l2.retries + 3 {
            self.work_off();
            self.pass(longest + s.quarantine + 1001);
        }
        assert!(self.model.is_idle(), "the model holds nothing");
        let gauges = self.core.gauges();
        let held =
            [gauges.sessions, gauges.lookup_leases, gauges.stores, gauges.retrieves, gauges.peer_leases];
        assert_eq!(held, [0; 5], "somebody still holds something");
        assert_eq!(
            (gauges.quarantined_objects, gauges.l1.staged_objects, gauges.l1.unlinked_objects),
            (0, 0, 0)
        );
        let busy = [gauges.prefetch_jobs, gauges.prefetch_waiting, gauges.write_back_pending];
        assert_eq!((busy, gauges.l1.temporary_objects), ([0; 3], 0), "something goes on");
        assert_eq!(gauges.l1.evictable_bytes, gauges.l1.used_bytes, "all that is left may be evicted");
        self.audit();
        self.clear(true);
        assert_eq!(self.core.gauges().l1.used_bytes, 0, "memory was lost");
        self.note_adapters();
    }
}
