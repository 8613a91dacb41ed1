//! Retrieves: workers read objects that a lookup has pinned. See [`transfer`](super::transfer).

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use larder_types::{ConnectionId, InstanceId, Time};
use smallvec::SmallVec;

use super::by_owner::ByOwner;
use super::clients::Held;
use super::transfer::{Copied, Expired, Prefix, Slot, TransferId, TransferSpec, unpin_all};
use super::worker_spec::Group;
use crate::context::Context;
use crate::ids::RetrieveId;
use crate::index::ObjectId;
use crate::io::Effect;
use crate::timers::{Timer, TimerKind};

/// Slots being read.
#[derive(Debug)]
struct RetrieveTransfer {
    id: TransferId,
    connection: ConnectionId,
    state: State,
    /// The hit that the range belongs to: its head stays more recent than what was read of it.
    prefix: Prefix,
    /// When it took its pins.
    since: Time,
    timer: Timer,
    held: Held,
}

#[derive(Debug)]
enum State {
    /// The worker reads the objects, each pinned once.
    Reading(Vec<ObjectId>),
    /// Its worker or connection is gone, but a copy may be running: the objects stay pinned for the rest of its time.
    Quarantined(Vec<ObjectId>),
    /// The read TTL is over: it holds no pins, and is remembered for its commit.
    Expired,
}

impl State {
    fn objects(&self) -> &[ObjectId] {
        match self {
            Self::Reading(objects) | Self::Quarantined(objects) => objects,
            Self::Expired => &[],
        }
    }

    fn is_pinned(&self) -> bool {
        !matches!(self, Self::Expired)
    }

    fn is_reading(&self) -> bool {
        matches!(self, Self::Reading(_))
    }
}

/// Retrieves of one identity.
#[derive(Debug, Default)]
struct DuplicateRetrieves {
    ids: SmallVec<[RetrieveId; 1]>,
    /// How many of them have been committed. They end when all have been.
    committed: usize,
}

/// All retrieves.
#[derive(Debug, Default)]
pub(crate) struct Retrieves {
    retrieves: BTreeMap<RetrieveId, RetrieveTransfer>,
    by_id: HashMap<TransferId, DuplicateRetrieves>,
    by_connection: ByOwner<ConnectionId, RetrieveId>,
    by_instance: ByOwner<InstanceId, RetrieveId>,
    /// Those that hold pins. Retrieves are numbered in the order in which they begin.
    pinning: BTreeSet<RetrieveId>,
    expired: Expired,
}

impl Retrieves {
    /// Begins a retrieve of objects that are each pinned once for it: of each group those that it needs of the range.
    pub(crate) fn begin(
        &mut self,
        cx: &mut Context,
        spec: &TransferSpec<'_>,
        groups: &[Group],
        (objects, prefix): (Vec<ObjectId>, Prefix),
    ) -> Vec<Slot> {
        let cells = groups.iter().flat_map(|group| spec.needed(group).map(move |chunk| (group, chunk)));
        let slot = |(object, (group, chunk)): (&ObjectId, (&Group, u32))| {
            let (offset, chunk) = (cx.index.offset(*object), chunk - spec.start);
            Slot { offset, layout: group.layout.clone(), group: group.id, chunk }
        };
        let slots = objects.iter().zip(cells).map(slot).collect();
        let id = RetrieveId(cx.new_id());
        let bytes = cx.slots_bytes(objects.iter().copied());
        let held = cx.clients.hold(spec.connection, bytes);
        let retrieve = RetrieveTransfer {
            id: spec.id(),
            connection: spec.connection,
            state: State::Reading(objects),
            prefix,
            since: cx.now,
            timer: cx.timers.arm(cx.now + cx.config.read_ttl, TimerKind::Retrieve(id)),
            held,
        };
        cx.stats.requests.retrieves_prepared += 1;
        self.by_id.entry(retrieve.id.clone()).or_default().ids.push(id);
        self.by_connection.insert(spec.connection, id);
        self.by_instance.insert(spec.instance, id);
        self.pinning.insert(id);
        self.retrieves.insert(id, retrieve);
        slots
    }

    /// A worker has read its slots, or given up. What all retrieves of the identity have copied, when the last of
    /// them is committed; nothing copied before that. `None` if none is known, or one has lost its pins: what was read
    /// may have been overwritten meanwhile.
    /// Only those that `may_finish` allows can be committed, by the connection that began them.
    pub(crate) fn commit(
        &mut self,
        cx: &mut Context,
        spec: &TransferSpec<'_>,
        may_finish: impl Fn(ConnectionId) -> bool,
    ) -> Option<Copied> {
        let transfer = spec.id();
        let duplicates = self.by_id.get_mut(&transfer)?;
        if !duplicates.ids.iter().any(|id| may_finish(self.retrieves[id].connection)) {
            return None;
        }
        let valid = duplicates.ids.iter().all(|id| self.retrieves[id].state.is_pinned());
        duplicates.committed += 1;
        let mut copied = Copied::default();
        if duplicates.committed == duplicates.ids.len() {
            for id in duplicates.ids.clone() {
                copied = self.finish(cx, id, copied);
            }
        }
        valid.then_some(copied)
    }

    /// The time of a retrieve is over. First its pins are released; the second time it is forgotten.
    pub(crate) fn on_timer(&mut self, cx: &mut Context, id: RetrieveId, due: Time) {
        let retrieve = self.retrieves.get_mut(&id).expect("ids name live retrieves");
        if retrieve.state.is_reading() {
            cx.timers.move_to(&mut retrieve.timer, due + cx.config.read_ttl);
            cx.stats.requests.retrieves_abandoned += 1;
            self.release(cx, id);
            self.expired.add(0);
        } else {
            self.end(cx, id);
        }
    }

    /// The retrieves of a connection.
    pub(crate) fn of_connection(&self, connection: ConnectionId) -> Vec<RetrieveId> {
        self.by_connection.of(connection)
    }

    /// A retrieve whose connection or worker is lost, if it is still there. It counts no longer as running, but a copy
    /// may be: its pins are kept for the rest of its time, or until its process is known to be gone.
    pub(crate) fn abandon_one(&mut self, cx: &mut Context, id: RetrieveId) {
        let Some(retrieve) = self.retrieves.get_mut(&id) else { return };
        if let State::Reading(objects) = &mut retrieve.state {
            let objects = std::mem::take(objects);
            self.expired.add(objects.len());
            retrieve.state = State::Quarantined(objects);
            cx.stats.requests.retrieves_abandoned += 1;
            cx.effects.push(Effect::CheckProcess { connection: retrieve.connection });
        }
    }

    /// Releases what a worker reads that unregisters: it says itself that it is done.
    pub(crate) fn end_instance(&mut self, cx: &mut Context, instance: InstanceId) {
        self.by_instance.of(instance).into_iter().for_each(|id| self.end(cx, id));
    }

    /// Abandons the retrieves of a worker that is gone.
    pub(crate) fn abandon_instance(&mut self, cx: &mut Context, instance: InstanceId) {
        self.by_instance.of(instance).into_iter().for_each(|id| self.abandon_one(cx, id));
    }

    /// Whether pins wait for the end of the process that read over a connection.
    pub(crate) fn awaits_process(&self, connection: ConnectionId) -> bool {
        let quarantined = |id: &RetrieveId| matches!(self.retrieves[id].state, State::Quarantined(_));
        self.by_connection.of(connection).iter().any(quarantined)
    }

    /// The process that read over a connection is gone: its pins end.
    pub(crate) fn process_gone(&mut self, cx: &mut Context, connection: ConnectionId) {
        for id in self.by_connection.of(connection) {
            if matches!(self.retrieves[&id].state, State::Quarantined(_)) {
                self.end(cx, id);
            }
        }
    }

    /// Retrieves that are running.
    pub(crate) fn running(&self) -> u64 {
        self.retrieves.len() as u64 - self.expired.transfers
    }

    /// Objects of quarantined retrieves.
    pub(crate) fn expired_objects(&self) -> u64 {
        self.expired.objects
    }

    /// Since when the oldest pins of a retrieve are held.
    pub(crate) fn pinning_since(&self) -> Option<Time> {
        self.pinning.first().map(|id| self.retrieves[id].since)
    }

    /// Pinned objects. For tests.
    pub(crate) fn pins(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.retrieves.values().flat_map(|r| r.state.objects().iter().copied())
    }

    /// Armed timers. For tests.
    pub(crate) fn timers(&self) -> usize {
        self.retrieves.len()
    }

    /// For tests.
    pub(crate) fn check(&self) {
        let found: usize = self.by_id.values().map(|duplicates| duplicates.ids.len()).sum();
        assert_eq!(found, self.retrieves.len(), "every retrieve is found by its identity");
        assert_eq!(
            self.by_connection.len(),
            self.retrieves.len(),
            "every retrieve is found by its connection"
        );
        assert_eq!(self.by_instance.len(), self.retrieves.len(), "every retrieve is found by its worker");
        let pinning = self.retrieves.iter().filter(|(_, r)| !r.state.objects().is_empty());
        assert!(pinning.map(|(id, _)| *id).eq(self.pinning.iter().copied()), "retrieves that hold pins");
        let expired = || self.retrieves.values().filter(|r| !r.state.is_reading());
        let objects = expired().map(|r| r.state.objects().len()).sum::<usize>() as u64;
        assert_eq!(
            self.expired,
            Expired { transfers: expired().count() as u64, objects },
            "expired retrieves"
        );
    }

    /// Ends a committed retrieve, and adds what it has copied to `copied`.
    fn finish(&mut self, cx: &mut Context, id: RetrieveId, mut copied: Copied) -> Copied {
        let retrieve = &self.retrieves[&id];
        if let State::Reading(objects) | State::Quarantined(objects) = &retrieve.state {
            let count = objects.len() as u64;
            let bytes = objects.iter().map(|object| cx.index.layout(*object).bytes()).sum::<u64>();
            copied.objects += count;
            copied.bytes += bytes;
            cx.stats.requests.retrieves_committed += 1;
            cx.stats.requests.retrieved_objects += count;
            cx.stats.requests.retrieved_bytes += bytes;
            cx.stats.tenant(&retrieve.id.salt).read += count;
            objects.iter().for_each(|object| cx.index_mut().publish_use(*object));
        }
        self.end(cx, id);
        copied
    }

    /// Releases the pins of a retrieve, if it has any, and leaves it expired.
    fn release(&mut self, cx: &mut Context, id: RetrieveId) {
        let retrieve = self.retrieves.get_mut(&id).expect("ids name live retrieves");
        let objects = match std::mem::replace(&mut retrieve.state, State::Expired) {
            State::Reading(objects) => objects,
            State::Quarantined(objects) => {
                self.expired.objects -= objects.len() as u64;
                objects
            }
            State::Expired => return,
        };
        self.pinning.remove(&id);
        cx.clients.release(&mut retrieve.held);
        let mut index = cx.index_mut();
        unpin_all(&mut index, &objects);
        retrieve.prefix.touch(&mut index);
    }

    /// Releases what a retrieve holds, and forgets it.
    fn end(&mut self, cx: &mut Context, id: RetrieveId) {
        self.expired.transfers -= u64::from(!self.retrieves[&id].state.is_reading());
        self.release(cx, id);
        let retrieve = self.retrieves.remove(&id).expect("ids name live retrieves");
        cx.timers.disarm(&retrieve.timer);
        self.by_connection.remove(retrieve.connection, id);
        self.by_instance.remove(retrieve.id.instance, id);
        let duplicates = self.by_id.get_mut(&retrieve.id).expect("every retrieve is found by its identity");
        duplicates.ids.retain(|i| *i != id);
        duplicates.committed = duplicates.committed.saturating_sub(1);
        if duplicates.ids.is_empty() {
            self.by_id.remove(&retrieve.id);
        }
    }
}
