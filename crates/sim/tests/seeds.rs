//! Runs many seeds, runs the seeds that once failed, and checks that the same seed gives the same run.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Number of seeds of a test run.
const SEEDS: u64 = 20_000;

/// Seeds that found a bug in the core or in the harness. What they draw changes with the harness,
/// so each bug also has its own test in `larder-core`.
const KEPT: &[u64] = &[
    4,         // trimming with the noop policy
    9,         // the hit of another prompt was returned for a reused request id
    250,       // a refused store of one rank marked the whole prompt as used
    908,       // time went backwards
    1_785_329, // an unreadable object was replaced by a load, the rest of its chunk stayed
    1_744_358, // the model tried other overlapping windows than the core
    1_269_857, // found with the object size of another engine of the model
    1_161_658, // a second batch of a lookup reused memory that the lookup had released
    1_136_329, // L1 was trimmed after a lookup had found its chunk there
    56_889,    // two requests of a lost connection, one with pins on the end of a prompt only
    38_291,    // an object was loaded in steps, and existed only during the later ones
    1_067_636, // removed from L1 although the adapter had it in another size
    1_013_455, // a commit filled a queue of L2, and an older object left L1 before trimming
];

#[test]
fn seeds_pass_and_cover_every_fact() {
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
    assert!(unseen.is_empty(), "covered too rarely: {unseen:?}");
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
fn same_seed_gives_same_run() {
    let mut traces = Vec::new();
    for seed in 0..100 {
        let first = larder_sim::run(seed).expect("passes");
        let again = thread::spawn(move || larder_sim::run(seed)).join().expect("no panic").expect("passes");
        assert_eq!((first.trace, first.steps), (again.trace, again.steps), "seed {seed}");
        traces.push(first.trace);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 100, "different seeds give different runs");
}
