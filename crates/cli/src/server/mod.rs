//! `larder server`: from the command line to a running server.
//!
//! [`command_line`], [`environment`] and [`mod@file`] read values as given; [`settings`] merges them by precedence;
//! [`resolve`] checks them against each other and the machine and builds the server's `Config`. [`flags`] is the table
//! of all flags: a new flag is one row there, and the place that reads it.

mod cgroup;
mod command_line;
mod completion_flags;
mod environment;
mod file;
mod flag;
mod flags;
mod kubernetes;
mod l1;
mod machine;
mod otlp;
mod print;

mod resolve;
mod settings;
mod value;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use larder_server::config::Config;
use larder_server::{Remedy, error_chain};

pub(crate) use self::completion_flags::command;
use self::environment::Variables;
pub(crate) use self::machine::Machine;
use self::settings::{Layer, Settings};
use crate::Outcome;
use crate::report::Report;
use crate::terminal::{print_stderr, print_stdout};

/// How long the end of the process waits for a stderr that is slow.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Runs `larder server` with these arguments.
pub(crate) fn run(args: &[OsString]) -> anyhow::Result<Outcome> {
    let mut report = Report::default();
    let command_line = command_line::parse(&decode(args, &mut report), &mut report);
    if command_line.gives(&flags::HELP) {
        return print_stdout(&print::help());
    }
    if command_line.gives(&flags::PRINT_FLAG_REFERENCE) {
        return print_stdout(&print::flag_reference());
    }
    let check_only = command_line.gives(&flags::CHECK_CONFIG);
    let (config, settings) = configure(command_line, &environment::variables(), &mut report);
    if !report.errors.is_empty() {
        print_stderr("error", &report.errors);
        return Ok(Outcome::UsageError);
    }
    if check_only {
        print_stderr("warning", &report.warnings);
        return print_stdout(&print::effective(&settings));
    }
    serve(config, &report.warnings)
}

/// The configuration from the command line, the environment and the file.
fn configure(command_line: Layer, variables: &Variables, report: &mut Report) -> (Config, Settings) {
    let mut layers = vec![command_line];
    layers.extend(environment::layers(variables, report));
    // A first merge, only to find the file.
    let without_file = Settings::merge(&layers, &mut Report::default());
    if let Some(path) = without_file.get(&flags::CONFIG) {
        layers.push(file::layer(&path, &without_file.subject(&flags::CONFIG), report));
    }
    let mut settings = Settings::merge(&layers, report);
    let mut config = resolve::resolve(&mut settings, Machine::measure, report);
    config.otlp.iter_mut().for_each(|otlp| otlp::add_variables(otlp, variables, report));
    settings.warn_of_no_effect(report);
    (config, settings)
}

fn decode(args: &[OsString], report: &mut Report) -> Vec<String> {
    let mut decode_one = |arg: &OsString| {
        if arg.to_str().is_none() {
            report.error(format!("{}: is not valid UTF-8", arg.display()));
        }
        arg.to_string_lossy().into_owned()
    };
    args.iter().map(&mut decode_one).collect()
}

fn serve(config: Config, warnings: &[String]) -> anyhow::Result<Outcome> {
    let log = Arc::new(crate::logging::start(config.logging));
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let outcome = match larder_server::run(config, log.clone()) {
        Ok(()) => Outcome::Done,
        Err(error) => {
            tracing::error!("{}", error_chain(&error));
            match error.remedy() {
                Remedy::Setting => Outcome::UsageError,
                Remedy::Person => Outcome::StartFailed,
                Remedy::Time => Outcome::TryAgain,
            }
        }
    };
    log.flush(LOG_PATIENCE);
    Ok(outcome)
}
