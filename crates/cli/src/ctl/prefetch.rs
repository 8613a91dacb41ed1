//! Loads a prompt from L2 ahead of its request.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, bail};
use serde_json::json;
use ureq::http::Method;

use super::args::{Args, Prefetch};
use super::client::Client;
use super::{InputError, print};
use crate::Outcome;

/// Time between two polls of the request's status.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub(super) fn run(client: &Client, args: &Args, prefetch: &Prefetch) -> anyhow::Result<Outcome> {
    let tokens = read_tokens(&prefetch.tokens)?;
    let body = json!({
        "model_name": prefetch.model, "world_size": prefetch.world_size, "cache_salt": prefetch.salt,
        "token_ids": tokens,
    });
    let deadline = Instant::now() + client.timeout;
    let started = client.call(Method::POST, "/cache/prefetches", Some(&body))?;
    if started.value["status"] == "noop" {
        return print(args, &started, |_| {
            "nothing to load: the prompt is shorter than one chunk\n".to_owned()
        });
    }
    let id = started.value["request_id"].as_str().context("the response has no request_id")?;
    if prefetch.no_wait {
        let chunks = &started.value["chunks"];
        return print(args, &started, |_| format!("started to load {chunks} chunks, request {id}\n"));
    }
    loop {
        let response = client.get(&format!("/cache/prefetches/{id}"))?;
        if response.value["status"] != "pending" {
            return print(args, &response, |value| {
                format!("found {} of {} objects\n", value["found_keys"], value["total_keys"])
            });
        }
        if Instant::now() >= deadline {
            bail!(
                "not complete after {} s (--timeout); request {id} continues",
                client.timeout.as_secs_f64()
            );
        }
        sleep(POLL_INTERVAL);
    }
}

/// Reads token ids from a file, or from stdin for `-`.
fn read_tokens(path: &Path) -> anyhow::Result<Vec<u32>> {
    let text =
        if path == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(path) };
    let invalid = |reason| InputError { input: path.display().to_string(), reason };
    let text = text.map_err(|error| invalid(format!("cannot be read: {error}")))?;
    Ok(parse(&text).map_err(|word| invalid(format!("'{word}' is not a token id")))?)
}

/// Parses token ids as a JSON list, or separated by white space or commas. The error is the invalid word.
fn parse(text: &str) -> Result<Vec<u32>, &str> {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let words = inner.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    words.map(|word| word.parse().map_err(|_| word)).collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn parses_both_forms_of_token_ids() {
        assert_eq!(parse(" [1, 2,\n3] "), Ok(vec![1, 2, 3]));
        assert_eq!(parse("1 2\n3\n"), Ok(vec![1, 2, 3]));
        assert_eq!(parse("[]"), Ok(vec![]));
        for bad in ["[1", "-1", "1.5", "4294967296", "[[1]]"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
