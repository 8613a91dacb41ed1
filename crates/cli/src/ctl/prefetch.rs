//! Loading a prompt ahead of its request.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, bail};
use serde_json::json;
use ureq::http::Method;

use super::client::Client;
use super::words::{Prefetch, Typed};
use super::{Unusable, show};
use crate::Outcome;

/// How often the server is asked whether it is done.
const PACE: Duration = Duration::from_millis(20);

pub(super) fn run(client: &Client, typed: &Typed, prefetch: &Prefetch) -> anyhow::Result<Outcome> {
    let tokens = read(&prefetch.tokens)?;
    let body = json!({
        "model_name": prefetch.model, "world_size": prefetch.world_size, "cache_salt": prefetch.salt,
        "token_ids": tokens,
    });
    let deadline = Instant::now() + client.timeout;
    let begun = client.call(Method::POST, "/cache/prefetches", Some(&body))?;
    if begun.value["status"] == "noop" {
        return show(typed, &begun, |_| "nothing to load: the prompt is shorter than one chunk\n".to_owned());
    }
    let id = begun.value["request_id"].as_str().context("the answer names no request")?;
    if prefetch.no_wait {
        let chunks = &begun.value["chunks"];
        return show(typed, &begun, |_| format!("loading {chunks} chunks, request {id}\n"));
    }
    loop {
        let answer = client.get(&format!("/cache/prefetches/{id}"))?;
        if answer.value["status"] != "pending" {
            return show(typed, &answer, |a| {
                format!("found {} of {} objects\n", a["found_keys"], a["total_keys"])
            });
        }
        if Instant::now() >= deadline {
            bail!("still loading after {} s, request {id} goes on (--timeout)", client.timeout.as_secs_f64());
        }
        sleep(PACE);
    }
}

/// The token ids in a file, or on stdin.
fn read(path: &Path) -> anyhow::Result<Vec<u32>> {
    let text =
        if path == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(path) };
    let unusable = |why| Unusable { what: path.display().to_string(), why };
    let text = text.map_err(|error| unusable(format!("cannot be read: {error}")))?;
    Ok(parse(&text).map_err(unusable)?)
}

/// Token ids as a JSON list, or parted by white space or commas.
fn parse(text: &str) -> Result<Vec<u32>, String> {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let words = inner.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    words.map(|word| word.parse().map_err(|_| format!("'{word}' is not a token id"))).collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn token_ids_are_read_in_both_forms() {
        assert_eq!(parse(" [1, 2,\n3] "), Ok(vec![1, 2, 3]));
        assert_eq!(parse("1 2\n3\n"), Ok(vec![1, 2, 3]));
        assert_eq!(parse("[]"), Ok(vec![]));
        for bad in ["[1", "-1", "1.5", "4294967296", "[[1]]"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
