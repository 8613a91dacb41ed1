//! What the core did for L2, observed from the contents of L1. Each change must be one that the model allows.

use std::collections::BTreeSet;

use super::{Alloc, ChunkKey, Io, Key, Model, State, Uid, View};
use crate::scenario::Millis;

/// How long the core waits for the result of a load after its I/O has ended.
const RESULT_GRACE: Millis = 1000;

/// Changes observed in one step.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// New reservations for loads.
    pub reserved: Vec<Uid>,
    /// Loaded objects that have become readable.
    pub admitted: Vec<Uid>,
    /// Permanent objects that were removed, or became temporary, because L2 has them.
    pub offloaded: Vec<Uid>,
}

impl Model {
    /// Updates the model from L1.
    ///
    /// # Panics
    /// If a change is not allowed. An object that was removed without a reason stays in the model, and
    /// [`gone`](Self::gone) returns it.
    pub fn observe(&mut self, view: &View<'_>) -> Observed {
        let mut observed = Observed { admitted: self.observe_loads(view), ..Observed::default() };
        self.settle();
        self.accept_evictions(view);
        if self.observe_removals(view, &mut observed.offloaded) {
            // A chunk can be evicted in the same call in which its temporary objects, which were under I/O, leave.
            self.settle();
            self.accept_evictions(view);
        }
        self.observe_retention(view, &mut observed.offloaded);
        observed.reserved = self.observe_reservations(view);
        self.ended.clear();
        self.settle();
        observed
    }

    /// Updates loads that were admitted or abandoned. Returns the admitted ones.
    fn observe_loads(&mut self, view: &View<'_>) -> Vec<Uid> {
        let mut admitted = Vec::new();
        for uid in self.live.clone() {
            let alloc = self.allocs[uid];
            let place = Some((alloc.offset, alloc.bytes));
            // An abandoned load may have been replaced by another one at the same offset.
            let replaced = !alloc.temporary && !view.stays(alloc.key, true);
            if !self.is_load(uid) || view.object(alloc.key, true) == place && !replaced {
                continue;
            }
            if view.object(alloc.key, false) == place {
                assert!(self.arrived.contains(&uid), "readable before it was loaded: {alloc:?}");
                self.allocs[uid].state = State::Resident;
                admitted.push(uid);
            } else {
                self.unlink(uid);
            }
        }
        admitted
    }

    /// Unlinks objects that were removed for another reason than eviction: temporary ones without pins, and
    /// ones removed by an offload policy. Returns whether there were any.
    pub(super) fn observe_removals(&mut self, view: &View<'_>, offloaded: &mut Vec<Uid>) -> bool {
        let mut removed = false;
        for uid in self.gone(view) {
            let alloc = self.allocs[uid];
            let temporary = alloc.temporary && self.pins(uid) == 0;
            let offload = !temporary && self.skips_l1 && self.pins(uid) == 0;
            if offload {
                offloaded.push(uid);
                self.allocs[uid].temporary = true;
            }
            if temporary || offload {
                self.unlink(uid);
                removed = true;
            }
        }
        removed
    }

    /// Updates objects that became permanent or temporary.
    fn observe_retention(&mut self, view: &View<'_>, offloaded: &mut Vec<Uid>) {
        for uid in self.live.clone() {
            let alloc = self.allocs[uid];
            if !matches!(alloc.state, State::Staged | State::Resident) {
                continue;
            }
            let stays = view.stays(alloc.key, alloc.state == State::Staged);
            match (alloc.temporary, stays) {
                (true, true) => assert!(self.may_stay(alloc.key), "retained against the policy: {alloc:?}"),
                (false, false) => {
                    assert!(self.skips_l1, "temporary against the policy: {alloc:?}");
                    offloaded.push(uid);
                }
                _ => {}
            }
            self.allocs[uid].temporary = !stays;
        }
    }

    /// Adds the reservations that the core made for loads.
    fn observe_reservations(&mut self, view: &View<'_>) -> Vec<Uid> {
        let jobs = self.jobs.values().chain(&self.ended);
        let wanted: BTreeSet<Key> = jobs.flat_map(|job| job.keys().collect::<Vec<Key>>()).collect();
        let mut reserved = Vec::new();
        for key in &wanted {
            let Some((offset, bytes)) = view.object(*key, true) else { continue };
            if self.linked(*key).is_some() {
                continue;
            }
            let stays = view.stays(*key, true);
            assert!(stays || !self.retains(*key), "the policy retains {key:?}, which is temporary");
            assert!(!stays || self.may_stay(*key), "the policy does not retain {key:?}, which is permanent");
            let uid = self.reserve(*key, offset, bytes);
            (self.allocs[uid].loaded, self.allocs[uid].temporary) = (true, !stays);
            self.allocs[uid].origin = view.origin(*key);
            reserved.push(uid);
        }
        reserved
    }

    /// Whether an object may be retained: by the prefetch policy, or for a prefetch request.
    fn may_stay(&self, key: Key) -> bool {
        self.retains(key) || self.is_wanted(key, |job| matches!(job.owner, super::Owner::Prefetch(_)))
    }

    /// Begins an I/O operation of an adapter on an object's memory.
    ///
    /// # Panics
    /// If the memory is not that of the object, or the object may not be loaded or stored now.
    pub fn begin_io(
        &mut self,
        id: u64,
        adapter: u32,
        key: Key,
        (offset, bytes): (u64, u64),
        load: bool,
    ) -> Uid {
        let mut uid = self.linked(key).unwrap_or_else(|| panic!("I/O on {key:?}, which is not in L1"));
        if load && !self.begun.insert(uid) {
            // The first load was abandoned, and another one got the same memory.
            let alloc = Alloc { io: 0, ..self.allocs[uid] };
            assert_eq!(self.allocs[uid].io, 0, "loaded twice: {alloc:?}");
            self.unlink(uid);
            uid = self.reserve(key, offset, bytes);
            self.allocs[uid] = alloc;
            self.begun.insert(uid);
        }
        if load {
            self.results_due.insert(uid, None);
        }
        let alloc = &self.allocs[uid];
        assert_eq!((alloc.offset, alloc.bytes), (offset, bytes), "I/O on other memory than that of {key:?}");
        if load {
            assert!(alloc.loaded && alloc.state == State::Staged, "loaded into {alloc:?}");
        } else {
            assert_eq!(alloc.state, State::Resident, "stored to L2 before it is readable");
            // An object that a worker stored may be stored to any adapter.
            let new = alloc.origin != Some(adapter) || self.written.contains(&key);
            assert!(new, "stored to the adapter that it was loaded from: {alloc:?}");
        }
        if load {
            self.allocs[uid].origin = Some(adapter);
        }
        self.allocs[uid].io += 1;
        self.ios.insert(id, Io { uid, adapter, load });
        uid
    }

    /// Ends an I/O operation: its memory may be reused.
    pub fn io_ended(&mut self, id: u64) {
        if let Some(io) = self.ios.remove(&id) {
            self.allocs[io.uid].io -= 1;
            let until = self.now + RESULT_GRACE;
            self.results_due.entry(io.uid).and_modify(|due| *due = Some(until));
        }
        self.settle();
    }

    /// Whether the core may hold pins for jobs or loads that the model does not count.
    pub fn may_hold_more(&self) -> bool {
        let due = |until: &Option<Millis>| until.is_none_or(|until| self.now < until);
        let cleared = |uid: Uid| matches!(self.allocs[uid].state, State::Unlinked | State::Free);
        !self.jobs.is_empty() || self.results_due.iter().any(|(uid, until)| cleared(*uid) && due(until))
    }

    /// Bytes and objects under I/O of an adapter: loads or stores.
    pub fn in_io(&self, adapter: u32, load: bool) -> (u64, u64) {
        let ios = self.ios.values().filter(|io| io.adapter == adapter && io.load == load);
        ios.fold((0, 0), |(bytes, objects), io| (bytes + self.allocs[io.uid].bytes, objects + 1))
    }

    /// The evictable chunks that no job may hold.
    pub fn certainly_evictable(&self) -> impl Iterator<Item = ChunkKey> + '_ {
        self.evictable.iter().copied().filter(|chunk| !self.may_be_held(*chunk))
    }
}
