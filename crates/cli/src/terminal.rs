//! What is data goes to stdout, what is talk to stderr.

use std::io::{self, Write};

use crate::Outcome;

/// Prints `data`. A reader that goes away early, such as `head`, is not a failure: see [`crate::main`].
pub(crate) fn say(data: &str) -> anyhow::Result<Outcome> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(data.as_bytes())?;
    stdout.flush()?;
    Ok(Outcome::Done)
}

/// Tells the operator `lines`, each behind `label`. Whether anybody listens does not matter.
pub(crate) fn tell(label: &str, lines: &[String]) {
    let text: String = lines.iter().map(|line| format!("{label}: {line}\n")).collect();
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
