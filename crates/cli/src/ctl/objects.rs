//! What is cached, and removing some of it.

use std::io;

use anyhow::{Context, bail};
use larder_types::file_names::{FILE_SUFFIX, ObjectKeyJson};
use larder_types::object::ObjectKey;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::Client;
use super::words::{Objects, Tier, Typed};
use super::{Unusable, line};
use crate::Outcome;
use crate::terminal::{say, tell};

/// The most objects in a page, and keys in a removal, that the API takes.
const PAGE_MAX: u64 = 5_000;

pub(super) fn run(client: &Client, typed: &Typed, objects: &Objects) -> anyhow::Result<Outcome> {
    match objects {
        Objects::List { tier, adapter, model, limit } => {
            let filters = [("adapter", adapter.as_deref()), ("model_name", model.as_deref())];
            list(client, typed, *tier, &filters, *limit)
        }
        Objects::Delete { keys, tier, adapter, force } => {
            let keys = read(keys)?;
            delete(client, typed, &keys, &json!({"tier": tier.name(), "adapter": adapter, "force": force}))
        }
    }
}

/// Shows pages as they come, so that a long list neither waits nor is held.
fn list(
    client: &Client,
    typed: &Typed,
    tier: Tier,
    filters: &[(&str, Option<&str>)],
    limit: u64,
) -> anyhow::Result<Outcome> {
    let mut left = if limit == 0 { u64::MAX } else { limit };
    let mut path = format!("/cache/objects?tier={}", tier.name());
    for (name, value) in filters {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        }
    }
    let mut place = String::new();
    loop {
        let page = client.get(&format!("{path}&page_size={}{place}", left.min(PAGE_MAX)))?;
        let entries = page.value["entries"].as_array().context("the answer lists no objects")?;
        left = left.saturating_sub(entries.len() as u64);
        if typed.server.json {
            say(&line(&page.raw))?;
        } else {
            say(&lines(&page.value["adapter"], entries)?)?;
        }
        let Some(next) = page.value["next_page_token"].as_str() else { return Ok(Outcome::Done) };
        if left == 0 {
            tell("note", &[format!("there may be more than these {limit} (--limit 0 shows all)")]);
            return Ok(Outcome::Done);
        }
        place = format!("&page_token={}", utf8_percent_encode(next, NON_ALPHANUMERIC));
    }
}

/// Tier, bytes and key of each object, parted by tabs: a key may hold blanks.
fn lines(tier: &Value, entries: &[Value]) -> anyhow::Result<String> {
    let tier = tier.as_str().unwrap_or("?");
    let mut text = String::new();
    for entry in entries {
        let key: ObjectKeyJson = serde_json::from_value(entry["key"].clone())?;
        let bytes = entry["size_bytes"].as_u64().unwrap_or_default();
        text.push_str(&format!("{tier:<9}\t{bytes:>12}\t{}\n", ObjectKey::try_from(key)?.native_key()));
    }
    Ok(text)
}

/// Keys from words, and from stdin if one of them is `-`.
fn read(words: &[String]) -> anyhow::Result<Vec<ObjectKeyJson>> {
    let mut keys = Vec::new();
    for word in words {
        if word == "-" {
            // The last column, so that a listing can be piped in as it is.
            for line in io::stdin().lines() {
                let line = line.context("stdin")?;
                let word = line.rsplit('\t').next().unwrap_or_default().trim();
                if !word.is_empty() {
                    keys.push(key(word)?);
                }
            }
        } else {
            keys.push(key(word)?);
        }
    }
    Ok(keys)
}

/// The key that a word or a file's name means.
fn key(word: &str) -> anyhow::Result<ObjectKeyJson> {
    let stem = word.strip_suffix(FILE_SUFFIX).unwrap_or(word);
    match ObjectKey::from_file_name(&format!("{stem}{FILE_SUFFIX}")) {
        Ok(key) => Ok(ObjectKeyJson::from(&key)),
        Err(error) => {
            let why = format!("is no key (MODEL@RANK@GROUP@HASH[@SALT]): {error}");
            Err(Unusable { what: word.to_owned(), why }.into())
        }
    }
}

fn delete(client: &Client, typed: &Typed, keys: &[ObjectKeyJson], how: &Value) -> anyhow::Result<Outcome> {
    let (mut deleted, mut held) = (0, 0);
    for keys in keys.chunks(PAGE_MAX as usize) {
        let mut body = how.clone();
        body["keys"] = serde_json::to_value(keys)?;
        let answer = client.call(Method::DELETE, "/cache/objects", Some(&body))?;
        if typed.server.json {
            say(&line(&answer.raw))?;
        }
        if answer.value["ok"] == false {
            let why = answer.value["error"].as_str().unwrap_or("L2 failed");
            bail!("not all were removed: {why}");
        }
        deleted += answer.value["deleted"].as_u64().unwrap_or_default();
        held += answer.value["skipped"].as_u64().unwrap_or_default();
    }
    if typed.server.json {
        return Ok(Outcome::Done);
    }
    let held = if held > 0 { format!(", left {held} that are held (--force)") } else { String::new() };
    say(&format!("removed {deleted} objects{held}\n"))
}
