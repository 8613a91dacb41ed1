//! The arguments of `larder simulate`, as typed and as checked. Every error is one line that names the flag.

use std::fmt::Display;
use std::path::PathBuf;
use std::thread::available_parallelism;

use larder_lab::simulate::size::{Size, SizeError};
use larder_lab::simulate::sweep::Sweep;
use larder_lab::simulate::trace::ReadOptions;
use larder_policy::eviction::EvictionKind;
use larder_policy::{OffloadKind, PrefetchKind};
use larder_server::config::suggest;

use crate::report::Report;

/// Sizes of L1 for a table.
const L1_SIZES: &str = "0.5%,1%,2.5%,5%,10%,20%,40%";
/// Sizes of L1 for a plot.
const L1_CURVE: &str = "0.25%..100%";

/// Simulate policies and sizes on traces of real requests, with the code of the server
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Sizes are bytes (64GiB), chunks (2000) or per cent of the distinct chunks of a trace (2.5%); \
                  A..B is a curve from A to B.\n\
                  Traces are Mooncake's (JSON lines with hash_ids), LMCache's lookup-hash logs (a file or a \
                  folder), or recordings\nof `larder server --record FILE`; plain, gzip or zstd."
)]
pub(crate) struct Args {
    /// Traces of requests
    #[arg(value_name = "TRACE", required = true)]
    traces: Vec<PathBuf>,
    /// Sizes of L1 [default: 0.5%,1%,2.5%,5%,10%,20%,40%; with --plot 0.25%..100%]
    #[arg(long, value_name = "SIZE,...")]
    l1: Option<String>,
    /// Sizes of L2; 'unbounded': no limit, 0: no L2
    #[arg(long, value_name = "SIZE,...", default_value = "unbounded")]
    l2: String,
    /// Prefetch policies, by the server's names, or 'all'
    #[arg(long, value_name = "POLICY,...", default_value = "all")]
    l2_prefetch_policy: String,
    /// Eviction policies, by the server's names, or 'all'
    #[arg(long, value_name = "POLICY,...", default_value = "LRU")]
    eviction_policy: String,
    /// Store policies, by the server's names, or 'all'
    #[arg(long, value_name = "POLICY,...", default_value = "default")]
    l2_store_policy: String,
    /// Tokens per chunk, if a trace does not contain it
    #[arg(long, value_name = "N")]
    chunk_tokens: Option<String>,
    /// Bytes per chunk, if a trace does not contain it; needed for sizes in bytes
    #[arg(long, value_name = "SIZE")]
    chunk_bytes: Option<String>,
    /// Only requests for this model
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Only the first N requests
    #[arg(long, value_name = "N")]
    requests: Option<String>,
    /// Leading fraction of the requests that is not counted
    #[arg(long, value_name = "FRACTION", default_value = "0")]
    warmup: String,
    /// Requests in progress at the same time; the oldest ends when another begins
    #[arg(long, value_name = "N", default_value = "1")]
    concurrency: String,
    /// Combinations simulated at the same time [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    /// Print one JSON object per combination
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values
    #[arg(long)]
    csv: bool,
    /// Also plot the curves
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Table,
    Json,
    Csv,
}

/// The checked arguments.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) traces: Vec<PathBuf>,
    pub(super) reading: ReadOptions,
    pub(super) chunk_bytes: Option<u64>,
    pub(super) sweep: Sweep,
    pub(super) format: Format,
    pub(super) plot: Option<PathBuf>,
}

/// Why the text of a flag is invalid.
#[derive(Debug, thiserror::Error)]
enum ArgError {
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error("0 is not allowed: there is always an L1")]
    NoL1,
    #[error("'{0}' is not a size in bytes, such as 2MiB")]
    NotBytes(String),
    #[error("must be a whole number from 1, not '{0}'")]
    NotCount(String),
    #[error("must be a fraction from 0 to below 1, not '{0}'")]
    NotFraction(String),
    #[error("no policy is called '{name}'{hint} (known: {known}, or all)")]
    NoPolicy { name: String, hint: String, known: String },
    #[error("'{0}' must end in .svg")]
    NotSvg(String),
}

impl Args {
    /// Checks the arguments. After an error was reported the options must not be used.
    pub(super) fn options(self, report: &mut Report) -> Options {
        let default_l1 = if self.plot.is_some() { L1_CURVE } else { L1_SIZES };
        let l1 = sizes(self.l1.as_deref().unwrap_or(default_l1)).and_then(|sizes| {
            if sizes.iter().any(|size| size.is_zero()) { Err(ArgError::NoL1) } else { Ok(sizes) }
        });
        let l2 = self.l2.split(',').map(|text| match text.trim() {
            "unbounded" => Ok(vec![None]),
            text => Ok::<_, ArgError>(sizes(text)?.into_iter().map(Some).collect()),
        });
        let mut check = Check(report);
        let sweep = Sweep {
            l1: check.value("--l1", l1),
            l2: check.value("--l2", l2.collect::<Result<Vec<_>, _>>()).concat(),
            prefetch: check.value(
                "--l2-prefetch-policy",
                policies(&self.l2_prefetch_policy, PrefetchKind::ALL, PrefetchKind::name),
            ),
            eviction: check.value(
                "--eviction-policy",
                policies(&self.eviction_policy, EvictionKind::ALL, EvictionKind::name),
            ),
            store: check.value(
                "--l2-store-policy",
                policies(&self.l2_store_policy, OffloadKind::ALL, OffloadKind::name),
            ),
            warmup: check.value("--warmup", warmup(&self.warmup)),
            concurrency: check.value("--concurrency", count(&self.concurrency)),
            threads: check
                .optional("--threads", self.threads.as_deref(), count)
                .unwrap_or_else(|| available_parallelism().map_or(1, usize::from)),
        };
        let reading = ReadOptions {
            chunk_tokens: check
                .optional("--chunk-tokens", self.chunk_tokens.as_deref(), count)
                .map(|tokens| tokens as u32),
            model: self.model,
            requests_max: check.optional("--requests", self.requests.as_deref(), count),
        };
        let chunk_bytes = check.optional("--chunk-bytes", self.chunk_bytes.as_deref(), bytes);
        if let Some(path) =
            self.plot.as_deref().filter(|path| path.extension().is_none_or(|end| end != "svg"))
        {
            check.value("--plot", Err::<(), _>(ArgError::NotSvg(path.display().to_string())));
        }
        let format = match (self.json, self.csv) {
            (true, _) => Format::Json,
            (_, true) => Format::Csv,
            _ => Format::Table,
        };
        Options { traces: self.traces, reading, chunk_bytes, sweep, format, plot: self.plot }
    }
}

/// Reports invalid values, and replaces them by defaults.
struct Check<'a>(&'a mut Report);

impl Check<'_> {
    fn value<T: Default>(&mut self, flag: &str, result: Result<T, impl Display>) -> T {
        result.unwrap_or_else(|error| {
            self.0.error(format!("{flag}: {error}"));
            T::default()
        })
    }

    fn optional<T: Default>(
        &mut self,
        flag: &str,
        text: Option<&str>,
        parse: impl Fn(&str) -> Result<T, ArgError>,
    ) -> Option<T> {
        text.map(|text| self.value(flag, parse(text)))
    }
}

/// Parses sizes and ranges of sizes.
fn sizes(text: &str) -> Result<Vec<Size>, ArgError> {
    let each = text.split(',').map(|size| Size::parse_many(size.trim()));
    Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Parses a size in bytes; the unit may be missing.
fn bytes(text: &str) -> Result<u64, ArgError> {
    match text.parse() {
        Ok(Size::Bytes(bytes) | Size::Chunks(bytes)) if (1.0..1e15).contains(&bytes) => Ok(bytes as u64),
        _ => Err(ArgError::NotBytes(text.to_owned())),
    }
}

fn count(text: &str) -> Result<usize, ArgError> {
    let number = text.parse().ok().filter(|number| (1..=u32::MAX as usize).contains(number));
    number.ok_or_else(|| ArgError::NotCount(text.to_owned()))
}

fn warmup(text: &str) -> Result<f64, ArgError> {
    let fraction = text.parse().ok().filter(|fraction| (0.0..1.0).contains(fraction));
    fraction.ok_or_else(|| ArgError::NotFraction(text.to_owned()))
}

/// Parses names of policies, or `all`; drops duplicates.
fn policies<T: Copy + PartialEq>(
    text: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<Vec<T>, ArgError> {
    if text == "all" {
        return Ok(all.to_vec());
    }
    let mut chosen = Vec::new();
    for given in text.split(',').map(str::trim) {
        let Some(kind) = all.iter().find(|kind| name(**kind) == given) else {
            let names: Vec<&str> = all.iter().map(|kind| name(*kind)).collect();
            let hint = suggest::hint(given, names.iter().copied());
            return Err(ArgError::NoPolicy { name: given.to_owned(), hint, known: names.join(", ") });
        };
        if !chosen.contains(kind) {
            chosen.push(*kind);
        }
    }
    Ok(chosen)
}
