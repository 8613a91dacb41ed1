//! A ROUTER that sends every message back.
//!
//! `echo [ENDPOINT]...` binds the endpoints (by default `tcp://127.0.0.1:0`), prints each with its real
//! port, and serves until it is interrupted. A message `burst`, COUNT, BYTES is answered by COUNT messages
//! of BYTES bytes, as far as the queue takes them (`bench/measure.py` uses that to stall a reader).

use std::io::Write;
use std::sync::Arc;

use larder_zmtp::{Endpoint, Limits, Message, Peer, Router, Service};

struct Echo;

impl Service for Echo {
    fn message(&self, peer: &Peer, parts: Message) {
        match burst(&parts) {
            // A peer that does not read its answers loses some.
            Some((count, bytes)) => {
                for _ in 0..count {
                    let _ = peer.send([vec![b'x'; bytes].into()]);
                }
            }
            None => {
                let _ = peer.send(parts);
            }
        }
    }

    fn gone(&self, _peer: &Peer) {}
}

fn burst(parts: &Message) -> Option<(usize, usize)> {
    let [name, count, bytes] = parts.as_slice() else { return None };
    if name != "burst" {
        return None;
    }
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
    Some((number(count)?, number(bytes)?))
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
