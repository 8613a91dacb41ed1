//! `larder completions`: what a shell needs to complete our words.

use clap::{Command, ValueEnum};
use clap_complete::{generate, shells};

use crate::terminal::say;
use crate::{Outcome, ctl, doctor, server, simulate, top};

/// A shell with completions.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints completions for `shell`. `outside` is the program as its `main` sees it: the jobs read their
/// own words, so their commands take the place of what stands for them there.
pub(crate) fn run(shell: Shell, outside: Command) -> anyhow::Result<Outcome> {
    let mut whole = outside
        .mut_subcommand("server", |_| server::command().name("server"))
        .mut_subcommand("simulate", |_| simulate::command().name("simulate"))
        .mut_subcommand("ctl", |_| ctl::command().name("ctl"))
        .mut_subcommand("top", |_| top::command().name("top"))
        .mut_subcommand("doctor", |_| doctor::command().name("doctor"));
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(shells::Bash, &mut whole, "larder", &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut whole, "larder", &mut script),
        Shell::Fish => generate(shells::Fish, &mut whole, "larder", &mut script),
    }
    say(&String::from_utf8(script)?)
}
