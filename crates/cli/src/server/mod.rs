//! `larder server`: from what was typed to a running server.
//!
//! Two stages. What was *typed* is raw and optional: [`scan`] reads the command line, [`environment`] and [`mod@file`]
//! the other places, [`settings`] lets the strongest win and remembers where it came from. What was *meant* is the
//! server's `Config`: [`resolve`] fills in and checks what depends on more than one flag. Only that leaves here.
//! [`table`] holds every flag; no other place knows one by more than its name.

mod command;
mod environment;
mod file;
mod flags;
mod l1_size;
mod machine;
mod otlp;
mod print;
mod report;
mod resolve;
mod scan;
mod settings;
mod table;

use std::ffi::OsString;
use std::path::Path;

use larder_server::config::Config;
use settings::{Layer, Settings};

pub(crate) use self::command::command;
use self::environment::Variables;
pub(crate) use self::machine::Machine;
use self::report::Report;
use crate::Outcome;
use crate::terminal::{say, tell};

/// Runs `larder server` with these words.
pub(crate) fn run(words: &[OsString]) -> anyhow::Result<Outcome> {
    let mut report = Report::default();
    let typed = scan::scan(&readable(words, &mut report), &mut report);
    if asked_for(&typed, "help") {
        return say(&print::help());
    }
    if asked_for(&typed, "print-flag-reference") {
        return say(&print::flag_reference());
    }
    let check_only = asked_for(&typed, "check-config");
    let (config, settings) = configure(typed, &environment::variables(), &mut report);
    if !report.problems.is_empty() {
        tell("error", &report.problems);
        return Ok(Outcome::Usage);
    }
    if check_only {
        tell("warning", &report.warnings);
        return say(&print::effective(&settings));
    }
    serve(config, &report.warnings)
}

/// What all places together mean.
fn configure(typed: Layer, variables: &Variables, report: &mut Report) -> (Config, Settings) {
    let mut layers = vec![typed];
    layers.extend(environment::layers(variables, report));
    // Which file to read is the one setting that has to be known before the others.
    let chosen = Settings::merge_quietly(&layers);
    if let Some(path) = chosen.text("config") {
        layers.push(file::layer(Path::new(path), &chosen.subject("config"), report));
    }
    let mut settings = Settings::merge(&layers, report);
    let mut config = resolve::resolve(&mut settings, Machine::measure, report);
    config.otlp.iter_mut().for_each(|otlp| otlp::add_variables(otlp, variables, report));
    settings.judge_for_now(report);
    (config, settings)
}

fn asked_for(typed: &Layer, name: &str) -> bool {
    typed.given.iter().any(|(flag, _)| flag.name == name)
}

fn readable(words: &[OsString], report: &mut Report) -> Vec<String> {
    let mut read = |word: &OsString| {
        if word.to_str().is_none() {
            report.problem(format!("{}: is not valid UTF-8", word.display()));
        }
        word.to_string_lossy().into_owned()
    };
    words.iter().map(&mut read).collect()
}

fn serve(config: Config, warnings: &[String]) -> anyhow::Result<Outcome> {
    let log = crate::logging::start(config.logging);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match larder_server::run(config, log) {
        Ok(()) => Ok(Outcome::Done),
        Err(error) => {
            tracing::error!("{error}");
            Ok(Outcome::NotStarted)
        }
    }
}
