//! The whole storage core: one call per event, the time passed in.
//!
//! Every call first lets go of what has run out by `now`, so an answer never depends on whether
//! somebody called [`Core::advance`] in time. A driver that sleeps until
//! [`Core::next_deadline`] only makes memory come back earlier.
//!
//! The calls are grouped by whose life they belong to: [sessions](crate::session),
//! [workers](crate::worker), [transfers](crate::transfer). Here is what they share: the state and the
//! clockwork.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use crate::counters::Counters;
use crate::ids::{ConnectionId, InstanceId};
use crate::l1::eviction::EvictionKind;
use crate::l1::{L1, ObjectId, Usage};
use crate::session::{PeerLease, Session};
use crate::time::Time;
use crate::transfer::{Equals, Retrieve, Store, TransferKey};
use crate::worker::{Models, StrangerPings, Worker};

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
}

/// The storage core.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) l1: L1,
    pub(crate) counters: Counters,

    pub(crate) workers: BTreeMap<InstanceId, Worker>,
    pub(crate) models: Models,
    pub(crate) strangers: StrangerPings,

    pub(crate) sessions: BTreeMap<u64, Session>,
    pub(crate) session_ids: HashMap<Arc<str>, u64>,
    pub(crate) peers: BTreeMap<u64, PeerLease>,

    pub(crate) stores: BTreeMap<u64, Store>,
    pub(crate) store_ids: HashMap<TransferKey, u64>,
    pub(crate) retrieves: BTreeMap<u64, Retrieve>,
    pub(crate) retrieve_ids: HashMap<TransferKey, Equals>,

    pub(crate) deadlines: BTreeSet<(Time, Deadline)>,
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
}

impl Core {
    /// An empty core.
    pub fn new(config: CoreConfig) -> Self {
        Self {
            l1: L1::new(config.capacity_bytes, config.align_bytes, config.eviction),
            config,
            counters: Counters::default(),
            workers: BTreeMap::new(),
            models: Models::default(),
            strangers: StrangerPings::default(),
            sessions: BTreeMap::new(),
            session_ids: HashMap::new(),
            peers: BTreeMap::new(),
            stores: BTreeMap::new(),
            store_ids: HashMap::new(),
            retrieves: BTreeMap::new(),
            retrieve_ids: HashMap::new(),
            deadlines: BTreeSet::new(),
            next_id: 0,
        }
    }

    /// When something runs out next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(t, _)| *t)
    }

    /// Lets go of everything that has run out by `now`.
    pub fn advance(&mut self, now: Time) {
        while let Some((due, what)) = self.deadlines.first().copied().filter(|(t, _)| *t <= now) {
            self.deadlines.remove(&(due, what));
            match what {
                Deadline::Lookup(id) => self.lookup_expired(id),
                Deadline::Session(id) => self.session_expired(id),
                Deadline::Retrieve(id) => self.retrieve_expired(id, due),
                Deadline::Store(id) => self.store_overdue(id, due),
                Deadline::Worker(instance) => self.worker_maybe_silent(instance, due),
                Deadline::Peer(id) => self.peer_expired(id),
            }
        }
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
    /// held stays until it is let go. Returns how many objects went.
    pub fn clear(&mut self, now: Time, force: bool) -> u64 {
        self.advance(now);
        self.l1.clear(force)
    }

    /// The machine has no memory for the arena behind `end`. What lies there unused is given up, so
    /// that room is made below it from now on.
    pub fn cut_memory(&mut self, end: u64) {
        self.l1.cut(end);
    }

    /// The memory tier, to look at.
    pub fn l1(&self) -> &L1 {
        &self.l1
    }

    /// What happened since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How much of everything there is right now.
    pub fn gauges(&self) -> Gauges {
        let overdue_stores = self.stores.values().filter(|s| s.overdue);
        let overdue_retrieves = self.retrieves.values().filter(|r| r.overdue);
        let quarantined = overdue_stores.map(|s| &s.objects).chain(overdue_retrieves.map(|r| &r.objects));
        Gauges {
            l1: self.l1.usage(),
            workers: self.workers.len() as u64,
            sessions: self.sessions.len() as u64,
            lookup_leases: self.sessions.values().filter(|s| s.holds_shares()).count() as u64,
            stores: self.stores.values().filter(|s| !s.overdue).count() as u64,
            retrieves: self.retrieves.values().filter(|r| !r.overdue).count() as u64,
            peer_leases: self.peers.len() as u64,
            quarantined_objects: quarantined.map(|objects| objects.len() as u64).sum(),
        }
    }

    /// A name for something new, in the order of making.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Evicts down to the low mark if the high one is passed.
    pub(crate) fn trim(&mut self) {
        let Some(Trim { above, release }) = self.config.trim else { return };
        let capacity = self.l1.usage().capacity_bytes as f64;
        if self.l1.usage().used_bytes as f64 > capacity * above {
            self.l1.begin();
            self.l1.trim((capacity * (above - release).max(0.0)) as u64);
        }
    }

    /// Recomputes what the books say. For tests: O(everything).
    ///
    /// # Panics
    /// If anything disagrees, which is a bug of the core.
    pub fn check(&self) {
        self.l1.check();
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
        pins.retain(|_, n| *n > 0);
        self.l1.check_pins(&pins);
        assert_eq!(self.session_ids.len(), self.sessions.len(), "one id per session");
        for (name, id) in &self.session_ids {
            assert_eq!(&self.sessions[id].request_id, name, "session is found by its request id");
        }
        assert_eq!(self.store_ids.len(), self.stores.len(), "every store is found by its key");
        let found: usize = self.retrieve_ids.values().map(|e| e.ids.len()).sum();
        assert_eq!(found, self.retrieves.len(), "every retrieve is found by its key");
        self.models.check(&self.workers);
        assert!(self.stores.values().all(|s| !s.objects.is_empty()), "a store without slots");
        let timers = self.deadlines.iter().filter(|(_, d)| !matches!(d, Deadline::Worker(_))).count();
        let expected = self.sessions.len()
            + self.sessions.values().filter(|s| s.lookup.is_some()).count()
            + self.stores.len()
            + self.retrieves.len()
            + self.peers.len();
        assert_eq!(timers, expected, "everything that is held has exactly one deadline");
    }
}
