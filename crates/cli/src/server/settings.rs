//! Merges settings, flag by flag; precedence: command line > environment > file > default. Each value keeps its origin.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;

use larder_server::config::secret::redact_url;

use super::flag::{Default, Flag, FlagSpec, Kind, Support};
use super::flags::{flags, resolve_alias};
use super::value::{FromValue, RawValue, Value};
use crate::report::Report;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    CommandLine,
    /// This environment variable.
    Variable(String),
    /// This configuration file.
    File(PathBuf),
    /// The flag table.
    Default,
    /// Computed at start, this way.
    Computed(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Computed(how) => f.write_str(how),
        }
    }
}

/// The values that one origin gives.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) origin: Origin,
    /// Under the flags' own names.
    pub(crate) values: Vec<(&'static FlagSpec, RawValue)>,
    /// Old names that were given, each with whether its value is used.
    old_names: Vec<(&'static FlagSpec, bool)>,
}

impl Layer {
    pub(crate) const fn new(origin: Origin) -> Self {
        Self { origin, values: Vec::new(), old_names: Vec::new() }
    }

    /// Adds a value of the flag with the name that was `given`: after the previous ones if the flag may be repeated, else
    /// instead of them. A value under an old name has no effect beside one under the flag's own name, in either order.
    pub(crate) fn add(&mut self, given: &'static FlagSpec, raw: RawValue) {
        let flag = resolve_alias(given);
        let is_used = |(old, used): &(&'static FlagSpec, bool)| *used && resolve_alias(old).name == flag.name;
        if given.name == flag.name {
            for (old, used) in self.old_names.iter_mut().filter(|old| is_used(old)) {
                *used = false;
                self.values.retain(|(known, _)| known.name != resolve_alias(old).name);
            }
        } else {
            let is_overridden = self.gives(flag) && !self.old_names.iter().any(is_used);
            self.old_names.push((given, !is_overridden));
            if is_overridden {
                return;
            }
        }
        match (self.values.iter_mut().find(|(known, _)| known.name == flag.name), raw) {
            (Some((_, RawValue::List(list))), RawValue::List(more)) if flag.kind.repeats() => {
                list.extend(more);
            }
            (Some((_, value)), raw) => *value = raw,
            (None, raw) => self.values.push((flag, raw)),
        }
    }

    /// Whether the layer has a value for the flag.
    pub(crate) fn gives(&self, flag: &FlagSpec) -> bool {
        self.get(flag).is_some()
    }

    fn get(&self, flag: &FlagSpec) -> Option<&RawValue> {
        self.values.iter().find(|(known, _)| known.name == flag.name).map(|(_, raw)| raw)
    }
}

/// A flag's value and its origin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

impl Setting {
    /// Whether the value leaves the flag's feature off.
    fn is_off(&self, flag: &FlagSpec) -> bool {
        match &self.value {
            Value::Bool(on) => *on == (flag.default == Default::Is("on")),
            Value::Text(text) => text.is_empty(),
            Value::List(texts) => texts.is_empty(),
            Value::Integer(_) | Value::Number(_) => false,
        }
    }

    fn is_default(&self, flag: &FlagSpec) -> bool {
        matches!(flag.default, Default::Is(default) if default == self.value.to_string())
    }
}

/// The values of all flags.
#[derive(Debug)]
pub(crate) struct Settings {
    values: HashMap<&'static str, Setting>,
    invalid: HashSet<&'static str>,
}

impl Settings {
    /// Takes each flag's value from the first layer that has one, else its default. Reports invalid values, which
    /// leave the default, and flags that the server refuses or ignores.
    pub(crate) fn merge(layers: &[Layer], report: &mut Report) -> Self {
        let mut settings = Self { values: HashMap::new(), invalid: HashSet::new() };
        for layer in layers {
            layer.old_names.iter().for_each(|old| report_old_name(*old, layers, &layer.origin, report));
        }
        for flag in flags() {
            let given = layers.iter().find_map(|layer| Some((layer.get(flag)?, &layer.origin)));
            let setting = given.and_then(|(raw, origin)| match Value::parse(flag, raw) {
                Ok(value) => Some(Setting { value, origin: origin.clone() }),
                Err(error) => {
                    settings.invalid.insert(flag.name);
                    report.error(format!("{}: {error}", subject(flag, Some(raw), origin)));
                    None
                }
            });
            if let Some(setting) = &setting {
                report_unsupported(flag, setting, report);
            }
            if let Some(setting) = setting.or_else(|| default(flag)) {
                settings.values.insert(flag.name, setting);
            }
        }
        settings
    }

    /// Warns of each given flag that has no effect in this version, unless an error names it.
    pub(crate) fn warn_of_no_effect(&self, report: &mut Report) {
        for flag in flags() {
            let given = self.setting(flag).is_some_and(|s| !s.is_off(flag) && !s.is_default(flag));
            let reported = report.errors.iter().any(|line| line.contains(&flag.dashed()));
            if let Some(reason) = flag.no_effect_yet
                && given
                && !reported
            {
                report.warn(format!("{}: has no effect, {reason}", flag.dashed()));
            }
        }
    }

    /// The flag's value.
    pub(crate) fn get<T: FromValue>(&self, flag: &Flag<T>) -> T {
        let value = self.setting(flag).map(|setting| &setting.value);
        T::from_value(value).expect("the type in the flag table fits the flag's kind and default")
    }

    /// The flag's value; if it has none, `compute`s and keeps one.
    pub(crate) fn get_or_set<T: FromValue + Into<Value> + Clone>(
        &mut self,
        flag: &Flag<Option<T>>,
        compute: impl FnOnce() -> (T, &'static str),
    ) -> T {
        self.get(flag).unwrap_or_else(|| {
            let (value, how) = compute();
            self.set(flag, value.clone(), how);
            value
        })
    }

    /// Replaces the flag's value by one that was computed.
    pub(crate) fn set<T: Into<Value>>(&mut self, flag: &Flag<Option<T>>, value: T, how: &'static str) {
        self.values.insert(flag.name, Setting { value: value.into(), origin: Origin::Computed(how) });
    }

    /// The flag's value and origin, if it has a value.
    pub(crate) fn setting(&self, flag: &FlagSpec) -> Option<&Setting> {
        self.values.get(flag.name)
    }

    /// Whether the value is neither a default nor computed.
    pub(crate) fn is_given(&self, flag: &FlagSpec) -> bool {
        self.setting(flag)
            .is_some_and(|setting| !matches!(setting.origin, Origin::Default | Origin::Computed(_)))
    }

    /// Whether an invalid value was given.
    pub(crate) fn is_invalid(&self, flag: &FlagSpec) -> bool {
        self.invalid.contains(flag.name)
    }

    /// The beginning of a message about the flag's value, see [`subject`].
    pub(crate) fn subject(&self, flag: &FlagSpec) -> String {
        match self.setting(flag) {
            Some(Setting { value, origin }) => subject(flag, Some(&value.redacted(flag).into()), origin),
            None => flag.dashed(),
        }
    }
}

/// Warns of an old name that is deprecated, or whose value is not used.
fn report_old_name(
    (old, is_used): (&'static FlagSpec, bool),
    layers: &[Layer],
    origin: &Origin,
    report: &mut Report,
) {
    let new = resolve_alias(old);
    let is_first = layers.iter().find(|layer| layer.gives(new)).is_some_and(|layer| layer.origin == *origin);
    let (subject, new) = (subject(old, None, origin), new.dashed());
    let line = match (is_used && is_first, old.is_deprecated) {
        (true, false) => return,
        (true, true) => format!("{subject}: is the old name of {new}, use that"),
        (false, _) => format!("{subject}: has no effect beside {new}, of which it is the old name"),
    };
    if !report.warnings.contains(&line) {
        report.warn(line);
    }
}

fn default(flag: &FlagSpec) -> Option<Setting> {
    let Default::Is(text) = flag.default else { return None };
    let raw =
        if flag.kind.is_switch() { RawValue::Switch(text == "on") } else { RawValue::Text(text.to_owned()) };
    let value = Value::parse(flag, &raw).expect("the table's defaults are valid");
    Some(Setting { value, origin: Origin::Default })
}

/// The beginning of a message about a value: the flag, the value if it is short, and its origin unless that is the
/// command line.
fn subject(flag: &FlagSpec, raw: Option<&RawValue>, origin: &Origin) -> String {
    const VALUE_CHARS_MAX: usize = 60;
    let value = match raw {
        Some(RawValue::Text(text)) if text.is_empty() => " \"\"".to_owned(),
        Some(RawValue::Text(text)) if text.chars().count() <= VALUE_CHARS_MAX => {
            format!(" {}", redact_url(text))
        }
        Some(RawValue::Switch(on)) if !matches!(origin, Origin::CommandLine) => format!(" {on}"),
        _ => String::new(),
    };
    let off =
        matches!((flag.kind, raw, origin), (Kind::Pair, Some(RawValue::Switch(false)), Origin::CommandLine));
    let name = if off { format!("--no-{}", flag.name) } else { flag.dashed() };
    match origin {
        Origin::CommandLine | Origin::Default | Origin::Computed(_) => format!("{name}{value}"),
        origin => format!("{name}{value} (from {origin})"),
    }
}

/// Reports a given flag that the server ignores or refuses.
fn report_unsupported(flag: &FlagSpec, setting: &Setting, report: &mut Report) {
    let switch = match setting.value {
        Value::Bool(on) => Some(RawValue::Switch(on)),
        _ => None,
    };
    let subject = subject(flag, switch.as_ref(), &setting.origin);
    match flag.support {
        Support::Ignored if !setting.is_off(flag) => {
            report.warn(format!("{subject}: has no effect, {}", flag.help));
        }
        // A switch is refused in both positions.
        Support::Refused if !setting.is_off(flag) || switch.is_some() => {
            report.error(format!("{subject}: {}", flag.help));
        }
        _ => {}
    }
}
