//! A router in the background that echoes and reports the calls of its service.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_zmtp::{Endpoint, Limits, Message, Peer, PeerId, Router, SendError, Service};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Longer than anything should take; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(crate) enum Reported {
    Connected(Peer),
    Message(PeerId),
    Gone(PeerId),
    /// How many messages of a flood were taken before the queue was full.
    Flooded(usize),
}

struct Recorder(mpsc::UnboundedSender<Reported>);

impl Service for Recorder {
    fn connected(&self, peer: &Peer) {
        let _ = self.0.send(Reported::Connected(peer.clone()));
    }

    /// Echoes, but for messages that start with a word of command.
    fn message(&self, peer: &Peer, parts: Message) {
        let _ = self.0.send(Reported::Message(peer.id()));
        match &parts[0][..] {
            b"panic" => panic!("asked to"),
            b"silent" => {}
            b"slow" => {
                let (peer, pause) = (peer.clone(), peer.pause());
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(50));
                    peer.send(parts).unwrap();
                    drop(pause);
                });
            }
            b"flood" => {
                let part = Bytes::from(vec![0; 1000]);
                let mut taken = 0;
                while peer.send([part.clone()]) != Err(SendError::Full) {
                    taken += 1;
                }
                let _ = self.0.send(Reported::Flooded(taken));
            }
            _ => peer.send(parts).unwrap(),
        }
    }

    fn gone(&self, peer: &Peer) {
        let peer = peer.id();
        let _ = self.0.send(Reported::Gone(peer));
    }
}

pub(crate) struct Server {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) reports: mpsc::UnboundedReceiver<Reported>,
    shutdown: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(endpoints: &[Endpoint], limits: Limits) -> Server {
        let router = Router::bind(endpoints, limits).await.unwrap();
        let endpoints = router.local_endpoints().to_vec();
        let (sender, reports) = mpsc::unbounded_channel();
        let (shutdown, is_shutdown) = oneshot::channel::<()>();
        let serving = tokio::spawn(router.serve(Arc::new(Recorder(sender)), async {
            let _ = is_shutdown.await;
        }));
        Server { endpoints, reports, shutdown, serving }
    }

    pub(crate) async fn tcp(limits: Limits) -> Server {
        Server::start(&["tcp://127.0.0.1:0".parse().unwrap()], limits).await
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoints[0]
    }

    pub(crate) fn port(&self) -> u16 {
        match self.endpoint() {
            Endpoint::Tcp { port, .. } => *port,
            Endpoint::Ipc(_) => panic!("not TCP"),
        }
    }

    pub(crate) async fn next_report(&mut self) -> Reported {
        tokio::time::timeout(PATIENCE, self.reports.recv()).await.expect("in time").expect("while serving")
    }

    pub(crate) async fn connected(&mut self) -> Peer {
        match self.next_report().await {
            Reported::Connected(peer) => peer,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn gone(&mut self) -> PeerId {
        loop {
            if let Reported::Gone(peer) = self.next_report().await {
                return peer;
            }
        }
    }

    /// Shuts down, waits for the end, and returns what had not been asked for.
    pub(crate) async fn stop(mut self) -> Vec<Reported> {
        let _ = self.shutdown.send(());
        tokio::time::timeout(PATIENCE, self.serving).await.expect("in time").unwrap();
        let mut rest = Vec::new();
        while let Some(report) = self.reports.recv().await {
            rest.push(report);
        }
        rest
    }
}
