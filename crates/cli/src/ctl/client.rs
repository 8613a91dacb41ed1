//! An HTTP/1.1 client for one server.

use std::io;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Method, Request, StatusCode};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, Error};

use super::args::{ServerArgs, UNIX};
use super::unix::UnixConnector;

/// The longest response that is read: a page of 5,000 objects has about 2 MB.
const RESPONSE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    pub(super) url: String,
    /// The beginning of requests' addresses.
    base: String,
    authorization: Option<String>,
    pub(super) timeout: Duration,
}

/// A successful response.
#[derive(Debug)]
pub(crate) struct Response {
    /// The body as it came.
    pub(crate) body: String,
    /// The body as JSON.
    pub(crate) value: Value,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// There is no response, or it is not what a server of ours sends.
    #[error("{url}: {reason}")]
    NoResponse { url: String, reason: String },
    /// The status is not a success.
    #[error("the server refused ({status}): {reason}")]
    Refused { status: u16, reason: String, body: String },
}

impl Client {
    pub(crate) fn new(server: &ServerArgs, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // The server is on this node or near it: never use the proxy of the environment.
            .proxy(None)
            .timeout_global(Some(server.timeout));
        let socket = server.url.strip_prefix(UNIX);
        let agent = match socket {
            Some(path) => Agent::with_parts(
                config.build(),
                UnixConnector { path: path.into() },
                DefaultResolver::default(),
            ),
            None => config.build().into(),
        };
        Self {
            agent,
            url: server.url.clone(),
            base: socket.map_or(&*server.url, |_| "http://127.0.0.1").to_owned(),
            authorization: token.map(|token| format!("Bearer {token}")),
            timeout: server.timeout,
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Response, RequestError> {
        self.call(Method::GET, path, None)
    }

    pub(super) fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response, RequestError> {
        let (status, body) =
            self.exchange(method, path, body).map_err(|error| self.no_response(self.explain(&error)))?;
        let value = serde_json::from_str(&body);
        if !status.is_success() {
            let reason = reason(value.as_ref().unwrap_or(&Value::Null)).unwrap_or_else(|| {
                let first = body.lines().next().unwrap_or_default();
                first.chars().take(200).collect()
            });
            return Err(RequestError::Refused { status: status.as_u16(), reason, body });
        }
        match value {
            Ok(value) => Ok(Response { body, value }),
            Err(_) => {
                let reason =
                    format!("the response of {path} is not JSON; is this the HTTP port of a Larder server?");
                Err(self.no_response(reason))
            }
        }
    }

    fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, String), Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
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
        let body = response.body_mut().with_config().limit(RESPONSE_BYTES_MAX).read_to_string()?;
        Ok((response.status(), body))
    }

    fn no_response(&self, reason: String) -> RequestError {
        RequestError::NoResponse { url: self.url.clone(), reason }
    }

    fn explain(&self, error: &Error) -> String {
        match error {
            Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "connection refused: no server at this address (set --url)".to_owned()
            }
            Error::Io(error) if error.kind() == io::ErrorKind::NotFound && self.url.starts_with(UNIX) => {
                "no such socket: the server has it from --http-uds".to_owned()
            }
            Error::Timeout(_) => format!("no response within {} s (--timeout)", self.timeout.as_secs_f64()),
            Error::HostNotFound => "no such host".to_owned(),
            Error::BodyExceedsLimit(limit) => format!("the response is longer than {limit} bytes"),
            other => other.to_string(),
        }
    }
}

/// The reason in the body of a refusal: a text or a list of errors, under one of several names.
fn reason(body: &Value) -> Option<String> {
    ["error", "detail", "reason", "message", "reasons"].iter().find_map(|name| match body.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Array(errors) => Some(errors.iter().map(error_text).collect::<Vec<_>>().join("; ")),
        _ => None,
    })
}

/// One of several errors: a text, or a location and a message.
fn error_text(error: &Value) -> String {
    let message = error.as_str().or_else(|| error["msg"].as_str());
    let Some(message) = message else { return error.to_string() };
    let location = error["loc"].as_array().map_or(&[][..], Vec::as_slice);
    let location: Vec<String> =
        location.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned)).collect();
    if location.is_empty() { message.to_owned() } else { format!("{}: {message}", location.join(".")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_the_reason_in_every_form_of_refusal() {
        for (body, expected) in [
            (json!({"detail": "d", "error": "e"}), "e"),
            (json!({"detail": "Not Found"}), "Not Found"),
            (json!({"status": "unhealthy", "reason": "core"}), "core"),
            (json!({"status": "not ready", "reasons": ["a", "b"]}), "a; b"),
            (
                json!({"detail": [{"msg": "Field required", "loc": ["body", "keys", 0]}]}),
                "body.keys.0: Field required",
            ),
        ] {
            assert_eq!(reason(&body).as_deref(), Some(expected));
        }
        assert_eq!(reason(&json!([1])), None);
    }
}
