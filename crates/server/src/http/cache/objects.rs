//! Listing and deleting objects.
//!
//! A page of `tier=all` has objects of one tier. L1 comes first, then each adapter, so an object is listed once for each
//! copy. A listing of L2 is one adapter's, as in LMCache: the first one, or the first of the type that is asked for. A
//! deletion is made in all adapters, or all of the type; what it counts are keys, however many copies there were.

use std::num::NonZeroUsize;
use std::sync::Arc;

use axum::Json;
use axum::response::IntoResponse;
use larder_core::index::Removal;
use larder_l2::{Adapter, Cursor};
use larder_types::LayoutId;
use larder_types::ids::AdapterId;
use larder_types::object::{ChunkHash, KvRank, ObjectKey};
use serde_json::{Value, json};

use super::super::Answer;
use super::super::body::{FieldErrors, Fields, object, query_whole, query_word};
use super::super::error::ApiError;
use super::super::extract::{Body, Query};
use super::super::part::Part;
use crate::app::core_handle::CoreHandle;
use crate::l2::L2;

/// Valid values of `tier`.
const TIERS: &[&str] = &["l1", "l2", "all"];

/// An adapter and its index.
type Numbered = (usize, Arc<dyn Adapter>);

/// Limit of keys in one call.
const KEYS_MAX: usize = 10_000;

/// A position in a listing: a tier, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Position {
    L1(u64),
    L2 { adapter: usize, cursor: Option<Cursor> },
}

impl Position {
    fn token(&self) -> String {
        match self {
            Self::L1(from) => format!("l1:{from}"),
            Self::L2 { adapter, cursor: None } => format!("l2:{adapter}"),
            Self::L2 { adapter, cursor: Some(Cursor(cursor)) } => format!("l2:{adapter}:{cursor}"),
        }
    }

    fn parse(token: &str) -> Option<Self> {
        let (tier, rest) = token.split_once(':')?;
        match tier {
            "l1" => Some(Self::L1(rest.parse().ok()?)),
            "l2" => {
                let (adapter, cursor) = match rest.split_once(':') {
                    Some((adapter, cursor)) => (adapter, Some(Cursor(cursor.to_owned()))),
                    None => (rest, None),
                };
                Some(Self::L2 { adapter: adapter.parse().ok()?, cursor })
            }
            _ => None,
        }
    }
}

/// Lists a page of the objects of a tier.
pub(in crate::http) async fn list(core: Part<CoreHandle>, l2: Part<L2>, Query(query): Query) -> Answer {
    let query = &query;
    let mut errors = FieldErrors::default();
    let tier = query_word(&mut errors, query, "tier", TIERS, "l2");
    let size = query_whole(&mut errors, query, "page_size", 500, 1..=5000);
    errors.check()?;
    let model = query.get("model_name").map(String::as_str);
    let wanted = query.get("adapter").map(String::as_str);
    let mut adapters = adapters(&l2, tier, wanted)?;
    if tier == "l2" {
        adapters.truncate(1);
    }
    let first =
        if tier == "l2" { Position::L2 { adapter: adapters[0].0, cursor: None } } else { Position::L1(0) };
    let position = match query.get("page_token").filter(|token| !token.is_empty()) {
        None => first,
        Some(token) => Position::parse(token)
            .ok_or_else(|| ApiError::BadRequest(format!("page_token '{token}' is invalid")))?,
    };
    let after = |number: Option<usize>| {
        let mut later = adapters.iter().filter(|(i, _)| number.is_none_or(|n| *i > n) && tier != "l1");
        later.next().map(|(i, _)| Position::L2 { adapter: *i, cursor: None })
    };
    let (name, objects, next): (_, Vec<(ObjectKey, u64)>, _) = match position {
        Position::L1(from) => {
            let page = core.read(|core, _| core.index().list(from, size));
            let next = page.next.map(Position::L1).or_else(|| after(None));
            ("l1", page.objects.into_iter().map(|o| (o.key, o.bytes)).collect(), next)
        }
        Position::L2 { adapter: number, cursor } => {
            let adapter = adapters.iter().find(|(i, _)| *i == number).map(|(_, a)| a.clone());
            let adapter =
                adapter.ok_or_else(|| ApiError::BadRequest("page_token of another adapter".to_owned()))?;
            if !adapter.capabilities().list {
                let text = format!("L2 adapter '{}' cannot be listed", adapter.kind());
                return Err(ApiError::NotImplemented(text));
            }
            let limit = NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN);
            let page = adapter.list(cursor, limit).await;
            let page = page.map_err(|e| ApiError::Unavailable(e.to_string()))?;
            let next = match page.next {
                Some(cursor) => Some(Position::L2 { adapter: number, cursor: Some(cursor) }),
                None => after(Some(number)),
            };
            let objects = page.objects.into_iter().map(|o| (o.key, o.stored_bytes)).collect();
            (adapter.kind(), objects, next)
        }
    };
    let entries: Vec<Value> = objects
        .iter()
        .filter(|(key, _)| model.is_none_or(|model| *key.model_name == *model))
        .map(|(key, bytes)| json!({"key": key_json(key), "size_bytes": bytes}))
        .collect();
    let next = next.map(|position| position.token());
    let body = json!({"adapter": name, "shared": false, "entries": entries, "next_page_token": next});
    Ok(Json(body).into_response())
}

/// The adapters that a call addresses by their type or by their index, with their indices.
fn adapters(l2: &L2, tier: &str, wanted: Option<&str>) -> Answer<Vec<Numbered>> {
    let all: Vec<_> = l2.adapters().map(|(id, a)| (id.0 as usize, a.clone())).collect();
    if tier == "l1" {
        return Ok(all);
    }
    if tier == "l2" && all.is_empty() {
        return Err(ApiError::Unavailable("no L2 adapters configured".to_owned()));
    }
    let Some(wanted) = wanted else { return Ok(all) };
    let named: Vec<_> = all
        .into_iter()
        .filter(|(number, adapter)| adapter.kind() == wanted || number.to_string() == wanted)
        .collect();
    match named.is_empty() {
        true => Err(ApiError::NotFound(format!("no L2 adapter with type_name='{wanted}'"))),
        false => Ok(named),
    }
}

fn key_json(key: &ObjectKey) -> Value {
    let mut json = json!({
        "chunk_hash_hex": key.chunk_hash.to_string(), "model_name": *key.model_name,
        "kv_rank": key.kv_rank.0, "object_group_id": key.object_group, "cache_salt": *key.cache_salt,
    });
    if key.layout.is_known() {
        json["layout"] = key.layout.to_string().into();
    }
    json
}

/// A request to delete objects.
#[derive(Debug)]
struct Deletion {
    keys: Vec<ObjectKey>,
    tier: String,
    force: bool,
    adapter: Option<String>,
}

/// Deletes objects from the requested tiers.
pub(in crate::http) async fn delete(core: Part<CoreHandle>, l2: Part<L2>, Body(body): Body) -> Answer {
    let Deletion { keys, tier, force, adapter } = parse_deletion(&body)?;
    let adapters = adapters(&l2, &tier, adapter.as_deref())?;
    let mut outcomes = vec![Removal::Absent; keys.len()];
    let mut failures = Vec::new();
    if tier != "l2" {
        outcomes = core.with(|core, now| core.remove(now, &keys, force));
    }
    if tier != "l1" {
        for (number, adapter) in adapters {
            let mut gone = Vec::new();
            for ((key, outcome), result) in
                keys.iter().zip(&mut outcomes).zip(adapter.delete(keys.clone()).await)
            {
                match result {
                    Ok(true) => {
                        gone.push(key.clone());
                        if *outcome != Removal::Held {
                            *outcome = Removal::Removed;
                        }
                    }
                    Ok(false) => {}
                    Err(problem) => failures.push(problem.to_string()),
                }
            }
            core.with(|core, now| core.l2_removed(now, AdapterId(number as u32), &gone));
        }
    }
    let count = |wanted: Removal| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    let (deleted, skipped) = (count(Removal::Removed), count(Removal::Held));
    let mut body = json!({"deleted": deleted, "skipped": skipped, "ok": failures.is_empty()});
    if let Some(problem) = failures.first() {
        body["error"] = format!("{} of the keys failed, the first with: {problem}", failures.len()).into();
    }
    Ok(Json(body).into_response())
}

fn parse_deletion(body: &[u8]) -> Answer<Deletion> {
    let map = object(body)?;
    let (fields, mut errors) = (Fields::of_body(&map), FieldErrors::default());
    fields.must_have(&mut errors, "keys");
    let given = fields.list(&mut errors, "keys").map_or(&[][..], Vec::as_slice);
    let tier = fields.text(&mut errors, "tier").unwrap_or("l2");
    let force = fields.switch(&mut errors, "force").unwrap_or(false);
    let adapter = fields.text_or_null(&mut errors, "adapter").map(str::to_owned);
    if given.len() > KEYS_MAX {
        let text = format!("too many keys in a single request (limit={KEYS_MAX}, got={})", given.len());
        return Err(ApiError::BadRequest(text));
    }
    let parts: Vec<_> = given.iter().enumerate().map(|(i, value)| key_parts(&mut errors, i, value)).collect();
    errors.check()?;
    if !TIERS.contains(&tier) {
        let text = format!("tier '{tier}' not supported; only {}", TIERS.join(", "));
        return Err(ApiError::BadRequest(text));
    }
    let mut keys = Vec::with_capacity(parts.len());
    for (i, parts) in parts.into_iter().flatten().enumerate() {
        let key = parts.key().map_err(|why| ApiError::BadRequest(format!("keys[{i}]: {why}")))?;
        keys.push(key);
    }
    Ok(Deletion { keys, tier: tier.to_owned(), force, adapter })
}

/// The fields of a key.
#[derive(Debug)]
struct KeyParts<'a> {
    hash: &'a str,
    model: &'a str,
    rank: i64,
    group: i64,
    salt: &'a str,
    /// Empty if it is not known.
    layout: &'a str,
}

fn key_parts<'a>(errors: &mut FieldErrors, index: usize, value: &'a Value) -> Option<KeyParts<'a>> {
    let Value::Object(map) = value else {
        Fields::not_an_object(errors, "keys", index, value);
        return None;
    };
    let fields = Fields::of_element(map, "keys", index);
    for name in ["chunk_hash_hex", "model_name", "kv_rank"] {
        fields.must_have(errors, name);
    }
    Some(KeyParts {
        hash: fields.text(errors, "chunk_hash_hex").unwrap_or_default(),
        model: fields.text(errors, "model_name").unwrap_or_default(),
        rank: fields.whole(errors, "kv_rank", 0).unwrap_or_default(),
        group: fields.whole(errors, "object_group_id", 0).unwrap_or_default(),
        salt: fields.text(errors, "cache_salt").unwrap_or_default(),
        layout: fields.text(errors, "layout").unwrap_or_default(),
    })
}

impl KeyParts<'_> {
    fn key(&self) -> Result<ObjectKey, String> {
        let bytes = hex(self.hash).ok_or_else(|| format!("'{}' is not hexadecimal", self.hash))?;
        let hash =
            ChunkHash::new(&bytes).ok_or_else(|| format!("a hash has 1 to 32 bytes, not {}", bytes.len()))?;
        let rank = u32::try_from(self.rank).map_err(|_| format!("kv_rank {} is too large", self.rank))?;
        let group =
            self.group.try_into().map_err(|_| format!("object_group_id {} is too large", self.group))?;
        let layout = match self.layout {
            "" => LayoutId::UNKNOWN,
            text => LayoutId::parse(text)
                .ok_or_else(|| format!("layout '{text}' is not 16 hexadecimal digits"))?,
        };
        let key =
            ObjectKey::new(hash, self.model, KvRank(rank), group, self.salt).map_err(|e| e.to_string())?;
        Ok(key.with_layout(layout))
    }
}

/// Decodes hexadecimal digits.
fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some((digit(*high)? * 16 + digit(*low)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_round_trips_through_its_token() {
        let cursor = Some(Cursor("a:b/c".to_owned()));
        for place in [
            Position::L1(4096),
            Position::L2 { adapter: 2, cursor: None },
            Position::L2 { adapter: 0, cursor },
        ] {
            assert_eq!(Position::parse(&place.token()), Some(place));
        }
        assert_eq!(Position::parse("l3:1"), None);
        assert_eq!(Position::parse("l1:x"), None);
    }

    #[test]
    fn key_fields_have_defaults() {
        let body = br#"{"keys":[{"chunk_hash_hex":"2a01","model_name":"m","kv_rank":16777472}]}"#;
        let deletion = parse_deletion(body).expect("a whole request");
        assert_eq!(deletion.tier, "l2");
        assert_eq!(deletion.keys[0].chunk_hash.as_bytes(), [0x2a, 1]);
        assert_eq!((deletion.keys[0].object_group, &*deletion.keys[0].cache_salt), (0, ""));
    }

    #[test]
    fn invalid_keys_are_rejected() {
        for (body, status) in [
            (r#"{"keys":[{"chunk_hash_hex":"zz","model_name":"m","kv_rank":1}]}"#, 400),
            (r#"{"keys":[{"chunk_hash_hex":"2a","model_name":"m@n","kv_rank":1}]}"#, 400),
            (r#"{"keys":[{"chunk_hash_hex":"2a","model_name":"m"}]}"#, 422),
            (r#"{"keys":[7]}"#, 422),
            (r#"{"keys":[],"tier":"l9"}"#, 400),
            ("{}", 422),
        ] {
            let error = parse_deletion(body.as_bytes()).expect_err(body);
            assert_eq!(error.status().as_u16(), status, "{body}");
        }
    }
}
