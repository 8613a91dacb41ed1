//! Errors of clap in one line, without its advice on several.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::Outcome;
use crate::terminal::{print_stderr, print_stdout};

/// Prints what clap returns instead of arguments: the help, the version, or an error.
pub(crate) fn print(error: &clap::Error) -> anyhow::Result<Outcome> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return print_stdout(&error.to_string());
    }
    let command = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let help = command.map_or("larder --help".to_owned(), |command| format!("larder {command} --help"));
    print_stderr("error", &[one_line(error, &help)]);
    Ok(Outcome::UsageError)
}

/// The error in one line. `help` is the command that prints the help.
fn one_line(error: &clap::Error, help: &str) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let hint = |kind| text(kind).map_or(String::new(), |near| format!(", did you mean '{near}'?"));
    let flag = text(ContextKind::InvalidArg).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument => format!("{flag}: no such flag{}", hint(ContextKind::SuggestedArg)),
        ErrorKind::InvalidSubcommand => {
            let command = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            format!("{command}: no such command{}", hint(ContextKind::SuggestedSubcommand))
        }
        // clap answers a missing subcommand with the whole help.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            format!("no command is given ({help} lists them)")
        }
        ErrorKind::MissingRequiredArgument => format!("{flag} is missing (see {help})"),
        ErrorKind::ArgumentConflict => {
            format!("{flag}: cannot be used with {}", text(ContextKind::PriorArg).unwrap_or_default())
        }
        _ => {
            let message = error.to_string();
            message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }
}
