//! The timer of a connection's task.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Wakes a task at a time that changes with nearly every message.
///
/// A timer that is set too early stays: one needless wake costs less than moving it each time.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready with the time of now at `next`, or earlier. Otherwise the task is woken then.
    pub fn poll(&mut self, next: Instant, cx: &mut Context<'_>) -> Poll<Instant> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(next)));
        if sleep.deadline() > next || sleep.is_elapsed() {
            sleep.as_mut().reset(next);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Instant::now())
    }
}
