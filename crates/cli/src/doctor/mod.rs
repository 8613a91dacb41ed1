//! `larder doctor`: whether this node is fit for a server, and what to change where it is not.
//!
//! [`checks`] looks, one function per matter; a finding is one line. Nothing is changed: the one file
//! that is written, to measure a directory, goes at once.

mod checks;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde_json::json;

use crate::terminal::{say, tell};
use crate::{Outcome, usage};

/// Checks whether this node is fit for a server, and says what to change.
#[derive(Debug, Parser)]
#[command(
    name = "larder doctor",
    after_help = "Exit status: 0 fit, 1 something fails, 2 these words make no sense."
)]
struct Typed {
    /// Port of requests that must be free
    #[arg(long, value_name = "N", default_value = "5555")]
    port: u16,
    /// Port of HTTP that must be free
    #[arg(long, value_name = "N", default_value = "8080")]
    http_port: u16,
    /// Directory of an L2: is it writable, and how fast? Writes and removes a file of 64 MiB
    #[arg(long, value_name = "DIR")]
    l2: Option<PathBuf>,
    /// Python of the engine: which LMCache client has it?
    #[arg(long, value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// Print one JSON object per line and matter
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One matter: how it is, and what to do about it.
#[derive(Debug)]
struct Finding {
    matter: &'static str,
    verdict: Verdict,
    is: String,
    change: Option<String>,
}

impl Finding {
    fn ok(matter: &'static str, is: impl Into<String>) -> Self {
        Self { matter, verdict: Verdict::Ok, is: is.into(), change: None }
    }

    fn warn(matter: &'static str, is: impl Into<String>, change: impl Into<String>) -> Self {
        Self { matter, verdict: Verdict::Warn, is: is.into(), change: Some(change.into()) }
    }

    fn fail(matter: &'static str, is: impl Into<String>, change: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(matter, is, change) }
    }

    fn line(&self, as_json: bool) -> String {
        let (verdict, change) = (self.verdict.name(), self.change.as_deref());
        if as_json {
            let value = json!({"matter": self.matter, "verdict": verdict, "is": self.is, "change": change});
            return format!("{value}\n");
        }
        let change = change.map(|change| format!("; {change}")).unwrap_or_default();
        format!("{verdict:<5} {:<13} {}{change}\n", self.matter, self.is)
    }
}

/// All words there are, for completions.
pub(crate) fn command() -> clap::Command {
    Typed::command()
}

/// Runs `larder doctor` with these words.
pub(crate) fn run(words: &[OsString]) -> anyhow::Result<Outcome> {
    let name = OsString::from("larder doctor");
    let typed = match Typed::try_parse_from(std::iter::once(&name).chain(words)) {
        Ok(typed) => typed,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return say(&error.to_string()),
        Err(error) => {
            tell("error", &[usage::one_line(&error, "larder doctor --help")]);
            return Ok(Outcome::Usage);
        }
    };
    let mut findings = vec![
        checks::shared_memory(),
        checks::memory(),
        checks::open_files(),
        checks::huge_pages(),
        checks::port("port", "--port", typed.port),
        checks::port("http port", "--http-port", typed.http_port),
    ];
    findings.extend(typed.l2.as_deref().map(checks::l2));
    findings.extend(typed.python.as_deref().map(checks::client));
    say(&findings.iter().map(|finding| finding.line(typed.json)).collect::<String>())?;
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count();
    anyhow::ensure!(failed == 0, "this node is not fit yet: {failed} of {} checks fail", findings.len());
    Ok(Outcome::Done)
}
