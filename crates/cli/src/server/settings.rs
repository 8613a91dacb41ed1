//! What was said, wherever it was said, and which saying wins: the command line, then the environment, then the
//! file, then the default. Each flag by itself, and each value remembers where it came from.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use larder_server::config::secret::{REDACTED, names_a_secret, redact, redact_url};
use larder_server::config::suggest;

use super::flags::{Default, Flag, Judgement, Kind};
use super::report::Report;
use super::table::flags;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was typed.
    CommandLine,
    /// This environment variable.
    Variable(String),
    /// This configuration file.
    File(PathBuf),
    /// The table.
    Default,
    /// It was found out at start, this way.
    Found(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Found(how) => f.write_str(how),
        }
    }
}

/// A value as it was said, unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Raw {
    /// On or off.
    On(bool),
    /// One text.
    One(String),
    /// Several texts.
    Many(Vec<String>),
}

/// Everything one place said.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) origin: Origin,
    pub(crate) given: Vec<(&'static Flag, Raw)>,
}

impl Layer {
    pub(crate) const fn new(origin: Origin) -> Self {
        Self { origin, given: Vec::new() }
    }

    /// Adds a value: behind those before where the flag may be repeated, else in their place.
    pub(crate) fn add(&mut self, flag: &'static Flag, raw: Raw) {
        match (self.given.iter_mut().find(|(known, _)| known.name == flag.name), raw) {
            (Some((_, Raw::Many(before))), Raw::Many(more)) if flag.kind.repeats() => before.extend(more),
            (Some((_, before)), raw) => *before = raw,
            (None, raw) => self.given.push((flag, raw)),
        }
    }

    fn get(&self, flag: &Flag) -> Option<&Raw> {
        self.given.iter().find(|(known, _)| known.name == flag.name).map(|(_, raw)| raw)
    }
}

/// A value that fits its flag.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// On or off.
    On(bool),
    /// A whole number.
    Whole(i64),
    /// Any number.
    Number(f64),
    /// A text.
    Text(String),
    /// Several texts.
    List(Vec<String>),
}

impl Value {
    /// The value with every secret covered, for printing.
    pub(crate) fn redacted(&self, flag: &Flag) -> Self {
        let cover = |text: &String| match flag.kind {
            // A file's name is no secret, what is in it may be.
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
            Self::Text(text) => Self::Text(cover(text)),
            Self::List(texts) => Self::List(texts.iter().map(cover).collect()),
            other => other.clone(),
        }
    }
}

impl fmt::Display for Value {
    /// As TOML has it, so that what is printed can be read back as a configuration file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &String| serde_json::Value::from(text.as_str()).to_string();
        match self {
            Self::On(on) => write!(f, "{on}"),
            Self::Whole(number) => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::List(texts) => write!(f, "[{}]", texts.iter().map(quoted).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// One flag's value and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

impl Setting {
    /// Whether the value asks for nothing: what is off stays off.
    fn says_nothing(&self, flag: &Flag) -> bool {
        match &self.value {
            Value::On(on) => *on == (flag.default == Default::Is("on")),
            Value::Text(text) => text.is_empty(),
            Value::List(texts) => texts.is_empty(),
            Value::Whole(_) | Value::Number(_) => false,
        }
    }

    /// Whether the value is what holds anyway.
    fn is_default(&self, flag: &Flag) -> bool {
        matches!(flag.default, Default::Is(default) if default == self.value.to_string())
    }
}

/// The value of every flag that has one.
#[derive(Debug)]
pub(crate) struct Settings {
    values: HashMap<&'static str, Setting>,
    failed: Vec<&'static str>,
}

impl Settings {
    /// For each flag, the first of `layers` that speaks of it wins. What does not fit goes to `report`, and the
    /// default stands in for it.
    pub(crate) fn merge(layers: &[Layer], report: &mut Report) -> Self {
        let mut values = HashMap::new();
        let mut failed = Vec::new();
        for flag in flags() {
            let said = layers.iter().find_map(|layer| Some((layer.get(flag)?, &layer.origin)));
            let mut setting = said.and_then(|(raw, origin)| match fit(flag, raw) {
                Ok(value) => Some(Setting { value, origin: origin.clone() }),
                Err(fault) => {
                    failed.push(flag.name);
                    report.problem(format!("{}: {fault}", subject(flag, Some(raw), origin)));
                    None
                }
            });
            if let Some(setting) = &setting {
                judge(flag, setting, report);
            }
            if setting.is_none()
                && let Default::Is(text) = flag.default
            {
                let value = fit(flag, &default_raw(flag, text)).expect("the table's defaults fit");
                setting = Some(Setting { value, origin: Origin::Default });
            }
            if let Some(setting) = setting {
                values.insert(flag.name, setting);
            }
        }
        Self { values, failed }
    }

    /// The same without a word about what does not fit, for a first look.
    pub(crate) fn merge_quietly(layers: &[Layer]) -> Self {
        Self::merge(layers, &mut Report::default())
    }

    /// Says what must be said of flags that this version does not serve yet, unless something is wrong with them.
    pub(crate) fn judge_for_now(&self, report: &mut Report) {
        for flag in flags() {
            let setting = self.get(flag.name);
            let says_nothing = setting.is_none_or(|s| s.says_nothing(flag) || s.is_default(flag));
            let told = report.problems.iter().any(|line| line.contains(&flag.dashed()));
            if let Some(why) = flag.ignored_for_now
                && !says_nothing
                && !told
            {
                report.warning(format!("{}: has no effect, {why}", flag.dashed()));
            }
        }
    }

    /// The flag's value and origin, if it has one.
    pub(crate) fn get(&self, name: &str) -> Option<&Setting> {
        self.values.get(name)
    }

    /// Whether somebody said something of the flag.
    pub(crate) fn given(&self, name: &str) -> bool {
        self.get(name).is_some_and(|setting| !matches!(setting.origin, Origin::Default | Origin::Found(_)))
    }

    /// Whether somebody said something that does not fit the flag.
    pub(crate) fn failed(&self, name: &str) -> bool {
        self.failed.contains(&name)
    }

    /// Fills in a value that was found out.
    pub(crate) fn found(&mut self, name: &'static str, value: Value, how: &'static str) {
        self.values.insert(name, Setting { value, origin: Origin::Found(how) });
    }

    /// How a line about the flag's value begins: the flag, the value, and who said it.
    pub(crate) fn subject(&self, name: &str) -> String {
        let Some(flag) = super::table::find(name) else { return format!("--{name}") };
        match self.get(name) {
            Some(Setting { value, origin }) => {
                let raw = match value.redacted(flag) {
                    Value::On(on) => Raw::On(on),
                    Value::Text(text) => Raw::One(text),
                    Value::List(texts) => Raw::Many(texts),
                    number => Raw::One(number.to_string()),
                };
                subject(flag, Some(&raw), origin)
            }
            None => flag.dashed(),
        }
    }

    pub(crate) fn on(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Setting { value: Value::On(true), .. }))
    }

    pub(crate) fn whole(&self, name: &str) -> Option<i64> {
        match self.get(name)?.value {
            Value::Whole(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        match self.get(name)?.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn list(&self, name: &str) -> &[String] {
        match self.get(name) {
            Some(Setting { value: Value::List(texts), .. }) => texts,
            _ => &[],
        }
    }
}

fn default_raw(flag: &Flag, text: &str) -> Raw {
    match flag.kind {
        Kind::Switch | Kind::Pair => Raw::On(text == "on"),
        _ => Raw::One(text.to_owned()),
    }
}

/// How a line about a value begins: the flag, the value unless it is long, and who said it unless it was typed.
fn subject(flag: &Flag, raw: Option<&Raw>, origin: &Origin) -> String {
    const VALUE_CHARS_MAX: usize = 60;
    let value = match raw {
        Some(Raw::One(text)) if text.is_empty() => " \"\"".to_owned(),
        Some(Raw::One(text)) if text.chars().count() <= VALUE_CHARS_MAX => format!(" {}", redact_url(text)),
        Some(Raw::On(on)) if !matches!(origin, Origin::CommandLine) => format!(" {on}"),
        _ => String::new(),
    };
    let off = matches!((flag.kind, raw, origin), (Kind::Pair, Some(Raw::On(false)), Origin::CommandLine));
    let name = if off { format!("--no-{}", flag.name) } else { flag.dashed() };
    match origin {
        Origin::CommandLine | Origin::Default | Origin::Found(_) => format!("{name}{value}"),
        origin => format!("{name}{value} (from {origin})"),
    }
}

/// Says what must be said of a flag that is not served.
fn judge(flag: &'static Flag, setting: &Setting, report: &mut Report) {
    let raw = match &setting.value {
        Value::On(on) => Some(Raw::On(*on)),
        _ => None,
    };
    let says_nothing = setting.says_nothing(flag);
    let subject = subject(flag, raw.as_ref(), &setting.origin);
    match flag.judgement {
        Judgement::Ignored if !says_nothing => {
            report.warning(format!("{subject}: has no effect, {}", flag.help))
        }
        // A pair without a default is refused either way.
        Judgement::Refused if !says_nothing || raw.is_some() => {
            report.problem(format!("{subject}: {}", flag.help))
        }
        _ => {}
    }
}

/// The value that `raw` is for this flag, or what it must be.
fn fit(flag: &Flag, raw: &Raw) -> Result<Value, String> {
    let one = || match raw {
        Raw::One(text) => Ok(text.as_str()),
        Raw::On(_) | Raw::Many(_) => Err(format!("must be one value, {}", flag.kind.placeholder())),
    };
    match flag.kind {
        Kind::Switch | Kind::Pair => match raw {
            Raw::On(on) => Ok(Value::On(*on)),
            Raw::One(text) => truth(text).map(Value::On).ok_or_else(|| "must be true or false".to_owned()),
            Raw::Many(_) => Err("must be true or false".to_owned()),
        },
        Kind::Text => one().map(|text| Value::Text(text.to_owned())),
        Kind::Name | Kind::Path => match one()? {
            "" => Err("must not be empty".to_owned()),
            text if text.contains('\0') => Err("must not contain a zero byte".to_owned()),
            text => Ok(Value::Text(text.to_owned())),
        },
        Kind::Whole(low, high) => {
            let number = one()?.trim().parse().ok().filter(|number| (low..=high).contains(number));
            number.map(Value::Whole).ok_or_else(|| format!("must be a whole number from {low} to {high}"))
        }
        Kind::Number(span) => {
            let number = one()?.trim().parse().ok().filter(|number| span.contains(*number));
            number.map(Value::Number).ok_or_else(|| format!("must be {span}"))
        }
        Kind::Choice(choices) => {
            let text = one()?;
            let mut served = choices.iter().filter(|choice| choice.1.is_none()).map(|choice| choice.0);
            if let Some(why) = flag.refusal(text) {
                Err(why.to_owned())
            } else if served.any(|name| name == text) {
                Ok(Value::Text(text.to_owned()))
            } else {
                let hint = suggest::hint(text, choices.iter().map(|choice| choice.0));
                Err(format!("must be one of {}{hint}", flag.kind.placeholder()))
            }
        }
        Kind::Words | Kind::Endpoints | Kind::Objects => match raw {
            Raw::Many(texts) => Ok(Value::List(texts.clone())),
            Raw::One(text) => Ok(Value::List(vec![text.clone()])),
            Raw::On(_) => Err("must be a list".to_owned()),
        },
    }
}

/// On or off, in the words people use.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}
