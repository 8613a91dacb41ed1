//! End-to-end checks at the end of a run, when no client or adapter is active.

use std::collections::BTreeSet;

use larder_core::LookupStatus;
use larder_policy::PrefetchKind;
use larder_policy::eviction::EvictionKind;
use larder_types::ids::AdapterId;

use super::clients::tag;
use super::{Adapter, Worker, World};
use crate::model::{ChunkKey, Key, LookupCall, State, View};
use crate::scenario::EngineSpec;

impl World {
    /// Checks that stored objects are in L2, and that lookups find what L1 and L2 have. Called without pins and
    /// I/O in progress.
    pub(super) fn audit(&mut self) {
        self.audit_stores();
        let scenario = self.scenario.clone();
        let l2 = &scenario.l2;
        if l2.adapters.is_empty() || !l2.adapters.iter().all(|a| a.is_perfect()) || scenario.trim.is_some() {
            return;
        }
        for _ in 0..2 {
            let engine = &scenario.engines[self.rng.index(scenario.engines.len())];
            let node = self.rng.index(scenario.universe.nodes.len()) as u16;
            // Workers of a model with different object sizes cannot read each other's objects.
            let differs = |w: &Worker| w.spec.model == engine.model && w.spec.groups != engine.groups;
            if !self.workers.iter().any(differs) {
                self.audit_lookup(engine, node);
            }
        }
    }

    /// Checks that every adapter without faults has the objects that workers stored and L1 still has.
    fn audit_stores(&self) {
        let stored = |uid: &usize| {
            let alloc = &self.model.allocs[*uid];
            !alloc.loaded && !alloc.temporary
        };
        let stored: Vec<usize> = self.model.in_state(State::Resident).filter(stored).collect();
        for (i, spec) in self.scenario.l2.adapters.iter().enumerate() {
            let counters = self.core.stats().adapter(AdapterId(i as u32));
            if !spec.is_perfect() || counters.store_dropped_objects + counters.store_failed_objects > 0 {
                continue;
            }
            let Adapter { objects, damaged } = &self.adapters[i];
            for alloc in stored.iter().map(|uid| &self.model.allocs[*uid]) {
                let there = objects.get(&alloc.key) == Some(&alloc.bytes) || damaged.contains(&alloc.key);
                assert!(there, "{:?} was not stored to adapter {i}", alloc.key);
            }
        }
    }

    fn resident_keys(&self, keys: &[Key]) -> BTreeSet<Key> {
        let view =
            View { l1: self.core.index(), universe: &self.scenario.universe, quarantine_is_full: false };
        keys.iter().copied().filter(|key| view.object(*key, false).is_some()).collect()
    }

    /// Looks up a prompt: the hit must be the longest prefix that L1 and L2 have, with the right bytes.
    fn audit_lookup(&mut self, engine: &EngineSpec, node: u16) {
        let (instance, connection) = (self.fresh() as i64, self.fresh());
        self.register((instance, connection), engine);
        let path = self.scenario.universe.nodes[usize::from(node)].path.clone();
        let chunk = |node: &u16| ChunkKey { model: engine.model, salt: 0, node: *node };
        let keys: Vec<Key> = path.iter().map(chunk).flat_map(|chunk| engine.keys(chunk)).collect();
        let before = self.resident_keys(&keys);
        let view =
            View { l1: self.core.index(), universe: &self.scenario.universe, quarantine_is_full: false };
        let there = |key: &Key| {
            let loadable = self.adapters.iter().filter_map(|a| a.objects.get(key));
            let in_l1 = view.object(*key, false).map(|(_, bytes)| bytes);
            loadable.copied().chain(in_l1).any(|bytes| bytes == key.form.bytes)
        };
        let needed = |hit: usize| {
            let window = |key: &Key| engine.groups[key.group as usize].window.map_or(hit, |w| w as usize);
            let rows = keys.len() / path.len();
            let in_window = move |(at, key): &(usize, &Key)| {
                (hit.saturating_sub(window(key))..hit).contains(&(at / rows))
            };
            keys.iter().enumerate().filter(in_window).map(|(_, key)| *key).collect::<Vec<Key>>()
        };
        let servable = |hit: &usize| needed(*hit).iter().all(&there);
        let expected = (0..=path.len()).rev().find(servable).expect("the empty prefix is servable");
        // With objects of one size L1 can hold as many as it has slots, because all others can be evicted.
        let slots = self.pages / engine.groups[0].form.bytes.div_ceil(self.scenario.page);
        let others = |uid: usize| {
            let key = self.model.allocs[uid].key;
            keys.iter().any(|k| k.chunk == key.chunk) && !keys.contains(&key)
        };
        // A chunk is evicted whole: objects of these chunks for other engines keep their memory.
        let alone = !self.model.in_state(State::Resident).any(others);
        let fits = alone && self.order_is_simple() && (expected * engine.world as usize) as u64 <= slots;
        let stored = self.stored_objects();

        self.ids.push(format!("audit-{node}-{instance}").into());
        let request = self.ids.len() as u32 - 1;
        let (model, world) = (engine.model, engine.world);
        self.lookup(&LookupCall::of_all(request, connection, (model, world), node));
        self.work_off();
        let LookupStatus::Ready(hit) = self.query(connection, request) else {
            panic!("all adapters have answered")
        };
        if fits {
            self.seen.lookups_audited += 1;
            assert_eq!(hit as usize, expected, "hit, and chunks that L1 and L2 have of {keys:?}");
        }
        assert!(hit as usize <= expected, "a hit longer than what L1 and L2 have");
        let needed = &needed(hit as usize);
        self.audit_bytes(needed);
        self.lose(connection);
        self.work_off();
        let after = self.resident_keys(needed);
        match self.model.prefetch {
            PrefetchKind::Default => assert!(after.is_subset(&before), "a loaded object was retained"),
            PrefetchKind::Retain => assert_eq!(after.len(), needed.len(), "loaded objects retained"),
            // Retention is checked for each object in `Model::observe`.
            PrefetchKind::Adaptive => {}
        }
        assert_eq!(self.core.gauges().l1.temporary_objects, 0, "temporary objects without a reader");
        assert_eq!(self.stored_objects(), stored, "objects stored to L2: a loaded one was stored again");
        self.unregister(instance, connection);
    }

    fn audit_bytes(&self, keys: &[Key]) {
        let view =
            View { l1: self.core.index(), universe: &self.scenario.universe, quarantine_is_full: false };
        for key in keys {
            let (offset, bytes) = view.object(*key, false).expect("it is part of the hit");
            for page in 0..bytes.div_ceil(self.scenario.page) {
                let at = (offset / self.scenario.page + page) as usize;
                assert_eq!(self.memory[at], tag(*key, page), "wrong bytes in a hit: {key:?}");
            }
        }
    }

    /// Whether the only limit of L1 is its size.
    fn order_is_simple(&self) -> bool {
        self.scenario.uniform() && !self.quotas_matter() && self.scenario.eviction != EvictionKind::Noop
    }

    fn stored_objects(&self) -> u64 {
        let adapters = 0..self.adapters.len() as u32;
        adapters.map(|i| self.core.stats().adapter(AdapterId(i)).store_objects).sum()
    }
}
