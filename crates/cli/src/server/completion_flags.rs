//! The flags as a clap command, for shell completions; [`command_line`](super::command_line) parses them.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueHint};

use super::flag::{FlagSpec, Kind, Support};
use super::flags::flags;

/// `larder server` with every flag that has an effect.
pub(crate) fn command() -> Command {
    let flags = flags().filter(|flag| matches!(flag.support, Support::Served | Support::Action));
    Command::new("server")
        .about("Serve KV caches to engines")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(flags.flat_map(args))
}

/// One argument; two if the flag also has a `--no-` form.
fn args(flag: &FlagSpec) -> Vec<Arg> {
    let arg = Arg::new(flag.name).long(flag.name).help(flag.help);
    let switch = arg.clone().action(ArgAction::SetTrue);
    match flag.kind {
        Kind::Switch => vec![switch],
        Kind::Pair => {
            let off = format!("no-{}", flag.name);
            vec![switch, Arg::new(off.clone()).long(off).help(flag.help).action(ArgAction::SetTrue)]
        }
        Kind::OneOf(_) => vec![arg.value_parser(PossibleValuesParser::new(flag.kind.choices()))],
        Kind::Path => vec![arg.value_hint(ValueHint::AnyPath)],
        _ => vec![arg],
    }
}
