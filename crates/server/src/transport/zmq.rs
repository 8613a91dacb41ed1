//! Requests over ZMTP: the multipart messages of stock clients' DEALER sockets.

use std::any::Any;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use larder_types::ConnectionId;
use larder_wire::dialect::Recognition;
use larder_wire::message::{Envelope, Incoming};
use larder_wire::request::Request;
use larder_wire::response::{Response, ResultFrame};
use larder_zmtp::{Message, Peer, Service};

use crate::ops::{Caller, Operations};
use crate::responder::{Encoded, NoValue, Responder};
use crate::transport::uses_cache;

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

/// What is known of the client at the other end of a connection.
#[derive(Debug)]
struct Client {
    connection: ConnectionId,
    /// Messages of a client come one after the other, so nothing waits for this.
    recognition: Mutex<Recognition>,
}

impl Client {
    /// The client, as what asks for this.
    fn caller(&self, envelope: &Envelope, payloads: &[Bytes]) -> Caller {
        let mut recognition = self.recognition.lock().unwrap_or_else(PoisonError::into_inner);
        let dialect = recognition.observe(&envelope.uid, &envelope.operation, payloads);
        Caller { connection: self.connection, dialect, is_resumed: recognition.is_resumed() }
    }
}

impl Service for ZmqService {
    fn connected(&self, peer: &Peer) {
        let connection = self.operations.connected(peer.remote());
        peer.set_state(Client { connection, recognition: Mutex::default() });
        tracing::debug!(connection = connection.0, remote = peer.remote(), "client connected");
    }

    fn message(&self, peer: &Peer, parts: Message) {
        let client = client(peer);
        match Incoming::from_frames(parts) {
            Ok(Incoming::Request { envelope, payloads }) => {
                let caller = client.caller(&envelope, &payloads);
                match caller.dialect.decode(&envelope.operation) {
                    Ok(operation) => {
                        if uses_cache(operation) {
                            peer.keep();
                        }
                        let responder = ZmqResponder { peer, envelope: &envelope };
                        let bytes = payloads.iter().map(Bytes::len).sum();
                        let decode = move || Request::decode(operation, &payloads);
                        self.operations.serve(&caller, operation, bytes, decode, &responder);
                    }
                    Err(error) => self.operations.message_dropped(&caller, &error),
                }
            }
            Ok(Incoming::Stream { uid, control }) => {
                self.operations.control_stream(client.connection, &uid, control);
            }
            Err(error) => self.operations.message_dropped(&Caller::new(client.connection), &error),
        }
    }

    fn gone(&self, peer: &Peer) {
        let connection = client(peer).connection;
        tracing::debug!(connection = connection.0, remote = peer.remote(), "client disconnected");
        self.operations.connection_lost(connection);
    }
}

fn client(peer: &Peer) -> &Client {
    peer.state().expect("each connection has got one at its start")
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
    fn encode(&self, response: &Response) -> Encoded {
        Encoded(response.frame().0)
    }

    fn send(&self, answer: Encoded) -> bool {
        let sent = self.peer.send(self.envelope.response(ResultFrame(answer.0)));
        if let Err(error) = &sent {
            tracing::debug!(connection = client(self.peer).connection.0, %error, "answer not sent");
        }
        sent.is_ok()
    }

    /// The protocol has no errors: such a request is not answered.
    fn refuse(&self, _: NoValue, _: &dyn Display) -> bool {
        false
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
    fn encode(&self, response: &Response) -> Encoded {
        self.borrow().encode(response)
    }

    fn send(&self, answer: Encoded) -> bool {
        self.borrow().send(answer)
    }

    fn refuse(&self, why: NoValue, reason: &dyn Display) -> bool {
        self.borrow().refuse(why, reason)
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
