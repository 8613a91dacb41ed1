//! The calls to a collector.

use std::future::Future;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::config::OtlpConfig;

/// Characters of a collector's error message that are logged.
const QUOTED_CHARS_MAX: usize = 200;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No answer, or none in time, or a failure that may pass.
    #[error("{0}")]
    NoAnswer(String),
    /// A refusal that another attempt would not change.
    #[error("{0}")]
    Refused(String),
}

impl From<Status> for Failure {
    /// OTLP defines which codes may be retried. A call that reached no gRPC server ends in `Unknown`.
    fn from(status: Status) -> Self {
        let message: String = status.message().chars().take(QUOTED_CHARS_MAX).collect();
        let message = format!("{}: {message}", status.code());
        match status.code() {
            Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => Self::NoAnswer(message),
            _ => Self::Refused(message),
        }
    }
}

/// A receiver of metrics and spans.
pub(super) trait Collector: Send + 'static {
    /// Pushes metrics.
    fn metrics(
        &mut self,
        request: ExportMetricsServiceRequest,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Pushes spans. Returns how many of them the collector rejected.
    fn spans(
        &mut self,
        request: ExportTraceServiceRequest,
    ) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// A collector behind a gRPC connection, which is made when it is needed.
#[derive(Debug)]
pub(super) struct Grpc {
    metrics: MetricsServiceClient<Channel>,
    spans: TraceServiceClient<Channel>,
    headers: MetadataMap,
}

impl Grpc {
    pub(super) fn new(config: &OtlpConfig) -> Self {
        let endpoint = Endpoint::from_shared(config.endpoint.clone())
            .and_then(|endpoint| endpoint.user_agent(concat!("larder/", env!("CARGO_PKG_VERSION"))))
            .expect("a validated configuration has an address");
        let channel = endpoint.connect_lazy();
        Self {
            metrics: MetricsServiceClient::new(channel.clone()),
            spans: TraceServiceClient::new(channel),
            headers: headers(config),
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().clone_from(&self.headers);
        request
    }
}

impl Collector for Grpc {
    async fn metrics(&mut self, request: ExportMetricsServiceRequest) -> Result<(), Failure> {
        let request = self.request(request);
        self.metrics.export(request).await?;
        Ok(())
    }

    async fn spans(&mut self, request: ExportTraceServiceRequest) -> Result<u64, Failure> {
        let request = self.request(request);
        let answer = self.spans.export(request).await?.into_inner();
        let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}

/// The headers of every call. Headers that gRPC cannot carry are left out.
fn headers(config: &OtlpConfig) -> MetadataMap {
    let mut headers = MetadataMap::new();
    for (name, value) in &config.headers {
        let name = MetadataKey::<Ascii>::from_bytes(name.as_bytes());
        let value = MetadataValue::<Ascii>::try_from(value.expose());
        if let (Ok(name), Ok(mut value)) = (name, value) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    headers
}
