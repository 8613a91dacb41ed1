//! What a seed draws before the run: sizes, limits, engines and faults.
//!
//! Swarm testing: each fault is switched off in many seeds and frequent in some, which gives
//! combinations of faults that a single average rate would hardly ever give.

mod l2;

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_core::Trim;
use larder_policy::eviction::EvictionKind;
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank};
use larder_types::{Layout, LayoutId};

pub use self::l2::{AdapterSpec, L2};
use crate::model::{ChunkKey, Key};
use crate::rng::Rng;

/// Milliseconds of simulated time.
pub type Millis = u64;

/// A fault, or an unusual event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A worker process dies; another one replaces it.
    WorkerCrash,
    /// A worker's connection breaks; the worker opens another one.
    WorkerFlap,
    /// A scheduler's connection breaks.
    SchedulerLoss,
    /// A worker makes no calls for a long time.
    Silence,
    /// A worker unregisters while it has transfers, and registers again later.
    Unregister,
    /// A commit of an unknown transfer, or a second commit of one.
    StrayCommit,
    /// A release of pins that are not held.
    OverRelease,
    /// All objects that are not in use are cleared.
    Clear,
    /// All objects are cleared.
    ForcedClear,
    /// The machine has no memory for the end of the arena.
    CutMemory,
    /// A peer looks up objects, queries the result, unlocks them or disconnects.
    Peer,
    /// Several requests for one prompt at once.
    Twins,
    /// Calls of an instance that is not registered.
    Stranger,
    /// A prefetch request, or a query of its status.
    Warm,
    /// The quota of a salt or the default limit is changed.
    Quota,
    /// The operator changes the policies for L2.
    Policy,
    /// An adapter restarts: its I/O ends, and some of its answers are lost.
    AdapterRestart,
    /// An adapter loses all or some of its objects.
    AdapterLoss,
    /// The server dies and restarts with an empty L1.
    ServerCrash,
}

impl Fault {
    const ALL: [Self; 19] = [
        Self::WorkerCrash,
        Self::WorkerFlap,
        Self::SchedulerLoss,
        Self::Silence,
        Self::Unregister,
        Self::StrayCommit,
        Self::OverRelease,
        Self::Clear,
        Self::ForcedClear,
        Self::CutMemory,
        Self::Peer,
        Self::Twins,
        Self::Stranger,
        Self::Warm,
        Self::Quota,
        Self::Policy,
        Self::AdapterRestart,
        Self::AdapterLoss,
        Self::ServerCrash,
    ];
}

/// A node of the prompt tree: a chunk with its prefix.
#[derive(Clone, Debug)]
pub struct Node {
    /// Nodes from the root to this one.
    pub path: Arc<[u16]>,
    /// Hashes of the chunks on the path.
    pub chain: Arc<[ChunkHash]>,
}

/// Names of models and salts, and the tree of all prompts.
#[derive(Clone, Debug)]
pub struct Universe {
    /// Model names.
    pub models: Vec<Arc<str>>,
    /// Cache salts.
    pub salts: Vec<Arc<str>>,
    /// Nodes of the prompt tree.
    pub nodes: Vec<Node>,
    /// The layouts of all engines.
    pub layouts: Vec<(Form, Layout)>,
}

/// A layout of an engine's objects. Both element types take one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Form {
    /// Bytes of an object; 0 if the layout is not known.
    pub bytes: u64,
    /// Its elements are `int8`, not `uint8`.
    pub signed: bool,
}

impl Form {
    fn layout(self) -> Layout {
        let dtype = if self.signed { DType::Int8 } else { DType::UInt8 };
        Layout::new(&[self.bytes], dtype).expect("objects are not empty")
    }
}

impl Universe {
    /// A layout; `None` if it is not known.
    pub fn layout(&self, form: Form) -> Option<&Layout> {
        self.layouts.iter().find(|(known, _)| *known == form).map(|(_, layout)| layout)
    }

    /// The layout with that id.
    pub fn form(&self, id: LayoutId) -> Form {
        let found = self.layouts.iter().find(|(_, layout)| layout.id() == id);
        found.map(|(form, _)| *form).unwrap_or_default()
    }

    /// The hash of a chunk.
    pub fn hash(&self, node: u16) -> &ChunkHash {
        self.nodes[usize::from(node)].chain.last().expect("a path has at least its own node")
    }

    /// Whether `later` continues a prompt that contains `earlier`.
    pub fn continues(&self, later: u16, earlier: u16) -> bool {
        later != earlier && self.nodes[usize::from(later)].path.contains(&earlier)
    }
}

/// One engine: a scheduler and its workers.
#[derive(Clone, Debug)]
pub struct EngineSpec {
    /// Index of its model.
    pub model: u8,
    /// Number of ranks: a chunk has one object for each.
    pub world: u32,
    /// Workers that read each object: more than one with MLA, else 1.
    pub readers: u32,
    /// Its groups of layers, at least one.
    pub groups: Vec<GroupSpec>,
}

/// Layers that are stored together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// The layout of their objects.
    pub form: Form,
    /// Attention window in chunks.
    pub window: Option<u32>,
}

impl EngineSpec {
    /// The keys of all objects of a chunk: rank by rank.
    pub fn keys(&self, chunk: ChunkKey) -> impl Iterator<Item = Key> + '_ {
        (0..self.world).flat_map(move |rank| {
            let rank = KvRank::new(self.world, rank);
            (0..).zip(&self.groups).map(move |(group, spec)| Key { chunk, rank, group, form: spec.form })
        })
    }

    /// The first chunk of a prefix of `hit` chunks that any group needs.
    pub fn first_needed(&self, hit: u32) -> u32 {
        let first = |group: &GroupSpec| group.window.map_or(0, |w| hit.saturating_sub(w));
        self.groups.iter().map(first).min().unwrap_or(0)
    }
}

/// Everything that a seed draws before the run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Names and prompts.
    pub universe: Universe,
    /// The engines.
    pub engines: Vec<EngineSpec>,
    /// Bytes of a page: the arena's alignment.
    pub page: u64,
    /// Size of the arena in bytes, not always whole pages.
    pub capacity: u64,
    /// Eviction policy.
    pub eviction: EvictionKind,
    /// Background eviction above a fill level.
    pub trim: Option<Trim>,
    /// Lifetime of lookup leases, peer leases and retrieves.
    pub read_ttl: Millis,
    /// Lifetime of stores.
    pub write_ttl: Millis,
    /// Lifetime of sessions.
    pub session_ttl: Millis,
    /// Time without a call after which a worker is dropped; `None`: never.
    pub reap: Option<Millis>,
    /// The same for workers that have not pinged yet.
    pub grace: Millis,
    /// Time without a connection after which a worker is dropped; `None`: never.
    pub disconnect_grace: Option<Millis>,
    /// How long the memory of an expired store is kept, unless its process is known to be gone.
    pub quarantine: Millis,
    /// Whether the core is woken at its deadlines.
    pub driven: bool,
    /// Typical time between two steps of a client.
    pub pace: Millis,
    /// Per cent of copy steps that stall.
    pub stalls: u64,
    /// Per cent of requests that reuse the id of an earlier one.
    pub reused_ids: u64,
    /// Per cent of stores that are aborted.
    pub aborts: u64,
    /// Faults of this run; a frequent one is listed several times.
    pub faults: Vec<Fault>,
    /// Mean time between faults.
    pub fault_pace: Millis,
    /// Number of calls after which the clients stop.
    pub calls: u64,
    /// The second tier.
    pub l2: L2,
}

impl Scenario {
    /// Draws a scenario.
    pub fn draw(rng: &mut Rng) -> Self {
        let page = rng.pick(&[16, 64, 4096]);
        let engines = draw_engines(rng, page);
        let pace = rng.pick(&[2, 10, 30]);
        let models = engines.iter().map(|e| e.model).max().unwrap_or(0) + 1;
        let universe = Universe {
            models: (0..models).map(|m| format!("model-{m}").into()).collect(),
            salts: (0..rng.pick(&[1, 1, 2]))
                .map(|s| if s == 0 { "".into() } else { "salt".into() })
                .collect(),
            nodes: draw_prompts(rng),
            layouts: {
                let forms: BTreeSet<Form> = engines.iter().flat_map(|e| &e.groups).map(|g| g.form).collect();
                forms.into_iter().map(|form| (form, form.layout())).collect()
            },
        };
        let trim = rng.chance(25).then(|| draw_trim(rng));
        let l2 = L2::draw(rng, pace);
        let pages = |e: &EngineSpec| e.groups.iter().map(|g| g.form.bytes.div_ceil(page)).sum::<u64>();
        let largest = engines.iter().map(pages).max().unwrap_or(1);
        let sizes: &[u64] =
            if l2.adapters.is_empty() { &[1, 3, 6, 10, 20, 40] } else { &[3, 6, 10, 20, 40, 60] };
        let pages = largest * rng.pick(sizes) + rng.below(largest + 1);
        let scale = |rng: &mut Rng, choices: &[u64]| pace * rng.pick(choices);
        Self {
            universe,
            engines,
            page,
            capacity: pages * page + rng.below(page),
            eviction: draw_eviction(rng),
            trim,
            read_ttl: scale(rng, &[3, 20, 100, 1000]),
            write_ttl: scale(rng, &[3, 20, 100, 1000]),
            session_ttl: scale(rng, &[5, 50, 1000]),
            reap: rng.chance(70).then(|| scale(rng, &[10, 60, 300])),
            grace: scale(rng, &[20, 200]),
            disconnect_grace: rng.chance(50).then(|| scale(rng, &[5, 30, 200])),
            quarantine: scale(rng, &[1, 5, 20]),
            driven: rng.chance(60),
            pace,
            stalls: rng.pick(&[0, 0, 5, 30]),
            reused_ids: rng.pick(&[0, 0, 10, 40]),
            aborts: rng.pick(&[0, 0, 10]),
            faults: draw_faults(rng),
            fault_pace: pace * rng.pick(&[2, 8, 30]),
            calls: rng.pick(&[60, 120, 120, 200, 400]),
            l2,
        }
    }

    /// A copy without the prompts, to print.
    pub fn without_universe(&self) -> Self {
        let universe = Universe { nodes: Vec::new(), ..self.universe.clone() };
        Self { universe, ..self.clone() }
    }

    /// Whether the core is woken exactly at each of its deadlines: with L2, because jobs must be answered by
    /// theirs.
    pub fn stepped(&self) -> bool {
        !self.l2.adapters.is_empty()
    }

    /// Whether all chunks have one object for each rank, and all objects take the same number of pages.
    pub fn uniform(&self) -> bool {
        let groups = || self.engines.iter().flat_map(|e| &e.groups);
        let mut pages = groups().map(|g| g.form.bytes.div_ceil(self.page));
        let first = pages.next();
        groups().count() == self.engines.len() && pages.all(|p| Some(p) == first)
    }
}

/// LRU and isolated LRU are drawn most often: their exact eviction order can be checked.
fn draw_eviction(rng: &mut Rng) -> EvictionKind {
    match rng.below(10) {
        0..5 => EvictionKind::Lru,
        5..7 => EvictionKind::IsolatedLru,
        _ => rng.pick(EvictionKind::ALL),
    }
}

fn draw_trim(rng: &mut Rng) -> Trim {
    Trim { above: rng.pick(&[0.3, 0.5, 0.8]), release: rng.pick(&[0.1, 0.2, 0.9]) }
}

fn draw_faults(rng: &mut Rng) -> Vec<Fault> {
    let mut faults = Vec::new();
    for fault in Fault::ALL {
        let weight = if rng.chance(60) { 0 } else { rng.pick(&[1, 1, 4]) };
        faults.extend(std::iter::repeat_n(fault, weight));
    }
    faults
}

fn draw_engines(rng: &mut Rng, page: u64) -> Vec<EngineSpec> {
    let sizes: Vec<u64> = match rng.below(3) {
        0 => vec![page],
        1 => vec![rng.between(1, page * 4)],
        _ => vec![page, page * 2 - 1, page * 3 + 1, page * 7],
    };
    let worlds: &[(u32, u32)] =
        rng.pick(&[&[(1, 1)], &[(1, 1), (2, 1)], &[(1, 3)], &[(1, 1), (1, 2), (2, 1)]]);
    let count = rng.pick(&[1, 1, 2, 3]);
    let signed = rng.pick(&[0, 0, 50]);
    let hybrid = rng.pick(&[0, 0, 50, 100]);
    let engine = |rng: &mut Rng| {
        let (world, readers) = rng.pick(worlds);
        // Hybrid models have groups of layers with windows of their own, which differ in size too.
        let groups = if rng.chance(hybrid) { rng.between(2, 3) } else { 1 };
        let windowed = if groups > 1 { 60 } else { 15 };
        let group = |rng: &mut Rng| {
            let window = rng.chance(windowed).then(|| rng.between(1, 3) as u32);
            let form = Form { bytes: rng.pick(&sizes), signed: rng.chance(signed) };
            GroupSpec { form, window }
        };
        let groups = (0..groups).map(|_| group(rng)).collect();
        EngineSpec { model: rng.below(2) as u8, world, readers, groups }
    };
    (0..count).map(|_| engine(rng)).collect()
}

fn draw_prompts(rng: &mut Rng) -> Vec<Node> {
    // Some prompts are so long that one lookup needs three requests to an adapter.
    let long = rng.chance(6);
    let count = if long { 110 } else { rng.pick(&[3, 10, 25, 50]) };
    let straight = if long { 99 } else { rng.pick(&[50, 80, 95]) };
    let longest = if long { 110 } else { 12 };
    let mut nodes: Vec<Node> = Vec::with_capacity(count);
    for i in 0..count as u16 {
        let parent = match i {
            0 => None,
            _ if rng.chance(straight) => Some(usize::from(i) - 1),
            _ if rng.chance(30) => None,
            _ => Some(rng.index(usize::from(i))),
        };
        let parent = parent.map(|p| &nodes[p]).filter(|p| p.path.len() < longest);
        let before = parent.map_or((&[][..], &[][..]), |p| (&p.path, &p.chain));
        let hash = ChunkHash::new(&[1, (i >> 8) as u8, i as u8]).expect("three bytes");
        let path = before.0.iter().copied().chain([i]).collect();
        let chain = before.1.iter().copied().chain([hash]).collect();
        nodes.push(Node { path, chain });
    }
    nodes
}
