//! Simulated adapters with faults: late, hanging, failing and wrong results, lost and damaged objects.
//! They access an object's memory only during its I/O operation.

use std::collections::{BTreeMap, BTreeSet};

use super::clients::tag;
use super::{Event, Place, World};
use crate::model::{ChunkKey, Key};
use crate::scenario::{AdapterSpec, Millis};

/// The objects of an adapter. They survive a crash of the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Adapter {
    /// Sizes of its objects.
    pub(super) objects: BTreeMap<Key, u64>,
    /// Objects that it has lost or damaged after it had stored them.
    pub(super) damaged: BTreeSet<Key>,
}

/// A lookup sent to an adapter.
#[derive(Clone, Debug)]
pub(super) struct Question {
    id: u64,
    adapter: u32,
    keys: Vec<Key>,
    /// A wrong answer, made when the lookup was sent; `None`: answered correctly.
    sizes: Option<Vec<Option<u64>>>,
    open: bool,
}

/// An I/O operation: the load or store of one object.
#[derive(Clone, Debug)]
pub(super) struct Io {
    id: u64,
    adapter: u32,
    pub(super) place: Place,
    bytes: u64,
    /// The task of a store; `None` for a load.
    task: Option<usize>,
    /// Pages copied so far.
    at: u64,
    stride: u64,
    fails: bool,
    /// The result, once the I/O is complete.
    ok: Option<bool>,
    /// Whether the I/O operation still holds the object's memory.
    pub(super) lent: bool,
    /// Whether the result has not been reported yet.
    unreported: bool,
}

/// A store task: a batch of objects.
#[derive(Clone, Debug)]
pub(super) struct Task {
    id: u64,
    pub(super) adapter: u32,
    pub(super) ios: Vec<usize>,
    pub(super) unreported: bool,
}

impl World {
    fn adapter(&self, adapter: u32) -> AdapterSpec {
        self.scenario.l2.adapters[adapter as usize].clone()
    }

    /// Time until an adapter's next step; `None` if the step hangs.
    fn adapter_wait(&mut self, spec: &AdapterSpec) -> Option<Millis> {
        if spec.hangs > 0 && self.rng.chance(spec.hangs) {
            self.seen.hung += 1;
            return None;
        }
        let late = spec.late > 0 && self.rng.chance(spec.late);
        let wait = self.rng.between(0, 2 * spec.pace);
        Some(if late { wait + self.scenario.l2.load_deadline } else { wait })
    }

    /// Adds objects to the adapters, as if another server had stored them.
    pub(super) fn fill_adapters(&mut self) {
        let scenario = self.scenario.clone();
        if scenario.l2.filled == 0 {
            return;
        }
        for adapter in 0..scenario.l2.adapters.len() {
            for engine in &scenario.engines {
                for salt in 0..scenario.universe.salts.len() as u8 {
                    for node in 0..scenario.universe.nodes.len() as u16 {
                        let chunk = ChunkKey { model: engine.model, salt, node };
                        for key in engine.keys(chunk) {
                            if scenario.l2.adapters[adapter].persists && self.rng.chance(scenario.l2.filled) {
                                self.adapters[adapter].objects.insert(key, key.form.bytes);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Sends a lookup to an adapter.
    pub(super) fn ask(&mut self, adapter: u32, id: u64, keys: Vec<Key>) {
        let spec = self.adapter(adapter);
        let lies = spec.lies > 0 && self.rng.chance(spec.lies);
        let sizes = lies.then(|| self.sizes(adapter, &keys, true));
        self.questions.push(Question { id, adapter, keys, sizes, open: true });
        if let Some(wait) = self.adapter_wait(&spec) {
            self.schedule(wait, Event::Answer(self.questions.len() - 1));
        }
    }

    /// The sizes that an adapter reports for keys.
    fn sizes(&mut self, adapter: u32, keys: &[Key], lies: bool) -> Vec<Option<u64>> {
        let spec = self.adapter(adapter);
        let mut sizes = Vec::new();
        for key in keys {
            let mut size = self.adapters[adapter as usize].objects.get(key).copied();
            if lies && self.rng.chance(30) {
                let engine = self.scenario.engines.iter().find(|e| e.model == key.chunk.model);
                let bytes = engine.map(|e| e.groups[0].form.bytes);
                let off = self.rng.pick(&[0, 0, 1, 4096]);
                size = bytes.filter(|_| self.rng.chance(80)).map(|b| b + off);
            }
            sizes.push(if spec.pads { size.map(|s| s.next_multiple_of(4096)) } else { size });
        }
        if lies && self.rng.chance(20) {
            sizes.truncate(self.rng.index(keys.len() + 1));
        }
        sizes
    }

    pub(super) fn on_answer(&mut self, index: usize) {
        let question = self.questions[index].clone();
        if !question.open {
            return;
        }
        self.questions[index].open = false;
        let sizes = question.sizes.unwrap_or_else(|| self.sizes(question.adapter, &question.keys, false));
        self.l2_found(question.id, (question.adapter, &question.keys), &sizes);
    }

    pub(super) fn begin_task(&mut self, adapter: u32, id: u64) -> usize {
        self.tasks.push(Task { id, adapter, ios: Vec::new(), unreported: true });
        self.tasks.len() - 1
    }

    pub(super) fn begin_io(&mut self, adapter: u32, id: u64, place: Place, bytes: u64, task: Option<usize>) {
        let spec = self.adapter(adapter);
        let clash = self.ios.iter().any(|io| io.lent && io.id == id);
        assert!(!clash, "two I/O operations with one id");
        let stride = place.pages.div_ceil(self.rng.between(1, 3));
        let fails = spec.fails > 0 && self.rng.chance(spec.fails);
        let io = Io {
            id,
            adapter,
            place,
            bytes,
            task,
            at: 0,
            stride,
            fails,
            ok: None,
            lent: true,
            unreported: true,
        };
        self.ios.push(io);
        let index = self.ios.len() - 1;
        if let Some(task) = task {
            self.tasks[task].ios.push(index);
        }
        if let Some(wait) = self.adapter_wait(&spec) {
            self.schedule(wait, Event::Io(index));
        }
    }

    /// Makes a step of an I/O operation, or completes it.
    pub(super) fn on_io(&mut self, index: usize) {
        let io = self.ios[index].clone();
        if !io.lent || io.ok.is_some() {
            return;
        }
        let spec = self.adapter(io.adapter);
        if io.at < io.place.pages {
            self.io_step(index);
            let wait = self.rng.between(0, 2 * spec.pace);
            return self.schedule(wait, Event::Io(index));
        }
        let ok = match io.task {
            Some(_) => self.complete_store(&io),
            None => self.loadable(&io),
        };
        self.ios[index].ok = Some(ok);
        let wait = self.adapter_wait(&spec);
        match io.task {
            Some(task) => {
                let done = self.tasks[task].ios.iter().all(|io| self.ios[*io].ok.is_some());
                // The result is reported before or after the I/O ends, or not at all.
                let lost = spec.loses > 0 && self.rng.chance(spec.loses);
                if done && !lost {
                    let wait = self.rng.between(0, 2 * spec.pace);
                    self.schedule(wait, Event::TaskResult(task));
                }
                if let Some(wait) = wait {
                    self.schedule(wait, Event::IoEnd(index));
                }
            }
            None => {
                let lost = spec.loses > 0 && self.rng.chance(spec.loses);
                if !lost {
                    let wait = self.rng.between(0, 2 * spec.pace);
                    self.schedule(wait, Event::IoResult(index));
                }
                if let Some(wait) = wait {
                    self.schedule(wait, Event::IoEnd(index));
                }
            }
        }
    }

    fn loadable(&self, io: &Io) -> bool {
        !io.fails && self.adapters[io.adapter as usize].objects.get(&io.place.key) == Some(&io.bytes)
    }

    /// Copies some pages. A load that fails writes wrong bytes.
    fn io_step(&mut self, index: usize) {
        let io = self.ios[index].clone();
        let write = io.task.is_none();
        self.trace.call(self.now, crate::trace::Call::Io { io: io.id, write, page: io.at });
        let end = (io.at + io.stride).min(io.place.pages);
        let good = self.loadable(&io);
        for page in io.at..end {
            let (at, tag) = ((io.place.page + page) as usize, tag(io.place.key, page));
            if write {
                self.memory[at] = if good { tag } else { u64::MAX - 1 };
                self.seen.pages_loaded += 1;
            } else {
                assert_eq!(self.memory[at], tag, "wrong bytes in page {at}, stored by {io:?}");
                self.seen.pages_stored += 1;
            }
        }
        self.ios[index].at = end;
        // An adapter opens an object once: an object that is stored during the load does not count.
        self.ios[index].fails |= write && !good;
    }

    /// Completes a store: the adapter has the object, or a damaged one, or what it had before.
    fn complete_store(&mut self, io: &Io) -> bool {
        let persists = self.adapter(io.adapter).persists;
        let torn = io.fails && self.rng.chance(30);
        let adapter = &mut self.adapters[io.adapter as usize];
        if !persists {
            return !io.fails;
        }
        if torn {
            adapter.objects.insert(io.place.key, io.bytes + 1);
            adapter.damaged.insert(io.place.key);
        } else if !io.fails {
            adapter.objects.insert(io.place.key, io.bytes);
            adapter.damaged.remove(&io.place.key);
        }
        !io.fails
    }

    pub(super) fn on_io_result(&mut self, index: usize) {
        let io = self.ios[index].clone();
        if std::mem::take(&mut self.ios[index].unreported) {
            self.l2_loaded(io.id, io.ok.unwrap_or(false));
        }
    }

    pub(super) fn on_io_end(&mut self, index: usize) {
        let id = self.ios[index].id;
        if std::mem::take(&mut self.ios[index].lent) {
            self.io_ended(id);
        }
    }

    pub(super) fn on_task_result(&mut self, index: usize) {
        let task = self.tasks[index].clone();
        if !std::mem::take(&mut self.tasks[index].unreported) {
            return;
        }
        let mut stored: Vec<bool> = task.ios.iter().map(|io| self.ios[*io].ok.unwrap_or(false)).collect();
        let spec = self.adapter(task.adapter);
        if spec.lies > 0 && self.rng.chance(spec.lies / 2) {
            // It reports fewer objects than it stored.
            stored.truncate(self.rng.index(stored.len() + 1));
        }
        self.l2_stored(task.id, &stored);
    }

    /// Restarts an adapter: all its I/O ends, and some results are lost.
    pub(super) fn restart_adapter(&mut self, adapter: u32) {
        for index in 0..self.questions.len() {
            let question = &mut self.questions[index];
            if question.adapter == adapter && std::mem::take(&mut question.open) && self.rng.chance(50) {
                let id = question.id;
                self.l2_found(id, (adapter, &[]), &[]);
            }
        }
        for index in 0..self.ios.len() {
            if self.ios[index].adapter == adapter && self.ios[index].lent {
                let reported = self.rng.chance(30);
                if reported && self.ios[index].task.is_none() {
                    self.on_io_result(index);
                }
                self.on_io_end(index);
            }
        }
        for index in 0..self.tasks.len() {
            if self.tasks[index].adapter == adapter && self.tasks[index].unreported && self.rng.chance(50) {
                self.on_task_result(index);
            }
        }
    }

    /// Removes all or some objects of an adapter.
    pub(super) fn lose_objects(&mut self, adapter: u32) {
        let all = self.rng.chance(30);
        let keys: Vec<Key> = self.adapters[adapter as usize].objects.keys().copied().collect();
        for key in keys {
            if all || self.rng.chance(30) {
                let adapter = &mut self.adapters[adapter as usize];
                adapter.objects.remove(&key);
                adapter.damaged.insert(key);
            }
        }
    }

    /// Ends all lookups, I/O and tasks after a crash of the server, without results. A store with all pages
    /// read may still be completed.
    pub(super) fn cut_off_adapters(&mut self) {
        self.questions.iter_mut().for_each(|q| q.open = false);
        self.tasks.iter_mut().for_each(|t| t.unreported = false);
        for index in 0..self.ios.len() {
            let io = self.ios[index].clone();
            if io.lent
                && io.task.is_some()
                && io.ok.is_none()
                && io.at == io.place.pages
                && self.rng.chance(50)
            {
                self.complete_store(&io);
            }
            self.ios[index].lent = false;
            self.ios[index].unreported = false;
        }
    }

    /// Completes all lookups, I/O and tasks of all adapters at once. Returns whether there were any.
    pub(super) fn work_off(&mut self) -> bool {
        let mut any = false;
        loop {
            self.collect();
            if let Some(index) = self.questions.iter().position(|q| q.open) {
                self.on_answer(index);
            } else if let Some(index) = self.ios.iter().position(|io| io.lent) {
                while self.ios[index].at < self.ios[index].place.pages && self.ios[index].ok.is_none() {
                    self.io_step(index);
                }
                let io = self.ios[index].clone();
                if io.ok.is_none() {
                    let ok = if io.task.is_some() { self.complete_store(&io) } else { self.loadable(&io) };
                    self.ios[index].ok = Some(ok);
                }
                if io.task.is_none() {
                    self.on_io_result(index);
                }
                self.on_io_end(index);
            } else if let Some(index) = self.tasks.iter().position(|t| t.unreported) {
                self.on_task_result(index);
            } else {
                return any;
            }
            any = true;
        }
    }
}
