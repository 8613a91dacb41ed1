//! `--otlp-endpoint` and `--enable-tracing` with a gRPC collector.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_server::config::{Config, OtlpConfig, Secret};
use larder_types::ids::InstanceId;
use larder_wire::key::CacheKey;
use larder_wire::ops;
use larder_wire::ops::prepare_retrieve::RetrievePlan;
use larder_wire::ops::prepare_store::StorePlan;
use opentelemetry_proto::tonic::collector::metrics::v1 as metrics;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1 as trace;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric, NumberDataPoint};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::sync::mpsc;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Response as Answer, Status};

use crate::support::{CHUNK, Client, Directory, TestServer, config, key, with_files};

const W: InstanceId = InstanceId(7);

/// Timeout for a push.
const PATIENCE: Duration = Duration::from_secs(120);

/// A push that the collector received.
#[derive(Debug)]
enum Push {
    /// With the configured header.
    Metrics(metrics::ExportMetricsServiceRequest, Option<String>),
    Spans(trace::ExportTraceServiceRequest),
}

#[derive(Clone)]
struct Receiver(mpsc::UnboundedSender<Push>);

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<metrics::ExportMetricsServiceRequest>,
    ) -> Result<Answer<metrics::ExportMetricsServiceResponse>, Status> {
        let header = request.metadata().get("x-tenant").map(|value| value.to_str().unwrap().to_owned());
        let _ = self.0.send(Push::Metrics(request.into_inner(), header));
        Ok(Answer::new(metrics::ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<trace::ExportTraceServiceRequest>,
    ) -> Result<Answer<trace::ExportTraceServiceResponse>, Status> {
        let _ = self.0.send(Push::Spans(request.into_inner()));
        Ok(Answer::new(trace::ExportTraceServiceResponse::default()))
    }
}

/// A collector in this process.
struct Collector {
    address: SocketAddr,
    pushes: mpsc::UnboundedReceiver<Push>,
}

impl Collector {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, pushes) = mpsc::unbounded_channel();
        let receiver = Receiver(sender);
        let serve = Server::builder()
            .add_service(MetricsServiceServer::new(receiver.clone()))
            .add_service(TraceServiceServer::new(receiver))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(serve);
        Self { address, pushes }
    }

    async fn next(&mut self) -> Push {
        tokio::time::timeout(PATIENCE, self.pushes.recv()).await.expect("a push").unwrap()
    }

    /// The last totals and all spans received so far.
    fn seen(&mut self) -> (Vec<Metric>, Vec<Span>) {
        let (mut metrics, mut spans) = (Vec::new(), Vec::new());
        while let Ok(push) = self.pushes.try_recv() {
            match push {
                Push::Metrics(request, _) => metrics = of_one_scope(request),
                Push::Spans(request) => {
                    for resource in request.resource_spans {
                        spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
                    }
                }
            }
        }
        (metrics, spans)
    }
}

fn of_one_scope(mut request: metrics::ExportMetricsServiceRequest) -> Vec<Metric> {
    assert_eq!(request.resource_metrics.len(), 1);
    assert_eq!(request.resource_metrics[0].scope_metrics.len(), 1);
    request.resource_metrics.remove(0).scope_metrics.remove(0).metrics
}

/// Configures export of metrics and traces.
fn exporting(config: Config, endpoint: &str) -> Config {
    let otlp = OtlpConfig { tracing: true, ..OtlpConfig::new(endpoint.to_owned()) };
    Config { otlp: Some(otlp), ..config }
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    match attributes.iter().find(|a| a.key == name)?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        other => panic!("{name} is {other:?}"),
    }
}

fn number(attributes: &[KeyValue], name: &str) -> f64 {
    let found = attributes.iter().find(|a| a.key == name).unwrap_or_else(|| panic!("no {name}"));
    match found.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::IntValue(count)) => *count as f64,
        Some(Value::DoubleValue(share)) => *share,
        other => panic!("{name} is {other:?}"),
    }
}

/// Looks up a prompt of four chunks, stores what is missing, and reads what is there.
async fn request(c: &mut Client, server: &TestServer, name: &str) -> i64 {
    let hit = c.hit(&key("m", 1, 4, name, None)).await;
    let worker = key("m", 1, 4, name, Some(0));
    if hit == 0 {
        let plan = c.call(ops::PrepareStore::new(worker.clone(), W)).await;
        assert!(matches!(plan, StorePlan::Slots { .. }), "{plan:?}");
        let commit = ops::CommitStore { key: worker, instance_id: W, data: Bytes::new() };
        assert!(c.call(commit).await);
    } else {
        let part = CacheKey { end: (hit as usize * CHUNK) as u64, ..worker };
        let plan = c.call(ops::PrepareRetrieve { key: part.clone(), instance_id: W }).await;
        assert!(matches!(plan, RetrievePlan::Slots(_)), "{plan:?}");
        let commit = ops::CommitRetrieve { key: part, instance_id: W };
        assert!(c.call(commit).await);
    }
    let request_id: Arc<str> = name.into();
    c.call(ops::EndSession { request_id }).await;
    server
        .until("all is in L2", |state| state.core().read(|core, _| core.gauges().write_back_pending) == 0)
        .await;
    hit
}

fn find(metrics: &[Metric], name: &str) -> Metric {
    metrics.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("no {name}")).clone()
}

/// The value and the start time of a counter's series.
fn total(metrics: &[Metric], name: &str, unit: &str, label: (&str, &str)) -> (i64, u64) {
    let metric = find(metrics, name);
    assert_eq!(metric.unit, unit, "{name}");
    let Some(Data::Sum(sum)) = metric.data else { panic!("{name} is no sum") };
    assert!(sum.is_monotonic && sum.aggregation_temporality() == AggregationTemporality::Cumulative);
    let has = |point: &&NumberDataPoint| text(&point.attributes, label.0).as_deref() == Some(label.1);
    let point = sum.data_points.iter().find(has).unwrap_or_else(|| panic!("{name} of {label:?}"));
    assert!(point.start_time_unix_nano > 0 && point.time_unix_nano >= point.start_time_unix_nano);
    let Some(number_data_point::Value::AsInt(count)) = point.value else { panic!("{point:?}") };
    (count, point.start_time_unix_nano)
}

#[tokio::test]
async fn metrics_are_pushed_under_the_names_of_lmcache() {
    let mut collector = Collector::start().await;
    let mut config = exporting(config(), &format!("http://{}", collector.address));
    config.instance_id = "node-3".to_owned();
    let otlp = config.otlp.as_mut().unwrap();
    otlp.headers = vec![("x-tenant".to_owned(), Secret::new("blue"))];
    otlp.resource.push(("deployment.environment".to_owned(), "test".to_owned()));
    let server = TestServer::start(config).await;
    let Push::Metrics(first, header) = collector.next().await else { panic!("metrics are pushed first") };
    assert_eq!(header.as_deref(), Some("blue"));
    let resource = first.resource_metrics[0].resource.clone().unwrap().attributes;
    for (name, value) in [
        ("service.name", "larder"),
        ("service.instance.id", "node-3"),
        ("deployment.environment", "test"),
        ("telemetry.sdk.language", "rust"),
    ] {
        assert_eq!(text(&resource, name).as_deref(), Some(value), "{name}");
    }
    let first = of_one_scope(first);
    let mut c = server.client().await;
    c.register(7, "m").await;
    assert_eq!(request(&mut c, &server, "a").await, 0);
    assert_eq!(request(&mut c, &server, "b").await, 4);
    let (status, scrape) = server.get("/metrics").await;
    assert_eq!(status, 200, "/metrics is served too");
    assert!(scrape.contains("lmcache_mp_otlp_up 1\n"), "{scrape}");
    assert!(scrape.contains("target_info{service_instance_id=\"node-3\",service_name=\"larder\"} 1\n"));
    let (status, pusher) = server.get("/periodic-threads/pusher").await;
    assert_eq!(status, 200, "{pusher}");
    assert!(pusher.contains("\"is_running\":true"), "{pusher}");
    server.stop().await;
    let (last, _) = collector.seen();
    let tag = ("l1_tag", "_default");
    let (before, started) = total(&first, "lmcache_mp.l1_read", "chunks", tag);
    assert_eq!((before, (4, started)), (0, total(&last, "lmcache_mp.l1_read", "chunks", tag)));
    let model = ("model_name", "m");
    for (name, unit, label, count) in [
        ("lmcache_mp.l1_write", "chunks", tag, 4),
        ("lmcache_mp.lookups", "requests", model, 2),
        ("lmcache_mp.lookup_requested", "tokens", model, 8 * CHUNK as i64),
        ("lmcache_mp.lookup_hit", "tokens", model, 4 * CHUNK as i64),
        ("lmcache_mp.lookup_hit_l1_keys", "keys", model, 4),
        ("lmcache_mp.stored_bytes", "By", model, 4 * 768),
        ("lmcache_mp.num_chunks_loaded", "", model, 4),
    ] {
        assert_eq!(total(&last, name, unit, label).0, count, "{name}");
    }
    let durations = find(&last, "lmcache_mp.request_duration");
    let Some(Data::Histogram(durations)) = durations.data else { panic!("a histogram") };
    assert_eq!(durations.aggregation_temporality(), AggregationTemporality::Cumulative);
    let lookups =
        durations.data_points.iter().find(|p| text(&p.attributes, "operation").unwrap() == "lookup");
    let lookups = lookups.unwrap();
    assert_eq!((lookups.count, lookups.bucket_counts.iter().sum::<u64>()), (2, 2));
    assert_eq!(lookups.bucket_counts.len(), lookups.explicit_bounds.len() + 1);
    assert!(lookups.sum.unwrap() > 0.0);
    let workers = find(&last, "lmcache_mp.workers");
    let Some(Data::Gauge(workers)) = workers.data else { panic!("a gauge") };
    assert_eq!(workers.data_points[0].value, Some(number_data_point::Value::AsDouble(1.0)));
    assert!(last.iter().all(|metric| metric.name != "target_info"), "target_info is the resource");
}

#[tokio::test]
async fn request_is_a_trace_with_lookup_and_copy_spans() {
    let mut collector = Collector::start().await;
    let directory = Directory::new();
    let endpoint = format!("http://{}", collector.address);
    let server = TestServer::start(exporting(with_files(&directory), &endpoint)).await;
    let mut c = server.client().await;
    c.register(7, "m").await;
    assert_eq!(request(&mut c, &server, "cold").await, 0);
    assert_eq!(request(&mut c, &server, "warm").await, 4);
    c.call(ops::Clear { force: true }).await;
    assert_eq!(request(&mut c, &server, "from L2").await, 4);
    assert_eq!(c.hit(&key("unknown", 1, 4, "early", None)).await, 0);
    server.stop().await;
    let (_, spans) = collector.seen();
    let of = |request: &str| -> Vec<&Span> {
        spans.iter().filter(|span| text(&span.attributes, "session_id").as_deref() == Some(request)).collect()
    };
    for (name, copy, counted) in [
        ("cold", "mp.store", "stored_count"),
        ("warm", "mp.retrieve", "retrieved_count"),
        ("from L2", "mp.retrieve", "retrieved_count"),
    ] {
        let [lookup, copied, root] = of(name)[..] else { panic!("{name}: {:?}", of(name)) };
        let names = [&lookup.name, &copied.name, &root.name];
        assert_eq!(names, ["mp.lookup_prefetch", copy, "request"]);
        assert!(root.parent_span_id.is_empty() && root.trace_id.len() == 16 && root.span_id.len() == 8);
        for child in [lookup, copied] {
            assert_eq!((&child.trace_id, &child.parent_span_id), (&root.trace_id, &root.span_id));
            assert!(child.start_time_unix_nano >= root.start_time_unix_nano);
            assert!(child.end_time_unix_nano <= root.end_time_unix_nano);
            assert!(child.start_time_unix_nano <= child.end_time_unix_nano && child.status.is_none());
            assert_eq!(text(&child.attributes, "model_name").as_deref(), Some("m"));
        }
        assert_eq!(number(&copied.attributes, counted), 4.0);
        assert_eq!(number(&copied.attributes, "total_bytes"), 4.0 * 768.0);
        assert_eq!(number(&copied.attributes, "engine_id"), 7.0);
        let tokens = (4 * CHUNK) as f64;
        let (l1, l2) = match name {
            "warm" => (tokens, 0.0),
            "from L2" => (0.0, tokens),
            _ => (0.0, 0.0),
        };
        for span in [lookup, root] {
            for (attribute, value) in [
                ("requested_tokens", tokens),
                ("hit_tokens", l1 + l2),
                ("hit_rate", (l1 + l2) / tokens),
                ("l1_hit_tokens", l1),
                ("l2_hit_tokens", l2),
                ("l1_hit_rate", l1 / tokens),
                ("l2_hit_rate", l2 / tokens),
                ("l1_hit_keys", l1 / CHUNK as f64),
                ("l2_hit_keys", l2 / CHUNK as f64),
            ] {
                assert_eq!(number(&span.attributes, attribute), value, "{name}: {attribute}");
            }
            assert_eq!(text(&span.attributes, "early_exit_reason").as_deref(), Some(""));
        }
    }
    // No request ended this one; the end of its client or of the server did.
    let [lookup, root] = of("early")[..] else { panic!("{:?}", of("early")) };
    assert_eq!(text(&lookup.attributes, "early_exit_reason").as_deref(), Some("no_gpu_context"));
    let status = root.status.clone().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert!(!status.message.is_empty());
}

#[tokio::test]
async fn store_through_the_socket_is_one_span() {
    let mut collector = Collector::start().await;
    let mut config = exporting(config(), &format!("http://{}", collector.address));
    config.l1.shm_name = None;
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    c.register(7, "m").await;
    let worker = key("m", 1, 4, "r", Some(0));
    let data = Bytes::from_static(b"no pickle");
    let commit = ops::CommitStore { key: worker, instance_id: W, data };
    assert!(!c.call(commit).await);
    server.stop().await;
    let (_, spans) = collector.seen();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["mp.store", "request"]);
    assert_eq!(spans[0].status.as_ref().unwrap().message, "nothing was copied");
}

/// Requests are served and the shutdown is fast if the collector is down or does not answer.
#[tokio::test]
async fn collector_that_is_down_or_hangs_delays_nothing() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [closed, silent.local_addr().unwrap()] {
        let config = Config {
            shutdown_timeout: Duration::from_millis(200),
            ..exporting(config(), &format!("http://{address}"))
        };
        let mut server = TestServer::start(config).await;
        server.expect_log("OpenTelemetry collector");
        server.expect_log("not done in time");
        let mut c = server.client().await;
        c.register(7, "m").await;
        assert_eq!(request(&mut c, &server, "a").await, 0);
        assert_eq!(request(&mut c, &server, "b").await, 4);
        if address == closed {
            let counts = || server.state.otlp.counts();
            server.until("the collector is known to be down", |_| counts().failures > 0).await;
            let (_, scrape) = server.get("/metrics").await;
            assert!(scrape.contains("lmcache_mp_otlp_up 0\n"), "{scrape}");
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn pushes_only_enabled_signals() {
    for (metrics, tracing) in [(true, false), (false, true)] {
        let mut collector = Collector::start().await;
        let mut config = exporting(config(), &format!("http://{}", collector.address));
        config.metrics.enabled = metrics;
        config.otlp.as_mut().unwrap().tracing = tracing;
        let server = TestServer::start(config).await;
        let mut c = server.client().await;
        c.register(7, "m").await;
        request(&mut c, &server, "a").await;
        server.stop().await;
        let (totals, spans) = collector.seen();
        assert_eq!((!totals.is_empty(), !spans.is_empty()), (metrics, tracing));
    }
}
