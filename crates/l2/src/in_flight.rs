//! Count of running operations, so that closing can wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{ErrorKind, L2Error};

/// Counts running operations and refuses new ones once closed.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    running: Arc<watch::Sender<usize>>,
    closed: Arc<AtomicBool>,
}

/// One running operation, until dropped.
#[derive(Debug)]
pub(crate) struct Running(Arc<watch::Sender<usize>>);

impl InFlight {
    pub(crate) fn new() -> Self {
        Self { running: Arc::new(watch::Sender::new(0)), closed: Arc::new(AtomicBool::new(false)) }
    }

    /// Starts an operation.
    pub(crate) fn begin(&self) -> Result<Running, L2Error> {
        // Counted before the check: either close() waits for this operation, or this one sees it closed.
        self.running.send_modify(|running| *running += 1);
        let one = Running(Arc::clone(&self.running));
        if self.closed.load(Ordering::SeqCst) {
            return Err(L2Error::permanent(ErrorKind::Closed, "the adapter is closed"));
        }
        Ok(one)
    }

    /// Runs `work` in a task of its own, so that it completes even if the caller drops the future.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<JoinHandle<T>, L2Error> {
        let running = self.begin()?;
        Ok(tokio::spawn(async move {
            let _running = running;
            work.await
        }))
    }

    /// Refuses new operations, then waits until none runs.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let mut running = self.running.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = running.wait_for(|running| *running == 0).await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn close_waits_for_running_operations() {
        let in_flight = InFlight::new();
        let one = in_flight.begin().unwrap();
        let mut close = tokio_test_poll(in_flight.clone());
        assert!(!poll(&mut close));
        assert_eq!(in_flight.begin().unwrap_err().kind(), ErrorKind::Closed);
        drop(one);
        assert!(poll(&mut close));
    }

    type Closing = std::pin::Pin<Box<dyn Future<Output = ()>>>;

    fn tokio_test_poll(in_flight: InFlight) -> Closing {
        Box::pin(async move { in_flight.close().await })
    }

    fn poll(closing: &mut Closing) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        closing.as_mut().poll(&mut context).is_ready()
    }
}
