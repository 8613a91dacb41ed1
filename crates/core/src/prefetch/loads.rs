//! Single-flight loads from L2: each object is loaded once, for all jobs that wait for it.
//!
//! A load is *issued* when it is handed out; before that it only holds its reservation. The bytes issued to one
//! adapter are limited, so that an adapter that hangs does not stop the others. They count until the I/O has ended,
//! whatever becomes of the load.
//!
//! A load that no job waits for any more is given up if it is temporary. One that is to be retained goes on
//! *detached*: it is admitted when it is there, unless a store or another load needs its place before.

use std::collections::VecDeque;

use hashbrown::HashMap;
use larder_types::object::ObjectKey;
use larder_types::{AdapterId, Time};
use smallvec::SmallVec;

use crate::context::Context;
use crate::ids::{IoId, JobId};
use crate::index::{ObjectId, Retention};
use crate::io::{Effect, Io, Purpose};
use crate::stats::events::Change;
use crate::timers::{Timer, TimerKind};
use crate::write_back::RESULT_GRACE;

/// One load.
#[derive(Debug)]
struct Load {
    object: ObjectId,
    adapter: AdapterId,
    key: ObjectKey,
    bytes: u64,
    waiters: SmallVec<[Waiter; 1]>,
    state: State,
    /// No further job waits for it after this time.
    stale_at: Time,
}

#[derive(Debug)]
enum State {
    /// It has not been handed out.
    Queued,
    /// The adapter is reading.
    Issued,
    /// Its I/O has ended. The timer fires if its result does not follow.
    AwaitingResult(Timer),
}

/// A cell of a job that waits for a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) job: JobId,
    pub(super) cell: u32,
    /// Pins that the job takes of the object.
    pub(super) pins: u32,
}

/// The outcome of joining a load that may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// The job waits for it.
    Yes(IoId),
    /// The load was given up, and its place is free.
    Displaced,
    /// The object is written by a worker, or its load takes too long already.
    No,
}

/// A load that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// The object, if it was admitted.
    pub(super) admitted: Option<ObjectId>,
    pub(super) waiters: SmallVec<[Waiter; 1]>,
}

/// What one adapter loads and has to load.
#[derive(Debug, Default)]
struct AdapterQueue {
    /// Loads to issue, oldest first; some may have ended.
    queue: VecDeque<IoId>,
    /// Bytes and objects under I/O.
    bytes: u64,
    objects: u64,
}

/// All loads.
#[derive(Debug)]
pub(super) struct Loads {
    loads: HashMap<IoId, Load>,
    by_object: HashMap<ObjectId, IoId>,
    queues: Vec<AdapterQueue>,
}

impl Loads {
    pub(super) fn new(adapters: usize) -> Self {
        let queues = (0..adapters).map(|_| AdapterQueue::default()).collect();
        Self { loads: HashMap::new(), by_object: HashMap::new(), queues }
    }

    /// A load into a reserved object. It is not queued yet.
    pub(super) fn insert(
        &mut self,
        cx: &mut Context,
        object: ObjectId,
        adapter: AdapterId,
        key: ObjectKey,
        waiter: Waiter,
    ) -> IoId {
        let io = IoId(cx.new_id());
        let load = Load {
            object,
            adapter,
            key,
            bytes: cx.index.layout(object).bytes(),
            waiters: SmallVec::from_elem(waiter, 1),
            state: State::Queued,
            stale_at: cx.now + cx.config.load_deadline,
        };
        cx.index_mut().set_origin(object, adapter);
        self.by_object.insert(object, io);
        self.loads.insert(io, load);
        io
    }

    /// Queues a load, if it has not ended.
    pub(super) fn enqueue(&mut self, io: IoId) {
        if let Some(load) = self.loads.get(&io) {
            self.queues[load.adapter.0 as usize].queue.push_back(io);
        }
    }

    /// Waits for the load of a staged object.
    pub(super) fn join(&mut self, cx: &mut Context, object: ObjectId, waiter: Waiter) -> Joined {
        let Some(&io) = self.by_object.get(&object) else { return Joined::No };
        let load = self.loads.get_mut(&io).expect("a load is found by its object");
        if cx.now < load.stale_at {
            load.waiters.push(waiter);
            cx.stats.requests.l2.loads_shared += 1;
            return Joined::Yes(io);
        }
        if load.waiters.is_empty() {
            self.give_up(cx, io);
            return Joined::Displaced;
        }
        Joined::No
    }

    /// A worker wants to store a staged object. A detached load is given up, as the worker is more certain to
    /// succeed; another load becomes permanent, as the store would be.
    pub(super) fn yield_to_store(&mut self, cx: &mut Context, object: ObjectId) {
        let Some(&io) = self.by_object.get(&object) else { return };
        if self.loads[&io].waiters.is_empty() {
            self.give_up(cx, io);
        } else {
            cx.index_mut().promote(object);
        }
    }

    /// A job no longer waits for a load.
    pub(super) fn leave(&mut self, cx: &mut Context, io: IoId, job: JobId) {
        let Some(load) = self.loads.get_mut(&io) else { return };
        load.waiters.retain(|w| w.job != job);
        let is_queued = matches!(load.state, State::Queued);
        let is_temporary = cx.index.retention(load.object) == Retention::Temporary;
        if load.waiters.is_empty() && (is_queued || is_temporary) {
            self.give_up(cx, io);
        }
    }

    /// The result of a load is there, or will not come. `None` if it has ended before.
    pub(super) fn end(&mut self, cx: &mut Context, io: IoId, ok: bool) -> Option<Ended> {
        let Load { object, adapter, key, bytes, waiters, .. } = self.remove(cx, io)?;
        let counters = cx.stats.adapter_mut(adapter);
        if ok {
            counters.loaded_objects += 1;
            counters.loaded_bytes += bytes;
            cx.stats.tenant(&key.cache_salt).l2_loaded += 1;
            cx.stats.events.at_adapter(adapter, Change::Used, &key, 0);
        } else {
            counters.load_failed_objects += 1;
        }
        let pins = waiters.iter().map(|w| w.pins).sum();
        let mut index = cx.index_mut();
        let admitted = ok && index.admit(object, pins);
        if !ok {
            index.abort(object);
        }
        if !admitted {
            cx.stats.requests.l2.missing_objects += waiters.len() as u64;
            cx.stats.model(&key.model_name).load_missing += waiters.len() as u64;
        }
        Some(Ended { admitted: admitted.then_some(object), waiters })
    }

    /// The I/O of a load has ended. Its result may still follow.
    pub(super) fn on_io_ended(&mut self, cx: &mut Context, id: IoId, io: &Io) {
        let queue = &mut self.queues[io.adapter.0 as usize];
        queue.bytes -= io.bytes;
        queue.objects -= 1;
        if let Some(load) = self.loads.get_mut(&id) {
            load.state = State::AwaitingResult(cx.timers.arm(cx.now + RESULT_GRACE, TimerKind::Load(id)));
        }
    }

    /// Hands out loads, as far as the limits allow. Returns loads of objects that were removed meanwhile, to be
    /// ended.
    #[must_use]
    pub(super) fn issue(&mut self, cx: &mut Context) -> Vec<IoId> {
        let mut removed = Vec::new();
        for adapter in cx.adapter_ids() {
            let queue = &mut self.queues[adapter.0 as usize];
            let mut items = Vec::new();
            while let Some(&io) = queue.queue.front() {
                let Some(load) = self.loads.get_mut(&io) else {
                    queue.queue.pop_front();
                    continue;
                };
                if queue.bytes > 0 && queue.bytes + load.bytes > cx.config.prefetch_bytes_max {
                    break;
                }
                queue.queue.pop_front();
                if !cx.index.is_staged(load.object) {
                    removed.push(io);
                    continue;
                }
                load.state = State::Issued;
                queue.bytes += load.bytes;
                queue.objects += 1;
                items.push(cx.begin_io(io, load.object, load.adapter, Purpose::Load, load.key.clone()));
            }
            if !items.is_empty() {
                let counters = cx.stats.adapter_mut(adapter);
                counters.load_requests += 1;
                counters.load_objects += items.len() as u64;
                for item in &items {
                    cx.stats.tenant(&item.key.cache_salt).l2_to_load += 1;
                }
                cx.effects.push(Effect::Load { adapter, items });
            }
        }
        removed
    }

    /// Bytes and objects that an adapter loads.
    pub(super) fn under_io(&self, adapter: AdapterId) -> (u64, u64) {
        let queue = &self.queues[adapter.0 as usize];
        (queue.bytes, queue.objects)
    }

    /// Objects reserved for loads. For tests.
    pub(super) fn reserved(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.loads.values().map(|load| load.object)
    }

    /// For tests.
    pub(super) fn is_waited_for(&self, io: IoId, job: JobId, cell: u32) -> bool {
        self.loads.get(&io).is_some_and(|load| load.waiters.iter().any(|w| w.job == job && w.cell == cell))
    }

    /// Cells that wait. For tests.
    pub(super) fn waiters(&self) -> usize {
        self.loads.values().map(|load| load.waiters.len()).sum()
    }

    /// Armed timers. For tests.
    pub(super) fn timers(&self) -> usize {
        self.loads.values().filter(|load| matches!(load.state, State::AwaitingResult(_))).count()
    }

    /// For tests.
    pub(super) fn check(&self, under_io: impl Fn(AdapterId) -> (u64, u64)) {
        assert_eq!(self.loads.len(), self.by_object.len(), "one load for each object");
        for (io, load) in &self.loads {
            assert_eq!(self.by_object.get(&load.object), Some(io), "load is found by its object");
        }
        for (queue, adapter) in self.queues.iter().zip((0..).map(AdapterId)) {
            assert_eq!((queue.bytes, queue.objects), under_io(adapter), "loads of {adapter:?}");
        }
    }

    /// Ends a load without a result. Its memory is freed when its I/O has ended.
    fn give_up(&mut self, cx: &mut Context, io: IoId) {
        let load = self.remove(cx, io).expect("the load has not ended");
        debug_assert!(load.waiters.is_empty(), "a job waits for {io:?}");
        cx.index_mut().abort(load.object);
    }

    fn remove(&mut self, cx: &mut Context, io: IoId) -> Option<Load> {
        let mut load = self.loads.remove(&io)?;
        self.by_object.remove(&load.object);
        if let State::AwaitingResult(timer) = std::mem::replace(&mut load.state, State::Issued) {
            cx.timers.disarm(&timer);
        }
        Some(load)
    }
}
