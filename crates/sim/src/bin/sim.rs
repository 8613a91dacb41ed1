//! Runs seeds: `larder-sim run --seeds A..B [--threads N] [--verbose]`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: larder-sim run --seeds A..B [--threads N] [--verbose]";

struct Options {
    seeds: Range<u64>,
    threads: u64,
    verbose: bool,
}

fn options(mut args: impl Iterator<Item = String>) -> Option<Options> {
    if args.next()? != "run" {
        return None;
    }
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let mut options = Options { seeds: 0..0, threads, verbose: false };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seeds" => {
                let seeds = args.next()?;
                let (from, to) = seeds.split_once("..")?;
                options.seeds = from.parse().ok()?..to.parse().ok()?;
            }
            "--threads" => options.threads = args.next()?.parse().ok().filter(|n| *n > 0)?,
            "--verbose" => options.verbose = true,
            _ => return None,
        }
    }
    (!options.seeds.is_empty()).then_some(options)
}

fn main() -> ExitCode {
    let Some(options) = options(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if run(&options) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs the seeds until one fails. Returns whether one failed.
fn run(options: &Options) -> bool {
    let (next, done, steps) = (AtomicU64::new(options.seeds.start), AtomicU64::new(0), AtomicU64::new(0));
    let facts = Mutex::new(BTreeMap::<&str, u64>::new());
    let (failed, finished) = (AtomicBool::new(false), AtomicBool::new(false));
    let start = Instant::now();
    let progress = || {
        let (done, seconds) = (done.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
        let steps = steps.load(Ordering::Relaxed);
        eprintln!("{done} seeds, {steps} steps, {:.0} seeds per second", done as f64 / seconds);
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads)
            .map(|_| {
                scope.spawn(|| {
                    while !failed.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= options.seeds.end {
                            break;
                        }
                        match larder_sim::run(seed) {
                            Ok(report) => {
                                done.fetch_add(1, Ordering::Relaxed);
                                steps.fetch_add(report.steps, Ordering::Relaxed);
                                let mut facts = facts.lock().unwrap_or_else(PoisonError::into_inner);
                                report
                                    .facts()
                                    .iter()
                                    .for_each(|(name, n)| *facts.entry(name).or_default() += n);
                                if options.verbose {
                                    println!("{report:?}");
                                }
                            }
                            Err(failure) => {
                                failed.store(true, Ordering::Relaxed);
                                println!("{failure}");
                            }
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut last = Instant::now();
            while !finished.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(50));
                if last.elapsed() >= Duration::from_secs(5) {
                    last = Instant::now();
                    progress();
                }
            }
        });
        workers.into_iter().for_each(|w| drop(w.join()));
        finished.store(true, Ordering::Relaxed);
    });
    progress();
    for (name, n) in facts.into_inner().unwrap_or_else(PoisonError::into_inner) {
        println!("{n:>12} {name}");
    }
    failed.load(Ordering::Relaxed)
}
