//! One function for each call of the core: it makes the call on the model, too, and compares the answers.

use larder_core::Core;
use larder_core::LookupSpec;
use larder_core::LookupStatus;
use larder_core::PeerLeaseId;
use larder_core::{Committed, TransferSpec};
use larder_core::{Group, WorkerSpec};
use larder_types::ConnectionId;
use larder_types::InstanceId;
use larder_types::Time;
use larder_types::object::KvRank;

use super::{Granted, Place, World};
use crate::model::{Key, LookupCall, Name, RetrieveOutcome, Uid, View};
use crate::scenario::{EngineSpec, GroupSpec};
use crate::trace::Call;

/// Arguments of a transfer that are not part of its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) model: u8,
    pub(super) node: u16,
    pub(super) connection: u64,
}

impl World {
    /// Begins a call: advances the model to `now` and adds the call to the trace.
    pub(super) fn begin(&mut self, call: Call) {
        self.calls += 1;
        self.model.advance(self.now);
        self.cut_copies();
        self.trace.call(self.now, call);
    }

    fn agree(&mut self, ours: u64, expected: u64, what: &str) {
        self.trace.answer(ours);
        assert_eq!(ours, expected, "{what}: the core's answer, and the model's");
    }

    pub(super) fn advance(&mut self) {
        self.begin(Call::Advance);
        self.core.advance(self.time());
        self.conclude();
    }

    pub(super) fn register(&mut self, (instance, connection): (i64, u64), engine: &EngineSpec) {
        let bytes = engine.groups.iter().map(|group| group.form.bytes).sum();
        self.begin(Call::Register { instance, bytes });
        let group = |(id, group): (u32, &GroupSpec)| {
            let layout = self.scenario.universe.layout(group.form).expect("a known layout").clone();
            Group { id, window: group.window, layout }
        };
        let groups = (0..).zip(&engine.groups).map(group).collect();
        let spec = WorkerSpec {
            instance: InstanceId(instance),
            model: self.scenario.universe.models[usize::from(engine.model)].clone(),
            world_size: engine.world,
            block_tokens: None,
            groups,
        };
        let new = self.core.register(self.time(), ConnectionId(connection), spec);
        let expected = self.model.register(self.now, (instance, connection), engine);
        self.agree(u64::from(new), u64::from(expected), "register");
        self.conclude();
    }

    pub(super) fn unregister(&mut self, instance: i64, connection: u64) {
        self.begin(Call::Unregister { instance });
        let known = self.core.unregister(self.time(), ConnectionId(connection), InstanceId(instance));
        let expected = self.model.unregister(self.now, instance, connection);
        self.agree(u64::from(known), u64::from(expected), "unregister");
        if known {
            self.limit_copies(self.now, |c| c.name.instance == instance);
            let reads = self.copies.iter_mut().filter(|c| !c.write && c.name.instance == instance);
            reads.for_each(|c| c.limit = c.limit.min(self.now));
        }
        self.model.settle();
        self.conclude();
    }

    pub(super) fn ping(&mut self, instance: i64, connection: u64) -> bool {
        self.begin(Call::Ping { instance });
        let known = self.core.ping(self.time(), ConnectionId(connection), InstanceId(instance));
        let expected = self.model.ping(self.now, instance, connection);
        self.agree(u64::from(known), u64::from(expected), "ping");
        self.conclude();
        known
    }

    pub(super) fn lose(&mut self, connection: u64) {
        self.begin(Call::Lost { connection });
        self.core.connection_lost(self.time(), ConnectionId(connection));
        self.model.connection_lost(self.now, connection);
        self.limit_copies(self.now, |c| c.connection == connection);
        self.model.settle();
        self.conclude();
    }

    /// The process that used a connection has ended, and with it its copies.
    pub(super) fn process_gone(&mut self, connection: u64) {
        self.copies.iter_mut().filter(|c| c.connection == connection).for_each(|c| c.running = false);
        self.begin(Call::Gone { connection });
        self.core.process_gone(self.time(), ConnectionId(connection));
        assert!(!self.core.awaits_process(ConnectionId(connection)), "memory of a process that is gone");
        self.model.process_gone(connection);
        self.model.settle();
        self.conclude();
    }

    pub(super) fn clear(&mut self, force: bool) {
        self.begin(Call::Clear { force });
        let removed = self.core.clear(self.time(), force);
        if force || self.model.jobs().next().is_none() {
            let expected = self.model.clear(force);
            self.agree(removed, expected, "clear");
        }
        self.model.settle();
        self.conclude();
    }

    /// Limits the arena to the first `end` pages, or more if later ones are used.
    pub(super) fn truncate_capacity(&mut self, end: u64) {
        self.advance();
        self.begin(Call::CutMemory { end });
        self.core.truncate_capacity(end * self.scenario.page);
        let used = self.model.live.iter().map(|uid| self.place(*uid)).map(|p| p.page + p.pages).max();
        let (before, pages) = (self.pages, self.core.gauges().l1.capacity_bytes / self.scenario.page);
        self.pages = self.pages.min(end.max(used.unwrap_or(0)));
        if self.model.may_hold_more() && (self.pages..=before).contains(&pages) {
            self.pages = pages;
        }
        self.conclude();
    }

    pub(super) fn lookup(&mut self, call: &LookupCall) {
        self.begin(Call::Lookup(*call));
        let scenario = self.scenario.clone();
        let spec = LookupSpec {
            request_id: &self.ids[call.request as usize].clone(),
            connection: ConnectionId(call.connection),
            model: &scenario.universe.models[usize::from(call.model)],
            world_size: call.world,
            worker_id: call.worker_id,
            salt: &scenario.universe.salts[usize::from(call.salt)],
            chunk_hashes: &scenario.universe.nodes[usize::from(call.node)].chain,
            start: call.start,
            readers: call.readers,
        };
        let hit = self.core.lookup(self.time(), &spec).hit().map(|hit| hit.chunks);
        self.learn();
        let view = View { l1: self.core.index(), universe: &scenario.universe, quarantine_is_full: false };
        let expected = self.model.lookup(self.now, call, &view);
        let number = |hit: Option<u32>| hit.map_or(u64::MAX, u64::from);
        self.agree(number(hit), number(expected), "hit");
        self.model.settle();
        self.conclude();
    }

    pub(super) fn query(&mut self, connection: u64, request: u32) -> LookupStatus {
        self.begin(Call::Query { request });
        let id = self.ids[request as usize].clone();
        let status = self.core.take_result(self.time(), ConnectionId(connection), &id);
        let expected = self.model.take_result(self.now, connection, request);
        let number = |status: LookupStatus| match status {
            LookupStatus::Ready(hit) => u64::from(hit),
            LookupStatus::Unknown => u64::MAX,
            LookupStatus::Pending => u64::MAX - 1,
        };
        self.agree(number(status), number(expected), "result of a lookup");
        self.conclude();
        status
    }

    pub(super) fn free(
        &mut self,
        (connection, request): (u64, u32),
        rank: Option<KvRank>,
        (start, end): (u32, u32),
    ) {
        self.begin(Call::Free { request, rank: rank.map(|r| r.0), start, end });
        let id = self.ids[request as usize].clone();
        self.core.free(self.time(), (ConnectionId(connection), &id), rank, (start, end));
        self.model.free(self.now, (connection, request), rank, (start, end));
        self.model.settle();
        self.conclude();
    }

    pub(super) fn end_session(&mut self, connection: u64, request: u32) {
        self.begin(Call::End { request });
        let id = self.ids[request as usize].clone();
        self.core.end_session(self.time(), ConnectionId(connection), &id);
        self.model.end_session(connection, request);
        self.model.settle();
        self.conclude();
    }

    /// Runs one of the four transfer calls on the core.
    fn transfer<T>(
        &mut self,
        context: Context,
        name: &Name,
        call: impl FnOnce(&mut Core, Time, &TransferSpec<'_>) -> T,
    ) -> T {
        let universe = &self.scenario.universe;
        let spec = TransferSpec {
            instance: InstanceId(name.instance),
            connection: ConnectionId(context.connection),
            request_id: &self.ids[name.request as usize],
            model: &universe.models[usize::from(context.model)],
            rank: name.rank,
            salt: &universe.salts[usize::from(name.salt)],
            chunk_hashes: &universe.nodes[usize::from(context.node)].chain,
            start: name.start,
            end: name.end,
        };
        call(&mut self.core, Time::from_millis(self.now), &spec)
    }

    /// Prepares a store of all but `skipped` (chunk and group). Returns the slots to write.
    pub(super) fn prepare_store(
        &mut self,
        context: Context,
        name: Name,
        skipped: &[(u32, u32)],
    ) -> Option<Granted> {
        self.begin(Call::PrepareStore(name));
        self.seen.stores_equal += u64::from(self.model.knows(&name));
        self.seen.chunks_skipped += skipped.len() as u64;
        let lists = skipped.iter().map(|(_, group)| *group).max().map_or(0, |last| last + 1);
        let list = |group| skipped.iter().filter(|s| s.1 == group).map(|s| s.0).collect();
        let lists: Vec<Vec<u32>> = (0..lists).map(list).collect();
        let got =
            self.transfer(context, &name, |core, now, spec| core.prepare_store_except(now, spec, &lists));
        let given: Vec<(u32, u32)> =
            got.iter().flat_map(|p| p.slots.iter().map(|slot| (slot.chunk, slot.group))).collect();
        let scenario = self.scenario.clone();
        let gauges = self.core.gauges();
        let quarantine_is_full = gauges.quarantined_bytes > gauges.l1.capacity_bytes / 2;
        let view = View { l1: self.core.index(), universe: &scenario.universe, quarantine_is_full };
        let place = (context.model, context.node, context.connection);
        let plan = self.model.plan_store(self.now, place, (&name, skipped), &given, &view);
        let (plan, prepared) = match (plan, got) {
            (Some(plan), Ok(prepared)) => (plan, prepared),
            (None, Err(_)) => {
                self.conclude();
                return None;
            }
            (plan, got) => panic!("prepare_store answered {got:?}, expected {plan:?}"),
        };
        let slots: Vec<((u32, u32), u64)> =
            prepared.slots.iter().map(|slot| ((slot.chunk, slot.group), slot.offset)).collect();
        slots.iter().for_each(|((i, group), offset)| {
            self.trace.answer(u64::from(*group) << 32 | u64::from(*i));
            self.trace.answer(*offset);
        });
        for slot in &prepared.slots {
            let bytes = plan.groups[slot.group as usize].form.bytes;
            assert_eq!(slot.layout.bytes(), bytes, "slots of another size");
        }
        if quarantine_is_full {
            assert!(prepared.slots.is_empty(), "slots while too much memory waits for late writers");
        } else {
            self.judge_store(&plan, &prepared);
        }
        let mut seq = 0;
        if !slots.is_empty() {
            seq = self.model.begin_store(self.now, place, name, &plan.groups, &slots);
        }
        self.model.settle();
        let total = self.model.allocs.len();
        let new: Vec<Uid> = (total - slots.len()..total).collect();
        self.check_new_slots(&new);
        if slots.len() < plan.missing.len() {
            self.seen.stores_refused += 1;
            // With several groups what was reserved of the chunk was given back.
            if let [group] = plan.groups[..] {
                self.judge_refusal(&plan.protected, group.form.bytes.div_ceil(self.scenario.page));
            }
        }
        let places: Vec<Place> = new.iter().map(|uid| self.place(*uid)).collect();
        self.conclude();
        (!places.is_empty()).then_some(Granted { seq, places })
    }

    /// The place of a reservation.
    pub(super) fn place(&self, uid: Uid) -> Place {
        let alloc = &self.model.allocs[uid];
        Place { page: alloc.offset / self.scenario.page, pages: alloc.pages, key: alloc.key }
    }

    pub(super) fn commit_store(&mut self, context: Context, name: &Name) {
        self.begin(Call::CommitStore(*name));
        let committed = self.transfer(context, name, |core, now, spec| core.commit_store(now, spec));
        let expected = self.model.commit_store(self.now, name, context.connection);
        self.seen.commits_late += u64::from(expected == Err(true));
        let committed = match committed {
            Committed::Published(copied) => Ok(copied.objects as u32),
            Committed::Expired => Err(true),
            Committed::Unknown => Err(false),
        };
        self.trace.answer(committed.map_or(u64::MAX, u64::from));
        assert_eq!(committed, expected, "commit of a store");
        self.model.settle();
        if committed.is_ok() {
            self.judge_trim();
        }
        self.conclude();
    }

    pub(super) fn abort_store(&mut self, context: Context, name: &Name) {
        self.begin(Call::AbortStore(*name));
        self.transfer(context, name, |core, now, spec| core.abort_store(now, spec));
        self.model.abort_store(name);
        self.model.settle();
        self.conclude();
    }

    /// Prepares a retrieve. Returns the slots to read.
    pub(super) fn prepare_retrieve(&mut self, context: Context, name: Name) -> Option<Granted> {
        self.begin(Call::PrepareRetrieve(name));
        let got = self.transfer(context, &name, |core, now, spec| core.prepare_retrieve(now, spec));
        let place = (context.model, context.node, context.connection);
        let (expected, seq) = self.model.prepare_retrieve(self.now, place, name);
        let offsets =
            |uids: &[usize]| uids.iter().map(|u| self.model.allocs[*u].offset).collect::<Vec<u64>>();
        let held = match (&expected, &got) {
            (RetrieveOutcome::NotRegistered, Err(_)) | (RetrieveOutcome::Missing, Ok(None)) => None,
            (RetrieveOutcome::Held(uids), Ok(Some(slots))) => {
                let places: Vec<u64> = slots.iter().map(|s| s.offset).collect();
                assert_eq!(places, offsets(uids), "slots of a retrieve, and where its objects are");
                Some(uids)
            }
            _ => panic!("prepare_retrieve answered {got:?}, expected {expected:?}"),
        };
        let places = held.map(|uids| uids.iter().map(|u| self.place(*u)).collect::<Vec<Place>>());
        self.trace.answer(places.as_ref().map_or(u64::MAX, |p| p.len() as u64));
        self.model.settle();
        self.conclude();
        places.map(|places| Granted { seq, places })
    }

    pub(super) fn commit_retrieve(&mut self, context: Context, name: &Name) {
        self.begin(Call::CommitRetrieve(*name));
        let running =
            self.transfer(context, name, |core, now, spec| core.commit_retrieve(now, spec).is_some());
        let expected = self.model.commit_retrieve(self.now, name, context.connection);
        self.agree(u64::from(running), u64::from(expected), "commit of a retrieve");
        self.model.settle();
        self.conclude();
    }

    pub(super) fn peer_lookup(&mut self, owner: u64, keys: &[Key]) -> u64 {
        self.begin(Call::PeerLookup { owner, keys: keys.len() });
        let id = self.core.peer_lookup(self.time(), ConnectionId(owner), &self.object_keys(keys));
        let PeerLeaseId(id) = id.expect("leases are not limited here");
        self.trace.answer(id);
        self.model.peer_lookup(self.now, id, owner, keys);
        self.model.settle();
        self.conclude();
        id
    }

    pub(super) fn peer_result(&mut self, id: u64) {
        self.begin(Call::PeerResult { id });
        let found = self.core.peer_result(self.time(), PeerLeaseId(id));
        let expected = self.model.peer_result(id);
        assert_eq!(found, expected, "what a peer holds");
        self.trace.answer(found.map_or(u64::MAX, |f| f.iter().flatten().count() as u64));
        self.model.settle();
        self.conclude();
    }

    pub(super) fn peer_unlock(&mut self, owner: u64, keys: &[Key]) {
        self.begin(Call::PeerUnlock { owner, keys: keys.len() });
        self.core.peer_unlock(self.time(), ConnectionId(owner), &self.object_keys(keys));
        self.model.peer_unlock(owner, keys);
        self.model.settle();
        self.conclude();
    }
}
