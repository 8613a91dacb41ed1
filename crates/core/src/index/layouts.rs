//! Layouts, stored once for all objects that have them.

use hashbrown::HashMap;
use larder_types::Layout;
use slab::Slab;

/// The place of a layout in the table; valid as long as an object has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayoutSlot(u32);

#[derive(Debug)]
struct Entry {
    layout: Layout,
    /// Memory of an object, in units of the alignment.
    units: u32,
    objects: u32,
}

/// All layouts in use. One is forgotten with its last object, so invented layouts do not add up.
#[derive(Debug, Default)]
pub(super) struct Layouts {
    ids: HashMap<Layout, LayoutSlot>,
    entries: Slab<Entry>,
    /// The layout that was acquired last.
    last: Option<LayoutSlot>,
}

impl Layouts {
    pub(super) fn get(&self, id: LayoutSlot) -> &Layout {
        &self.entries[id.0 as usize].layout
    }

    /// Memory of an object of that layout, in units of the alignment.
    pub(super) fn units(&self, id: LayoutSlot) -> u32 {
        self.entries[id.0 as usize].units
    }

    /// Adds an object to a layout, which takes so many units.
    pub(super) fn acquire(&mut self, layout: &Layout, units: u32) -> LayoutSlot {
        let last = self.last.filter(|last| self.get(*last) == layout);
        let id = last.or_else(|| self.ids.get(layout).copied()).unwrap_or_else(|| {
            let entry = Entry { layout: layout.clone(), units, objects: 0 };
            let id = LayoutSlot(self.entries.insert(entry) as u32);
            self.ids.insert(layout.clone(), id);
            id
        });
        debug_assert_eq!(self.units(id), units, "objects of one layout take the same memory");
        self.entries[id.0 as usize].objects += 1;
        self.last = Some(id);
        id
    }

    /// Removes an object from a layout, which is forgotten with its last one.
    pub(super) fn release(&mut self, id: LayoutSlot) {
        let entry = &mut self.entries[id.0 as usize];
        entry.objects -= 1;
        if entry.objects == 0 {
            let entry = self.entries.remove(id.0 as usize);
            self.last = self.last.filter(|last| *last != id);
            self.ids.remove(&entry.layout);
        }
    }

    /// Layouts in use.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
