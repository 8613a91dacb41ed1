//! Feeds the counters of `/metrics`.

use std::sync::Arc;

use super::bus::Subscriber;
use super::event::{Direction, LookupEnd, RequestEvent};
use crate::metrics::Metrics;

/// Counts what requests do.
#[derive(Debug)]
pub struct RequestMetrics {
    metrics: Arc<Metrics>,
    chunk_tokens: u64,
}

impl RequestMetrics {
    /// Counts into `metrics`, for chunks of so many tokens.
    pub fn new(metrics: Arc<Metrics>, chunk_tokens: u32) -> Self {
        Self { metrics, chunk_tokens: u64::from(chunk_tokens) }
    }

    fn lookup_ended(&self, model: &Arc<str>, salt: &Arc<str>, end: LookupEnd<'_>) {
        match end {
            LookupEnd::Looked { requested_chunks, hit } => {
                self.metrics.lookup(model, salt, requested_chunks, hit, self.chunk_tokens);
            }
            LookupEnd::Early(why) => self.metrics.early_exit(model, salt, why),
            LookupEnd::Cancelled => {}
        }
    }
}

impl Subscriber for RequestMetrics {
    fn on_event(&self, event: &RequestEvent<'_>) {
        let metrics = &self.metrics;
        match event {
            RequestEvent::Connected => {
                metrics.connections.inc();
            }
            RequestEvent::ConnectionLost { .. } => {
                metrics.connections.dec();
            }
            RequestEvent::MessageDropped => {
                metrics.count(|counters| counters.dropped_messages += 1);
            }
            RequestEvent::AnswerNotSent => {
                metrics.count(|counters| counters.unsent_replies += 1);
            }
            RequestEvent::Answered { operation, outcome, started } => {
                metrics.request(*operation, *outcome, *started);
            }
            RequestEvent::Registered { model, .. } => metrics.expect(model),
            RequestEvent::Looked(looked) => {
                if let Some(end) = looked.end() {
                    self.lookup_ended(looked.spec.model, looked.spec.salt, end);
                }
            }
            RequestEvent::LookupEnded(report) => {
                self.lookup_ended(&report.model, &report.salt, LookupEnd::of_report(report));
            }
            RequestEvent::CopyStarted { direction, spec } => metrics.copy_begins(*direction, spec),
            RequestEvent::Stored { spec, copied, .. } => {
                metrics.copied(Direction::Store, spec, (copied.objects, copied.bytes));
            }
            RequestEvent::Retrieved { spec, copied, .. } => {
                metrics.copied(Direction::Retrieve, spec, (copied.objects, copied.bytes));
            }
            RequestEvent::L2Loaded { adapter, batch } => metrics.l2_loaded(*adapter, batch),
            RequestEvent::L2Stored { adapter, batch } => metrics.l2_stored(*adapter, batch),
            RequestEvent::Hashed { .. }
            | RequestEvent::LookupStarted { .. }
            | RequestEvent::TransferStarted { .. }
            | RequestEvent::TransferEnded { .. }
            | RequestEvent::Ended { .. } => {}
        }
    }
}
