//! Quotas of cache salts (tenants) and their usage.
//!
//! A quota applies separately in each tier that enforces quotas: in L1 with `--eviction-policy IsolatedLRU`, and in every
//! L2 adapter with that policy in its `eviction` block. Answers report where (`enforced`, `enforced_in`). With
//! `--state-dir`, quotas survive a restart; answers report whether they do (`persisted`).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use larder_types::object::check_cache_salt;
use serde_json::{Value, json};

use super::Answer;
use super::error::ApiError;
use super::extract::{Body, Segment};
use super::part::Part;
use crate::app::core_handle::CoreHandle;
use crate::app::quota_file::{Limits, QuotaFile};
use crate::config::{Config, GIB, bytes_from_gib};
use crate::l2::L2;

/// The empty salt in a path, as in LMCache.
const EMPTY_SALT: &str = "_default";

/// How long an answer waits for L2 to evict objects over a quota. Eviction goes on after that.
const EVICTION_WAIT: Duration = Duration::from_secs(5);

/// The parts that hold quotas, and the lock of changes.
type Tiers = (Part<CoreHandle>, Part<L2>);
type Kept = (Part<Config>, Part<Option<Arc<QuotaFile>>>);
type Lock = Part<tokio::sync::Mutex<()>>;

/// All quotas, and the limit of salts without one.
pub(super) async fn list(tiers: Tiers, kept: Kept) -> Response {
    let (quotas, default): (Vec<(Arc<str>, u64)>, _) = tiers.0.read(|core, _| {
        let quotas = core.index().quota_usage().quotas();
        (quotas.list().map(|(salt, limit)| (salt.clone(), limit)).collect(), quotas.default_limit())
    });
    let usage = Usage::of(&tiers);
    let users = quotas.iter().map(|(salt, limit)| {
        let held = json!({"limit_gb": gib(*limit), "current_usage_gb": gib(usage.bytes(salt))});
        (name(salt).to_owned(), held)
    });
    let users: serde_json::Map<String, Value> = users.collect();
    let answer = json!({"users": users, "default_limit_gb": default.map(gib)});
    Json(with_scope(&kept, answer)).into_response()
}

/// The limit in force for a salt, and its usage. The limit is the salt's own quota (`exists`), or else the default of
/// `--quota-default-gb`; without either there is none (`limited`), and `limit_gb` is 0, as in LMCache.
pub(super) async fn get(tiers: Tiers, kept: Kept, Segment(salt): Segment) -> Answer {
    let salt = checked(&salt)?;
    let (own, limit) = tiers.0.read(|core, _| {
        let quotas = core.index().quota_usage().quotas();
        (quotas.get(&salt), quotas.limit_of(&salt))
    });
    let usage = Usage::of(&tiers);
    let answer = json!({
        "cache_salt": name(&salt),
        "limit_gb": gib(limit.unwrap_or(0)),
        "current_usage_gb": gib(usage.bytes(&salt)),
        "limited": limit.is_some(),
        "exists": own.is_some(),
    });
    Ok(Json(with_scope(&kept, answer)).into_response())
}

/// Sets a quota. Objects over it are evicted at once.
pub(super) async fn put(
    tiers: Tiers,
    kept: Kept,
    lock: Lock,
    Segment(salt): Segment,
    Body(body): Body,
) -> Answer {
    let (salt, limit_gb) = (checked(&salt)?, limit_gb(&body)?);
    change(&tiers, &kept, &lock, &salt, Some(bytes_from_gib(limit_gb))).await?;
    let answer = json!({"cache_salt": name(&salt), "limit_gb": limit_gb, "status": "ok"});
    Ok(Json(with_scope(&kept, answer)).into_response())
}

/// Removes a quota. The default quota applies then (`--quota-default-gb`).
pub(super) async fn delete(tiers: Tiers, kept: Kept, lock: Lock, Segment(salt): Segment) -> Answer {
    let salt = checked(&salt)?;
    let status =
        if change(&tiers, &kept, &lock, &salt, None).await?.is_some() { "removed" } else { "not_found" };
    let answer = json!({"cache_salt": name(&salt), "status": status});
    Ok(Json(with_scope(&kept, answer)).into_response())
}

/// Sets or removes a quota, first in the file and then in both tiers. Returns the previous quota.
async fn change(
    (core, l2): &Tiers,
    (_, file): &Kept,
    lock: &Lock,
    salt: &Arc<str>,
    limit: Option<u64>,
) -> Answer<Option<u64>> {
    // The file and both tiers get all changes in the same order.
    let _one_at_a_time = lock.lock().await;
    let mut quotas = core.read(|core, _| core.index().quota_usage().quotas().clone());
    let before = match limit {
        Some(bytes) => quotas.set(salt, bytes).map_err(|full| ApiError::BadRequest(full.to_string()))?,
        None => quotas.delete(salt),
    };
    if let Some(file) = &**file
        && before != limit
    {
        write(file.clone(), quotas.list().map(|(salt, bytes)| (salt.clone(), bytes)).collect()).await?;
    }
    core.with(|core, now| core.change_quotas(now, |of_core| *of_core = quotas));
    let _ = tokio::time::timeout(EVICTION_WAIT, l2.set_quota(salt, limit)).await;
    Ok(before)
}

/// Writes the quota file.
async fn write(file: Arc<QuotaFile>, limits: Limits) -> Answer<()> {
    let path = file.path().display().to_string();
    let written = tokio::task::spawn_blocking(move || file.write(&limits)).await;
    let error = match written {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic.to_string(),
    };
    tracing::error!(%path, %error, "quota not changed: the quota file could not be written");
    let why = format!("quotas could not be written to {path}, so nothing was changed: {error}");
    Err(ApiError::Unavailable(why))
}

/// Adds to an answer whether and where quotas are enforced and kept.
fn with_scope((config, file): &Kept, mut answer: Value) -> Value {
    let tiers = config.quota_tiers();
    answer["enforced"] = (!tiers.is_empty()).into();
    answer["enforced_in"] = tiers.into();
    answer["persisted"] = file.is_some().into();
    answer
}

/// Bytes by salt: in L2, as in LMCache, or in L1 if there is no L2.
#[derive(Debug)]
struct Usage(Vec<(Arc<str>, u64)>);

impl Usage {
    fn of((core, l2): &Tiers) -> Self {
        if l2.adapters().next().is_some() {
            return Self(l2.usage_by_salt());
        }
        core.read(|core, _| {
            Self(
                core.index()
                    .quota_usage()
                    .usage()
                    .map(|(salt, usage)| (salt.clone(), usage.used_bytes))
                    .collect(),
            )
        })
    }

    fn bytes(&self, salt: &str) -> u64 {
        self.0.iter().filter(|(of, _)| **of == *salt).map(|(_, bytes)| bytes).sum()
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / GIB as f64
}

fn name(salt: &str) -> &str {
    if salt.is_empty() { EMPTY_SALT } else { salt }
}

/// The salt of a path, if it is valid.
fn checked(name: &str) -> Answer<Arc<str>> {
    let salt = if name == EMPTY_SALT { "" } else { name };
    check_cache_salt(salt)?;
    Ok(salt.into())
}

/// The limit in a body. As in LMCache, it may be a number in a string.
fn limit_gb(body: &[u8]) -> Answer<f64> {
    let invalid = |sentence: &str| ApiError::BadRequest(sentence.to_owned());
    let body: Value = serde_json::from_slice(body).map_err(|_| invalid("invalid JSON body"))?;
    let value = body.get("limit_gb").ok_or_else(|| invalid("body must be {'limit_gb': <float>}"))?;
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    let number: f64 = number.ok_or_else(|| invalid("limit_gb must be numeric"))?;
    match number {
        number if !number.is_finite() => Err(invalid("limit_gb must be finite")),
        number if number < 0.0 => Err(invalid("limit_gb must be non-negative")),
        number => Ok(number),
    }
}
