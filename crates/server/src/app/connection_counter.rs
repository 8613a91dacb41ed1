//! Whether anybody is there: a server that an engine started for itself should not outlive it.

use std::time::Duration;

use tokio::sync::watch;

/// How many request peers are connected.
#[derive(Debug, Default)]
pub struct Presence {
    peers: watch::Sender<usize>,
}

impl Presence {
    /// A peer has connected.
    pub fn arrived(&self) {
        self.peers.send_modify(|peers| *peers += 1);
    }

    /// A peer that had [`arrived`](Self::arrived) is gone.
    pub fn left(&self) {
        self.peers.send_modify(|peers| *peers -= 1);
    }

    /// Completes once nobody has been connected for `patience` at a stretch.
    pub async fn deserted(&self, patience: Duration) {
        // Waiting fails only without a sender, and that is `self`.
        let mut peers = self.peers.subscribe();
        loop {
            let _ = peers.wait_for(|&peers| peers == 0).await;
            let somebody = peers.wait_for(|&peers| peers > 0);
            if tokio::time::timeout(patience, somebody).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn nobody_may_be_left() {
        let presence = Presence::default();
        presence.arrived();
        presence.arrived();
        let mut deserted = pin!(presence.deserted(Duration::ZERO));
        for _ in 0..2 {
            tokio::select! {
                biased;
                () = &mut deserted => panic!("somebody is still there"),
                () = tokio::task::yield_now() => {}
            }
            presence.left();
        }
        deserted.await;
    }

    #[tokio::test]
    async fn who_comes_in_time_is_waited_for() {
        let presence = Presence::default();
        let mut deserted = pin!(presence.deserted(Duration::MAX));
        tokio::select! {
            biased;
            () = &mut deserted => panic!("it is not over yet"),
            () = tokio::task::yield_now() => {}
        }
        presence.arrived();
        tokio::select! {
            biased;
            () = &mut deserted => panic!("somebody has come"),
            () = tokio::task::yield_now() => {}
        }
    }
}
