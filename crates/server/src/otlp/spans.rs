//! Traces as OTLP spans.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status};

use super::{Identity, attribute};
use crate::observe::traces::{Span, Value};

/// The request that pushes `spans`.
pub(super) fn request(spans: &[Span], identity: &Identity) -> ExportTraceServiceRequest {
    let scope_spans = ScopeSpans {
        scope: Some(identity.scope.clone()),
        spans: spans.iter().map(span).collect(),
        ..ScopeSpans::default()
    };
    let resource_spans = ResourceSpans {
        resource: Some(identity.resource.clone()),
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

fn span(span: &Span) -> OtlpSpan {
    let failed = |why: &str| Status { message: why.to_owned(), code: StatusCode::Error.into() };
    OtlpSpan {
        trace_id: span.trace.to_vec(),
        span_id: span.id.to_vec(),
        parent_span_id: span.parent.map_or_else(Vec::new, |parent| parent.to_vec()),
        name: span.name.to_owned(),
        // As in LMCache.
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: span.began.0,
        end_time_unix_nano: span.ended.0,
        attributes: span.attributes.iter().map(|(name, value)| key_value(name, value)).collect(),
        status: span.error.map(failed),
        ..OtlpSpan::default()
    }
}

fn key_value(name: &str, value: &Value) -> KeyValue {
    attribute(
        name,
        match value {
            Value::Text(text) => Any::StringValue(text.as_ref().to_owned()),
            Value::Word(word) => Any::StringValue((*word).to_owned()),
            Value::Count(count) => Any::IntValue(i64::try_from(*count).unwrap_or(i64::MAX)),
            Value::Number(number) => Any::IntValue(*number),
            Value::Share(share) => Any::DoubleValue(*share),
        },
    )
}
