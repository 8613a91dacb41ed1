//! One server, spoken to over HTTP/1.1.

use std::io;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Method, Request, StatusCode};
use ureq::{Agent, Error};

use super::words::ServerArgs;

/// The longest answer that is read: a page of 5,000 objects has about 2 MB.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A server, and how to ask it.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    pub(super) url: String,
    authorization: Option<String>,
    pub(super) timeout: Duration,
}

/// What a server said.
#[derive(Debug)]
pub(crate) struct Answer {
    /// As it came.
    pub(crate) raw: String,
    /// The same, understood.
    pub(crate) value: Value,
}

/// Why there is no answer to go on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody answered, or not in time, or not in HTTP.
    #[error("{url}: {why}")]
    NoAnswer { url: String, why: String },
    /// The server said no.
    #[error("the server refused ({status}): {reason}")]
    Refused { status: u16, reason: String, raw: String },
}

impl Client {
    pub(crate) fn new(server: &ServerArgs, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // The server is on this node or near it: a proxy to the outside is only in the way.
            .proxy(None)
            .timeout_global(Some(server.timeout));
        Self {
            agent: config.build().into(),
            url: server.url.clone(),
            authorization: token.map(|token| format!("Bearer {token}")),
            timeout: server.timeout,
        }
    }

    /// Asks for something.
    pub(crate) fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.call(Method::GET, path, None)
    }

    /// One call. A status that is not a success is a refusal.
    pub(super) fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        let (status, raw) = self.exchange(method, path, body).map_err(|error| self.no_answer(&error))?;
        let value = serde_json::from_str(&raw);
        if !status.is_success() {
            let reason = reason(value.as_ref().unwrap_or(&Value::Null)).unwrap_or_else(|| {
                let first = raw.lines().next().unwrap_or_default();
                first.chars().take(200).collect()
            });
            return Err(Failure::Refused { status: status.as_u16(), reason, raw });
        }
        match value {
            Ok(value) => Ok(Answer { raw, value }),
            Err(_) => {
                let why =
                    format!("{path} is not answered in JSON; is this the HTTP port of a Larder server?");
                Err(Failure::NoAnswer { url: self.url.clone(), why })
            }
        }
    }

    fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, String), Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut response = match body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json");
                self.agent.run(request.body(body.to_string())?)?
            }
            None => self.agent.run(request.body(())?)?,
        };
        let raw = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string()?;
        Ok((response.status(), raw))
    }

    fn no_answer(&self, error: &Error) -> Failure {
        let why = match error {
            Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "connection refused: no server there (--url says where it is)".to_owned()
            }
            Error::Timeout(_) => format!("no answer within {} s (--timeout)", self.timeout.as_secs_f64()),
            Error::HostNotFound => "no such host".to_owned(),
            Error::BodyExceedsLimit(limit) => format!("the answer is longer than {limit} bytes"),
            other => other.to_string(),
        };
        Failure::NoAnswer { url: self.url.clone(), why }
    }
}

/// The reason in a refusal: a text under one of the usual names, or a list of what is wrong.
fn reason(body: &Value) -> Option<String> {
    ["error", "detail", "reason", "message", "reasons"].iter().find_map(|name| match body.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Array(faults) => Some(faults.iter().map(fault).collect::<Vec<_>>().join("; ")),
        _ => None,
    })
}

/// One of several faults: a text, or a place and a message.
fn fault(fault: &Value) -> String {
    let message = fault.as_str().or_else(|| fault["msg"].as_str());
    let Some(message) = message else { return fault.to_string() };
    let place = fault["loc"].as_array().map_or(&[][..], Vec::as_slice);
    let place: Vec<String> =
        place.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned)).collect();
    if place.is_empty() { message.to_owned() } else { format!("{}: {message}", place.join(".")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reason_is_found_in_every_shape_of_refusal() {
        for (body, said) in [
            (json!({"detail": "d", "error": "e"}), "e"),
            (json!({"detail": "Not Found"}), "Not Found"),
            (json!({"status": "unhealthy", "reason": "core"}), "core"),
            (json!({"status": "not ready", "reasons": ["a", "b"]}), "a; b"),
            (
                json!({"detail": [{"msg": "Field required", "loc": ["body", "keys", 0]}]}),
                "body.keys.0: Field required",
            ),
        ] {
            assert_eq!(reason(&body).as_deref(), Some(said));
        }
        assert_eq!(reason(&json!([1])), None);
    }
}
