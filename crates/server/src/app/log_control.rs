//! The level of what is logged, as it is read and changed while the server runs.
//!
//! Where logs go is the binary's business; it hands over the means to change the level.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::config::LogLevel;

/// Sets the level in force, or says why it cannot be set.
type Apply = Box<dyn Fn(LogLevel) -> Result<(), String> + Send + Sync>;

/// The level of what is logged.
pub struct LogControl {
    level: Mutex<LogLevel>,
    apply: Apply,
}

impl LogControl {
    /// The level in force, and how to change it.
    pub fn new(
        level: LogLevel,
        apply: impl Fn(LogLevel) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { level: Mutex::new(level), apply: Box::new(apply) }
    }

    /// The level in force.
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
