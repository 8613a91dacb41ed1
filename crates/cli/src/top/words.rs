//! What may be typed behind `larder top`.

use std::ffi::OsString;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::ctl::{ServerArgs, seconds, url};
use crate::usage;

/// Shows how a running server does, live. q, Esc or Ctrl-C quit.
#[derive(Debug, Parser)]
#[command(name = "larder top", disable_help_subcommand = true)]
pub(super) struct Typed {
    /// Where its HTTP API is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = url)]
    pub(super) url: String,
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub(super) interval: Duration,
    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,
    /// Print one frame as text, of what happens within one interval
    #[arg(long)]
    pub(super) once: bool,
}

impl Typed {
    /// The server, as `ctl` is told of it. Nothing is changed there, so there is no token.
    pub(super) fn server(&self) -> ServerArgs {
        ServerArgs { url: self.url.clone(), token_file: None, timeout: self.timeout, json: false }
    }
}

/// What the words mean.
#[derive(Debug)]
pub(super) enum Words {
    Show(Typed),
    /// Help was asked for; this is it.
    Help(String),
}

impl Words {
    /// Understands words, or says what is wrong with them.
    pub(super) fn read(words: &[OsString]) -> Result<Self, String> {
        let name = OsString::from("larder top");
        match Typed::try_parse_from(std::iter::once(&name).chain(words)) {
            Ok(typed) => Ok(Self::Show(typed)),
            Err(error) if error.kind() == ErrorKind::DisplayHelp => Ok(Self::Help(error.to_string())),
            Err(error) => Err(usage::one_line(&error, "larder top --help")),
        }
    }
}

/// All words there are, for completions.
pub(crate) fn command() -> clap::Command {
    Typed::command()
}
