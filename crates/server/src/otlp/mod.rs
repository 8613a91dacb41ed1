//! Export of metrics and traces to an OpenTelemetry collector, over gRPC.
//!
//! Metrics are the families of `/metrics`; spans are those of [`traces`](crate::observe::traces). `docs/adr/0003-own-otlp.md` says
//! why OpenTelemetry's SDK is not used.
//!
//! Export is best effort and runs in its own task. A collector that is down or hangs costs one log line, and another
//! when it is back, and delays nothing else: metrics are totals, so the next push includes lost ones; a batch of spans
//! that did not arrive is sent again, while newer spans wait in a bounded queue. Each call has a deadline, and at
//! shutdown all calls together have a shorter one.

mod collector;
mod collector_status;
pub mod exporter_status;
mod metrics;
mod spans;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};

use self::collector::{Collector, Failure, Grpc};
use self::collector_status::{Change, CollectorStatus, Signal};
use self::exporter_status::ExporterStatus;
use crate::app::state::State;
use crate::config::OtlpConfig;
use crate::metrics::family::Family;
use crate::observe::traces::span_table::WAITING_MAX;
use crate::observe::traces::{BATCH, Span, Traces, UnixTime};

/// Time between two pushes of metrics; LMCache's.
const METRICS_EVERY: Duration = Duration::from_secs(10);

/// Time between two pushes of spans, unless a batch is full before.
const SPANS_EVERY: Duration = Duration::from_secs(5);

/// Deadline of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Deadline of all calls together after shutdown has begun.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Calls of one flush of spans: enough for all queued spans and a batch sent again.
const CALLS_PER_FLUSH: usize = WAITING_MAX / BATCH + 1;

/// The running exporter.
#[derive(Debug)]
pub struct Exporter {
    stop: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts the exporter, if a collector and something to export are configured.
    pub fn start(state: &Arc<State>) -> Option<Self> {
        state.tasks.pusher.as_ref()?;
        let config = state.config.otlp.as_ref()?;
        let read = state.config.metrics.enabled.then(|| {
            let state = state.clone();
            Box::new(move || crate::metrics::scrape::gather(&state)) as ReadMetrics
        });
        let traces = state.traces.clone();
        let source = Source {
            metrics: read,
            traces,
            unused_max: state.config.liveness.session_ttl,
            identity: identity(config, &state.config.instance_id),
        };
        let (stop, stopped) = watch::channel(());
        let pusher = Pusher::new(Grpc::new(config), &config.endpoint, source, state.otlp.clone(), stopped);
        let state = state.clone();
        let task = tokio::spawn(async move {
            let task = state.tasks.pusher.as_ref().expect("checked above");
            let _running = task.begin();
            pusher.run(|| task.woke(state.core().now())).await;
        });
        Some(Self { stop, task })
    }

    /// Pushes the last metrics and spans, and stops.
    pub async fn end(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

type ReadMetrics = Box<dyn Fn() -> Vec<Family> + Send>;

/// What is exported.
struct Source {
    metrics: Option<ReadMetrics>,
    traces: Option<Arc<Traces>>,
    /// A trace without new spans for this long has ended.
    unused_max: Duration,
    identity: Identity,
}

/// The server, as OTLP describes the sender.
#[derive(Clone, Debug, Default)]
struct Identity {
    resource: Resource,
    scope: InstrumentationScope,
}

struct Pusher<C> {
    collector: C,
    name: String,
    source: Source,
    status: Arc<ExporterStatus>,
    stopped: watch::Receiver<()>,
    /// Start of all counts.
    started: UnixTime,
    collector_status: CollectorStatus,
    /// The batch to send again.
    unsent: Vec<Span>,
}

impl<C: Collector> Pusher<C> {
    fn new(
        collector: C,
        name: &str,
        source: Source,
        status: Arc<ExporterStatus>,
        stopped: watch::Receiver<()>,
    ) -> Self {
        let (name, started) = (name.to_owned(), UnixTime::now());
        let (collector_status, unsent) = (CollectorStatus::default(), Vec::new());
        Self { collector, name, source, status, stopped, started, collector_status, unsent }
    }

    /// Pushes until it is stopped. Calls `woke` after each push.
    async fn run(mut self, woke: impl Fn()) {
        let (mut pushes, mut flushes) = (every(METRICS_EVERY), every(SPANS_EVERY));
        let traces = self.source.traces.clone();
        let mut stopped = self.stopped.clone();
        loop {
            let batch_is_full = async {
                match &traces {
                    Some(traces) => traces.many_wait().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown(&mut stopped) => break,
                _ = pushes.tick() => self.push_metrics().await,
                _ = flushes.tick() => self.push_spans().await,
                // A collector that is down is retried at the regular times.
                () = batch_is_full, if !self.collector_status.is_down() => self.push_spans().await,
            }
            woke();
        }
        traces.iter().for_each(|traces| traces.end_all());
        if !self.collector_status.is_down() {
            self.push_spans().await;
        }
        if !self.collector_status.is_down() {
            self.push_metrics().await;
        }
    }

    async fn push_metrics(&mut self) {
        let Some(read) = &self.source.metrics else { return };
        let request = metrics::request(&read(), &self.source.identity, (self.started, UnixTime::now()));
        let answer = with_deadline(self.collector.metrics(request), &mut self.stopped).await;
        self.note(Signal::Metrics, answer.as_ref().err());
    }

    async fn push_spans(&mut self) {
        let Some(traces) = self.source.traces.clone() else { return };
        traces.expire(self.source.unused_max);
        for _ in 0..CALLS_PER_FLUSH {
            if self.unsent.is_empty() {
                self.unsent = traces.take(BATCH);
            }
            if self.unsent.is_empty() {
                return;
            }
            let request = spans::request(&self.unsent, &self.source.identity);
            let answer = with_deadline(self.collector.spans(request), &mut self.stopped).await;
            self.note(Signal::Traces, answer.as_ref().err());
            match answer {
                Ok(rejected) => {
                    let sent = std::mem::take(&mut self.unsent).len() as u64;
                    self.status.add_spans(sent.saturating_sub(rejected));
                    traces.lost(rejected.min(sent));
                }
                Err(Failure::Refused(_)) => {
                    return traces.lost(std::mem::take(&mut self.unsent).len() as u64);
                }
                Err(Failure::NoAnswer(_)) => return,
            }
        }
    }

    /// Counts the result of a call, and logs a change of the collector's state.
    fn note(&mut self, signal: Signal, failure: Option<&Failure>) {
        let (name, signal_name) = (&self.name, signal.name());
        match (self.collector_status.update(signal, failure), failure) {
            (Some(Change::Down), Some(failure)) => {
                tracing::warn!(endpoint = name, %failure, "OpenTelemetry collector is unreachable; retrying");
            }
            (Some(Change::Refused), Some(failure)) => {
                tracing::warn!(endpoint = name, %failure, "OpenTelemetry collector refuses {signal_name}; they are dropped");
            }
            (Some(Change::Back), _) => {
                tracing::info!(endpoint = name, "OpenTelemetry collector answers again");
            }
            _ => {}
        }
        self.status.update(!self.collector_status.is_down(), failure.is_some());
    }
}

/// The result of a call, or a failure at its deadline.
async fn with_deadline<T>(
    call: impl Future<Output = Result<T, Failure>>,
    stopped: &mut watch::Receiver<()>,
) -> Result<T, Failure> {
    let shutdown_deadline = async {
        shutdown(stopped).await;
        sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::select! {
        answer = timeout(CALL_TIMEOUT, call) => answer.unwrap_or_else(|_| Err(timed_out(CALL_TIMEOUT))),
        () = shutdown_deadline => Err(timed_out(SHUTDOWN_TIMEOUT)),
    }
}

fn timed_out(limit: Duration) -> Failure {
    Failure::NoAnswer(format!("no answer within {limit:?}"))
}

/// Completes when the exporter is stopped.
async fn shutdown(stopped: &mut watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The sender's attributes. Configured attributes cannot replace the instance id.
fn identity(config: &OtlpConfig, instance_id: &str) -> Identity {
    let defaults = [
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.name", env!("CARGO_PKG_NAME")),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let mut attributes: BTreeMap<&str, &str> = defaults.into_iter().collect();
    attributes.extend(config.resource.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    attributes.insert("service.instance.id", instance_id);
    let attributes = attributes.into_iter().map(|(name, value)| text(name, value)).collect();
    Identity {
        resource: Resource { attributes, ..Resource::default() },
        scope: InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        },
    }
}

fn text(name: &str, value: &str) -> KeyValue {
    attribute(name, Any::StringValue(value.to_owned()))
}

fn attribute(name: &str, value: Any) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
