//! The description of one flag: name, value, default, and whether the server honours it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

/// One row of the flag table.
#[derive(Debug)]
pub(crate) struct FlagSpec {
    /// Name without the dashes.
    pub(crate) name: &'static str,
    /// What values it takes.
    pub(crate) kind: Kind,
    /// Its value when it is not given.
    pub(crate) default: Default,
    /// Whether the server honours it.
    pub(crate) support: Support,
    /// Its meaning; for an ignored or refused flag, the reason.
    pub(crate) help: &'static str,
    /// The environment variable that LMCache reads for it; `LMCACHE_SERVER_<FLAG>` has precedence.
    pub(crate) lmcache_variable: Option<&'static str>,
    /// LMCache does not have it. LMCache's flags have precedence where an abbreviation fits both.
    pub(crate) larder_only: bool,
    /// It cannot be set by the environment or the file.
    pub(crate) command_line_only: bool,
    /// Why this version checks the flag and then warns that it has no effect.
    pub(crate) no_effect_yet: Option<&'static str>,
    /// An old name. Its use is warned about, as in LMCache.
    pub(crate) is_deprecated: bool,
}

/// A flag whose value the server reads, as a `T`.
#[derive(Debug)]
pub(crate) struct Flag<T> {
    /// Its row in the table.
    pub(crate) spec: &'static FlagSpec,
    /// The type of its value.
    pub(crate) value: PhantomData<T>,
}

impl<T> Deref for Flag<T> {
    type Target = FlagSpec;

    fn deref(&self) -> &FlagSpec {
        self.spec
    }
}

/// Whether the server honours a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    /// It has the documented effect.
    Served,
    /// It is checked and has no effect; a warning says so.
    Ignored,
    /// It is accepted without a warning: it has no effect in LMCache either.
    Accepted,
    /// The server does not start.
    Refused,
    /// An old name of another flag.
    AliasOf(&'static str),
    /// A request to print something, not a setting.
    Action,
}

/// The value of a flag that is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Default {
    /// This value, as it would be typed.
    Is(&'static str),
    /// A value computed at start; the text says how.
    Auto(&'static str),
    /// None; the feature is off.
    Unset,
}

/// What values a flag takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A non-empty text.
    Name,
    /// A path of a file or directory.
    Path,
    /// An integer in a range, bounds included.
    Integer(i64, i64),
    /// A number in a range.
    Number(Range),
    /// One of these.
    OneOf(&'static [Choice]),
    /// No value: `--x` turns it on.
    Switch,
    /// No value: `--x` turns it on and `--no-x` off.
    Pair,
    /// Zero or more words, up to the next flag.
    Words,
    /// An endpoint; the flag may be repeated.
    Endpoints,
    /// A JSON object; the flag may be repeated.
    JsonObjects,
}

/// One value to choose from, and the reason if it is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice(pub(crate) &'static str, pub(crate) Option<&'static str>);

/// A finite range of numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Range {
    /// (0, max].
    Above0(f64),
    /// [0, max].
    From0(f64),
    /// 0, which means "off", or [min, max].
    Off0OrFrom(f64, f64),
}

impl Range {
    /// Whether `number` is in the range.
    pub(crate) fn contains(self, number: f64) -> bool {
        match self {
            Self::Above0(max) => number > 0.0 && number <= max,
            Self::From0(max) => (0.0..=max).contains(&number),
            Self::Off0OrFrom(min, max) => number == 0.0 || (min..=max).contains(&number),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Above0(max) => write!(f, "a number above 0 and up to {max}"),
            Self::From0(max) => write!(f, "a number from 0 to {max}"),
            Self::Off0OrFrom(min, max) => write!(f, "0 (off) or a number from {min} to {max}"),
        }
    }
}

/// Flags under one heading.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) heading: &'static str,
    pub(crate) flags: &'static [FlagSpec],
}

impl FlagSpec {
    pub(crate) const fn new(
        name: &'static str,
        kind: Kind,
        default: Default,
        support: Support,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            default,
            support,
            help,
            lmcache_variable: None,
            larder_only: false,
            command_line_only: false,
            no_effect_yet: None,
            is_deprecated: false,
        }
    }

    /// LMCache reads this environment variable for the flag.
    pub(crate) const fn or_variable(self, name: &'static str) -> Self {
        Self { lmcache_variable: Some(name), ..self }
    }

    /// LMCache does not have this flag.
    pub(crate) const fn larder_only(self) -> Self {
        Self { larder_only: true, ..self }
    }

    /// The environment and the file cannot set this flag.
    pub(crate) const fn command_line_only(self) -> Self {
        Self { command_line_only: true, ..self }
    }

    /// Using the name is warned about.
    pub(crate) const fn deprecated(self) -> Self {
        Self { is_deprecated: true, ..self }
    }

    /// This version checks the flag and warns that it has no effect.
    pub(crate) const fn no_effect_yet(self, reason: &'static str) -> Self {
        Self { no_effect_yet: Some(reason), ..self }
    }

    /// Why `value`, one of the flag's choices, is refused; `None` if it is not.
    pub(crate) fn refusal(&self, value: &str) -> Option<&'static str> {
        match self.kind {
            Kind::OneOf(choices) => choices.iter().find(|choice| choice.0 == value)?.1,
            _ => None,
        }
    }

    /// The environment variable that sets the flag.
    pub(crate) fn variable(&self) -> String {
        format!("LMCACHE_SERVER_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// The flag as typed: `--port`.
    pub(crate) fn dashed(&self) -> String {
        format!("--{}", self.name)
    }
}

impl Kind {
    /// What follows the flag in a line of help.
    pub(crate) fn placeholder(&self) -> String {
        match self {
            Self::Text | Self::Name => "TEXT".to_owned(),
            Self::Path => "PATH".to_owned(),
            Self::Integer(..) => "N".to_owned(),
            Self::Number(_) => "NUMBER".to_owned(),
            Self::OneOf(_) => format!("{{{}}}", self.choices().collect::<Vec<_>>().join(",")),
            Self::Switch | Self::Pair => String::new(),
            Self::Words => "[WORD ...]".to_owned(),
            Self::Endpoints => "ENDPOINT".to_owned(),
            Self::JsonObjects => "JSON".to_owned(),
        }
    }

    /// The values to choose from that are not refused.
    pub(crate) fn choices(&self) -> impl Iterator<Item = &'static str> {
        let choices: &[Choice] = if let Self::OneOf(choices) = self { choices } else { &[] };
        choices.iter().filter(|choice| choice.1.is_none()).map(|choice| choice.0)
    }

    /// Whether each use adds a value to the previous ones.
    pub(crate) const fn repeats(&self) -> bool {
        matches!(self, Self::Endpoints | Self::JsonObjects)
    }

    /// Whether the flag is on or off.
    pub(crate) const fn is_switch(&self) -> bool {
        matches!(self, Self::Switch | Self::Pair)
    }
}
