//! Workers: who may store and retrieve, and whether they are still there.
//!
//! A worker registers with the layout of its objects and then pings. One that falls silent, loses
//! its connection or unregisters gives back what it held; memory it may still be copying in or out
//! of is quarantined first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use larder_types::object::{KvRank, ObjectGroup};

use crate::core::{Core, Deadline};
use crate::index::ShardKey;
use larder_policy::prefix_scan::AttentionWindow;
use larder_types::ids::InstanceId;
use larder_types::layout::Layout;
use larder_types::time::Time;

/// How many unknown instance ids are remembered to have been told so.
const STRANGERS_MAX: usize = 4096;

/// Layers that are stored together: one object per chunk and rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub id: ObjectGroup,
    /// How much of a prefix its layers look back on.
    pub window: AttentionWindow,
    /// Its objects' bytes.
    pub layout: Layout,
}

/// What a worker says of itself.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    /// Its name.
    pub instance: InstanceId,
    /// Model as the engine names it.
    pub model: Arc<str>,
    /// Pieces one chunk's KV is split into.
    pub world_size: u32,
    /// Tokens per block of the engine's own cache, for reports; `None` if it did not say.
    pub block_tokens: Option<u32>,
    /// Object groups, at least one, in the order of their numbers.
    pub groups: Vec<Group>,
}

/// A registered worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) spec: WorkerSpec,
    last_seen: Time,
    has_pinged: bool,
    /// When it is looked at next: its one deadline. Never later than when its silence would be up.
    looked_at: Option<Time>,
}

/// The live workers of one model and world size.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// What each worker stores, in the order of registration.
    members: Vec<(InstanceId, Vec<Group>)>,
}

impl Model {
    /// The cells of a chunk with their windows, group by group, ranks in order.
    pub(crate) fn cells(&self, world_size: u32, worker_id: Option<u32>) -> Vec<(ShardKey, AttentionWindow)> {
        let ranks = match worker_id {
            Some(rank) => rank..rank + 1,
            None => 0..world_size,
        };
        let groups = self.members.last().map_or(&[][..], |(_, g)| g);
        groups
            .iter()
            .flat_map(|g| ranks.clone().map(move |r| (g, KvRank::new(world_size, r))))
            .map(|(g, rank)| (ShardKey { rank, group: g.id }, g.window))
            .collect()
    }

    /// The layout of a group's objects.
    pub(crate) fn group_layout(&self, group: ObjectGroup) -> Option<&Layout> {
        let (_, groups) = self.members.last()?;
        groups.iter().find(|g| g.id == group).map(|g| &g.layout)
    }

    /// Every layout that some worker uses.
    pub(crate) fn layouts(&self) -> impl Iterator<Item = &Layout> {
        self.members.iter().flat_map(|(_, groups)| groups).map(|g| &g.layout)
    }
}

/// Live models by name and world size.
#[derive(Debug, Default)]
pub(crate) struct Models(BTreeMap<(Arc<str>, u32), Model>);

impl Models {
    pub(crate) fn get(&self, model: &Arc<str>, world_size: u32) -> Option<&Model> {
        self.0.get(&(model.clone(), world_size))
    }

    fn join(&mut self, spec: &WorkerSpec) {
        let model = self.0.entry((spec.model.clone(), spec.world_size)).or_default();
        model.members.push((spec.instance, spec.groups.clone()));
    }

    fn leave(&mut self, spec: &WorkerSpec) {
        let key = (spec.model.clone(), spec.world_size);
        if let Some(model) = self.0.get_mut(&key) {
            model.members.retain(|(instance, _)| *instance != spec.instance);
            if model.members.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    pub(crate) fn check(&self, workers: &BTreeMap<InstanceId, Worker>) {
        let members: usize = self.0.values().map(|m| m.members.len()).sum();
        assert_eq!(members, workers.len(), "every worker is a member of one model");
        assert!(self.0.values().all(|m| !m.members.is_empty()), "a model without workers");
    }
}

/// Unknown instances that have pinged, the oldest forgotten first.
///
/// The first ping of an unknown instance is answered with "no", so that a worker of a restarted
/// server registers again; then with "yes", so that one that only probes is left alone.
#[derive(Debug, Default)]
pub(crate) struct StrangerPings(VecDeque<InstanceId>);

impl StrangerPings {
    /// Whether `instance` has been here before; remembers it if not.
    fn known(&mut self, instance: InstanceId) -> bool {
        if self.0.contains(&instance) {
            return true;
        }
        if self.0.len() == STRANGERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(instance);
        false
    }

    fn forget(&mut self, instance: InstanceId) {
        self.0.retain(|i| *i != instance);
    }
}

impl Core {
    /// Registers a worker. One that is registered already is only refreshed: the first registration
    /// stands, as in LMCache. Returns whether it is new.
    pub fn register(&mut self, now: Time, spec: WorkerSpec) -> bool {
        self.advance(now);
        if let Some(worker) = self.workers.get_mut(&spec.instance) {
            worker.last_seen = now;
            return false;
        }
        self.strangers.forget(spec.instance);
        self.models.join(&spec);
        let instance = spec.instance;
        let worker = Worker { spec, last_seen: now, has_pinged: false, looked_at: None };
        self.workers.insert(instance, worker);
        self.look_at_worker_in_time(instance);
        true
    }

    /// An instance that is told to run uncached: its pings are answered as a known worker's.
    pub fn register_unserved(&mut self, now: Time, instance: InstanceId) {
        self.advance(now);
        self.strangers.known(instance);
    }

    /// The worker says goodbye. Stores it has not committed are discarded. Returns whether it was
    /// registered.
    pub fn unregister(&mut self, now: Time, instance: InstanceId) -> bool {
        self.advance(now);
        self.drop_worker(now, instance)
    }

    /// The worker is alive. False at the first ping of an instance that is not registered: it should
    /// register again.
    pub fn ping(&mut self, now: Time, instance: InstanceId) -> bool {
        self.advance(now);
        let Some(worker) = self.workers.get_mut(&instance) else {
            return self.strangers.known(instance);
        };
        worker.last_seen = now;
        if !worker.has_pinged {
            worker.has_pinged = true;
            // From now on the shorter timeout holds.
            self.look_at_worker_in_time(instance);
        }
        true
    }

    /// Registered workers: name, model, world size, and when they were last heard of.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerSpec, Time)> {
        self.workers.values().map(|w| (&w.spec, w.last_seen))
    }

    /// Whether some worker of this model and world size is registered.
    pub fn serves(&self, model: &Arc<str>, world_size: u32) -> bool {
        self.models.get(model, world_size).is_some()
    }

    /// How many chunks L1 has room for: of that model, if it alone is served, otherwise of the size that those
    /// in L1 have on average. At least 1.
    pub fn l1_chunks(&self, model: &Arc<str>, world_size: u32) -> u64 {
        let (capacity_bytes, align_bytes) = (self.config.capacity_bytes, self.config.align_bytes);
        let own = || {
            let groups = self.models.get(model, world_size)?.members.last().map(|(_, groups)| groups)?;
            let bytes = |group: &Group| group.layout.bytes().checked_next_multiple_of(align_bytes);
            let chunk = groups.iter().try_fold(0u64, |sum, group| sum.checked_add(bytes(group)?))?;
            capacity_bytes.checked_div(chunk.checked_mul(u64::from(world_size))?)
        };
        let mean = || self.index.capacity_chunks();
        let chunks = if self.models.0.len() == 1 { own().or_else(mean) } else { mean().or_else(own) };
        chunks.unwrap_or(0).max(1)
    }

    /// What a chunk of this model is for one rank: the layout of each object group. Nothing if nobody serves it.
    pub fn layouts(&self, model: &Arc<str>, world_size: u32) -> Vec<Layout> {
        let groups = self.models.get(model, world_size).and_then(|model| model.members.last());
        groups.map_or_else(Vec::new, |(_, groups)| groups.iter().map(|group| group.layout.clone()).collect())
    }

    /// The layout of the objects that a worker stores, of its first group.
    pub fn layout_of(&self, instance: InstanceId) -> Option<Layout> {
        Some(self.workers.get(&instance)?.spec.groups.first()?.layout.clone())
    }

    /// The worker, marked as seen just now.
    pub(crate) fn active_worker(&mut self, now: Time, instance: InstanceId) -> Option<&WorkerSpec> {
        let worker = self.workers.get_mut(&instance)?;
        worker.last_seen = now;
        Some(&worker.spec)
    }

    fn silent_at(&self, worker: &Worker) -> Option<Time> {
        let timeout = self.config.worker_reap_timeout?;
        let allowed = if worker.has_pinged { timeout } else { self.config.worker_registration_grace };
        Some(worker.last_seen + allowed)
    }

    /// Sets a worker's deadline, unless one is set that comes first: whoever is heard of costs no
    /// more than that.
    fn look_at_worker_in_time(&mut self, instance: InstanceId) {
        let Some(at) = self.silent_at(&self.workers[&instance]) else { return };
        let worker = self.workers.get_mut(&instance).expect("just seen");
        if worker.looked_at.is_some_and(|set| set <= at) {
            return;
        }
        if let Some(later) = worker.looked_at.replace(at) {
            self.deadlines.remove(&(later, Deadline::Worker(instance)));
        }
        self.deadlines.insert((at, Deadline::Worker(instance)));
    }

    /// Looks at a worker whose time may be up. It may have been heard of since the deadline was set.
    pub(crate) fn worker_maybe_silent(&mut self, instance: InstanceId, due: Time) {
        let worker = self.workers.get_mut(&instance).expect("its deadline goes with it");
        worker.looked_at = None;
        if self.silent_at(&self.workers[&instance]).is_some_and(|at| at <= due) {
            self.counters.workers_reaped += 1;
            self.drop_worker(due, instance);
        } else {
            self.look_at_worker_in_time(instance);
        }
    }

    fn drop_worker(&mut self, now: Time, instance: InstanceId) -> bool {
        let Some(worker) = self.workers.remove(&instance) else { return false };
        if let Some(set) = worker.looked_at {
            self.deadlines.remove(&(set, Deadline::Worker(instance)));
        }
        self.models.leave(&worker.spec);
        self.abandon_transfers(now, |_, who| who == instance);
        true
    }
}
