//! Requests over ZMTP: the multipart messages of stock clients' DEALER sockets.

use std::any::Any;
use std::sync::Arc;

use larder_types::ConnectionId;
use larder_wire::message::{Envelope, Incoming};
use larder_wire::operation::Operation;
use larder_wire::response::ResultFrame;
use larder_zmtp::{Message, Peer, Service};

use crate::ops::Operations;
use crate::responder::Responder;

/// Serves the requests of all ZMTP peers.
#[derive(Debug)]
pub struct ZmqService {
    operations: Arc<Operations>,
}

impl ZmqService {
    /// A service of these operations.
    pub fn new(operations: Arc<Operations>) -> Self {
        Self { operations }
    }
}

impl Service for ZmqService {
    fn connected(&self, peer: &Peer) {
        let connection = self.operations.connected(peer.remote());
        peer.set_tag(connection.0);
        tracing::debug!(connection = connection.0, remote = peer.remote(), "client connected");
    }

    fn message(&self, peer: &Peer, parts: Message) {
        let connection = connection(peer);
        match Incoming::from_frames(parts) {
            Ok(Incoming::Request { envelope, payloads }) => match envelope.operation() {
                Ok(operation) => {
                    if uses_cache(operation) {
                        peer.keep();
                    }
                    let responder = ZmqResponder { peer, envelope: &envelope };
                    self.operations.serve(connection, operation, &payloads, &responder);
                }
                Err(error) => self.operations.message_dropped(connection, &error),
            },
            Ok(Incoming::Stream { uid, control }) => {
                self.operations.control_stream(connection, &uid, control);
            }
            Err(error) => self.operations.message_dropped(connection, &error),
        }
    }

    fn gone(&self, peer: &Peer) {
        let connection = connection(peer);
        tracing::debug!(connection = connection.0, remote = peer.remote(), "client disconnected");
        self.operations.connection_lost(connection);
    }
}

/// Whether only an engine or another server asks for this. Such a peer does not give way to others.
fn uses_cache(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::RegisterEngineDriven
            | Operation::Lookup
            | Operation::PrepareStore
            | Operation::P2pLookupAndLock
    )
}

/// The id that the connection has got at its start.
fn connection(peer: &Peer) -> ConnectionId {
    ConnectionId(peer.tag())
}

/// Answers while the request's message is being served.
#[derive(Debug)]
struct ZmqResponder<'a> {
    peer: &'a Peer,
    envelope: &'a Envelope,
}

/// Answers later.
#[derive(Debug)]
struct DetachedResponder {
    peer: Peer,
    envelope: Envelope,
}

impl DetachedResponder {
    fn borrow(&self) -> ZmqResponder<'_> {
        ZmqResponder { peer: &self.peer, envelope: &self.envelope }
    }
}

impl Responder for ZmqResponder<'_> {
    fn send(&self, result: ResultFrame) -> bool {
        let sent = self.peer.send(self.envelope.response(result));
        if let Err(error) = &sent {
            tracing::debug!(connection = self.peer.tag(), %error, "answer not sent");
        }
        sent.is_ok()
    }

    fn end_stream(&self) {
        // A client that is gone or does not read needs no end.
        let _ = self.peer.send(self.envelope.response(ResultFrame(None)));
    }

    fn request_id(&self) -> &[u8] {
        &self.envelope.uid
    }

    fn detach(&self) -> Arc<dyn Responder> {
        Arc::new(DetachedResponder { peer: self.peer.clone(), envelope: self.envelope.clone() })
    }

    fn pause(&self) -> Box<dyn Any + Send> {
        Box::new(self.peer.pause())
    }
}

impl Responder for DetachedResponder {
    fn send(&self, result: ResultFrame) -> bool {
        self.borrow().send(result)
    }

    fn end_stream(&self) {
        self.borrow().end_stream();
    }

    fn request_id(&self) -> &[u8] {
        &self.envelope.uid
    }

    fn detach(&self) -> Arc<dyn Responder> {
        self.borrow().detach()
    }

    fn pause(&self) -> Box<dyn Any + Send> {
        self.borrow().pause()
    }
}
