//! The OpenTelemetry collector, and OpenTelemetry's own environment variables.
//!
//! `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_EXPORTER_OTLP_HEADERS` mean what OpenTelemetry specifies,
//! as in LMCache, and have no effect without a collector. As the specification requires, invalid parts are left out
//! with a warning.

use larder_server::config::otlp::parse_endpoint;
use larder_server::config::{MetricsConfig, OtlpConfig, Secret};
use percent_encoding::percent_decode_str;
use ureq::http::{HeaderName, HeaderValue};

use super::environment::Variables;
use super::flags;
use super::resolve::needs_observability;
use super::settings::Settings;
use crate::report::Report;

/// The collector, if one is configured.
pub(super) fn otlp(settings: &Settings, metrics: &MetricsConfig, report: &mut Report) -> Option<OtlpConfig> {
    let tracing = settings.get(&flags::ENABLE_TRACING);
    let text = settings.get(&flags::OTLP_ENDPOINT).filter(|text| !text.is_empty());
    if tracing && text.is_none() {
        report.error(
            "--enable-tracing: needs a collector to send traces to; give --otlp-endpoint http://HOST:PORT",
        );
    }
    needs_observability(tracing, &flags::ENABLE_TRACING, metrics, report);
    let text = text?;
    let subject = settings.subject(&flags::OTLP_ENDPOINT);
    if !cfg!(feature = "otel") {
        report.error(format!("{subject}: this larder was built without OpenTelemetry (its feature otel)"));
        return None;
    }
    match parse_endpoint(&text) {
        Ok(endpoint) => Some(OtlpConfig { tracing, ..OtlpConfig::new(endpoint) }),
        Err(error) => {
            report.error(format!("{subject}: {error}"));
            None
        }
    }
}

/// Adds the settings in the environment.
pub(super) fn add_variables(otlp: &mut OtlpConfig, variables: &Variables, report: &mut Report) {
    for (name, value) in pairs("OTEL_RESOURCE_ATTRIBUTES", variables, report) {
        set(&mut otlp.resource, name, value);
    }
    if let Some(name) = variables.get("OTEL_SERVICE_NAME").filter(|name| !name.is_empty()) {
        set(&mut otlp.resource, "service.name".to_owned(), name.clone());
    }
    const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
    for (name, value) in pairs(HEADERS, variables, report) {
        let name = name.to_ascii_lowercase();
        let fits = HeaderName::try_from(&name).is_ok() && HeaderValue::try_from(&value).is_ok();
        // Headers of gRPC itself, and binary ones.
        let reserved = name.starts_with("grpc-") || name.ends_with("-bin");
        if fits && !reserved {
            otlp.headers.push((name, Secret::new(value)));
        } else {
            report
                .warn(format!("{HEADERS}: {name:?} or its value is not valid in a header, and is left out"));
        }
    }
}

fn set(resource: &mut Vec<(String, String)>, name: String, value: String) {
    resource.retain(|(known, _)| *known != name);
    resource.push((name, value));
}

/// Parses `name=value,name=value`, percent-decoding names and values.
fn pairs(variable: &str, variables: &Variables, report: &mut Report) -> Vec<(String, String)> {
    let Some(text) = variables.get(variable) else { return Vec::new() };
    let mut pairs = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let read = pair.split_once('=').and_then(|(name, value)| {
            let decoded = |text: &str| Some(percent_decode_str(text.trim()).decode_utf8().ok()?.into_owned());
            Some((decoded(name).filter(|name| !name.is_empty())?, decoded(value)?))
        });
        match read {
            Some(pair) => pairs.push(pair),
            // Do not print it: it may hold a password.
            None => report.warn(format!("{variable}: one of its parts is not NAME=VALUE, and is left out")),
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (OtlpConfig, Vec<String>) {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut config = OtlpConfig::new("http://c:4317".to_owned());
        let mut report = Report::default();
        add_variables(&mut config, &variables, &mut report);
        assert_eq!(report.errors, Vec::<String>::new());
        (config, report.warnings)
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn reads_service_name_and_resource_attributes() {
        assert_eq!(read(&[]).0.resource, owned(&[("service.name", "larder")]));
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=kv, zone = a%20b ,");
        let (config, warnings) = read(&[attributes]);
        assert_eq!(config.resource, owned(&[("service.name", "kv"), ("zone", "a b")]));
        assert_eq!(warnings, Vec::<String>::new());
        let (config, _) = read(&[attributes, ("OTEL_SERVICE_NAME", "pantry")]);
        assert_eq!(config.service_name(), "pantry");
    }

    #[test]
    fn reads_headers_as_secrets_and_leaves_out_invalid_ones() {
        let (config, warnings) =
            read(&[("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20x,x-bin=1,a b=c,hunter2,n=%0a")]);
        assert_eq!(config.headers, [("authorization".to_owned(), Secret::new("Bearer x"))]);
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert!(warnings.iter().all(|line| !line.contains("hunter2")), "{warnings:?}");
    }
}
