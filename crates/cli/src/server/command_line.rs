//! Parses the command line as LMCache's server does (Python's argparse), and continues after every error.
//!
//! Existing scripts rely on that: `--x value` and `--x=value`, `--no-x`, unambiguous abbreviations, lists of zero or
//! more words, negative numbers as values, and the last use of a flag taking precedence. Abbreviations are looked up
//! among LMCache's flags first, so that a flag of ours never makes an old abbreviation ambiguous. clap cannot do this:
//! it stops at the first error, and has no such order of abbreviations.

use larder_server::config::suggest;

use super::flag::{FlagSpec, Kind};
use super::flags::flags;
use super::settings::{Layer, Origin};
use super::value::RawValue;
use crate::report::Report;

/// Parses `args`. Errors go to `report`.
pub(crate) fn parse(args: &[String], report: &mut Report) -> Layer {
    let mut layer = Layer::new(Origin::CommandLine);
    let mut rest = args;
    while let Some((arg, after)) = rest.split_first() {
        rest = after;
        if !is_flag(arg) {
            report.error(format!("{arg}: unexpected argument, every setting here is a flag"));
            continue;
        }
        let (typed, attached) = match arg.split_once('=') {
            Some((typed, value)) if typed.starts_with("--") => (typed, Some(value)),
            _ => (arg.as_str(), None),
        };
        match find_spelling(typed) {
            Ok(spelling) => {
                if let Some(raw) = take_value(&spelling, attached, &mut rest, report) {
                    layer.add(spelling.flag, raw);
                }
            }
            Err(error) => {
                report.error(error.to_string());
                // Skip what was most likely meant as its value.
                rest = &rest[value_count(rest)..];
            }
        }
    }
    layer
}

/// One way to type a flag.
#[derive(Clone, Debug)]
struct Spelling {
    flag: &'static FlagSpec,
    typed: String,
    /// Whether this spelling turns a switch on.
    on: bool,
}

/// Why an argument is not a flag.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum UnknownFlag {
    #[error("{typed}: no such flag{hint}")]
    NoMatch { typed: String, hint: String },
    #[error("{typed}: ambiguous, it could be {candidates}")]
    Ambiguous { typed: String, candidates: String },
}

fn spellings() -> impl Iterator<Item = Spelling> {
    flags().flat_map(|flag| {
        let on = Spelling { flag, typed: flag.dashed(), on: true };
        let off = matches!(flag.kind, Kind::Pair).then(|| Spelling {
            flag,
            typed: format!("--no-{}", flag.name),
            on: false,
        });
        std::iter::once(on).chain(off)
    })
}

/// The spelling that `typed` equals or abbreviates.
fn find_spelling(typed: &str) -> Result<Spelling, UnknownFlag> {
    let typed = match typed {
        "-q" => "--quiet",
        "-h" => "--help",
        other => other,
    };
    if let Some(exact) = spellings().find(|spelling| spelling.typed == typed) {
        return Ok(exact);
    }
    let is_prefix =
        |spelling: &Spelling| typed.starts_with("--") && typed.len() > 2 && spelling.typed.starts_with(typed);
    let (larder_only, lmcache): (Vec<_>, Vec<_>) =
        spellings().filter(is_prefix).partition(|spelling| spelling.flag.larder_only);
    let candidates = if lmcache.is_empty() { larder_only } else { lmcache };
    match &candidates[..] {
        [only] => Ok(only.clone()),
        [] => {
            let all: Vec<_> = spellings().map(|spelling| spelling.typed).collect();
            let hint = suggest::hint(typed, all.iter().map(String::as_str));
            Err(UnknownFlag::NoMatch { typed: typed.to_owned(), hint })
        }
        several => {
            let names: Vec<_> = several.iter().map(|spelling| spelling.typed.as_str()).collect();
            Err(UnknownFlag::Ambiguous { typed: typed.to_owned(), candidates: names.join(", ") })
        }
    }
}

/// Takes the flag's value from `attached` or `rest`; `None`, with an error reported, if it is missing.
fn take_value(
    spelling: &Spelling,
    attached: Option<&str>,
    rest: &mut &[String],
    report: &mut Report,
) -> Option<RawValue> {
    let typed = &spelling.typed;
    match (&spelling.flag.kind, attached) {
        (Kind::Switch | Kind::Pair, None) => Some(RawValue::Switch(spelling.on)),
        (Kind::Switch | Kind::Pair, Some(value)) => {
            report.error(format!("{typed}={value}: takes no value, leave out \"={value}\""));
            None
        }
        (Kind::Words, Some(value)) => Some(RawValue::List(vec![value.to_owned()])),
        (Kind::Words, None) => {
            let (words, after) = rest.split_at(value_count(rest));
            *rest = after;
            Some(RawValue::List(words.to_vec()))
        }
        (kind, Some(value)) => Some(single(kind, value)),
        (kind, None) => match rest.split_first() {
            Some((value, after)) if !is_flag(value) => {
                *rest = after;
                Some(single(kind, value))
            }
            _ => {
                report.error(format!("{typed}: needs a value, {typed} {}", kind.placeholder()));
                None
            }
        },
    }
}

fn single(kind: &Kind, value: &str) -> RawValue {
    if kind.repeats() { RawValue::List(vec![value.to_owned()]) } else { RawValue::Text(value.to_owned()) }
}

/// How many of the first `args` are values.
fn value_count(args: &[String]) -> usize {
    args.iter().take_while(|arg| !is_flag(arg)).count()
}

/// Whether an argument is a flag rather than a value. Negative numbers, infinities and texts with spaces are values.
fn is_flag(arg: &str) -> bool {
    arg.starts_with('-') && arg.len() > 1 && !arg.contains(' ') && arg.parse::<f64>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> (Vec<(&'static str, RawValue)>, Vec<String>) {
        let args: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let mut report = Report::default();
        let layer = parse(&args, &mut report);
        (layer.values.into_iter().map(|(flag, raw)| (flag.name, raw)).collect(), report.errors)
    }

    fn value(text: &str) -> RawValue {
        RawValue::Text(text.to_owned())
    }

    fn values(texts: &[&str]) -> RawValue {
        RawValue::List(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn parses_every_form_of_a_flag() {
        let cases: &[(&str, &str, RawValue)] = &[
            ("--port 1", "port", value("1")),
            ("--port=1", "port", value("1")),
            ("--port 1 --port 2", "port", value("2")),
            ("--shm-name=", "shm-name", value("")),
            ("--eviction-ratio -1", "eviction-ratio", value("-1")),
            ("--eviction-ratio -inf", "eviction-ratio", value("-inf")),
            ("--l1-use-lazy", "l1-use-lazy", RawValue::Switch(true)),
            ("--no-l1-use-lazy", "l1-use-lazy", RawValue::Switch(false)),
            ("--no-l1-use-l", "l1-use-lazy", RawValue::Switch(false)),
            ("--enable", "enable", values(&[])),
            ("--enable transfer_query other", "enable", values(&["transfer_query", "other"])),
            ("--enable=transfer_query", "enable", values(&["transfer_query"])),
            ("--l2-adapter {} --l2-adapter [1]", "l2-adapter", values(&["{}", "[1]"])),
            ("--l1-size 4", "l1-size-gb", value("4")),
            ("--shm x", "shm-name", value("x")),
            ("--metrics-s 1", "metrics-sample-rate", value("1")),
            ("--check", "check-config", RawValue::Switch(true)),
            ("-q", "quiet", RawValue::Switch(true)),
            ("--disable-prometheus", "disable-metrics", RawValue::Switch(true)),
        ];
        for (line, flag, raw) in cases {
            assert_eq!(parsed(line), (vec![(*flag, raw.clone())], vec![]), "{line}");
        }
    }

    #[test]
    fn reports_each_error_in_one_line_and_parses_the_rest() {
        let cases = [
            ("--chunk-sise 5", "--chunk-sise: no such flag, did you mean '--chunk-size'?"),
            ("--chunk_size 5", "--chunk_size: no such flag, did you mean '--chunk-size'?"),
            ("--frobnicate a b c", "--frobnicate: no such flag"),
            ("--l1-use", "--l1-use: ambiguous, it could be --l1-use-lazy, --l1-use-hugepages"),
            ("--host", "--host: needs a value, --host TEXT"),
            ("--host --isolated-ipc", "--host: needs a value, --host TEXT"),
            ("--isolated-ipc=1", "--isolated-ipc=1: takes no value, leave out \"=1\""),
            ("serve", "serve: unexpected argument, every setting here is a flag"),
            ("--", "--: no such flag"),
            ("-x", "-x: no such flag"),
        ];
        for (line, error) in cases {
            let (given, errors) = parsed(&format!("{line} --port 1"));
            assert_eq!(errors, [error], "{line}");
            assert!(given.contains(&("port", value("1"))), "{line}");
        }
    }

    #[test]
    fn finds_every_flag_by_its_exact_name() {
        for flag in flags() {
            for typed in [flag.dashed(), format!("--no-{}", flag.name)] {
                let spelling = find_spelling(&typed).map(|spelling| spelling.flag.name);
                if typed == flag.dashed() || matches!(flag.kind, Kind::Pair) {
                    assert_eq!(spelling, Ok(flag.name));
                }
            }
        }
    }
}
