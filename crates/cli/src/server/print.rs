//! Text made from the flag table: the help, the effective configuration, and `docs/configuration.md`.

use std::fmt::{self, Write};

use super::flag::{Choice, Default, FlagSpec, Kind, Support};
use super::flags::{CONFIG, PRINT_FLAG_REFERENCE, TABLE, flags};
use super::settings::Settings;

/// Columns of the help.
const WIDTH: usize = 100;
/// Column at which the descriptions begin.
const INDENT: usize = 30;

/// The text of `larder server --help`.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "Serve KV caches to LLM engines that speak the LMCache multiprocess protocol.\n\n\
         Usage: larder server [FLAG]...\n\n\
         Every flag can also be set by an environment variable, LMCACHE_SERVER_<FLAG>, or in the file given by\n\
         --config. Precedence: command line, environment, file, default.\n",
    );
    for group in TABLE {
        let mut listed = group.flags.iter().filter(|flag| is_listed(flag)).peekable();
        if listed.peek().is_some() {
            push(&mut text, format_args!("\n{}:\n", group.heading));
        }
        listed.for_each(|flag| push_flag(&mut text, flag));
    }
    push_names(&mut text, "Not implemented in this version", |flag| flag.no_effect_yet.is_some());
    push_names(&mut text, "Accepted for compatibility with LMCache, without effect", |flag| {
        flag.support == Support::Ignored
    });
    push_names(&mut text, "Refused, each with its reason", |flag| flag.support == Support::Refused);
    text
}

fn is_listed(flag: &FlagSpec) -> bool {
    matches!(flag.support, Support::Served | Support::Accepted | Support::Action)
        && flag.name != PRINT_FLAG_REFERENCE.name
}

fn push_flag(text: &mut String, flag: &FlagSpec) {
    let mut typed = format!("  {}", flag.dashed());
    if matches!(flag.kind, Kind::Pair) {
        push(&mut typed, format_args!(", --no-{}", flag.name));
    }
    let placeholder = flag.kind.placeholder();
    if !placeholder.is_empty() {
        push(&mut typed, format_args!(" {placeholder}"));
    }
    let default = match flag.default {
        Default::Is("off" | "") | Default::Unset => String::new(),
        Default::Is(value) | Default::Auto(value) => format!(" [default: {value}]"),
    };
    text.push_str(&typed);
    let column = if typed.len() + 2 > INDENT {
        text.push('\n');
        0
    } else {
        typed.len()
    };
    text.push_str(&" ".repeat(INDENT - column));
    push_wrapped(text, &format!("{}{default}", flag.help), INDENT);
}

/// Lists the names of the flags that `is_member` selects.
fn push_names(text: &mut String, title: &str, is_member: impl Fn(&FlagSpec) -> bool) {
    let names: Vec<_> = flags().filter(|flag| is_member(flag)).map(FlagSpec::dashed).collect();
    push(text, format_args!("\n{title}:\n  "));
    push_wrapped(text, &names.join(", "), 2);
}

/// Appends `words` from column `indent` on, in lines of at most [`WIDTH`] columns.
fn push_wrapped(text: &mut String, words: &str, indent: usize) {
    let mut column = indent;
    for word in words.split_whitespace() {
        if column > indent && column + 1 + word.len() > WIDTH {
            push(text, format_args!("\n{:indent$}", ""));
            column = indent;
        } else if column > indent {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.len();
    }
    text.push('\n');
}

/// The effective configuration, each value with its origin; can be read back as a TOML configuration file.
pub(crate) fn effective(settings: &Settings) -> String {
    let mut text =
        String::from("# The effective configuration of larder server, and where each value comes from.\n");
    for group in TABLE.iter().filter(|group| group.flags.iter().any(is_setting)) {
        push(&mut text, format_args!("\n# {}\n", group.heading));
        for flag in group.flags.iter().filter(|flag| is_setting(flag)) {
            match settings.setting(flag) {
                Some(setting) => {
                    let line = format!("{} = {}", flag.name, setting.value.redacted(flag));
                    push(&mut text, format_args!("{line:<48} # {}\n", setting.origin));
                }
                None => push(&mut text, format_args!("{:<48} # unset\n", format!("# {} =", flag.name))),
            }
        }
    }
    text
}

/// Whether a configuration file can set the flag, with an effect.
fn is_setting(flag: &FlagSpec) -> bool {
    flag.support == Support::Served && flag.name != CONFIG.name
}

/// The text of `docs/configuration.md`.
pub(crate) fn flag_reference() -> String {
    let mut text = String::from(include_str!("flag_reference.md"));
    for group in TABLE {
        push(&mut text, format_args!("\n## {}\n\n", group.heading));
        text.push_str("| Flag | Default | Environment | | Meaning |\n|---|---|---|---|---|\n");
        for flag in group.flags.iter().filter(|flag| flag.name != PRINT_FLAG_REFERENCE.name) {
            push_row(&mut text, flag);
        }
    }
    text
}

fn push_row(text: &mut String, flag: &FlagSpec) {
    let mut typed = format!("`--{}`", flag.name);
    if matches!(flag.kind, Kind::Pair) {
        push(&mut typed, format_args!(", `--no-{}`", flag.name));
    }
    if !flag.kind.placeholder().is_empty() {
        push(&mut typed, format_args!(" `{}`", flag.kind.placeholder()));
    }
    let default = match flag.default {
        Default::Is("") => "empty".to_owned(),
        Default::Is(value) => format!("`{value}`"),
        Default::Auto(how) => how.replace('<', "&lt;"),
        Default::Unset => String::new(),
    };
    let own = (!flag.command_line_only).then(|| flag.variable());
    let variables: Vec<_> = own
        .into_iter()
        .chain(flag.lmcache_variable.map(str::to_owned))
        .map(|name| format!("`{name}`"))
        .collect();
    let meaning = match (flag.support, flag.no_effect_yet) {
        (Support::Served, Some(reason)) => format!("{} No effect for now: {reason}.", flag.help),
        (Support::Served | Support::Accepted | Support::Action, _) => flag.help.to_owned(),
        (Support::Ignored, _) => format!("No effect: {}.", flag.help),
        (Support::Refused, _) => format!("Refused: {}.", flag.help),
        (Support::AliasOf(name), _) => format!("The same as `--{name}`."),
    };
    let meaning = format!("{meaning}{}", refused_values(flag)).replace('|', "\\|").replace('<', "&lt;");
    push(
        text,
        format_args!(
            "| {typed} | {default} | {} | {} | {meaning} |\n",
            variables.join(", "),
            support_name(flag)
        ),
    );
}

/// The word for a flag's support in the tables of the documentation.
fn support_name(flag: &FlagSpec) -> &'static str {
    match flag.support {
        Support::Served if flag.no_effect_yet.is_some() => "not yet",
        Support::Served => "served",
        Support::Ignored => "ignored",
        Support::Accepted => "accepted",
        Support::Refused => "refused",
        Support::AliasOf(_) => "old name",
        Support::Action => "action",
    }
}

/// A sentence for each known value that is refused.
fn refused_values(flag: &FlagSpec) -> String {
    let Kind::OneOf(choices) = flag.kind else { return String::new() };
    let sentence =
        |Choice(name, reason): &Choice| reason.map(|reason| format!(" `{name}` is refused: {reason}."));
    choices.iter().filter_map(sentence).collect()
}

fn push(text: &mut String, arguments: fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_page_matches_the_flag_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == flag_reference(),
            "docs/configuration.md differs from the flag table; regenerate it:\n    \
             cargo run -p larder -- server --print-flag-reference > docs/configuration.md"
        );
    }

    #[test]
    fn migration_guide_lists_each_lmcache_flag_with_its_support() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/migration.md");
        let written = std::fs::read_to_string(path).expect("docs/migration.md");
        let mut listed = Vec::new();
        let mut row = |line: &str| {
            let name = line.strip_prefix("| `--")?.split('`').next()?;
            let flag = super::super::flags::find(name).unwrap_or_else(|| panic!("--{name} is no flag"));
            listed.push(flag.name);
            let notes = line.splitn(4, '|').nth(3)?;
            Some(format!("| `--{name}` | {} |{notes}\n", support_name(flag)))
        };
        let expected: String = written.lines().map(|line| row(line).unwrap_or(format!("{line}\n"))).collect();
        let lmcache: Vec<_> = flags().filter(|flag| !flag.larder_only).map(|flag| flag.name).collect();
        assert_eq!(listed, lmcache, "the rows of docs/migration.md, against the flag table");
        if std::env::var_os("LARDER_BLESS").is_some() {
            std::fs::write(path, &expected).expect("docs/migration.md is writable");
        }
        assert!(
            written == expected,
            "docs/migration.md differs from the flag table; correct it:\n    \
             LARDER_BLESS=1 cargo test -p larder guide; git diff docs/migration.md"
        );
    }

    #[test]
    fn help_fits_the_width_and_lists_each_flag_once() {
        let help = help();
        for line in help.lines() {
            assert!(line.chars().count() <= WIDTH + 8, "{line}");
        }
        let (explained, _) = help.split_once("\nNot implemented").expect("the lists at the end");
        for flag in flags().filter(|flag| is_listed(flag)) {
            let starts = explained.lines().filter(|line| {
                let line = line.trim_start();
                line.strip_prefix(&flag.dashed())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ',']))
            });
            assert_eq!(starts.count(), 1, "{}", flag.name);
        }
    }
}
