//! What is known of the collector, and which news of it are worth a line of log.

use super::collector::Failure;

/// What is pushed.
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

/// A change of the collector's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It no longer answers.
    Down,
    /// It answers again.
    Back,
    /// It does not take this signal.
    Refused,
}

/// The collector as of its last answers.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    is_down: bool,
    refused: [bool; 2],
}

impl Outlook {
    /// Whether it has not answered the last call.
    pub(super) fn is_down(&self) -> bool {
        self.is_down
    }

    /// How a call went. What there is to tell of it.
    pub(super) fn hear(&mut self, signal: Signal, failure: Option<&Failure>) -> Option<News> {
        let is_down = matches!(failure, Some(Failure::NoAnswer(_)));
        let was_down = std::mem::replace(&mut self.is_down, is_down);
        if is_down {
            return (!was_down).then_some(News::Down);
        }
        let refused = failure.is_some();
        let was_refused = std::mem::replace(&mut self.refused[signal as usize], refused);
        match (refused && !was_refused, was_down) {
            (true, _) => Some(News::Refused),
            (false, true) => Some(News::Back),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let mut outlook = Outlook::default();
        let gone = Failure::NoAnswer("gone".to_owned());
        let no = Failure::Refused("no".to_owned());
        use Signal::{Metrics, Traces};
        for (signal, failure, news) in [
            (Metrics, None, None),
            (Metrics, Some(&gone), Some(News::Down)),
            (Traces, Some(&gone), None),
            (Metrics, Some(&gone), None),
            (Traces, None, Some(News::Back)),
            (Metrics, None, None),
            // A collector without a pipeline for traces.
            (Traces, Some(&no), Some(News::Refused)),
            (Metrics, None, None),
            (Traces, Some(&no), None),
            (Metrics, Some(&gone), Some(News::Down)),
            (Traces, Some(&no), Some(News::Back)),
            (Traces, None, None),
            (Traces, Some(&no), Some(News::Refused)),
        ] {
            assert_eq!(outlook.hear(signal, failure), news, "{signal:?} {failure:?}");
            assert_eq!(outlook.is_down(), matches!(failure, Some(Failure::NoAnswer(_))));
        }
    }
}
