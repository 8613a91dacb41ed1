//! Requests over gRPC: unary calls and one server stream of stock clients, on the same port as ZMTP
//! (`docs/grpc.md`).
//!
//! HTTP/2 is the crate `h2`, which gives streams in the order in which they were opened. One task owns a connection: it
//! receives messages, serves them, and writes answers, as that of a ZMTP connection does.

mod authority;
mod clients;
mod connection;
mod message;
mod responder;
mod socket;
mod status;
mod waker;

use std::pin::Pin;
use std::sync::Arc;

use larder_zmtp::{Handover, OtherProtocol};

use crate::app::refusals::Refusals;
use crate::ops::Operations;

/// Serves the calls of all connections.
#[derive(Debug)]
pub struct GrpcService {
    operations: Arc<Operations>,
    refusals: Arc<Refusals>,
    message_bytes_max: usize,
}

impl GrpcService {
    /// A service of these operations, for messages of so many bytes at most.
    pub fn new(operations: Arc<Operations>, refusals: Arc<Refusals>, message_bytes_max: usize) -> Self {
        Self { operations, refusals, message_bytes_max }
    }
}

impl OtherProtocol for GrpcService {
    fn serve(self: Arc<Self>, connection: Handover) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(connection::serve(self, connection))
    }
}
