//! A pusher and a collector that does as it is told, in paused time: a test waits only as the clock says.

use std::collections::VecDeque;
use std::sync::Mutex;

use larder_core::Hit;
use larder_types::ConnectionId;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::observe::traces::LookupEnd;

/// How a collector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Takes,
    IsAbsent,
    Hangs,
    Refuses,
    /// It does not like two spans of each batch.
    TakesAllButTwo,
}

/// A call that came.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Metrics,
    /// So many spans, the name of the first with it.
    Spans(usize, String),
}

struct Puppet {
    mood: Arc<Mutex<Mood>>,
    calls: mpsc::UnboundedSender<Call>,
}

impl Puppet {
    async fn answer(&self, call: Call) -> Result<u64, Failure> {
        self.calls.send(call).unwrap();
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Takes => Ok(0),
            Mood::TakesAllButTwo => Ok(2),
            Mood::IsAbsent => Err(Failure::NoAnswer("absent".to_owned())),
            Mood::Refuses => Err(Failure::Refused("no".to_owned())),
            Mood::Hangs => std::future::pending().await,
        }
    }
}

impl Collector for Puppet {
    async fn metrics(&mut self, _: ExportMetricsServiceRequest) -> Result<(), Failure> {
        self.answer(Call::Metrics).await.map(drop)
    }

    async fn spans(&mut self, request: ExportTraceServiceRequest) -> Result<u64, Failure> {
        let spans = &request.resource_spans[0].scope_spans[0].spans;
        self.answer(Call::Spans(spans.len(), spans[0].name.clone())).await
    }
}

/// A pusher at work.
struct Scene {
    traces: Arc<Traces>,
    standing: Arc<Standing>,
    mood: Arc<Mutex<Mood>>,
    calls: mpsc::UnboundedReceiver<Call>,
    pushing: Pushing,
    began: Instant,
}

impl Scene {
    fn begin(mood: Mood) -> Self {
        let (calls_in, calls) = mpsc::unbounded_channel();
        let mood = Arc::new(Mutex::new(mood));
        let traces = Arc::new(Traces::new(16));
        let standing = Arc::new(Standing::default());
        let source = Source {
            metrics: Some(Box::new(Vec::new)),
            traces: Some(traces.clone()),
            unused_max: Duration::from_secs(600),
            about: About::default(),
        };
        let (stop, stopped) = watch::channel(());
        let puppet = Puppet { mood: mood.clone(), calls: calls_in };
        let pusher = Pusher::new(puppet, "http://c:4317", source, standing.clone(), stopped);
        let pushing = Pushing { stop, task: tokio::spawn(pusher.run(|| ())) };
        Self { traces, standing, mood, calls, pushing, began: Instant::now() }
    }

    fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// The next call, and after how many seconds it came.
    async fn next(&mut self) -> (u64, Call) {
        let call = self.calls.recv().await.unwrap();
        (self.began.elapsed().as_secs(), call)
    }

    /// The next calls with spans: when, and how many.
    async fn next_spans(&mut self, calls: usize) -> Vec<(u64, usize)> {
        let mut found = Vec::new();
        while found.len() < calls {
            if let (at, Call::Spans(count, _)) = self.next().await {
                found.push((at, count));
            }
        }
        found
    }

    /// So many requests with a lookup each: two spans.
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
        self.pushing.end().await;
        let mut calls = VecDeque::new();
        while let Ok(call) = self.calls.try_recv() {
            calls.push_back(call);
        }
        (calls, self.standing.counts(), self.traces.dropped())
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_come_every_ten_seconds_and_spans_when_there_are_any() {
    let mut scene = Scene::begin(Mood::Takes);
    assert_eq!(scene.next().await, (0, Call::Metrics));
    assert_eq!(scene.next().await, (10, Call::Metrics));
    scene.requests(1);
    assert_eq!(scene.next().await, (15, Call::Spans(2, "mp.lookup_prefetch".to_owned())));
    assert_eq!(scene.next().await, (20, Call::Metrics));
    let (calls, counts, dropped) = scene.end().await;
    assert_eq!(calls, [Call::Metrics], "the last totals");
    assert_eq!((counts, dropped), (Counts { is_up: true, failures: 0, spans: 2 }, 0));
}

#[tokio::test(start_paused = true)]
async fn many_spans_go_at_once_in_batches() {
    let mut scene = Scene::begin(Mood::Takes);
    assert_eq!(scene.next().await, (0, Call::Metrics));
    scene.requests(BATCH + 10);
    let sent: Vec<usize> = scene.next_spans(3).await.into_iter().map(|(_, count)| count).collect();
    assert_eq!(sent, [BATCH, BATCH, 20]);
    assert_eq!(scene.began.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn spans_wait_for_a_collector_that_is_absent_and_reach_it_when_it_is_back() {
    let mut scene = Scene::begin(Mood::IsAbsent);
    assert_eq!(scene.next().await, (0, Call::Metrics));
    // Not at once: who is absent is asked at the regular times.
    scene.requests(BATCH);
    assert_eq!(scene.next_spans(2).await, [(5, BATCH), (10, BATCH)]);
    assert!(!scene.standing.counts().is_up);
    scene.be(Mood::Takes);
    assert_eq!(scene.next_spans(2).await, [(15, BATCH), (15, BATCH)]);
    let (_, counts, dropped) = scene.end().await;
    assert_eq!((counts.is_up, counts.spans, dropped), (true, 2 * BATCH as u64, 0));
    // Metrics at 0 and 10, spans at 5 and 10.
    assert_eq!(counts.failures, 4);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_is_given_up_and_asked_again() {
    let mut scene = Scene::begin(Mood::Hangs);
    assert_eq!(scene.next().await, (0, Call::Metrics));
    scene.requests(1);
    // After the ten seconds that the first call had, both are due.
    assert_eq!(scene.next().await, (10, Call::Metrics));
    scene.be(Mood::Takes);
    assert_eq!(scene.next_spans(1).await, [(20, 2)]);
    assert_eq!(scene.standing.counts().failures, 2);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded_and_the_rest_counted() {
    let mut scene = Scene::begin(Mood::IsAbsent);
    scene.requests(WAITING_MAX);
    assert_eq!(scene.next_spans(1).await, [(0, BATCH)]);
    // That batch is held back; the queue has room for as many others.
    scene.requests(BATCH);
    scene.be(Mood::Takes);
    let (_, counts, dropped) = scene.end().await;
    assert_eq!(counts.spans, 0, "nobody waits at the end for one that was absent");
    assert_eq!(dropped, (WAITING_MAX + BATCH) as u64);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_not_sent_again() {
    let mut scene = Scene::begin(Mood::Refuses);
    scene.requests(1);
    assert_eq!(scene.next_spans(1).await, [(0, 2)]);
    scene.be(Mood::TakesAllButTwo);
    scene.requests(3);
    let (calls, counts, dropped) = scene.end().await;
    assert!(calls.contains(&Call::Spans(6, "mp.lookup_prefetch".to_owned())), "{calls:?}");
    assert_eq!((counts.spans, dropped), (4, 2 + 2));
}

#[tokio::test(start_paused = true)]
async fn the_end_sends_what_is_open_and_waits_for_nobody_long() {
    let mut scene = Scene::begin(Mood::Takes);
    assert_eq!(scene.next().await, (0, Call::Metrics));
    let (name, model): (Arc<str>, Arc<str>) = ("open".into(), "m".into());
    scene.traces.lookup_begins(UnixTime::now(), &name, ConnectionId(1), (&model, &"".into()));
    let (calls, ..) = scene.end().await;
    assert_eq!(calls, [Call::Spans(2, "mp.lookup_prefetch".to_owned()), Call::Metrics]);

    let mut scene = Scene::begin(Mood::Hangs);
    assert_eq!(scene.next().await, (0, Call::Metrics));
    scene.requests(1);
    let began = scene.began;
    let (calls, counts, _) = scene.end().await;
    assert_eq!((calls.len(), counts.failures), (0, 1));
    assert_eq!(began.elapsed(), LAST_PATIENCE);
}
