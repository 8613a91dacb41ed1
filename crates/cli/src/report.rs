//! Errors and warnings about settings.
//!
//! Parsing does not stop at the first error: each stage reports what it finds and continues with defaults, so that the
//! operator sees every error at once, one line each.

/// Errors and warnings, in the order in which they were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The server does not start if there are any.
    pub(crate) errors: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

impl Report {
    /// Adds an error: one line with the flag, the value and the remedy.
    pub(crate) fn error(&mut self, line: impl Into<String>) {
        self.errors.push(one_line(line.into()));
    }

    /// Adds a warning: one line that names the flag.
    pub(crate) fn warn(&mut self, line: impl Into<String>) {
        self.warnings.push(one_line(line.into()));
    }
}

/// Removes line breaks, which values and parsers' messages may contain.
fn one_line(line: String) -> String {
    if line.contains(['\n', '\r']) { line.split_whitespace().collect::<Vec<_>>().join(" ") } else { line }
}
