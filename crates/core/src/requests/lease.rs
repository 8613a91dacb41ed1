//! Pins with an owner.
//!
//! A pin is the right of one reader to find an object's bytes where they are. Each pin has one owner at a time
//! (the lookup of a session, a retrieve, a lease of a peer), moves between owners as a whole, and is released
//! with its owner. So a pin cannot be released twice, nor by another owner.

use crate::index::{IndexMut, ObjectId, ShardKey};

/// Pins of one object that one owner holds.
#[derive(Debug)]
pub(crate) struct PinnedObject {
    object: ObjectId,
    pins: u32,
}

impl PinnedObject {
    /// Takes over pins that were added to the object before.
    pub(crate) fn new(object: ObjectId, pins: u32) -> Self {
        Self { object, pins }
    }

    pub(crate) fn object(&self) -> ObjectId {
        self.object
    }

    /// Pins that are left.
    pub(crate) fn pins(&self) -> u32 {
        self.pins
    }

    /// Releases all pins. Returns their number.
    pub(crate) fn release(&mut self, index: &mut IndexMut<'_>) -> u64 {
        let pins = std::mem::take(&mut self.pins);
        if pins > 0 {
            index.unpin(self.object, pins);
        }
        u64::from(pins)
    }

    /// Releases one pin, if there is one. Returns the number released.
    pub(crate) fn release_one(&mut self, index: &mut IndexMut<'_>) -> u64 {
        let released = self.pins.min(1);
        if released > 0 {
            index.unpin(self.object, 1);
            self.pins -= 1;
        }
        u64::from(released)
    }

    /// Hands one pin to another owner.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn move_one(&mut self) -> ObjectId {
        self.pins = self.pins.checked_sub(1).expect("a pin to move");
        self.object
    }
}

/// The pins that a lookup holds of one shard, for consecutive chunks.
#[derive(Debug)]
pub(crate) struct ShardPins {
    shard: ShardKey,
    /// Chunk index of the first object.
    first: u32,
    /// One per chunk from `first` to the end of the hit.
    objects: Vec<PinnedObject>,
}

impl ShardPins {
    pub(crate) fn new(shard: ShardKey, first: u32, objects: Vec<PinnedObject>) -> Self {
        Self { shard, first, objects }
    }

    /// The same, of a prompt with `chunks` more chunks in front.
    pub(crate) fn moved_by(self, chunks: u32) -> Self {
        Self { first: self.first + chunks, ..self }
    }

    pub(crate) fn shard(&self) -> ShardKey {
        self.shard
    }

    pub(crate) fn objects(&self) -> &[PinnedObject] {
        &self.objects
    }

    /// Chunk indices and objects.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (u32, ObjectId)> + '_ {
        (self.first..).zip(self.objects.iter().map(PinnedObject::object))
    }

    /// The objects of chunks `start..end`, as far as they are covered.
    pub(crate) fn range(&mut self, start: u32, end: u32) -> &mut [PinnedObject] {
        let len = self.objects.len() as u32;
        let from = start.saturating_sub(self.first).min(len);
        let to = end.saturating_sub(self.first).min(len).max(from);
        &mut self.objects[from as usize..to as usize]
    }

    /// For each chunk of `start..end` the object, if a pin of it is left.
    pub(crate) fn held(&self, start: u32, end: u32) -> impl Iterator<Item = Option<ObjectId>> + '_ {
        (start..end).map(|chunk| {
            let object = self.objects.get(chunk.checked_sub(self.first)? as usize)?;
            (object.pins() > 0).then(|| object.object())
        })
    }

    /// Releases all pins, the last chunk first, so that the first one becomes the most recent.
    pub(crate) fn release(&mut self, index: &mut IndexMut<'_>) {
        for object in self.objects.iter_mut().rev() {
            object.release(index);
        }
    }
}
