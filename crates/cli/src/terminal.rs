//! Output: results go to stdout, messages to stderr.

use std::io::{self, Write};

use crate::Outcome;

/// Prints `text`. See [`crate::main`] for a reader that closes the pipe early.
pub(crate) fn print_stdout(text: &str) -> anyhow::Result<Outcome> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(Outcome::Done)
}

/// Prints each of `lines` after `label`; ignores errors.
pub(crate) fn print_stderr(label: &str, lines: &[String]) {
    let text: String = lines.iter().map(|line| format!("{label}: {line}\n")).collect();
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
