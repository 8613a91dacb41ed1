//! What the core wants done outside, and what it is told of it.

use larder_types::AdapterId;
use std::collections::BTreeSet;

use larder_core::PrefetchId;
use larder_core::{Effect, IoId, IoItem, LookupId, TaskId};
use larder_core::{LookupReport, PrefetchSpec, PrefetchStatus};
use larder_policy::prefetch::plan::Fetch;
use larder_policy::reuse::object_digest;
use larder_policy::{OffloadKind, PrefetchKind};
use larder_types::object::{KvRank, ObjectKey};

use super::World;
use crate::model::{ChunkKey, Expected, Key, Uid, View, WarmCall};
use crate::trace::Call;

impl World {
    /// Ends a call: judges what the core chose, sees what it wants done, compares all books.
    pub(super) fn conclude(&mut self) {
        self.judge_choices();
        if self.scenario.l2.lazy == 0 || !self.rng.chance(self.scenario.l2.lazy) {
            self.collect();
        }
        self.verify();
    }

    /// What the core wants done is what it should want, and is begun.
    pub(super) fn collect(&mut self) {
        let scenario = self.scenario.clone();
        let effects = self.core.take_effects();
        let view = View { l1: self.core.index(), universe: &scenario.universe };
        if !scenario.l2.adapters.is_empty() {
            self.model.begin_jobs(&view);
            self.model.issue_loads();
            self.model.issue_stores();
        }
        self.judge_choices();
        let expected = std::mem::take(&mut self.model.expected);
        assert_eq!(effects.len(), expected.len(), "what is to be done: {effects:?}, {expected:?}");
        for (effect, expected) in effects.into_iter().zip(expected) {
            self.begin_effect(effect, expected);
        }
    }

    fn begin_effect(&mut self, effect: Effect, expected: Expected) {
        match (effect, expected) {
            (
                Effect::Lookup { lookup, adapter, keys },
                Expected::Lookup { adapter: a, job, keys: wanted },
            ) => {
                assert_eq!(adapter, AdapterId(a), "who is asked");
                assert_eq!(keys, self.object_keys(&wanted), "what is asked for");
                self.trace.answer(keys.len() as u64);
                self.model.bind_question(lookup.0, job, a);
                self.ask(a, lookup.0, wanted);
            }
            (Effect::Load { adapter, items }, Expected::Load { adapter: a, ios }) => {
                assert_eq!(adapter, AdapterId(a), "who loads");
                self.lend(a, &items, &ios, None);
            }
            (
                Effect::Store { adapter, task, items },
                Expected::Store { adapter: a, task: seq, ios, keys },
            ) => {
                assert_eq!(adapter, AdapterId(a), "who stores");
                let names: Vec<&ObjectKey> = items.iter().map(|i| &i.key).collect();
                assert_eq!(names, self.object_keys(&keys).iter().collect::<Vec<_>>(), "what is stored");
                self.model.bind_task(seq, task.0);
                let task = self.begin_task(a, task.0);
                self.lend(a, &items, &ios, Some(task));
            }
            (
                Effect::LookupDone(LookupReport { request_id, model, salt, requested_chunks, hit }),
                Expected::LookupDone { request, chunk, chunks, hit: expected },
            ) => {
                let universe = &self.scenario.universe;
                assert_eq!(request_id, self.ids[request as usize], "whose lookup is done");
                let chunk = chunk.expect("prompts have chunks");
                assert_eq!(model, universe.models[usize::from(chunk.model)], "whose model");
                assert_eq!(salt, universe.salts[usize::from(chunk.salt)], "whose salt");
                assert_eq!((requested_chunks as usize, hit), (chunks, expected), "hit of a job");
                self.trace.answer(hit.map_or(u64::MAX, |h| u64::from(h.chunks)));
            }
            (Effect::PrefetchDone { id: PrefetchId(id) }, Expected::PrefetchDone { id: expected }) => {
                assert_eq!(id, expected, "whose warm-up is done");
                if let PrefetchStatus::Done(result) = self.model.prefetch_status(id) {
                    self.seen.warm_objects += u64::from(result.l2_objects);
                }
            }
            (effect, expected) => panic!("{effect:?} is to be done, expected {expected:?}"),
        }
    }

    fn lend(&mut self, adapter: u32, items: &[IoItem], ios: &[u64], task: Option<usize>) {
        assert_eq!(items.len(), ios.len(), "objects of a batch");
        let mut ios = ios.to_vec();
        if self.scenario.windowed() && task.is_none() {
            let place = |io: &u64| {
                let offset = self.model.allocs[self.model.ios[io].uid].offset;
                items.iter().position(|item| item.offset == offset)
            };
            ios.sort_by_key(place);
        }
        for (item, io) in items.iter().zip(&ios) {
            let uid: Uid = self.model.ios[io].uid;
            let alloc = self.model.allocs[uid];
            assert_eq!(item.key, self.object_keys(&[alloc.key])[0], "whose memory is lent");
            assert_eq!((item.offset, item.bytes), (alloc.offset, alloc.bytes), "which memory is lent");
            self.model.bind_io(*io, item.io.0);
            self.trace.answer(item.offset);
            self.begin_io(adapter, item.io.0, self.place(uid), item.bytes, task);
        }
    }

    /// What the core chose in reservations and by trimming was right.
    fn judge_choices(&mut self) {
        for reserved in std::mem::take(&mut self.model.reserved) {
            self.seen.loads_reserved += reserved.new.len() as u64;
            self.judge_reserved(&reserved);
            self.check_new_slots(&reserved.new);
            for uid in &reserved.new {
                let place = self.place(*uid);
                self.memory[place.page as usize..][..place.pages as usize].fill(u64::MAX);
            }
        }
        if std::mem::take(&mut self.model.answered) > 0 {
            self.judge_answer_trim();
        }
        if std::mem::take(&mut self.model.unclear_stops) > 0 {
            let counters = self.core.stats().requests().l2;
            self.model.counters.no_room_objects = counters.no_room_objects;
            self.model.counters.contended_objects = counters.contended_objects;
            self.model.counters.loads_shared = counters.loads_shared;
        }
        for left in std::mem::take(&mut self.model.left) {
            for keeper in &left.keepers {
                let adapter = &self.adapters[*keeper as usize];
                let has = adapter.objects.get(&left.key) == Some(&left.bytes);
                assert!(
                    has || adapter.damaged.contains(&left.key),
                    "{left:?} left L1, adapter {keeper} lacks it"
                );
            }
        }
    }

    pub(super) fn l2_found(&mut self, lookup: u64, sizes: &[Option<u64>]) {
        self.begin(Call::Found { lookup, found: sizes.iter().flatten().count() });
        self.core.l2_found(self.time(), LookupId(lookup), sizes);
        let scenario = self.scenario.clone();
        let view = View { l1: self.core.index(), universe: &scenario.universe };
        self.model.l2_found(lookup, sizes, &view);
        self.model.settle();
        self.conclude();
    }

    pub(super) fn l2_loaded(&mut self, io: u64, ok: bool) {
        self.begin(Call::Loaded { io, ok });
        self.core.l2_loaded(self.time(), IoId(io), ok);
        self.model.l2_loaded(io, ok);
        self.conclude();
    }

    pub(super) fn l2_stored(&mut self, task: u64, stored: &[bool]) {
        self.begin(Call::Stored { task, stored: stored.iter().filter(|s| **s).count() });
        self.core.l2_stored(self.time(), TaskId(task), stored);
        self.model.l2_stored(task, stored);
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
        let view = View { l1: self.core.index(), universe: &scenario.universe };
        let expected = self.model.prefetch(call, id, &view);
        assert_eq!(id.is_some(), expected, "whether there is a warm-up");
        self.warms.extend(id);
        self.model.settle();
        self.conclude();
    }

    pub(super) fn prefetch_status(&mut self, id: u64) {
        self.begin(Call::PrefetchStatus { id });
        let status = self.core.prefetch_status(self.time(), PrefetchId(id));
        assert_eq!(status, self.model.prefetch_status(id), "how a warm-up stands");
        self.conclude();
    }

    /// What the core has learned now: the model beside it does not, and takes its word for which chunks
    /// are worth keeping. Only a lookup teaches it, and when that has been looked up decides by it.
    pub(super) fn learn(&mut self) {
        let Some(reuse) = self.core.predictor() else { return };
        let universe = &self.scenario.universe;
        let chunks = (0..universe.models.len() as u8).flat_map(|model| {
            (0..universe.salts.len() as u8).flat_map(move |salt| {
                (0..universe.nodes.len() as u16).map(move |node| ChunkKey { model, salt, node })
            })
        });
        let key = |chunk| Key { chunk, rank: KvRank::new(1, 0) };
        let kept = |chunk: &ChunkKey| reuse.retains(object_digest(&self.object_keys(&[key(*chunk)])[0]));
        let all = universe.models.len() * universe.salts.len() * universe.nodes.len();
        let kept: BTreeSet<ChunkKey> = chunks.filter(kept).collect();
        self.seen.learned_otherwise += u64::from(kept.len() < all);
        self.model.kept = Some(kept);
    }

    /// What has been planned or queued keeps to what was true then.
    pub(super) fn choose_policies(&mut self, prefetch: PrefetchKind, store: OffloadKind) {
        self.advance();
        self.begin(Call::Policies { prefetch: prefetch.name(), store: store.name() });
        self.core.set_prefetch_policy(prefetch.create());
        self.core.set_store_policy(store.create());
        (self.model.prefetch, self.model.store) = (prefetch, store);
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

    pub(super) fn object_keys(&self, keys: &[Key]) -> Vec<ObjectKey> {
        let universe = &self.scenario.universe;
        let key = |k: &Key| {
            let (model, salt) =
                (&universe.models[usize::from(k.chunk.model)], &universe.salts[usize::from(k.chunk.salt)]);
            ObjectKey::new(*universe.hash(k.chunk.node), model.clone(), k.rank, 0, salt.clone())
                .expect("valid")
        };
        keys.iter().map(key).collect()
    }
}
