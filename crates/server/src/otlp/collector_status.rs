//! Whether the collector answers, and which changes of that are logged.

use super::collector::Failure;

/// A kind of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Metrics,
    Traces,
}

impl Signal {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }
}

/// A change that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The collector no longer answers.
    Down,
    /// The collector answers again.
    Back,
    /// The collector refuses this signal.
    Refused,
}

/// The state of the collector, as of its last answers.
#[derive(Debug, Default)]
pub(super) struct CollectorStatus {
    is_down: bool,
    refused: [bool; 2],
}

impl CollectorStatus {
    /// Whether the last call was not answered.
    pub(super) fn is_down(&self) -> bool {
        self.is_down
    }

    /// Notes the result of a call. Returns the change to log.
    pub(super) fn update(&mut self, signal: Signal, failure: Option<&Failure>) -> Option<Change> {
        let is_down = matches!(failure, Some(Failure::NoAnswer(_)));
        let was_down = std::mem::replace(&mut self.is_down, is_down);
        if is_down {
            return (!was_down).then_some(Change::Down);
        }
        let refused = failure.is_some();
        let was_refused = std::mem::replace(&mut self.refused[signal as usize], refused);
        match (refused && !was_refused, was_down) {
            (true, _) => Some(Change::Refused),
            (false, true) => Some(Change::Back),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_reported_once() {
        let mut status = CollectorStatus::default();
        let gone = Failure::NoAnswer("gone".to_owned());
        let no = Failure::Refused("no".to_owned());
        use Signal::{Metrics, Traces};
        for (signal, failure, change) in [
            (Metrics, None, None),
            (Metrics, Some(&gone), Some(Change::Down)),
            (Traces, Some(&gone), None),
            (Metrics, Some(&gone), None),
            (Traces, None, Some(Change::Back)),
            (Metrics, None, None),
            // A collector without a pipeline for traces.
            (Traces, Some(&no), Some(Change::Refused)),
            (Metrics, None, None),
            (Traces, Some(&no), None),
            (Metrics, Some(&gone), Some(Change::Down)),
            (Traces, Some(&no), Some(Change::Back)),
            (Traces, None, None),
            (Traces, Some(&no), Some(Change::Refused)),
        ] {
            assert_eq!(status.update(signal, failure), change, "{signal:?} {failure:?}");
            assert_eq!(status.is_down(), matches!(failure, Some(Failure::NoAnswer(_))));
        }
    }
}
