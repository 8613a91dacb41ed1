//! The words in which the flag table is written: what a flag takes, what it defaults to, what becomes of it.

use std::fmt;

/// One flag, and all there is to know about it.
#[derive(Debug)]
pub(crate) struct Flag {
    /// Its name, without the dashes.
    pub(crate) name: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// What it is when nobody says.
    pub(crate) default: Default,
    /// What becomes of it.
    pub(crate) judgement: Judgement,
    /// What it means; where it is ignored or refused, why.
    pub(crate) help: &'static str,
    /// The environment variable the reference reads for it, weaker than ours.
    pub(crate) other_variable: Option<&'static str>,
    /// Whether the reference lacks it. The reference's flags win where an abbreviation fits both.
    pub(crate) ours: bool,
    /// Whether it makes sense on a command line only.
    pub(crate) typed_only: bool,
    /// Why a flag that will be served is set aside, with a warning, in this version.
    pub(crate) ignored_for_now: Option<&'static str>,
}

/// What becomes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It does what it says.
    Served,
    /// It is checked and then set aside, with a warning.
    Ignored,
    /// It is taken without a word: it has no effect in the reference either.
    Inert,
    /// It ends the start.
    Refused,
    /// It is an old name of another flag.
    OldNameOf(&'static str),
    /// It is no setting, but asks for something to be printed.
    Action,
}

/// What a flag is when nobody says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Default {
    /// This value, as it would be typed.
    Is(&'static str),
    /// A value found out at start; the text says how.
    Auto(&'static str),
    /// Nothing; the feature it belongs to is off.
    Unset,
}

/// What a flag takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// Any text, but some.
    Name,
    /// The path of a file or directory.
    Path,
    /// A whole number in a range.
    Whole(i64, i64),
    /// A number in a range.
    Number(Span),
    /// One of these.
    Choice(&'static [Choice]),
    /// Nothing: `--x` turns it on.
    Switch,
    /// Nothing: `--x` turns it on and `--no-x` off.
    Pair,
    /// Zero or more words, up to the next flag.
    Words,
    /// An endpoint; the flag may be repeated.
    Endpoints,
    /// A JSON object; the flag may be repeated.
    Objects,
}

/// One value to choose from: its name, and why it is refused if it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice(pub(crate) &'static str, pub(crate) Option<&'static str>);

/// A range of numbers, never infinite.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Span {
    /// More than 0, up to this.
    Above0(f64),
    /// From 0 up to this.
    From0(f64),
    /// 0, which means "off", or from the first up to the second.
    Off0OrFrom(f64, f64),
}

impl Span {
    /// Whether `number` lies in the range.
    pub(crate) fn contains(self, number: f64) -> bool {
        match self {
            Self::Above0(high) => number > 0.0 && number <= high,
            Self::From0(high) => (0.0..=high).contains(&number),
            Self::Off0OrFrom(low, high) => number == 0.0 || (low..=high).contains(&number),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Above0(high) => write!(f, "a number above 0 and up to {high}"),
            Self::From0(high) => write!(f, "a number from 0 to {high}"),
            Self::Off0OrFrom(low, high) => write!(f, "0 (off) or a number from {low} to {high}"),
        }
    }
}

/// Flags that belong together, under one heading.
#[derive(Debug)]
pub(crate) struct Group {
    /// The heading.
    pub(crate) heading: &'static str,
    /// The flags.
    pub(crate) flags: &'static [Flag],
}

impl Flag {
    pub(crate) const fn new(
        name: &'static str,
        kind: Kind,
        default: Default,
        judgement: Judgement,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            default,
            judgement,
            help,
            other_variable: None,
            ours: false,
            typed_only: false,
            ignored_for_now: None,
        }
    }

    /// The reference reads this environment variable for the flag.
    pub(crate) const fn or_variable(self, name: &'static str) -> Self {
        Self { other_variable: Some(name), ..self }
    }

    /// The reference lacks this flag.
    pub(crate) const fn ours(self) -> Self {
        Self { ours: true, ..self }
    }

    /// The flag makes sense on a command line only.
    pub(crate) const fn typed_only(self) -> Self {
        Self { typed_only: true, ..self }
    }

    /// This version checks the flag and then sets it aside.
    pub(crate) const fn ignored_for_now(self, why: &'static str) -> Self {
        Self { ignored_for_now: Some(why), ..self }
    }

    /// Why a value that is one of the flag's choices is refused, if it is.
    pub(crate) fn refusal(&self, value: &str) -> Option<&'static str> {
        match self.kind {
            Kind::Choice(choices) => choices.iter().find(|choice| choice.0 == value)?.1,
            _ => None,
        }
    }

    /// The environment variable that sets the flag.
    pub(crate) fn variable(&self) -> String {
        format!("LMCACHE_SERVER_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// How the flag is typed: `-q` or `--port`.
    pub(crate) fn dashed(&self) -> String {
        format!("--{}", self.name)
    }
}

impl Kind {
    /// What stands after the flag, in a line of help.
    pub(crate) fn placeholder(&self) -> String {
        match self {
            Self::Text | Self::Name => "TEXT".to_owned(),
            Self::Path => "PATH".to_owned(),
            Self::Whole(..) => "N".to_owned(),
            Self::Number(_) => "NUMBER".to_owned(),
            Self::Choice(choices) => {
                let served = choices.iter().filter(|choice| choice.1.is_none());
                format!("{{{}}}", served.map(|choice| choice.0).collect::<Vec<_>>().join(","))
            }
            Self::Switch | Self::Pair => String::new(),
            Self::Words => "[WORD ...]".to_owned(),
            Self::Endpoints => "ENDPOINT".to_owned(),
            Self::Objects => "JSON".to_owned(),
        }
    }

    /// Whether each use adds a value to those before.
    pub(crate) const fn repeats(&self) -> bool {
        matches!(self, Self::Endpoints | Self::Objects)
    }
}
