//! Fails a test when a server in its process logs a WARN or ERROR line that the test does not expect.
//!
//! Lines are collected on the thread of the test, on which `#[tokio::test]` runs the server's tasks. Threads of the
//! server, and tests on several threads, are not watched.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber};

/// Collects lines while it exists, and checks them when it is dropped.
pub(crate) struct LogWatch {
    lines: Arc<Mutex<Vec<String>>>,
    expected: Vec<&'static str>,
    _guard: DefaultGuard,
}

impl LogWatch {
    pub(crate) fn start() -> Self {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let guard = tracing::subscriber::set_default(Collector(lines.clone()));
        Self { lines, expected: Vec::new(), _guard: guard }
    }

    /// Lines that contain `text` do not fail the test.
    pub(crate) fn expect(&mut self, text: &'static str) {
        self.expected.push(text);
    }

    /// The lines so far that contain `text`.
    pub(crate) fn lines(&self, text: &str) -> Vec<String> {
        let lines = self.lines.lock().expect("no panic while it is locked");
        lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

impl Drop for LogWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let is_expected = |line: &&String| self.expected.iter().any(|text| line.contains(text));
        let lines = self.lines.lock().expect("no panic while it is locked");
        let unexpected: Vec<&String> = lines.iter().filter(|line| !is_expected(line)).collect();
        assert!(unexpected.is_empty(), "the server logged {unexpected:?}");
    }
}

struct Collector(Arc<Mutex<Vec<String>>>);

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().expect("no panic while it is locked").push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}
