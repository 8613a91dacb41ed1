//! Pushing metrics and traces to an OpenTelemetry collector, over gRPC (`operations.md` 2.1 and 2.4).
//!
//! Metrics are those of `/metrics`, read off the same page; spans are those of
//! [`traces`](crate::traces). Why this is no use of OpenTelemetry's own SDK: `docs/adr/0003-own-otlp.md`.
//!
//! Best effort, in a task of its own. A collector that is gone, or hangs, costs one line of log, then one when it is
//! back, and holds up nobody: metrics are totals, so the next push makes up for those that were lost; a batch of spans
//! that did not arrive is sent again, while the others wait in a bounded queue. Each call ends by a deadline, and at
//! shutdown all of them by an earlier one.

mod collector;
mod metrics;
mod outlook;
mod spans;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};

use self::collector::{Collector, Failure, Grpc};
use self::outlook::{News, Outlook, Signal};
use crate::app::state::State;
use crate::config::OtlpConfig;
use crate::metrics::families::{Family, families};
use crate::observe::traces::book::WAITING_MAX;
use crate::observe::traces::{BATCH, Span, Traces, UnixTime};

/// Between two pushes of metrics; LMCache's.
const METRICS_EVERY: Duration = Duration::from_secs(10);

/// Between two pushes of spans, while few of them end.
const SPANS_EVERY: Duration = Duration::from_secs(5);

/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same once the server is to end.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// Calls with spans before anything else is looked at again: all that may wait, and a batch sent again.
const CALLS_PER_FLUSH: usize = WAITING_MAX / BATCH + 1;

/// How the pushing stands, for metrics.
#[derive(Debug, Default)]
pub struct Standing {
    is_up: AtomicBool,
    failures: AtomicU64,
    spans: AtomicU64,
}

/// [`Standing`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Whether the collector has answered the last call.
    pub is_up: bool,
    /// Calls that were not answered, or refused.
    pub failures: u64,
    /// Spans that it has.
    pub spans: u64,
}

impl Standing {
    /// How it stands now.
    pub fn counts(&self) -> Counts {
        Counts {
            is_up: self.is_up.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            spans: self.spans.load(Ordering::Relaxed),
        }
    }
}

/// The running task.
#[derive(Debug)]
pub struct Pushing {
    stop: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Pushing {
    /// Begins, if there is somebody to push to and something to push.
    pub fn start(state: &Arc<State>) -> Option<Self> {
        state.tasks.pusher.as_ref()?;
        let config = state.config.otlp.as_ref()?;
        let read = state.config.metrics.enabled.then(|| {
            let state = state.clone();
            Box::new(move || families(&crate::metrics::exposition(&state))) as ReadMetrics
        });
        let traces = state.traces.clone();
        let source = Source {
            metrics: read,
            traces,
            unused_max: state.config.liveness.session_ttl,
            about: about(config, &state.config.instance_id),
        };
        let (stop, stopped) = watch::channel(());
        let pusher = Pusher::new(Grpc::new(config), &config.endpoint, source, state.otlp.clone(), stopped);
        let state = state.clone();
        let task = tokio::spawn(async move {
            let task = state.tasks.pusher.as_ref().expect("there is one if there is something to push");
            let _running = task.begin();
            pusher.run(|| task.woke(state.core().now())).await;
        });
        Some(Self { stop, task })
    }

    /// Pushes what is left, once more.
    pub async fn end(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

type ReadMetrics = Box<dyn Fn() -> Vec<Family> + Send>;

/// What there is to push.
struct Source {
    metrics: Option<ReadMetrics>,
    traces: Option<Arc<Traces>>,
    /// A request that nobody has used for so long has ended.
    unused_max: Duration,
    about: About,
}

/// Who pushes.
#[derive(Clone, Debug, Default)]
struct About {
    resource: Resource,
    scope: InstrumentationScope,
}

struct Pusher<C> {
    collector: C,
    name: String,
    source: Source,
    standing: Arc<Standing>,
    stopped: watch::Receiver<()>,
    /// Since when metrics have been counted.
    started: UnixTime,
    outlook: Outlook,
    /// A batch that was sent, and did not arrive as far as is known.
    unsent: Vec<Span>,
}

impl<C: Collector> Pusher<C> {
    fn new(
        collector: C,
        name: &str,
        source: Source,
        standing: Arc<Standing>,
        stopped: watch::Receiver<()>,
    ) -> Self {
        let (name, started) = (name.to_owned(), UnixTime::now());
        let (outlook, unsent) = (Outlook::default(), Vec::new());
        Self { collector, name, source, standing, stopped, started, outlook, unsent }
    }

    /// Pushes until it is stopped, and says when it `woke` for that.
    async fn run(mut self, woke: impl Fn()) {
        let (mut pushes, mut flushes) = (every(METRICS_EVERY), every(SPANS_EVERY));
        let traces = self.source.traces.clone();
        let mut stopped = self.stopped.clone();
        loop {
            let many_wait = async {
                match &traces {
                    Some(traces) => traces.many_wait().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = end_of(&mut stopped) => break,
                _ = pushes.tick() => self.push_metrics().await,
                _ = flushes.tick() => self.push_spans().await,
                // One that does not answer is asked again at its time.
                () = many_wait, if !self.outlook.is_down() => self.push_spans().await,
            }
            woke();
        }
        traces.iter().for_each(|traces| traces.end_all());
        if !self.outlook.is_down() {
            self.push_spans().await;
        }
        if !self.outlook.is_down() {
            self.push_metrics().await;
        }
    }

    async fn push_metrics(&mut self) {
        let Some(read) = &self.source.metrics else { return };
        let request = metrics::request(&read(), &self.source.about, (self.started, UnixTime::now()));
        let answer = in_time(self.collector.metrics(request), &mut self.stopped).await;
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
            let request = spans::request(&self.unsent, &self.source.about);
            let answer = in_time(self.collector.spans(request), &mut self.stopped).await;
            self.note(Signal::Traces, answer.as_ref().err());
            match answer {
                Ok(rejected) => {
                    let sent = std::mem::take(&mut self.unsent).len() as u64;
                    self.standing.spans.fetch_add(sent.saturating_sub(rejected), Ordering::Relaxed);
                    traces.lost(rejected.min(sent));
                }
                // It will not like it any better the next time.
                Err(Failure::Refused(_)) => {
                    return traces.lost(std::mem::take(&mut self.unsent).len() as u64);
                }
                Err(Failure::NoAnswer(_)) => return,
            }
        }
    }

    /// A call has ended. What is new about the collector is logged.
    fn note(&mut self, signal: Signal, failure: Option<&Failure>) {
        self.standing.failures.fetch_add(u64::from(failure.is_some()), Ordering::Relaxed);
        let (name, signal_name) = (&self.name, signal.name());
        match (self.outlook.hear(signal, failure), failure) {
            (Some(News::Down), Some(failure)) => {
                tracing::warn!(endpoint = name, %failure, "the OpenTelemetry collector cannot be reached; trying on");
            }
            (Some(News::Refused), Some(failure)) => {
                tracing::warn!(endpoint = name, %failure, "the OpenTelemetry collector refuses {signal_name}");
            }
            (Some(News::Back), _) => {
                tracing::info!(endpoint = name, "the OpenTelemetry collector answers again");
            }
            _ => {}
        }
        self.standing.is_up.store(!self.outlook.is_down(), Ordering::Relaxed);
    }
}

/// A call's answer, if it comes in time.
async fn in_time<T>(
    call: impl Future<Output = Result<T, Failure>>,
    stopped: &mut watch::Receiver<()>,
) -> Result<T, Failure> {
    let no_more_time = async {
        end_of(stopped).await;
        sleep(LAST_PATIENCE).await;
    };
    tokio::select! {
        answer = timeout(PATIENCE, call) => answer.unwrap_or_else(|_| Err(late(PATIENCE))),
        () = no_more_time => Err(late(LAST_PATIENCE)),
    }
}

fn late(patience: Duration) -> Failure {
    Failure::NoAnswer(format!("no answer within {patience:?}"))
}

/// Completes once the server is to end, and at once ever after.
async fn end_of(stopped: &mut watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// What is said of this server. Nobody but itself names the instance.
fn about(config: &OtlpConfig, instance_id: &str) -> About {
    let own = [
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.name", env!("CARGO_PKG_NAME")),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let mut attributes: BTreeMap<&str, &str> = own.into_iter().collect();
    attributes.extend(config.resource.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    attributes.insert("service.instance.id", instance_id);
    let attributes = attributes.into_iter().map(|(name, value)| text(name, value)).collect();
    About {
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
