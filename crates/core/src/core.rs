//! The whole storage core: one call per event, the time passed in.
//!
//! Every call first lets go of what has run out by `now`, so an answer never depends on whether
//! somebody called [`Core::advance`] in time. A driver that sleeps until
//! [`Core::next_deadline`] only makes memory come back earlier.
//!
//! The calls are grouped by whose life they belong to: [sessions](crate::requests::sessions),
//! [workers](crate::requests::workers), [transfers](crate::requests::transfers). Here is what they share: the state and the
//! clockwork.

use larder_policy::AdapterDesc;
use larder_policy::Quotas;
use larder_types::AdapterId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use larder_types::object::ObjectKey;

use crate::index::{Index, ObjectId, Removal, Usage};
use crate::io::{Effect, IoId, IoTable, TaskId};
use crate::prefetch::Prefetch;
use crate::requests::sessions::{PeerLease, Session};
use crate::requests::transfers::{Equals, Overdue, Retrieve, Store, TransferKey};
use crate::requests::workers::{Models, StrangerPings, Worker};
use crate::stats::counters::{AdapterCounters, Counters};
use crate::write_back::WriteBack;
use larder_policy::eviction::EvictionKind;
use larder_policy::reuse::{self, ReusePredictor};
use larder_policy::{OffloadKind, OffloadPolicy, PrefetchKind, PrefetchPolicy};
use larder_types::ids::{ConnectionId, InstanceId};
use larder_types::time::Time;

/// Sizes, limits and times. All of them are validated by whoever makes one.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Size of the arena in bytes.
    pub capacity_bytes: u64,
    /// Alignment of objects in the arena in bytes, a power of two.
    pub align_bytes: u64,
    /// Which chunk leaves when space is needed.
    pub eviction: EvictionKind,
    /// Besides eviction on demand: when a store leaves more than `above` of the arena used, evict
    /// until `release` of it is given back (fractions of the capacity).
    pub trim: Option<Trim>,
    /// How long a lookup's shares wait for their readers, and a retrieve may take.
    pub read_ttl: Duration,
    /// How long a worker may take to fill its slots.
    pub write_ttl: Duration,
    /// How long a session lives at most.
    pub session_ttl: Duration,
    /// How many sessions there may be; one more ends the oldest.
    pub sessions_max: usize,
    /// A worker that has pinged and then is silent for this long is dropped. `None`: never.
    pub worker_reap_timeout: Option<Duration>,
    /// The same for a worker that never pinged.
    pub worker_registration_grace: Duration,
    /// How long memory stays untouched after a worker vanished that may still be using it.
    pub quarantine: Duration,
    /// The adapters of L2, the first to be asked first.
    pub adapters: Vec<AdapterDesc>,
    /// What comes from where, and whether it stays.
    pub prefetch_policy: PrefetchKind,
    /// What goes where.
    pub store_policy: OffloadKind,
    /// A lookup is answered within this time, with what is there by then.
    pub load_deadline: Duration,
    /// Lookups that may be busy with L2 at once; further ones wait and hold nothing.
    pub prefetch_jobs_max: usize,
    /// Bytes that may be on their way from one adapter at once; or one object, if that is larger.
    pub prefetch_bytes_max: u64,
    /// Batches that one adapter may be storing at once.
    pub write_back_tasks_max: usize,
    /// Objects in one batch. With [`write_back_tasks_max`](Self::write_back_tasks_max) it bounds the
    /// objects that one adapter may be reading at once.
    pub write_back_objects_max: usize,
    /// Bytes that may be on their way to one adapter at once; or one object, if that is larger.
    pub write_back_bytes_max: u64,
    /// Keys that may wait for one adapter; of more, the oldest are dropped.
    pub write_back_queue_max: usize,
    /// How often a store that failed is tried again.
    pub write_back_retries: u32,
    /// The share of chunks whose life is followed for statistics, from 0 to 1; see [`life`](crate::stats::residency).
    pub residency_sample: f64,
}

/// Background trimming, as LMCache's watermark flags mean it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trim {
    /// Fraction of the capacity above which to trim.
    pub above: f64,
    /// Fraction of the capacity to give back.
    pub release: f64,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            capacity_bytes: 0,
            align_bytes: 4096,
            eviction: EvictionKind::Lru,
            trim: None,
            read_ttl: Duration::from_secs(300),
            write_ttl: Duration::from_secs(600),
            session_ttl: Duration::from_secs(600),
            sessions_max: 1 << 16,
            worker_reap_timeout: Some(Duration::from_secs(120)),
            worker_registration_grace: Duration::from_secs(3600),
            quarantine: Duration::from_secs(10),
            adapters: Vec::new(),
            prefetch_policy: PrefetchKind::default(),
            store_policy: OffloadKind::default(),
            load_deadline: Duration::from_secs(30),
            prefetch_jobs_max: 8,
            prefetch_bytes_max: 4 << 30,
            write_back_tasks_max: 4,
            write_back_objects_max: 64,
            write_back_bytes_max: 1 << 30,
            write_back_queue_max: 1 << 16,
            write_back_retries: 2,
            residency_sample: 0.0,
        }
    }
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// A lookup's shares run out.
    Lookup(u64),
    /// A session has lived its time.
    Session(u64),
    /// A retrieve took too long, or has been waited for long enough after that.
    Retrieve(u64),
    /// A store took too long, or has been waited for long enough after that.
    Store(u64),
    /// A worker may have gone silent.
    Worker(InstanceId),
    /// A peer's shares run out.
    Peer(u64),
    /// A lookup with L2 work is answered with what is there.
    Job(u64),
    /// The result of a load does not come.
    Load(IoId),
    /// The result of a batch of stores does not come.
    Task(TaskId),
    /// The result of a warm-up is forgotten.
    Warm(u64),
}

/// The storage core.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) index: Index,
    pub(crate) counters: Counters,

    pub(crate) workers: BTreeMap<InstanceId, Worker>,
    pub(crate) models: Models,
    pub(crate) strangers: StrangerPings,

    pub(crate) sessions: BTreeMap<u64, Session>,
    pub(crate) session_ids: HashMap<Arc<str>, u64>,
    pub(crate) peers: BTreeMap<u64, PeerLease>,
    /// Sessions that hold shares.
    pub(crate) leases: u64,
    /// Lookups, retrieves and peers that hold shares, by the time since when. Whoever ends has its place
    /// at once, so the oldest is always the first.
    pub(crate) reading: BTreeSet<(Time, u64)>,

    pub(crate) stores: BTreeMap<u64, Store>,
    pub(crate) store_ids: HashMap<TransferKey, u64>,
    pub(crate) retrieves: BTreeMap<u64, Retrieve>,
    pub(crate) retrieve_ids: HashMap<TransferKey, Equals>,
    pub(crate) overdue: Overdue,

    pub(crate) adapters: Vec<AdapterDesc>,
    pub(crate) adapter_counters: Vec<AdapterCounters>,
    pub(crate) ios: IoTable,
    pub(crate) prefetch: Prefetch,
    pub(crate) write_back: WriteBack,
    pub(crate) effects: Vec<Effect>,

    pub(crate) deadlines: BTreeSet<(Time, Deadline)>,
    /// The latest time that the core was told.
    pub(crate) now: Time,
    next_id: u64,
}

/// How much of everything there is right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// The memory tier.
    pub l1: Usage,
    /// Registered workers.
    pub workers: u64,
    /// Open request sessions.
    pub sessions: u64,
    /// Lookups that still hold shares.
    pub lookup_leases: u64,
    /// Stores prepared and not committed.
    pub stores: u64,
    /// Retrieves prepared and not committed.
    pub retrieves: u64,
    /// Lookups of peers that still hold shares.
    pub peer_leases: u64,
    /// Objects whose memory a vanished or stalled worker may still be using.
    pub quarantined_objects: u64,
    /// Lookups and warm-ups that are busy with L2.
    pub prefetch_jobs: u64,
    /// Those that wait for their turn.
    pub prefetch_waiting: u64,
    /// Keys that are to go to L2 and are not there yet.
    pub write_back_pending: u64,
    /// Since when the oldest of those lookups, retrieves and peers that hold shares does.
    pub oldest_read_pin: Option<Time>,
    /// Since when the oldest of the slots that workers write is reserved, or is waited for.
    pub oldest_write_reservation: Option<Time>,
}

/// How much one adapter has to do right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdapterGauges {
    /// Objects it is loading, or whose memory it may still touch.
    pub loading_objects: u64,
    /// Their bytes.
    pub loading_bytes: u64,
    /// Batches it is storing.
    pub storing_tasks: u64,
    /// Objects it is storing, or whose memory it may still read.
    pub storing_objects: u64,
    /// Their bytes.
    pub storing_bytes: u64,
    /// Keys that wait for it.
    pub queued_keys: u64,
}

impl Core {
    /// An empty core.
    pub fn new(config: CoreConfig) -> Self {
        let adapters = config.adapters.clone();
        let mut l1 = Index::new(config.capacity_bytes, config.align_bytes, config.eviction);
        if let Some(reuse) = ReusePredictor::for_policies(
            config.eviction,
            config.prefetch_policy,
            config.store_policy,
            !adapters.is_empty(),
        ) {
            l1.learn(reuse);
        }
        l1.follow(config.residency_sample);
        Self {
            index: l1,
            adapter_counters: vec![AdapterCounters::default(); adapters.len()],
            ios: IoTable::new(),
            prefetch: Prefetch::new(config.prefetch_policy.create(), adapters.len()),
            write_back: WriteBack::new(config.store_policy.create(), adapters.len()),
            effects: Vec::new(),
            adapters,
            config,
            counters: Counters::default(),
            workers: BTreeMap::new(),
            models: Models::default(),
            strangers: StrangerPings::default(),
            sessions: BTreeMap::new(),
            session_ids: HashMap::new(),
            peers: BTreeMap::new(),
            leases: 0,
            reading: BTreeSet::new(),
            stores: BTreeMap::new(),
            store_ids: HashMap::new(),
            retrieves: BTreeMap::new(),
            retrieve_ids: HashMap::new(),
            overdue: Overdue::default(),
            deadlines: BTreeSet::new(),
            now: Time::ZERO,
            next_id: 0,
        }
    }

    /// From now on `policy` decides about loads. Requests that have been planned keep to
    /// their plans.
    pub fn set_prefetch_policy(&mut self, policy: Box<dyn PrefetchPolicy>) {
        self.prefetch.policy = policy;
    }

    /// From now on `policy` decides where stores go.
    pub fn set_store_policy(&mut self, policy: Box<dyn OffloadPolicy>) {
        self.write_back.policy = policy;
    }

    /// When something runs out next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(t, _)| *t)
    }

    /// Lets go of everything that has run out by `now`.
    pub fn advance(&mut self, now: Time) {
        self.index.lives.advance(now);
        while let Some((due, what)) = self.deadlines.first().copied().filter(|(t, _)| *t <= now) {
            self.deadlines.remove(&(due, what));
            // What begins with it, a lease for one, begins then, however late this call is.
            self.now = self.now.max(due);
            match what {
                Deadline::Lookup(id) => self.lookup_expired(id),
                Deadline::Session(id) => self.session_expired(id),
                Deadline::Retrieve(id) => self.retrieve_expired(id, due),
                Deadline::Store(id) => self.store_overdue(id, due),
                Deadline::Worker(instance) => self.worker_maybe_silent(instance, due),
                Deadline::Peer(id) => self.peer_expired(id),
                Deadline::Job(id) => self.job_overdue(id),
                Deadline::Load(io) => self.load_unanswered(io),
                Deadline::Task(task) => self.store_unanswered(task),
                Deadline::Warm(id) => self.forget_warm(id),
            }
        }
        self.now = self.now.max(now);
    }

    /// A connection is gone. What it held comes back: shares at once, memory that its worker may
    /// still be copying in or out of after the quarantine.
    pub fn connection_lost(&mut self, now: Time, connection: ConnectionId) {
        self.advance(now);
        self.end_sessions_of(connection);
        self.end_peer_leases_of(connection);
        self.abandon_transfers(now, |owner, _| owner == connection);
    }

    /// Removes everything that nobody holds or is writing; with `force`, everything. Memory that is
    /// held stays until it is let go. L2 is left as it is; what waited to be stored there is skipped, and
    /// counted. Returns how many objects went.
    pub fn clear(&mut self, now: Time, force: bool) -> u64 {
        self.advance(now);
        self.index.clear(force)
    }

    /// Removes single objects. Returns what came of each.
    pub fn remove(&mut self, now: Time, keys: &[ObjectKey], force: bool) -> Vec<Removal> {
        self.advance(now);
        keys.iter().map(|key| self.index.remove(key, force)).collect()
    }

    /// The machine has no memory for the arena behind `end`. What lies there unused is given up, so
    /// that room is made below it from now on.
    pub fn truncate_capacity(&mut self, end: u64) {
        self.index.cut(end);
    }

    /// Changes the quotas; see [`Index::change_quotas`].
    pub fn change_quotas<T>(&mut self, now: Time, change: impl FnOnce(&mut Quotas) -> T) -> T {
        self.advance(now);
        self.index.change_quotas(change)
    }

    /// The memory tier, to look at.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What the adaptive policies have learned; `None` if none of them is in use.
    pub fn learned(&self) -> Option<reuse::Snapshot> {
        self.index.reuse().map(ReusePredictor::snapshot)
    }

    /// What happened since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How much of everything there is right now. Cheap: reads the books.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            l1: self.index.usage(),
            workers: self.workers.len() as u64,
            sessions: self.sessions.len() as u64,
            lookup_leases: self.leases,
            stores: self.stores.len() as u64 - self.overdue.stores,
            retrieves: self.retrieves.len() as u64 - self.overdue.retrieves,
            peer_leases: self.peers.len() as u64,
            quarantined_objects: self.overdue.objects,
            prefetch_jobs: self.prefetch.running() as u64,
            prefetch_waiting: self.prefetch.waiting.len() as u64,
            write_back_pending: self.write_back_pending(),
            oldest_read_pin: self.reading.first().map(|(since, _)| *since),
            // Stores are numbered as they come.
            oldest_write_reservation: self.stores.first_key_value().map(|(_, store)| store.since),
        }
    }

    /// How much an adapter has to do right now.
    ///
    /// # Panics
    /// If there is no such adapter.
    pub fn adapter_gauges(&self, adapter: AdapterId) -> AdapterGauges {
        let (loading_bytes, loading_objects) = self.prefetch.in_flight.lent(adapter);
        let stores = self.write_back.gauges(adapter);
        AdapterGauges {
            loading_objects,
            loading_bytes,
            storing_tasks: stores.tasks,
            storing_objects: stores.objects,
            storing_bytes: stores.bytes,
            queued_keys: stores.queued,
        }
    }

    /// What happened at an adapter since the start.
    ///
    /// # Panics
    /// If there is no such adapter.
    pub fn adapter_counters(&self, adapter: AdapterId) -> &AdapterCounters {
        &self.adapter_counters[adapter.0 as usize]
    }

    /// The name that was given last.
    pub(crate) fn last_id(&self) -> u64 {
        self.next_id
    }

    /// A name for something new, in the order of making.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Evicts down to the low mark if the high one is passed.
    pub(crate) fn trim(&mut self) {
        let Some(Trim { above, release }) = self.config.trim else { return };
        let capacity = self.index.usage().capacity_bytes as f64;
        if self.index.usage().used_bytes as f64 > capacity * above {
            self.index.begin();
            self.index.trim((capacity * (above - release).max(0.0)) as u64);
        }
    }

    /// Recomputes what the books say. For tests: O(everything).
    ///
    /// # Panics
    /// If anything disagrees, which is a bug of the core.
    pub fn check(&self) {
        self.index.check();
        let mut pins = HashMap::<ObjectId, u64>::new();
        let mut held = |object: ObjectId, n: u32| *pins.entry(object).or_default() += u64::from(n);
        for grant in self.sessions.values().flat_map(Session::grants) {
            held(grant.object, grant.shares);
        }
        for grant in self.peers.values().flat_map(PeerLease::grants) {
            held(grant.object, grant.shares);
        }
        for object in self.retrieves.values().flat_map(|r| &r.objects) {
            held(*object, 1);
        }
        for object in self.stores.values().flat_map(|s| &s.objects) {
            held(*object, 1);
        }
        for (object, shares) in self.shares_of_jobs() {
            held(object, shares);
        }
        for object in self.prefetch.in_flight.reserved() {
            held(object, 1);
        }
        pins.retain(|_, n| *n > 0);
        let mut lent = HashMap::<ObjectId, u64>::new();
        self.ios.values().for_each(|io| *lent.entry(io.object).or_default() += 1);
        self.index.check_pins(&pins, &lent);
        self.check_l2();
        assert_eq!(self.session_ids.len(), self.sessions.len(), "one id per session");
        for (name, id) in &self.session_ids {
            assert_eq!(&self.sessions[id].request_id, name, "session is found by its request id");
        }
        assert_eq!(self.store_ids.len(), self.stores.len(), "every store is found by its key");
        let found: usize = self.retrieve_ids.values().map(|e| e.ids.len()).sum();
        assert_eq!(found, self.retrieves.len(), "every retrieve is found by its key");
        self.models.check(&self.workers);
        let leases = self.sessions.values().filter(|s| s.holds_shares()).count();
        assert_eq!(leases as u64, self.leases, "sessions that hold shares");
        self.check_reading();
        self.check_overdue();
        assert!(self.stores.values().all(|s| !s.objects.is_empty()), "a store without slots");
        let watched = if self.config.worker_reap_timeout.is_some() { self.workers.len() } else { 0 };
        let expected = watched
            + self.sessions.len()
            + self.sessions.values().filter(|s| s.lookup.is_some()).count()
            + self.stores.len()
            + self.retrieves.len()
            + self.peers.len()
            + self.prefetch.timers()
            + self.write_back.graces();
        assert_eq!(self.deadlines.len(), expected, "everything that is held has exactly one deadline");
    }
}
