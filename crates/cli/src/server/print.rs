//! What is printed for people: the help, the effective configuration, and the page of documentation. All of it
//! follows from the table.

use std::fmt::{self, Write};

use super::flags::{Default, Flag, Judgement, Kind};
use super::settings::Settings;
use super::table::TABLE;

/// Columns of a help text.
const WIDTH: usize = 100;
/// Where the meaning begins.
const INDENT: usize = 30;

/// The text of `larder server --help`.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "Serve KV caches to LLM engines that speak the LMCache multiprocess protocol.\n\n\
         Usage: larder server [FLAG]...\n\n\
         Every flag can also be set by an environment variable, LMCACHE_SERVER_<FLAG>, or in the file given by\n\
         --config. The command line wins over the environment, and that over the file.\n",
    );
    for group in TABLE {
        let mut shown = group.flags.iter().filter(|flag| is_listed(flag)).peekable();
        if shown.peek().is_some() {
            push(&mut text, format_args!("\n{}:\n", group.heading));
        }
        for flag in shown {
            push_flag(&mut text, flag);
        }
    }
    text.push_str("\nNot served by this version yet:\n");
    let not_yet: Vec<_> =
        super::table::flags().filter(|flag| flag.ignored_for_now.is_some()).map(Flag::dashed).collect();
    push_wrapped(&mut text, &not_yet.join(", "), 2);
    text.push_str("\nAccepted from the reference's command line and without effect here:\n");
    let ignored: Vec<_> = all_flags(Judgement::Ignored).map(Flag::dashed).collect();
    push_wrapped(&mut text, &ignored.join(", "), 2);
    text.push_str("\nRefused, each with its reason:\n");
    let refused: Vec<_> = all_flags(Judgement::Refused).map(Flag::dashed).collect();
    push_wrapped(&mut text, &refused.join(", "), 2);
    text
}

fn all_flags(judgement: Judgement) -> impl Iterator<Item = &'static Flag> {
    super::table::flags().filter(move |flag| flag.judgement == judgement)
}

fn is_listed(flag: &Flag) -> bool {
    let hidden = flag.name == "print-flag-reference";
    matches!(flag.judgement, Judgement::Served | Judgement::Inert | Judgement::Action) && !hidden
}

fn push_flag(text: &mut String, flag: &Flag) {
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
    if typed.len() + 2 > INDENT {
        text.push('\n');
        text.push_str(&" ".repeat(INDENT));
    } else {
        text.push_str(&" ".repeat(INDENT - typed.len()));
    }
    let mut meaning = String::new();
    push_wrapped(&mut meaning, &format!("{}{default}", flag.help), INDENT);
    text.push_str(meaning.trim_start());
}

/// Adds `words`, broken into lines of at most [`WIDTH`] columns that begin at column `indent`.
fn push_wrapped(text: &mut String, words: &str, indent: usize) {
    let mut column = 0;
    for word in words.split_whitespace() {
        if column > 0 && column + 1 + word.len() > WIDTH {
            text.push('\n');
            column = 0;
        }
        if column == 0 {
            text.push_str(&" ".repeat(indent));
            column = indent;
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.len();
    }
    text.push('\n');
}

/// The effective configuration, each value with its origin: itself a configuration file, in TOML.
pub(crate) fn effective(settings: &Settings) -> String {
    let mut text =
        String::from("# The effective configuration of larder server, and where each value comes from.\n");
    for group in TABLE.iter().filter(|group| group.flags.iter().any(is_setting)) {
        push(&mut text, format_args!("\n# {}\n", group.heading));
        for flag in group.flags.iter().filter(|flag| is_setting(flag)) {
            match settings.get(flag.name) {
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

/// Whether the flag is one that a configuration file may set, and that does something.
fn is_setting(flag: &Flag) -> bool {
    flag.judgement == Judgement::Served && flag.name != "config"
}

/// The page of documentation, `docs/configuration.md`.
pub(crate) fn flag_reference() -> String {
    let mut text = String::from(include_str!("flag_reference.md"));
    for group in TABLE {
        push(&mut text, format_args!("\n## {}\n\n", group.heading));
        text.push_str("| Flag | Default | Environment | | Meaning |\n|---|---|---|---|---|\n");
        for flag in group.flags.iter().filter(|flag| flag.name != "print-flag-reference") {
            push_row(&mut text, flag);
        }
    }
    text
}

fn push_row(text: &mut String, flag: &Flag) {
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
    let mut variables: Vec<_> = (!flag.typed_only).then(|| flag.variable()).into_iter().collect();
    variables.extend(flag.other_variable.map(str::to_owned));
    let variables: Vec<_> = variables.iter().map(|name| format!("`{name}`")).collect();
    let meaning = match flag.judgement {
        Judgement::Served => match flag.ignored_for_now {
            None => flag.help.to_owned(),
            Some(why) => format!("{} No effect for now: {why}.", flag.help),
        },
        Judgement::Ignored => format!("No effect: {}.", flag.help),
        Judgement::Inert | Judgement::Action => flag.help.to_owned(),
        Judgement::Refused => format!("Refused: {}.", flag.help),
        Judgement::OldNameOf(new) => format!("The same as `--{new}`."),
    };
    let meaning = format!("{meaning}{}", refused_values(flag)).replace('|', "\\|").replace('<', "&lt;");
    push(
        text,
        format_args!("| {typed} | {default} | {} | {} | {meaning} |\n", variables.join(", "), fate(flag)),
    );
}

/// What becomes of a flag, in a word.
fn fate(flag: &Flag) -> &'static str {
    match flag.judgement {
        Judgement::Served if flag.ignored_for_now.is_some() => "not yet",
        Judgement::Served => "served",
        Judgement::Ignored => "ignored",
        Judgement::Inert => "accepted",
        Judgement::Refused => "refused",
        Judgement::OldNameOf(_) => "old name",
        Judgement::Action => "action",
    }
}

/// A sentence for each value that is known and refused.
fn refused_values(flag: &Flag) -> String {
    let Kind::Choice(choices) = flag.kind else { return String::new() };
    choices
        .iter()
        .filter_map(|choice| choice.1.map(|why| format!(" `{}` is refused: {why}.", choice.0)))
        .collect()
}

fn push(text: &mut String, what: fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_documentation_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == flag_reference(),
            "docs/configuration.md differs from the flag table; regenerate it:\n    \
             cargo run -p larder -- server --print-flag-reference > docs/configuration.md"
        );
    }

    #[test]
    fn the_guide_for_those_who_come_from_lmcache_tells_the_fate_of_each_of_its_flags() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/migration.md");
        let written = std::fs::read_to_string(path).expect("the guide is there");
        let mut told = Vec::new();
        let mut row = |line: &str| {
            let name = line.strip_prefix("| `--")?.split('`').next()?;
            let flag = super::super::table::find(name).unwrap_or_else(|| panic!("--{name} is no flag"));
            told.push(flag.name);
            let notes = line.splitn(4, '|').nth(3)?;
            Some(format!("| `--{name}` | {} |{notes}\n", fate(flag)))
        };
        let meant: String = written.lines().map(|line| row(line).unwrap_or(format!("{line}\n"))).collect();
        let theirs: Vec<_> =
            super::super::table::flags().filter(|flag| !flag.ours).map(|flag| flag.name).collect();
        assert_eq!(told, theirs, "the rows of docs/migration.md, against the flag table");
        if std::env::var_os("LARDER_BLESS").is_some() {
            std::fs::write(path, &meant).expect("the guide can be written");
        }
        assert!(
            written == meant,
            "docs/migration.md tells another fate of a flag than the flag table; correct it:\n    \
             LARDER_BLESS=1 cargo test -p larder guide; git diff docs/migration.md"
        );
    }

    #[test]
    fn help_fits_the_width_and_lists_each_flag_once() {
        let help = help();
        for line in help.lines() {
            assert!(line.chars().count() <= WIDTH + 8, "{line}");
        }
        let (explained, _) = help.split_once("\nNot served").expect("the lists at the end");
        for flag in super::super::table::flags().filter(|flag| is_listed(flag)) {
            let starts = explained.lines().filter(|line| {
                let line = line.trim_start();
                line.strip_prefix(&flag.dashed())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ',']))
            });
            assert_eq!(starts.count(), 1, "{}", flag.name);
        }
    }
}
