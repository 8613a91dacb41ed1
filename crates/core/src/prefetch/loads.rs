//! Objects on their way from L2: one load for each, however many jobs wait for it.
//!
//! A load is *issued* once it is handed out; before that it only holds its reservation. What may be
//! issued is limited in bytes for each adapter, so that one that hangs does not stop the others. The
//! bytes count until the I/O is over, whatever becomes of the load.
//!
//! A load that nobody waits for any more is given up at once if it is temporary. One that is to stay
//! goes on as an *orphan*: it is admitted when it is there, unless a store or another load wants the
//! place before that.

use larder_types::AdapterId;
use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;
use larder_types::object::ObjectKey;
use smallvec::SmallVec;

use super::job::CellState;
use crate::core::{Core, Deadline};
use crate::index::{ObjectId, Retention};
use crate::io::{Effect, Io, IoId, IoItem, Purpose};
use crate::stats::events::Change;
use larder_types::time::Time;

/// How long the result of I/O that is over is waited for.
pub(crate) const RESULT_GRACE: Duration = Duration::from_secs(1);

/// One object on its way.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) object: ObjectId,
    pub(crate) adapter: AdapterId,
    key: ObjectKey,
    bytes: u64,
    waiters: SmallVec<[Waiter; 1]>,
    issued: bool,
    /// Nobody joins it after this.
    stale_at: Time,
    /// Its I/O is over and its result is not waited for beyond this.
    pub(crate) grace: Option<Time>,
}

/// A cell of a job that a load is for.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    job: u64,
    cell: u32,
}

/// What became of an attempt to share a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// The job waits for it.
    Yes(IoId),
    /// It has been given up to make way.
    Displaced,
    /// Somebody else writes the object, or it takes too long already.
    No,
}

/// All loads.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) loads: HashMap<IoId, Load>,
    by_object: HashMap<ObjectId, IoId>,
    lanes: Vec<Lane>,
}

/// What one adapter is doing.
#[derive(Debug, Default)]
struct Lane {
    /// Loads not issued, oldest first; some may have ended.
    queue: VecDeque<IoId>,
    /// Bytes of I/O that is not over.
    bytes: u64,
    objects: u64,
}

impl InFlight {
    pub(crate) fn new(adapters: usize) -> Self {
        let lanes = (0..adapters).map(|_| Lane::default()).collect();
        Self { loads: HashMap::new(), by_object: HashMap::new(), lanes }
    }

    /// Bytes and objects that an adapter is loading.
    pub(crate) fn lent(&self, adapter: AdapterId) -> (u64, u64) {
        let lane = &self.lanes[adapter.0 as usize];
        (lane.bytes, lane.objects)
    }

    /// Hands a reserved object's load to its adapter's queue.
    pub(crate) fn enqueue(&mut self, io: IoId) {
        if let Some(load) = self.loads.get(&io) {
            self.lanes[load.adapter.0 as usize].queue.push_back(io);
        }
    }

    /// Loads that hold a reservation.
    pub(crate) fn reserved(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.loads.values().map(|load| load.object)
    }

    pub(crate) fn is_waited_for(&self, io: IoId, job: u64, cell: u32) -> bool {
        self.loads.get(&io).is_some_and(|load| load.waiters.iter().any(|w| w.job == job && w.cell == cell))
    }

    pub(crate) fn waiters(&self) -> usize {
        self.loads.values().map(|load| load.waiters.len()).sum()
    }

    /// Loads whose result is waited for until a deadline.
    pub(crate) fn graces(&self) -> usize {
        self.loads.values().filter(|load| load.grace.is_some()).count()
    }

    pub(crate) fn check(&self, lent: impl Fn(AdapterId) -> (u64, u64)) {
        assert_eq!(self.loads.len(), self.by_object.len(), "one load for each object");
        for (io, load) in &self.loads {
            assert_eq!(self.by_object.get(&load.object), Some(io), "load is found by its object");
        }
        for (i, lane) in self.lanes.iter().enumerate() {
            let expected = lent(AdapterId(i as u32));
            assert_eq!((lane.bytes, lane.objects), expected, "loads of adapter {i}");
        }
    }
}

impl Core {
    /// A load for a cell of a job, into a reserved object. It is not issued yet.
    pub(crate) fn new_load(
        &mut self,
        object: ObjectId,
        adapter: AdapterId,
        key: ObjectKey,
        for_: (u64, u32),
    ) -> IoId {
        let io = IoId(self.new_id());
        let load = Load {
            object,
            adapter,
            key,
            bytes: self.index.layout(object).bytes(),
            waiters: SmallVec::from_elem(Waiter { job: for_.0, cell: for_.1 }, 1),
            issued: false,
            stale_at: self.now + self.config.load_deadline,
            grace: None,
        };
        self.index.set_origin(object, adapter);
        self.prefetch.in_flight.by_object.insert(object, io);
        self.prefetch.in_flight.loads.insert(io, load);
        io
    }

    /// Has a job's cell wait for the load of an object that is being written.
    pub(crate) fn join_load(&mut self, object: ObjectId, (job, cell): (u64, u32)) -> Joined {
        let Some(&io) = self.prefetch.in_flight.by_object.get(&object) else { return Joined::No };
        let load = self.prefetch.in_flight.loads.get_mut(&io).expect("load is found by its object");
        if self.now < load.stale_at {
            load.waiters.push(Waiter { job, cell });
            self.counters.l2.loads_shared += 1;
            return Joined::Yes(io);
        }
        if load.waiters.is_empty() {
            self.give_up_load(io);
            return Joined::Displaced;
        }
        Joined::No
    }

    /// A worker wants to store what an orphan is loading: the worker is more certain to succeed.
    /// Otherwise a temporary object that is being loaded becomes permanent, as the store would be.
    pub(crate) fn store_meets_load(&mut self, object: ObjectId) -> Joined {
        let Some(&io) = self.prefetch.in_flight.by_object.get(&object) else { return Joined::No };
        if self.prefetch.in_flight.loads[&io].waiters.is_empty() {
            self.give_up_load(io);
            return Joined::Displaced;
        }
        self.index.promote(object);
        Joined::No
    }

    /// A job no longer wants what a load brings.
    pub(crate) fn leave_load(&mut self, io: IoId, job: u64) {
        let Some(load) = self.prefetch.in_flight.loads.get_mut(&io) else { return };
        load.waiters.retain(|w| w.job != job);
        if load.waiters.is_empty()
            && (!load.issued || self.index.retention(load.object) == Retention::Temporary)
        {
            self.give_up_load(io);
        }
    }

    /// Ends a load without a result. Its memory is free when its I/O is over.
    fn give_up_load(&mut self, io: IoId) {
        let load = self.forget_load(io).expect("the load is alive");
        debug_assert!(load.waiters.is_empty(), "somebody waits for {io:?}");
        self.index.abort(load.object);
    }

    fn forget_load(&mut self, io: IoId) -> Option<Load> {
        let load = self.prefetch.in_flight.loads.remove(&io)?;
        self.prefetch.in_flight.by_object.remove(&load.object);
        if let Some(grace) = load.grace {
            self.deadlines.remove(&(grace, Deadline::Load(io)));
        }
        Some(load)
    }

    /// Whether an object of an [`Effect::Load`] is where it was to be put.
    pub fn l2_loaded(&mut self, now: Time, io: IoId, ok: bool) {
        self.advance(now);
        self.load_ended(io, ok);
    }

    /// The result of a load is there, or will not come.
    fn load_ended(&mut self, io: IoId, ok: bool) {
        let Some(load) = self.forget_load(io) else { return };
        let counters = &mut self.adapter_counters[load.adapter.0 as usize];
        counters.loaded_objects += u64::from(ok);
        counters.loaded_bytes += if ok { load.bytes } else { 0 };
        counters.load_failed_objects += u64::from(!ok);
        self.index.tally.salts.of(&load.key.cache_salt).l2_loaded += u64::from(ok);
        if ok {
            self.index.events.in_l2(load.adapter, Change::Used, &load.key, 0);
        }
        let shares = |w: &Waiter| self.prefetch.jobs[&w.job].shares;
        let shares = load.waiters.iter().map(shares).sum();
        let admitted = ok && self.index.admit(load.object, shares);
        if !ok {
            self.index.abort(load.object);
        }
        for Waiter { job: id, cell } in load.waiters {
            let job = self.prefetch.jobs.get_mut(&id).expect("jobs leave their loads before they end");
            job.cells[cell as usize] =
                if admitted { CellState::Loaded(load.object) } else { CellState::Absent };
            self.counters.l2.missing_objects += u64::from(!admitted);
            self.index.tally.models.of(&load.key.model_name).load_missing += u64::from(!admitted);
            self.cell_settled(id);
        }
    }

    /// The I/O of a load is over. Its result may still be on its way.
    pub(crate) fn load_io_ended(&mut self, now: Time, io: IoId, adapter: AdapterId, bytes: u64) {
        let lane = &mut self.prefetch.in_flight.lanes[adapter.0 as usize];
        lane.bytes -= bytes;
        lane.objects -= 1;
        if let Some(load) = self.prefetch.in_flight.loads.get_mut(&io) {
            let grace = now + RESULT_GRACE;
            load.grace = Some(grace);
            self.deadlines.insert((grace, Deadline::Load(io)));
        }
    }

    /// The result of a load whose I/O is over did not come.
    pub(crate) fn load_unanswered(&mut self, io: IoId) {
        self.load_ended(io, false);
    }

    /// Hands out loads, as far as the limits allow.
    pub(crate) fn issue_loads(&mut self) {
        let mut gone = Vec::new();
        for adapter in 0..self.adapters.len() {
            let mut items = Vec::new();
            while let Some(&io) = self.prefetch.in_flight.lanes[adapter].queue.front() {
                let lane = &mut self.prefetch.in_flight.lanes[adapter];
                let Some(load) = self.prefetch.in_flight.loads.get_mut(&io) else {
                    lane.queue.pop_front();
                    continue;
                };
                if lane.bytes > 0 && lane.bytes + load.bytes > self.config.prefetch_bytes_max {
                    break;
                }
                lane.queue.pop_front();
                if !self.index.is_staged(load.object) {
                    gone.push(io);
                    continue;
                }
                load.issued = true;
                lane.bytes += load.bytes;
                lane.objects += 1;
                self.index.lend(load.object);
                let adapter = load.adapter;
                let lent = Io { object: load.object, adapter, bytes: load.bytes, purpose: Purpose::Load };
                self.ios.insert(io, lent);
                let offset = self.index.offset(load.object);
                items.push(IoItem { io, key: load.key.clone(), offset, bytes: load.bytes });
            }
            if !items.is_empty() {
                let counters = &mut self.adapter_counters[adapter];
                counters.load_requests += 1;
                counters.load_objects += items.len() as u64;
                for item in &items {
                    self.index.tally.salts.of(&item.key.cache_salt).l2_to_load += 1;
                }
                self.effects.push(Effect::Load { adapter: AdapterId(adapter as u32), items });
            }
        }
        gone.into_iter().for_each(|io| self.load_ended(io, false));
    }
}
