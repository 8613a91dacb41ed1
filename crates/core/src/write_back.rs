//! Write-back: objects on their way from L1 to L2.
//!
//! The offload policy selects the adapters for each object. Each adapter has a queue of keys; from it come
//! *tasks*: batches that are bounded in objects and bytes, a few at a time. Only the objects of a task are kept
//! from eviction, so a slow adapter costs no memory: a key is skipped and counted if its object is evicted before
//! its turn, and a full queue drops and counts its oldest key.
//!
//! Results are per key. A key that failed is queued again behind the others, a few times. An object is never
//! stored to the adapter that it was loaded from.
//!
//! The policy may defer an object: it is asked again when the object is close to eviction, early enough for the
//! copy to be done by then, and when the server stops. Until then the object is in L1 only.
//!
//! If the policy wants an object removed from L1 after that, it is removed once every
//! [readable](larder_policy::AdapterDesc::readable) adapter that was to have it has stored the size that is in L1,
//! and there is at least one such adapter. (Engines that disagree about the shape of a model store one key in
//! several sizes.)

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hashbrown::HashMap;
use larder_policy::OffloadPolicy;
use larder_policy::offload::{OffloadTarget, StoreTrigger};
use larder_types::AdapterId;
use larder_types::object::ObjectKey;
use smallvec::SmallVec;

use crate::context::Context;
use crate::ids::{IoId, TaskId, WriteId};
use crate::io::{Effect, Io, IoItem, Purpose, StoreResult};
use crate::stats::events::Change;
use crate::timers::{Timer, TimerKind};

/// How long the result of I/O that has ended is waited for.
pub(crate) const RESULT_GRACE: Duration = Duration::from_secs(1);

/// A key on its way to one or more adapters.
#[derive(Debug)]
struct Write {
    key: ObjectKey,
    targets: SmallVec<[Target; 2]>,
    removes_from_l1: bool,
}

/// One adapter that is to store a key.
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
    /// The adapter has stored this many bytes.
    Stored(u64),
    /// Given up: it failed too often, was dropped, or left L1 before its turn.
    Missed,
}

impl State {
    fn is_busy(self) -> bool {
        matches!(self, Self::Queued | Self::Storing)
    }
}

/// What one adapter does and has to do.
#[derive(Debug, Default)]
struct AdapterQueue {
    /// Keys to store, oldest first.
    queue: VecDeque<WriteId>,
    tasks: usize,
    /// Bytes and objects under I/O, of ended tasks too.
    bytes: u64,
    objects: u64,
}

/// A batch that an adapter stores.
#[derive(Debug)]
struct Task {
    adapter: AdapterId,
    /// The writes and their bytes, in the order of the batch.
    writes: Vec<(WriteId, u64)>,
    /// Items under I/O.
    running: usize,
    /// Fires when all I/O has ended and the result does not follow.
    grace: Option<Timer>,
}

/// How much one adapter stores and has to store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueUsage {
    pub(crate) queued: u64,
    pub(crate) tasks: u64,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// All writes.
#[derive(Debug)]
pub(crate) struct WriteBack {
    policy: Box<dyn OffloadPolicy>,
    writes: HashMap<WriteId, Write>,
    by_key: HashMap<ObjectKey, WriteId>,
    queues: Vec<AdapterQueue>,
    tasks: BTreeMap<TaskId, Task>,
}

impl WriteBack {
    pub(crate) fn new(policy: Box<dyn OffloadPolicy>, adapters: usize) -> Self {
        Self {
            policy,
            writes: HashMap::new(),
            by_key: HashMap::new(),
            queues: (0..adapters).map(|_| AdapterQueue::default()).collect(),
            tasks: BTreeMap::new(),
        }
    }

    pub(crate) fn set_policy(&mut self, policy: Box<dyn OffloadPolicy>) {
        self.policy = policy;
    }

    /// Keys that are to be stored and are not yet.
    pub(crate) fn pending(&self) -> u64 {
        self.writes.len() as u64
    }

    pub(crate) fn usage(&self, adapter: AdapterId) -> QueueUsage {
        let queue = &self.queues[adapter.0 as usize];
        QueueUsage {
            queued: queue.queue.len() as u64,
            tasks: queue.tasks as u64,
            objects: queue.objects,
            bytes: queue.bytes,
        }
    }

    /// Asks the policy about all deferred objects, as if they were close to eviction.
    pub(crate) fn flush_deferred(&mut self, cx: &mut Context) {
        let deferred = cx.index.deferred();
        self.offload(cx, &deferred, StoreTrigger::NearEviction);
    }

    /// Asks the policy about deferred objects that are close to eviction.
    pub(crate) fn flush_before_evict(&mut self, cx: &mut Context) {
        let capacity = cx.config.capacity_bytes as f64;
        let spare = cx.config.trim.map_or(0.0, |trim| capacity * (1.0 - trim.above + trim.release));
        let near = cx.index_mut().deferred_near_eviction(spare as u64);
        self.offload(cx, &near, StoreTrigger::NearEviction);
    }

    /// Queues objects for the adapters that the policy selects, or defers them.
    pub(crate) fn offload(&mut self, cx: &mut Context, keys: &[ObjectKey], trigger: StoreTrigger) {
        if !cx.has_l2() || keys.is_empty() {
            return;
        }
        // If a deferred object might be evicted unseen, this is the last opportunity to ask.
        let trigger = if cx.index.can_defer() { trigger } else { StoreTrigger::NearEviction };
        let defer: Vec<bool> =
            keys.iter().map(|key| self.policy.defers(key, trigger, cx.predictor.as_ref())).collect();
        let targets = self.policy.targets(keys, &cx.config.adapters);
        for (key, defer) in keys.iter().zip(&defer) {
            if let Some(object) = cx.index.find(key)
                && cx.index_mut().set_deferred(object, *defer)
            {
                cx.stats.requests.l2.deferred_objects += u64::from(*defer);
            }
        }
        for OffloadTarget { adapter, keys: indices } in targets {
            if adapter.0 as usize >= cx.config.adapters.len() {
                cx.stats.requests.l2.policy_faults += 1;
                continue;
            }
            for key in indices.into_iter().filter(|i| defer.get(*i) == Some(&false)).map(|i| &keys[i]) {
                let came_from = cx.index.find(key).and_then(|object| cx.index.origin(object));
                if came_from != Some(adapter) {
                    self.queue(cx, key, adapter);
                }
            }
        }
        // Not before all adapters have their keys: a key that one of them drops must not be forgotten before the
        // others have it, or it would count as stored by all.
        self.drop_excess(cx);
    }

    /// Hands out tasks, as far as the limits allow.
    pub(crate) fn issue(&mut self, cx: &mut Context) {
        for adapter in cx.adapter_ids() {
            loop {
                let queue = &self.queues[adapter.0 as usize];
                if queue.queue.is_empty() || queue.tasks >= cx.config.write_back_tasks_max.max(1) {
                    break;
                }
                let task = TaskId(cx.new_id());
                let (writes, items) = self.gather(cx, task, adapter);
                if items.is_empty() {
                    break;
                }
                let counters = cx.stats.adapter_mut(adapter);
                counters.store_requests += 1;
                counters.store_objects += items.len() as u64;
                for item in &items {
                    cx.stats.tenant(&item.key.cache_salt).l2_to_store += 1;
                }
                self.queues[adapter.0 as usize].tasks += 1;
                self.tasks.insert(task, Task { adapter, writes, running: items.len(), grace: None });
                cx.effects.push(Effect::Store { adapter, task, items });
            }
        }
    }

    /// The result of a task: for each of its items, in order, whether the adapter has it. Missing answers are
    /// failures.
    pub(crate) fn end_task(&mut self, cx: &mut Context, id: TaskId, results: &[StoreResult]) {
        let Some(task) = self.tasks.remove(&id) else { return };
        if let Some(grace) = task.grace {
            cx.timers.disarm(&grace);
        }
        let adapter = task.adapter;
        self.queues[adapter.0 as usize].tasks -= 1;
        for (i, (write, bytes)) in task.writes.into_iter().enumerate() {
            match results.get(i).unwrap_or(&StoreResult::Failed) {
                StoreResult::Stored => self.on_stored(cx, write, adapter, bytes),
                StoreResult::Failed => self.on_failed(cx, write, adapter, true),
                StoreResult::Refused => self.on_failed(cx, write, adapter, false),
            }
        }
    }

    /// The I/O of one item has ended. The result of its task may still follow.
    pub(crate) fn on_io_ended(&mut self, cx: &mut Context, id: TaskId, io: &Io) {
        let queue = &mut self.queues[io.adapter.0 as usize];
        queue.bytes -= io.bytes;
        queue.objects -= 1;
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.running -= 1;
        if task.running == 0 {
            task.grace = Some(cx.timers.arm(cx.now + RESULT_GRACE, TimerKind::StoreTask(id)));
        }
    }

    fn target(&mut self, write: WriteId, adapter: AdapterId) -> Option<&mut Target> {
        self.writes.get_mut(&write)?.targets.iter_mut().find(|t| t.adapter == adapter)
    }

    fn queue(&mut self, cx: &mut Context, key: &ObjectKey, adapter: AdapterId) {
        let removes_from_l1 = self.policy.removes_from_l1(key);
        let id = *self.by_key.entry(key.clone()).or_insert_with(|| WriteId(cx.new_id()));
        let write = self.writes.entry(id).or_insert_with(|| Write {
            key: key.clone(),
            targets: SmallVec::new(),
            removes_from_l1,
        });
        write.removes_from_l1 = removes_from_l1;
        let target = Target { adapter, state: State::Queued, attempts: 0 };
        match write.targets.iter_mut().find(|t| t.adapter == adapter) {
            Some(known) if known.state.is_busy() => return,
            Some(known) => *known = target,
            None => write.targets.push(target),
        }
        self.queues[adapter.0 as usize].queue.push_back(id);
    }

    /// Drops the oldest keys of queues that are over their limit.
    fn drop_excess(&mut self, cx: &mut Context) {
        for adapter in cx.adapter_ids() {
            while self.queues[adapter.0 as usize].queue.len() > cx.config.write_back_queue_max {
                let oldest = self.queues[adapter.0 as usize].queue.pop_front().expect("it is over its limit");
                cx.stats.adapter_mut(adapter).store_dropped_objects += 1;
                self.settle(cx, oldest, adapter, State::Missed);
            }
        }
    }

    /// An adapter has stored a key, or never will.
    fn settle(&mut self, cx: &mut Context, id: WriteId, adapter: AdapterId, state: State) {
        let Some(target) = self.target(id, adapter) else { return };
        target.state = state;
        if self.writes[&id].targets.iter().any(|t| t.state.is_busy()) {
            return;
        }
        let write = self.writes.remove(&id).expect("just seen");
        self.by_key.remove(&write.key);
        let Some(object) = cx.index.find(&write.key).filter(|_| write.removes_from_l1) else { return };
        let whole = State::Stored(cx.index.layout(object).bytes());
        let readable = |t: &&Target| cx.config.adapters[t.adapter.0 as usize].readable;
        let mut keepers = write.targets.iter().filter(readable).peekable();
        if keepers.peek().is_some() && keepers.all(|t| t.state == whole) {
            cx.index_mut().demote(object);
            cx.stats.requests.l2.left_l1_objects += 1;
        }
    }

    /// Takes what one task may have from an adapter's queue, and begins the I/O.
    fn gather(
        &mut self,
        cx: &mut Context,
        task: TaskId,
        adapter: AdapterId,
    ) -> (Vec<(WriteId, u64)>, Vec<IoItem>) {
        let (mut writes, mut items) = (Vec::new(), Vec::new());
        let batch = cx.config.write_back_objects_max.max(1);
        // I/O may continue after its task has been given up; it counts until it ends.
        let objects_max = (batch * cx.config.write_back_tasks_max.max(1)) as u64;
        while items.len() < batch {
            let queue = &mut self.queues[adapter.0 as usize];
            let Some(&id) = queue.queue.front().filter(|_| queue.objects < objects_max) else { break };
            let key = &self.writes[&id].key;
            let object = cx.index.find(key);
            let bytes = object.map_or(0, |o| cx.index.layout(o).bytes());
            if queue.bytes > 0 && queue.bytes + bytes > cx.config.write_back_bytes_max {
                break;
            }
            queue.queue.pop_front();
            let Some(object) = object else {
                cx.stats.adapter_mut(adapter).store_gone_objects += 1;
                cx.stats.model(&key.model_name).write_back_gone += 1;
                self.settle(cx, id, adapter, State::Missed);
                continue;
            };
            queue.bytes += bytes;
            queue.objects += 1;
            let io = IoId(cx.new_id());
            items.push(cx.begin_io(io, object, adapter, Purpose::Store(task), key.clone()));
            self.target(id, adapter).expect("it was queued").state = State::Storing;
            writes.push((id, bytes));
        }
        (writes, items)
    }

    fn on_stored(&mut self, cx: &mut Context, id: WriteId, adapter: AdapterId, bytes: u64) {
        let key = &self.writes[&id].key;
        cx.stats.adapter_mut(adapter).stored_objects += 1;
        cx.stats.tenant(&key.cache_salt).l2_stored += 1;
        cx.stats.events.at_adapter(adapter, Change::Stored, key, bytes);
        // A worker may have stored the object in another shape meanwhile: then no reader wants what was stored.
        let in_l1 = cx.index.find(key).filter(|object| cx.index.origin(*object) != Some(adapter));
        if in_l1.is_some_and(|object| cx.index.layout(object).bytes() != bytes) {
            self.target(id, adapter).expect("a task has it").state = State::Queued;
            self.queues[adapter.0 as usize].queue.push_back(id);
        } else {
            self.settle(cx, id, adapter, State::Stored(bytes));
        }
    }

    fn on_failed(&mut self, cx: &mut Context, id: WriteId, adapter: AdapterId, may_retry: bool) {
        let retries = cx.config.write_back_retries;
        let target = self.target(id, adapter).expect("a task has it");
        if may_retry && target.attempts < retries {
            target.attempts += 1;
            target.state = State::Queued;
            self.queues[adapter.0 as usize].queue.push_back(id);
            cx.stats.adapter_mut(adapter).store_retried_objects += 1;
        } else {
            cx.stats.adapter_mut(adapter).store_failed_objects += 1;
            self.settle(cx, id, adapter, State::Missed);
        }
    }

    /// Armed timers. For tests.
    pub(crate) fn timers(&self) -> usize {
        self.tasks.values().filter(|t| t.grace.is_some()).count()
    }

    /// For tests.
    pub(crate) fn check(&self, cx: &Context) {
        assert_eq!(self.writes.len(), self.by_key.len(), "one write for each key");
        let in_state = |write: &WriteId, adapter: AdapterId, state: State| {
            self.writes[write].targets.iter().any(|t| t.adapter == adapter && t.state == state)
        };
        let (mut queued, mut storing) = (0, 0);
        for (adapter, queue) in cx.adapter_ids().zip(&self.queues) {
            assert!(queue.queue.iter().all(|w| in_state(w, adapter, State::Queued)), "queued twice or not");
            let usage = cx.ios.usage(adapter, false);
            assert_eq!((queue.bytes, queue.objects), usage, "stores of {adapter:?}");
            let tasks = self.tasks.values().filter(|t| t.adapter == adapter);
            assert_eq!(queue.tasks, tasks.count(), "tasks of {adapter:?}");
            queued += queue.queue.len();
        }
        for task in self.tasks.values() {
            let storing_all = task.writes.iter().all(|(w, _)| in_state(w, task.adapter, State::Storing));
            assert!(storing_all, "stored twice");
            storing += task.writes.len();
        }
        let targets = || self.writes.values().flat_map(|w| &w.targets);
        assert_eq!(queued, targets().filter(|t| t.state == State::Queued).count(), "queued keys");
        assert_eq!(storing, targets().filter(|t| t.state == State::Storing).count(), "keys in tasks");
        for (id, write) in &self.writes {
            assert_eq!(self.by_key.get(&write.key), Some(id), "write is found by its key");
            assert!(write.targets.iter().any(|t| t.state.is_busy()), "a write with nothing to do");
        }
    }
}
