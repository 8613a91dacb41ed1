//! Leases of peers: objects that another server has looked up by key and reads.
//!
//! The number of leases and of keys in them is bounded; when a bound is met, the oldest leases end. A client that has its
//! share of them gets no further one.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use larder_types::object::ObjectKey;
use larder_types::{ConnectionId, LayoutId, Time};
use smallvec::SmallVec;

use super::by_owner::ByOwner;
use super::clients::Held;
use super::lease::PinnedObject;
use super::models::Models;
use crate::context::Context;
use crate::ids::PeerLeaseId;
use crate::index::ObjectId;
use crate::timers::{Timer, TimerKind};

/// Objects pinned for another server.
#[derive(Debug)]
struct PeerLease {
    owner: ConnectionId,
    /// One per key of the lookup; `None` if there is no such object.
    objects: Vec<Option<(ObjectKey, PinnedObject)>>,
    /// Pins that are left.
    pins: u64,
    /// The peer has asked for the result.
    reported: bool,
    since: Time,
    /// Fires when the pins expire.
    expiry: Timer,
    held: Held,
}

/// A pin of a lease: the lease, and the position of the object in it.
type PinPosition = (PeerLeaseId, u32);

/// Which leases pin a key, the oldest first.
#[derive(Debug)]
struct PinsByKey<Key>(HashMap<Key, SmallVec<[PinPosition; 1]>>);

impl<Key> Default for PinsByKey<Key> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<Key: Eq + std::hash::Hash> PinsByKey<Key> {
    fn insert(&mut self, key: Key, position: PinPosition) {
        let positions = self.0.entry(key).or_default();
        let at = positions.partition_point(|p| *p < position);
        positions.insert(at, position);
    }

    fn first(&self, key: &Key) -> Option<PinPosition> {
        self.0.get(key).and_then(|positions| positions.first()).copied()
    }

    fn remove(&mut self, key: &Key, position: PinPosition) {
        let Some(positions) = self.0.get_mut(key) else { return };
        if let Ok(at) = positions.binary_search(&position) {
            positions.remove(at);
        }
        if positions.is_empty() {
            self.0.remove(key);
        }
    }
}

/// All leases of peers.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    leases: BTreeMap<PeerLeaseId, PeerLease>,
    by_connection: ByOwner<ConnectionId, PeerLeaseId>,
    /// Keys in all leases, found or not.
    keys: usize,
    /// The same of each owner.
    keys_of: HashMap<ConnectionId, usize>,
    own_pins: PinsByKey<(ConnectionId, ObjectKey)>,
    /// Pins of reported leases.
    reported_pins: PinsByKey<ObjectKey>,
}

impl Peers {
    /// Looks objects up by key and pins those found, as far as the owner's share of L1 suffices. `None` if the owner has
    /// too many leases.
    ///
    /// A key without a layout names the object in the layout of this server's workers of the model, if they have one;
    /// without workers the only object there is. In doubt it names none.
    pub(crate) fn lookup(
        &mut self,
        cx: &mut Context,
        owner: ConnectionId,
        keys: &[ObjectKey],
        models: &Models,
    ) -> Option<PeerLeaseId> {
        let own_keys = self.keys_of.get(&owner).copied().unwrap_or(0);
        let own = self.by_connection.count(owner);
        if own > 0
            && (own > cx.config.peer_leases_max / 4 || own_keys + keys.len() > cx.config.peer_keys_max / 2)
        {
            cx.stats.requests.peer_lookups_refused += 1;
            return None;
        }
        while !self.leases.is_empty()
            && (self.leases.len() >= cx.config.peer_leases_max
                || self.keys + keys.len() > cx.config.peer_keys_max)
        {
            let oldest = *self.leases.first_key_value().expect("there are leases").0;
            self.on_timer(cx, oldest);
        }
        let id = PeerLeaseId(cx.new_id());
        let mut objects = Vec::with_capacity(keys.len());
        let (mut pins, room, mut bytes) = (0, cx.client_room(owner), 0);
        for (key, at) in keys.iter().zip(0..) {
            let layout = Some(key.layout).filter(|layout| layout.is_known());
            let layout = layout.or_else(|| models.presumed_layout(key));
            let found = layout.and_then(|layout| cx.index.find(&key.clone().with_layout(layout)));
            let found = found.filter(|object| {
                let more = bytes + cx.slots_bytes([*object]);
                let fits = more <= room;
                if fits {
                    bytes = more;
                }
                fits
            });
            objects.push(found.map(|object| {
                // Pins are released by keys without a layout.
                let key = key.clone().with_layout(LayoutId::UNKNOWN);
                cx.index_mut().pin(object, 1);
                self.own_pins.insert((owner, key.clone()), (id, at));
                pins += 1;
                (key, PinnedObject::new(object, 1))
            }));
        }
        let expiry = cx.timers.arm(cx.now + cx.config.read_ttl, TimerKind::PeerLease(id));
        let held = cx.clients.hold(owner, bytes);
        self.keys += objects.len();
        *self.keys_of.entry(owner).or_default() += objects.len();
        self.by_connection.insert(owner, id);
        self.leases
            .insert(id, PeerLease { owner, objects, pins, reported: false, since: cx.now, expiry, held });
        Some(id)
    }

    /// Offset and size of each object of a lookup that is still pinned, in the order of its keys. A result is
    /// reported once.
    pub(crate) fn take_result(
        &mut self,
        cx: &mut Context,
        id: PeerLeaseId,
    ) -> Option<Vec<Option<(u64, u64)>>> {
        let lease = self.leases.get_mut(&id).filter(|lease| !lease.reported)?;
        lease.reported = true;
        let mut places = Vec::with_capacity(lease.objects.len());
        for (object, at) in lease.objects.iter().zip(0..) {
            places.push(object.as_ref().filter(|(_, pinned)| pinned.pins() > 0).map(|(key, pinned)| {
                self.reported_pins.insert(key.clone(), (id, at));
                (cx.index.offset(pinned.object()), cx.index.layout(pinned.object()).bytes())
            }));
        }
        if lease.pins == 0 {
            self.end(cx, id);
        }
        Some(places)
    }

    /// A peer is done with objects: releases one pin of each, of the owner's own leases if one has it, otherwise
    /// of another lease with a reported result.
    pub(crate) fn unlock(&mut self, cx: &mut Context, owner: ConnectionId, keys: &[ObjectKey]) {
        let mut emptied: SmallVec<[PeerLeaseId; 4]> = SmallVec::new();
        // From the end: keys come in the order of a prompt, and its first chunk should be the most recent.
        for key in keys.iter().rev() {
            let own = self.own_pins.first(&(owner, key.clone()));
            let Some((id, at)) = own.or_else(|| self.reported_pins.first(key)) else { continue };
            let lease = self.leases.get_mut(&id).expect("pins are forgotten with their lease");
            let (_, pinned) = lease.objects[at as usize].as_mut().expect("the object was found");
            let bytes = cx.slots_bytes([pinned.object()]);
            lease.pins -= pinned.release_one(&mut cx.index_mut());
            cx.clients.release_some(&mut lease.held, bytes);
            if lease.reported && lease.pins == 0 {
                emptied.push(id);
            }
            let key = (lease.owner, key.clone());
            self.own_pins.remove(&key, (id, at));
            self.reported_pins.remove(&key.1, (id, at));
        }
        emptied.sort_unstable();
        emptied.into_iter().for_each(|id| self.end(cx, id));
    }

    /// The pins of a lease have expired.
    pub(crate) fn on_timer(&mut self, cx: &mut Context, id: PeerLeaseId) {
        cx.stats.requests.leases_expired += u64::from(self.leases[&id].pins > 0);
        self.end(cx, id);
    }

    /// The leases of a connection.
    pub(crate) fn of_connection(&self, owner: ConnectionId) -> Vec<PeerLeaseId> {
        self.by_connection.of(owner)
    }

    /// Ends a lease of a lost connection, if it is still there.
    pub(crate) fn abandon_one(&mut self, cx: &mut Context, id: PeerLeaseId) {
        if self.leases.contains_key(&id) {
            self.end(cx, id);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    /// Keys in all leases, found or not.
    pub(crate) fn keys(&self) -> usize {
        self.keys
    }

    /// Since when the oldest lease is held. Leases are numbered in the order in which they begin.
    pub(crate) fn oldest(&self) -> Option<Time> {
        self.leases.first_key_value().map(|(_, lease)| lease.since)
    }

    /// All pins. For tests.
    pub(crate) fn pins(&self) -> impl Iterator<Item = (ObjectId, u32)> + '_ {
        let objects = self.leases.values().flat_map(|lease| &lease.objects);
        objects.flatten().map(|(_, pinned)| (pinned.object(), pinned.pins()))
    }

    /// For tests.
    pub(crate) fn check(&self) {
        let (mut keys, mut own, mut reported) = (0, 0, 0);
        for (id, lease) in &self.leases {
            keys += lease.objects.len();
            let mut pins = 0;
            for (object, at) in lease.objects.iter().zip(0..) {
                let Some((key, pinned)) = object.as_ref().filter(|(_, pinned)| pinned.pins() > 0) else {
                    continue;
                };
                pins += u64::from(pinned.pins());
                let own = &self.own_pins.0[&(lease.owner, key.clone())];
                assert!(own.contains(&(*id, at)), "{id:?} is found by owner and key");
                assert!(!lease.reported || self.reported_pins.0[key].contains(&(*id, at)), "{id:?} by key");
            }
            assert_eq!(pins, lease.pins, "pins of {id:?}");
            assert!(!lease.reported || pins > 0, "{id:?} is kept without pins");
            own += pins;
            reported += if lease.reported { pins } else { 0 };
        }
        let positions = |count: &mut dyn Iterator<Item = usize>| count.sum::<usize>() as u64;
        assert_eq!(positions(&mut self.own_pins.0.values().map(SmallVec::len)), own, "pins by owner");
        assert_eq!(
            positions(&mut self.reported_pins.0.values().map(SmallVec::len)),
            reported,
            "reported pins"
        );
        assert_eq!(keys, self.keys, "keys of peer leases");
        assert_eq!(self.keys_of.values().sum::<usize>(), keys, "keys of each owner");
        assert_eq!(self.by_connection.len(), self.leases.len(), "each lease is found by its connection");
    }

    fn end(&mut self, cx: &mut Context, id: PeerLeaseId) {
        let Some(mut lease) = self.leases.remove(&id) else { return };
        cx.timers.disarm(&lease.expiry);
        cx.clients.release(&mut lease.held);
        self.keys -= lease.objects.len();
        let own_keys = self.keys_of.get_mut(&lease.owner).expect("each lease counts its keys");
        *own_keys -= lease.objects.len();
        if *own_keys == 0 {
            self.keys_of.remove(&lease.owner);
        }
        self.by_connection.remove(lease.owner, id);
        let positions = lease.objects.into_iter().enumerate().rev();
        for (at, (key, mut pinned)) in positions.filter_map(|(at, object)| Some((at as u32, object?))) {
            if pinned.release(&mut cx.index_mut()) > 0 {
                self.reported_pins.remove(&key, (id, at));
                self.own_pins.remove(&(lease.owner, key), (id, at));
            }
        }
    }
}
