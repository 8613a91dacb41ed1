//! Lists and removes cached objects.

use std::io;

use anyhow::{Context, bail};
use larder_types::file_names::{FILE_SUFFIX, ObjectKeyJson};
use larder_types::object::ObjectKey;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use ureq::http::Method;

use super::args::{Args, Objects, Tier};
use super::client::Client;
use super::{InputError, line};
use crate::Outcome;
use crate::terminal::{print_stderr, print_stdout};

/// The largest page of objects and the most keys in a removal that the API accepts.
const PAGE_MAX: u64 = 5_000;

pub(super) fn run(client: &Client, args: &Args, objects: &Objects) -> anyhow::Result<Outcome> {
    match objects {
        Objects::List { tier, adapter, model, limit } => {
            let filters = [("adapter", adapter.as_deref()), ("model_name", model.as_deref())];
            list(client, args, *tier, &filters, *limit)
        }
        Objects::Delete { keys, tier, adapter, force } => {
            let keys = read_keys(keys)?;
            delete(client, args, &keys, &json!({"tier": tier.name(), "adapter": adapter, "force": force}))
        }
    }
}

/// Prints pages as they arrive, so that a long list is not kept in memory.
fn list(
    client: &Client,
    args: &Args,
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
    let mut page_token = String::new();
    loop {
        let page = client.get(&format!("{path}&page_size={}{page_token}", left.min(PAGE_MAX)))?;
        let entries = page.value["entries"].as_array().context("the response has no entries")?;
        left = left.saturating_sub(entries.len() as u64);
        if args.server.json {
            print_stdout(&line(&page.body))?;
        } else {
            print_stdout(&lines(&page.value["adapter"], entries)?)?;
        }
        let Some(next) = page.value["next_page_token"].as_str() else { return Ok(Outcome::Done) };
        if left == 0 {
            print_stderr("note", &[format!("there may be more than these {limit} (--limit 0: all)")]);
            return Ok(Outcome::Done);
        }
        page_token = format!("&page_token={}", utf8_percent_encode(next, NON_ALPHANUMERIC));
    }
}

/// Tier, bytes and key of each object, separated by tabs: a key may contain spaces.
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

/// Parses keys from arguments, and from stdin for the argument `-`.
fn read_keys(arguments: &[String]) -> anyhow::Result<Vec<ObjectKeyJson>> {
    let mut keys = Vec::new();
    for argument in arguments {
        if argument == "-" {
            // The last column, so that the output of `objects list` can be piped in.
            for line in io::stdin().lines() {
                let line = line.context("stdin")?;
                let word = line.rsplit('\t').next().unwrap_or_default().trim();
                if !word.is_empty() {
                    keys.push(key(word)?);
                }
            }
        } else {
            keys.push(key(argument)?);
        }
    }
    Ok(keys)
}

/// Parses a key, or the name of an object's file.
fn key(text: &str) -> anyhow::Result<ObjectKeyJson> {
    // `0x` before the rank distinguishes a name without its suffix from a key.
    let is_name =
        text.ends_with(FILE_SUFFIX) || text.split('@').nth(1).is_some_and(|rank| rank.starts_with("0x"));
    let stem = text.strip_suffix(FILE_SUFFIX).unwrap_or(text);
    let parsed = match is_name {
        true => ObjectKey::from_file_name(&format!("{stem}{FILE_SUFFIX}")),
        false => ObjectKey::from_native_key(text),
    };
    match parsed {
        Ok(key) => Ok(ObjectKeyJson::from(&key)),
        Err(error) => {
            let reason = format!("is not a key (MODEL@RANK@GROUP@HASH[@SALT[@LAYOUT]]): {error}");
            Err(InputError { input: text.to_owned(), reason }.into())
        }
    }
}

fn delete(client: &Client, args: &Args, keys: &[ObjectKeyJson], options: &Value) -> anyhow::Result<Outcome> {
    let (mut deleted, mut pinned) = (0, 0);
    for keys in keys.chunks(PAGE_MAX as usize) {
        let mut body = options.clone();
        body["keys"] = serde_json::to_value(keys)?;
        let response = client.call(Method::DELETE, "/cache/objects", Some(&body))?;
        if args.server.json {
            print_stdout(&line(&response.body))?;
        }
        if response.value["ok"] == false {
            let reason = response.value["error"].as_str().unwrap_or("L2 failed");
            bail!("not all objects were removed: {reason}");
        }
        deleted += response.value["deleted"].as_u64().unwrap_or_default();
        pinned += response.value["skipped"].as_u64().unwrap_or_default();
    }
    if args.server.json {
        return Ok(Outcome::Done);
    }
    let kept = if pinned > 0 {
        format!(", kept {pinned} pinned ones (--force removes them)")
    } else {
        String::new()
    };
    print_stdout(&format!("removed {deleted} objects{kept}\n"))
}
