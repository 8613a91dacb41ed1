//! Everything at once, drawn from a seed: adapters that answer in any order, fail, hang and die;
//! requests that overlap and go away; stores, clears, time. After every step all sums agree, bytes
//! read are the right ones, memory under I/O has no other user, every lookup has one answer, and in
//! the end nothing is left.

use larder_policy::prefetch::plan::Fetch;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use larder_core::CoreConfig;
use larder_core::LookupStatus;
use larder_policy::eviction::EvictionKind;
use larder_policy::prefetch::{LoadCandidates, PrefetchPolicy};
use larder_policy::{OffloadKind, PrefetchKind};

use crate::driver::Todo;
use crate::rig::{Chain, PAGE, Rig, config, prompt};

/// Small and repeatable (xorshift64*).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

/// Keeps every other key.
#[derive(Debug)]
struct Half;

impl PrefetchPolicy for Half {
    fn retain(&self, arrival: &LoadCandidates<'_>) -> Vec<bool> {
        arrival.columns.iter().map(|c| c % 2 == 0).collect()
    }
}

struct World {
    rig: Rig,
    rng: Rng,
    windows: Vec<Option<u32>>,
    prompts: u8,
    chunks: u16,
    /// What adapters have been asked to do and may never do.
    hung: Vec<Todo>,
    /// Live requests.
    requests: HashMap<u32, Chain>,
    next_request: u32,
    /// Lookups without an answer, by request.
    open: HashMap<String, u32>,
    seen: usize,
    /// Hits that were read at once, as promised.
    promises: u64,
    /// Stores under way: request, prompt, range.
    stores: Vec<(String, Chain, u32, u32)>,
    /// Faults may happen.
    faults: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let adapters = rng.pick(&[1, 1, 2, 3]);
        let pages = 2 + rng.below(40);
        let mut config = CoreConfig {
            eviction: rng.pick(&[EvictionKind::Lru, EvictionKind::Adaptive, EvictionKind::Noop]),
            prefetch_policy: rng.pick(PrefetchKind::ALL),
            store_policy: rng.pick(OffloadKind::ALL),
            prefetch_jobs_max: rng.pick(&[1, 2, 8]),
            prefetch_bytes_max: rng.pick(&[PAGE, 4 * PAGE, 1 << 30]),
            write_back_tasks_max: rng.pick(&[1, 3]),
            write_back_objects_max: rng.pick(&[1, 2, 64]),
            write_back_bytes_max: rng.pick(&[PAGE, 5 * PAGE, 1 << 30]),
            write_back_queue_max: rng.pick(&[3, 1000]),
            write_back_retries: rng.pick(&[0, 2]),
            ..config(pages, adapters)
        };
        for adapter in &mut config.adapters {
            adapter.readable = !rng.one_in(4);
        }
        let mut rig = Rig::with(config);
        rig.driver.apart = true;
        if rng.one_in(3) {
            rig.core.set_prefetch_policy(Box::new(Half));
        }
        let windows =
            rng.pick(&[vec![None], vec![Some(3)], vec![None, Some(2)], vec![None, None], vec![None]]);
        rig.reregister(&windows);
        let chunks = rng.pick(&[4, 8, 80]);
        let faults = !rng.one_in(4);
        let mut world = Self {
            rig,
            rng,
            windows,
            prompts: 3,
            chunks,
            hung: Vec::new(),
            requests: HashMap::new(),
            next_request: 0,
            open: HashMap::new(),
            seen: 0,
            promises: 0,
            stores: Vec::new(),
            faults,
        };
        world.fill(adapters);
        world
    }

    /// Gives the adapters something to begin with.
    fn fill(&mut self, adapters: usize) {
        for adapter in 0..adapters as u32 {
            for seed in 0..self.prompts {
                let p = prompt(seed, self.chunks);
                let holes = self.rng.pick(&[2, 20, 1000]);
                for group in 0..self.windows.len() as u32 {
                    let held = (0..u32::from(self.chunks)).filter(|_| !self.rng.one_in(holes));
                    let held: Vec<u32> = held.collect();
                    self.rig.put_group(adapter, group, &p, &held);
                }
            }
        }
    }

    fn prompt(&mut self) -> Chain {
        let len = self.rng.below(u64::from(self.chunks) + 1) as u16;
        prompt(self.rng.below(u64::from(self.prompts)) as u8, len)
    }

    fn request(&mut self) -> Option<u32> {
        let mut live: Vec<u32> = self.requests.keys().copied().collect();
        live.sort_unstable();
        (!live.is_empty()).then(|| self.rng.pick(&live))
    }

    fn step(&mut self) {
        match self.rng.below(40) {
            0..=5 => self.lookup(),
            6..=8 => self.store(),
            9..=10 => self.finish_store(),
            11..=13 => self.read(),
            14 => self.free(),
            15..=16 => self.end(),
            17 if self.rng.one_in(4) => self.lose(),
            18 if self.rng.one_in(3) => {
                let force = self.rng.one_in(3);
                self.rig.clear(force);
            }
            19 => {
                let millis = self.rng.pick(&[1, 400, 1000, 5000, 31_000, 310_000]);
                self.rig.wait(millis);
            }
            20 => {
                let (p, fetch) = (self.prompt(), self.rng.pick(&[Fetch::Prefix, Fetch::Full]));
                self.rig.warm(&p, fetch);
            }
            _ => self.adapter_step(),
        }
        self.look_at_answers();
    }

    fn lookup(&mut self) {
        let again = self.rng.one_in(5).then(|| self.request()).flatten();
        let request = again.unwrap_or_else(|| {
            self.next_request += 1;
            self.next_request
        });
        let (p, name) = (self.prompt(), format!("r{request}"));
        let (connection, readers) = (self.rng.below(3), 1 + self.rng.below(2) as u32);
        if self.rig.lookup_from(connection, &name, &p, readers).is_none() {
            *self.open.entry(name).or_default() += 1;
        }
        self.requests.insert(request, p);
    }

    /// Does something that an adapter was asked for, or fails it in one of many ways.
    fn adapter_step(&mut self) {
        if !self.hung.is_empty() && self.rng.one_in(6) {
            let at = self.rng.below(self.hung.len() as u64) as usize;
            let todo = self.hung.swap_remove(at);
            self.rig.driver.todo.push(todo);
        }
        if self.rig.driver.todo.is_empty() {
            return;
        }
        let at = self.rng.below(self.rig.driver.todo.len() as u64) as usize;
        let todo = self.rig.driver.todo.remove(at);
        if self.faults && self.rng.one_in(8) {
            return self.fault(todo);
        }
        self.perform(todo);
    }

    fn perform(&mut self, todo: Todo) {
        let now = self.rig.time();
        self.rig.driver.perform(&mut self.rig.core, now, todo);
    }

    fn fault(&mut self, todo: Todo) {
        let coin = self.rng.below(3);
        match todo {
            Todo::Lookup { lookup, .. } if coin == 0 => {
                self.rig.core.l2_found(self.rig.time(), lookup, &[]);
                self.rig.driver.collect(&mut self.rig.core);
            }
            // The adapter dies: its regions are dropped, it says nothing.
            Todo::Load { item, .. } if coin == 0 => self.perform(Todo::Drop(item.io)),
            Todo::Store { items, .. } if coin == 0 => {
                items.into_iter().for_each(|item| self.perform(Todo::Drop(item.io)));
            }
            Todo::Load { item, .. } if coin == 1 => {
                self.rig.driver.todo.push(Todo::Drop(item.io));
                self.perform(Todo::Loaded { io: item.io, ok: false });
            }
            Todo::Store { items, task, .. } if coin == 1 => {
                let results = items.iter().map(|_| self.rng.one_in(2)).collect();
                self.rig.driver.todo.extend(items.into_iter().map(|item| Todo::Drop(item.io)));
                self.perform(Todo::Stored { task, results });
            }
            Todo::Loaded { .. } | Todo::Stored { .. } if coin == 0 => {}
            // It hangs: for a while, or until the very end.
            todo => self.hung.push(todo),
        }
    }

    fn store(&mut self) {
        let p = self.prompt();
        if p.is_empty() || self.stores.len() > 3 {
            return;
        }
        let start = self.rng.below(p.len() as u64) as u32;
        let end = start + 1 + self.rng.below(p.len() as u64 - u64::from(start)) as u32;
        self.next_request += 1;
        let name = format!("s{}", self.next_request);
        if !self.rig.prepare(&name, &p, start, end).slots.is_empty() {
            self.stores.push((name, p, start, end));
        }
    }

    fn finish_store(&mut self) {
        if self.stores.is_empty() {
            return;
        }
        let at = self.rng.below(self.stores.len() as u64) as usize;
        let (name, p, start, end) = self.stores.swap_remove(at);
        self.rig.commit(&name, &p, start, end);
    }

    fn read(&mut self) {
        let Some(request) = self.request() else { return };
        let p = self.requests[&request].clone();
        let name = format!("r{request}");
        self.rig.result(&name);
        if !p.is_empty() {
            let start = self.rng.below(p.len() as u64) as u32;
            let end = start + 1 + self.rng.below(p.len() as u64 - u64::from(start)) as u32;
            self.rig.read(&name, &p, start, end);
        }
    }

    fn free(&mut self) {
        let Some(request) = self.request() else { return };
        let (start, len) = (self.rng.below(8) as u32, self.rng.below(8) as u32);
        self.rig.free(&format!("r{request}"), start, start + len);
    }

    fn end(&mut self) {
        let Some(request) = self.request() else { return };
        self.requests.remove(&request);
        self.rig.end(&format!("r{request}"));
    }

    fn lose(&mut self) {
        let connection = self.rng.below(3);
        self.rig.lose(connection);
    }

    /// Every pending lookup is answered once, and what it is promised is there.
    fn look_at_answers(&mut self) {
        while self.seen < self.rig.driver.done.len() {
            let report = self.rig.driver.done[self.seen].clone();
            self.seen += 1;
            let name = report.request_id.to_string();
            let open = self.open.get_mut(&name).filter(|n| **n > 0).expect("no answer is awaited");
            *open -= 1;
            let Some(hit) = report.hit else { continue };
            assert!(hit.l1_chunks <= hit.chunks && hit.chunks <= report.requested_chunks);
            let last = self.seen == self.rig.driver.done.len();
            if hit.chunks == 0 || *open > 0 || !last || self.rng.one_in(2) {
                continue;
            }
            let request: u32 = name[1..].parse().expect("a number");
            let Some(p) = self.requests.get(&request).cloned() else { continue };
            let first = self.windows[0].map_or(0, |w| hit.chunks.saturating_sub(w));
            // A read TTL may have passed in the same step.
            if self.rig.result(&name) == LookupStatus::Ready(hit.chunks) {
                self.promises += 1;
                assert!(self.rig.read(&name, &p, first, hit.chunks), "{name} was promised {hit:?}");
            }
        }
    }

    fn finish(&mut self) {
        for (name, p, start, end) in std::mem::take(&mut self.stores) {
            self.rig.commit(&name, &p, start, end);
        }
        let hung = std::mem::take(&mut self.hung);
        self.rig.driver.todo.extend(hung);
        self.rig.settle();
        // What was lost for good ends with its deadline.
        for _ in 0..40 {
            self.rig.wait(31_000);
            self.rig.settle();
        }
        self.look_at_answers();
        assert!(self.open.values().all(|open| *open == 0), "lookups without an answer: {:?}", self.open);
        let mut requests: Vec<u32> = self.requests.keys().copied().collect();
        requests.sort_unstable();
        requests.into_iter().for_each(|request| self.rig.end(&format!("r{request}")));
        (0..3).for_each(|connection| self.rig.lose(connection));
        self.rig.wait(4_000_000);
        self.rig.settle();
        self.rig.assert_idle();
    }
}

/// How often each thing worth seeing was seen.
type Facts = BTreeMap<&'static str, u64>;

fn run(seed: u64, facts: &mut Facts) {
    let mut world = World::new(seed);
    let steps = 100 + world.rng.below(300);
    (0..steps).for_each(|_| world.step());
    world.finish();
    let (counters, l2) = (world.rig.core.stats().requests(), &world.rig.core.stats().requests().l2);
    let mut seen = vec![
        ("jobs", l2.jobs),
        ("jobs cancelled", l2.jobs_cancelled),
        ("jobs overdue", l2.jobs_overdue),
        ("chunks from L2", l2.hit_chunks),
        ("objects from L2", l2.hit_objects),
        ("objects of hits", counters.lookup_hit_objects - l2.hit_objects),
        ("loads shared", l2.loads_shared),
        ("no room", l2.no_room_objects),
        ("contended", l2.contended_objects),
        ("missing", l2.missing_objects),
        ("late", l2.late_objects),
        ("promoted", l2.promoted_objects),
        ("left L1", l2.left_l1_objects),
        ("retrieved", counters.retrieved_objects),
        ("promises read", world.promises),
        ("evicted", world.rig.core.stats().l1().evicted_objects),
    ];
    for (id, _) in world.rig.core.adapters() {
        let a = world.rig.core.stats().adapter(id);
        seen.extend([
            ("loaded", a.loaded_objects),
            ("load failed", a.load_failed_objects),
            ("stored", a.stored_objects),
            ("store retried", a.store_retried_objects),
            ("store failed", a.store_failed_objects),
            ("store dropped", a.store_dropped_objects),
            ("store gone", a.store_gone_objects),
        ]);
    }
    assert_eq!(l2.policy_faults, 0);
    seen.into_iter().for_each(|(fact, n)| *facts.entry(fact).or_default() += n);
}

#[test]
fn random_runs_leave_nothing_and_answer_every_lookup() {
    let seeds = std::env::var("LARDER_L2_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let mut facts = Facts::new();
    for seed in 0..seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed, &mut facts))) {
            println!("seed {seed} failed");
            resume_unwind(panic);
        }
    }
    println!("{facts:#?}");
    assert!(facts.values().all(|n| *n > 20), "what is never seen is not tested: {facts:?}");
}
