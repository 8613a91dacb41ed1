//! What the registered workers of a model store, and which of them a lookup is answered for.
//!
//! A lookup names a model and a world size, but no worker, and an engine's scheduler asks over another connection than
//! its workers use. Engines of one name may differ in the layout of their data: after a restart with another type, or
//! during a rolling update. A hit that the engine that asks cannot read fails its request, so a lookup is answered for
//! the workers of that engine:
//!
//! 1. those that use the same connection, and those that have stored or retrieved for a request which that connection
//!    had looked up;
//! 2. if there are none, those that belong to no other scheduler yet, if they have one layout;
//! 3. otherwise the engine that asks is unknown, and nothing is found. The first store or retrieve of the request
//!    shows it.
//!
//! A worker with a lost connection counts in 2 only if no other is left: it may be gone for minutes before it is
//! dropped. A worker's rank is known from its first store or retrieve; until then it counts for all ranks.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use larder_types::object::{KvRank, ObjectKey};
use larder_types::{ConnectionId, InstanceId, LayoutId};
use smallvec::SmallVec;

use super::by_owner::ByOwner;
use super::worker_spec::{Group, WorkerSpec};
use crate::prefetch::Shape;

/// Workers of one connection that a lookup looks at. An engine has one for each rank; a connection with more is not
/// that of an engine.
const RELATED_MAX: usize = 1024;

/// A model and a world size.
type ModelKey = (Arc<str>, u32);

/// Why a lookup finds nothing, whatever is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswerable {
    /// No worker serves the model.
    Unregistered,
    /// Workers with different layouts do, and it is not known which of them asks.
    Ambiguous,
}

/// A worker of a model.
#[derive(Debug)]
struct Member {
    model: ModelKey,
    groups: Arc<[Group]>,
    /// Grows with each registration.
    number: u64,
    /// The connection that it used last, while that is open.
    connection: Option<ConnectionId>,
    /// The connection that looked up what it copied last, while that is open.
    scheduler: Option<ConnectionId>,
    /// The rank that it copies for.
    rank: Option<KvRank>,
}

/// How many workers registered the same groups.
#[derive(Debug, Default)]
struct Tally(HashMap<Arc<[Group]>, usize>);

impl Tally {
    fn add(&mut self, groups: &Arc<[Group]>) {
        *self.0.entry(groups.clone()).or_default() += 1;
    }

    fn remove(&mut self, groups: &Arc<[Group]>) {
        let count = self.0.get_mut(groups).expect("each worker is counted");
        *count -= 1;
        if *count == 0 {
            self.0.remove(groups);
        }
    }

    /// The groups of all workers, if they have the same.
    fn only(&self) -> Option<&[Group]> {
        let mut all = self.0.keys();
        all.next().filter(|_| all.next().is_none()).map(|groups| &**groups)
    }
}

/// The registered workers of one model and world size.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// In the order of registration.
    members: BTreeMap<u64, (InstanceId, Arc<[Group]>)>,
    all: Tally,
    /// Those with an open connection.
    connected: Tally,
    /// Those of them that belong to no scheduler yet.
    unclaimed: Tally,
    /// Layouts that workers use, with the number of their groups of that layout.
    layouts: HashMap<LayoutId, usize>,
}

impl Model {
    /// The groups of the worker that registered last.
    pub(crate) fn groups(&self) -> &[Group] {
        self.members.last_key_value().map_or(&[], |(_, (_, groups))| groups)
    }

    /// Whether a worker stores objects of that layout.
    pub(crate) fn uses(&self, layout: LayoutId) -> bool {
        self.layouts.contains_key(&layout)
    }

    /// The groups that all workers have which may belong to an unknown scheduler.
    fn presumed(&self) -> Option<&[Group]> {
        let candidates = [&self.unclaimed, &self.connected, &self.all];
        candidates.into_iter().find(|tally| !tally.0.is_empty())?.only()
    }

    fn count(&mut self, member: &Member) {
        self.all.add(&member.groups);
        if member.connection.is_some() {
            self.connected.add(&member.groups);
            if member.scheduler.is_none() {
                self.unclaimed.add(&member.groups);
            }
        }
    }

    fn discount(&mut self, member: &Member) {
        self.all.remove(&member.groups);
        if member.connection.is_some() {
            self.connected.remove(&member.groups);
            if member.scheduler.is_none() {
                self.unclaimed.remove(&member.groups);
            }
        }
    }
}

/// The workers of all models.
#[derive(Debug, Default)]
pub(crate) struct Models {
    members: HashMap<InstanceId, Member>,
    models: BTreeMap<ModelKey, Model>,
    by_connection: ByOwner<ConnectionId, InstanceId>,
    by_scheduler: ByOwner<ConnectionId, InstanceId>,
    last_number: u64,
}

impl Models {
    /// Adds a worker that is not known.
    pub(crate) fn insert(&mut self, connection: ConnectionId, spec: &WorkerSpec) {
        self.last_number += 1;
        let member = Member {
            model: (spec.model.clone(), spec.world_size),
            groups: spec.groups.as_slice().into(),
            number: self.last_number,
            connection: Some(connection),
            scheduler: None,
            rank: None,
        };
        let model = self.models.entry(member.model.clone()).or_default();
        model.members.insert(member.number, (spec.instance, member.groups.clone()));
        for group in &*member.groups {
            *model.layouts.entry(group.layout.id()).or_default() += 1;
        }
        model.count(&member);
        self.by_connection.insert(connection, spec.instance);
        self.members.insert(spec.instance, member);
    }

    /// Removes a worker.
    pub(crate) fn remove(&mut self, instance: InstanceId) {
        let Some(member) = self.members.remove(&instance) else { return };
        member.connection.into_iter().for_each(|c| self.by_connection.remove(c, instance));
        member.scheduler.into_iter().for_each(|c| self.by_scheduler.remove(c, instance));
        let model = self.models.get_mut(&member.model).expect("each worker is in its model");
        model.discount(&member);
        model.members.remove(&member.number);
        for group in &*member.groups {
            let layout = group.layout.id();
            let groups = model.layouts.get_mut(&layout).expect("each layout is counted");
            *groups -= 1;
            if *groups == 0 {
                model.layouts.remove(&layout);
            }
        }
        if model.members.is_empty() {
            self.models.remove(&member.model);
        }
    }

    /// A worker has made a request over `connection`.
    pub(crate) fn seen(&mut self, instance: InstanceId, connection: ConnectionId) {
        let Self { members, models, by_connection, .. } = self;
        let Some(member) = members.get_mut(&instance).filter(|m| m.connection != Some(connection)) else {
            return;
        };
        let model = models.get_mut(&member.model).expect("each worker is in its model");
        model.discount(member);
        let former = member.connection.replace(connection);
        model.count(member);
        former.into_iter().for_each(|c| by_connection.remove(c, instance));
        by_connection.insert(connection, instance);
    }

    /// A worker copies for `rank`, for a request that `scheduler` has looked up.
    pub(crate) fn copies(&mut self, instance: InstanceId, rank: KvRank, scheduler: Option<ConnectionId>) {
        let Self { members, models, by_scheduler, .. } = self;
        let Some(member) = members.get_mut(&instance) else { return };
        member.rank = Some(rank);
        if scheduler.is_none() || member.scheduler == scheduler {
            return;
        }
        let model = models.get_mut(&member.model).expect("each worker is in its model");
        model.discount(member);
        let former = std::mem::replace(&mut member.scheduler, scheduler);
        model.count(member);
        former.into_iter().for_each(|c| by_scheduler.remove(c, instance));
        scheduler.into_iter().for_each(|c| by_scheduler.insert(c, instance));
    }

    /// A connection is over.
    pub(crate) fn connection_lost(&mut self, connection: ConnectionId) {
        for instance in self.by_connection.of(connection) {
            self.change(instance, |member| member.connection = None);
            self.by_connection.remove(connection, instance);
        }
        for instance in self.by_scheduler.of(connection) {
            self.change(instance, |member| member.scheduler = None);
            self.by_scheduler.remove(connection, instance);
        }
    }

    fn change(&mut self, instance: InstanceId, change: impl FnOnce(&mut Member)) {
        let member = self.members.get_mut(&instance).expect("each connection's workers are known");
        let model = self.models.get_mut(&member.model).expect("each worker is in its model");
        model.discount(member);
        change(member);
        model.count(member);
    }

    /// What a worker registered.
    pub(crate) fn groups_of(&self, instance: InstanceId) -> Option<Arc<[Group]>> {
        self.members.get(&instance).map(|member| Arc::clone(&member.groups))
    }

    /// The workers of a model and world size, if there are any.
    pub(crate) fn get(&self, model: &Arc<str>, world_size: u32) -> Option<&Model> {
        self.models.get(&(model.clone(), world_size))
    }

    /// Whether workers of one model and world size only are registered.
    pub(crate) fn is_one(&self) -> bool {
        self.models.len() == 1
    }

    /// What the engine that asks over `connection` can read.
    pub(crate) fn shape(
        &self,
        connection: ConnectionId,
        (model, world_size): (&Arc<str>, u32),
        worker_id: Option<u32>,
    ) -> Result<Shape, Unanswerable> {
        let key = (model.clone(), world_size);
        let entry = self.models.get(&key).ok_or(Unanswerable::Unregistered)?;
        let mut related = self.related(connection, &key);
        let shape = if related.is_empty() {
            let groups = entry.presumed();
            Shape::new(world_size, worker_id, |_| groups)
        } else {
            let common = related.iter().all(|m| m.groups == related[0].groups).then(|| &*related[0].groups);
            // The newest of each rank.
            related.sort_unstable_by_key(|m| (m.rank, u64::MAX - m.number));
            related.dedup_by_key(|m| m.rank);
            let of_rank = |rank| related.binary_search_by_key(&Some(rank), |m| m.rank).ok();
            Shape::new(world_size, worker_id, |rank| of_rank(rank).map(|i| &*related[i].groups).or(common))
        };
        shape.ok_or(Unanswerable::Ambiguous)
    }

    /// What the workers of the model can read that registered last, for a request that no engine waits for.
    pub(crate) fn newest_shape(&self, model: &Arc<str>, world_size: u32) -> Option<Shape> {
        let model = self.get(model, world_size)?;
        Shape::new(world_size, None, |_| model.presumed().or(Some(model.groups())))
    }

    /// The layout that a key without one stands for: that of the model's workers, if they have the same; unknown if
    /// there are no workers. `None`: it is in doubt.
    pub(crate) fn presumed_layout(&self, key: &ObjectKey) -> Option<LayoutId> {
        let Some(model) = self.get(&key.model_name, key.kv_rank.world_size()) else {
            return Some(LayoutId::UNKNOWN);
        };
        let tally = if model.connected.0.is_empty() { &model.all } else { &model.connected };
        let groups = tally.only()?;
        groups.iter().find(|group| group.id == key.object_group).map(|group| group.layout.id())
    }

    fn related(&self, connection: ConnectionId, model: &ModelKey) -> SmallVec<[&Member; 8]> {
        let owners = [&self.by_connection, &self.by_scheduler];
        let ids = owners.into_iter().flat_map(|owner| owner.some_of(connection, RELATED_MAX));
        ids.map(|id| &self.members[&id]).filter(|member| member.model == *model).collect()
    }

    /// For tests.
    pub(crate) fn check(&self, workers: usize) {
        assert_eq!(self.members.len(), workers, "every worker is a member of one model");
        let members: usize = self.models.values().map(|m| m.members.len()).sum();
        assert_eq!(members, workers, "every worker is a member of one model");
        let open = |of: fn(&Member) -> Option<ConnectionId>| self.members.values().filter_map(of).count();
        assert_eq!(self.by_connection.len(), open(|m| m.connection), "workers by connection");
        assert_eq!(self.by_scheduler.len(), open(|m| m.scheduler), "workers by scheduler");
        for model in self.models.values() {
            assert!(!model.members.is_empty(), "a model without workers");
            let groups: usize = model.members.values().map(|(_, groups)| groups.len()).sum();
            assert_eq!(groups, model.layouts.values().sum::<usize>(), "each group's layout is counted");
            assert_eq!(model.all.0.values().sum::<usize>(), model.members.len(), "each worker is counted");
        }
    }
}
