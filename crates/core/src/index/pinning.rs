//! What keeps an object: shares of readers, loans to I/O, and whether it stays without either.

use super::{Index, Object, ObjectId, Retention, State, about};
use larder_types::AdapterId;

impl Index {
    /// Takes `shares` more pins of a resident object.
    pub fn pin(&mut self, id: ObjectId, shares: u32) {
        let object = self.object_mut(id);
        debug_assert_eq!(object.state, State::Resident, "{id:?} cannot be pinned");
        let shares = u64::from(shares);
        object.pins += shares;
        let chunk = object.chunk;
        self.update(chunk, |c| c.pins += shares);
    }

    /// Gives `shares` pins back. What only the pins kept alive goes with the last one.
    pub fn unpin(&mut self, id: ObjectId, shares: u32) {
        let object = self.object_mut(id);
        let shares = u64::from(shares);
        object.pins -= shares;
        let Object { chunk, state, retention, pins, loans, origin, .. } = *object;
        match state {
            State::Resident if pins == 0 && retention == Retention::Temporary => {
                // Not by `update`: it must not enter the order just to leave it.
                let entry = &mut self.chunks[chunk.0 as usize];
                self.held -= entry.held_objects();
                entry.pins -= shares;
                self.held += entry.held_objects();
                if origin.is_some() {
                    self.lives.passed(about(&self.names, &self.chunks[chunk.0 as usize], None).key());
                }
                self.count(chunk, |counts| counts.evicted += 1);
                self.unlink(id);
            }
            State::Resident => self.update(chunk, |c| c.pins -= shares),
            State::Unlinked if pins == 0 && loans == 0 => self.free(id),
            State::Unlinked => {}
            State::Staged => debug_assert!(pins > 0, "a staged object lost its writer's pin"),
        }
    }

    /// Some I/O works on an object's memory. The object may be staged or resident.
    pub(crate) fn lend(&mut self, id: ObjectId) {
        let object = self.object_mut(id);
        debug_assert_ne!(object.state, State::Unlinked, "{id:?} is gone");
        object.loans += 1;
        let Object { chunk, state, .. } = *object;
        if state == State::Resident {
            self.update(chunk, |c| c.loans += 1);
        }
    }

    /// The I/O no longer touches the memory.
    pub(crate) fn take_back(&mut self, id: ObjectId) {
        let object = self.object_mut(id);
        object.loans -= 1;
        let Object { chunk, state, pins, loans, .. } = *object;
        match state {
            State::Resident => self.update(chunk, |c| c.loans -= 1),
            State::Unlinked if pins == 0 && loans == 0 => self.free(id),
            State::Unlinked | State::Staged => {}
        }
    }

    /// A temporary object that anyone wants to keep becomes permanent.
    pub fn promote(&mut self, id: ObjectId) {
        self.set_retention(id, Retention::Permanent);
    }

    /// Nobody needs the object in L1 any more: it goes, at the latest with its last share.
    pub(crate) fn let_go(&mut self, id: ObjectId) {
        self.set_retention(id, Retention::Temporary);
        let object = self.object(id);
        if object.state == State::Resident && object.pins == 0 {
            self.unlink(id);
        }
    }

    fn set_retention(&mut self, id: ObjectId, retention: Retention) {
        let old = std::mem::replace(&mut self.object_mut(id).retention, retention);
        self.temporary -= u64::from(old == Retention::Temporary);
        self.temporary += u64::from(retention == Retention::Temporary);
    }

    /// How long an object stays.
    pub fn retention(&self, id: ObjectId) -> Retention {
        self.object(id).retention
    }

    /// The adapter that an object was loaded from; `None` if a worker stored it.
    pub fn origin(&self, id: ObjectId) -> Option<AdapterId> {
        self.object(id).origin
    }

    /// A reserved object is going to be loaded from `adapter`.
    pub(crate) fn set_origin(&mut self, id: ObjectId, adapter: AdapterId) {
        self.object_mut(id).origin = Some(adapter);
    }
}
