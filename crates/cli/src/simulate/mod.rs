//! `larder simulate`: what policies and sizes do on traces of real requests.
//!
//! [`args`] checks the arguments, `larder_lab` runs the simulation; this prints its results, to stdout or to the file of
//! the plot.

mod args;
mod progress;

use std::fs;
use std::sync::atomic::AtomicU64;

use larder_lab::simulate::report::{csv, json_lines, plot, table};
use larder_lab::simulate::sweep::{Outcome as Result, requests};
use larder_lab::simulate::trace::{Trace, read};

pub(crate) use self::args::Args;
use self::args::{Format, Options};
use crate::Outcome;
use crate::report::Report;
use crate::terminal::{print_stderr, print_stdout};

/// Runs `larder simulate`.
pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    let mut report = Report::default();
    let options = args.options(&mut report);
    let text = if report.errors.is_empty() { simulate(&options, &mut report) } else { None };
    print_stderr("warning", &report.warnings);
    print_stderr("error", &report.errors);
    text.map_or(Ok(Outcome::UsageError), |text| print_stdout(&text))
}

/// The result as text; `None` if an error was reported.
fn simulate(options: &Options, report: &mut Report) -> Option<String> {
    let traces = read_traces(options, report);
    if !report.errors.is_empty() {
        return None;
    }
    let mut jobs = Vec::new();
    for (path, trace) in options.traces.iter().zip(&traces) {
        match options.sweep.jobs(trace) {
            Ok(more) => jobs.extend(more),
            Err(error) => report.error(format!("{}: {error}", path.display())),
        }
    }
    if !report.errors.is_empty() {
        return None;
    }
    let done = AtomicU64::new(0);
    let results = progress::with_bar(requests(&jobs), &done, || options.sweep.run(&jobs, &done));
    if let Some(path) = &options.plot
        && let Err(error) = fs::write(path, plot(&results))
    {
        report.error(format!("--plot {}: cannot be written: {error}", path.display()));
        return None;
    }
    Some(format(options.format, &results))
}

/// Reads all traces; reports each that cannot be read, and skipped lines.
fn read_traces(options: &Options, report: &mut Report) -> Vec<Trace> {
    let mut traces = Vec::new();
    for path in &options.traces {
        match read(path, &options.reading) {
            Ok(mut trace) => {
                trace.chunk_bytes = options.chunk_bytes.or(trace.chunk_bytes);
                if trace.skipped_lines > 0 {
                    let (name, lines) = (&trace.name, trace.skipped_lines);
                    report.warn(format!("{name}: skipped {lines} invalid or incomplete lines"));
                }
                traces.push(trace);
            }
            Err(error) => report.error(format!("{}: {error}", path.display())),
        }
    }
    traces
}

fn format(format: Format, results: &[Result<'_>]) -> String {
    match format {
        Format::Table => table(results),
        Format::Json => json_lines(results),
        Format::Csv => csv(results),
    }
}
