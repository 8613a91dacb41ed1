//! The `larder` binary: one program with subcommands.

mod completions;
mod ctl;
mod doctor;
mod log_queue;
mod logging;
mod report;
mod server;
mod simulate;
mod terminal;
mod top;
mod usage;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::Parser;

/// Each request allocates buffers of up to hundreds of kilobytes that are freed within microseconds. Measured against
/// glibc's allocator, mimalloc takes a quarter off the CPU time of a 32k-token lookup.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A tiered KV-cache server for LLM inference.
#[derive(Parser)]
#[command(name = "larder", version, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve KV caches to engines. `larder server --help` lists its flags.
    #[command(disable_help_flag = true)]
    Server {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        args: Vec<OsString>,
    },
    Simulate(simulate::Args),
    Ctl(ctl::Args),
    Top(top::Args),
    Doctor(doctor::Args),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: completions::Shell,
    },
}

/// How a command ended, for the exit status.
enum Outcome {
    /// It succeeded.
    Done,
    /// The arguments or their input are invalid.
    UsageError,
    /// The server could not start, and a person must look at it.
    StartFailed,
    /// The server could not start now. Starting it again later may help.
    TryAgain,
}

/// `EX_TEMPFAIL` of `sysexits.h`.
const TRY_AGAIN: u8 = 75;

fn main() -> ExitCode {
    let result = match Args::try_parse() {
        Ok(args) => run(args.command),
        Err(error) => usage::print(&error),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::UsageError) => ExitCode::from(2),
        Ok(Outcome::StartFailed) => ExitCode::from(3),
        Ok(Outcome::TryAgain) => ExitCode::from(TRY_AGAIN),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::print_stderr("error", &[format!("{error:#}")]);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Server { args } => server::run(&args),
        Command::Simulate(args) => simulate::run(args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions { shell } => completions::run(shell),
    }
}

/// Whether the reader of our output closed it, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
