//! `larder simulate`: what policies and sizes would do on traces of real requests.
//!
//! [`words`] turns what was typed into a question, every mistake one line; `larder_sim` answers it; here
//! the answer is shown: data on stdout or in the picture's file, progress on stderr.

mod progress;
mod words;

use std::ffi::OsString;
use std::fs;
use std::sync::atomic::AtomicU64;

use larder_lab::simulate::report;
use larder_lab::simulate::sweep::{Outcome as Answer, requests};
use larder_lab::simulate::trace::{Trace, read};

pub(crate) use self::words::command;
use self::words::{Format, Question, Words};
use crate::Outcome;
use crate::terminal::{say, tell};

/// Runs `larder simulate` with these words.
pub(crate) fn run(words: &[OsString]) -> anyhow::Result<Outcome> {
    let question = match Words::read(words) {
        Ok(Words::Question(question)) => question,
        Ok(Words::Help(text)) => return say(&text),
        Err(problems) => return Ok(refuse(&problems)),
    };
    let traces = match read_all(&question) {
        Ok(traces) => traces,
        Err(problems) => return Ok(refuse(&problems)),
    };
    answer(&question, &traces)
}

fn refuse(problems: &[String]) -> Outcome {
    tell("error", problems);
    Outcome::Usage
}

/// All traces, or what is wrong with each that cannot be read.
fn read_all(question: &Question) -> Result<Vec<Trace>, Vec<String>> {
    let (mut traces, mut problems) = (Vec::new(), Vec::new());
    for path in &question.traces {
        match read(path, &question.reading) {
            Ok(mut trace) => {
                trace.chunk_bytes = question.chunk_bytes.or(trace.chunk_bytes);
                traces.push(trace);
            }
            Err(error) => problems.push(format!("{}: {error}", path.display())),
        }
    }
    if problems.is_empty() { Ok(traces) } else { Err(problems) }
}

fn answer(question: &Question, traces: &[Trace]) -> anyhow::Result<Outcome> {
    let sweep = &question.sweep;
    let (mut jobs, mut problems) = (Vec::new(), Vec::new());
    for (path, trace) in question.traces.iter().zip(traces) {
        match sweep.jobs(trace) {
            Ok(more) => jobs.extend(more),
            Err(error) => problems.push(format!("{}: {error}", path.display())),
        }
    }
    if !problems.is_empty() {
        return Ok(refuse(&problems));
    }
    let done = AtomicU64::new(0);
    let answers = progress::shown(requests(&jobs), &done, || sweep.run(&jobs, &done));
    warn(traces);
    if let Some(path) = &question.plot
        && let Err(error) = fs::write(path, report::plot(&answers))
    {
        return Ok(refuse(&[format!("--plot {}: cannot be written: {error}", path.display())]));
    }
    say(&written(question, &answers))
}

fn written(question: &Question, answers: &[Answer<'_>]) -> String {
    match question.format {
        Format::Table => report::table(answers),
        Format::Json => report::json_lines(answers),
        Format::Csv => report::csv(answers),
    }
}

/// Tells what of the traces was left out.
fn warn(traces: &[Trace]) {
    let skipped = traces.iter().filter(|trace| trace.skipped_lines > 0);
    let lines: Vec<String> = skipped
        .map(|trace| format!("{}: {} lines are missing or cut short", trace.name, trace.skipped_lines))
        .collect();
    tell("warning", &lines);
}
