//! Quotas of cache salts: how much each tenant may hold, and does.
//!
//! One quota holds in each tier that enforces quotas by itself: in L1 under `--eviction-policy
//! IsolatedLRU`, and in every L2 adapter with that policy in its `eviction` block; answers say where
//! (`enforced`, `enforced_in`). With `--state-dir` they are kept over a restart; answers say whether they
//! are (`persisted`).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use larder_types::object::check_cache_salt;
use serde_json::{Value, json};

use super::extract::{Body, Segment};
use super::{Answer, AppState, Refusal};
use crate::app::quota_file::{Limits, QuotaFile};
use crate::app::state::State;
use crate::config::{GIB, bytes_from_gib};

/// The empty salt in an address, as the reference writes it.
const EMPTY_SALT: &str = "_default";

/// How long an answer waits for objects over a quota to leave L2. They leave in any case.
const PATIENCE: Duration = Duration::from_secs(5);

/// All quotas.
pub(super) async fn list(Shared(state): Shared<AppState>) -> Response {
    let quotas: Vec<(Arc<str>, u64)> = state.core().read(|core, _| {
        core.index().quota_usage().quotas().list().map(|(salt, limit)| (salt.clone(), limit)).collect()
    });
    let usage = Usage::of(&state);
    let users = quotas.iter().map(|(salt, limit)| {
        let held = json!({"limit_gb": gib(*limit), "current_usage_gb": gib(usage.bytes(salt))});
        (name(salt).to_owned(), held)
    });
    let users: serde_json::Map<String, Value> = users.collect();
    Json(with_fate(&state, json!({"users": users}))).into_response()
}

/// One quota; of a salt without one, what it holds.
pub(super) async fn get(Shared(state): Shared<AppState>, Segment(salt): Segment) -> Answer {
    let salt = checked(&salt)?;
    let limit = state.core().read(|core, _| core.index().quota_usage().quotas().get(&salt));
    let usage = Usage::of(&state);
    let answer = json!({
        "cache_salt": name(&salt),
        "limit_gb": gib(limit.unwrap_or(0)),
        "current_usage_gb": gib(usage.bytes(&salt)),
        "exists": limit.is_some(),
    });
    Ok(Json(with_fate(&state, answer)).into_response())
}

/// Sets a quota. What is over it leaves at once.
pub(super) async fn put(Shared(state): Shared<AppState>, Segment(salt): Segment, Body(body): Body) -> Answer {
    let (salt, limit_gb) = (checked(&salt)?, limit_gb(&body)?);
    change(&state, &salt, Some(bytes_from_gib(limit_gb))).await?;
    let answer = json!({"cache_salt": name(&salt), "limit_gb": limit_gb, "status": "ok"});
    Ok(Json(with_fate(&state, answer)).into_response())
}

/// Takes a quota away. From now on the salt may hold what salts without one may (`--quota-default-gb`).
pub(super) async fn delete(Shared(state): Shared<AppState>, Segment(salt): Segment) -> Answer {
    let salt = checked(&salt)?;
    let status = if change(&state, &salt, None).await?.is_some() { "removed" } else { "not_found" };
    let answer = json!({"cache_salt": name(&salt), "status": status});
    Ok(Json(with_fate(&state, answer)).into_response())
}

/// Sets or removes a quota, first where it is kept and then in both tiers. Returns the one there was.
async fn change(state: &State, salt: &Arc<str>, limit: Option<u64>) -> Answer<Option<u64>> {
    // The file and both tiers see all changes in one order.
    let _one_at_a_time = state.quota_changes.lock().await;
    let mut quotas = state.core().read(|core, _| core.index().quota_usage().quotas().clone());
    let before = match limit {
        Some(bytes) => quotas.set(salt, bytes).map_err(|full| Refusal::bad_request(full.to_string()))?,
        None => quotas.delete(salt),
    };
    if let Some(file) = &state.quota_file
        && before != limit
    {
        keep(file.clone(), quotas.list().map(|(salt, bytes)| (salt.clone(), bytes)).collect()).await?;
    }
    state.core().with(|core, now| core.change_quotas(now, |of_core| *of_core = quotas));
    let _ = tokio::time::timeout(PATIENCE, state.l2.set_quota(salt, limit)).await;
    Ok(before)
}

/// Writes quotas to where they are kept.
async fn keep(file: Arc<QuotaFile>, limits: Limits) -> Answer<()> {
    let path = file.path().display().to_string();
    let written = tokio::task::spawn_blocking(move || file.write(&limits)).await;
    let error = match written {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic.to_string(),
    };
    tracing::error!(%path, %error, "a quota was not changed because it could not be kept");
    let why = format!("quotas could not be written to {path}, so nothing was changed: {error}");
    Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why))
}

/// What becomes of quotas here, added to an answer.
fn with_fate(state: &State, mut answer: Value) -> Value {
    let tiers = state.config.quota_tiers();
    answer["enforced"] = (!tiers.is_empty()).into();
    answer["enforced_in"] = tiers.into();
    answer["persisted"] = state.quota_file.is_some().into();
    answer
}

/// What salts hold: in L2, as the reference counts, or in L1 where there is no L2.
#[derive(Debug)]
struct Usage(Vec<(Arc<str>, u64)>);

impl Usage {
    fn of(state: &State) -> Self {
        if state.l2.adapters().next().is_some() {
            return Self(state.l2.usage_by_salt());
        }
        state.core().read(|core, _| {
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

/// The salt of an address, if a key could have it.
fn checked(name: &str) -> Answer<Arc<str>> {
    let salt = if name == EMPTY_SALT { "" } else { name };
    check_cache_salt(salt).map_err(|fault| Refusal::bad_request(fault.to_string()))?;
    Ok(salt.into())
}

/// The limit in a body. Like the reference it takes a number in a string, too.
fn limit_gb(body: &[u8]) -> Answer<f64> {
    let refuse = Refusal::bad_request::<&str>;
    let body: Value = serde_json::from_slice(body).map_err(|_| refuse("invalid JSON body"))?;
    let value = body.get("limit_gb").ok_or_else(|| refuse("body must be {'limit_gb': <float>}"))?;
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    let number: f64 = number.ok_or_else(|| refuse("limit_gb must be numeric"))?;
    match number {
        number if !number.is_finite() => Err(refuse("limit_gb must be finite")),
        number if number < 0.0 => Err(refuse("limit_gb must be non-negative")),
        number => Ok(number),
    }
}
