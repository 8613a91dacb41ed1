//! What keeps an object in memory: pins of readers, pins of I/O, and its retention.

use super::{IndexMut, Object, ObjectId, Retention, State};

impl IndexMut<'_> {
    /// Adds `pins` to a resident object.
    pub fn pin(&mut self, id: ObjectId, pins: u32) {
        let object = self.object_mut(id);
        debug_assert_eq!(object.state, State::Resident, "{id:?} cannot be pinned");
        let was_pinned = object.pins > 0;
        object.pins += u64::from(pins);
        let (chunk, is_pinned) = (object.chunk, object.pins > 0);
        self.changes += 1;
        if is_pinned != was_pinned {
            self.update(chunk, |c| c.pinned += 1);
        }
    }

    /// Releases `pins` of an object. A temporary object is dropped with its last pin.
    pub fn unpin(&mut self, id: ObjectId, pins: u32) {
        let object = self.object_mut(id);
        let was_pinned = object.pins > 0;
        object.pins -= u64::from(pins);
        let Object { chunk, state, retention, pins, io_pins, origin, .. } = *object;
        self.changes += 1;
        match state {
            State::Resident if pins == 0 && retention == Retention::Temporary => {
                // Not by `update`, which would put the chunk into the eviction order for no time.
                let Self { index, stats, .. } = self;
                let entry = &mut index.chunks[chunk];
                index.pinned -= entry.held_objects();
                entry.pinned -= u32::from(was_pinned);
                index.pinned += entry.held_objects();
                let entry = &index.chunks[chunk];
                if origin.adapter().is_some() {
                    stats.residency.on_drop(index.digest(entry));
                }
                stats.tenant(&index.names.get(entry.name).1).evicted += 1;
                self.unlink(id);
            }
            State::Resident if pins == 0 && was_pinned => self.update(chunk, |c| c.pinned -= 1),
            State::Resident => {}
            State::Unlinked if pins == 0 && io_pins == 0 => self.free(id),
            State::Unlinked => {}
            State::Staged => debug_assert!(pins > 0, "a staged object lost the pin of its writer"),
        }
    }

    /// Adds a pin of I/O to an object, staged or resident.
    pub(crate) fn io_pin(&mut self, id: ObjectId) {
        let object = self.object_mut(id);
        debug_assert_ne!(object.state, State::Unlinked, "{id:?} is unlinked");
        object.io_pins += 1;
        let Object { chunk, state, io_pins, .. } = *object;
        if state == State::Resident && io_pins == 1 {
            self.update(chunk, |c| c.under_io += 1);
        }
    }

    /// Releases a pin of I/O.
    pub(crate) fn io_unpin(&mut self, id: ObjectId) {
        let object = self.object_mut(id);
        object.io_pins -= 1;
        let Object { chunk, state, pins, io_pins, .. } = *object;
        match state {
            State::Resident if io_pins == 0 => self.update(chunk, |c| c.under_io -= 1),
            State::Unlinked if pins == 0 && io_pins == 0 => self.free(id),
            State::Resident | State::Unlinked | State::Staged => {}
        }
    }

    /// Makes an object permanent.
    pub fn promote(&mut self, id: ObjectId) {
        self.set_retention(id, Retention::Permanent);
    }

    /// Makes an object temporary: it is dropped now, or with its last pin.
    pub(crate) fn demote(&mut self, id: ObjectId) {
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
}
