//! Fake adapters: they do what the core asks for when a test says so.

use larder_types::AdapterId;
use larder_types::Time;
use std::collections::{HashMap, HashSet};

use larder_core::Core;
use larder_core::LookupReport;
use larder_core::PrefetchId;
use larder_core::{Effect, IoId, IoItem, LookupId, StoreResult, TaskId};
use larder_types::object::ObjectKey;

/// What one adapter holds, and how it fails.
#[derive(Debug, Default)]
pub(crate) struct Adapter {
    /// Sizes of the objects held.
    pub(crate) objects: HashMap<ObjectKey, u64>,
    /// Loads of these fail.
    pub(crate) unloadable: HashSet<ObjectKey>,
    /// So many stores of these still fail.
    pub(crate) unstorable: HashMap<ObjectKey, u32>,
    /// Keys asked for, in order.
    pub(crate) asked: Vec<ObjectKey>,
    /// Keys loaded, in order.
    pub(crate) loaded: Vec<ObjectKey>,
    /// Keys stored, in order.
    pub(crate) stored: Vec<ObjectKey>,
}

/// Something that an adapter was asked to do and has not done.
#[derive(Clone, Debug)]
pub(crate) enum Todo {
    Lookup {
        lookup: LookupId,
        adapter: AdapterId,
        keys: Vec<ObjectKey>,
    },
    Load {
        adapter: AdapterId,
        item: IoItem,
    },
    Store {
        adapter: AdapterId,
        task: TaskId,
        items: Vec<IoItem>,
    },
    /// The result of a load is to be delivered.
    Loaded {
        io: IoId,
        ok: bool,
    },
    /// The results of a task are to be delivered.
    Stored {
        task: TaskId,
        results: Vec<bool>,
    },
    /// A region is to be dropped.
    Drop(IoId),
}

/// All adapters, and the arena: which object's bytes lie at which offset.
#[derive(Debug, Default)]
pub(crate) struct Driver {
    pub(crate) adapters: Vec<Adapter>,
    pub(crate) todo: Vec<Todo>,
    pub(crate) bytes: HashMap<u64, ObjectKey>,
    /// Memory that I/O may touch: offset and size.
    pub(crate) lent: HashMap<IoId, (u64, u64)>,
    /// Results come as steps of their own, before or after the regions are dropped.
    pub(crate) apart: bool,
    pub(crate) done: Vec<LookupReport>,
    pub(crate) warmed: Vec<PrefetchId>,
}

impl Driver {
    pub(crate) fn new(adapters: usize) -> Self {
        Self { adapters: (0..adapters).map(|_| Adapter::default()).collect(), ..Self::default() }
    }

    /// Takes the core's effects. Loads come apart, so that each can be done by itself.
    pub(crate) fn collect(&mut self, core: &mut Core) {
        for effect in core.take_effects() {
            match effect {
                Effect::Lookup { lookup, adapter, keys } => {
                    assert!(!keys.is_empty(), "a question about nothing");
                    self.adapter(adapter).asked.extend(keys.iter().cloned());
                    self.todo.push(Todo::Lookup { lookup, adapter, keys });
                }
                Effect::Load { adapter, items } => {
                    for item in items {
                        self.lend(&item, true);
                        self.todo.push(Todo::Load { adapter, item });
                    }
                }
                Effect::Store { adapter, task, items } => {
                    items.iter().for_each(|item| self.lend(item, false));
                    self.todo.push(Todo::Store { adapter, task, items });
                }
                Effect::LookupDone(report) => self.done.push(report),
                Effect::CheckProcess { .. } => {}
                Effect::PrefetchDone { id } => self.warmed.push(id),
            }
        }
    }

    pub(crate) fn adapter(&mut self, id: AdapterId) -> &mut Adapter {
        &mut self.adapters[id.0 as usize]
    }

    /// Memory under I/O may not be written by others; readers may read it.
    pub(crate) fn assert_free(&self, offset: u64, bytes: u64) {
        let overlap = self.lent.values().find(|(o, b)| *o < offset + bytes && offset < o + b);
        assert_eq!(overlap, None, "memory under I/O handed out at {offset}");
    }

    fn lend(&mut self, item: &IoItem, write: bool) {
        if write {
            self.assert_free(item.offset, item.bytes);
            self.bytes.remove(&item.offset);
        } else {
            assert_eq!(self.bytes.get(&item.offset), Some(&item.key), "the bytes to store");
        }
        let before = self.lent.insert(item.io, (item.offset, item.bytes));
        assert_eq!(before, None, "{:?} handed out twice", item.io);
    }

    /// Does one thing. Loads and stores leave their regions to be dropped.
    pub(crate) fn perform(&mut self, core: &mut Core, now: Time, todo: Todo) {
        match todo {
            Todo::Lookup { lookup, adapter, keys } => {
                let held = &self.adapter(adapter).objects;
                let sizes: Vec<Option<u64>> = keys.iter().map(|key| held.get(key).copied()).collect();
                core.l2_found(now, lookup, &sizes);
            }
            Todo::Load { adapter, item } => {
                let adapter = self.adapter(adapter);
                let ok = adapter.objects.contains_key(&item.key) && !adapter.unloadable.contains(&item.key);
                adapter.loaded.push(item.key.clone());
                if ok {
                    self.bytes.insert(item.offset, item.key);
                }
                let io = item.io;
                self.todo.push(Todo::Drop(io));
                self.todo.push(Todo::Loaded { io, ok });
            }
            Todo::Store { adapter, task, items } => {
                let mut results = Vec::new();
                for item in items {
                    assert_eq!(self.bytes.get(&item.offset), Some(&item.key), "the bytes to store");
                    let adapter = self.adapter(adapter);
                    let left = adapter.unstorable.get_mut(&item.key).filter(|left| **left > 0);
                    let ok = left.is_none();
                    left.into_iter().for_each(|left| *left -= 1);
                    if ok {
                        adapter.stored.push(item.key.clone());
                        adapter.objects.insert(item.key, item.bytes);
                    }
                    results.push(ok);
                    self.todo.push(Todo::Drop(item.io));
                }
                self.todo.push(Todo::Stored { task, results });
            }
            Todo::Loaded { io, ok } => core.l2_loaded(now, io, ok),
            Todo::Stored { task, results } => {
                core.l2_stored(now, task, &results.into_iter().map(StoreResult::from).collect::<Vec<_>>())
            }
            Todo::Drop(io) => {
                self.lent.remove(&io);
                core.io_ended(now, io);
            }
        }
        core.check();
        if !self.apart
            && let Some(Todo::Loaded { .. } | Todo::Stored { .. }) = self.todo.last()
        {
            let result = self.todo.pop().expect("just seen");
            return self.perform(core, now, result);
        }
        self.collect(core);
    }
}
