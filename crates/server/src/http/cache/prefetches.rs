use larder_policy::prefetch::plan::Fetch;
use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use larder_core::{PrefetchId, PrefetchRefused, PrefetchSpec, PrefetchStatus};
use larder_types::object::check_cache_salt;
use serde_json::json;

use super::super::Answer;
use super::super::body::{FieldErrors, Fields, object};
use super::super::error::ApiError;
use super::super::extract::{Body, Segment};
use super::super::part::Part;
use super::TOKENS_MAX;
use crate::app::core_handle::CoreHandle;
use crate::observe::bus::Bus;
use crate::observe::event::RequestEvent;
use crate::prefix_hashes::PrefixHashCache;

/// The status of a prefetch request. As in LMCache, a result is given once; without being asked for it is kept until the
/// session TTL after the end.
pub(in crate::http) async fn status(core: Part<CoreHandle>, Segment(request_id): Segment) -> Answer {
    let status = match id_of(&request_id) {
        Some(id) => core.with(|core, now| core.take_prefetch(now, id)),
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
            let why = "never submitted, completed long ago, or its result was given already";
            Err(ApiError::NotFound(format!("unknown prefetch request_id='{request_id}' ({why})")))
        }
    }
}

/// The id as 32 hexadecimal digits, as LMCache's clients expect it.
fn name_of(PrefetchId(id): PrefetchId) -> String {
    format!("{id:032x}")
}

fn id_of(name: &str) -> Option<PrefetchId> {
    let digits = name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let number = digits.then(|| u128::from_str_radix(name, 16).ok()).flatten()?;
    number.try_into().ok().map(PrefetchId)
}

/// Starts to load a prompt from L2 into L1, where it stays.
pub(in crate::http) async fn submit(
    core: Part<CoreHandle>,
    hashes: Part<PrefixHashCache>,
    bus: Part<Bus>,
    Body(body): Body,
) -> Answer {
    let map = object(&body)?;
    let (fields, mut errors) = (Fields::of_body(&map), FieldErrors::default());
    for name in ["model_name", "world_size", "token_ids"] {
        fields.must_have(&mut errors, name);
    }
    let model: Arc<str> = fields.text(&mut errors, "model_name").unwrap_or_default().into();
    let world_size = fields.whole(&mut errors, "world_size", 1).unwrap_or(1);
    let given = fields.list(&mut errors, "token_ids").map_or(&[][..], Vec::as_slice);
    let salt: Arc<str> = fields.text(&mut errors, "cache_salt").unwrap_or_default().into();
    let source = fields.text(&mut errors, "source_tier").unwrap_or("l2");
    let target = fields.text(&mut errors, "target_tier").unwrap_or("l1");
    errors.check()?;
    if (source, target) != ("l2", "l1") {
        return Err(ApiError::BadRequest(format!(
            "unsupported prefetch direction '{source}'->'{target}'; only 'l2'->'l1'"
        )));
    }
    if given.len() > TOKENS_MAX {
        let got = given.len();
        return Err(ApiError::BadRequest(format!(
            "too many token_ids in a single request (limit={TOKENS_MAX}, got={got})"
        )));
    }
    check_cache_salt(&salt)?;
    let mut tokens = Vec::with_capacity(given.len());
    for (i, token) in given.iter().enumerate() {
        match token.as_u64().and_then(|token| u32::try_from(token).ok()) {
            Some(token) => tokens.push(token),
            None => return Err(ApiError::BadRequest(format!("token_ids[{i}]: {token} is not a token id"))),
        }
    }
    let chain = hashes.hash(&tokens);
    bus.emit(&RequestEvent::Hashed { chunk_hashes: &chain, tokens: (&tokens).into(), first: 0 });
    let spec = PrefetchSpec {
        model: &model,
        world_size: u32::try_from(world_size).unwrap_or(u32::MAX),
        salt: &salt,
        chunk_hashes: &chain,
        fetch: Fetch::Prefix,
    };
    let begun = core.with(|core, now| core.prefetch(now, &spec));
    let id = begun.map_err(|refused| {
        let text = match refused {
            PrefetchRefused::Unregistered => {
                format!("no layout registered for model_name='{model}' world_size={world_size}; {refused}")
            }
            PrefetchRefused::TooMany => refused.to_string(),
        };
        ApiError::Unavailable(text)
    })?;
    let status = if chain.is_empty() { "noop" } else { "submitted" };
    let body = json!({"request_id": name_of(id), "chunks": chain.len(), "status": status});
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_has_32_hexadecimal_digits() {
        assert_eq!(id_of(&name_of(PrefetchId(7))), Some(PrefetchId(7)));
        assert_eq!(name_of(PrefetchId(255)).len(), 32);
        assert_eq!(id_of("7"), None);
        assert_eq!(id_of(&"f".repeat(32)), None);
        assert_eq!(id_of(&format!("+{}", "0".repeat(31))), None);
    }
}
