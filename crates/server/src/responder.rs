//! The way back to the client of a request.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use larder_wire::response::ResultFrame;

/// Sends the answers of one request. Each transport implements it.
///
/// Most requests have one answer, given before or after the handler returns. A stream has many, and an end.
pub trait Responder: fmt::Debug + Send + Sync {
    /// Queues one answer. False if the client is gone or does not read.
    fn send(&self, result: ResultFrame) -> bool;

    /// Ends a stream.
    fn end_stream(&self);

    /// The client's name for the request, unique on its connection. Later messages name a stream by it.
    fn request_id(&self) -> &[u8];

    /// A responder for the same request that can be kept.
    fn detach(&self) -> Arc<dyn Responder>;

    /// Takes no further request of this client until the result is dropped.
    fn pause(&self) -> Box<dyn Any + Send>;
}
