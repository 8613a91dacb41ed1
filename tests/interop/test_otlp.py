"""A collector made of OpenTelemetry's own Python messages and gRPC gets metrics and traces of a server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

# Servers are started from this process while gRPC's threads run, and gRPC's handlers for forks can end such a
# child.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import grpc  # noqa: E402
import pytest  # noqa: E402
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc  # noqa: E402
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc  # noqa: E402
from support import stock  # noqa: E402
from support.process import ServerProcess, eventually, free_port  # noqa: E402
from support.stock import Worker, fresh_model, fresh_request, prompt  # noqa: E402

# Metrics are pushed every 10 seconds.
PUSHED_WITHIN_S = 40.0

pytestmark = pytest.mark.ours


class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: Any) -> Any:
        self._collector.headers = dict(context.invocation_metadata())
        for resource in request.resource_metrics:
            self._collector.resource = attributes(resource.resource)
            for scope in resource.scope_metrics:
                self._collector.metrics = {metric.name: metric for metric in scope.metrics}
        return metrics_service_pb2.ExportMetricsServiceResponse()


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self._collector.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


class Collector:
    """Stores the last totals and all spans."""

    def __init__(self, port: int = 0) -> None:
        self.metrics: dict[str, Any] = {}
        self.spans: list[Any] = []
        self.resource: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self._server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(self), self._server)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(self), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def total(self, name: str, **labels: str) -> int:
        points = self.metrics[name].sum.data_points
        return sum(p.as_int for p in points if labels.items() <= attributes(p).items())

    def close(self) -> None:
        self._server.stop(None).wait()


def attributes(of: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in of.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


def test_a_collector_reads_metrics_and_traces(collector: Collector, start: Callable[..., ServerProcess]) -> None:
    server = start(
        flags=("--otlp-endpoint", collector.url, "--enable-tracing", "--instance-id", "node-a"),
        environment={
            "OTEL_SERVICE_NAME": "pantry",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=a%20test",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=blue%201",
        },
    )
    client = stock.stock_client(server.url)
    worker, tokens, request = Worker(client, fresh_model()).register(), prompt(601), fresh_request()
    worker.store(tokens)
    assert worker.lookup(tokens, request) == 4
    assert worker.retrieve(tokens, request) == 4
    worker.end(request)
    client.close()
    assert server.terminate() == 0

    assert collector.headers["x-tenant"] == "blue 1"
    named = {"service.name": "pantry", "service.instance.id": "node-a", "deployment.environment": "a test"}
    assert named.items() <= collector.resource.items()
    assert collector.total("lmcache_mp.l1_write", l1_tag="_default") == 4
    assert collector.total("lmcache_mp.lookups", model_name=worker.model) == 1
    assert collector.metrics["lmcache_mp.l1_read"].unit == "chunks"
    spans = {s.name: s for s in collector.spans if attributes(s)["session_id"] == request}
    assert spans.keys() == {"request", "mp.lookup_prefetch", "mp.retrieve"}
    root = spans.pop("request")
    for child in spans.values():
        assert (child.trace_id, child.parent_span_id) == (root.trace_id, root.span_id)
    found = attributes(root)
    assert (found["hit_tokens"], found["hit_rate"], found["l2_hit_tokens"]) == (64, 1.0, 0)
    assert attributes(spans["mp.retrieve"])["retrieved_count"] == 4


@pytest.mark.expect_log("WARN .*OpenTelemetry collector")
def test_collector_may_start_late(start: Callable[..., ServerProcess]) -> None:
    port = free_port()
    server = start(flags=("--otlp-endpoint", f"http://127.0.0.1:{port}", "--log-level", "info"))
    eventually(lambda: server.metric("lmcache_mp_otlp_failures_total") > 0, "a push that fails", PUSHED_WITHIN_S)
    assert server.metric("lmcache_mp_otlp_up") == 0
    collector = Collector(port)
    try:
        eventually(lambda: collector.metrics, "metrics", PUSHED_WITHIN_S)
        eventually(lambda: server.metric("lmcache_mp_otlp_up") == 1, "the server knows")
        failed, recovered = server.log_lines("OpenTelemetry collector")
        assert " WARN " in failed and " INFO " in recovered, server.log()
        assert server.terminate() == 0
    finally:
        collector.close()
