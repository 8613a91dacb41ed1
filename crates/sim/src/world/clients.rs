//! Clients without faults: the calls of a request, and copies page by page.

use larder_core::LookupStatus;
use larder_types::object::KvRank;

use super::calls::Context;
use super::{Copy, Engine, Event, Granted, Request, Worker, World};
use crate::model::{Key, LookupCall, Name};
use crate::scenario::Millis;

/// The expected content of page `page` of an object.
pub(super) fn tag(key: Key, page: u64) -> u64 {
    let chunk = key.chunk;
    let name = u64::from(chunk.model) << 32 | u64::from(chunk.salt) << 16 | u64::from(chunk.node);
    let form = key.form.bytes << 1 | u64::from(key.form.signed);
    let mix = |sum: u64, part: u64| (sum ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    [name, form, u64::from(key.group), u64::from(key.rank.0), page].into_iter().fold(0, mix)
}

impl World {
    /// Fills the adapters, registers the workers and schedules the first events.
    pub(super) fn start(&mut self) {
        let scenario = self.scenario.clone();
        self.fill_adapters();
        for (engine, spec) in scenario.engines.iter().enumerate() {
            let connection = self.fresh();
            self.engines.push(Engine { spec: spec.clone(), connection, workers: Vec::new() });
            for i in 0..spec.world.max(spec.readers) {
                let rank = KvRank::new(spec.world, i % spec.world);
                let (instance, connection) = (self.fresh() as i64, self.fresh());
                let worker = Worker { spec: spec.clone(), rank, instance, connection, silent_until: 0 };
                self.register((instance, connection), spec);
                self.engines[engine].workers.push(self.workers.len());
                self.schedule(0, Event::Ping(self.workers.len()));
                self.workers.push(worker);
            }
            self.schedule(0, Event::Arrive(engine));
        }
        if !scenario.faults.is_empty() {
            self.schedule(scenario.fault_pace, Event::Fault);
        }
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(engine) => {
                let node = self.draw_node();
                self.arrive(engine, node);
                let wait = self.rng.between(0, 6 * self.scenario.pace);
                self.schedule(wait, Event::Arrive(engine));
            }
            Event::Query(request) => self.on_query(request),
            Event::Retrieve { request, worker, start } => self.on_retrieve(request, worker, start),
            Event::Store { request, worker, start, end } => self.on_store(request, worker, start, end),
            Event::End(request) => self.on_end(request),
            Event::Copy(copy) => self.on_copy(copy),
            Event::Commit(copy) => self.on_commit(copy),
            Event::Ping(worker) => self.on_ping(worker),
            Event::Gone(connection) => self.process_gone(connection),
            Event::Fault => self.on_fault(),
            Event::Answer(question) => self.on_answer(question),
            Event::Io(io) => self.on_io(io),
            Event::IoResult(io) => self.on_io_result(io),
            Event::IoEnd(io) => self.on_io_end(io),
            Event::TaskResult(task) => self.on_task_result(task),
        }
    }

    /// A random prompt; the first ones are more frequent.
    pub(super) fn draw_node(&mut self) -> u16 {
        let nodes = self.scenario.universe.nodes.len();
        self.rng.index(nodes).min(self.rng.index(nodes)) as u16
    }

    fn draw_request_id(&mut self) -> u32 {
        if !self.ids.is_empty() && self.rng.chance(self.scenario.reused_ids) {
            return self.rng.index(self.ids.len()) as u32;
        }
        self.ids.push(format!("request-{}", self.ids.len()).into());
        self.ids.len() as u32 - 1
    }

    /// Begins a request: draws its id and looks up its prompt.
    pub(super) fn arrive(&mut self, engine: usize, node: u16) {
        let id = self.draw_request_id();
        let salt = self.rng.index(self.scenario.universe.salts.len()) as u8;
        let Engine { spec, connection, .. } = self.engines[engine].clone();
        let call = LookupCall {
            request: id,
            connection,
            model: spec.model,
            world: spec.world,
            worker_id: self.rng.chance(3).then(|| self.rng.below(u64::from(spec.world)) as u32),
            salt,
            node,
            start: 0,
            readers: spec.readers + u32::from(self.rng.chance(3)),
        };
        self.lookup(&call);
        self.requests.push(Request { engine, id, salt, node, hit: 0 });
        let wait = self.pause();
        // Some requests are cancelled before the first query.
        let next = Event::Query(self.requests.len() - 1);
        let cancelled = self.rng.chance(4);
        self.schedule(wait, if cancelled { Event::End(self.requests.len() - 1) } else { next });
    }

    fn on_query(&mut self, index: usize) {
        let request = self.requests[index].clone();
        let total = self.scenario.universe.nodes[usize::from(request.node)].path.len() as u32;
        // For a reused id this may be the hit of another prompt.
        let connection = self.engines[request.engine].connection;
        let hit = match self.query(connection, request.id) {
            LookupStatus::Ready(hit) => hit.min(total),
            LookupStatus::Unknown => 0,
            LookupStatus::Pending => {
                self.seen.queries_pending += 1;
                let wait = self.pause() + 1;
                match self.rng.below(40) {
                    0 => self.schedule(wait, Event::End(index)),
                    1 => self.free((connection, request.id), None, (0, 1)),
                    _ => self.schedule(wait, Event::Query(index)),
                }
                return;
            }
        };
        self.requests[index].hit = hit;
        let workers = self.engines[request.engine].workers.clone();
        let spec = self.engines[request.engine].spec.clone();
        let mut start = spec.first_needed(hit);
        // The engine may still have the head of the prompt in its own memory.
        if hit > 0 && self.rng.chance(30) {
            let held = self.rng.between(0, u64::from(hit)) as u32;
            self.free((connection, request.id), None, (0, held));
            start = start.max(held);
        }
        let mut wait = self.pause();
        for &worker in &workers {
            if start < hit && !self.rng.chance(3) {
                self.schedule(wait, Event::Retrieve { request: index, worker, start });
                wait += self.pause();
            }
        }
        let ended_early = self.rng.chance(20);
        let first = if self.rng.chance(10) { 0 } else { hit };
        let stores = if spec.readers > 1 && self.rng.chance(70) { &workers[..1] } else { &workers[..] };
        for &worker in stores {
            self.plan_stores(index, worker, first, total, wait);
        }
        if !self.rng.chance(5) {
            let wait = if ended_early { self.pause() } else { wait + 4 * self.pause() };
            self.schedule(wait, Event::End(index));
        }
    }

    /// Schedules a store, in one call or in two.
    fn plan_stores(&mut self, request: usize, worker: usize, start: u32, end: u32, wait: Millis) {
        if start >= end {
            return;
        }
        let cut =
            if self.rng.chance(30) { self.rng.between(u64::from(start), u64::from(end)) as u32 } else { end };
        for (start, end) in [(start, cut), (cut, end)] {
            if start < end {
                let wait = wait + self.pause();
                self.schedule(wait, Event::Store { request, worker, start, end });
            }
        }
    }

    fn name(&self, worker: usize, request: &Request, start: u32, end: u32) -> Name {
        let path = &self.scenario.universe.nodes[usize::from(request.node)].path;
        let tail = (start < end).then(|| path[end as usize - 1]);
        let Worker { instance, rank, .. } = self.workers[worker];
        Name { instance, request: request.id, rank, salt: request.salt, start, end, tail }
    }

    fn context(&self, worker: usize, node: u16) -> Context {
        let worker = &self.workers[worker];
        Context { model: worker.spec.model, node, connection: worker.connection }
    }

    fn on_retrieve(&mut self, request: usize, worker: usize, start: u32) {
        if self.postponed(worker, Event::Retrieve { request, worker, start }) {
            return;
        }
        let request = self.requests[request].clone();
        let (context, name) =
            (self.context(worker, request.node), self.name(worker, &request, start, request.hit));
        if let Some(granted) = self.prepare_retrieve(context, name) {
            self.start_copy(worker, request.node, name, granted, false);
        }
    }

    fn on_store(&mut self, request: usize, worker: usize, start: u32, end: u32) {
        if self.postponed(worker, Event::Store { request, worker, start, end }) {
            return;
        }
        let request = self.requests[request].clone();
        let (context, name) = (self.context(worker, request.node), self.name(worker, &request, start, end));
        let skipped = self.draw_skipped(worker, end - start);
        if let Some(granted) = self.prepare_store(context, name, &skipped) {
            // The slots may be overwritten at any time from now on.
            for place in &granted.places {
                self.memory[place.page as usize..][..place.pages as usize].fill(u64::MAX - granted.seq);
            }
            self.start_copy(worker, request.node, name, granted, true);
        }
    }

    /// Chunks and groups that a worker leaves out, because the engine has no data of them: of groups with a window
    /// those before it, or some of them.
    fn draw_skipped(&mut self, worker: usize, len: u32) -> Vec<(u32, u32)> {
        let groups = self.workers[worker].spec.groups.clone();
        let mut skipped = Vec::new();
        if groups.len() < 2 {
            return skipped;
        }
        for (group, window) in (0..).zip(groups.iter().map(|group| group.window)) {
            let Some(window) = window.filter(|_| self.rng.chance(70)) else { continue };
            let all = self.rng.chance(80);
            let outside = 0..len.saturating_sub(window);
            skipped.extend(outside.filter(|_| all || self.rng.chance(50)).map(|chunk| (chunk, group)));
        }
        skipped
    }

    fn start_copy(&mut self, worker: usize, node: u16, name: Name, granted: Granted, write: bool) {
        let Granted { seq, places } = granted;
        let pages: u64 = places.iter().map(|p| p.pages).sum();
        let stride = pages.div_ceil(self.rng.between(1, 4));
        let model = self.workers[worker].spec.model;
        let ttl =
            if write { self.scenario.write_ttl + self.scenario.quarantine } else { self.scenario.read_ttl };
        let copy = Copy {
            limit: self.now + ttl,
            connection: self.workers[worker].connection,
            write,
            worker,
            model,
            node,
            name,
            seq,
            places,
            at: 0,
            stride,
            commits: true,
            running: true,
        };
        self.copies.push(copy);
        let wait = self.pause();
        self.schedule(wait, Event::Copy(self.copies.len() - 1));
    }

    /// Makes a step of a copy: writes some pages, or reads and checks them.
    fn on_copy(&mut self, index: usize) {
        let copy = self.copies[index].clone();
        if !copy.running {
            return;
        }
        self.trace
            .call(self.now, crate::trace::Call::Copy { seq: copy.seq, write: copy.write, page: copy.at });
        let mut page = 0;
        let steps = copy.at..copy.at + copy.stride;
        for place in &copy.places {
            for i in 0..place.pages {
                if steps.contains(&page) {
                    self.copy_page(&copy, (place.page + i) as usize, tag(place.key, i));
                }
                page += 1;
            }
        }
        self.copies[index].at = steps.end;
        if steps.end < page {
            let wait = self.copy_wait(copy.write);
            self.schedule(wait, Event::Copy(index));
        } else {
            self.copies[index].running = false;
            let wait = self.copy_wait(copy.write);
            self.schedule(wait, Event::Commit(index));
        }
    }

    fn copy_page(&mut self, copy: &Copy, page: usize, tag: u64) {
        let orphan = u64::from(self.model.is_overdue(copy.seq));
        if copy.write {
            self.memory[page] = tag;
            self.seen.pages_written += 1;
            self.seen.orphan_pages_written += orphan;
        } else {
            assert_eq!(self.memory[page], tag, "wrong bytes in page {page}, read by {copy:?}");
            self.seen.pages_read += 1;
            self.seen.orphan_pages_read += orphan;
        }
    }

    /// Time until the next step of a copy: usually short, in stalls about the TTL or longer.
    fn copy_wait(&mut self, write: bool) -> Millis {
        if !self.rng.chance(self.scenario.stalls) {
            return self.pause();
        }
        let ttl = if write { self.scenario.write_ttl } else { self.scenario.read_ttl };
        ttl * self.rng.pick(&[2, 3, 4, 5, 7, 9]) / 4
    }

    /// Limits writes to the end of the quarantine after their worker or connection was lost at `at`.
    pub(super) fn limit_copies(&mut self, at: Millis, gone: impl Fn(&Copy) -> bool) {
        let limit = at + self.scenario.quarantine;
        self.copies.iter_mut().filter(|c| c.write && gone(c)).for_each(|c| c.limit = c.limit.min(limit));
    }

    /// Stops the copies for which memory is no longer kept, and checks that it was kept until their limit.
    pub(super) fn cut_copies(&mut self) {
        for (instance, at) in std::mem::take(&mut self.model.reaped) {
            self.limit_copies(at, |c| c.name.instance == instance);
        }
        for index in 0..self.copies.len() {
            let copy = &mut self.copies[index];
            if copy.running && !self.model.may_copy(copy.seq) {
                assert!(self.now >= copy.limit, "memory not kept until the limit of {copy:?}");
                copy.running = false;
                self.seen.copies_cut += 1;
                let wait = self.pause();
                self.schedule(wait, Event::Commit(index));
            }
        }
    }

    fn on_commit(&mut self, index: usize) {
        let copy = self.copies[index].clone();
        if !copy.commits || self.postponed(copy.worker, Event::Commit(index)) {
            return;
        }
        // The core no longer knows this transfer, but another one of the same name. It cannot distinguish
        // their commits, so a correct client does not make this one.
        if !self.model.knows_seq(copy.seq) && self.model.knows(&copy.name) {
            return;
        }
        let context =
            Context { model: copy.model, node: copy.node, connection: self.workers[copy.worker].connection };
        match copy.write {
            true if self.rng.chance(self.scenario.aborts) => self.abort_store(context, &copy.name),
            true => self.commit_store(context, &copy.name),
            false => self.commit_retrieve(context, &copy.name),
        }
    }

    fn on_end(&mut self, index: usize) {
        let request = self.requests[index].clone();
        self.end_session(self.engines[request.engine].connection, request.id);
        if self.rng.chance(40) {
            // The next turn of the conversation: a prompt that begins with this one.
            let nodes = self.scenario.universe.nodes.len();
            let longer = (0..nodes as u16).filter(|n| self.scenario.universe.continues(*n, request.node));
            let longer: Vec<u16> = longer.collect();
            if !longer.is_empty() {
                let node = self.rng.pick(&longer);
                self.arrive(request.engine, node);
            }
        }
    }

    fn on_ping(&mut self, index: usize) {
        let worker = self.workers[index].clone();
        if worker.silent_until <= self.now && !self.ping(worker.instance, worker.connection) {
            self.register((worker.instance, worker.connection), &worker.spec);
        }
        let wait = self.scenario.reap.map_or(20 * self.scenario.pace, |reap| reap / 3) + 1;
        self.schedule(wait, Event::Ping(index));
    }

    /// Postpones the event of a silent worker to the end of its silence. Returns whether it is silent.
    fn postponed(&mut self, worker: usize, event: Event) -> bool {
        let until = self.workers[worker].silent_until;
        let silent = until > self.now;
        if silent {
            self.schedule(until - self.now, event);
        }
        silent
    }
}
