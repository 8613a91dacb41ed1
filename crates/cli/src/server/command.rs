//! The flags as clap knows them, for completions alone: [`scan`](super::scan) reads them.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueHint};

use super::flags::{Flag, Judgement, Kind};
use super::table::TABLE;

/// `larder server` with all flags worth typing.
pub(crate) fn command() -> Command {
    let flags = TABLE.iter().flat_map(|group| group.flags);
    let worth = flags.filter(|flag| matches!(flag.judgement, Judgement::Served | Judgement::Action));
    Command::new("larder server")
        .about("Serve KV caches to engines")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(worth.flat_map(args))
}

/// One flag; two where there is also a `--no-`.
fn args(flag: &Flag) -> Vec<Arg> {
    let arg = Arg::new(flag.name).long(flag.name).help(flag.help);
    let switch = arg.clone().action(ArgAction::SetTrue);
    match flag.kind {
        Kind::Switch => vec![switch],
        Kind::Pair => {
            let off = format!("no-{}", flag.name);
            vec![switch, Arg::new(off.clone()).long(off).help(flag.help).action(ArgAction::SetTrue)]
        }
        Kind::Choice(choices) => {
            let names = choices.iter().filter(|choice| choice.1.is_none()).map(|choice| choice.0);
            vec![arg.value_parser(PossibleValuesParser::new(names))]
        }
        Kind::Path => vec![arg.value_hint(ValueHint::AnyPath)],
        _ => vec![arg],
    }
}
