//! The connections of one router: how many there are, and which routing ids are taken.
//!
//! Lock order: the registry's lock is taken before outbox locks (to ask a peer something), never after.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::budget::Usage;
use crate::driver::Refusal;
use crate::peer::{Ask, Peer, PeerId};

/// A peer that has asked for something gives way after a silence of this length.
const SILENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Registry {
    peers_max: usize,
    half_open_max: usize,
    usage: Arc<Usage>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Within their handshake, oldest first.
    half_open: BTreeMap<PeerId, Peer>,
    connected: HashMap<PeerId, Peer>,
    /// The nonempty routing ids of `connected`.
    identities: HashSet<Bytes>,
}

impl Registry {
    pub(crate) fn new(peers_max: usize, half_open_max: usize, usage: Arc<Usage>) -> Registry {
        Registry { peers_max, half_open_max, usage, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic can happen between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection at the begin of its handshake. Returns the one that was closed for it, if any.
    #[must_use]
    pub(crate) fn begin(&self, peer: Peer) -> Option<Peer> {
        let mut state = self.lock();
        let crowded = state.half_open.len() >= self.half_open_max;
        let evicted = if crowded { state.half_open.pop_first() } else { None };
        state.half_open.insert(peer.id(), peer);
        let (_, evicted) = evicted?;
        evicted.close();
        Usage::count(&self.usage.half_open_closed);
        Some(evicted)
    }

    /// Moves a connection to the connected ones after its handshake.
    pub(crate) fn admit(&self, id: PeerId, identity: Bytes) -> Result<(), Refusal> {
        let mut state = self.lock();
        let Some(peer) = state.half_open.remove(&id) else { return Err(Refusal::TooManyHalfOpen) };
        if state.connected.len() >= self.peers_max && !self.displace(&mut state, Instant::now()) {
            Usage::count(&self.usage.peers_refused);
            return Err(Refusal::TooManyPeers);
        }
        if !identity.is_empty() && !state.identities.insert(identity) {
            return Err(Refusal::DuplicateIdentity);
        }
        state.connected.insert(id, peer);
        Ok(())
    }

    /// The system has no descriptor for one more connection: closes the one that gives way first.
    pub(crate) fn make_room(&self) {
        let mut state = self.lock();
        if self.displace(&mut state, Instant::now()) {
            return;
        }
        if let Some((_, oldest)) = state.half_open.pop_first() {
            oldest.close();
            Usage::count(&self.usage.half_open_closed);
        }
    }

    /// Closes the connected peer that gives way first: one that never sent a message, or one that has been silent for
    /// long. False if there is none.
    fn displace(&self, state: &mut State, now: Instant) -> bool {
        let gives_way = |peer: &Peer| {
            let idle = peer.idle()?;
            (!idle.has_asked || now.saturating_duration_since(idle.since) >= SILENCE)
                .then_some((idle, peer.id()))
        };
        let Some((_, id)) = state.connected.values().filter_map(gives_way).min() else { return false };
        let peer = state.connected.remove(&id).expect("it was just found");
        state.identities.remove(peer.identity());
        peer.close();
        Usage::count(&self.usage.peers_displaced);
        true
    }

    /// Removes a connection.
    pub(crate) fn remove(&self, id: PeerId) {
        let mut state = self.lock();
        state.half_open.remove(&id);
        if let Some(peer) = state.connected.remove(&id) {
            state.identities.remove(peer.identity());
        }
    }

    /// Makes every connection send its queued messages and end.
    pub(crate) fn drain(&self) {
        let state = self.lock();
        for peer in state.half_open.values().chain(state.connected.values()) {
            peer.ask(Ask::Drain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::peer::Queued;

    fn new_peer(id: u64) -> Peer {
        let usage = Usage::new(&Limits::default());
        Peer::new(PeerId(id), "test".into(), Queued { messages: 1, bytes: 1 }, usage)
    }

    fn new_registry(peers_max: usize, half_open_max: usize) -> Registry {
        Registry::new(peers_max, half_open_max, Usage::new(&Limits::default()))
    }

    fn peer(registry: &Registry, id: u64) -> (PeerId, Option<PeerId>) {
        let peer = new_peer(id);
        (peer.id(), registry.begin(peer).map(|evicted| evicted.id()))
    }

    #[test]
    fn closes_the_oldest_half_open_connection_at_the_limit() {
        let registry = new_registry(10, 2);
        let (first, evicted) = peer(&registry, 1);
        assert_eq!(evicted, None);
        let (second, evicted) = peer(&registry, 2);
        assert_eq!(evicted, None);
        assert_eq!(registry.admit(second, Bytes::new()), Ok(()));
        let (third, evicted) = peer(&registry, 3);
        assert_eq!(evicted, None);
        assert_eq!(peer(&registry, 4).1, Some(first));
        assert_eq!(registry.admit(first, Bytes::new()), Err(Refusal::TooManyHalfOpen));
        assert_eq!(registry.admit(third, Bytes::new()), Ok(()));
    }

    #[test]
    fn routing_id_is_free_after_its_peer_is_gone() {
        let registry = new_registry(10, 10);
        let identity = || Bytes::from_static(b"me");
        let first = new_peer(1);
        first.set_identity(identity());
        assert!(registry.begin(first).is_none());
        assert_eq!(registry.admit(PeerId(1), identity()), Ok(()));
        let (second, _) = peer(&registry, 2);
        assert_eq!(registry.admit(second, identity()), Err(Refusal::DuplicateIdentity));
        // The refused one ends; the id stays taken.
        registry.remove(second);
        let (third, _) = peer(&registry, 3);
        assert_eq!(registry.admit(third, identity()), Err(Refusal::DuplicateIdentity));
        registry.remove(PeerId(1));
        let (fourth, _) = peer(&registry, 4);
        assert_eq!(registry.admit(fourth, identity()), Ok(()));
    }

    #[test]
    fn peers_without_routing_id_are_limited_by_peers_max_only() {
        let registry = new_registry(2, 10);
        for (id, expected) in [(1, Ok(())), (2, Ok(())), (3, Err(Refusal::TooManyPeers))] {
            let peer = new_peer(id);
            peer.keep();
            let id = peer.id();
            assert!(registry.begin(peer).is_none());
            assert_eq!(registry.admit(id, Bytes::new()), expected);
        }
        registry.remove(PeerId(1));
        let (id, _) = peer(&registry, 5);
        assert_eq!(registry.admit(id, Bytes::new()), Ok(()));
    }

    #[test]
    fn peers_that_never_asked_give_way_the_oldest_first() {
        let registry = new_registry(3, 10);
        let peers: Vec<Peer> = (1..=3).map(new_peer).collect();
        for peer in &peers {
            assert!(registry.begin(peer.clone()).is_none());
            assert_eq!(registry.admit(peer.id(), Bytes::new()), Ok(()));
        }
        peers[0].note_message();
        for (id, displaced) in [(4, PeerId(2)), (5, PeerId(3))] {
            let (id, _) = peer(&registry, id);
            assert_eq!(registry.admit(id, Bytes::new()), Ok(()));
            assert!(!registry.lock().connected.contains_key(&displaced), "{displaced} gives way");
        }
        assert!(registry.lock().connected.contains_key(&PeerId(1)), "it has asked for something");
        assert_eq!(registry.usage.peers_displaced(), 2);
    }

    #[test]
    fn peer_that_asked_gives_way_after_a_minute_of_silence_unless_it_is_kept() {
        let registry = new_registry(2, 10);
        let (kept, asked) = (new_peer(1), new_peer(2));
        for peer in [&kept, &asked] {
            assert!(registry.begin(peer.clone()).is_none());
            assert_eq!(registry.admit(peer.id(), Bytes::new()), Ok(()));
            peer.note_message();
        }
        kept.keep();
        let now = Instant::now();
        assert!(!registry.displace(&mut registry.lock(), now));
        assert!(registry.displace(&mut registry.lock(), now + 2 * SILENCE));
        assert!(registry.lock().connected.contains_key(&kept.id()));
        assert!(!registry.displace(&mut registry.lock(), now + 2 * SILENCE));
    }
}
