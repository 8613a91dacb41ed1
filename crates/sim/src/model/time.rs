//! Deadlines, and what ends with a worker or a connection.

use super::{Model, Name, Session, Transfer, Worker};
use crate::scenario::{EngineSpec, Millis};

/// A deadline. The order of variants is the order in which equal deadlines are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Lookup(u64),
    Session(u64),
    Retrieve(u64),
    Store(u64),
    Worker(i64),
    Peer(u64),
    Prefetch(u64),
}

impl Model {
    /// Handles all deadlines up to `now`, in order.
    pub fn advance(&mut self, now: Millis) {
        while let Some((at, due)) = self.next_due().filter(|(at, _)| *at <= now) {
            self.now = self.now.max(at);
            self.expire(at, due);
            self.settle();
        }
        self.now = self.now.max(now);
    }

    /// The next deadline, of jobs as well.
    pub fn next_deadline(&self) -> Option<Millis> {
        let jobs = self.jobs.values().map(|job| job.deadline);
        self.next_due().map(|(at, _)| at).into_iter().chain(jobs).min()
    }

    fn next_due(&self) -> Option<(Millis, Due)> {
        let lookups =
            self.sessions.iter().filter_map(|s| Some((s.lookup.as_ref()?.deadline, Due::Lookup(s.seq))));
        let sessions = self.sessions.iter().map(|s| (s.expires, Due::Session(s.seq)));
        let stores = self.stores.iter().map(|t| (t.deadline, Due::Store(t.seq)));
        let retrieves = self.retrieves.iter().map(|t| (t.deadline, Due::Retrieve(t.seq)));
        let peers = self.peers.iter().map(|p| (p.deadline, Due::Peer(p.id)));
        let workers = self.workers.iter().filter_map(|w| Some((self.silent_at(w)?, Due::Worker(w.instance))));
        let prefetches =
            self.prefetches.iter().filter_map(|(id, done)| Some(((*done)?.1, Due::Prefetch(*id))));
        lookups
            .chain(sessions)
            .chain(stores)
            .chain(retrieves)
            .chain(peers)
            .chain(workers)
            .chain(prefetches)
            .min()
    }

    fn expire(&mut self, at: Millis, due: Due) {
        match due {
            Due::Lookup(seq) => {
                let i = self.sessions.iter().position(|s| s.seq == seq).expect("due");
                self.drop_lookup(i);
            }
            Due::Session(seq) => {
                let i = self.sessions.iter().position(|s| s.seq == seq).expect("due");
                self.close_session(i);
            }
            Due::Retrieve(seq) => {
                let i = self.retrieves.iter().position(|t| t.seq == seq).expect("due");
                if self.retrieves[i].overdue {
                    self.forget_retrieve(i);
                } else {
                    self.retrieves[i].overdue = true;
                    self.retrieves[i].deadline = at + self.scenario.read_ttl;
                    self.release_retrieve(i);
                }
            }
            Due::Store(seq) => {
                let i = self.stores.iter().position(|t| t.seq == seq).expect("due");
                if self.stores[i].overdue {
                    self.stores.remove(i);
                } else {
                    self.retire_store(i, at + self.scenario.quarantine);
                }
            }
            Due::Worker(instance) => {
                self.reaped.push((instance, at));
                self.drop_worker(at, instance);
            }
            Due::Peer(id) => self.peers.retain(|p| p.id != id),
            Due::Prefetch(id) => drop(self.prefetches.remove(&id)),
        }
    }

    fn silent_at(&self, worker: &Worker) -> Option<Millis> {
        let timeout = self.scenario.reap;
        let silent = timeout.map(|t| worker.last_seen + if worker.pinged { t } else { self.scenario.grace });
        let disconnected = worker.disconnected.zip(self.scenario.disconnect_grace);
        silent.into_iter().chain(disconnected.map(|(since, grace)| since + grace)).min()
    }

    /// Ends the sessions and peer leases of a connection, and abandons its transfers.
    pub fn connection_lost(&mut self, now: Millis, connection: u64) {
        while let Some(i) = self.sessions.iter().position(|s| s.owner == connection) {
            self.close_session(i);
            // Settled one by one: chunks that a later session releases count as used later.
            self.settle();
        }
        self.peers.retain(|p| p.owner != connection);
        for worker in &mut self.workers {
            worker.connection = worker.connection.filter(|c| *c != connection);
            worker.scheduler = worker.scheduler.filter(|c| *c != connection);
            if worker.own == [connection] {
                worker.disconnected = Some(now);
            }
            worker.own.retain(|c| *c != connection);
        }
        self.abandon(now, |t| t.connection == connection);
    }

    /// The process that used a connection is gone: what its expired transfers kept is free.
    pub fn process_gone(&mut self, connection: u64) {
        self.stores.retain(|t| !t.overdue || t.connection != connection);
        let kept = |t: &Transfer| t.overdue && t.connection == connection && !t.uids.is_empty();
        while let Some(i) = self.retrieves.iter().position(kept) {
            self.forget_retrieve(i);
            self.settle();
        }
    }

    /// A worker unregisters. Returns whether it was registered, over that connection.
    pub fn unregister(&mut self, now: Millis, instance: i64, connection: u64) -> bool {
        let Some(worker) = self.own(now, instance, connection) else { return false };
        if worker.own.len() > 1 {
            worker.own.retain(|c| *c != connection);
            return false;
        }
        while let Some(i) = self.retrieves.iter().position(|t| t.name.instance == instance) {
            self.forget_retrieve(i);
            self.settle();
        }
        self.drop_worker(now, instance)
    }

    /// Drops a worker and abandons its transfers. Returns whether it was registered.
    pub fn drop_worker(&mut self, now: Millis, instance: i64) -> bool {
        let before = self.workers.len();
        self.workers.retain(|w| w.instance != instance);
        if self.workers.len() == before {
            return false;
        }
        self.abandon(now, |t| t.name.instance == instance);
        true
    }

    /// Registers a worker. Returns whether it is new.
    pub fn register(&mut self, now: Millis, (instance, connection): (i64, u64), engine: &EngineSpec) -> bool {
        if let Some(worker) = self.see(now, instance) {
            worker.connection = Some(connection);
            worker.attach(connection);
            return false;
        }
        self.strangers.remove(&instance);
        let EngineSpec { model, world, groups, .. } = engine.clone();
        let (scheduler, rank) = (None, None);
        let (last_seen, pinged, own, disconnected) = (now, false, vec![connection], None);
        let connection = Some(connection);
        self.workers.push(Worker {
            instance,
            model,
            world,
            groups,
            connection,
            scheduler,
            rank,
            own,
            disconnected,
            last_seen,
            pinged,
        });
        true
    }

    /// A ping of a worker. Returns the expected answer.
    pub fn ping(&mut self, now: Millis, instance: i64, connection: u64) -> bool {
        if !self.workers.iter().any(|w| w.instance == instance) {
            return !self.strangers.insert(instance);
        }
        let own = self.own(now, instance, connection);
        own.is_some_and(|worker| {
            worker.pinged = true;
            true
        })
    }

    /// Returns a worker if the connection is its own, and updates when it was last seen.
    pub(crate) fn own(&mut self, now: Millis, instance: i64, connection: u64) -> Option<&mut Worker> {
        let worker = self.workers.iter_mut().find(|w| w.instance == instance)?;
        if worker.own.is_empty() {
            worker.attach(connection);
        }
        worker.last_seen = if worker.own.contains(&connection) { now } else { worker.last_seen };
        worker.own.contains(&connection).then_some(worker)
    }

    /// Whether a worker has an open connection of its own, or is not registered.
    pub fn is_guarded(&self, instance: i64) -> bool {
        self.workers.iter().find(|w| w.instance == instance).is_none_or(|w| !w.own.is_empty())
    }

    /// Whether a commit over a connection may finish a transfer that was begun over another.
    pub(crate) fn may_finish(&self, instance: i64, connection: u64, begun_by: u64) -> bool {
        let uses = |c| self.workers.iter().any(|w| w.instance == instance && w.own.contains(&c));
        connection == begun_by || uses(connection) && !uses(begun_by)
    }

    /// Returns a worker and updates when it was last seen.
    pub(crate) fn see(&mut self, now: Millis, instance: i64) -> Option<&mut Worker> {
        let worker = self.workers.iter_mut().find(|w| w.instance == instance)?;
        worker.last_seen = now;
        Some(worker)
    }

    fn abandon(&mut self, now: Millis, gone: impl Fn(&Transfer) -> bool) {
        let until = now + self.scenario.quarantine;
        for i in 0..self.stores.len() {
            if gone(&self.stores[i]) {
                self.retire_store(i, until);
            }
        }
        self.retrieves.iter_mut().filter(|t| gone(t)).for_each(|t| t.overdue = true);
    }

    fn retire_store(&mut self, i: usize, until: Millis) {
        let store = &mut self.stores[i];
        if !store.overdue {
            (store.deadline, store.overdue) = (until, true);
            for uid in self.stores[i].uids.clone() {
                self.unlink(uid);
            }
        }
    }

    pub(crate) fn release_retrieve(&mut self, i: usize) {
        if !std::mem::take(&mut self.retrieves[i].uids).is_empty() {
            let prefix = self.retrieves[i].prefix.clone();
            self.touch(&prefix);
        }
    }

    pub(crate) fn forget_retrieve(&mut self, i: usize) {
        self.release_retrieve(i);
        let name: Name = self.retrieves.remove(i).name;
        if let Some(done) = self.done.get_mut(&name) {
            *done = done.saturating_sub(1);
        }
        if !self.retrieves.iter().any(|t| t.name == name) {
            self.done.remove(&name);
        }
    }

    pub(crate) fn drop_lookup(&mut self, i: usize) {
        let session: &mut Session = &mut self.sessions[i];
        session.result = None;
        if let Some(job) = session.job.take() {
            self.cancel_job(job);
        }
        if let Some(lookup) = self.sessions[i].lookup.take() {
            self.touch(&lookup.chunks[..lookup.hit as usize]);
        }
    }

    pub(crate) fn close_session(&mut self, i: usize) {
        self.drop_lookup(i);
        self.sessions.remove(i);
    }
}

impl Worker {
    fn attach(&mut self, connection: u64) {
        self.disconnected = None;
        if !self.own.contains(&connection) {
            self.own.push(connection);
        }
    }
}
