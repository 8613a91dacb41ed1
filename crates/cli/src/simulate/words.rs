//! From what was typed to a question for the policy lab. Every mistake is one line that names the flag.

use std::ffi::OsString;
use std::path::PathBuf;
use std::thread::available_parallelism;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use larder_lab::simulate::size::Size;
use larder_lab::simulate::sweep::Sweep;
use larder_lab::simulate::trace::ReadOptions;
use larder_policy::eviction::EvictionKind;
use larder_policy::{OffloadKind, PrefetchKind};
use larder_server::config::suggest;

use crate::usage;

/// Sizes that show the whole way from short memory to plenty.
const L1_SIZES: &str = "0.5%,1%,2.5%,5%,10%,20%,40%";
/// Sizes for a picture.
const L1_CURVE: &str = "0.25%..100%";

/// Tells what each policy and size would do on traces of real requests, with the code that the server
/// runs.
#[derive(Debug, Parser)]
#[command(
    name = "larder simulate",
    after_help = "Sizes are bytes (64GiB), chunks (2000) or per cent of the distinct chunks of a trace (2.5%); \
                  A..B is a whole curve of them.\n\
                  Traces are Mooncake's (JSON lines with hash_ids), LMCache's lookup-hash logs (a file or a \
                  folder), or what\n`larder server --record FILE` wrote; plain, gzip or zstd."
)]
struct Typed {
    /// Traces of requests
    #[arg(value_name = "TRACE", required = true)]
    traces: Vec<PathBuf>,
    /// Sizes of L1 [default: 0.5%,1%,2.5%,5%,10%,20%,40%; with --plot 0.25%..100%]
    #[arg(long, value_name = "SIZE,...")]
    l1: Option<String>,
    /// Sizes of L2; 'unbounded' keeps everything, 0 is no L2
    #[arg(long, value_name = "SIZE,...", default_value = "unbounded")]
    l2: String,
    /// What stays of what was loaded from L2, by the server's names, or 'all'
    #[arg(long, value_name = "POLICY,...", default_value = "all")]
    l2_prefetch_policy: String,
    /// Which chunk leaves when space is needed, by the server's names, or 'all'
    #[arg(long, value_name = "POLICY,...", default_value = "LRU")]
    eviction_policy: String,
    /// What goes to L2, by the server's names, or 'all'
    #[arg(long, value_name = "POLICY,...", default_value = "default")]
    l2_store_policy: String,
    /// Tokens per chunk, where a trace does not tell
    #[arg(long, value_name = "N")]
    chunk_tokens: Option<String>,
    /// Bytes per chunk, where a trace does not tell; for sizes in bytes
    #[arg(long, value_name = "SIZE")]
    chunk_bytes: Option<String>,
    /// Only requests of this model
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Only the first so many requests
    #[arg(long, value_name = "N")]
    requests: Option<String>,
    /// Leading fraction of the requests that is not counted
    #[arg(long, value_name = "FRACTION", default_value = "0")]
    warmup: String,
    /// Requests that are open at once: the oldest ends when one more begins
    #[arg(long, value_name = "N", default_value = "1")]
    concurrency: String,
    /// Combinations tried at once [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    /// Print one JSON object per line and combination
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values
    #[arg(long)]
    csv: bool,
    /// Also draw the curves
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// How the answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Table,
    Json,
    Csv,
}

/// What is to be found out.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) traces: Vec<PathBuf>,
    pub(super) reading: ReadOptions,
    pub(super) chunk_bytes: Option<u64>,
    pub(super) sweep: Sweep,
    pub(super) format: Format,
    pub(super) plot: Option<PathBuf>,
}

/// What the words mean.
#[derive(Debug)]
pub(super) enum Words {
    Question(Box<Question>),
    /// Help was asked for; this is it.
    Help(String),
}

impl Words {
    /// Understands words, or says what is wrong with them.
    pub(super) fn read(words: &[OsString]) -> Result<Self, Vec<String>> {
        let name = OsString::from("larder simulate");
        match Typed::try_parse_from(std::iter::once(&name).chain(words)) {
            Ok(typed) => typed.question().map(|question| Self::Question(Box::new(question))),
            Err(error) if error.kind() == ErrorKind::DisplayHelp => Ok(Self::Help(error.to_string())),
            Err(error) => Err(vec![one_line(&error)]),
        }
    }
}

/// All words there are, for completions.
pub(crate) fn command() -> clap::Command {
    Typed::command()
}

/// What is wrong, in one line.
fn one_line(error: &clap::Error) -> String {
    match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            "no trace: give a file, larder simulate TRACE... (--help tells more)".to_owned()
        }
        _ => usage::one_line(error, "larder simulate --help"),
    }
}

/// Mistakes, and values that stand in for what was mistaken.
#[derive(Debug, Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    fn value<T: Default>(&mut self, flag: &str, result: Result<T, impl std::fmt::Display>) -> T {
        result.unwrap_or_else(|problem| {
            self.0.push(format!("{flag}: {problem}"));
            T::default()
        })
    }

    /// A whole number from 1.
    fn count(&mut self, flag: &str, text: &str) -> usize {
        let number = text.parse::<usize>().ok().filter(|n| *n > 0 && *n <= u32::MAX as usize);
        self.value(flag, number.ok_or_else(|| format!("must be a whole number from 1, not '{text}'")))
    }

    /// Policies by their names.
    fn policies<T: Copy + PartialEq>(
        &mut self,
        flag: &str,
        text: &str,
        all: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Vec<T> {
        if text == "all" {
            return all.to_vec();
        }
        let mut chosen = Vec::new();
        for given in text.split(',').map(str::trim) {
            match all.iter().find(|kind| name(**kind) == given) {
                Some(kind) if chosen.contains(kind) => {}
                Some(kind) => chosen.push(*kind),
                None => {
                    let names: Vec<&str> = all.iter().map(|kind| name(*kind)).collect();
                    let hint = suggest::hint(given, names.iter().copied());
                    let known = names.join(", ");
                    self.0.push(format!(
                        "{flag}: no policy is called '{given}'{hint} (known: {known}, or all)"
                    ));
                }
            }
        }
        chosen
    }
}

impl Typed {
    fn question(self) -> Result<Question, Vec<String>> {
        let mut mistakes = Mistakes::default();
        let usual = if self.plot.is_some() { L1_CURVE } else { L1_SIZES };
        let l1 = sizes(self.l1.as_deref().unwrap_or(usual)).and_then(|sizes| {
            let none = sizes.iter().any(|size| size.is_zero());
            if none { Err("0 is no size: there is always an L1".to_owned()) } else { Ok(sizes) }
        });
        let l1 = mistakes.value("--l1", l1);
        let l2 = self.l2.split(',').map(|text| match text.trim() {
            "unbounded" => Ok(vec![None]),
            text => Ok::<_, String>(sizes(text)?.into_iter().map(Some).collect()),
        });
        let l2 = mistakes.value("--l2", l2.collect::<Result<Vec<_>, _>>()).concat();
        let prefetch = mistakes.policies(
            "--l2-prefetch-policy",
            &self.l2_prefetch_policy,
            PrefetchKind::ALL,
            PrefetchKind::name,
        );
        let eviction = mistakes.policies(
            "--eviction-policy",
            &self.eviction_policy,
            EvictionKind::ALL,
            EvictionKind::name,
        );
        let store = mistakes.policies(
            "--l2-store-policy",
            &self.l2_store_policy,
            OffloadKind::ALL,
            OffloadKind::name,
        );
        let warmup = self.warmup.parse::<f64>().ok().filter(|part| (0.0..1.0).contains(part));
        let problem = || format!("must be a fraction from 0 to below 1, not '{}'", self.warmup);
        let warmup = mistakes.value("--warmup", warmup.ok_or_else(problem));
        let concurrency = mistakes.count("--concurrency", &self.concurrency);
        let threads = match &self.threads {
            Some(text) => mistakes.count("--threads", text),
            None => available_parallelism().map_or(1, usize::from),
        };
        let chunk_tokens = self.chunk_tokens.map(|text| mistakes.count("--chunk-tokens", &text) as u32);
        let chunk_bytes = self.chunk_bytes.map(|text| mistakes.value("--chunk-bytes", bytes(&text)));
        let requests_max = self.requests.map(|text| mistakes.count("--requests", &text));
        if let Some(path) = &self.plot
            && path.extension().is_none_or(|end| end != "svg")
        {
            mistakes.0.push(format!("--plot: '{}' must end in .svg", path.display()));
        }
        if !mistakes.0.is_empty() {
            return Err(mistakes.0);
        }
        let format = match (self.json, self.csv) {
            (true, _) => Format::Json,
            (_, true) => Format::Csv,
            _ => Format::Table,
        };
        Ok(Question {
            traces: self.traces,
            reading: ReadOptions { chunk_tokens, model: self.model, requests_max },
            chunk_bytes,
            sweep: Sweep { l1, l2, prefetch, eviction, store, concurrency, warmup, threads },
            format,
            plot: self.plot,
        })
    }
}

/// Sizes and ranges of them.
fn sizes(text: &str) -> Result<Vec<Size>, String> {
    let each = text.split(',').map(|size| Size::parse_many(size.trim()).map_err(|error| error.to_string()));
    Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
}

/// A size that is in bytes, a bare number included.
fn bytes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(Size::Bytes(bytes) | Size::Chunks(bytes)) if (1.0..1e15).contains(&bytes) => Ok(bytes as u64),
        _ => Err(format!("'{text}' is no size in bytes, such as 2MiB")),
    }
}
