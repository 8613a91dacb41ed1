//! How a call ends, and the HTTP headers that say so.

use std::fmt::{Display, Write};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

const CONTENT: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// Characters of a message, at most.
const MESSAGE_CHARS_MAX: usize = 512;

/// The kind of a failed call, by its number in gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub(super) struct Status {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Status {
    pub(super) fn new(code: Code, message: impl Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// The headers of an answer that is nothing but this.
    pub(super) fn response(&self) -> Response<()> {
        let mut response = head();
        let code = HeaderValue::from(self.code as u16);
        response.headers_mut().insert(STATUS, code);
        if let Ok(message) = HeaderValue::from_str(&percent_encoded(&self.message)) {
            response.headers_mut().insert(MESSAGE, message);
        }
        response
    }

    /// The end of an answer that has begun.
    pub(super) fn trailers(&self) -> HeaderMap {
        std::mem::take(self.response().headers_mut())
    }
}

/// The headers before a message.
pub(super) fn head() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, CONTENT);
    response
}

/// The headers after the last message.
pub(super) fn success() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    trailers
}

/// The answer to something that is not gRPC.
pub(super) fn not_grpc() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// As gRPC writes messages in headers.
fn percent_encoded(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for character in message.chars().take(MESSAGE_CHARS_MAX) {
        let mut bytes = [0; 4];
        for &byte in character.encode_utf8(&mut bytes).as_bytes() {
            match byte {
                b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
                _ => {
                    // Writing to a string does not fail.
                    let _ = write!(out, "%{byte:02X}");
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_encoded_for_a_header() {
        let status = Status::new(Code::InvalidArgument, "100 % of \"ü\"\n");
        let response = status.response();
        assert_eq!(response.headers()[STATUS], "3");
        assert_eq!(response.headers()[MESSAGE], "100 %25 of \"%C3%BC\"%0A");
        assert_eq!(Status::new(Code::Unimplemented, "").response().headers()[STATUS], "12");
    }
}
