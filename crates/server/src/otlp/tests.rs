//! An exporter and a scripted collector, in paused time.

use std::collections::VecDeque;
use std::sync::Mutex;

use larder_core::Hit;
use larder_types::ConnectionId;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::exporter_status::Counts;
use super::*;
use crate::observe::event::LookupEnd;

/// What the collector does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behavior {
    Accepts,
    IsDown,
    Hangs,
    Refuses,
    /// Rejects two spans of each batch.
    AcceptsAllButTwo,
}

/// A call that was received.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Metrics,
    /// The number of spans, and the name of the first.
    Spans(usize, String),
}

struct ScriptedCollector {
    behavior: Arc<Mutex<Behavior>>,
    calls: mpsc::UnboundedSender<Call>,
}

impl ScriptedCollector {
    async fn answer(&self, call: Call) -> Result<u64, Failure> {
        self.calls.send(call).unwrap();
        let behavior = *self.behavior.lock().unwrap();
        match behavior {
            Behavior::Accepts => Ok(0),
            Behavior::AcceptsAllButTwo => Ok(2),
            Behavior::IsDown => Err(Failure::NoAnswer("down".to_owned())),
            Behavior::Refuses => Err(Failure::Refused("no".to_owned())),
            Behavior::Hangs => std::future::pending().await,
        }
    }
}

impl Collector for ScriptedCollector {
    async fn metrics(&mut self, _: ExportMetricsServiceRequest) -> Result<(), Failure> {
        self.answer(Call::Metrics).await.map(drop)
    }

    async fn spans(&mut self, request: ExportTraceServiceRequest) -> Result<u64, Failure> {
        let spans = &request.resource_spans[0].scope_spans[0].spans;
        self.answer(Call::Spans(spans.len(), spans[0].name.clone())).await
    }
}

/// A running exporter and its collector.
struct Fixture {
    traces: Arc<Traces>,
    status: Arc<ExporterStatus>,
    behavior: Arc<Mutex<Behavior>>,
    calls: mpsc::UnboundedReceiver<Call>,
    exporter: Exporter,
    started: Instant,
}

impl Fixture {
    fn start(behavior: Behavior) -> Self {
        let (calls_in, calls) = mpsc::unbounded_channel();
        let behavior = Arc::new(Mutex::new(behavior));
        let traces = Arc::new(Traces::new(16));
        let status = Arc::new(ExporterStatus::default());
        let source = Source {
            metrics: Some(Box::new(Vec::new)),
            traces: Some(traces.clone()),
            unused_max: Duration::from_secs(600),
            identity: Identity::default(),
        };
        let (stop, stopped) = watch::channel(());
        let collector = ScriptedCollector { behavior: behavior.clone(), calls: calls_in };
        let pusher = Pusher::new(collector, "http://c:4317", source, status.clone(), stopped);
        let exporter = Exporter { stop, task: tokio::spawn(pusher.run(|| ())) };
        Self { traces, status, behavior, calls, exporter, started: Instant::now() }
    }

    fn set(&self, behavior: Behavior) {
        *self.behavior.lock().unwrap() = behavior;
    }

    /// The next call, and the seconds until it came.
    async fn next(&mut self) -> (u64, Call) {
        let call = self.calls.recv().await.unwrap();
        (self.started.elapsed().as_secs(), call)
    }

    /// The next calls with spans: when they came, and the number of spans.
    async fn next_spans(&mut self, calls: usize) -> Vec<(u64, usize)> {
        let mut found = Vec::new();
        while found.len() < calls {
            if let (at, Call::Spans(count, _)) = self.next().await {
                found.push((at, count));
            }
        }
        found
    }

    /// Ends `count` requests with one lookup each, which makes two spans each.
    fn requests(&self, count: usize) {
        for n in 0..count {
            let (name, model): (Arc<str>, Arc<str>) = (format!("r{n}").into(), "m".into());
            self.traces.lookup_begins(UnixTime::now(), &name, ConnectionId(1), (&model, &"".into()));
            let hit = Hit::default();
            self.traces.lookup_ends(&name, LookupEnd::Looked { requested_chunks: 1, hit: &hit });
            self.traces.request_ends(&name);
        }
    }

    async fn end(mut self) -> (VecDeque<Call>, Counts, u64) {
        self.exporter.end().await;
        let mut calls = VecDeque::new();
        while let Ok(call) = self.calls.try_recv() {
            calls.push_back(call);
        }
        (calls, self.status.counts(), self.traces.dropped())
    }
}

#[tokio::test(start_paused = true)]
async fn pushes_metrics_every_ten_seconds_and_spans_when_there_are_any() {
    let mut fixture = Fixture::start(Behavior::Accepts);
    assert_eq!(fixture.next().await, (0, Call::Metrics));
    assert_eq!(fixture.next().await, (10, Call::Metrics));
    fixture.requests(1);
    assert_eq!(fixture.next().await, (15, Call::Spans(2, "mp.lookup_prefetch".to_owned())));
    assert_eq!(fixture.next().await, (20, Call::Metrics));
    let (calls, counts, dropped) = fixture.end().await;
    assert_eq!(calls, [Call::Metrics], "the last totals");
    assert_eq!((counts, dropped), (Counts { is_up: true, failures: 0, spans: 2 }, 0));
}

#[tokio::test(start_paused = true)]
async fn pushes_full_batches_of_spans_at_once() {
    let mut fixture = Fixture::start(Behavior::Accepts);
    assert_eq!(fixture.next().await, (0, Call::Metrics));
    fixture.requests(BATCH + 10);
    let sent: Vec<usize> = fixture.next_spans(3).await.into_iter().map(|(_, count)| count).collect();
    assert_eq!(sent, [BATCH, BATCH, 20]);
    assert_eq!(fixture.started.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn spans_wait_for_a_collector_that_is_down() {
    let mut fixture = Fixture::start(Behavior::IsDown);
    assert_eq!(fixture.next().await, (0, Call::Metrics));
    // Not at once: a collector that is down is retried at the regular times.
    fixture.requests(BATCH);
    assert_eq!(fixture.next_spans(2).await, [(5, BATCH), (10, BATCH)]);
    assert!(!fixture.status.counts().is_up);
    fixture.set(Behavior::Accepts);
    assert_eq!(fixture.next_spans(2).await, [(15, BATCH), (15, BATCH)]);
    let (_, counts, dropped) = fixture.end().await;
    assert_eq!((counts.is_up, counts.spans, dropped), (true, 2 * BATCH as u64, 0));
    // Metrics at 0 and 10, spans at 5 and 10.
    assert_eq!(counts.failures, 4);
}

#[tokio::test(start_paused = true)]
async fn collector_that_hangs_is_retried_after_the_call_timeout() {
    let mut fixture = Fixture::start(Behavior::Hangs);
    assert_eq!(fixture.next().await, (0, Call::Metrics));
    fixture.requests(1);
    // After the ten seconds that the first call had, both are due.
    assert_eq!(fixture.next().await, (10, Call::Metrics));
    fixture.set(Behavior::Accepts);
    assert_eq!(fixture.next_spans(1).await, [(20, 2)]);
    assert_eq!(fixture.status.counts().failures, 2);
}

#[tokio::test(start_paused = true)]
async fn span_queue_is_bounded_and_dropped_spans_are_counted() {
    let mut fixture = Fixture::start(Behavior::IsDown);
    fixture.requests(WAITING_MAX);
    assert_eq!(fixture.next_spans(1).await, [(0, BATCH)]);
    // That batch waits to be sent again; the queue takes as many other spans.
    fixture.requests(BATCH);
    fixture.set(Behavior::Accepts);
    let (_, counts, dropped) = fixture.end().await;
    assert_eq!(counts.spans, 0, "shutdown does not retry a collector that is down");
    assert_eq!(dropped, (WAITING_MAX + BATCH) as u64);
}

#[tokio::test(start_paused = true)]
async fn refused_spans_are_not_sent_again() {
    let mut fixture = Fixture::start(Behavior::Refuses);
    fixture.requests(1);
    assert_eq!(fixture.next_spans(1).await, [(0, 2)]);
    fixture.set(Behavior::AcceptsAllButTwo);
    fixture.requests(3);
    let (calls, counts, dropped) = fixture.end().await;
    assert!(calls.contains(&Call::Spans(6, "mp.lookup_prefetch".to_owned())), "{calls:?}");
    assert_eq!((counts.spans, dropped), (4, 2 + 2));
}

#[tokio::test(start_paused = true)]
async fn shutdown_sends_open_spans_within_its_timeout() {
    let mut fixture = Fixture::start(Behavior::Accepts);
    assert_eq!(fixture.next().await, (0, Call::Metrics));
    let (name, model): (Arc<str>, Arc<str>) = ("open".into(), "m".into());
    fixture.traces.lookup_begins(UnixTime::now(), &name, ConnectionId(1), (&model, &"".into()));
    let (calls, ..) = fixture.end().await;
    assert_eq!(calls, [Call::Spans(2, "mp.lookup_prefetch".to_owned()), Call::Metrics]);

    let mut fixture = Fixture::start(Behavior::Hangs);
    assert_eq!(fixture.next().await, (0, Call::Metrics));
    fixture.requests(1);
    let started = fixture.started;
    let (calls, counts, _) = fixture.end().await;
    assert_eq!((calls.len(), counts.failures), (0, 1));
    assert_eq!(started.elapsed(), SHUTDOWN_TIMEOUT);
}
