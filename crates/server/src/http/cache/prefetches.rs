use larder_policy::prefetch::plan::Fetch;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use larder_core::{PrefetchId, PrefetchRefused, PrefetchSpec, PrefetchStatus};
use larder_types::object::check_cache_salt;
use serde_json::json;

use super::super::body::{Faults, Fields, object};
use super::super::extract::{Body, Segment};
use super::super::{Answer, AppState, Refusal};
use super::TOKENS_MAX;

/// How that stands. May be asked again after it has ended, for as long as a session lives.
pub(in crate::http) async fn status(Shared(state): Shared<AppState>, Segment(request_id): Segment) -> Answer {
    let status = match id_of(&request_id) {
        Some(id) => state.core().with(|core, now| core.prefetch_status(now, id)),
        None => PrefetchStatus::Unknown,
    };
    match status {
        PrefetchStatus::Pending => {
            Ok(Json(json!({"request_id": request_id, "status": "pending"})).into_response())
        }
        PrefetchStatus::Done(result) => Ok(Json(json!({
            "request_id": request_id, "status": "completed",
            "found_keys": result.l1_objects + result.l2_objects, "total_keys": result.total_objects,
        }))
        .into_response()),
        PrefetchStatus::Unknown => {
            let why = format!(
                "unknown prefetch request_id='{request_id}' (never submitted, or completed long ago)"
            );
            Err(Refusal::new(StatusCode::NOT_FOUND, why))
        }
    }
}

/// The core's number as 32 hexadecimal digits, the shape that clients know.
fn name_of(PrefetchId(id): PrefetchId) -> String {
    format!("{id:032x}")
}

fn id_of(name: &str) -> Option<PrefetchId> {
    let digits = name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let number = digits.then(|| u128::from_str_radix(name, 16).ok()).flatten()?;
    number.try_into().ok().map(PrefetchId)
}

/// Begins to load a prompt from L2 into L1, where it stays.
pub(in crate::http) async fn submit(Shared(state): Shared<AppState>, Body(body): Body) -> Answer {
    let map = object(&body)?;
    let (fields, mut faults) = (Fields::of_body(&map), Faults::default());
    for name in ["model_name", "world_size", "token_ids"] {
        fields.must_have(&mut faults, name);
    }
    let model: Arc<str> = fields.text(&mut faults, "model_name").unwrap_or_default().into();
    let world_size = fields.whole(&mut faults, "world_size", 1).unwrap_or(1);
    let given = fields.list(&mut faults, "token_ids").map_or(&[][..], Vec::as_slice);
    let salt: Arc<str> = fields.text(&mut faults, "cache_salt").unwrap_or_default().into();
    let source = fields.text(&mut faults, "source_tier").unwrap_or("l2");
    let target = fields.text(&mut faults, "target_tier").unwrap_or("l1");
    faults.answer()?;
    if (source, target) != ("l2", "l1") {
        return Err(Refusal::bad_request(format!(
            "unsupported prefetch direction '{source}'->'{target}'; only 'l2'->'l1'"
        )));
    }
    if given.len() > TOKENS_MAX {
        let got = given.len();
        return Err(Refusal::bad_request(format!(
            "too many token_ids in a single request (limit={TOKENS_MAX}, got={got})"
        )));
    }
    if let Err(problem) = check_cache_salt(&salt) {
        return Err(Refusal::bad_request(problem.to_string()));
    }
    let mut tokens = Vec::with_capacity(given.len());
    for (i, token) in given.iter().enumerate() {
        match token.as_u64().and_then(|token| u32::try_from(token).ok()) {
            Some(token) => tokens.push(token),
            None => return Err(Refusal::bad_request(format!("token_ids[{i}]: {token} is not a token id"))),
        }
    }
    let chain = state.chains.hash(&tokens);
    state.events.bind(&chain, &tokens, state.chains.chunk_tokens(), 0);
    let spec = PrefetchSpec {
        model: &model,
        world_size: u32::try_from(world_size).unwrap_or(u32::MAX),
        salt: &salt,
        chunk_hashes: &chain,
        fetch: Fetch::Prefix,
    };
    let begun = state.core().with(|core, now| core.prefetch(now, &spec));
    let id = begun.map_err(|refused| {
        let text = match refused {
            PrefetchRefused::Unregistered => {
                format!("no layout registered for model_name='{model}' world_size={world_size}; {refused}")
            }
            PrefetchRefused::TooMany => refused.to_string(),
        };
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let status = if chain.is_empty() { "noop" } else { "submitted" };
    let body = json!({"request_id": name_of(id), "chunks": chain.len(), "status": status});
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_by_32_digits() {
        assert_eq!(id_of(&name_of(PrefetchId(7))), Some(PrefetchId(7)));
        assert_eq!(name_of(PrefetchId(255)).len(), 32);
        assert_eq!(id_of("7"), None);
        assert_eq!(id_of(&"f".repeat(32)), None);
        assert_eq!(id_of(&format!("+{}", "0".repeat(31))), None);
    }
}
