//! Fields of JSON bodies and of queries. Invalid ones are reported together, with status 422, as LMCache's framework
//! does.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::Answer;
use super::error::{ApiError, FieldError};

/// The invalid fields of a call.
#[derive(Debug, Default)]
pub(super) struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    fn push(&mut self, kind: &'static str, loc: &[Value], msg: impl Into<String>, input: &Value) {
        self.0.push(FieldError { input: input.clone(), loc: loc.to_vec(), msg: msg.into(), kind });
    }

    /// An error if any field is invalid.
    pub(super) fn check(self) -> Answer<()> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::InvalidFields(self.0)) }
    }
}

/// The fields of a JSON object, read one by one.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    loc: Vec<Value>,
}

/// The JSON object in a body; an empty body is an empty object.
pub(super) fn object(body: &[u8]) -> Answer<Map<String, Value>> {
    let mut errors = FieldErrors::default();
    let text = if body.trim_ascii().is_empty() { b"{}" } else { body };
    match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => return Ok(map),
        Ok(other) => {
            errors.push("model_attributes_type", &["body".into()], "Input should be a valid object", &other)
        }
        Err(error) => {
            let loc = ["body".into(), error.column().into()];
            errors.push("json_invalid", &loc, format!("JSON decode error: {error}"), &json!({}));
        }
    }
    errors.check().map(|()| Map::new())
}

impl<'a> Fields<'a> {
    /// The fields of a body.
    pub(super) fn of_body(map: &'a Map<String, Value>) -> Self {
        Self { map, loc: vec!["body".into()] }
    }

    /// The fields of element `index` of the list `name`.
    pub(super) fn of_element(map: &'a Map<String, Value>, name: &str, index: usize) -> Self {
        Self { map, loc: vec!["body".into(), name.into(), index.into()] }
    }

    fn read<T>(
        &self,
        errors: &mut FieldErrors,
        name: &str,
        kind: &'static str,
        wants: &str,
        take: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.map.get(name)?;
        let taken = take(value);
        if taken.is_none() {
            errors.push(kind, &self.loc_of(name), format!("Input should be {wants}"), value);
        }
        taken
    }

    fn loc_of(&self, name: &str) -> Vec<Value> {
        self.loc.iter().cloned().chain([name.into()]).collect()
    }

    /// Reports a missing field.
    pub(super) fn must_have(&self, errors: &mut FieldErrors, name: &str) {
        if !self.map.contains_key(name) {
            errors.push("missing", &self.loc_of(name), "Field required", &Value::Object(self.map.clone()));
        }
    }

    /// A string.
    pub(super) fn text(&self, errors: &mut FieldErrors, name: &str) -> Option<&'a str> {
        self.read(errors, name, "string_type", "a valid string", Value::as_str)
    }

    /// An integer of at least `from`.
    pub(super) fn whole(&self, errors: &mut FieldErrors, name: &str, from: i64) -> Option<i64> {
        let wants = format!("a valid integer, at least {from}");
        self.read(errors, name, "int_type", &wants, |v| v.as_i64().filter(|n| *n >= from))
    }

    /// `true` or `false`.
    pub(super) fn switch(&self, errors: &mut FieldErrors, name: &str) -> Option<bool> {
        self.read(errors, name, "bool_type", "a valid boolean", Value::as_bool)
    }

    /// A list.
    pub(super) fn list(&self, errors: &mut FieldErrors, name: &str) -> Option<&'a Vec<Value>> {
        self.read(errors, name, "list_type", "a valid list", Value::as_array)
    }

    /// A string, or `None` if it is null.
    pub(super) fn text_or_null(&self, errors: &mut FieldErrors, name: &str) -> Option<&'a str> {
        self.map.get(name).filter(|v| !v.is_null())?;
        self.text(errors, name)
    }

    /// Reports an element of a list that is not an object.
    pub(super) fn not_an_object(errors: &mut FieldErrors, name: &str, index: usize, value: &Value) {
        let loc = ["body".into(), name.into(), index.into()];
        errors.push("model_attributes_type", &loc, "Input should be a valid object", value);
    }
}

/// An integer of the query within `bounds`, or `default`.
pub(super) fn query_whole(
    errors: &mut FieldErrors,
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
            errors.push("int_parsing", &["query".into(), name.into()], message, &text.as_str().into());
            default
        }
    }
}

/// A parameter of the query that is one of `words`, or `default`.
pub(super) fn query_word<'a>(
    errors: &mut FieldErrors,
    query: &HashMap<String, String>,
    name: &str,
    words: &'a [&'a str],
    default: &'a str,
) -> &'a str {
    let Some(text) = query.get(name) else { return default };
    words.iter().find(|word| *word == text).copied().unwrap_or_else(|| {
        let message = format!("Input should be one of {}", words.join(", "));
        errors.push("literal_error", &["query".into(), name.into()], message, &text.as_str().into());
        default
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_invalid_fields_are_reported_with_their_location() {
        let map = object(br#"{"world_size": "two", "salt": null}"#).expect("an object");
        let fields = Fields::of_body(&map);
        let mut errors = FieldErrors::default();
        fields.must_have(&mut errors, "model_name");
        assert_eq!(fields.whole(&mut errors, "world_size", 1), None);
        assert_eq!(fields.text_or_null(&mut errors, "salt"), None);
        let places: Vec<&Value> = errors.0.iter().map(|f| &f.loc[1]).collect();
        assert_eq!(places, [&json!("model_name"), &json!("world_size")]);
        assert_eq!(errors.0[0].kind, "missing");
    }

    #[test]
    fn body_is_an_object_or_empty() {
        assert!(object(b" ").expect("an empty object").is_empty());
        assert!(object(b"[1]").is_err() && object(b"{").is_err());
    }
}
