//! Reading of JSON objects that command-line flags carry, field by field.
//!
//! [`Fields`] does not stop at the first error: it records it and continues with the field's default, so that one
//! run reports everything there is to fix. (Serde's derive stops at the first error.)

pub mod path;
pub mod secret;
pub mod suggest;

use std::fmt;

use serde_json::{Map, Value};

use self::secret::{REDACTED, names_a_secret};

/// One gibibyte, in bytes. LMCache's `-gb` flags and `_gb` fields count these.
pub const GIB: u64 = 1 << 30;

/// The largest accepted size in GiB, a pebibyte. Larger values are rejected as typos.
pub const SIZE_GIB_MAX: f64 = (1 << 20) as f64;

/// `gib` GiB in bytes, rounded down.
pub fn bytes_from_gib(gib: f64) -> u64 {
    (gib * GIB as f64) as u64
}

/// `bytes` in GiB.
pub fn gib_from_bytes(bytes: u64) -> f64 {
    bytes as f64 / GIB as f64
}

/// One error in the JSON of a flag. Prints as one line that names the flag.
///
/// `subject` is the flag and which of its uses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages describe the fields")]
pub enum SpecError {
    /// Not JSON.
    #[error("Invalid JSON for {subject}: {error}")]
    Syntax { subject: String, error: String },
    /// JSON, but no object.
    #[error("{subject}: expected a JSON object, got {got}")]
    NotAnObject { subject: String, got: &'static str },
    /// No `type`.
    #[error("{subject}: missing 'type' field")]
    MissingType { subject: String },
    /// A `type` that does not exist.
    #[error("{subject}: unknown adapter type '{name}'{hint}. Known: {known}")]
    UnknownType { subject: String, name: String, hint: String, known: String },
    /// A `type` of LMCache that this server does not have.
    #[error("{subject}: this server has no '{name}' adapter; {advice}")]
    UnservedType { subject: String, name: String, advice: &'static str },
    /// A field that does not exist.
    #[error("{subject}: unknown field '{field}'{hint}")]
    UnknownField { subject: String, field: String, hint: String },
    /// A field with an unusable value.
    #[error("{subject}: {field} must be {expected}, got {got}")]
    BadField { subject: String, field: String, expected: &'static str, got: String },
    /// Values that contradict each other, and other errors with a message of their own.
    #[error("{subject}: {error}")]
    Conflict { subject: String, error: String },
    /// A complete message.
    #[error("{0}")]
    Other(&'static str),
}

/// Parses `text` as one JSON object.
///
/// # Errors
/// `text` is not JSON or not an object.
pub fn parse_object(subject: &str, text: &str) -> Result<Map<String, Value>, SpecError> {
    let subject = subject.to_owned();
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(SpecError::NotAnObject { subject, got: json_type(&other) }),
        Err(error) => Err(SpecError::Syntax { subject, error: error.to_string() }),
    }
}

const fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// Reader of one JSON object. A field that is absent, `null` or, with an error recorded, of the wrong type has its
/// default. [`Fields::finish`] returns the errors and reports each field that no call has read.
#[derive(Debug)]
pub struct Fields<'a> {
    subject: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
    errors: Vec<SpecError>,
}

impl<'a> Fields<'a> {
    /// A reader of `map`; `subject` begins each error message.
    pub fn new(subject: impl Into<String>, map: &'a Map<String, Value>) -> Self {
        Self { subject: subject.into(), map, known: Vec::new(), errors: Vec::new() }
    }

    /// The start of each error message.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The fields read so far.
    #[cfg(test)]
    pub(crate) fn known(&self) -> &[&'static str] {
        &self.known
    }

    fn value(&mut self, field: &'static str) -> Option<&'a Value> {
        self.known.push(field);
        self.map.get(field).filter(|value| !value.is_null())
    }

    fn read<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(field)?;
        let fits = read(value);
        if fits.is_none() {
            self.bad(field, expected, value);
        }
        fits
    }

    fn required<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let found = self.read(field, expected, read);
        if self.map.get(field).is_none_or(Value::is_null) {
            self.bad(field, expected, &"nothing");
        }
        found
    }

    fn bad(&mut self, field: &str, expected: &'static str, got: &dyn fmt::Display) {
        let got = if names_a_secret(field) { REDACTED.to_owned() } else { got.to_string() };
        self.errors.push(SpecError::BadField {
            subject: self.subject.clone(),
            field: field.to_owned(),
            expected,
            got,
        });
    }

    /// Records an error with a message of its own.
    pub fn conflict(&mut self, error: impl Into<String>) {
        self.errors.push(SpecError::Conflict { subject: self.subject.clone(), error: error.into() });
    }

    /// Records errors of another reader.
    pub fn add_errors(&mut self, errors: impl IntoIterator<Item = SpecError>) {
        self.errors.extend(errors);
    }

    /// Accepts `field` without reading it.
    pub fn ignore(&mut self, field: &'static str) {
        self.known.push(field);
    }

    /// A non-empty string.
    pub fn name(&mut self, field: &'static str) -> Option<&'a str> {
        self.read(field, NAME, name)
    }

    /// A required non-empty string.
    pub fn required_name(&mut self, field: &'static str) -> Option<&'a str> {
        self.required(field, NAME, name)
    }

    /// A string.
    pub fn text(&mut self, field: &'static str) -> Option<&'a str> {
        self.read(field, "a string", Value::as_str)
    }

    /// A boolean.
    pub fn boolean(&mut self, field: &'static str, default: bool) -> bool {
        self.read(field, "a boolean", Value::as_bool).unwrap_or(default)
    }

    /// A value that `read` understands; `expected` describes it.
    pub fn custom<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        self.read(field, expected, read)
    }

    /// An integer.
    pub fn integer(&mut self, field: &'static str, default: i64) -> i64 {
        self.read(field, "an integer", Value::as_i64).unwrap_or(default)
    }

    /// An integer above 0.
    pub fn positive(&mut self, field: &'static str) -> Option<u64> {
        self.read(field, "a positive integer", |value| value.as_u64().filter(|n| *n > 0))
    }

    /// A size in GiB as bytes, 0 allowed.
    pub fn gib(&mut self, field: &'static str) -> Option<u64> {
        self.read(field, "a finite number of GiB, 0 or more", |value| gib_bytes(value.as_f64()?, true))
    }

    /// A required size in GiB as bytes, above 0.
    pub fn required_gib(&mut self, field: &'static str) -> Option<u64> {
        self.required(field, "a finite positive number", |value| gib_bytes(value.as_f64()?, false))
    }

    /// A number in [0, 1].
    pub fn fraction(&mut self, field: &'static str) -> Option<f64> {
        self.read(field, "a number from 0 to 1", |value| value.as_f64().filter(|n| (0.0..=1.0).contains(n)))
    }

    /// A number in (0, 1].
    pub fn positive_fraction(&mut self, field: &'static str) -> Option<f64> {
        self.read(field, "between zero and one (above 0)", |value| {
            value.as_f64().filter(|n| *n > 0.0 && *n <= 1.0)
        })
    }

    /// A list; `read` converts each element.
    pub fn list<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Vec<T> {
        self.read(field, expected, |value| value.as_array()?.iter().map(read).collect()).unwrap_or_default()
    }

    /// A JSON object.
    pub fn object(&mut self, field: &'static str) -> Option<&'a Map<String, Value>> {
        self.read(field, "a JSON object", Value::as_object)
    }

    /// A string that `read` converts.
    pub fn choice<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.read(field, expected, |value| read(value.as_str()?))
    }

    /// All errors, including one for each field that was not read.
    pub fn finish(mut self) -> Vec<SpecError> {
        for field in self.map.keys().filter(|field| !self.known.contains(&field.as_str())) {
            self.errors.push(SpecError::UnknownField {
                subject: self.subject.clone(),
                field: field.clone(),
                hint: suggest::hint(field, self.known.iter().copied()),
            });
        }
        self.errors
    }
}

const NAME: &str = "a non-empty string";

fn name(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

fn gib_bytes(gib: f64, zero_allowed: bool) -> Option<u64> {
    let low_enough = gib.is_finite() && gib <= SIZE_GIB_MAX;
    let high_enough = gib > 0.0 || (zero_allowed && gib == 0.0);
    (low_enough && high_enough).then(|| bytes_from_gib(gib))
}
