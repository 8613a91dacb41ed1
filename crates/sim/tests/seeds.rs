//! Many seeds, every time; the seeds that once failed; and that a seed is a run.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Seeds of every test run.
const SEEDS: u64 = 20_000;

/// Seeds that found a bug when they were run first, in the core or in the harness. What they draw
/// changes with the harness, so each bug also has a test of its own in `larder-core`.
const KEPT: &[u64] = &[
    4,         // trimming under noop
    9,         // a hit told to another prompt under the same id
    250,       // a refused store of one rank warmed the prompt from its head on
    908,       // time must not run backwards
    1_785_329, // an object that nobody could read made way for a load, the rest of its chunk stayed
    1_744_358, // of windows that overlap, the model tried others than the core
    1_269_857, // found with the shape of another engine of the model
    1_161_658, // memory taken in a second round of a lookup, from what it had let go
    1_136_329, // L1 trimmed after a lookup that had just found its chunk there
    56_889,    // two requests of a lost connection, one of which held only the end of a prompt
    38_291,    // loaded in pieces of an object that was there only for the later ones
    1_067_636, // left L1 for an adapter that had it in another size
];

#[test]
fn seeds_pass_and_see_everything() {
    let (next, facts) = (AtomicU64::new(0), Mutex::new(BTreeMap::<&str, u64>::new()));
    let worker = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return;
            }
            let report = larder_sim::run(seed).unwrap_or_else(|failure| panic!("{failure}"));
            let mut facts = facts.lock().expect("no failure yet");
            report.facts().iter().for_each(|(name, n)| *facts.entry(name).or_default() += n);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(worker))));
    let facts = facts.into_inner().expect("no failure");
    let unseen: Vec<_> = facts.iter().filter(|(_, n)| **n < SEEDS / 100).collect();
    assert!(unseen.is_empty(), "hardly tested: {unseen:?}");
}

#[test]
fn kept_seeds_pass() {
    for seed in KEPT {
        if let Err(failure) = larder_sim::run(*seed) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_seed_is_a_run() {
    let mut traces = Vec::new();
    for seed in 0..100 {
        let first = larder_sim::run(seed).expect("passes");
        let again = thread::spawn(move || larder_sim::run(seed)).join().expect("no panic").expect("passes");
        assert_eq!((first.trace, first.steps), (again.trace, again.steps), "seed {seed}");
        traces.push(first.trace);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 100, "different seeds do different things");
}
