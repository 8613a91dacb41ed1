//! What a call says: the fields of a JSON body and of a query, each with the error that the
//! reference's framework gives (422 and a list of what is wrong, `operations.md` 1.1).

use std::collections::HashMap;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Answer, Refusal};

/// Faults in the fields of a call, all of them together.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Value>);

impl Faults {
    /// One more.
    fn push(&mut self, kind: &str, place: &[Value], message: &str, input: &Value) {
        self.0.push(json!({"type": kind, "loc": place, "msg": message, "input": input}));
    }

    /// The answer, if there are any.
    pub(super) fn answer(self) -> Answer<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Refusal { status: StatusCode::UNPROCESSABLE_ENTITY, body: json!({"detail": self.0}) })
    }
}

/// The fields of a JSON object, read one by one.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    place: Vec<Value>,
}

/// The JSON object in a body; an empty body is an empty object.
pub(super) fn object(body: &[u8]) -> Answer<Map<String, Value>> {
    let mut faults = Faults::default();
    let text = if body.trim_ascii().is_empty() { b"{}" } else { body };
    match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => return Ok(map),
        Ok(other) => {
            faults.push("model_attributes_type", &["body".into()], "Input should be a valid object", &other)
        }
        Err(error) => {
            let place = ["body".into(), error.column().into()];
            faults.push("json_invalid", &place, &format!("JSON decode error: {error}"), &json!({}));
        }
    }
    faults.answer().map(|()| Map::new())
}

impl<'a> Fields<'a> {
    /// The fields of a body.
    pub(super) fn of_body(map: &'a Map<String, Value>) -> Self {
        Self { map, place: vec!["body".into()] }
    }

    /// The fields of element `index` of the list `name`.
    pub(super) fn of_element(map: &'a Map<String, Value>, name: &str, index: usize) -> Self {
        Self { map, place: vec!["body".into(), name.into(), index.into()] }
    }

    fn read<T>(
        &self,
        faults: &mut Faults,
        name: &str,
        kind: &str,
        wants: &str,
        take: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.map.get(name)?;
        let taken = take(value);
        if taken.is_none() {
            faults.push(kind, &self.at(name), &format!("Input should be {wants}"), value);
        }
        taken
    }

    fn at(&self, name: &str) -> Vec<Value> {
        self.place.iter().cloned().chain([name.into()]).collect()
    }

    /// Notes a fault if a field is not there.
    pub(super) fn must_have(&self, faults: &mut Faults, name: &str) {
        if !self.map.contains_key(name) {
            faults.push("missing", &self.at(name), "Field required", &Value::Object(self.map.clone()));
        }
    }

    /// A text.
    pub(super) fn text(&self, faults: &mut Faults, name: &str) -> Option<&'a str> {
        self.read(faults, name, "string_type", "a valid string", Value::as_str)
    }

    /// A whole number from `from` on.
    pub(super) fn whole(&self, faults: &mut Faults, name: &str, from: i64) -> Option<i64> {
        let wants = format!("a valid integer, at least {from}");
        self.read(faults, name, "int_type", &wants, |v| v.as_i64().filter(|n| *n >= from))
    }

    /// `true` or `false`.
    pub(super) fn switch(&self, faults: &mut Faults, name: &str) -> Option<bool> {
        self.read(faults, name, "bool_type", "a valid boolean", Value::as_bool)
    }

    /// A list.
    pub(super) fn list(&self, faults: &mut Faults, name: &str) -> Option<&'a Vec<Value>> {
        self.read(faults, name, "list_type", "a valid list", Value::as_array)
    }

    /// A text, or nothing if it is null.
    pub(super) fn text_or_null(&self, faults: &mut Faults, name: &str) -> Option<&'a str> {
        self.map.get(name).filter(|v| !v.is_null())?;
        self.text(faults, name)
    }

    /// Notes that an element of a list is no object.
    pub(super) fn not_an_object(faults: &mut Faults, name: &str, index: usize, value: &Value) {
        let place = ["body".into(), name.into(), index.into()];
        faults.push("model_attributes_type", &place, "Input should be a valid object", value);
    }
}

/// A whole number of a query within bounds, or `default`.
pub(super) fn query_whole(
    faults: &mut Faults,
    query: &HashMap<String, String>,
    name: &str,
    default: usize,
    bounds: std::ops::RangeInclusive<usize>,
) -> usize {
    let Some(text) = query.get(name) else { return default };
    match text.parse() {
        Ok(number) if bounds.contains(&number) => number,
        _ => {
            let message =
                format!("Input should be a whole number from {} to {}", bounds.start(), bounds.end());
            faults.push("int_parsing", &["query".into(), name.into()], &message, &text.as_str().into());
            default
        }
    }
}

/// One of the words of a query, or the first of them.
pub(super) fn query_word<'a>(
    faults: &mut Faults,
    query: &HashMap<String, String>,
    name: &str,
    words: &'a [&'a str],
    default: &'a str,
) -> &'a str {
    let Some(text) = query.get(name) else { return default };
    words.iter().find(|word| *word == text).copied().unwrap_or_else(|| {
        let message = format!("Input should be one of {}", words.join(", "));
        faults.push("literal_error", &["query".into(), name.into()], &message, &text.as_str().into());
        default
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_with_its_place() {
        let map = object(br#"{"world_size": "two", "salt": null}"#).expect("an object");
        let fields = Fields::of_body(&map);
        let mut faults = Faults::default();
        fields.must_have(&mut faults, "model_name");
        assert_eq!(fields.whole(&mut faults, "world_size", 1), None);
        assert_eq!(fields.text_or_null(&mut faults, "salt"), None);
        let places: Vec<&Value> = faults.0.iter().map(|f| &f["loc"]).collect();
        assert_eq!(places, [&json!(["body", "model_name"]), &json!(["body", "world_size"])]);
        assert_eq!(faults.0[0]["type"], "missing");
    }

    #[test]
    fn a_body_is_an_object_or_nothing() {
        assert!(object(b" ").expect("nothing is an empty object").is_empty());
        assert!(object(b"[1]").is_err() && object(b"{").is_err());
    }
}
