//! A ROUTER that sends every message back.
//!
//! `echo [ENDPOINT]...` binds the endpoints (by default `tcp://127.0.0.1:0`), prints each with its real
//! port, and serves until it is interrupted.

use std::io::Write;
use std::sync::Arc;

use larder_zmtp::{Endpoint, Limits, Message, Peer, PeerId, Router, Service};

struct Echo;

impl Service for Echo {
    fn message(&self, peer: &Peer, parts: Message) {
        // A peer that does not read its echoes loses them.
        let _ = peer.send(parts);
    }

    fn gone(&self, _peer: PeerId) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for argument in std::env::args().skip(1) {
        endpoints.push(argument.parse()?);
    }
    if endpoints.is_empty() {
        endpoints.push("tcp://127.0.0.1:0".parse()?);
    }
    let router = Router::bind(&endpoints, Limits::default()).await?;
    for endpoint in router.local_endpoints() {
        writeln!(std::io::stdout(), "{endpoint}")?;
    }
    let shutdown = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    router.serve(Arc::new(Echo), shutdown).await;
    Ok(())
}
