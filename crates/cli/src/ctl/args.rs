//! The arguments of `larder ctl`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use super::InputError;

/// Query and control a running server over its HTTP API
#[derive(Debug, clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Exit status: 0: success, 1: the server refused or did not answer, 2: usage error."
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// The server, and how to call it.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// Address of the server's HTTP API, http://HOST:PORT, or unix:PATH for its --http-uds
    #[arg(long, global = true, value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = url)]
    pub(crate) url: String,
    /// File with the token that the server has from --http-auth-token-file; needed to change something, but not with a
    /// Unix socket
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Seconds to wait for the server
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Print the server's response as it came
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Check that the server answers
    Ping {
        /// Check that it serves, with all tiers, not only that it answers
        #[arg(long)]
        ready: bool,
    },
    /// Show health, tiers, hit rate and sessions
    Status,
    /// Show version, configuration, L2 adapters, workers and their models
    Describe,
    /// Show the estimated hit rates of other L1 sizes and policies for the requests so far
    Whatif,
    /// Remove all objects from L1 except pinned ones; L2 keeps its objects
    Clear {
        /// Also remove pinned objects
        #[arg(long)]
        force: bool,
    },
    /// Show or change the quotas of cache salts
    #[command(subcommand)]
    Quota(Quota),
    /// List or remove cached objects
    #[command(subcommand)]
    Objects(Objects),
    /// Load a prompt from L2 into L1 ahead of its request
    Prefetch(Prefetch),
}

#[derive(Debug, Subcommand)]
pub(super) enum Quota {
    /// List all quotas
    List,
    /// Show one quota
    Get {
        /// The cache salt; _default is the empty one
        salt: String,
    },
    /// Set a quota; objects above it are evicted at once
    Set {
        /// The cache salt; _default is the empty one
        salt: String,
        /// Limit in GiB
        #[arg(value_name = "GIB", value_parser = gib)]
        limit_gb: f64,
    },
    /// Delete a quota
    Delete {
        /// The cache salt; _default is the empty one
        salt: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Objects {
    /// List objects, one per line: tier, bytes, key
    List {
        /// The tier
        #[arg(long, value_enum, default_value = "all")]
        tier: Tier,
        /// Only L2 adapters of this type
        #[arg(long, value_name = "TYPE")]
        adapter: Option<String>,
        /// Only objects of this model
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
        /// Maximum number of objects; 0: no limit
        #[arg(long, value_name = "N", default_value = "100")]
        limit: u64,
    },
    /// Remove objects
    Delete {
        /// Keys as `objects list` prints them, or names of files in an L2 directory; -: read them from stdin, one per
        /// line
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
        /// The tier
        #[arg(long, value_enum, default_value = "all")]
        tier: Tier,
        /// Only L2 adapters of this type
        #[arg(long, value_name = "TYPE")]
        adapter: Option<String>,
        /// Also remove objects that are pinned in L1
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Prefetch {
    /// The model, as its workers registered it
    pub(super) model: String,
    /// File with the prompt's token ids, as a JSON list or separated by white space; -: stdin
    #[arg(value_name = "FILE")]
    pub(super) tokens: PathBuf,
    /// Number of workers that the model is divided among
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) world_size: u32,
    /// The cache salt
    #[arg(long, value_name = "SALT", default_value = "")]
    pub(super) salt: String,
    /// Do not wait until it is loaded
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
    /// The tier's name in the API.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::L1 => "l1",
            Self::L2 => "l2",
            Self::All => "all",
        }
    }
}

impl ServerArgs {
    /// Reads the token file, if one is given.
    pub(crate) fn token(&self) -> Result<Option<String>, InputError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let invalid =
            |reason: String| InputError { input: format!("--token-file {}", path.display()), reason };
        let text = fs::read_to_string(path).map_err(|error| invalid(format!("cannot be read: {error}")))?;
        let token = text.trim();
        // Other characters are not valid in a header.
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("must hold one token and nothing else".to_owned()));
        }
        Ok(Some(token.to_owned()))
    }
}

/// Begins the address of a Unix socket.
pub(super) const UNIX: &str = "unix:";

/// Parses the address of an HTTP API; removes a slash at its end.
pub(crate) fn url(text: &str) -> Result<String, &'static str> {
    if let Some(path) = text.strip_prefix(UNIX) {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() { Err("must be unix:PATH") } else { Ok(format!("{UNIX}{path}")) };
    }
    if text.starts_with("https://") {
        return Err("https is not supported, use http://");
    }
    if !text.starts_with("http://") {
        return Err("must begin with http:// or unix:");
    }
    match text.parse::<ureq::http::Uri>() {
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("must be http://HOST:PORT or unix:PATH"),
    }
}

/// Parses a time of at most a day.
pub(crate) fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.parse::<f64>().ok().filter(|s| *s > 0.0 && *s <= 86_400.0);
    let seconds = seconds.ok_or("must be a number above 0 and up to 86400")?;
    Ok(Duration::from_secs_f64(seconds))
}

fn gib(text: &str) -> Result<f64, &'static str> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    number.ok_or("must be a number from 0")
}
