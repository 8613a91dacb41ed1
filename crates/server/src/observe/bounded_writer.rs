//! A bounded queue with a thread behind it that writes.
//!
//! Adding an item costs a push into the queue and never waits for the disk: items that do not fit are dropped and
//! counted.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Chunk hashes that may wait together, in all items: 32 MiB.
pub(crate) const CHUNKS_MAX: usize = 1 << 20;

/// An item of the queue.
pub(crate) trait Item: Send + 'static {
    /// Chunk hashes that the item keeps in memory.
    fn chunks(&self) -> usize;
}

/// Writes items on the writer's thread.
pub(crate) trait Write<T>: Send + 'static {
    /// Writes an item; false if it is lost. `dropped` items were lost before it.
    fn write(&mut self, item: T, dropped: u64) -> bool;
    /// Called when no item waits.
    fn flush(&mut self) {}
    /// Called after the last item.
    fn finish(&mut self, dropped: u64) {
        let _ = dropped;
    }
}

enum Message<T> {
    Item(T),
    Close,
}

#[derive(Debug, Default)]
struct Counts {
    queued_chunks: AtomicUsize,
    written: AtomicU64,
    dropped: AtomicU64,
}

/// The queue. Dropping it writes what waits.
pub(crate) struct BoundedWriter<T> {
    queue: SyncSender<Message<T>>,
    counts: Arc<Counts>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<T: Item> BoundedWriter<T> {
    /// Starts a thread called `name` behind a queue of `items_max` items.
    pub(crate) fn start(name: &str, items_max: usize, writer: impl Write<T>) -> io::Result<Self> {
        let (mut queue, worker) = Self::new(items_max, writer);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || worker.run())?;
        queue.thread = Mutex::new(Some(thread));
        Ok(queue)
    }

    /// A queue and the worker that empties it.
    pub(crate) fn new<W: Write<T>>(items_max: usize, writer: W) -> (Self, Worker<T, W>) {
        let (queue, messages) = sync_channel(items_max);
        let counts = Arc::new(Counts::default());
        let worker = Worker { writer, messages, counts: counts.clone() };
        (Self { queue, counts, thread: Mutex::new(None) }, worker)
    }

    /// Adds an item, or drops and counts it. Never waits.
    pub(crate) fn push(&self, item: T) {
        let chunks = item.chunks();
        let before = self.counts.queued_chunks.fetch_add(chunks, Ordering::Relaxed);
        if before + chunks > CHUNKS_MAX || self.queue.try_send(Message::Item(item)).is_err() {
            self.counts.queued_chunks.fetch_sub(chunks, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Items written and items dropped.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.counts.written.load(Ordering::Relaxed), self.counts.dropped.load(Ordering::Relaxed))
    }
}

impl<T> BoundedWriter<T> {
    /// Writes what waits and ends the thread. Takes as long as the disk does.
    pub(crate) fn close(&self) {
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = self.queue.send(Message::Close);
            let _ = thread.join();
        }
    }
}

impl<T> Drop for BoundedWriter<T> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T> fmt::Debug for BoundedWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedWriter").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// Empties the queue of a [`BoundedWriter`].
pub(crate) struct Worker<T, W> {
    pub(crate) writer: W,
    messages: Receiver<Message<T>>,
    counts: Arc<Counts>,
}

impl<T: Item, W: Write<T>> Worker<T, W> {
    /// Writes items until the queue is closed.
    pub(crate) fn run(mut self) {
        while self.step() {}
        self.writer.finish(self.counts.dropped.load(Ordering::Relaxed));
    }

    /// Waits for one item and writes it. False once the queue is closed.
    pub(crate) fn step(&mut self) -> bool {
        let message = self.messages.try_recv().or_else(|_| {
            self.writer.flush();
            self.messages.recv()
        });
        let Ok(Message::Item(item)) = message else { return false };
        self.counts.queued_chunks.fetch_sub(item.chunks(), Ordering::Relaxed);
        let is_written = self.writer.write(item, self.counts.dropped.load(Ordering::Relaxed));
        let counter = if is_written { &self.counts.written } else { &self.counts.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Chunks(usize);

    impl Item for Chunks {
        fn chunks(&self) -> usize {
            self.0
        }
    }

    /// Fails for items of 7 chunks.
    #[derive(Default)]
    struct Log {
        lines: Vec<(usize, u64)>,
        flushes: usize,
    }

    impl Write<Chunks> for Log {
        fn write(&mut self, item: Chunks, dropped: u64) -> bool {
            self.lines.push((item.0, dropped));
            item.0 != 7
        }

        fn flush(&mut self) {
            self.flushes += 1;
        }
    }

    #[test]
    fn drops_and_counts_items_beyond_either_limit() {
        let (queue, _worker) = BoundedWriter::new(2, Log::default());
        (0..5).for_each(|_| queue.push(Chunks(1)));
        assert_eq!(queue.counts(), (0, 3));
        let (queue, mut worker) = BoundedWriter::new(9, Log::default());
        queue.push(Chunks(CHUNKS_MAX));
        queue.push(Chunks(1));
        assert_eq!(queue.counts(), (0, 1));
        assert!(worker.step());
        queue.push(Chunks(CHUNKS_MAX));
        assert_eq!(queue.counts(), (1, 1), "what is written makes space");
    }

    #[test]
    fn passes_drops_to_the_writer_and_flushes_when_idle() {
        let (queue, mut worker) = BoundedWriter::new(2, Log::default());
        [1, 7, 3].into_iter().for_each(|chunks| queue.push(Chunks(chunks)));
        assert!(worker.step() && worker.step());
        assert_eq!(queue.counts(), (1, 2));
        drop(queue);
        assert!(!worker.step());
        assert_eq!((worker.writer.lines, worker.writer.flushes), (vec![(1, 1), (7, 1)], 1));
    }

    #[test]
    fn close_writes_what_waits() {
        let queue = BoundedWriter::start("test", 9, Log::default()).unwrap();
        (0..5).for_each(|_| queue.push(Chunks(1)));
        queue.close();
        assert_eq!(queue.counts(), (5, 0));
    }
}
