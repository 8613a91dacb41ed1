//! Deterministic simulation of the storage core.
//!
//! A seed draws a [scenario](scenario::Scenario) and then every choice in it. Simulated engines
//! follow the real protocol over simulated time: they look up, query, free, copy out, copy in, end;
//! and they crash, stall, fall silent, flap, repeat themselves and release what is not theirs. Each
//! call of the real [`Core`](larder_core::Core) is also made on a naive [`model`], and the answers
//! must agree. After each call the books of both are compared ([`world`]).
//!
//! The arena's bytes are simulated too. Each page holds a tag that says whose bytes lie there;
//! copies write and check their pages one step at a time, so two writers in one place, a reader of
//! half-written bytes, or memory that is reused too early are seen as what they are: wrong bytes.
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

/// A run that found nothing wrong.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Calls and copy steps.
    pub steps: u64,
    /// Differs from another run's if anything happened differently.
    pub trace: u64,
    /// What the core and its memory tier counted; once more after each death of the server.
    pub counted: Vec<(Counters, L1Counters)>,
    /// What the harness saw.
    pub seen: Seen,
}

impl Report {
    /// How often each thing worth seeing was seen. A harness that never sees one of them does not
    /// test it.
    pub fn facts(&self) -> [(&'static str, u64); 47] {
        let c = |count: fn(&Counters) -> u64| self.counted.iter().map(|(c, _)| count(c)).sum::<u64>();
        let l1 = |count: fn(&L1Counters) -> u64| self.counted.iter().map(|(_, l1)| count(l1)).sum::<u64>();
        let seen = &self.seen;
        [
            ("chunks found", c(|c| c.lookup_hit_chunks)),
            ("lookups of unknown models", c(|c| c.lookups_unregistered)),
            ("stores committed", c(|c| c.stores_committed)),
            ("stores abandoned", c(|c| c.stores_abandoned)),
            ("stores refused", seen.stores_refused),
            ("stores prepared under a name in use", seen.stores_equal),
            ("stores committed too late", seen.commits_late),
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
            ("evictions whose order was judged", seen.evictions_judged),
            ("chunks evicted for a quota", seen.evicted_for_quotas),
            ("objects cleared", l1(|l1| l1.cleared_objects)),
            ("pages read", seen.pages_read),
            ("pages written", seen.pages_written),
            ("pages written by those who are gone", seen.orphan_pages_written),
            ("pages read by those who are gone", seen.orphan_pages_read),
            ("copies cut", seen.copies_cut),
            ("lookups that L2 was asked for", c(|c| c.l2.jobs)),
            ("of them cancelled", c(|c| c.l2.jobs_cancelled)),
            ("of them answered at the deadline", c(|c| c.l2.jobs_overdue)),
            ("queries before there was a result", seen.queries_pending),
            ("chunks of hits that L2 added", c(|c| c.l2.hit_chunks)),
            ("objects reserved to be loaded", seen.loads_reserved),
            ("loads shared", c(|c| c.l2.loads_shared)),
            ("objects not loaded for lack of room", c(|c| c.l2.no_room_objects)),
            ("objects not loaded as others write them", c(|c| c.l2.contended_objects)),
            ("objects not loaded as the load failed", c(|c| c.l2.missing_objects)),
            ("objects not loaded in time", c(|c| c.l2.late_objects)),
            ("objects promoted", c(|c| c.l2.promoted_objects)),
            ("objects that left L1 for L2", c(|c| c.l2.left_l1_objects)),
            ("objects that warm-ups loaded", seen.warm_objects),
            ("pages loaded", seen.pages_loaded),
            ("pages stored", seen.pages_stored),
            ("things that adapters never did", seen.hung),
            ("stores tried again", seen.stores_retried),
            ("stores given up", seen.stores_failed),
            ("stores dropped from a full queue", seen.stores_dropped),
            ("stores of what was gone", seen.stores_gone),
            ("lookups whose hit was known from end to end", seen.lookups_audited),
            ("lookups that taught not to keep all", seen.learned_otherwise),
            ("deaths of the server", seen.server_crashes),
        ]
    }
}

/// A run that found something.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The step at which it was found.
    pub step: u64,
    /// What is wrong.
    pub message: String,
    /// What was drawn.
    pub scenario: String,
    /// The last steps.
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
/// What the core did wrong, with what led to it.
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
