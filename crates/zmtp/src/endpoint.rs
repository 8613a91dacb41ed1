//! Addresses of sockets: `tcp://host:port` and `ipc:///path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// An address of a socket, in the notation of ZMQ.
///
/// `tcp://HOST:PORT`, where HOST is a name (bound at each of its addresses), an IPv4 address, an IPv6 address in
/// brackets, or `*` for every IPv4 interface; PORT may be `0` or `*` for one that the system chooses. `ipc://PATH` is a Unix
/// socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// TCP.
    Tcp {
        /// Name or address, an IPv6 address without its brackets; `*` (bind only) for 0.0.0.0.
        host: String,
        /// Port; 0 (bind only) for one that the system chooses.
        port: u16,
    },
    /// A Unix stream socket at this path.
    Ipc(PathBuf),
}

/// A text that is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not an endpoint: {reason}")]
pub struct ParseEndpointError {
    text: String,
    reason: &'static str,
}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| ParseEndpointError { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Endpoint, &'static str> {
    if let Some(path) = text.strip_prefix("ipc://") {
        return match path.as_bytes() {
            [] => Err("the path is missing"),
            [b'@', ..] => Err("abstract sockets are not supported, name a path"),
            [b'*'] => Err("wildcard paths are not supported, name a path"),
            bytes if bytes.contains(&0) => Err("the path contains a zero byte"),
            _ => Ok(Endpoint::Ipc(PathBuf::from(path))),
        };
    }
    let Some(address) = text.strip_prefix("tcp://") else {
        return Err("it must start with tcp:// or ipc://");
    };
    let (host, port) = address.rsplit_once(':').ok_or("the port is missing")?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').ok_or("the closing bracket is missing")?,
        None if host.contains(':') => return Err("an IPv6 address must be in brackets"),
        None => host,
    };
    if host.is_empty() {
        return Err("the host is missing (* for every interface)");
    }
    if host.contains(['/', ';', ' ', '[', ']']) {
        return Err("the host contains a character that no host has");
    }
    let port = match port {
        "*" => 0,
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().map_err(|_| "the port must be a number up to 65535")?
        }
        _ => return Err("the port must be a number up to 65535"),
    };
    Ok(Endpoint::Tcp { host: host.to_owned(), port })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Endpoint::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port }
    }

    #[test]
    fn endpoints_round_trip() {
        for (text, endpoint) in [
            ("tcp://localhost:5555", tcp("localhost", 5555)),
            ("tcp://*:5555", tcp("*", 5555)),
            ("tcp://127.0.0.1:0", tcp("127.0.0.1", 0)),
            ("tcp://[::1]:80", tcp("::1", 80)),
            ("ipc:///run/larder.sock", Endpoint::Ipc("/run/larder.sock".into())),
            ("ipc://relative", Endpoint::Ipc("relative".into())),
        ] {
            assert_eq!(text.parse(), Ok(endpoint.clone()));
            assert_eq!(endpoint.to_string(), text);
        }
        assert_eq!("tcp://127.0.0.1:*".parse(), Ok(tcp("127.0.0.1", 0)));
    }

    #[test]
    fn refuses_malformed_endpoints_with_a_reason() {
        for (text, reason) in [
            ("localhost:5555", "start with"),
            ("udp://localhost:5555", "start with"),
            ("tcp://localhost", "port is missing"),
            ("tcp://localhost:", "number"),
            ("tcp://localhost:65536", "65535"),
            ("tcp://localhost:+80", "number"),
            ("tcp://:5555", "host is missing"),
            ("tcp://::1:5555", "brackets"),
            ("tcp://[::1:5555", "bracket"),
            ("tcp://eth0;host:5555", "character"),
            ("ipc://", "path is missing"),
            ("ipc://@name", "abstract"),
            ("ipc://*", "wildcard"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(text), "{error}");
        }
    }
}
