use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use larder_lab::whatif::{Policies, Report, Row};
use serde_json::{Value, json};

use super::super::{Answer, AppState, Refusal};
use crate::app::state::State;

/// What other sizes of L1 and other policies would have done with what was asked since the start.
pub(in crate::http) async fn whatif(Shared(state): Shared<AppState>) -> Answer {
    let Some(whatif) = &state.whatif else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "the what-if is off (--disable-whatif)"));
    };
    let report = whatif.report();
    let bytes = Bytes::of(&state, &report);
    let now = Policies { prefetch: state.config.l2.prefetch_policy, eviction: state.config.eviction.policy };
    let body = json!({
        "since_seconds_ago": state.core().now().since(report.since).as_secs_f64(),
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
        "estimates": report.rows.iter().map(|row| estimate(&state, &report, row, bytes)).collect::<Vec<_>>(),
    });
    Ok(Json(body).into_response())
}

/// What chunks are in bytes.
#[derive(Clone, Copy)]
struct Bytes {
    l1: u64,
    chunk: u64,
    /// Whether there is an L2.
    l2: bool,
}

impl Bytes {
    fn of(state: &State, report: &Report) -> Self {
        let l1 = state.config.l1.bytes;
        Self {
            l1,
            chunk: l1.checked_div(report.l1_chunks).unwrap_or(0),
            l2: !state.config.l2.adapters.is_empty(),
        }
    }
}

fn names(policies: Policies, l2: bool) -> Value {
    json!({
        "prefetch_policy": l2.then(|| policies.prefetch.name()),
        "eviction_policy": policies.eviction.name(),
    })
}

fn estimate(state: &State, report: &Report, row: &Row, bytes: Bytes) -> Value {
    let mut estimate = names(row.policies, bytes.l2);
    let chunk_tokens = u64::from(state.config.chunk_tokens);
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
