//! One function for each command: the call, and the text for its response.

use std::time::Instant;

use anyhow::Context;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use ureq::http::Method;

use super::args::{Args, Command, Quota};
use super::client::{Client, Response};
use super::{format, objects, prefetch, print, whatif};
use crate::Outcome;
use crate::terminal::print_stderr;

/// The empty salt in a URL.
const EMPTY_SALT: &str = "_default";

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let client = &Client::new(&args.server, args.server.token()?);
    match &args.command {
        Command::Ping { ready } => ping(client, args, *ready),
        Command::Status => print(args, &client.get("/status")?, format::status),
        Command::Describe => describe(client, args),
        Command::Whatif => print(args, &client.get("/cache/whatif")?, whatif::table),
        Command::Clear { force } => clear(client, args, *force),
        Command::Quota(quota) => self::quota(client, args, quota),
        Command::Objects(objects) => objects::run(client, args, objects),
        Command::Prefetch(prefetch) => prefetch::run(client, args, prefetch),
    }
}

fn ping(client: &Client, args: &Args, ready: bool) -> anyhow::Result<Outcome> {
    let (path, word) = if ready { ("/readyz", "ready") } else { ("/healthcheck", "healthy") };
    let began = Instant::now();
    let response = client.get(path)?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    print(args, &response, |_| format!("{} is {word} ({ms:.1} ms)\n", client.url))
}

fn describe(client: &Client, args: &Args) -> anyhow::Result<Outcome> {
    let [version, config, status] = ["/version", "/config", "/status"].map(|path| client.get(path));
    let whole = json!({"version": version?.value, "config": config?.value, "status": status?.value});
    let response = Response { body: whole.to_string(), value: whole };
    print(args, &response, |whole| format::description(&client.url, whole))
}

fn clear(client: &Client, args: &Args, force: bool) -> anyhow::Result<Outcome> {
    let body = json!({"tier": "l1", "force": force});
    let response = client.call(Method::POST, "/cache/clear", Some(&body))?;
    print(args, &response, |value| match value["objects"].as_u64() {
        Some(objects) => format!("removed {objects} objects from L1\n"),
        None => "cleared L1\n".to_owned(),
    })
}

fn quota(client: &Client, args: &Args, quota: &Quota) -> anyhow::Result<Outcome> {
    let response = match quota {
        Quota::List => client.get("/quota")?,
        Quota::Get { salt } => client.get(&quota_path(salt))?,
        Quota::Set { salt, limit_gb } => {
            client.call(Method::PUT, &quota_path(salt), Some(&json!({"limit_gb": limit_gb})))?
        }
        Quota::Delete { salt } => client.call(Method::DELETE, &quota_path(salt), None)?,
    };
    if response.value["enforced"] == false {
        let text = "no tier enforces quotas; start the server with --eviction-policy IsolatedLRU";
        print_stderr("warning", &[text.to_owned()]);
    }
    if matches!(quota, Quota::Set { .. }) && response.value["persisted"] == false {
        let text = "the quota ends with the server; start it with --state-dir to keep quotas";
        print_stderr("note", &[text.to_owned()]);
    }
    let text = |value: &Value| -> anyhow::Result<String> {
        let salt = || value["cache_salt"].as_str().context("the response has no cache_salt");
        let limit = || value["limit_gb"].as_f64().context("the response has no limit_gb");
        Ok(match quota {
            Quota::List => format::quotas(value),
            Quota::Get { .. } => {
                let used = value["current_usage_gb"].as_f64().unwrap_or(0.0);
                let limit = match (&value["exists"], &value["limited"]) {
                    (Value::Bool(true), _) => format!("{} GiB", limit()?),
                    (_, Value::Bool(true)) => format!("no quota, the default of {:.3} GiB applies", limit()?),
                    _ => "no quota".to_owned(),
                };
                format!("{}: {limit}, {used:.3} GiB used\n", salt()?)
            }
            Quota::Set { .. } => format!("{} has a quota of {} GiB\n", salt()?, limit()?),
            Quota::Delete { .. } if value["status"] == "removed" => {
                format!("deleted the quota of {}\n", salt()?)
            }
            Quota::Delete { .. } => format!("{} had no quota\n", salt()?),
        })
    };
    let text = if args.server.json { String::new() } else { text(&response.value)? };
    print(args, &response, |_| text)
}

fn quota_path(salt: &str) -> String {
    let salt = if salt.is_empty() { EMPTY_SALT } else { salt };
    format!("/quota/{}", utf8_percent_encode(salt, NON_ALPHANUMERIC))
}
