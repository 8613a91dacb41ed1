//! The memory tier against a naive model: random reservations, admissions, pins, clears and
//! evictions of several sizes; and the exact choice of victims.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_core::index::{ObjectId, Refused, Retention, ShardKey, StandaloneIndex};
use larder_policy::eviction::EvictionKind;
use larder_types::Layout;
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank};
use proptest::prelude::*;

const PAGE: u64 = 16;
const PAGES: u64 = 48;
const CHUNKS: u8 = 12;
const CELLS: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Staged,
    Resident,
    Unlinked,
}

#[derive(Clone, Copy, Debug)]
struct Object {
    chunk: u8,
    cell: u32,
    bytes: u64,
    offset: u64,
    pages: u64,
    state: State,
    temporary: bool,
    pins: u32,
}

/// One operation; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Op {
    Reserve { chunk: u8, cell: u32, bytes: u64, temporary: bool, protect: Option<u8> },
    Admit { which: usize, pins: u32 },
    Abort(usize),
    Unlink(usize),
    Pin { which: usize, pins: u32 },
    Unpin { which: usize, pins: u32 },
    Promote(usize),
    Touch(u8),
    Clear(bool),
    Trim(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0usize..64;
    let bytes = prop_oneof![4 => Just(PAGE), 2 => 1..PAGE * 4, 1 => PAGE * 8..PAGE * 30];
    prop_oneof![
        8 => (0..CHUNKS, 0..CELLS, bytes, prop::bool::weighted(0.2), prop::option::weighted(0.3, 0..CHUNKS)).prop_map(
            |(chunk, cell, bytes, temporary, protect)| Op::Reserve { chunk, cell, bytes, temporary, protect }
        ),
        7 => (which.clone(), 0u32..3).prop_map(|(which, pins)| Op::Admit { which, pins }),
        1 => which.clone().prop_map(Op::Abort),
        1 => which.clone().prop_map(Op::Unlink),
        2 => (which.clone(), 1u32..4).prop_map(|(which, pins)| Op::Pin { which, pins }),
        4 => (which.clone(), 1u32..4).prop_map(|(which, pins)| Op::Unpin { which, pins }),
        1 => which.prop_map(Op::Promote),
        2 => (0..CHUNKS).prop_map(Op::Touch),
        1 => prop::bool::weighted(0.2).prop_map(Op::Clear),
        1 => (0..PAGES * PAGE).prop_map(Op::Trim),
    ]
}

/// The tier, and what it should hold.
struct Both {
    l1: StandaloneIndex,
    objects: BTreeMap<ObjectId, Object>,
    /// Chunks that may be evicted, coldest first.
    order: Vec<u8>,
    name: Arc<str>,
}

fn hash(chunk: u8) -> ChunkHash {
    ChunkHash::new(&[chunk]).expect("one byte")
}

fn layout(bytes: u64) -> Layout {
    Layout::new(&[bytes], DType::UInt8).expect("not empty")
}

fn cell(cell: u32, bytes: u64) -> ShardKey {
    ShardKey { rank: KvRank::new(CELLS, cell), group: 0, layout: layout(bytes).id() }
}

impl Both {
    fn new() -> Self {
        let l1 = StandaloneIndex::new(PAGES * PAGE + 5, PAGE, EvictionKind::Lru);
        Self { l1, objects: BTreeMap::new(), order: Vec::new(), name: "m".into() }
    }

    fn ids(&self, state: impl Fn(State) -> bool) -> Vec<ObjectId> {
        self.objects.iter().filter(|(_, o)| state(o.state)).map(|(id, _)| *id).collect()
    }

    fn evictable(&self, chunk: u8) -> bool {
        let mut resident =
            self.objects.values().filter(|o| o.chunk == chunk && o.state == State::Resident).peekable();
        resident.peek().is_some() && resident.all(|o| o.pins == 0)
    }

    /// Brings the order up to date: what has become evictable is the warmest.
    fn reorder(&mut self) {
        self.objects.retain(|_, o| o.state != State::Unlinked || o.pins > 0);
        let order = std::mem::take(&mut self.order);
        self.order = order.into_iter().filter(|c| self.evictable(*c)).collect();
        let new = (0..CHUNKS).filter(|c| self.evictable(*c) && !self.order.contains(c));
        self.order.extend(new.collect::<Vec<u8>>());
    }

    fn drop_chunk(&mut self, chunk: u8) {
        self.objects.retain(|_, o| o.chunk != chunk || o.state != State::Resident);
        self.reorder();
    }

    /// Whether a run of free pages is long enough, were `gone` evicted.
    fn fits(&self, pages: u64, gone: &[u8]) -> bool {
        let mut busy = vec![false; PAGES as usize];
        for o in self.objects.values().filter(|o| o.state != State::Resident || !gone.contains(&o.chunk)) {
            busy[(o.offset / PAGE) as usize..][..o.pages as usize].fill(true);
        }
        busy.split(|b| *b).any(|run| run.len() as u64 >= pages)
    }

    fn reserve(&mut self, (chunk, c): (u8, u32), bytes: u64, temporary: bool, protect: Option<u8>) {
        self.l1.edit().begin_operation();
        if let Some(id) = protect.and_then(|p| self.l1.chunk(&self.name, &self.name, &hash(p))) {
            self.l1.edit().protect(id);
        }
        if let Some(p) = protect {
            self.touch(p);
        }
        let keep = if temporary { Retention::Temporary } else { Retention::Permanent };
        let got = self.l1.edit().reserve(
            (&self.name, &self.name, &hash(chunk)),
            cell(c, bytes),
            &layout(bytes),
            keep,
        );
        let same = |o: &&Object| o.chunk == chunk && o.cell == c && o.bytes == bytes;
        let known = self.objects.values().filter(same).find(|o| o.state != State::Unlinked);
        let pages = bytes.div_ceil(PAGE);
        match known.map(|o| o.state) {
            Some(State::Resident) => assert_eq!(got, Err(Refused::Resident)),
            Some(_) => assert_eq!(got, Err(Refused::Staged)),
            None => self.judge(got, chunk, pages, protect),
        }
        if let Ok(id) = got {
            let offset = self.l1.offset(id);
            let object =
                Object { chunk, cell: c, bytes, offset, pages, state: State::Staged, temporary, pins: 1 };
            let overlaps =
                |o: &Object| offset < o.offset + o.pages * PAGE && o.offset < offset + pages * PAGE;
            assert!(!self.objects.values().any(overlaps), "memory handed out twice");
            self.objects.insert(id, object);
        }
    }

    /// What was evicted is as cold as can be, no more than needed, and nothing if it did not help.
    fn judge(&mut self, got: Result<ObjectId, Refused>, chunk: u8, pages: u64, protect: Option<u8>) {
        let candidates: Vec<u8> =
            self.order.iter().copied().filter(|c| *c != chunk && Some(*c) != protect).collect();
        let needed = (0..=candidates.len()).find(|n| self.fits(pages, &candidates[..*n]));
        let there = |c: &u8| {
            let id = self.l1.chunk(&self.name, &self.name, &hash(*c));
            let mut objects = self.objects.values().filter(|o| o.chunk == *c);
            id.is_some_and(|id| objects.any(|o| self.l1.resident(id, cell(o.cell, o.bytes)).is_some()))
        };
        let evicted: Vec<u8> = self.order.iter().copied().filter(|c| !there(c)).collect();
        assert_eq!(got.is_ok(), needed.is_some(), "memory is allocated exactly if it can be");
        match needed {
            None | Some(0) => assert_eq!(evicted, [], "nothing had to go"),
            Some(n) => {
                assert!(
                    evicted.iter().all(|c| candidates[..n].contains(c)),
                    "{evicted:?} of {candidates:?}, {n}"
                );
                assert!(evicted.contains(&candidates[n - 1]), "it was needed");
                let spared = |c: &u8| evicted.iter().copied().filter(|x| x != c).collect::<Vec<u8>>();
                let idle = evicted.iter().find(|c| self.fits(pages, &spared(c)));
                assert_eq!(idle, None, "went for nothing");
            }
        }
        evicted.into_iter().for_each(|c| self.drop_chunk(c));
    }

    fn touch(&mut self, chunk: u8) {
        if let Some(at) = self.order.iter().position(|c| *c == chunk) {
            self.order.remove(at);
            self.order.push(chunk);
        }
    }

    fn unpin(&mut self, id: ObjectId, pins: u32) {
        self.l1.edit().unpin(id, pins);
        let object = self.objects.get_mut(&id).expect("known");
        object.pins -= pins;
        if object.pins == 0 && object.temporary && object.state == State::Resident {
            object.state = State::Unlinked;
        }
    }

    fn unlink(&mut self, id: ObjectId) {
        self.objects.get_mut(&id).expect("known").state = State::Unlinked;
    }

    fn apply(&mut self, op: &Op) {
        let pick = |ids: &[ObjectId], which: usize| (!ids.is_empty()).then(|| ids[which % ids.len()]);
        let staged = self.ids(|s| s == State::Staged);
        let resident = self.ids(|s| s == State::Resident);
        let all = self.ids(|_| true);
        match *op {
            Op::Reserve { chunk, cell, bytes, temporary, protect } => {
                self.reserve((chunk, cell), bytes, temporary, protect);
            }
            Op::Admit { which, pins } => {
                if let Some(id) = pick(&staged, which) {
                    let object = self.objects.get_mut(&id).expect("known");
                    let kept = pins > 0 || !object.temporary;
                    object.pins = pins;
                    object.state = if kept { State::Resident } else { State::Unlinked };
                    assert_eq!(self.l1.edit().admit(id, pins), kept);
                }
            }
            Op::Abort(which) => {
                if let Some(id) = pick(&staged, which) {
                    self.l1.edit().abort(id);
                    self.objects.remove(&id);
                }
            }
            Op::Unlink(which) => {
                if let Some(id) = pick(&all, which) {
                    self.l1.edit().unlink(id);
                    self.unlink(id);
                }
            }
            Op::Pin { which, pins } => {
                if let Some(id) = pick(&resident, which) {
                    self.l1.edit().pin(id, pins);
                    self.objects.get_mut(&id).expect("known").pins += pins;
                }
            }
            Op::Unpin { which, pins } => {
                let held: Vec<ObjectId> = self.ids(|s| s != State::Staged);
                if let Some(id) = pick(&held, which).filter(|id| self.objects[id].pins > 0) {
                    self.unpin(id, pins.min(self.objects[&id].pins));
                }
            }
            Op::Promote(which) => {
                if let Some(id) = pick(&all, which) {
                    self.l1.edit().promote(id);
                    self.objects.get_mut(&id).expect("known").temporary = false;
                }
            }
            Op::Touch(chunk) => {
                if let Some(id) = self.l1.chunk(&self.name, &self.name, &hash(chunk)) {
                    self.l1.edit().touch(id);
                    self.touch(chunk);
                }
            }
            Op::Clear(force) => self.clear(force),
            Op::Trim(bytes) => self.trim(bytes),
        }
        self.reorder();
    }

    fn clear(&mut self, force: bool) {
        let goes = |o: &Object| match o.state {
            State::Resident => force || self.evictable(o.chunk),
            State::Staged => force,
            State::Unlinked => false,
        };
        let gone: Vec<ObjectId> = self.objects.iter().filter(|(_, o)| goes(o)).map(|(id, _)| *id).collect();
        assert_eq!(self.l1.edit().clear(force), gone.len() as u64);
        gone.into_iter().for_each(|id| self.unlink(id));
    }

    fn trim(&mut self, bytes: u64) {
        self.l1.edit().begin_operation();
        let chunks = self.l1.edit().trim(bytes, u64::MAX);
        for _ in 0..chunks {
            assert!(self.used() > bytes, "trimmed too much");
            self.drop_chunk(self.order[0]);
        }
        assert!(self.used() <= bytes || self.order.is_empty(), "trimmed too little");
    }

    fn used(&self) -> u64 {
        self.objects.values().map(|o| o.pages * PAGE).sum()
    }

    fn check(&self) {
        self.l1.check();
        let usage = self.l1.usage();
        assert_eq!(usage.used_bytes, self.used());
        let count = |state| self.objects.values().filter(|o| o.state == state).count() as u64;
        assert_eq!(usage.staged_objects, count(State::Staged));
        assert_eq!(usage.resident_objects, count(State::Resident));
        assert_eq!(usage.unlinked_objects, count(State::Unlinked));
        for (id, o) in &self.objects {
            let chunk = self.l1.chunk(&self.name, &self.name, &hash(o.chunk));
            let found = chunk.and_then(|c| self.l1.resident(c, cell(o.cell, o.bytes)));
            if o.state == State::Resident {
                assert_eq!(found, Some(*id), "{o:?}");
                assert_eq!(self.l1.offset(*id), o.offset);
            } else {
                assert_ne!(found, Some(*id), "{o:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_tier_agrees_with_a_naive_one(ops in prop::collection::vec(op(), 1..120)) {
        let mut both = Both::new();
        for op in &ops {
            both.apply(op);
            both.check();
        }
        // All pins are released: nothing may be lost.
        for id in both.ids(|s| s == State::Staged) {
            both.l1.edit().abort(id);
            both.objects.remove(&id);
        }
        for (id, object) in both.objects.clone() {
            if object.pins > 0 {
                both.unpin(id, object.pins);
            }
        }
        both.reorder();
        both.check();
        both.l1.edit().clear(true);
        prop_assert_eq!(both.l1.usage().used_bytes, 0);
        prop_assert_eq!(both.l1.usage().chunks, 0);
    }
}
