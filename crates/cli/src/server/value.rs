//! Values of flags: as given, as parsed, and as the Rust type that the server reads.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use larder_server::config::path::{home, path_error};
use larder_server::config::secret::{REDACTED, names_a_secret, redact, redact_url};
use larder_server::config::{
    EvictionPolicy, HashAlgorithm, LogFormat, LogLevel, OffloadPolicy, PrefetchPolicy, TransferMode,
    Transport, suggest,
};

use super::flag::{FlagSpec, Kind, Range};

/// A value as given, not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RawValue {
    Switch(bool),
    Text(String),
    List(Vec<String>),
}

/// A value that its flag accepts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    List(Vec<String>),
}

/// Why a flag does not accept a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("must be true or false")]
    NotBool,
    #[error("must be one value, {0}")]
    NotSingle(String),
    #[error("must not be empty")]
    Empty,
    #[error("must not contain a zero byte")]
    ZeroByte,
    #[error("{0}")]
    Path(String),
    #[error("must be a whole number from {0} to {1}")]
    NotInteger(i64, i64),
    #[error("must be {0}")]
    NotNumber(String),
    #[error("{0}")]
    Refused(&'static str),
    #[error("must be one of {choices}{hint}")]
    NotAChoice { choices: String, hint: String },
    #[error("must be a list")]
    NotList,
}

impl Value {
    /// Parses `raw` as a value of `flag`.
    pub(crate) fn parse(flag: &FlagSpec, raw: &RawValue) -> Result<Self, ValueError> {
        let text = || match raw {
            RawValue::Text(text) => Ok(text.as_str()),
            _ => Err(ValueError::NotSingle(flag.kind.placeholder())),
        };
        match flag.kind {
            Kind::Switch | Kind::Pair => match raw {
                RawValue::Switch(on) => Ok(Self::Bool(*on)),
                RawValue::Text(text) => parse_bool(text).map(Self::Bool),
                RawValue::List(_) => Err(ValueError::NotBool),
            },
            Kind::Text => Ok(Self::Text(text()?.to_owned())),
            Kind::Name | Kind::Path => match text()? {
                "" => Err(ValueError::Empty),
                text if text.contains('\0') => Err(ValueError::ZeroByte),
                text if matches!(flag.kind, Kind::Path) => match path_error(text, home().as_deref()) {
                    Some(error) => Err(ValueError::Path(error)),
                    None => Ok(Self::Text(text.to_owned())),
                },
                text => Ok(Self::Text(text.to_owned())),
            },
            Kind::Integer(min, max) => {
                let number = text()?.trim().parse().ok().filter(|number| (min..=max).contains(number));
                number.map(Self::Integer).ok_or(ValueError::NotInteger(min, max))
            }
            Kind::Number(range) => parse_number(text()?, range).map(Self::Number),
            Kind::OneOf(all) => {
                let text = text()?;
                if let Some(reason) = flag.refusal(text) {
                    return Err(ValueError::Refused(reason));
                }
                if flag.kind.choices().any(|choice| choice == text) {
                    return Ok(Self::Text(text.to_owned()));
                }
                let hint = suggest::hint(text, all.iter().map(|choice| choice.0));
                Err(ValueError::NotAChoice { choices: flag.kind.placeholder(), hint })
            }
            Kind::Words | Kind::Endpoints | Kind::JsonObjects => match raw {
                RawValue::List(texts) => Ok(Self::List(texts.clone())),
                RawValue::Text(text) => Ok(Self::List(vec![text.clone()])),
                RawValue::Switch(_) => Err(ValueError::NotList),
            },
        }
    }

    /// The value with every secret replaced by `***`, for printing.
    pub(crate) fn redacted(&self, flag: &FlagSpec) -> Self {
        let redacted = |text: &String| match flag.kind {
            // The path of a file is not a secret, its content may be.
            Kind::Path => text.clone(),
            _ if names_a_secret(flag.name) => REDACTED.to_owned(),
            _ => match serde_json::from_str(text) {
                Ok(mut json @ (serde_json::Value::Object(_) | serde_json::Value::Array(_))) => {
                    redact(&mut json);
                    json.to_string()
                }
                _ => redact_url(text),
            },
        };
        match self {
            Self::Text(text) => Self::Text(redacted(text)),
            Self::List(texts) => Self::List(texts.iter().map(redacted).collect()),
            other => other.clone(),
        }
    }
}

impl fmt::Display for Value {
    /// TOML syntax: what is printed can be read back as a configuration file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &String| serde_json::Value::from(text.as_str()).to_string();
        match self {
            Self::Bool(on) => write!(f, "{on}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::List(texts) => write!(f, "[{}]", texts.iter().map(quoted).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl From<Value> for RawValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Bool(on) => Self::Switch(on),
            Value::Text(text) => Self::Text(text),
            Value::List(texts) => Self::List(texts),
            number => Self::Text(number.to_string()),
        }
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

fn parse_bool(text: &str) -> Result<bool, ValueError> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(ValueError::NotBool),
    }
}

fn parse_number(text: &str, range: Range) -> Result<f64, ValueError> {
    let number = text.trim().parse().ok().filter(|number| range.contains(*number));
    number.ok_or_else(|| ValueError::NotNumber(range.to_string()))
}

/// A type in which the server reads a flag's value.
pub(crate) trait FromValue: Sized {
    /// Converts the value of a flag, `None` if it has none. Returns `None` if the type does not fit the flag's
    /// kind: an error in the flag table.
    fn from_value(value: Option<&Value>) -> Option<Self>;
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Option<&Value>) -> Option<Self> {
        if value.is_none() { Some(None) } else { T::from_value(value).map(Some) }
    }
}

impl FromValue for Vec<String> {
    fn from_value(value: Option<&Value>) -> Option<Self> {
        match value {
            None => Some(Vec::new()),
            Some(Value::List(texts)) => Some(texts.clone()),
            Some(_) => None,
        }
    }
}

impl FromValue for Duration {
    fn from_value(value: Option<&Value>) -> Option<Self> {
        match value? {
            Value::Integer(seconds) => Some(Self::from_secs(u64::try_from(*seconds).ok()?)),
            Value::Number(seconds) => Self::try_from_secs_f64(*seconds).ok(),
            _ => None,
        }
    }
}

macro_rules! from_value {
    ($($type:ty: $pattern:pat => $result:expr;)+) => {$(
        impl FromValue for $type {
            fn from_value(value: Option<&Value>) -> Option<Self> {
                match value? {
                    $pattern => $result,
                    _ => None,
                }
            }
        }
    )+};
}

from_value! {
    bool: Value::Bool(on) => Some(*on);
    i64: Value::Integer(number) => Some(*number);
    u16: Value::Integer(number) => Self::try_from(*number).ok();
    u32: Value::Integer(number) => Self::try_from(*number).ok();
    u64: Value::Integer(number) => Self::try_from(*number).ok();
    usize: Value::Integer(number) => Self::try_from(*number).ok();
    f64: Value::Number(number) => Some(*number);
    String: Value::Text(text) => Some(text.clone());
    PathBuf: Value::Text(text) => Some(Self::from(text));
    EvictionPolicy: Value::Text(text) => Self::from_name(text);
    HashAlgorithm: Value::Text(text) => Self::from_name(text);
    LogFormat: Value::Text(text) => Self::from_name(text);
    LogLevel: Value::Text(text) => Self::from_name(text);
    PrefetchPolicy: Value::Text(text) => Self::from_name(text);
    OffloadPolicy: Value::Text(text) => Self::from_name(text);
    TransferMode: Value::Text(text) => Self::from_name(text);
    Transport: Value::Text(text) => Self::from_name(text);
}
