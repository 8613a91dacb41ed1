//! Deterministic simulation of the storage core.
//!
//! A seed draws a [scenario](scenario::Scenario) and then every choice in it. Simulated engines
//! make the calls of the protocol over simulated time: lookup, query, free, retrieve, store and end.
//! They also crash, stall, fall silent, reconnect, repeat calls and release pins that they do not
//! hold. Each call of the real [`Core`](larder_core::Core) is also made on a simple [`model`], and
//! the answers must agree. After each call the counts of both are compared ([`world`]).
//!
//! The arena's bytes are simulated too. Each page holds a tag of the object it belongs to. Copies
//! write and check their pages in several steps, so that two writers of one page, a read of
//! half-written bytes and memory that is reused too early are all seen as wrong bytes.
//!
//! ```
//! let report = larder_sim::run(1).expect("no failure");
//! assert_eq!(report.trace, larder_sim::run(1).expect("no failure").trace);
//! ```

pub mod model;
pub mod rng;
pub mod scenario;
pub mod trace;
pub mod world;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use larder_core::stats::{Counters, L1Counters};

use crate::world::{Seen, World};

/// The result of a run without a failure.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Calls and copy steps.
    pub steps: u64,
    /// Hash of all calls, answers and copy steps.
    pub trace: u64,
    /// Counters of the core and of L1, one pair for each server process.
    pub counted: Vec<(Counters, L1Counters)>,
    /// What the harness counted.
    pub seen: Seen,
}

impl Report {
    /// How often each event happened that the simulation must cover.
    pub fn facts(&self) -> [(&'static str, u64); 49] {
        let c = |count: fn(&Counters) -> u64| self.counted.iter().map(|(c, _)| count(c)).sum::<u64>();
        let l1 = |count: fn(&L1Counters) -> u64| self.counted.iter().map(|(_, l1)| count(l1)).sum::<u64>();
        let seen = &self.seen;
        [
            ("chunks found", c(|c| c.lookup_hit_chunks)),
            ("lookups of unknown models", c(|c| c.lookups_unregistered)),
            ("lookups of unknown engines with different layouts", c(|c| c.lookups_ambiguous)),
            ("stores committed", c(|c| c.stores_committed)),
            ("stores abandoned", c(|c| c.stores_abandoned)),
            ("stores refused", seen.stores_refused),
            ("stores prepared with an id in use", seen.stores_equal),
            ("objects left out of stores", seen.chunks_skipped),
            ("stores committed after they expired", seen.commits_late),
            ("retrieves committed", c(|c| c.retrieves_committed)),
            ("retrieves abandoned", c(|c| c.retrieves_abandoned)),
            ("retrieves failed", c(|c| c.retrieves_failed)),
            ("leases expired", c(|c| c.leases_expired)),
            ("sessions expired", c(|c| c.sessions_expired)),
            ("workers reaped", c(|c| c.workers_reaped)),
            ("chunks evicted", l1(|l1| l1.evicted_chunks)),
            (
                "chunks of several objects evicted",
                l1(|l1| l1.evicted_objects.saturating_sub(l1.evicted_chunks)),
            ),
            ("chunks evicted with their order checked", seen.evictions_judged),
            ("chunks evicted for a quota", seen.evicted_for_quotas),
            ("objects cleared", l1(|l1| l1.cleared_objects)),
            ("pages read", seen.pages_read),
            ("pages written", seen.pages_written),
            ("pages written by expired or abandoned stores", seen.orphan_pages_written),
            ("pages read by expired or abandoned retrieves", seen.orphan_pages_read),
            ("copies stopped at their time limit", seen.copies_cut),
            ("prefetch jobs", c(|c| c.l2.jobs)),
            ("prefetch jobs cancelled", c(|c| c.l2.jobs_cancelled)),
            ("prefetch jobs answered at their deadline", c(|c| c.l2.jobs_overdue)),
            ("queries answered as pending", seen.queries_pending),
            ("chunks that L2 added to hits", c(|c| c.l2.hit_chunks)),
            ("objects reserved for loads", seen.loads_reserved),
            ("loads shared", c(|c| c.l2.loads_shared)),
            ("objects not loaded for lack of memory", c(|c| c.l2.no_room_objects)),
            ("objects not loaded because a worker stores them", c(|c| c.l2.contended_objects)),
            ("objects not loaded because the load failed", c(|c| c.l2.missing_objects)),
            ("objects not loaded by the deadline", c(|c| c.l2.late_objects)),
            ("objects promoted", c(|c| c.l2.promoted_objects)),
            ("objects removed from L1 because L2 has them", c(|c| c.l2.left_l1_objects)),
            ("objects loaded by prefetch requests", seen.warm_objects),
            ("pages loaded from L2", seen.pages_loaded),
            ("pages stored to L2", seen.pages_stored),
            ("adapter steps that hung", seen.hung),
            ("stores to L2 retried", seen.stores_retried),
            ("stores to L2 failed after the last attempt", seen.stores_failed),
            ("stores to L2 dropped from a full queue", seen.stores_dropped),
            ("stores to L2 of objects that were removed", seen.stores_gone),
            ("lookups with the exact hit checked at the end", seen.lookups_audited),
            ("reuse predictions that exclude some chunks", seen.learned_otherwise),
            ("server crashes", seen.server_crashes),
        ]
    }
}

/// A failed run.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The step that failed.
    pub step: u64,
    /// The message of the failed assertion.
    pub message: String,
    /// The scenario that the seed drew, formatted.
    pub scenario: String,
    /// The last steps, one string each.
    pub events: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.scenario)?;
        self.events.iter().try_for_each(|event| writeln!(f, "{event}"))?;
        writeln!(f, "seed {} fails at step {}: {}", self.seed, self.step, self.message)?;
        writeln!(f, "replay: cargo run -p larder-sim -- run --seeds {}..{}", self.seed, self.seed + 1)
    }
}

impl std::error::Error for Failure {}

/// Runs one seed.
///
/// # Errors
/// The failed assertion, with the scenario and the last steps.
pub fn run(seed: u64) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let (trace, steps) = (world.trace.hash(), world.trace.steps());
    match outcome {
        Ok(()) => Ok(Report { seed, steps, trace, counted: world.counted(), seen: world.seen() }),
        Err(panic) => {
            let scenario = world.scenario();
            let universe = &scenario.universe;
            let paths: Vec<_> = universe.nodes.iter().map(|n| &n.path).collect();
            let scenario = format!("{:?}\nprompts {paths:?}", scenario.without_universe());
            let events = world.trace.tail();
            Err(Box::new(Failure { seed, step: steps, message: message(panic.as_ref()), scenario, events }))
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
}
