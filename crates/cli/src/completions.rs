//! `larder completions`: the completion script of a shell.

use clap::{CommandFactory, ValueEnum};
use clap_complete::{generate, shells};

use crate::terminal::print_stdout;
use crate::{Args, Outcome, server};

/// A shell that completions are made for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the completion script of `shell`.
pub(crate) fn run(shell: Shell) -> anyhow::Result<Outcome> {
    // clap does not know the flags of the server, which parses them itself.
    let mut command = Args::command().mut_subcommand("server", |_| server::command());
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(shells::Bash, &mut command, "larder", &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, "larder", &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, "larder", &mut script),
    }
    print_stdout(&String::from_utf8(script)?)
}
