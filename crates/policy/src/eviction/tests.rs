//! A test rig for policies, and properties that hold for all of them.

use std::sync::Arc;

use larder_types::object::ChunkHash;
use proptest::prelude::*;

use super::{ChunkMeta, EvictDecision, EvictionKind, EvictionPolicy, RemovalCause};
use crate::quota::{QuotaUsage, TenantId};
use crate::reuse::{EvictionOrder, Expert, RetentionRule, ReusePredictor};
use larder_types::ids::ChunkId;
use larder_types::time::Time;

/// A policy that gets the calls L1 would make. Chunks are named by keys and get the lowest free id, as in L1, so ids
/// are reused. Every chunk has one byte.
#[derive(Debug)]
pub(super) struct Rig<P: EvictionPolicy + ?Sized = dyn EvictionPolicy> {
    pub(super) policy: Box<P>,
    pub(super) usage: QuotaUsage,
    chunks: Vec<Option<Known>>,
    /// For a policy that learns; it has one expert, by worth.
    reuse: Option<ReusePredictor>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    key: u32,
    salt: TenantId,
    listed: bool,
}

fn with_about<T>(
    key: u32,
    salt: TenantId,
    reuse: Option<&ReusePredictor>,
    call: impl FnOnce(&ChunkMeta<'_>) -> T,
) -> T {
    let hash = ChunkHash::new(&key.to_le_bytes()).unwrap();
    call(&ChunkMeta { hash: &hash, name_digest: 0, tenant: salt, reuse })
}

fn key_digest(key: u32) -> u64 {
    with_about(key, TenantId(0), None, |about| about.key())
}

impl Rig {
    pub(super) fn new(kind: EvictionKind) -> Self {
        let worth = Expert { rank: EvictionOrder::Worth, keep: RetentionRule::Always };
        let reuse = kind.learns().then(|| ReusePredictor::new([worth], false));
        Self { policy: kind.create(), usage: QuotaUsage::default(), chunks: Vec::new(), reuse }
    }
}

impl<P: EvictionPolicy + Default> Rig<P> {
    /// With a policy of a known type.
    pub(super) fn open() -> Self {
        Self { policy: Box::default(), usage: QuotaUsage::default(), chunks: Vec::new(), reuse: None }
    }
}

impl<P: EvictionPolicy + ?Sized> Rig<P> {
    pub(super) fn id(&self, key: u32) -> Option<ChunkId> {
        let at = self.chunks.iter().position(|c| c.is_some_and(|c| c.key == key))?;
        Some(ChunkId(at as u32))
    }

    fn known(&mut self, key: u32) -> (ChunkId, &mut Known) {
        let id = self.id(key).expect("a known chunk");
        (id, self.chunks[id.0 as usize].as_mut().unwrap())
    }

    pub(super) fn listed(&self, key: u32) -> bool {
        self.chunks.iter().flatten().any(|c| c.key == key && c.listed)
    }

    /// A request asks for a prompt. Only policies that learn see it.
    fn ask(&mut self, chain: &[u32]) {
        if let Some(reuse) = &mut self.reuse {
            reuse.on_request(Time::ZERO, 64, chain.iter().map(|key| key_digest(*key)));
        }
    }

    /// A chunk that is pinned from the start.
    pub(super) fn load(&mut self, key: u32, salt: &str) {
        assert_eq!(self.id(key), None, "{key} is there already");
        let salt: Arc<str> = salt.into();
        let salt = self.usage.tenant_or_insert(&salt);
        self.usage.add_object(salt);
        self.usage.add_bytes(salt, 1);
        let at = self.chunks.iter().position(Option::is_none).unwrap_or_else(|| {
            self.chunks.push(None);
            self.chunks.len() - 1
        });
        self.chunks[at] = Some(Known { key, salt, listed: false });
    }

    /// A chunk that may be evicted from the start.
    pub(super) fn store(&mut self, key: u32) {
        self.load(key, "");
        self.release(key);
    }

    pub(super) fn release(&mut self, key: u32) {
        let (id, known) = self.known(key);
        known.listed = true;
        let salt = known.salt;
        with_about(key, salt, self.reuse.as_ref(), |about| self.policy.insert(id, about));
    }

    pub(super) fn hold(&mut self, key: u32) {
        let (id, known) = self.known(key);
        known.listed = false;
        self.policy.remove(id);
    }

    pub(super) fn touch(&mut self, key: u32) {
        let (id, known) = self.known(key);
        let Known { salt, listed, .. } = *known;
        if listed {
            with_about(key, salt, self.reuse.as_ref(), |about| self.policy.on_access(id, about));
        }
    }

    pub(super) fn find(&mut self, key: u32) {
        let (id, _) = self.known(key);
        self.policy.on_hit(id);
    }

    pub(super) fn end(&mut self, key: u32, how: RemovalCause) {
        let (id, known) = self.known(key);
        let Known { salt, listed, .. } = *known;
        if how == RemovalCause::Evicted {
            self.usage.record_eviction(salt, 1);
        }
        if listed {
            self.policy.remove(id);
        }
        with_about(key, salt, self.reuse.as_ref(), |about| self.policy.on_removed(id, about, how));
        self.chunks[id.0 as usize] = None;
        self.usage.remove_object(salt, 1);
    }

    /// The keys in the order, as if each visited one were evicted.
    pub(super) fn order(&mut self) -> Vec<u32> {
        let mut order = Vec::new();
        self.policy.prepare(self.reuse.as_ref());
        self.policy.visit_victims(&self.usage, &mut |chunk| {
            order.push(self.chunks[chunk.0 as usize].expect("a known chunk").key);
            EvictDecision::Evict(1)
        });
        order
    }

    /// Evicts the first in the order.
    pub(super) fn evict(&mut self) -> Option<u32> {
        let key = self.order().first().copied()?;
        self.end(key, RemovalCause::Evicted);
        Some(key)
    }

    /// Stores a prompt in one call, as a session does: from its end, then all of it is touched.
    pub(super) fn store_prompt(&mut self, chain: &[u32]) {
        self.ask(chain);
        let new: Vec<u32> = chain.iter().copied().filter(|k| self.id(*k).is_none()).collect();
        new.iter().rev().for_each(|k| self.store(*k));
        chain.iter().rev().for_each(|k| self.touch(*k));
    }

    /// Finds and reads the leading chunks of a prompt. Returns how many there are.
    pub(super) fn read_prompt(&mut self, chain: &[u32]) -> usize {
        self.ask(chain);
        let hit: Vec<u32> = chain.iter().copied().take_while(|k| self.listed(*k)).collect();
        hit.iter().for_each(|k| self.find(*k));
        hit.iter().for_each(|k| self.hold(*k));
        hit.iter().rev().for_each(|k| self.release(*k));
        hit.iter().rev().for_each(|k| self.touch(*k));
        hit.len()
    }
}

/// A drawn operation on a chunk. [`step`] turns it into one that is possible.
pub(super) type Op = (u8, u32);

pub(super) fn ops(keys: u32) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec((0u8..12, 0..keys), 1..400)
}

/// What an [`Op`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Store(u32),
    Load(u32),
    Hold(u32),
    Release(u32),
    Touch(u32),
    Find(u32),
    Remove(u32),
    Evict(u32),
    Nothing,
}

/// Applies an op, if the state of the chunk allows it.
pub(super) fn step<P: EvictionPolicy + ?Sized>(rig: &mut Rig<P>, (op, key): Op) -> Step {
    let listed = rig.listed(key);
    let step = match (op, rig.id(key)) {
        (0..=3, None) => Step::Store(key),
        (4, None) => Step::Load(key),
        (0..=2, Some(_)) => Step::Find(key),
        (3 | 4, Some(_)) if listed => Step::Hold(key),
        (3..=5, Some(_)) if !listed => Step::Release(key),
        (5 | 6, Some(_)) if listed => Step::Touch(key),
        (7, Some(_)) => Step::Remove(key),
        (8..=11, _) => rig.order().first().map_or(Step::Nothing, |k| Step::Evict(*k)),
        _ => Step::Nothing,
    };
    match step {
        Step::Store(k) => {
            rig.ask(&[k]);
            rig.store(k);
        }
        Step::Load(k) => rig.load(k, ""),
        Step::Hold(k) => rig.hold(k),
        Step::Release(k) => rig.release(k),
        Step::Touch(k) => rig.touch(k),
        Step::Find(k) => {
            rig.ask(&[k]);
            rig.find(k);
        }
        Step::Remove(k) => rig.end(k, RemovalCause::Removed),
        Step::Evict(k) => rig.end(k, RemovalCause::Evicted),
        Step::Nothing => {}
    }
    step
}

proptest! {
    /// A policy visits exactly the chunks that may be evicted, each once, and a skipped victim does not hide the
    /// others.
    #[test]
    fn every_policy_visits_each_evictable_chunk_once(ops in ops(24)) {
        for kind in EvictionKind::ALL.iter().filter(|k| **k != EvictionKind::Noop) {
            let mut rig = Rig::new(*kind);
            for op in &ops {
                step(&mut rig, *op);
                let mut order = rig.order();
                order.sort_unstable();
                let mut staying = Vec::new();
                rig.policy.prepare(rig.reuse.as_ref());
                rig.policy.visit_victims(&rig.usage, &mut |chunk| {
                    staying.push(rig.chunks[chunk.0 as usize].unwrap().key);
                    EvictDecision::Skip
                });
                staying.sort_unstable();
                let expected: Vec<u32> = (0..24).filter(|k| rig.listed(*k)).collect();
                prop_assert_eq!(&order, &expected, "{}", kind.name());
                prop_assert_eq!(&staying, &expected, "{}", kind.name());
            }
        }
    }

    /// The naive LRU: a vector, coldest first.
    #[test]
    fn lru_agrees_with_a_vector(ops in ops(24)) {
        let mut rig = Rig::new(EvictionKind::Lru);
        let mut naive: Vec<u32> = Vec::new();
        for op in ops {
            match step(&mut rig, op) {
                Step::Store(k) | Step::Release(k) => naive.push(k),
                Step::Touch(k) => { naive.retain(|x| *x != k); naive.push(k); }
                Step::Hold(k) | Step::Remove(k) => naive.retain(|x| *x != k),
                Step::Evict(k) => prop_assert_eq!(k, naive.remove(0)),
                Step::Load(_) | Step::Find(_) | Step::Nothing => {}
            }
            prop_assert_eq!(&rig.order(), &naive);
        }
    }
}

/// 32 chunks that are asked for again and again, and a scan through ten times the memory.
fn hot_chunks_left_by_a_scan(kind: EvictionKind) -> usize {
    let mut rig = Rig::new(kind);
    let hot: Vec<u32> = (0..32).collect();
    rig.store_prompt(&hot);
    (0..3).for_each(|_| assert_eq!(rig.read_prompt(&hot), 32));
    let mut chunks = 32;
    for key in 1000..1640 {
        if chunks == 64 {
            rig.evict().expect("somebody leaves");
            chunks -= 1;
        }
        rig.ask(&[key]);
        rig.store(key);
        chunks += 1;
    }
    rig.read_prompt(&hot)
}

#[test]
fn a_scan_does_not_flush_what_is_asked_for_again() {
    assert_eq!(hot_chunks_left_by_a_scan(EvictionKind::Arc), 32);
    assert_eq!(hot_chunks_left_by_a_scan(EvictionKind::S3Fifo), 32);
    assert_eq!(hot_chunks_left_by_a_scan(EvictionKind::Adaptive), 32);
    assert_eq!(hot_chunks_left_by_a_scan(EvictionKind::Lru), 0, "or the test shows nothing");
}

#[test]
fn policies_are_found_by_name_and_by_no_other() {
    for kind in EvictionKind::ALL {
        assert_eq!(EvictionKind::from_name(kind.name()), Some(*kind));
    }
    assert_eq!(EvictionKind::from_name("FIFO"), None);
}

#[test]
fn noop_names_nobody() {
    let mut rig = Rig::new(EvictionKind::Noop);
    rig.store(1);
    assert_eq!(rig.order(), []);
}

#[test]
fn digests_differ_where_their_input_does() {
    use super::digest;
    let inputs: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"abcdefgh", b"abcdefgh\0", b"abcdefghi", b"ibcdefgha"];
    let mut digests: Vec<u64> = inputs.iter().flat_map(|i| [digest(0, i), digest(1, i)]).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 14);
    // Tables use the top bits and the low bits of it.
    let low: std::collections::HashSet<u64> = (0..1000u32).map(|k| key_digest(k) % 4096).collect();
    let top: std::collections::HashSet<u64> = (0..1000u32).map(|k| key_digest(k) >> 52).collect();
    assert!(low.len() > 800 && top.len() > 800, "{} {}", low.len(), top.len());
}
