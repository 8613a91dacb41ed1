//! What clap says of a mistake, in one line.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What is wrong, without clap's advice on several lines. `help` is the command that tells more.
pub(crate) fn one_line(error: &clap::Error, help: &str) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let hint = text(ContextKind::SuggestedArg).map(|flag| format!(", did you mean '{flag}'?"));
            format!("{flag}: no such flag{}", hint.unwrap_or_default())
        }
        ErrorKind::InvalidSubcommand => {
            let word = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let hint = text(ContextKind::SuggestedSubcommand).map(|near| format!(", did you mean '{near}'?"));
            format!("{word}: no such command{}", hint.unwrap_or_default())
        }
        // clap answers a missing subcommand with the whole help.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            format!("no command is given ({help} lists them)")
        }
        ErrorKind::MissingRequiredArgument => format!("{flag} is missing ({help} tells more)"),
        ErrorKind::ArgumentConflict => {
            format!("{flag}: cannot be used with {}", text(ContextKind::PriorArg).unwrap_or_default())
        }
        _ => {
            let said = error.to_string();
            said.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }
}
