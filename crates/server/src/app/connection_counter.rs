//! Counts connections, so that a server that an engine started for itself can end after it.

use std::time::Duration;

use tokio::sync::watch;

use crate::observe::bus::Subscriber;
use crate::observe::event::RequestEvent;

/// How many clients are connected.
#[derive(Debug, Default)]
pub struct ConnectionCounter {
    connections: watch::Sender<usize>,
}

impl ConnectionCounter {
    /// Completes once there has been no connection for `timeout` without a break.
    pub async fn idle_for(&self, timeout: Duration) {
        // Waiting fails only without a sender, and that is `self`.
        let mut connections = self.connections.subscribe();
        loop {
            let _ = connections.wait_for(|&count| count == 0).await;
            let connected = connections.wait_for(|&count| count > 0);
            if tokio::time::timeout(timeout, connected).await.is_err() {
                return;
            }
        }
    }
}

impl Subscriber for ConnectionCounter {
    fn on_event(&self, event: &RequestEvent<'_>) {
        match event {
            RequestEvent::Connected => self.connections.send_modify(|count| *count += 1),
            RequestEvent::ConnectionLost { .. } => self.connections.send_modify(|count| *count -= 1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use larder_types::ConnectionId;

    use super::*;

    const LOST: RequestEvent<'_> = RequestEvent::ConnectionLost { connection: ConnectionId(1) };

    #[tokio::test]
    async fn is_idle_once_the_last_connection_is_lost() {
        let counter = ConnectionCounter::default();
        counter.on_event(&RequestEvent::Connected);
        counter.on_event(&RequestEvent::Connected);
        let mut idle = pin!(counter.idle_for(Duration::ZERO));
        for _ in 0..2 {
            tokio::select! {
                biased;
                () = &mut idle => panic!("a client is connected"),
                () = tokio::task::yield_now() => {}
            }
            counter.on_event(&LOST);
        }
        idle.await;
    }

    #[tokio::test]
    async fn is_not_idle_if_a_client_connects_in_time() {
        let counter = ConnectionCounter::default();
        let mut idle = pin!(counter.idle_for(Duration::MAX));
        tokio::select! {
            biased;
            () = &mut idle => panic!("the timeout is not over"),
            () = tokio::task::yield_now() => {}
        }
        counter.on_event(&RequestEvent::Connected);
        tokio::select! {
            biased;
            () = &mut idle => panic!("a client has connected"),
            () = tokio::task::yield_now() => {}
        }
    }
}
