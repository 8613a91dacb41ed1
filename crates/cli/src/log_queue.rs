//! Log lines on their way to stderr: a bounded queue, and a thread that writes.
//!
//! Stderr may be a pipe without a reader, or with one that has stopped reading, or a file on a full disk. So no caller
//! waits for it, and no failure reaches a caller: a line that does not fit into the queue or cannot be written is lost
//! and counted. When lines can be written again, one of them says how many were lost.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use larder_server::app::log_control::LogSink;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that may wait.
const BYTES_MAX: usize = 4 << 20;

/// A stderr that another process made nonblocking is tried again after this time, this many times.
const RETRY: (Duration, u32) = (Duration::from_millis(20), 50);

/// The queue. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogQueue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of `lines`.
    bytes: usize,
    /// A line has been taken out and is being written.
    is_writing: bool,
    lost: u64,
}

impl LogQueue {
    /// A queue of lines, which a thread writes to `out`. Without a thread all lines are lost.
    pub(crate) fn start(out: impl Write + Send + 'static) -> Self {
        let queue = Self::default();
        let writer = Writer { queue: queue.clone(), out, is_torn: false, reported: 0 };
        let _ = thread::Builder::new().name("log".to_owned()).spawn(move || writer.run());
        queue
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.bytes + line.len() > BYTES_MAX {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits for a line, and takes it.
    fn take(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.is_writing = true;
                return line;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The line that was taken is written, or lost.
    fn finish(&self, is_written: bool) {
        let mut state = self.lock();
        state.is_writing = false;
        state.lost += u64::from(!is_written);
        drop(state);
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogSink for LogQueue {
    fn lost(&self) -> u64 {
        self.lock().lost
    }

    fn flush(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut state = self.lock();
        while !state.lines.is_empty() || state.is_writing {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { queue: self, bytes: Vec::new() }
    }
}

/// A line that is being formatted. Dropping it puts it into the queue.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    queue: &'a LogQueue,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.queue.push(&self.bytes);
        }
    }
}

/// What the thread does.
struct Writer<W> {
    queue: LogQueue,
    out: W,
    /// The end of the last line is missing.
    is_torn: bool,
    /// How many of the lost lines the log mentions.
    reported: u64,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        loop {
            self.step();
        }
    }

    /// Waits for a line and writes it.
    fn step(&mut self) {
        let line = self.queue.take();
        let is_written = self.write(&line).is_ok();
        self.queue.finish(is_written);
        let lost = self.queue.lost();
        if is_written && lost > self.reported {
            tracing::warn!(
                lines = lost - self.reported,
                "log lines were lost: stderr could not be written, or was too slow"
            );
            self.reported = lost;
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.write_all(b"\n")?;
            self.is_torn = false;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let (mut rest, mut tries) = (line, 0);
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && tries < RETRY.1 => {
                    tries += 1;
                    thread::sleep(RETRY.0);
                }
                Err(error) => {
                    self.is_torn |= rest.len() < line.len();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then fails as a full disk does.
    #[derive(Debug, Default)]
    struct Disk {
        text: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            let n = bytes.len().min(self.room);
            self.room -= n;
            self.text.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn writer(room: usize) -> Writer<Disk> {
        let out = Disk { text: Vec::new(), room };
        Writer { queue: LogQueue::default(), out, is_torn: false, reported: 0 }
    }

    #[test]
    fn lines_that_cannot_be_written_are_lost_and_counted() {
        let mut writer = writer(8);
        for line in ["first\n", "second\n", "third\n"] {
            writer.queue.make_writer().write_all(line.as_bytes()).unwrap();
            writer.step();
        }
        assert_eq!(writer.queue.lost(), 2);
        writer.out.room = 100;
        writer.queue.push(b"fourth\n");
        writer.step();
        assert_eq!(
            String::from_utf8_lossy(&writer.out.text),
            "first\nse\nfourth\n",
            "a torn line ends first"
        );
        assert_eq!((writer.queue.lost(), writer.reported), (2, 2));
    }

    #[test]
    fn queue_without_a_reader_stays_bounded() {
        let queue = LogQueue::default();
        let line = vec![b'x'; BYTES_MAX / 4];
        (0..6).for_each(|_| queue.push(&line));
        assert_eq!(queue.lost(), 2);
        assert_eq!(queue.lock().bytes, BYTES_MAX);
        queue.flush(Duration::ZERO);
    }

    #[test]
    fn flush_waits_until_all_is_written() {
        let queue = LogQueue::start(Disk { text: Vec::new(), room: usize::MAX });
        (0..100).for_each(|_| queue.push(b"line\n"));
        queue.flush(Duration::from_secs(60));
        let state = queue.lock();
        assert_eq!((state.bytes, state.is_writing, state.lost), (0, false, 0));
    }
}
