//! The OpenTelemetry collector that metrics and traces are pushed to.

use axum::http::Uri;

use super::Secret;

/// The default port of OTLP over gRPC.
const PORT: u16 = 4317;

/// The default `service.name`.
pub const SERVICE_NAME: &str = "larder";

/// An OpenTelemetry collector, and what identifies this server to it.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpConfig {
    /// Address, as returned by [`parse_endpoint`].
    pub endpoint: String,
    /// Headers of every call: names in lower case, and values.
    pub headers: Vec<(String, Secret)>,
    /// Resource attributes of this server, with `service.name` and without `service.instance.id`.
    pub resource: Vec<(String, String)>,
    /// Whether traces are pushed as well as metrics.
    pub tracing: bool,
}

impl OtlpConfig {
    /// A collector with default settings.
    pub fn new(endpoint: String) -> Self {
        let resource = vec![("service.name".to_owned(), SERVICE_NAME.to_owned())];
        Self { endpoint, headers: Vec::new(), resource, tracing: false }
    }

    /// The `service.name` of this server.
    pub fn service_name(&self) -> &str {
        let named = self.resource.iter().find(|(name, _)| name == "service.name");
        named.map_or(SERVICE_NAME, |(_, value)| value)
    }
}

/// Converts an address to `http://HOST:PORT`. As in LMCache, `http://` may be missing and a path is ignored.
///
/// # Errors
/// The end of a message that begins with the flag and the value.
pub fn parse_endpoint(text: &str) -> Result<String, &'static str> {
    const SHAPE: &str = "must be http://HOST:PORT, where a collector takes OTLP over gRPC";
    let address = match text.split_once("://") {
        None => text,
        Some(("http", rest)) => rest,
        Some(("https", _)) => return Err("must begin with http://; for TLS use a collector on this node"),
        Some(_) => return Err(SHAPE),
    };
    let uri: Uri = format!("http://{address}").parse().map_err(|_| SHAPE)?;
    let authority = uri.authority().ok_or(SHAPE)?;
    if authority.as_str().contains('@') {
        return Err("must not contain a password; OTEL_EXPORTER_OTLP_HEADERS may");
    }
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host).ok_or(SHAPE)? {
        "" => PORT,
        port => port.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or(SHAPE)?,
    };
    if host.is_empty() || port == 0 {
        return Err(SHAPE);
    }
    Ok(format!("http://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_addresses_as_lmcache_does() {
        for (text, expected) in [
            ("http://localhost:4317", "http://localhost:4317"),
            ("collector:5000", "http://collector:5000"),
            ("http://collector", "http://collector:4317"),
            ("http://10.0.0.1:4317/", "http://10.0.0.1:4317"),
            ("http://[::1]:4317/v1/metrics", "http://[::1]:4317"),
        ] {
            assert_eq!(parse_endpoint(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "http://",
            "http://:4317",
            "http://h:0",
            "http://h:",
            "http://h:70000",
            "http://a b",
            "grpc://h:1",
            "://",
        ] {
            assert!(parse_endpoint(bad).unwrap_err().starts_with("must be http://HOST:PORT"), "{bad}");
        }
        assert!(parse_endpoint("https://h:4317").unwrap_err().contains("TLS"));
        assert!(parse_endpoint("http://me:secret@h:4317").unwrap_err().contains("password"));
    }
}
