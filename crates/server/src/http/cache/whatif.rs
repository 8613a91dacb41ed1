use std::sync::Arc;

use axum::Json;
use axum::response::IntoResponse;
use larder_lab::whatif::{Policies, Report, Row};
use serde_json::{Value, json};

use super::super::Answer;
use super::super::error::ApiError;
use super::super::part::Part;
use crate::app::core_handle::CoreHandle;
use crate::config::Config;
use crate::observe::whatif::WhatIf;

/// What other sizes of L1 and other policies would have done with the requests since the start, estimated.
pub(in crate::http) async fn whatif(
    whatif: Part<Option<Arc<WhatIf>>>,
    config: Part<Config>,
    core: Part<CoreHandle>,
) -> Answer {
    let Some(whatif) = &*whatif else {
        return Err(ApiError::NotFound("the what-if is off (--disable-whatif)".to_owned()));
    };
    let report = whatif.report();
    let bytes = Bytes::of(&config, &report);
    let now = Policies { prefetch: config.l2.prefetch_policy, eviction: config.eviction.policy };
    let body = json!({
        "since_seconds_ago": core.now().since(report.since).as_secs_f64(),
        "requests": report.totals.requests,
        "tokens": report.totals.tokens,
        "chunks": report.totals.chunks,
        "sampling_rate": report.rate,
        "sampled_keys": report.keys,
        "dropped": whatif.dropped(),
        "l1_bytes": bytes.l1,
        "l1_chunks": report.l1_chunks,
        "chunk_bytes": bytes.chunk,
        "configured": names(now, bytes.l2),
        "estimates": report.rows.iter().map(|row| estimate(&config, &report, row, bytes)).collect::<Vec<_>>(),
    });
    Ok(Json(body).into_response())
}

/// Sizes in bytes.
#[derive(Clone, Copy)]
struct Bytes {
    l1: u64,
    chunk: u64,
    /// Whether there is an L2.
    l2: bool,
}

impl Bytes {
    fn of(config: &Config, report: &Report) -> Self {
        let l1 = config.l1.bytes;
        Self { l1, chunk: l1.checked_div(report.l1_chunks).unwrap_or(0), l2: !config.l2.adapters.is_empty() }
    }
}

fn names(policies: Policies, l2: bool) -> Value {
    json!({
        "prefetch_policy": l2.then(|| policies.prefetch.name()),
        "eviction_policy": policies.eviction.name(),
    })
}

fn estimate(config: &Config, report: &Report, row: &Row, bytes: Bytes) -> Value {
    let mut estimate = names(row.policies, bytes.l2);
    let chunk_tokens = u64::from(config.chunk_tokens);
    let fields = json!({
        "l1_factor": row.factor,
        "l1_bytes": (bytes.l1 as f64 * row.factor) as u64,
        "token_hit_rate": report.token_hit_rate(row.computed, chunk_tokens),
        "l1_token_hit_rate": report.token_hit_rate(row.computed.saturating_add(row.l2_reads), chunk_tokens),
        "l2_read_chunks": row.l2_reads,
        "l2_read_bytes": row.l2_reads.saturating_mul(bytes.chunk),
        "l2_write_chunks": row.l2_writes,
        "l2_write_bytes": row.l2_writes.saturating_mul(bytes.chunk),
    });
    if let (Value::Object(estimate), Value::Object(fields)) = (&mut estimate, fields) {
        estimate.extend(fields);
    }
    estimate
}
