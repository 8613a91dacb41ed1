//! Write-back: what workers store goes on to L2.
//!
//! The store policy says where each object goes. Each adapter has a queue of keys; from it come
//! *tasks*, batches bounded in objects and bytes, few at a time. Only while a task has it is an object
//! kept from eviction, so a slow adapter costs no memory: what is evicted before its turn is counted
//! and skipped, and of a queue that is full the oldest key is dropped and counted.
//!
//! Results are per key. A key that failed is tried again behind the others, a few times. What came
//! from an adapter is never stored there again.
//!
//! The policy may let an object wait: it is asked about it again when its turn to be evicted comes, early
//! enough for the copy to be done by then, and when the server stops. Until then it is in L1 alone.
//!
//! If the policy wants an object to leave L1 after that, it leaves once every adapter that was to keep
//! it and [can](larder_policy::AdapterDesc::persists) has said so of the size it has in L1, and there is at
//! least one. (Engines that disagree about a model's shape store one key in several sizes.)

use larder_types::AdapterId;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use hashbrown::HashMap;
use larder_types::object::ObjectKey;
use smallvec::SmallVec;

use crate::core::{Core, Deadline};
use crate::index::ObjectId;
use crate::io::{Effect, Io, IoId, IoItem, Purpose, TaskId};
use crate::prefetch::loads::RESULT_GRACE;
use crate::stats::events::Change;
use larder_policy::OffloadPolicy;
use larder_policy::offload::{OffloadTarget, StoreTrigger};
use larder_types::time::Time;

/// A key on its way to one or more adapters.
#[derive(Debug)]
struct Entry {
    key: ObjectKey,
    targets: SmallVec<[Target; 2]>,
    leaves_l1: bool,
}

/// One adapter that is to have a key.
#[derive(Debug)]
struct Target {
    adapter: AdapterId,
    state: State,
    attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    Storing,
    /// The adapter has this many bytes of it.
    Stored(u64),
    /// Given up: failed too often, dropped, or gone from L1 before its turn.
    Missed,
}

/// What one adapter is doing and has to do.
#[derive(Debug, Default)]
struct Lane {
    /// Keys that wait, oldest first, by the number of their entry.
    queue: VecDeque<u64>,
    tasks: usize,
    /// Bytes and objects of I/O that is not over.
    bytes: u64,
    objects: u64,
}

/// A batch that an adapter has.
#[derive(Debug)]
struct Task {
    adapter: AdapterId,
    /// Numbers of the entries and their bytes, in the order handed out.
    entries: Vec<(u64, u64)>,
    /// Items whose I/O is not over.
    running: usize,
    /// All I/O is over and the result is not waited for beyond this.
    grace: Option<Time>,
}

/// Everything on its way from L1 to L2.
#[derive(Debug)]
pub(crate) struct WriteBack {
    pub(crate) policy: Box<dyn OffloadPolicy>,
    entries: HashMap<u64, Entry>,
    by_key: HashMap<ObjectKey, u64>,
    lanes: Vec<Lane>,
    tasks: BTreeMap<TaskId, Task>,
}

/// How much of write-back there is for one adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LaneGauges {
    pub(crate) queued: u64,
    pub(crate) tasks: u64,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

impl WriteBack {
    pub(crate) fn new(policy: Box<dyn OffloadPolicy>, adapters: usize) -> Self {
        Self {
            policy,
            entries: HashMap::new(),
            by_key: HashMap::new(),
            lanes: (0..adapters).map(|_| Lane::default()).collect(),
            tasks: BTreeMap::new(),
        }
    }

    pub(crate) fn gauges(&self, adapter: AdapterId) -> LaneGauges {
        let lane = &self.lanes[adapter.0 as usize];
        LaneGauges {
            queued: lane.queue.len() as u64,
            tasks: lane.tasks as u64,
            objects: lane.objects,
            bytes: lane.bytes,
        }
    }

    /// Tasks whose result is waited for until a deadline.
    pub(crate) fn graces(&self) -> usize {
        self.tasks.values().filter(|t| t.grace.is_some()).count()
    }

    fn target(&mut self, entry: u64, adapter: AdapterId) -> Option<&mut Target> {
        self.entries.get_mut(&entry)?.targets.iter_mut().find(|t| t.adapter == adapter)
    }

    pub(crate) fn check(&self, lent: impl Fn(AdapterId) -> (u64, u64)) {
        assert_eq!(self.entries.len(), self.by_key.len(), "one entry for each key");
        let in_state = |entry: &u64, adapter: AdapterId, state: State| {
            self.entries[entry].targets.iter().any(|t| t.adapter == adapter && t.state == state)
        };
        let (mut queued, mut storing) = (0, 0);
        for (i, lane) in self.lanes.iter().enumerate() {
            let adapter = AdapterId(i as u32);
            assert!(lane.queue.iter().all(|e| in_state(e, adapter, State::Queued)), "queued twice or not");
            assert_eq!((lane.bytes, lane.objects), lent(adapter), "stores of adapter {i}");
            let tasks = self.tasks.values().filter(|t| t.adapter == adapter);
            assert_eq!(lane.tasks, tasks.count(), "tasks of adapter {i}");
            queued += lane.queue.len();
        }
        for task in self.tasks.values() {
            assert!(
                task.entries.iter().all(|(e, _)| in_state(e, task.adapter, State::Storing)),
                "stored twice"
            );
            storing += task.entries.len();
        }
        let targets = || self.entries.values().flat_map(|e| &e.targets);
        assert_eq!(queued, targets().filter(|t| t.state == State::Queued).count(), "queued keys");
        assert_eq!(storing, targets().filter(|t| t.state == State::Storing).count(), "keys in tasks");
        for (id, entry) in &self.entries {
            assert_eq!(self.by_key.get(&entry.key), Some(id), "entry is found by its key");
            let busy = |t: &Target| matches!(t.state, State::Queued | State::Storing);
            assert!(entry.targets.iter().any(busy), "an entry with nothing to do");
        }
    }
}

impl Core {
    /// Keys that are not in L2 yet and are to be. A shutdown that loses nothing waits for zero.
    pub fn write_back_pending(&self) -> u64 {
        self.write_back.entries.len() as u64
    }

    /// The server stops: what waits in L1 goes to L2 now, or never.
    pub fn flush_deferred(&mut self, now: Time) {
        self.advance(now);
        let waiting = self.index.waiting();
        self.write_back(&waiting, StoreTrigger::NearEviction);
    }

    /// Asks again about what waits and will leave L1 soon.
    pub(crate) fn write_ahead(&mut self) {
        let capacity = self.config.capacity_bytes as f64;
        let spare = self.config.trim.map_or(0.0, |trim| capacity * (1.0 - trim.above + trim.release));
        let leaving = self.index.leaving_soon(spare as u64);
        self.write_back(&leaving, StoreTrigger::NearEviction);
    }

    /// Objects became permanent by a worker's store, or have waited since and are about to leave L1: they
    /// go where the policy says.
    pub(crate) fn write_back(&mut self, keys: &[ObjectKey], moment: StoreTrigger) {
        if self.adapters.is_empty() || keys.is_empty() {
            return;
        }
        let (policy, reuse) = (&self.write_back.policy, self.index.reuse());
        let asked = catch_unwind(AssertUnwindSafe(|| {
            // Where nothing would be seen to leave, this is the last moment to ask.
            let moment = if self.index.can_wait() { moment } else { StoreTrigger::NearEviction };
            let wait: Vec<bool> = keys.iter().map(|key| policy.defers(key, moment, reuse)).collect();
            let leave: Vec<bool> = keys.iter().map(|key| policy.removes_from_l1(key)).collect();
            (policy.targets(keys, &self.adapters), wait, leave)
        }));
        let Ok((targets, wait, leave)) = asked else {
            self.counters.l2.policy_faults += 1;
            return;
        };
        for (key, wait) in keys.iter().zip(&wait) {
            if let Some(object) = self.find_object(key)
                && self.index.set_waiting(object, *wait)
            {
                self.counters.l2.deferred_objects += u64::from(*wait);
            }
        }
        for OffloadTarget { adapter, keys: indices } in targets {
            if adapter.0 as usize >= self.adapters.len() {
                self.counters.l2.policy_faults += 1;
                continue;
            }
            for i in indices {
                let waits = wait.get(i).is_none_or(|wait| *wait);
                if let Some(key) = keys.get(i).filter(|key| !waits && !self.came_from(key, adapter)) {
                    self.queue_store(key, adapter, leave[i]);
                }
            }
        }
    }

    /// Whether the object in L1 was loaded from that adapter.
    fn came_from(&self, key: &ObjectKey, adapter: AdapterId) -> bool {
        self.find_object(key).is_some_and(|object| self.index.origin(object) == Some(adapter))
    }

    fn queue_store(&mut self, key: &ObjectKey, adapter: AdapterId, leaves_l1: bool) {
        let id = match self.write_back.by_key.get(key) {
            Some(id) => *id,
            None => {
                let id = self.new_id();
                let entry = Entry { key: key.clone(), targets: SmallVec::new(), leaves_l1 };
                self.write_back.entries.insert(id, entry);
                self.write_back.by_key.insert(key.clone(), id);
                id
            }
        };
        let entry = self.write_back.entries.get_mut(&id).expect("found or made");
        entry.leaves_l1 = leaves_l1;
        let target = Target { adapter, state: State::Queued, attempts: 0 };
        match entry.targets.iter_mut().find(|t| t.adapter == adapter) {
            Some(known) if matches!(known.state, State::Queued | State::Storing) => return,
            Some(known) => *known = target,
            None => entry.targets.push(target),
        }
        let lane = &mut self.write_back.lanes[adapter.0 as usize];
        lane.queue.push_back(id);
        if lane.queue.len() > self.config.write_back_queue_max {
            let oldest = lane.queue.pop_front().expect("it is over its limit");
            self.adapter_counters[adapter.0 as usize].store_dropped_objects += 1;
            self.store_settled(oldest, adapter, State::Missed);
        }
    }

    /// One adapter is done with a key, this way or that.
    fn store_settled(&mut self, id: u64, adapter: AdapterId, state: State) {
        let Some(target) = self.write_back.target(id, adapter) else { return };
        target.state = state;
        let entry = &self.write_back.entries[&id];
        if entry.targets.iter().any(|t| matches!(t.state, State::Queued | State::Storing)) {
            return;
        }
        let entry = self.write_back.entries.remove(&id).expect("just seen");
        self.write_back.by_key.remove(&entry.key);
        let Some(object) = self.find_object(&entry.key).filter(|_| entry.leaves_l1) else { return };
        let whole = State::Stored(self.index.layout(object).bytes());
        let mut keepers =
            entry.targets.iter().filter(|t| self.adapters[t.adapter.0 as usize].readable).peekable();
        if keepers.peek().is_some() && keepers.all(|t| t.state == whole) {
            self.index.let_go(object);
            self.counters.l2.left_l1_objects += 1;
        }
    }

    /// Hands out tasks, as far as the limits allow.
    pub(crate) fn issue_stores(&mut self) {
        for adapter in (0..self.adapters.len() as u32).map(AdapterId) {
            loop {
                let lane = &self.write_back.lanes[adapter.0 as usize];
                if lane.queue.is_empty() || lane.tasks >= self.config.write_back_tasks_max.max(1) {
                    break;
                }
                let task = TaskId(self.new_id());
                let (entries, items) = self.gather(task, adapter);
                if items.is_empty() {
                    break;
                }
                let counters = &mut self.adapter_counters[adapter.0 as usize];
                counters.store_requests += 1;
                counters.store_objects += items.len() as u64;
                for item in &items {
                    self.index.tally.salts.of(&item.key.cache_salt).l2_to_store += 1;
                }
                self.write_back.lanes[adapter.0 as usize].tasks += 1;
                let running = items.len();
                self.write_back.tasks.insert(task, Task { adapter, entries, running, grace: None });
                self.effects.push(Effect::Store { adapter, task, items });
            }
        }
    }

    /// Takes what one task may have from an adapter's queue, and lends its memory.
    fn gather(&mut self, task: TaskId, adapter: AdapterId) -> (Vec<(u64, u64)>, Vec<IoItem>) {
        let (mut entries, mut items) = (Vec::new(), Vec::new());
        let batch = self.config.write_back_objects_max.max(1);
        // I/O may go on after its task has been given up; it counts until it ends.
        let under_way = (batch * self.config.write_back_tasks_max.max(1)) as u64;
        while items.len() < batch {
            let lane = &self.write_back.lanes[adapter.0 as usize];
            let Some(&id) = lane.queue.front().filter(|_| lane.objects < under_way) else { break };
            let key = self.write_back.entries[&id].key.clone();
            let object = self.find_object(&key);
            let bytes = object.map_or(0, |o| self.index.layout(o).bytes());
            if lane.bytes > 0 && lane.bytes + bytes > self.config.write_back_bytes_max {
                break;
            }
            let lane = &mut self.write_back.lanes[adapter.0 as usize];
            lane.queue.pop_front();
            let Some(object) = object else {
                self.adapter_counters[adapter.0 as usize].store_gone_objects += 1;
                self.index.tally.models.of(&key.model_name).write_back_gone += 1;
                self.store_settled(id, adapter, State::Missed);
                continue;
            };
            lane.bytes += bytes;
            lane.objects += 1;
            let io = self.lend(object, adapter, task, bytes);
            self.write_back.target(id, adapter).expect("it was queued").state = State::Storing;
            entries.push((id, bytes));
            items.push(IoItem { io, key, offset: self.index.offset(object), bytes });
        }
        (entries, items)
    }

    fn lend(&mut self, object: ObjectId, adapter: AdapterId, task: TaskId, bytes: u64) -> IoId {
        let io = IoId(self.new_id());
        self.index.lend(object);
        self.ios.insert(io, Io { object, adapter, bytes, purpose: Purpose::Store(task) });
        io
    }

    /// How a task went: for each of its items, in order, whether a reader can find it now. Missing
    /// answers are failures.
    pub fn l2_stored(&mut self, now: Time, task: TaskId, stored: &[bool]) {
        self.advance(now);
        self.store_ended(task, stored);
    }

    fn store_ended(&mut self, id: TaskId, stored: &[bool]) {
        let Some(task) = self.write_back.tasks.remove(&id) else { return };
        if let Some(grace) = task.grace {
            self.deadlines.remove(&(grace, Deadline::Task(id)));
        }
        let lane = task.adapter.0 as usize;
        self.write_back.lanes[lane].tasks -= 1;
        for (i, (entry, bytes)) in task.entries.into_iter().enumerate() {
            if stored.get(i) == Some(&true) {
                self.adapter_counters[lane].stored_objects += 1;
                let key = &self.write_back.entries[&entry].key;
                self.index.tally.salts.of(&key.cache_salt).l2_stored += 1;
                self.index.events.in_l2(task.adapter, Change::Stored, key, bytes);
                if self.is_outdated(entry, task.adapter, bytes) {
                    self.write_back.target(entry, task.adapter).expect("a task has it").state = State::Queued;
                    self.write_back.lanes[lane].queue.push_back(entry);
                } else {
                    self.store_settled(entry, task.adapter, State::Stored(bytes));
                }
                continue;
            }
            let target = self.write_back.target(entry, task.adapter).expect("a task has it");
            if target.attempts < self.config.write_back_retries {
                target.attempts += 1;
                target.state = State::Queued;
                self.write_back.lanes[lane].queue.push_back(entry);
                self.adapter_counters[lane].store_retried_objects += 1;
            } else {
                self.adapter_counters[lane].store_failed_objects += 1;
                self.store_settled(entry, task.adapter, State::Missed);
            }
        }
    }

    /// Whether a worker has stored the object in another shape while `bytes` of it were on their way: the
    /// adapter has what nobody will read.
    fn is_outdated(&self, entry: u64, adapter: AdapterId, bytes: u64) -> bool {
        let key = &self.write_back.entries[&entry].key;
        let in_l1 = self.find_object(key).filter(|o| self.index.origin(*o) != Some(adapter));
        in_l1.is_some_and(|object| self.index.layout(object).bytes() != bytes)
    }

    /// One item's I/O is over. The task's result may still be on its way.
    pub(crate) fn store_io_ended(&mut self, now: Time, id: TaskId, adapter: AdapterId, bytes: u64) {
        let lane = &mut self.write_back.lanes[adapter.0 as usize];
        lane.bytes -= bytes;
        lane.objects -= 1;
        let Some(task) = self.write_back.tasks.get_mut(&id) else { return };
        task.running -= 1;
        if task.running == 0 {
            let grace = now + RESULT_GRACE;
            task.grace = Some(grace);
            self.deadlines.insert((grace, Deadline::Task(id)));
        }
    }

    /// The result of a task whose I/O is over did not come.
    pub(crate) fn store_unanswered(&mut self, id: TaskId) {
        self.store_ended(id, &[]);
    }
}
