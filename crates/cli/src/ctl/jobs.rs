//! The questions, one function each: which call, and what its answer means.

use std::time::Instant;

use anyhow::Context;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::{Answer, Client};
use super::words::{Job, Quota, Typed};
use super::{objects, prefetch, report, show};
use crate::Outcome;
use crate::terminal::tell;

/// The empty salt in an address.
const EMPTY_SALT: &str = "_default";

/// Does what was asked for.
pub(super) fn run(client: &Client, typed: &Typed) -> anyhow::Result<Outcome> {
    match &typed.job {
        Job::Ping { ready } => ping(client, typed, *ready),
        Job::Status => show(typed, &client.get("/status")?, report::status),
        Job::Describe => describe(client, typed),
        Job::Clear { force } => clear(client, typed, *force),
        Job::Quota(quota) => self::quota(client, typed, quota),
        Job::Objects(objects) => objects::run(client, typed, objects),
        Job::Prefetch(prefetch) => prefetch::run(client, typed, prefetch),
    }
}

fn ping(client: &Client, typed: &Typed, ready: bool) -> anyhow::Result<Outcome> {
    let (path, word) = if ready { ("/readyz", "ready") } else { ("/healthcheck", "healthy") };
    let began = Instant::now();
    let answer = client.get(path)?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    show(typed, &answer, |_| format!("{} is {word} ({ms:.1} ms)\n", client.url))
}

fn describe(client: &Client, typed: &Typed) -> anyhow::Result<Outcome> {
    let [version, config, status] = ["/version", "/config", "/status"].map(|path| client.get(path));
    let whole = json!({"version": version?.value, "config": config?.value, "status": status?.value});
    let answer = Answer { raw: whole.to_string(), value: whole };
    show(typed, &answer, |whole| report::description(&client.url, whole))
}

fn clear(client: &Client, typed: &Typed, force: bool) -> anyhow::Result<Outcome> {
    let body = json!({"tier": "l1", "force": force});
    let answer = client.call(Method::POST, "/cache/clear", Some(&body))?;
    show(typed, &answer, |answer| match answer["objects"].as_u64() {
        Some(objects) => format!("removed {objects} objects from L1\n"),
        None => "cleared L1\n".to_owned(),
    })
}

fn quota(client: &Client, typed: &Typed, quota: &Quota) -> anyhow::Result<Outcome> {
    let answer = match quota {
        Quota::List => client.get("/quota")?,
        Quota::Get { salt } => client.get(&path_of(salt))?,
        Quota::Set { salt, limit_gb } => {
            client.call(Method::PUT, &path_of(salt), Some(&json!({"limit_gb": limit_gb})))?
        }
        Quota::Delete { salt } => client.call(Method::DELETE, &path_of(salt), None)?,
    };
    if answer.value["enforced"] == false {
        let why = "no tier enforces quotas; start the server with --eviction-policy IsolatedLRU";
        tell("warning", &[why.to_owned()]);
    }
    if matches!(quota, Quota::Set { .. }) && answer.value["persisted"] == false {
        let why = "it ends with the server; start that with --state-dir to keep quotas";
        tell("note", &[why.to_owned()]);
    }
    let human = |answer: &Value| -> anyhow::Result<String> {
        let salt = || answer["cache_salt"].as_str().context("the answer names no salt");
        let limit = || answer["limit_gb"].as_f64().context("the answer names no limit");
        Ok(match quota {
            Quota::List => report::quotas(answer),
            Quota::Get { .. } => {
                let used = answer["current_usage_gb"].as_f64().unwrap_or(0.0);
                let limit =
                    if answer["exists"] == true { format!("{} GiB", limit()?) } else { "no quota".into() };
                format!("{}: {limit}, {used:.3} GiB used\n", salt()?)
            }
            Quota::Set { .. } => format!("{} may hold {} GiB\n", salt()?, limit()?),
            Quota::Delete { .. } if answer["status"] == "removed" => {
                format!("{} has no quota now\n", salt()?)
            }
            Quota::Delete { .. } => format!("{} had no quota\n", salt()?),
        })
    };
    let text = if typed.server.json { String::new() } else { human(&answer.value)? };
    show(typed, &answer, |_| text)
}

fn path_of(salt: &str) -> String {
    let salt = if salt.is_empty() { EMPTY_SALT } else { salt };
    format!("/quota/{}", utf8_percent_encode(salt, NON_ALPHANUMERIC))
}
