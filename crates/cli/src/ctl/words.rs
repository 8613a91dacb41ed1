//! From what was typed to a question for a server. Every mistake is one line that names the flag.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::usage;

/// Asks a running server, over its HTTP API.
#[derive(Debug, Parser)]
#[command(
    name = "larder ctl",
    disable_help_subcommand = true,
    after_help = "Exit status: 0 done, 1 the server refused or is not there, 2 these words make no sense."
)]
pub(super) struct Typed {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    #[command(subcommand)]
    pub(super) job: Job,
}

/// Which server, and how it is spoken to.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Where its HTTP API is
    #[arg(long, global = true, value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = url)]
    pub(crate) url: String,
    /// File with the token of its --http-auth-token-file, for calls that change something
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Seconds to wait for it
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Print the answer as it comes
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Job {
    /// Does it answer?
    Ping {
        /// Ask whether it serves, all tiers included, and not only whether it lives
        #[arg(long)]
        ready: bool,
    },
    /// How it does: health, tiers, hit rate, sessions
    Status,
    /// What it is: version, configuration, L2 adapters, workers and their models
    Describe,
    /// What other sizes of L1 and other policies would have done with what was asked
    Whatif,
    /// Empty L1 of what nobody holds; L2 is left as it is
    Clear {
        /// Also remove what is held
        #[arg(long)]
        force: bool,
    },
    /// How much each cache salt may hold
    #[command(subcommand)]
    Quota(Quota),
    /// What is cached
    #[command(subcommand)]
    Objects(Objects),
    /// Load a prompt from L2 into L1 ahead of its request
    Prefetch(Prefetch),
}

#[derive(Debug, Subcommand)]
pub(super) enum Quota {
    /// All quotas
    List,
    /// One quota
    Get {
        /// The cache salt; _default is the empty one
        salt: String,
    },
    /// Set a quota; what is over it leaves at once
    Set {
        /// The cache salt; _default is the empty one
        salt: String,
        /// How much it may hold, in GiB
        #[arg(value_name = "GIB", value_parser = gib)]
        limit_gb: f64,
    },
    /// Take a quota away
    Delete {
        /// The cache salt; _default is the empty one
        salt: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Objects {
    /// List objects, one a line: its key and its bytes
    List {
        /// Which tier
        #[arg(long, value_enum, default_value = "all")]
        tier: Tier,
        /// Only L2 adapters of this type
        #[arg(long, value_name = "TYPE")]
        adapter: Option<String>,
        /// Only objects of this model
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
        /// At most so many; 0 is no limit
        #[arg(long, value_name = "N", default_value = "100")]
        limit: u64,
    },
    /// Remove objects
    Delete {
        /// Keys as `objects list` prints them, or names of files in an L2 directory; - reads them from
        /// stdin, one a line
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
        /// Which tier
        #[arg(long, value_enum, default_value = "all")]
        tier: Tier,
        /// Only L2 adapters of this type
        #[arg(long, value_name = "TYPE")]
        adapter: Option<String>,
        /// Also remove what is held in L1
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Prefetch {
    /// The model, as its workers registered it
    pub(super) model: String,
    /// File with the prompt's token ids, as a JSON list or parted by white space; - is stdin
    #[arg(value_name = "FILE")]
    pub(super) tokens: PathBuf,
    /// Workers that share the model
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) world_size: u32,
    /// The cache salt
    #[arg(long, value_name = "SALT", default_value = "")]
    pub(super) salt: String,
    /// Return as soon as it has begun
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Tier {
    L1,
    L2,
    All,
}

impl Tier {
    /// What the API calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::L1 => "l1",
            Self::L2 => "l2",
            Self::All => "all",
        }
    }
}

/// What the words mean.
#[derive(Debug)]
pub(super) enum Words {
    Question {
        typed: Box<Typed>,
        token: Option<String>,
    },
    /// Help was asked for; this is it.
    Help(String),
}

impl Words {
    /// Understands words, or says what is wrong with them.
    pub(super) fn read(words: &[OsString]) -> Result<Self, String> {
        let name = OsString::from("larder ctl");
        match Typed::try_parse_from(std::iter::once(&name).chain(words)) {
            Ok(typed) => {
                let token = typed.server.token_file.as_deref().map(token).transpose()?;
                Ok(Self::Question { typed: Box::new(typed), token })
            }
            Err(error) if error.kind() == ErrorKind::DisplayHelp => Ok(Self::Help(error.to_string())),
            Err(error) => Err(usage::one_line(&error, "larder ctl --help")),
        }
    }
}

/// All words there are, for completions.
pub(crate) fn command() -> clap::Command {
    Typed::command()
}

/// The token in a file.
fn token(path: &Path) -> Result<String, String> {
    let subject = format!("--token-file {}", path.display());
    let text = fs::read_to_string(path).map_err(|error| format!("{subject}: cannot be read: {error}"))?;
    let token = text.trim();
    // Anything else would not survive a header line.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{subject}: must hold one token and nothing else"));
    }
    Ok(token.to_owned())
}

/// The address of an HTTP API, without a slash at its end.
pub(crate) fn url(text: &str) -> Result<String, String> {
    let problem = if text.starts_with("https://") {
        "https is not spoken here, only http://"
    } else if !text.starts_with("http://") {
        "must begin with http://"
    } else {
        match text.parse::<ureq::http::Uri>() {
            Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none() => {
                return Ok(text.trim_end_matches('/').to_owned());
            }
            _ => "must be http://HOST:PORT",
        }
    };
    Err(problem.to_owned())
}

/// A time from above 0 to a day.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| *s > 0.0 && *s <= 86_400.0);
    let seconds = seconds.ok_or("must be a number above 0 and up to 86400")?;
    Ok(Duration::from_secs_f64(seconds))
}

fn gib(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    number.ok_or_else(|| "must be a number from 0".to_owned())
}
