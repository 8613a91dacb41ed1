//! Faults of clients, networks, adapters and the server, and actions of operators.

use larder_core::Core;
use larder_policy::{OffloadKind, PrefetchKind};
use larder_types::object::KvRank;

use super::calls::Context;
use super::events::Follower;
use super::{Event, PeerRequest, Worker, World};
use crate::model::{ChunkKey, Form, Key, Name, WarmCall};
use crate::scenario::Fault;

impl World {
    pub(super) fn on_fault(&mut self) {
        let faults = self.scenario.faults.clone();
        match self.rng.pick(&faults) {
            Fault::WorkerCrash => self.crash_worker(),
            Fault::WorkerFlap => {
                let worker = self.rng.index(self.workers.len());
                let lost = std::mem::replace(&mut self.workers[worker].connection, 0);
                self.workers[worker].connection = self.fresh();
                self.lose(lost);
            }
            Fault::SchedulerLoss => {
                let engine = self.rng.index(self.engines.len());
                let lost = std::mem::replace(&mut self.engines[engine].connection, 0);
                self.engines[engine].connection = self.fresh();
                self.lose(lost);
            }
            Fault::Silence => {
                let worker = self.rng.index(self.workers.len());
                let longest = self.scenario.reap.unwrap_or(10 * self.scenario.pace) * 2;
                self.workers[worker].silent_until = self.now + self.rng.between(1, longest);
            }
            Fault::Unregister => {
                let worker = self.rng.index(self.workers.len());
                let Worker { instance, connection, .. } = self.workers[worker];
                self.unregister(instance, connection);
            }
            Fault::StrayCommit => self.stray_commit(),
            Fault::OverRelease => self.over_release(),
            Fault::Clear => self.clear(false),
            Fault::ForcedClear => self.clear(true),
            Fault::CutMemory => {
                // At most an eighth, so that enough memory remains for the rest of the run.
                let end = self.rng.between(self.pages - self.pages / 8, self.pages);
                self.truncate_capacity(end);
            }
            Fault::Peer => self.act_as_peer(),
            Fault::Twins => {
                let node = self.draw_node();
                for _ in 0..self.rng.between(2, 3) {
                    let engine = self.rng.index(self.engines.len());
                    self.arrive(engine, node);
                }
            }
            Fault::Stranger => self.act_as_stranger(),
            Fault::Warm => self.request_prefetch(),
            Fault::Quota => {
                let salt = self.rng.index(self.scenario.universe.salts.len()) as u8;
                let salt = self.rng.chance(70).then_some(salt);
                let limit = self.rng.between(0, self.core.gauges().l1.used_bytes);
                let limit = self.rng.chance(70).then_some(limit);
                self.change_quota(salt, limit);
            }
            Fault::Policy => {
                let (prefetch, store) = (self.rng.pick(PrefetchKind::ALL), self.rng.pick(OffloadKind::ALL));
                self.choose_policies(prefetch, store);
            }
            Fault::AdapterRestart | Fault::AdapterLoss if self.adapters.is_empty() => {}
            Fault::AdapterRestart => {
                let adapter = self.rng.index(self.adapters.len()) as u32;
                self.restart_adapter(adapter);
            }
            Fault::AdapterLoss => {
                let adapter = self.rng.index(self.adapters.len()) as u32;
                self.lose_objects(adapter);
            }
            Fault::ServerCrash => self.crash_server(),
        }
        let wait = self.rng.between(0, 2 * self.scenario.fault_pace);
        self.schedule(wait, Event::Fault);
    }

    /// A worker process dies. Its copies may continue for a while (DMA), but are not committed.
    fn crash_worker(&mut self) {
        let index = self.rng.index(self.workers.len());
        let (instance, connection) = (self.fresh() as i64, self.fresh());
        let worker = &mut self.workers[index];
        let dead = std::mem::replace(&mut worker.instance, instance);
        let lost = std::mem::replace(&mut worker.connection, connection);
        self.copies.iter_mut().filter(|c| c.name.instance == dead).for_each(|c| c.commits = false);
        self.lose(lost);
        let wait = self.pause();
        self.schedule(wait, Event::Gone(lost));
        // The new process may have other settings.
        let models: Vec<_> = self.scenario.engines.clone();
        let spec = &mut self.workers[index].spec;
        if self.rng.chance(30) {
            spec.groups = models[self.rng.index(models.len())].groups.clone();
        }
        let spec = spec.clone();
        self.register((instance, connection), &spec);
    }

    fn stray_commit(&mut self) {
        if self.copies.is_empty() {
            return;
        }
        let copy = self.copies[self.rng.index(self.copies.len())].clone();
        if self.rng.chance(30) && self.model.is_guarded(copy.name.instance) {
            let context = Context { model: copy.model, node: copy.node, connection: self.fresh() };
            return match copy.write {
                true => self.commit_store(context, &copy.name),
                false => self.commit_retrieve(context, &copy.name),
            };
        }
        let mut name = copy.name;
        if self.rng.chance(30) && name.end - name.start > 1 {
            name.start += 1;
        }
        if self.model.knows(&name) {
            return;
        }
        let context =
            Context { model: copy.model, node: copy.node, connection: self.workers[copy.worker].connection };
        match self.rng.below(3) {
            0 => self.commit_store(context, &name),
            1 => self.commit_retrieve(context, &name),
            _ => self.abort_store(context, &name),
        }
    }

    fn over_release(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let request = self.rng.index(self.ids.len()) as u32;
        let (start, end) = (self.rng.below(8) as u32, self.rng.below(14) as u32);
        let rank = self.rng.chance(30).then(|| KvRank::new(2, self.rng.below(2) as u32));
        let connection = self.engines[self.rng.index(self.engines.len())].connection;
        match self.rng.below(4) {
            0 => self.end_session(connection, request),
            1 => _ = self.query(connection, request),
            2 => self.free((connection, request), rank, (start, u32::MAX)),
            _ => self.free((connection, request), rank, (start, end)),
        }
    }

    fn act_as_peer(&mut self) {
        let known = (!self.peers.is_empty()).then(|| self.rng.index(self.peers.len()));
        match (self.rng.below(6), known) {
            (0, Some(i)) => self.peer_result(self.peers[i].id),
            (1 | 2, Some(i)) => {
                let PeerRequest { owner, mut keys, .. } = self.peers[i].clone();
                let owner = if self.rng.chance(80) { owner } else { self.fresh() };
                keys.truncate(self.rng.between(1, 8) as usize);
                self.peer_unlock(owner, &keys);
            }
            (3, Some(i)) if self.rng.chance(30) => self.lose(self.peers[i].owner),
            _ => {
                let node = self.draw_node();
                let salt = self.rng.index(self.scenario.universe.salts.len()) as u8;
                let engine = self.rng.index(self.engines.len());
                let (model, world) = (self.engines[engine].spec.model, self.engines[engine].spec.world);
                let rank = KvRank::new(world, self.rng.below(u64::from(world)) as u32);
                let path = self.scenario.universe.nodes[usize::from(node)].path.clone();
                // Peers do not say which layout they can read.
                let form = Form::default();
                let groups = self.engines[engine].spec.groups.len();
                let group = if groups > 1 { self.rng.index(groups) as u32 } else { 0 };
                let key = |&node: &u16| Key { chunk: ChunkKey { model, salt, node }, rank, group, form };
                let keys: Vec<Key> = path.iter().map(key).collect();
                let owner = self.fresh();
                let id = self.peer_lookup(owner, &keys);
                self.peers.push(PeerRequest { id, owner, keys });
                if self.rng.chance(70) {
                    self.peer_result(id);
                }
            }
        }
    }

    fn request_prefetch(&mut self) {
        if !self.warms.is_empty() && self.rng.chance(50) {
            let id = self.rng.pick(&self.warms);
            return self.prefetch_status(id);
        }
        let node = self.draw_node();
        let salt = self.rng.index(self.scenario.universe.salts.len()) as u8;
        let engine = self.rng.index(self.engines.len());
        let (model, world) = (self.engines[engine].spec.model, self.engines[engine].spec.world);
        let world = if self.rng.chance(3) { 5 } else { world };
        let full = self.rng.chance(50);
        self.warm(&WarmCall { model, world, salt, node, full });
    }

    /// The server dies and another one starts, with an empty L1. The adapters keep their objects.
    fn crash_server(&mut self) {
        self.seen.server_crashes += 1;
        self.note_adapters();
        self.ended.push((*self.core.stats().requests(), *self.core.stats().l1()));
        self.core = Core::new(World::config(&self.scenario));
        self.follower = Follower::new(&mut self.core);
        self.model = self.model.restarted();
        self.learn();
        self.memory.fill(u64::MAX - 2);
        self.pages = self.scenario.capacity / self.scenario.page;
        self.peers.clear();
        self.warms.clear();
        self.asked.fill([0; 6]);
        self.loads.clear();
        self.cut_off_adapters();
        for index in 0..self.copies.len() {
            if std::mem::take(&mut self.copies[index].running) {
                let wait = self.pause();
                self.schedule(wait, Event::Commit(index));
            }
        }
        self.advance();
    }

    fn act_as_stranger(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let worker = self.workers[self.rng.index(self.workers.len())].clone();
        let node = self.draw_node();
        let path = &self.scenario.universe.nodes[usize::from(node)].path;
        let (end, tail) = (path.len() as u32, path.last().copied());
        let request = self.rng.index(self.ids.len()) as u32;
        let mut name = Name { instance: -1, request, rank: worker.rank, salt: 0, start: 0, end, tail };
        if self.rng.chance(40) {
            name.instance = worker.instance;
            name.rank = KvRank::new(7, 3);
        }
        let context = Context { model: worker.spec.model, node, connection: worker.connection };
        match self.rng.below(3) {
            0 => drop(self.ping(-1, worker.connection)),
            1 => {
                assert!(self.prepare_store(context, name, &[]).is_none(), "an unregistered worker may write")
            }
            _ => assert!(self.prepare_retrieve(context, name).is_none(), "an unregistered worker may read"),
        }
    }
}
