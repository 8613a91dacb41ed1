//! What goes from L1 to L2.

use std::collections::VecDeque;

use larder_policy::OffloadKind;

use super::{Expected, Io, IoFor, Key, Model, Uid};
use crate::model::loads::GRACE;
use crate::scenario::Millis;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Queued,
    Storing,
    /// So many bytes.
    Stored(u64),
    Missed,
}

#[derive(Clone, Debug)]
struct Target {
    adapter: u32,
    fate: Fate,
    attempts: u32,
}

/// A key on its way.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    key: Key,
    targets: Vec<Target>,
    /// It leaves L1 then.
    leaves: bool,
}

/// A batch that an adapter has.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    adapter: u32,
    /// With the size that was handed out.
    entries: Vec<(u64, u64)>,
    running: usize,
    pub(crate) grace: Option<Millis>,
}

/// An object that left L1 on the word of these adapters.
#[derive(Clone, Debug)]
pub struct Left {
    /// What.
    pub key: Key,
    /// Its size.
    pub bytes: u64,
    /// Who has it.
    pub keepers: Vec<u32>,
}

/// Keys that wait, for each adapter.
pub(crate) type Queues = Vec<VecDeque<u64>>;

impl Model {
    /// Keys that are not where they are to be yet.
    pub fn write_back_pending(&self) -> usize {
        self.entries.len()
    }

    /// Tasks and waiting keys of an adapter.
    pub fn storing(&self, adapter: u32) -> (u64, u64) {
        let tasks = self.tasks.values().filter(|t| t.adapter == adapter).count();
        (tasks as u64, self.queues[adapter as usize].len() as u64)
    }

    /// Objects are permanent now: every adapter gets them that they did not come from.
    pub(crate) fn write_back(&mut self, keys: &[Key]) {
        for adapter in 0..self.scenario.l2.adapters.len() as u32 {
            for key in keys {
                let origin = self.resident(*key).and_then(|uid| self.allocs[uid].origin);
                if origin != Some(adapter) {
                    self.queue_store(*key, adapter);
                }
            }
        }
    }

    fn queue_store(&mut self, key: Key, adapter: u32) {
        let known = self.entries.iter().find(|(_, e)| e.key == key).map(|(seq, _)| *seq);
        let seq = known.unwrap_or_else(|| {
            let seq = self.next_seq();
            self.entries.insert(seq, Entry { key, targets: Vec::new(), leaves: false });
            seq
        });
        let leaves = self.store == OffloadKind::SkipL1;
        let entry = self.entries.get_mut(&seq).expect("found or made");
        entry.leaves = leaves;
        let busy = |t: &Target| matches!(t.fate, Fate::Queued | Fate::Storing);
        if entry.targets.iter().any(|t| t.adapter == adapter && busy(t)) {
            return;
        }
        entry.targets.retain(|t| t.adapter != adapter);
        entry.targets.push(Target { adapter, fate: Fate::Queued, attempts: 0 });
        self.queues[adapter as usize].push_back(seq);
        if self.queues[adapter as usize].len() > self.scenario.l2.queue {
            let oldest = self.queues[adapter as usize].pop_front().expect("it is too long");
            self.of_adapter[adapter as usize].store_dropped_objects += 1;
            self.store_settled(oldest, adapter, Fate::Missed);
        }
    }

    fn target(&mut self, seq: u64, adapter: u32) -> &mut Target {
        let entry = self.entries.get_mut(&seq).expect("it has something to do");
        entry.targets.iter_mut().find(|t| t.adapter == adapter).expect("it is to go there")
    }

    fn store_settled(&mut self, seq: u64, adapter: u32, fate: Fate) {
        self.target(seq, adapter).fate = fate;
        let entry = self.entries[&seq].clone();
        if entry.targets.iter().any(|t| matches!(t.fate, Fate::Queued | Fate::Storing)) {
            return;
        }
        self.entries.remove(&seq);
        let persists = |t: &&Target| self.scenario.l2.adapters[t.adapter as usize].persists;
        let keepers: Vec<&Target> = entry.targets.iter().filter(persists).collect();
        if entry.leaves
            && !keepers.is_empty()
            && let Some(uid) = self.resident(entry.key)
            && keepers.iter().all(|t| t.fate == Fate::Stored(self.allocs[uid].bytes))
        {
            let keepers = keepers.iter().map(|t| t.adapter).collect();
            self.left.push(Left { key: entry.key, bytes: self.allocs[uid].bytes, keepers });
            self.allocs[uid].temporary = true;
            self.counters.left_l1_objects += 1;
            self.settle();
        }
    }

    /// Some I/O begins.
    pub(crate) fn lend(&mut self, uid: Uid, adapter: u32, purpose: IoFor) -> u64 {
        let seq = self.next_seq();
        self.allocs[uid].loans += 1;
        self.ios.insert(seq, Io { uid, adapter, purpose });
        self.io_purposes.insert(seq, purpose);
        seq
    }

    /// Tasks are handed out, as far as the limits allow.
    pub(crate) fn issue_stores(&mut self) {
        for adapter in 0..self.scenario.l2.adapters.len() as u32 {
            while self.storing(adapter).0 < self.scenario.l2.tasks as u64 {
                let task = self.next_seq();
                let (mut entries, mut ios, mut keys) = (Vec::new(), Vec::new(), Vec::new());
                while ios.len() < self.scenario.l2.batch {
                    let (lent, objects) = self.lent(adapter, false);
                    let limit = (self.scenario.l2.batch * self.scenario.l2.tasks) as u64;
                    let Some(&seq) = self.queues[adapter as usize].front() else { break };
                    let key = self.entries[&seq].key;
                    let uid = self.resident(key);
                    let bytes = uid.map_or(0, |uid| self.allocs[uid].bytes);
                    let full = lent > 0 && lent.saturating_add(bytes) > self.scenario.l2.store_bytes;
                    if full || objects >= limit {
                        break;
                    }
                    self.queues[adapter as usize].pop_front();
                    let Some(uid) = uid else {
                        self.of_adapter[adapter as usize].store_gone_objects += 1;
                        self.store_settled(seq, adapter, Fate::Missed);
                        continue;
                    };
                    self.target(seq, adapter).fate = Fate::Storing;
                    entries.push((seq, bytes));
                    keys.push(key);
                    ios.push(self.lend(uid, adapter, IoFor::Store(task)));
                }
                if ios.is_empty() {
                    break;
                }
                self.of_adapter[adapter as usize].store_requests += 1;
                self.of_adapter[adapter as usize].store_objects += ios.len() as u64;
                self.tasks.insert(task, Task { adapter, entries, running: ios.len(), grace: None });
                self.expected.push(Expected::Store { adapter, task, ios, keys });
            }
        }
        self.settle();
    }

    /// The core's name of a task.
    pub fn bind_task(&mut self, seq: u64, id: u64) {
        self.task_ids.insert(id, seq);
    }

    /// An adapter says how a task went.
    pub fn l2_stored(&mut self, id: u64, stored: &[bool]) {
        let seq = self.task_ids.get(&id).copied().filter(|seq| self.tasks.contains_key(seq));
        if let Some(seq) = seq {
            self.store_ended(seq, stored);
        }
    }

    pub(crate) fn store_ended(&mut self, seq: u64, stored: &[bool]) {
        let task = self.tasks.remove(&seq).expect("it is alive");
        let adapter = task.adapter as usize;
        for (i, (entry, bytes)) in task.entries.into_iter().enumerate() {
            if stored.get(i).copied().unwrap_or(false) {
                self.of_adapter[adapter].stored_objects += 1;
                // Meanwhile it may have been stored in another size.
                let newer = self.resident(self.entries[&entry].key).map(|uid| self.allocs[uid]);
                if newer.is_some_and(|a| a.bytes != bytes && a.origin != Some(task.adapter)) {
                    self.target(entry, task.adapter).fate = Fate::Queued;
                    self.queues[adapter].push_back(entry);
                } else {
                    self.store_settled(entry, task.adapter, Fate::Stored(bytes));
                }
            } else if self.target(entry, task.adapter).attempts < self.scenario.l2.retries {
                self.target(entry, task.adapter).attempts += 1;
                self.target(entry, task.adapter).fate = Fate::Queued;
                self.queues[adapter].push_back(entry);
                self.of_adapter[adapter].store_retried_objects += 1;
            } else {
                self.of_adapter[adapter].store_failed_objects += 1;
                self.store_settled(entry, task.adapter, Fate::Missed);
            }
        }
        self.settle();
    }

    /// Nobody touches the memory of some I/O any more.
    pub fn io_ended(&mut self, id: u64) {
        let Some(io) = self.io_ids.get(&id).and_then(|seq| self.ios.remove(seq)) else { return };
        self.allocs[io.uid].loans -= 1;
        match io.purpose {
            IoFor::Load(load) => self.load_io_ended(load),
            IoFor::Store(task) => {
                let grace = self.now + GRACE;
                if let Some(task) = self.tasks.get_mut(&task) {
                    task.running -= 1;
                    if task.running == 0 {
                        task.grace = Some(grace);
                    }
                }
            }
        }
        self.settle();
    }
}
