//! The log level, read and changed while the server runs.
//!
//! The binary sets up logging, and passes a function that changes the level.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::config::LogLevel;

/// Sets the level, or returns why it cannot.
type Apply = Box<dyn Fn(LogLevel) -> Result<(), String> + Send + Sync>;

/// The log level.
pub struct LogControl {
    level: Mutex<LogLevel>,
    apply: Apply,
}

impl LogControl {
    /// The initial level, and the function that changes it.
    pub fn new(
        level: LogLevel,
        apply: impl Fn(LogLevel) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { level: Mutex::new(level), apply: Box::new(apply) }
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
