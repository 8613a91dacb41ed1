//! `larder ctl`: commands for a running server, over its HTTP API.
//!
//! [`args`] defines the arguments, [`client`] calls the server, [`commands`] has one function for each command, and
//! [`format`](mod@format) writes responses for people. With `--json` responses are printed as they came.

mod args;
mod client;
mod commands;
mod format;
mod objects;
mod prefetch;
mod unix;
mod whatif;

use serde_json::Value;

pub(crate) use self::args::{Args, ServerArgs, seconds, url};
pub(crate) use self::client::Client;
use self::client::{RequestError, Response};
pub(crate) use self::format::bytes;
use crate::Outcome;
use crate::terminal::{print_stderr, print_stdout};

/// Runs `larder ctl`.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    commands::run(args).or_else(|error| {
        // With --json the body of a refusal is printed, too.
        if let Some(RequestError::Refused { body, .. }) = error.downcast_ref()
            && args.server.json
        {
            print_stdout(&line(body))?;
        }
        if error.is::<InputError>() {
            print_stderr("error", &[error.to_string()]);
            return Ok(Outcome::UsageError);
        }
        Err(error)
    })
}

/// Prints a response: as it came with `--json`, else as formatted by `format`.
fn print(args: &Args, response: &Response, format: impl FnOnce(&Value) -> String) -> anyhow::Result<Outcome> {
    if args.server.json {
        return print_stdout(&line(&response.body));
    }
    print_stdout(&format(&response.value))
}

fn line(body: &str) -> String {
    format!("{}\n", body.trim_end())
}

/// Invalid input: an error of the user, not of the server.
#[derive(Debug, thiserror::Error)]
#[error("{input}: {reason}")]
pub(crate) struct InputError {
    input: String,
    reason: String,
}
