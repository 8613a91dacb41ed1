//! `larder ctl`: what an operator asks of a running server, over its HTTP API.
//!
//! [`words`] turns what was typed into a question, every mistake one line; [`client`] asks the server;
//! [`jobs`] holds the questions one by one, and [`report`] writes the answers for people. With `--json`
//! answers are shown as they came. No runtime, no TLS: a call takes as long as the server does.

mod client;
mod jobs;
mod objects;
mod prefetch;
mod report;
mod whatif;
mod words;

use std::ffi::OsString;

use serde_json::Value;

use self::client::{Answer, Failure};
use self::words::{Typed, Words};
use crate::Outcome;
use crate::terminal::{say, tell};

pub(crate) use self::client::Client;
pub(crate) use self::report::bytes;
pub(crate) use self::words::{ServerArgs, command, seconds, url};

/// Runs `larder ctl` with these words.
pub(crate) fn run(words: &[OsString]) -> anyhow::Result<Outcome> {
    match Words::read(words) {
        Ok(Words::Question { typed, token }) => ask(&typed, token),
        Ok(Words::Help(text)) => say(&text),
        Err(problem) => {
            tell("error", &[problem]);
            Ok(Outcome::Usage)
        }
    }
}

fn ask(typed: &Typed, token: Option<String>) -> anyhow::Result<Outcome> {
    let client = Client::new(&typed.server, token);
    match jobs::run(&client, typed) {
        Ok(outcome) => Ok(outcome),
        Err(error) => {
            // Whoever asked for the answer as it is gets it, whatever it says.
            if let Some(Failure::Refused { raw, .. }) = error.downcast_ref()
                && typed.server.json
            {
                say(&line(raw))?;
            }
            if error.is::<Unusable>() {
                tell("error", &[error.to_string()]);
                return Ok(Outcome::Usage);
            }
            Err(error)
        }
    }
}

/// Shows an answer: as it came, or as `human` puts it.
fn show(typed: &Typed, answer: &Answer, human: impl FnOnce(&Value) -> String) -> anyhow::Result<Outcome> {
    if typed.server.json {
        return say(&line(&answer.raw));
    }
    say(&human(&answer.value))
}

/// An answer as a line of its own.
fn line(raw: &str) -> String {
    format!("{}\n", raw.trim_end())
}

/// Input that cannot be used: a mistake of whoever typed it, not the server's refusal.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
struct Unusable {
    what: String,
    why: String,
}
