//! The log: its level, read and changed while the server runs, and the lines it has lost.
//!
//! The binary sets up logging, and passes a function that changes the level, and where lines go.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::LogLevel;

/// Sets the level, or returns why it cannot.
type Apply = Box<dyn Fn(LogLevel) -> Result<(), String> + Send + Sync>;

/// Where log lines go.
pub trait LogSink: Send + Sync {
    /// Lines that could not be written.
    fn lost(&self) -> u64;
    /// Waits until what was logged is written, `patience` at most.
    fn flush(&self, patience: Duration);
}

/// The log level, and where lines go.
pub struct LogControl {
    level: Mutex<LogLevel>,
    apply: Apply,
    sink: Option<Arc<dyn LogSink>>,
}

impl LogControl {
    /// The initial level, and the function that changes it.
    pub fn new(
        level: LogLevel,
        apply: impl Fn(LogLevel) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { level: Mutex::new(level), apply: Box::new(apply), sink: None }
    }

    /// The same, with the place where lines go.
    #[must_use]
    pub fn with_sink(self, sink: Arc<dyn LogSink>) -> Self {
        Self { sink: Some(sink), ..self }
    }

    /// Lines that could not be written.
    pub fn lost_lines(&self) -> u64 {
        self.sink.as_ref().map_or(0, |sink| sink.lost())
    }

    /// Waits until what was logged is written, `patience` at most.
    pub fn flush(&self, patience: Duration) {
        self.sink.iter().for_each(|sink| sink.flush(patience));
    }

    /// The current level.
    pub fn level(&self) -> LogLevel {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the level.
    ///
    /// # Errors
    /// Why it stays as it was.
    pub fn set(&self, level: LogLevel) -> Result<(), String> {
        let mut current = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        (self.apply)(level)?;
        *current = level;
        Ok(())
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogControl").field(&self.level()).finish()
    }
}
