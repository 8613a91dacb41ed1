//! Where metrics and traces are pushed to.

use axum::http::Uri;

use super::Secret;

/// The port of OTLP over gRPC where an address names none.
const PORT: u16 = 4317;

/// Who metrics and traces say they are from, unless somebody has chosen a name.
pub const SERVICE_NAME: &str = "larder";

/// An OpenTelemetry collector, and what it is told of this server.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpConfig {
    /// Its address, as [`parse_endpoint`] gives it.
    pub endpoint: String,
    /// What every call carries: names in lower case, and values.
    pub headers: Vec<(String, Secret)>,
    /// What is said of this server, `service.name` included and `service.instance.id` not.
    pub resource: Vec<(String, String)>,
    /// Whether traces are pushed, beside metrics.
    pub tracing: bool,
}

impl OtlpConfig {
    /// A collector that nothing but the address is known of.
    pub fn new(endpoint: String) -> Self {
        let resource = vec![("service.name".to_owned(), SERVICE_NAME.to_owned())];
        Self { endpoint, headers: Vec::new(), resource, tracing: false }
    }

    /// What this server is called.
    pub fn service_name(&self) -> &str {
        let named = self.resource.iter().find(|(name, _)| name == "service.name");
        named.map_or(SERVICE_NAME, |(_, value)| value)
    }
}

/// `http://HOST:PORT` of an address. As in LMCache, `http://` may be missing, and a path means nothing.
///
/// # Errors
/// What is wrong with it, for people, in the words that follow the flag and the value.
pub fn parse_endpoint(text: &str) -> Result<String, &'static str> {
    const SHAPE: &str = "must be http://HOST:PORT, where a collector takes OTLP over gRPC";
    let address = match text.split_once("://") {
        None => text,
        Some(("http", rest)) => rest,
        Some(("https", _)) => return Err("must begin with http://; TLS is left to a collector on this node"),
        Some(_) => return Err(SHAPE),
    };
    let uri: Uri = format!("http://{address}").parse().map_err(|_| SHAPE)?;
    let authority = uri.authority().ok_or(SHAPE)?;
    if authority.as_str().contains('@') {
        return Err("must not hold a password; OTEL_EXPORTER_OTLP_HEADERS may");
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
    fn addresses_are_taken_as_lmcache_takes_them() {
        for (text, meant) in [
            ("http://localhost:4317", "http://localhost:4317"),
            ("collector:5000", "http://collector:5000"),
            ("http://collector", "http://collector:4317"),
            ("http://10.0.0.1:4317/", "http://10.0.0.1:4317"),
            ("http://[::1]:4317/v1/metrics", "http://[::1]:4317"),
        ] {
            assert_eq!(parse_endpoint(text).as_deref(), Ok(meant), "{text}");
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
