//! Workers: which of them may store and retrieve, and whether they are alive.
//!
//! A worker registers with the layout of its objects and then pings. A worker that falls silent or unregisters
//! loses what it held; memory that it may still be copying to or from is quarantined first.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;
use larder_types::{ConnectionId, InstanceId, Time};
use smallvec::SmallVec;

use super::by_owner::ByOwner;
use super::models::Models;
use super::worker_spec::WorkerSpec;
use crate::context::Context;
use crate::timers::{Timer, TimerKind};

/// How many unknown instance ids are remembered.
const UNKNOWN_WORKERS_MAX: usize = 4096;

/// A worker is not registered, to keep a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyWorkers {
    /// Of all clients.
    #[error("{max} workers are registered already")]
    InAll {
        /// The limit.
        max: usize,
    },
    /// Of one client.
    #[error("its connection has registered {max} workers already")]
    OfClient {
        /// The limit.
        max: usize,
    },
    /// The groups of all workers.
    #[error("all workers have {max} groups of layers besides their first already")]
    Groups {
        /// The limit.
        max: usize,
    },
    /// The names of all workers' models are too long.
    #[error("the model names of all workers have {max} bytes already")]
    NameBytes {
        /// The limit.
        max: usize,
    },
}

/// A registered worker.
#[derive(Debug)]
struct Worker {
    spec: WorkerSpec,
    /// The connection that registered it.
    client: ConnectionId,
    last_seen: Time,
    has_pinged: bool,
    /// Open connections that it uses: those that it has registered over, or the first after they were lost.
    connections: SmallVec<[ConnectionId; 1]>,
    /// Since when it has none.
    disconnected: Option<Time>,
    /// When its silence is checked next, if silent workers are dropped. Never later than when it would be too
    /// long.
    silence_check: Option<Timer>,
}

/// Unknown instances that have pinged; the oldest is forgotten first.
///
/// The first ping of an unknown instance is answered with "no", so that a worker of a restarted server registers
/// again. Later ones are answered with "yes", so that an instance that only probes is left alone.
#[derive(Debug, Default)]
struct UnknownWorkers(VecDeque<InstanceId>);

impl UnknownWorkers {
    /// Remembers an instance. Returns whether it was unknown before.
    fn first_seen(&mut self, instance: InstanceId) -> bool {
        if self.0.contains(&instance) {
            return false;
        }
        if self.0.len() == UNKNOWN_WORKERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(instance);
        true
    }

    fn forget(&mut self, instance: InstanceId) {
        self.0.retain(|i| *i != instance);
    }
}

/// All workers.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    workers: BTreeMap<InstanceId, Worker>,
    models: Models,
    /// How many workers each connection has registered.
    of_client: HashMap<ConnectionId, usize>,
    /// Groups besides the first of each worker.
    more_groups: usize,
    /// In the names of the workers' models.
    name_bytes: usize,
    unknown: UnknownWorkers,
    by_connection: ByOwner<ConnectionId, InstanceId>,
}

impl Workers {
    /// Registers a worker. One that is registered is only marked as seen: the first registration stands, as in
    /// LMCache. Returns whether it is new.
    pub(crate) fn register(&mut self, cx: &mut Context, connection: ConnectionId, spec: WorkerSpec) -> bool {
        if let Some(worker) = self.workers.get_mut(&spec.instance) {
            worker.last_seen = cx.now;
            if worker.attach(connection) {
                self.by_connection.insert(connection, spec.instance);
            }
            self.models.seen(spec.instance, connection);
            return false;
        }
        self.unknown.forget(spec.instance);
        self.models.insert(connection, &spec);
        self.more_groups += spec.more_groups();
        self.name_bytes += spec.model.len();
        *self.of_client.entry(connection).or_default() += 1;
        self.by_connection.insert(connection, spec.instance);
        let mut worker = Worker {
            spec,
            client: connection,
            last_seen: cx.now,
            has_pinged: false,
            connections: SmallVec::from_slice(&[connection]),
            disconnected: None,
            silence_check: None,
        };
        worker.check_silence_in_time(cx);
        self.workers.insert(worker.spec.instance, worker);
        true
    }

    /// Whether one more worker may be registered by a client. One that is registered already may.
    pub(crate) fn check_room(
        &self,
        cx: &Context,
        client: ConnectionId,
        spec: &WorkerSpec,
    ) -> Result<(), TooManyWorkers> {
        let (all, each) = (cx.config.workers_max, cx.config.workers_per_connection_max);
        let (groups, name_bytes) = (cx.config.worker_groups_max, cx.config.worker_name_bytes_max);
        if self.workers.contains_key(&spec.instance) {
            return Ok(());
        }
        if self.of_client.get(&client).is_some_and(|own| *own >= each) {
            return Err(TooManyWorkers::OfClient { max: each });
        }
        if self.workers.len() >= all {
            return Err(TooManyWorkers::InAll { max: all });
        }
        if self.more_groups + spec.more_groups() > groups {
            return Err(TooManyWorkers::Groups { max: groups });
        }
        if self.name_bytes + spec.model.len() > name_bytes {
            return Err(TooManyWorkers::NameBytes { max: name_bytes });
        }
        Ok(())
    }

    /// Remembers an instance that is to run uncached: its pings are answered as those of a known worker.
    pub(crate) fn register_unserved(&mut self, instance: InstanceId) {
        self.unknown.first_seen(instance);
    }

    /// Removes a worker. Returns whether it was registered.
    pub(crate) fn remove(&mut self, cx: &mut Context, instance: InstanceId) -> bool {
        let Some(worker) = self.workers.remove(&instance) else { return false };
        if let Some(timer) = worker.silence_check {
            cx.timers.disarm(&timer);
        }
        for connection in worker.connections {
            self.by_connection.remove(connection, instance);
        }
        self.models.remove(instance);
        self.more_groups -= worker.spec.more_groups();
        self.name_bytes -= worker.spec.model.len();
        let own = self.of_client.get_mut(&worker.client).expect("each worker counts for its client");
        *own -= 1;
        if *own == 0 {
            self.of_client.remove(&worker.client);
        }
        true
    }

    /// The worker, if it is the one that asks: over a connection that it has registered over, or over the first one
    /// after those were lost. Marks it as seen.
    fn own(&mut self, now: Time, instance: InstanceId, connection: ConnectionId) -> Option<&mut Worker> {
        let worker = self.workers.get_mut(&instance)?;
        if !worker.connections.contains(&connection) {
            if !worker.connections.is_empty() {
                return None;
            }
            worker.attach(connection);
            self.by_connection.insert(connection, instance);
        }
        worker.last_seen = now;
        Some(worker)
    }

    /// Whether a worker uses a connection.
    pub(crate) fn uses(&self, instance: InstanceId, connection: ConnectionId) -> bool {
        self.workers.get(&instance).is_some_and(|worker| worker.connections.contains(&connection))
    }

    /// A worker unregisters over one of its connections. Returns whether that was the only one, so that it is gone.
    pub(crate) fn detach(&mut self, now: Time, instance: InstanceId, connection: ConnectionId) -> bool {
        let Some(worker) = self.own(now, instance, connection) else { return false };
        if worker.connections.len() == 1 {
            return true;
        }
        worker.connections.retain(|c| *c != connection);
        self.by_connection.remove(connection, instance);
        false
    }

    /// A connection is over. Its workers have the disconnect grace to use another one.
    pub(crate) fn connection_lost(&mut self, cx: &mut Context, connection: ConnectionId) {
        self.models.connection_lost(connection);
        for instance in self.by_connection.of(connection) {
            self.by_connection.remove(connection, instance);
            let worker = self.workers.get_mut(&instance).expect("connections of registered workers");
            worker.connections.retain(|c| *c != connection);
            if worker.connections.is_empty() {
                worker.disconnected = Some(cx.now);
                worker.check_silence_in_time(cx);
            }
        }
    }

    /// Marks a worker as alive. False at the first ping of an instance that is not registered, and at those over
    /// connections that are not its own: it should register again.
    pub(crate) fn ping(&mut self, cx: &mut Context, connection: ConnectionId, instance: InstanceId) -> bool {
        if !self.workers.contains_key(&instance) {
            return !self.unknown.first_seen(instance);
        }
        let Some(worker) = self.own(cx.now, instance, connection) else { return false };
        worker.pinged(cx);
        true
    }

    /// Marks the workers of a connection as alive. Returns whether there are any.
    pub(crate) fn ping_connection(&mut self, cx: &mut Context, connection: ConnectionId) -> bool {
        let instances = self.by_connection.of(connection);
        for instance in &instances {
            if let Some(worker) = self.own(cx.now, *instance, connection) {
                worker.pinged(cx);
            }
        }
        !instances.is_empty()
    }

    /// Marks a worker as seen now, and returns what it registered with. `None` if the connection is not its own.
    pub(crate) fn touch(
        &mut self,
        now: Time,
        instance: InstanceId,
        connection: ConnectionId,
    ) -> Option<&WorkerSpec> {
        self.own(now, instance, connection).map(|worker| &worker.spec)
    }

    /// Which connections' transfers a commit of a worker over `connection` may finish: those that this connection has
    /// begun, and those of lost ones that it has replaced.
    pub(crate) fn may_finish(
        &mut self,
        now: Time,
        instance: InstanceId,
        connection: ConnectionId,
    ) -> impl Fn(ConnectionId) -> bool + use<'_> {
        let is_own = self.touch(now, instance, connection).is_some();
        let workers = &*self;
        move |begun_by| begun_by == connection || is_own && !workers.uses(instance, begun_by)
    }

    /// All workers, and when they were last seen.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&WorkerSpec, Time)> {
        self.workers.values().map(|w| (&w.spec, w.last_seen))
    }

    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    /// The workers by model.
    pub(crate) fn models(&self) -> &Models {
        &self.models
    }

    /// The same, to relate workers to connections.
    pub(crate) fn models_mut(&mut self) -> &mut Models {
        &mut self.models
    }

    /// Checks a worker that may be silent; it may have been seen since the timer was armed. Returns whether it
    /// has been silent too long.
    pub(crate) fn is_silent(&mut self, cx: &mut Context, instance: InstanceId, due: Time) -> bool {
        let worker = self.workers.get_mut(&instance).expect("its timer ends with it");
        worker.silence_check = None;
        let silent = worker.silent_at(cx).is_some_and(|at| at <= due);
        if !silent {
            worker.check_silence_in_time(cx);
        }
        silent
    }

    /// Armed timers. For tests.
    pub(crate) fn timers(&self) -> usize {
        self.workers.values().filter(|worker| worker.silence_check.is_some()).count()
    }

    /// For tests.
    pub(crate) fn check(&self, cx: &Context) {
        self.models.check(self.workers.len());
        let name_bytes: usize = self.workers.values().map(|worker| worker.spec.model.len()).sum();
        assert_eq!(name_bytes, self.name_bytes, "bytes of model names");
        let more_groups: usize = self.workers.values().map(|worker| worker.spec.more_groups()).sum();
        assert_eq!(more_groups, self.more_groups, "groups besides the first");
        assert_eq!(self.workers.len(), self.of_client.values().sum::<usize>(), "workers of each client");
        let used: usize = self.workers.values().map(|worker| worker.connections.len()).sum();
        assert_eq!(self.by_connection.len(), used, "workers by connection");
        let lost = |worker: &&Worker| worker.connections.is_empty() != worker.disconnected.is_some();
        assert_eq!(self.workers.values().find(lost).map(|w| w.spec.instance), None, "lost connections");
        let unwatched = |worker: &&Worker| worker.silent_at(cx).is_some() && worker.silence_check.is_none();
        assert_eq!(self.workers.values().filter(unwatched).count(), 0, "workers without a silence check");
    }
}

impl Worker {
    /// When it is given up, if nothing is heard of it until then.
    fn silent_at(&self, cx: &Context) -> Option<Time> {
        let silent = cx.config.worker_reap_timeout.map(|timeout| {
            self.last_seen + if self.has_pinged { timeout } else { cx.config.worker_registration_grace }
        });
        let disconnected = self.disconnected.zip(cx.config.worker_disconnect_grace);
        silent.into_iter().chain(disconnected.map(|(since, grace)| since + grace)).min()
    }

    /// A heartbeat has come.
    fn pinged(&mut self, cx: &mut Context) {
        if !self.has_pinged {
            self.has_pinged = true;
            // The shorter timeout holds from now on.
            self.check_silence_in_time(cx);
        }
    }

    /// Returns whether the connection is new to it.
    fn attach(&mut self, connection: ConnectionId) -> bool {
        self.disconnected = None;
        let is_new = !self.connections.contains(&connection);
        if is_new {
            self.connections.push(connection);
        }
        is_new
    }

    /// Arms the timer, unless it is due earlier already: being seen costs nothing else.
    fn check_silence_in_time(&mut self, cx: &mut Context) {
        let Some(at) = self.silent_at(cx) else { return };
        match &mut self.silence_check {
            Some(timer) if timer.at() <= at => {}
            Some(timer) => cx.timers.move_to(timer, at),
            None => self.silence_check = Some(cx.timers.arm(at, TimerKind::Worker(self.spec.instance))),
        }
    }
}
