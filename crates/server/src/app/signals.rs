//! Signals, and what each does to the server.
//!
//! | Signal | Effect |
//! |---|---|
//! | `SIGTERM`, `SIGINT`, `SIGQUIT` | orderly stop; the second one ends the process at once |
//! | `SIGHUP`, `SIGXCPU` | orderly stop; never the end at once: a closed terminal sends several, and service managers one more |
//! | `SIGUSR1`, `SIGUSR2` | a line in the log |
//! | `SIGXFSZ` | none: the write that is over the limit fails with an error |
//!
//! `SIGHUP` and `SIGQUIT` stay ignored if they were when the process started, as under `nohup`. `SIGPIPE` is ignored by
//! Rust's runtime.

use std::future::Future;
use std::io;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::log_control::LogControl;

const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;

/// How long the last log lines are waited for when the process ends at once.
const LOG_PATIENCE: Duration = Duration::from_millis(200);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// An orderly stop; at once, if it was asked for before.
    Stop,
    /// An orderly stop.
    StopInOrder,
    /// Nothing.
    Nothing,
}

/// Each signal, its name, and what it asks for.
const SIGNALS: [(&str, SignalKind, Request); 7] = [
    ("SIGTERM", SignalKind::terminate(), Request::Stop),
    ("SIGINT", SignalKind::interrupt(), Request::Stop),
    ("SIGQUIT", SignalKind::quit(), Request::Stop),
    ("SIGHUP", SignalKind::hangup(), Request::StopInOrder),
    ("SIGXCPU", SignalKind::from_raw(SIGXCPU), Request::StopInOrder),
    ("SIGUSR1", SignalKind::user_defined1(), Request::Nothing),
    ("SIGUSR2", SignalKind::user_defined2(), Request::Nothing),
];

/// Handles signals from now on. The result completes at the first that stops the server.
///
/// # Errors
/// A handler cannot be installed.
pub(super) fn handle(log: Arc<LogControl>) -> io::Result<impl Future<Output = ()>> {
    // Installing a handler is enough: the system call returns an error instead.
    let _installed = signal(SignalKind::from_raw(SIGXFSZ))?;
    let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    let stays_ignored =
        |kind: SignalKind| [SignalKind::hangup(), SignalKind::quit()].contains(&kind) && is_in(ignored, kind);
    let (sender, mut received) = unbounded_channel();
    for (name, kind, request) in SIGNALS.into_iter().filter(|(_, kind, _)| !stays_ignored(*kind)) {
        tokio::spawn(forward(name, signal(kind)?, request, sender.clone()));
    }
    Ok(async move {
        let mut stops = 0;
        stopped(&mut received, &mut stops).await;
        tokio::spawn(async move {
            while stops < 2 {
                stopped(&mut received, &mut stops).await;
            }
            tracing::warn!("second signal: exiting at once");
            log.flush(LOG_PATIENCE);
            process::exit(1);
        });
    })
}

/// Waits for a signal that stops the server. Counts those that are meant to be obeyed at once when repeated.
async fn stopped(received: &mut UnboundedReceiver<Request>, stops: &mut u32) {
    match received.recv().await {
        Some(Request::Stop) => *stops += 1,
        Some(_) => {}
        None => std::future::pending().await,
    }
}

async fn forward(name: &str, mut signal: Signal, request: Request, sender: UnboundedSender<Request>) {
    while signal.recv().await.is_some() {
        if request == Request::Nothing {
            tracing::info!("{name} has no effect; SIGTERM stops the server");
            continue;
        }
        tracing::info!("{name} received");
        let _ = sender.send(request);
    }
}

/// The set of ignored signals in the text of `/proc/self/status`, bit 0 for signal 1.
fn ignored(status: &str) -> u64 {
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

fn is_in(set: u64, kind: SignalKind) -> bool {
    set >> (kind.as_raw_value() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_which_signals_are_ignored() {
        let set = ignored("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n");
        assert!(is_in(set, SignalKind::hangup()) && is_in(set, SignalKind::pipe()));
        assert!(!is_in(set, SignalKind::quit()) && !is_in(ignored(""), SignalKind::hangup()));
    }

    #[tokio::test]
    async fn hangup_never_counts_as_impatience() {
        let (sender, mut received) = unbounded_channel();
        let mut stops = 0;
        for (request, after) in [
            (Request::StopInOrder, 0),
            (Request::StopInOrder, 0),
            (Request::Stop, 1),
            (Request::StopInOrder, 1),
            (Request::Stop, 2),
        ] {
            sender.send(request).unwrap();
            stopped(&mut received, &mut stops).await;
            assert_eq!(stops, after, "{request:?}");
        }
    }
}
