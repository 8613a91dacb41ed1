//! The way back to the client of a request.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use larder_wire::response::Response;

/// An answer in the form of the transport that encoded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded(pub Option<Bytes>);

/// Why a request gets no value for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoValue {
    /// Its payloads cannot be decoded.
    Undecodable,
    /// It failed, and the only value that its operation has would mean success.
    Failed,
}

/// Sends the answers of one request. Each transport implements it.
///
/// Most requests have one answer, given before or after the handler returns. A stream has many, and an end.
pub trait Responder: fmt::Debug + Send + Sync {
    /// Encodes an answer, which takes time in proportion to its length.
    fn encode(&self, response: &Response) -> Encoded;

    /// Queues one answer. False if the client is gone or does not read.
    fn send(&self, answer: Encoded) -> bool;

    /// Encodes and queues one answer.
    fn answer(&self, response: &Response) -> bool {
        self.send(self.encode(response))
    }

    /// Ends a request without a value, with an error if the transport has errors. Returns whether it has.
    fn refuse(&self, why: NoValue, reason: &dyn fmt::Display) -> bool;

    /// Ends a stream.
    fn end_stream(&self);

    /// The client's name for the request, unique on its connection. Later messages name a stream by it.
    fn request_id(&self) -> &[u8];

    /// A responder for the same request that can be kept.
    fn detach(&self) -> Arc<dyn Responder>;

    /// Takes no further request of this client until the result is dropped.
    fn pause(&self) -> Box<dyn Any + Send>;
}
