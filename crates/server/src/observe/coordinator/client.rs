//! The calls to a coordinator, over plain HTTP. They block, each for no longer than [`PATIENCE`].

use std::net::{ToSocketAddrs, UdpSocket};
use std::time::Duration;

use serde_json::json;
use ureq::http::{Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body};

/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most that is read of an answer, for the log.
const ANSWER_BYTES_MAX: u64 = 4096;

/// How this server registers.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) instance_id: String,
    /// Address for the coordinator; `None`: the local address of connections to it.
    pub(super) advertise_ip: Option<String>,
    pub(super) http_port: u16,
}

/// A coordinator.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    /// Without a slash at its end.
    url: String,
    name: String,
    identity: Identity,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No answer in time, or not HTTP.
    #[error("{0}")]
    NoAnswer(String),
    /// The coordinator cannot do it now.
    #[error("answered {status}")]
    Unavailable { status: StatusCode },
    /// The coordinator refuses the call.
    #[error("refused with {status}: {reason}")]
    Refused { status: StatusCode, reason: String },
    /// The coordinator does not know this server.
    #[error("not registered")]
    Unknown,
}

impl Client {
    pub(super) fn new(url: &str, identity: Identity) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            // Calls are seconds apart: the coordinator may close idle connections meanwhile.
            .max_idle_connections(0)
            .timeout_global(Some(PATIENCE));
        let parsed: Option<Uri> = url.parse().ok();
        // Without what might be a password.
        let host = parsed.as_ref().and_then(Uri::host).unwrap_or("?");
        let port = parsed.as_ref().and_then(Uri::port_u16).unwrap_or(80);
        Self {
            agent: config.build().into(),
            url: url.trim_end_matches('/').to_owned(),
            name: format!("{host}:{port}"),
            identity,
        }
    }

    /// Host and port of the coordinator, for the log.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Registers this server.
    pub(super) fn register(&self) -> Result<(), Failure> {
        let ip = match &self.identity.advertise_ip {
            Some(ip) => ip.clone(),
            None => self.outbound_address()?,
        };
        let body = json!({
            "instance_id": self.identity.instance_id, "ip": ip, "http_port": self.identity.http_port,
            "metadata": {}, "p2p_advertised_url": "", "mq_port": 0,
        });
        self.call(Method::POST, "/instances", body.to_string().as_bytes())
    }

    /// Sends a heartbeat.
    pub(super) fn heartbeat(&self) -> Result<(), Failure> {
        let answer = self.call(Method::PUT, &format!("{}/heartbeat", self.own_path()), &[]);
        answer.map_err(|failure| match failure {
            Failure::Refused { status: StatusCode::NOT_FOUND, .. } => Failure::Unknown,
            other => other,
        })
    }

    /// Deregisters this server.
    pub(super) fn deregister(&self) -> Result<(), Failure> {
        self.call(Method::DELETE, &self.own_path(), &[])
    }

    /// Sends a body of [`Reports`](super::Reports).
    pub(super) fn report(&self, body: &[u8]) -> Result<(), Failure> {
        self.call(Method::POST, "/events", body)
    }

    fn own_path(&self) -> String {
        format!("/instances/{}", path_segment(&self.identity.instance_id))
    }

    fn call(&self, method: Method, path: &str, body: &[u8]) -> Result<(), Failure> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        let answer = match body {
            [] => request.body(()).map(|request| self.agent.run(request)),
            body => request
                .header("Content-Type", "application/json")
                .body(body)
                .map(|request| self.agent.run(request)),
        };
        let mut answer = answer
            .map_err(|error| Failure::NoAnswer(error.to_string()))?
            .map_err(|error| Failure::NoAnswer(error.to_string()))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status if status.is_server_error() => Err(Failure::Unavailable { status }),
            status => Err(Failure::Refused { status, reason: reason(&mut answer) }),
        }
    }

    /// The address that this machine has towards the coordinator. Nothing is sent.
    fn outbound_address(&self) -> Result<String, Failure> {
        let find = || {
            let target = self.name.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
            let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(target)?;
            socket.local_addr()
        };
        let found =
            find().map_err(|error: std::io::Error| Failure::NoAnswer(format!("{}: {error}", self.name)))?;
        Ok(found.ip().to_string())
    }
}

/// The first words of a refusal.
fn reason(answer: &mut Response<Body>) -> String {
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// A text as one segment of a path.
fn path_segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Client {
        let identity = Identity { instance_id: "node a/b".to_owned(), advertise_ip: None, http_port: 8080 };
        Client::new(url, identity)
    }

    #[test]
    fn name_has_no_password() {
        assert_eq!(client("http://me:hunter2@c:9300/").name(), "c:9300");
        assert_eq!(client("http://c").name(), "c:80");
    }

    #[test]
    fn escapes_the_instance_id_in_paths() {
        assert_eq!(client("http://c/").own_path(), "/instances/node%20a%2Fb");
    }

    #[test]
    fn registers_the_address_towards_the_coordinator() {
        assert_eq!(client("http://127.0.0.1:9").outbound_address().expect("loopback"), "127.0.0.1");
    }
}
