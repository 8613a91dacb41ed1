//! The `larder` binary: one program, its jobs as subcommands.

mod completions;
mod ctl;
mod doctor;
mod logging;
mod server;
mod simulate;
mod terminal;
mod top;
mod usage;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

/// Each request brings buffers of up to hundreds of kilobytes that live for microseconds. Measured
/// against glibc's allocator, this one takes a quarter off the CPU time of a 32k-token lookup.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A tiered KV-cache server for LLM inference.
#[derive(Parser)]
#[command(name = "larder", version, disable_help_subcommand = true)]
struct Larder {
    #[command(subcommand)]
    job: Job,
}

#[derive(clap::Subcommand)]
enum Job {
    /// Serve KV caches to engines. `larder server --help` lists its flags.
    #[command(disable_help_flag = true)]
    Server {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        words: Vec<OsString>,
    },
    /// Tell what policies and sizes would do on traces of real requests.
    #[command(disable_help_flag = true)]
    Simulate {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        words: Vec<OsString>,
    },
    /// Ask a running server: ping, status, describe, clear, quota, objects, prefetch.
    #[command(disable_help_flag = true)]
    Ctl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        words: Vec<OsString>,
    },
    /// Show live how a running server does.
    #[command(disable_help_flag = true)]
    Top {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        words: Vec<OsString>,
    },
    /// Check whether this node is fit for a server.
    #[command(disable_help_flag = true)]
    Doctor {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        words: Vec<OsString>,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell
        shell: completions::Shell,
    },
}

/// How a job ended, for the exit status.
enum Outcome {
    /// It did what it was asked to.
    Done,
    /// What it was asked makes no sense.
    Usage,
    /// The server could not start.
    NotStarted,
}

fn main() -> ExitCode {
    let ended = match Larder::parse().job {
        Job::Server { words } => server::run(&words),
        Job::Simulate { words } => simulate::run(&words),
        Job::Ctl { words } => ctl::run(&words),
        Job::Top { words } => top::run(&words),
        Job::Doctor { words } => doctor::run(&words),
        Job::Completions { shell } => completions::run(shell, Larder::command()),
    };
    match ended {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Usage) => ExitCode::from(2),
        Ok(Outcome::NotStarted) => ExitCode::from(3),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::tell("error", &[format!("{error:#}")]);
            ExitCode::FAILURE
        }
    }
}

/// Whether the reader of our output went away, which is its right.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
