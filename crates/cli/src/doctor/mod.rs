//! `larder doctor`: checks whether a server can run on this node, and names remedies.
//!
//! [`checks`] has one function for each check but that of the [`client`]. Nothing is changed, except that one file is written to measure a directory
//! and removed again.

mod checks;
mod client;

use std::path::PathBuf;

use serde_json::json;

use crate::Outcome;
use crate::terminal::print_stdout;

/// Check whether a server can run on this node
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0: no check fails, 1: a check fails, 2: usage error.")]
pub(crate) struct Args {
    /// Request port that must be free
    #[arg(long, value_name = "N", default_value = "5555")]
    port: u16,
    /// HTTP port that must be free
    #[arg(long, value_name = "N", default_value = "8080")]
    http_port: u16,
    /// L2 directory: check that it is writable, and measure its speed with a file of 64 MiB
    #[arg(long, value_name = "DIR")]
    l2: Option<PathBuf>,
    /// Python of the engine: which LMCache client it has, and whether that is served
    #[arg(long, value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// Print one JSON object per check
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok,
    Warn,
    Fail,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// The result of one check.
#[derive(Debug)]
struct Finding {
    check: &'static str,
    status: Status,
    detail: String,
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, detail: detail.into(), remedy: None }
    }

    fn warn(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Warn, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..Self::warn(check, detail, remedy) }
    }

    fn line(&self, as_json: bool) -> String {
        let (status, remedy) = (self.status.name(), self.remedy.as_deref());
        if as_json {
            let value =
                json!({"check": self.check, "status": status, "detail": self.detail, "remedy": remedy});
            return format!("{value}\n");
        }
        let remedy = remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
        format!("{status:<5} {:<13} {}{remedy}\n", self.check, self.detail)
    }
}

/// Runs `larder doctor`.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut findings = vec![
        checks::shared_memory(),
        checks::memory(),
        checks::open_files(),
        checks::huge_pages(),
        checks::port("port", "--port", args.port),
        checks::port("http port", "--http-port", args.http_port),
    ];
    findings.extend(args.l2.as_deref().map(checks::l2));
    findings.extend(args.python.as_deref().map(client::client));
    print_stdout(&findings.iter().map(|finding| finding.line(args.json)).collect::<String>())?;
    let failed = findings.iter().filter(|finding| finding.status == Status::Fail).count();
    anyhow::ensure!(failed == 0, "{failed} of {} checks fail", findings.len());
    Ok(Outcome::Done)
}
