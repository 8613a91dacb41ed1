//! Reads the command line the way the reference does (Python's argparse), and on past every mistake.
//!
//! Existing scripts rely on that way: `--x value` and `--x=value`, `--no-x`, unambiguous abbreviations of long
//! flags, lists of zero or more words, and the last use of a flag winning. Abbreviations are looked up among the
//! reference's flags first, so that a flag of ours never makes an old abbreviation ambiguous.

use larder_server::config::suggest;

use super::flags::{Flag, Kind};
use super::report::Report;
use super::settings::{Layer, Origin, Raw};
use super::table::{current, flags};

/// What was typed. Mistakes go to `report`.
pub(crate) fn scan(words: &[String], report: &mut Report) -> Layer {
    let mut layer = Layer::new(Origin::CommandLine);
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        rest = after;
        if !looks_like_a_flag(word) {
            report.problem(format!("{word}: unexpected word, every setting here is a flag"));
            continue;
        }
        let (typed, attached) = match word.split_once('=') {
            Some((typed, value)) if typed.starts_with("--") => (typed, Some(value)),
            _ => (word.as_str(), None),
        };
        let spelling = match resolve(typed) {
            Ok(spelling) => spelling,
            Err(line) => {
                report.problem(line);
                // What follows an unknown flag was most likely meant for it.
                rest = &rest[values_at(rest)..];
                continue;
            }
        };
        let taken = take(&spelling, attached, &mut rest, report);
        if let Some(raw) = taken {
            layer.add(current(spelling.flag), raw);
        }
    }
    layer
}

/// One way to type a flag.
#[derive(Clone, Debug)]
struct Spelling {
    flag: &'static Flag,
    typed: String,
    /// What the spelling says of a flag that is turned on or off.
    on: bool,
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

/// The spelling that `typed` is, or abbreviates.
fn resolve(typed: &str) -> Result<Spelling, String> {
    let typed = match typed {
        "-q" => "--quiet",
        "-h" => "--help",
        other => other,
    };
    let all: Vec<_> = spellings().collect();
    if let Some(exact) = all.iter().find(|spelling| spelling.typed == typed) {
        return Ok(exact.clone());
    }
    let long_enough = typed.starts_with("--") && typed.len() > 2;
    let fitting = |ours: bool| {
        all.iter()
            .filter(move |spelling| {
                spelling.flag.ours == ours && long_enough && spelling.typed.starts_with(typed)
            })
            .collect::<Vec<_>>()
    };
    let reference = fitting(false);
    let candidates = if reference.is_empty() { fitting(true) } else { reference };
    match &candidates[..] {
        [only] => Ok((*only).clone()),
        [] => {
            let hint = suggest::hint(typed, all.iter().map(|spelling| spelling.typed.as_str()));
            Err(format!("{typed}: no such flag{hint}"))
        }
        several => {
            let names: Vec<_> = several.iter().map(|spelling| spelling.typed.as_str()).collect();
            Err(format!("{typed}: ambiguous, it could be {}", names.join(", ")))
        }
    }
}

/// Takes what belongs to the flag; `None`, with a problem noted, where it is not there.
fn take(
    spelling: &Spelling,
    attached: Option<&str>,
    rest: &mut &[String],
    report: &mut Report,
) -> Option<Raw> {
    let typed = &spelling.typed;
    match (&spelling.flag.kind, attached) {
        (Kind::Switch | Kind::Pair, None) => Some(Raw::On(spelling.on)),
        (Kind::Switch | Kind::Pair, Some(value)) => {
            report.problem(format!("{typed}={value}: takes no value, leave out \"={value}\""));
            None
        }
        (Kind::Words, Some(value)) => Some(Raw::Many(vec![value.to_owned()])),
        (Kind::Words, None) => {
            let (words, after) = rest.split_at(values_at(rest));
            *rest = after;
            Some(Raw::Many(words.to_vec()))
        }
        (kind, Some(value)) => Some(one(kind, value)),
        (kind, None) => match rest.split_first() {
            Some((value, after)) if !looks_like_a_flag(value) => {
                *rest = after;
                Some(one(kind, value))
            }
            _ => {
                report.problem(format!("{typed}: needs a value, {typed} {}", kind.placeholder()));
                None
            }
        },
    }
}

fn one(kind: &Kind, value: &str) -> Raw {
    if kind.repeats() { Raw::Many(vec![value.to_owned()]) } else { Raw::One(value.to_owned()) }
}

/// How many of the next words are values.
fn values_at(words: &[String]) -> usize {
    words.iter().take_while(|word| !looks_like_a_flag(word)).count()
}

/// Whether a word is a flag rather than a value. Negative numbers, infinities and texts with blanks are values.
fn looks_like_a_flag(word: &str) -> bool {
    word.starts_with('-') && word.len() > 1 && !word.contains(' ') && word.parse::<f64>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(line: &str) -> (Vec<(&'static str, Raw)>, Vec<String>) {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let mut report = Report::default();
        let layer = scan(&words, &mut report);
        (layer.given.into_iter().map(|(flag, raw)| (flag.name, raw)).collect(), report.problems)
    }

    fn value(text: &str) -> Raw {
        Raw::One(text.to_owned())
    }

    fn values(texts: &[&str]) -> Raw {
        Raw::Many(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn each_way_of_typing_a_flag_is_understood() {
        let cases: &[(&str, &str, Raw)] = &[
            ("--port 1", "port", value("1")),
            ("--port=1", "port", value("1")),
            ("--port 1 --port 2", "port", value("2")),
            ("--shm-name=", "shm-name", value("")),
            ("--eviction-ratio -1", "eviction-ratio", value("-1")),
            ("--eviction-ratio -inf", "eviction-ratio", value("-inf")),
            ("--l1-use-lazy", "l1-use-lazy", Raw::On(true)),
            ("--no-l1-use-lazy", "l1-use-lazy", Raw::On(false)),
            ("--no-l1-use-l", "l1-use-lazy", Raw::On(false)),
            ("--enable", "enable", values(&[])),
            ("--enable transfer_query other", "enable", values(&["transfer_query", "other"])),
            ("--enable=transfer_query", "enable", values(&["transfer_query"])),
            ("--l2-adapter {} --l2-adapter [1]", "l2-adapter", values(&["{}", "[1]"])),
            ("--l1-size 4", "l1-size-gb", value("4")),
            ("--shm x", "shm-name", value("x")),
            ("--metrics-s 1", "metrics-sample-rate", value("1")),
            ("--check", "check-config", Raw::On(true)),
            ("-q", "quiet", Raw::On(true)),
            ("--disable-prometheus", "disable-metrics", Raw::On(true)),
        ];
        for (line, flag, raw) in cases {
            assert_eq!(scanned(line), (vec![(*flag, raw.clone())], vec![]), "{line}");
        }
    }

    #[test]
    fn each_mistake_is_one_line_and_the_rest_is_still_read() {
        let cases = [
            ("--chunk-sise 5", "--chunk-sise: no such flag, did you mean '--chunk-size'?"),
            ("--chunk_size 5", "--chunk_size: no such flag, did you mean '--chunk-size'?"),
            ("--frobnicate a b c", "--frobnicate: no such flag"),
            ("--l1-use", "--l1-use: ambiguous, it could be --l1-use-lazy, --l1-use-hugepages"),
            ("--host", "--host: needs a value, --host TEXT"),
            ("--host --isolated-ipc", "--host: needs a value, --host TEXT"),
            ("--isolated-ipc=1", "--isolated-ipc=1: takes no value, leave out \"=1\""),
            ("serve", "serve: unexpected word, every setting here is a flag"),
            ("--", "--: no such flag"),
            ("-x", "-x: no such flag"),
        ];
        for (line, problem) in cases {
            let (given, problems) = scanned(&format!("{line} --port 1"));
            assert_eq!(problems, [problem], "{line}");
            assert!(given.contains(&("port", value("1"))), "{line}");
        }
    }

    #[test]
    fn every_flag_can_be_typed() {
        for flag in flags() {
            for typed in [flag.dashed(), format!("--no-{}", flag.name)] {
                let spelling = resolve(&typed).map(|spelling| spelling.flag.name);
                if typed == flag.dashed() || matches!(flag.kind, Kind::Pair) {
                    assert_eq!(spelling, Ok(flag.name));
                }
            }
        }
    }
}
