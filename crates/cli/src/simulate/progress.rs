//! A progress bar for long work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time after which the bar appears.
const DELAY: Duration = Duration::from_millis(700);
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);

/// Runs `work`, which counts `done` up to `total`, with a progress bar on stderr if that is a terminal.
pub(super) fn with_bar<T>(total: u64, done: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let (finished, is_finished) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if is_finished.recv_timeout(DELAY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:40} {percent:>3} %, {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            while is_finished.recv_timeout(UPDATE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                bar.set_position(done.load(Ordering::Relaxed));
            }
            bar.finish_and_clear();
        });
        let value = work();
        drop(finished);
        value
    })
}
