//! The JSON objects that some flags carry: read field by field, with every fault kept.
//!
//! A reader never stops at the first fault. It notes it, goes on with the field's default, and gives up the value
//! at the end, so that one attempt shows the operator everything there is to mend.

use std::fmt;

use serde_json::{Map, Value};

use super::secret::{REDACTED, names_a_secret};
use super::suggest;

/// One fault in the JSON that a flag carries. It prints as one line that begins with the flag, or names it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// It is not JSON.
    #[error("Invalid JSON for {subject}: {fault}")]
    Syntax {
        /// The flag, and which of its uses.
        subject: String,
        /// What the parser says.
        fault: String,
    },
    /// It is JSON of another shape.
    #[error("{subject}: expected a JSON object, got {got}")]
    NotAnObject {
        /// The flag, and which of its uses.
        subject: String,
        /// The shape it has.
        got: &'static str,
    },
    /// Nothing says which kind of thing is described.
    #[error("{subject}: missing 'type' field")]
    MissingType {
        /// The flag, and which of its uses.
        subject: String,
    },
    /// The kind is not one that exists.
    #[error("{subject}: unknown adapter type '{name}'{hint}. Known: {known}")]
    UnknownType {
        /// The flag, and which of its uses.
        subject: String,
        /// The type asked for.
        name: String,
        /// A guess what was meant.
        hint: String,
        /// Those that would do.
        known: String,
    },
    /// The kind exists elsewhere and not in this server.
    #[error("{subject}: this server has no '{name}' adapter; {advice}")]
    UnservedType {
        /// The flag, and which of its uses.
        subject: String,
        /// The type asked for.
        name: String,
        /// What to use instead.
        advice: &'static str,
    },
    /// An L1 pool is of no type that exists.
    #[error("--l1-manager requires type DRAM, DEVDAX or GDS (this server: DRAM)")]
    WrongPoolType,
    /// A key that means nothing.
    #[error("{subject}: unknown field '{field}'{hint}")]
    UnknownField {
        /// The flag, and which of its uses.
        subject: String,
        /// The key.
        field: String,
        /// A guess what was meant.
        hint: String,
    },
    /// A key whose value will not do.
    #[error("{subject}: {field} must be {expected}, got {got}")]
    BadField {
        /// The flag, and which of its uses.
        subject: String,
        /// The key.
        field: String,
        /// What would do.
        expected: &'static str,
        /// What is there.
        got: String,
    },
    /// Values that do not go together, or anything else with words of its own.
    #[error("{subject}: {fault}")]
    Conflict {
        /// The flag, and which of its uses.
        subject: String,
        /// What is wrong.
        fault: String,
    },
}

/// Reads `text` as one JSON object.
pub(super) fn parse_object(subject: &str, text: &str) -> Result<Map<String, Value>, SpecError> {
    let subject = subject.to_owned();
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(SpecError::NotAnObject { subject, got: shape(&other) }),
        Err(fault) => Err(SpecError::Syntax { subject, fault: fault.to_string() }),
    }
}

/// What kind of JSON value this is, in a word.
const fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// One object under reading. A field that is absent, or `null`, has its default.
pub(super) struct Fields<'a> {
    subject: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
    faults: Vec<SpecError>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(subject: impl Into<String>, map: &'a Map<String, Value>) -> Self {
        Self { subject: subject.into(), map, known: Vec::new(), faults: Vec::new() }
    }

    /// The field's value, noted as one that may occur.
    fn value(&mut self, field: &'static str) -> Option<&'a Value> {
        self.known.push(field);
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// The field's value through `read`; `None` where it is absent or, with a fault noted, does not fit.
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

    /// The same for a field that must be there.
    fn need<T>(
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
        self.faults.push(SpecError::BadField {
            subject: self.subject.clone(),
            field: field.to_owned(),
            expected,
            got,
        });
    }

    /// Notes a fault in words of its own.
    pub(super) fn conflict(&mut self, fault: impl Into<String>) {
        self.faults.push(SpecError::Conflict { subject: self.subject.clone(), fault: fault.into() });
    }

    /// Notes faults found by another reader.
    pub(super) fn adopt(&mut self, faults: impl IntoIterator<Item = SpecError>) {
        self.faults.extend(faults);
    }

    /// Notes `field` as one that may occur, whatever it holds.
    pub(super) fn skip(&mut self, field: &'static str) {
        self.known.push(field);
    }

    pub(super) fn name(&mut self, field: &'static str) -> Option<&'a str> {
        self.read(field, NAME, name)
    }

    pub(super) fn needed_name(&mut self, field: &'static str) -> Option<&'a str> {
        self.need(field, NAME, name)
    }

    pub(super) fn text(&mut self, field: &'static str) -> Option<&'a str> {
        self.read(field, "a string", Value::as_str)
    }

    pub(super) fn boolean(&mut self, field: &'static str, default: bool) -> bool {
        self.read(field, "a boolean", Value::as_bool).unwrap_or(default)
    }

    pub(super) fn integer(&mut self, field: &'static str, default: i64) -> i64 {
        self.read(field, "an integer", Value::as_i64).unwrap_or(default)
    }

    pub(super) fn positive(&mut self, field: &'static str) -> Option<u64> {
        self.read(field, "a positive integer", |value| value.as_u64().filter(|n| *n > 0))
    }

    /// A size in GiB as bytes, 0 allowed.
    pub(super) fn gib(&mut self, field: &'static str) -> Option<u64> {
        self.read(field, "a finite number of GiB, 0 or more", |value| gib_bytes(value.as_f64()?, true))
    }

    /// A size in GiB as bytes, needed and above 0.
    pub(super) fn needed_gib(&mut self, field: &'static str) -> Option<u64> {
        self.need(field, "a finite positive number", |value| gib_bytes(value.as_f64()?, false))
    }

    /// A share in [0, 1].
    pub(super) fn fraction(&mut self, field: &'static str) -> Option<f64> {
        self.read(field, "a number from 0 to 1", |value| value.as_f64().filter(|n| (0.0..=1.0).contains(n)))
    }

    /// A share in (0, 1].
    pub(super) fn share(&mut self, field: &'static str) -> Option<f64> {
        self.read(field, "between zero and one (above 0)", |value| {
            value.as_f64().filter(|n| *n > 0.0 && *n <= 1.0)
        })
    }

    /// A list whose every element passes `read`.
    pub(super) fn list<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Vec<T> {
        self.read(field, expected, |value| value.as_array()?.iter().map(read).collect()).unwrap_or_default()
    }

    pub(super) fn object(&mut self, field: &'static str) -> Option<&'a Map<String, Value>> {
        self.read(field, "a JSON object", Value::as_object)
    }

    /// One of the names for which `read` has a value.
    pub(super) fn choice<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.read(field, expected, |value| read(value.as_str()?))
    }

    /// Ends the reading: every field nobody asked for is a fault, too.
    pub(super) fn finish(mut self) -> Vec<SpecError> {
        for field in self.map.keys().filter(|field| !self.known.contains(&field.as_str())) {
            self.faults.push(SpecError::UnknownField {
                subject: self.subject.clone(),
                field: field.clone(),
                hint: suggest::hint(field, self.known.iter().copied()),
            });
        }
        self.faults
    }
}

const NAME: &str = "a non-empty string";

fn name(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

/// `gib` GiB in bytes; `None` for what is not a size, or is one beyond any machine.
fn gib_bytes(gib: f64, zero_allowed: bool) -> Option<u64> {
    let low_enough = gib.is_finite() && gib <= super::SIZE_GIB_MAX;
    let high_enough = gib > 0.0 || (zero_allowed && gib == 0.0);
    (low_enough && high_enough).then(|| super::bytes_from_gib(gib))
}
