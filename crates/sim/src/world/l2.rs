//! Execution of the core's effects, and the results of adapters.

use larder_types::AdapterId;
use std::collections::BTreeSet;

use larder_core::PrefetchId;
use larder_core::{Effect, IoId, IoItem, LookupId, StoreResult, TaskId};
use larder_core::{LookupReport, PrefetchSpec, PrefetchStatus};
use larder_policy::prefetch::plan::Fetch;
use larder_policy::reuse::object_digest;
use larder_policy::{OffloadKind, PrefetchKind};
use larder_types::object::{KvRank, ObjectKey};
use larder_types::{Layout, LayoutId};

use super::adapters::Task;
use super::clients::tag;
use super::{Place, World};
use crate::model::{ChunkKey, Form, Job, Key, Observed, State, Uid, View, WarmCall};
use crate::trace::Call;

impl World {
    /// Ends a call: observes what the core did for L2, executes its effects, and compares it with the model.
    pub(super) fn conclude(&mut self) {
        let lazy = self.scenario.l2.lazy;
        self.observe();
        if lazy == 0 || !self.rng.chance(lazy) || self.is_answered() {
            self.collect();
        }
        self.verify();
    }

    /// Whether the core has answered a job whose answer the model has not seen.
    fn is_answered(&self) -> bool {
        self.core.prefetch_jobs(usize::MAX).ids.len() < self.model.jobs().count()
    }

    /// Begins the core's effects.
    pub(super) fn collect(&mut self) {
        let overdue = self.core.stats().requests().l2.jobs_overdue;
        let effects = self.core.take_effects();
        assert_eq!(
            self.core.stats().requests().l2.jobs_overdue,
            overdue,
            "a job reached its deadline although no time passed"
        );
        self.observe();
        effects.into_iter().for_each(|effect| self.begin_effect(effect));
        self.model.settle();
        self.observe();
        assert!(
            self.model.cancelled.is_empty(),
            "cancelled lookups that were not reported: {:?}",
            self.model.cancelled
        );
        for (i, asked) in self.asked.iter().enumerate() {
            let c = self.core.stats().adapter(AdapterId(i as u32));
            let counted = [
                c.lookups,
                c.lookup_objects,
                c.load_requests,
                c.load_objects,
                c.store_requests,
                c.store_objects,
            ];
            assert_eq!(counted, *asked, "requests and objects of adapter {i}");
        }
    }

    fn begin_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Lookup { lookup, adapter, keys } => {
                self.note_asked(adapter, 0, keys.len());
                let keys: Vec<Key> = keys.iter().map(|key| self.key(key)).collect();
                let wanted: BTreeSet<Key> = self.model.jobs().flat_map(Job::keys).collect();
                // If effects are executed late, lookups may belong to a job that was cancelled since.
                let all = self.scenario.l2.lazy > 0 || keys.iter().all(|key| wanted.contains(key));
                assert!(all, "an adapter lookup of keys that no job requests");
                self.trace.answer(keys.len() as u64);
                self.ask(adapter.0, lookup.0, keys);
            }
            Effect::Load { adapter, items } => {
                self.note_asked(adapter, 2, items.len());
                self.begin_items(adapter.0, &items, None);
                let (bytes, objects) = self.model.in_io(adapter.0, true);
                let limit = self.scenario.l2.load_bytes;
                assert!(bytes <= limit || objects == 1, "adapter {adapter:?} loads {bytes} bytes of {limit}");
            }
            Effect::Store { adapter, task, items } => {
                self.note_asked(adapter, 4, items.len());
                let l2 = &self.scenario.l2;
                let (batch, tasks, limit) = (l2.batch, l2.tasks, l2.store_bytes);
                assert!(items.len() <= batch, "{} objects in a task", items.len());
                let index = self.begin_task(adapter.0, task.0);
                self.begin_items(adapter.0, &items, Some(index));
                let (bytes, objects) = self.model.in_io(adapter.0, false);
                assert!(
                    bytes <= limit || objects == 1,
                    "adapter {adapter:?} stores {bytes} bytes of {limit}"
                );
                assert!(objects as usize <= batch * tasks, "adapter {adapter:?} stores {objects} objects");
            }
            Effect::LookupDone(report) => self.lookup_done(&report),
            // Processes end by themselves, or not: see `crash_worker`.
            Effect::CheckProcess { .. } => {}
            Effect::PrefetchDone { id: PrefetchId(id) } => {
                let PrefetchStatus::Done(result) = self.core.prefetch_status(self.time(), PrefetchId(id))
                else {
                    panic!("prefetch request {id} has no result")
                };
                self.seen.warm_objects += u64::from(result.l2_objects);
                self.model.prefetch_answered(id, result);
            }
        }
    }

    /// Checks the report of a lookup that needed L2: answered, with the objects of the hit in L1, or cancelled.
    fn lookup_done(&mut self, report: &LookupReport) {
        let LookupReport { connection, request_id, model, salt, requested_chunks, hit } = report;
        self.trace.answer(hit.map_or(u64::MAX, |h| u64::from(h.chunks)));
        let Some(hit) = hit else {
            let (request, chunks) = self.model.cancelled.pop_front().expect("a lookup was cancelled");
            assert_eq!(
                (request_id, *requested_chunks as usize),
                (&self.ids[request as usize], chunks),
                "cancelled lookup"
            );
            return;
        };
        let request =
            self.ids.iter().position(|id| id == request_id).expect("an answer has a known request id");
        let job = self.model.lookup_answered((request as u32, connection.0), hit);
        let universe = &self.scenario.universe;
        assert_eq!(*model, universe.models[usize::from(job.chunks[0].model)], "model of a lookup");
        assert_eq!(*salt, universe.salts[usize::from(job.chunks[0].salt)], "salt of a lookup");
        assert_eq!(*requested_chunks as usize, job.chunks.len(), "requested chunks");
        let held = job.needed(hit.chunks).into_iter().filter_map(|key| self.model.resident(key));
        held.for_each(|uid| self.check_bytes(uid));
        self.model.settle();
    }

    fn note_asked(&mut self, adapter: AdapterId, at: usize, objects: usize) {
        let asked = &mut self.asked[adapter.0 as usize];
        asked[at] += 1;
        asked[at + 1] += objects as u64;
    }

    fn begin_items(&mut self, adapter: u32, items: &[IoItem], task: Option<usize>) {
        for item in items {
            let key = self.key(&item.key);
            let place = (item.offset, item.bytes);
            let uid = self.model.begin_io(item.io.0, adapter, key, place, task.is_none());
            // A task does not end before its I/O.
            let is_stored = |t: &Task| {
                let mut ios = t.ios.iter().map(|io| &self.ios[*io]);
                t.adapter == adapter && t.unreported && ios.any(|io| io.place.key == key && io.lent)
            };
            assert!(task.is_none() || !self.tasks.iter().any(is_stored), "{key:?} is in two tasks");
            let fits = |size: &u64| *size == item.bytes || *size == item.bytes.next_multiple_of(4096);
            let reported =
                self.sizes_reported.get(&(adapter, key)).is_some_and(|sizes| sizes.iter().any(fits));
            assert!(
                task.is_some() || reported,
                "adapter {adapter} has not reported {key:?} of {} bytes",
                item.bytes
            );
            if task.is_none() {
                self.loads.insert(item.io.0, self.model.ios[&item.io.0]);
            }
            self.trace.answer(item.offset);
            self.begin_io(adapter, item.io.0, self.place(uid), item.bytes, task);
        }
    }

    /// Checks that the bytes of an object are those of its key.
    pub(super) fn check_bytes(&self, uid: Uid) {
        let Place { page, pages, key } = self.place(uid);
        for i in 0..pages {
            assert_eq!(self.memory[(page + i) as usize], tag(key, i), "wrong bytes in {key:?}");
        }
    }

    /// Observes what the core did for L2, and checks it.
    fn observe(&mut self) {
        let scenario = self.scenario.clone();
        let view = View { l1: self.core.index(), universe: &scenario.universe, quarantine_is_full: false };
        let Observed { reserved, admitted, offloaded } = self.model.observe(&view);
        self.seen.loads_reserved += reserved.len() as u64;
        self.check_new_slots(&reserved);
        for uid in &reserved {
            let place = self.place(*uid);
            self.memory[place.page as usize..][..place.pages as usize].fill(u64::MAX);
        }
        admitted.into_iter().for_each(|uid| self.check_bytes(uid));
        offloaded.into_iter().for_each(|uid| {
            assert!(self.is_offloaded(uid), "removed from L1, but not in L2: {:?}", self.model.allocs[uid])
        });
    }

    /// Whether a readable adapter has stored an object in its size. (Which adapters must have it depends on earlier
    /// queues, and is tested in `larder-core`.)
    fn is_offloaded(&self, uid: Uid) -> bool {
        let alloc = self.model.allocs[uid];
        let mut readable =
            self.scenario.l2.adapters.iter().zip(&self.adapters).filter(|(spec, _)| spec.persists);
        readable.any(|(_, adapter)| {
            adapter.objects.get(&alloc.key) == Some(&alloc.bytes) || adapter.damaged.contains(&alloc.key)
        })
    }

    pub(super) fn l2_found(&mut self, lookup: u64, (adapter, keys): (u32, &[Key]), sizes: &[Option<u64>]) {
        self.begin(Call::Found { lookup, found: sizes.iter().flatten().count() });
        for (key, size) in keys.iter().zip(sizes) {
            self.sizes_reported.entry((adapter, *key)).or_default().extend(size);
        }
        self.core.l2_found(self.time(), LookupId(lookup), sizes);
        self.conclude();
    }

    pub(super) fn l2_loaded(&mut self, io: u64, ok: bool) {
        self.begin(Call::Loaded { io, ok });
        let crate::model::Io { uid, adapter, .. } = self.loads[&io];
        let (id, bytes) = (AdapterId(adapter), self.model.allocs[uid].bytes);
        // After the I/O a load may be abandoned and its memory reused.
        let in_io = self.model.ios.contains_key(&io);
        let before = *self.core.stats().adapter(id);
        self.model.results_due.remove(&uid);
        if ok {
            self.model.arrived.insert(uid);
        }
        self.core.l2_loaded(self.time(), IoId(io), ok);
        let after = self.core.stats().adapter(id);
        let [loaded, failed] = [
            after.loaded_objects - before.loaded_objects,
            after.load_failed_objects - before.load_failed_objects,
        ];
        assert!(
            loaded <= u64::from(ok) && failed <= u64::from(!ok),
            "one result counted {loaded}, {failed} times"
        );
        assert!(!in_io || !self.model.is_load(uid) || loaded + failed == 1, "a result was not counted");
        assert_eq!(after.loaded_bytes - before.loaded_bytes, loaded * bytes, "bytes loaded");
        self.conclude();
    }

    pub(super) fn l2_stored(&mut self, task: u64, stored: &[bool]) {
        self.begin(Call::Stored { task, stored: stored.iter().filter(|s| **s).count() });
        let left = self.core.stats().requests().l2.left_l1_objects;
        let results: Vec<_> = stored.iter().map(|stored| StoreResult::from(*stored)).collect();
        self.core.l2_stored(self.time(), TaskId(task), &results);
        let left = self.core.stats().requests().l2.left_l1_objects - left;
        let view =
            View { l1: self.core.index(), universe: &self.scenario.universe, quarantine_is_full: false };
        let stays = |uid: &Uid| view.stays(self.model.allocs[*uid].key, false);
        let gone = self.model.in_state(State::Resident).filter(|uid| !stays(uid));
        let offloaded = gone.filter(|uid| self.is_offloaded(*uid)).count() as u64;
        assert!(left <= offloaded, "{left} objects removed from L1, but only {offloaded} of them are in L2");
        self.conclude();
    }

    pub(super) fn io_ended(&mut self, io: u64) {
        self.begin(Call::IoEnded { io });
        self.core.io_ended(self.time(), IoId(io));
        self.model.io_ended(io);
        self.conclude();
    }

    pub(super) fn warm(&mut self, call: &WarmCall) {
        self.begin(Call::Warm(*call));
        let scenario = self.scenario.clone();
        let spec = PrefetchSpec {
            model: &scenario.universe.models[usize::from(call.model)],
            world_size: call.world,
            salt: &scenario.universe.salts[usize::from(call.salt)],
            chunk_hashes: &scenario.universe.nodes[usize::from(call.node)].chain,
            fetch: if call.full { Fetch::Full } else { Fetch::Prefix },
        };
        let id = self.core.prefetch(self.time(), &spec).ok().map(|PrefetchId(id)| id);
        let expected = self.model.prefetch(call, id);
        assert_eq!(id.is_some(), expected, "whether there is a prefetch request");
        self.warms.extend(id);
        self.model.settle();
        self.conclude();
    }

    pub(super) fn prefetch_status(&mut self, id: u64) {
        self.begin(Call::PrefetchStatus { id });
        let status = self.core.prefetch_status(self.time(), PrefetchId(id));
        assert_eq!(status, self.model.prefetch_status(id), "state of a prefetch request");
        self.conclude();
    }

    /// Reads from the core's reuse predictor which chunks the adaptive policy retains; the model does not predict
    /// this. The predictor changes only in lookups.
    pub(super) fn learn(&mut self) {
        let Some(reuse) = self.core.predictor() else { return };
        let universe = &self.scenario.universe;
        let chunks = (0..universe.models.len() as u8).flat_map(|model| {
            (0..universe.salts.len() as u8).flat_map(move |salt| {
                (0..universe.nodes.len() as u16).map(move |node| ChunkKey { model, salt, node })
            })
        });
        let key = |chunk| Key { chunk, rank: KvRank::new(1, 0), group: 0, form: Form::default() };
        let kept = |chunk: &ChunkKey| reuse.retains(object_digest(&self.object_keys(&[key(*chunk)])[0]));
        let all = universe.models.len() * universe.salts.len() * universe.nodes.len();
        let kept: BTreeSet<ChunkKey> = chunks.filter(kept).collect();
        self.seen.learned_otherwise += u64::from(kept.len() < all);
        self.model.kept = Some(kept);
    }

    /// Changes the policies for L2. Work that is planned or queued keeps the old ones.
    pub(super) fn choose_policies(&mut self, prefetch: PrefetchKind, store: OffloadKind) {
        self.advance();
        self.begin(Call::Policies { prefetch: prefetch.name(), store: store.name() });
        self.core.set_prefetch_policy(prefetch.create());
        self.core.set_store_policy(store.create());
        self.model.prefetch = prefetch;
        self.model.skips_l1 |= store == OffloadKind::SkipL1;
        self.conclude();
    }

    pub(super) fn change_quota(&mut self, salt: Option<u8>, limit: Option<u64>) {
        self.begin(Call::Quota { salt, limit });
        let scenario = self.scenario.clone();
        let name = salt.map(|salt| &scenario.universe.salts[usize::from(salt)]);
        self.core.change_quotas(self.time(), |quotas| match (name, limit) {
            (Some(name), Some(limit)) => drop(quotas.set(name, limit).expect("few quotas")),
            (Some(name), None) => drop(quotas.delete(name)),
            (None, limit) => quotas.set_default_limit(limit),
        });
        match (salt, limit) {
            (Some(salt), Some(limit)) => drop(self.model.limits.insert(salt, limit)),
            (Some(salt), None) => drop(self.model.limits.remove(&salt)),
            (None, limit) => self.model.default_limit = limit,
        }
        self.judge_quotas();
        self.conclude();
    }

    /// The model's key of an object.
    fn key(&self, key: &ObjectKey) -> Key {
        let universe = &self.scenario.universe;
        let at = |names: &[std::sync::Arc<str>], name| {
            names.iter().position(|n| n == name).expect("a known name") as u8
        };
        let node = universe.nodes.iter().position(|n| n.chain.last() == Some(&key.chunk_hash));
        let chunk = ChunkKey {
            model: at(&universe.models, &key.model_name),
            salt: at(&universe.salts, &key.cache_salt),
            node: node.expect("a known chunk") as u16,
        };
        Key { chunk, rank: key.kv_rank, group: key.object_group, form: universe.form(key.layout) }
    }

    pub(super) fn object_keys(&self, keys: &[Key]) -> Vec<ObjectKey> {
        let universe = &self.scenario.universe;
        let key = |k: &Key| {
            let (model, salt) =
                (&universe.models[usize::from(k.chunk.model)], &universe.salts[usize::from(k.chunk.salt)]);
            let hash = *universe.hash(k.chunk.node);
            let key = ObjectKey::new(hash, model.clone(), k.rank, k.group, salt.clone());
            let layout = universe.layout(k.form).map_or(LayoutId::UNKNOWN, Layout::id);
            key.expect("valid").with_layout(layout)
        };
        keys.iter().map(key).collect()
    }
}
