//! What is to be told to the operator: problems, which end the start, and warnings, which do not.
//!
//! Nothing stops at the first problem. Each stage notes what it finds and goes on with defaults, so that one
//! attempt shows all there is to mend, one line each.

/// Problems and warnings, in the order in which they were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Each ends the start.
    pub(crate) problems: Vec<String>,
    /// None of these does.
    pub(crate) warnings: Vec<String>,
}

impl Report {
    /// Notes a problem: one line that names the flag, the value and the remedy.
    pub(crate) fn problem(&mut self, line: impl Into<String>) {
        self.problems.push(one_line(line.into()));
    }

    /// Notes a warning: one line that names the flag.
    pub(crate) fn warning(&mut self, line: impl Into<String>) {
        self.warnings.push(one_line(line.into()));
    }
}

/// Values and parsers may bring line breaks along.
fn one_line(line: String) -> String {
    if line.contains(['\n', '\r']) { line.split_whitespace().collect::<Vec<_>>().join(" ") } else { line }
}
