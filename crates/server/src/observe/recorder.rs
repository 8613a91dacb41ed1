//! `--record FILE`: what the server was asked, for `larder simulate` to ask it of other policies and sizes.
//!
//! One line for each lookup, retrieve, store and end, in the order in which the core saw them; the format is
//! [`larder_lab::recording`]'s. A request costs what it takes to push a few shared pointers into a
//! bounded queue, while it holds the core, so that the order is the core's. A thread writes. If the disk
//! is too slow and the queue is full, events are dropped and counted, never waited for; the file says
//! where. If the file cannot be written any more, that is logged once and the server serves on.
//!
//! A server that starts again with the same file goes on in it, behind a new first line.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use larder_core::TransferSpec;
use larder_lab::recording::{Header, Line, VERSION, Writer};
use larder_types::Time;
use larder_types::object::{ChunkHash, KvRank};

/// Events that may wait to be written.
const EVENTS_MAX: usize = 1 << 14;
/// Chunks that their prompts may have together: 32 MiB of hashes, if nobody else had them too.
const CHUNKS_MAX: usize = 1 << 20;

#[derive(Debug)]
enum Message {
    Event(Event),
    /// The recording ends here.
    Close,
}

/// Something to be written. Prompts are shared, not copied.
#[derive(Debug)]
struct Event {
    at: Time,
    what: What,
}

#[derive(Debug)]
enum What {
    Model { model: Arc<str>, world_size: u32, chunk_bytes: u64 },
    Lookup { request: Arc<str>, model: Arc<str>, salt: Arc<str>, tokens: u64, chain: Arc<[ChunkHash]> },
    Store { request: Arc<str>, model: Arc<str>, salt: Arc<str>, start: u32, chain: Vec<ChunkHash> },
    Retrieve { request: Arc<str>, start: u32, end: u32 },
    End { request: Arc<str>, hit: u32 },
}

impl What {
    fn chunks(&self) -> usize {
        match self {
            Self::Lookup { chain, .. } => chain.len(),
            Self::Store { chain, .. } => chain.len(),
            Self::Model { .. } | Self::Retrieve { .. } | Self::End { .. } => 0,
        }
    }
}

/// Takes events from requests and hands them to the thread that writes them.
#[derive(Debug)]
pub struct Recorder {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What requests and the writing thread both count.
#[derive(Debug, Default)]
struct Shared {
    queued_chunks: AtomicUsize,
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Recorder {
    /// Opens the file and begins to write.
    ///
    /// # Errors
    /// If the file cannot be opened or its first line not be written.
    pub fn start(path: &Path, chunk_tokens: u32) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        line(&mut file, &Header { larder_recording: VERSION, chunk_tokens })?;
        let (mut recorder, pen, messages) = Self::with_pen(file);
        let thread =
            std::thread::Builder::new().name("record".to_owned()).spawn(move || pen.run(&messages))?;
        recorder.thread = Mutex::new(Some(thread));
        Ok(recorder)
    }

    /// A recorder, and who is to write what it takes.
    fn with_pen(file: File) -> (Self, Pen, Receiver<Message>) {
        let (queue, messages) = sync_channel(EVENTS_MAX);
        let shared = Arc::new(Shared::default());
        let out = BufWriter::new(file);
        let pen = Pen { out, chains: Writer::new(), shared: shared.clone(), told: 0, at: 0 };
        (Self { queue, shared, thread: Mutex::new(None) }, pen, messages)
    }

    /// Workers serve a model.
    pub(crate) fn model(&self, at: Time, model: &Arc<str>, world_size: u32, object_bytes: u64) {
        let chunk_bytes = object_bytes.saturating_mul(u64::from(world_size));
        self.push(at, || What::Model { model: model.clone(), world_size, chunk_bytes });
    }

    /// A prompt is looked up.
    pub(crate) fn lookup(&self, at: Time, spec: &larder_core::LookupSpec<'_>, tokens: u64) {
        self.push(at, || What::Lookup {
            request: spec.request_id.clone(),
            model: spec.model.clone(),
            salt: spec.salt.clone(),
            tokens,
            chain: spec.chunk_hashes.clone(),
        });
    }

    /// A worker has stored a range. Only the first of a model's workers is heard: all store the same.
    pub(crate) fn store(&self, at: Time, spec: &TransferSpec<'_>) {
        if !is_first(spec) {
            return;
        }
        self.push(at, || What::Store {
            request: spec.request_id.clone(),
            model: spec.model.clone(),
            salt: spec.salt.clone(),
            start: spec.start,
            chain: spec.chunk_hashes[..spec.end as usize].to_vec(),
        });
    }

    /// A worker has read a range of a hit. Only the first of a model's workers is heard.
    pub(crate) fn retrieve(&self, at: Time, spec: &TransferSpec<'_>) {
        if is_first(spec) {
            let (start, end) = (spec.start, spec.end);
            self.push(at, || What::Retrieve { request: spec.request_id.clone(), start, end });
        }
    }

    /// A request is over.
    pub(crate) fn end(&self, at: Time, request: &str, hit: u32) {
        self.push(at, || What::End { request: request.into(), hit });
    }

    /// Lines written and lines dropped.
    pub fn lines(&self) -> (u64, u64) {
        (self.shared.written.load(Ordering::Relaxed), self.shared.dropped.load(Ordering::Relaxed))
    }

    /// Writes what is waiting and closes the file. Takes as long as the disk does.
    pub fn close(&self) {
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = self.queue.send(Message::Close);
            let _ = thread.join();
        }
    }

    fn push(&self, at: Time, what: impl FnOnce() -> What) {
        let what = what();
        let chunks = what.chunks();
        let fits = self.shared.queued_chunks.load(Ordering::Relaxed) + chunks <= CHUNKS_MAX;
        self.shared.queued_chunks.fetch_add(chunks, Ordering::Relaxed);
        if !fits || self.queue.try_send(Message::Event(Event { at, what })).is_err() {
            self.shared.queued_chunks.fetch_sub(chunks, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread that writes.
struct Pen {
    out: BufWriter<File>,
    chains: Writer,
    shared: Arc<Shared>,
    /// How many of the dropped lines the file knows of.
    told: u64,
    /// When the last event happened, in milliseconds.
    at: u64,
}

impl Pen {
    /// Writes events until nobody can send any more. What is written reaches the file whenever there is
    /// nothing else to do.
    fn run(mut self, messages: &Receiver<Message>) {
        let mut failed = false;
        loop {
            let message = messages.try_recv().or_else(|_| {
                self.note(&mut failed, |pen| pen.out.flush());
                messages.recv()
            });
            let Ok(Message::Event(event)) = message else { break };
            self.shared.queued_chunks.fetch_sub(event.what.chunks(), Ordering::Relaxed);
            if failed {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
            self.note(&mut failed, |pen| pen.write(event));
        }
        self.note(&mut failed, |pen| pen.tell_dropped());
        self.note(&mut failed, |pen| pen.out.flush());
    }

    /// Does something that may fail once. After that nothing is tried any more.
    fn note(&mut self, failed: &mut bool, what: impl FnOnce(&mut Self) -> io::Result<()>) {
        if *failed {
            return;
        }
        if let Err(error) = what(self) {
            *failed = true;
            tracing::warn!(%error, "--record: the file cannot be written any more, the recording ends here");
        }
    }

    fn write(&mut self, event: Event) -> io::Result<()> {
        let at = event.at.as_millis();
        self.at = at;
        self.tell_dropped()?;
        let written = match event.what {
            What::Model { model, world_size, chunk_bytes } => {
                Line::Model { at, model, world_size, chunk_bytes }
            }
            What::Lookup { request, model, salt, tokens, chain } => {
                Line::Lookup { at, request, model, salt, tokens, chain: self.chains.chain(&chain) }
            }
            What::Store { request, model, salt, start, chain } => {
                let end = chain.len() as u32;
                Line::Store { at, request, model, salt, start, end, chain: self.chains.chain(&chain) }
            }
            What::Retrieve { request, start, end } => Line::Retrieve { at, request, start, end },
            What::End { request, hit } => Line::End { at, request, hit },
        };
        line(&mut self.out, &written)?;
        self.shared.written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Pen {
    /// Notes in the file what is missing there.
    fn tell_dropped(&mut self) -> io::Result<()> {
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        if dropped > self.told {
            line(&mut self.out, &Line::Dropped { at: self.at, lines: dropped - self.told })?;
            self.told = dropped;
        }
        Ok(())
    }
}

/// Whether this is the first of a model's workers.
pub(crate) fn is_first(spec: &TransferSpec<'_>) -> bool {
    spec.rank == KvRank::new(spec.rank.world_size(), 0)
}

fn line(out: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    out.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(recorder: &Recorder, n: usize) {
        recorder.end(Time::from_millis(n as u64), "r", 0);
    }

    /// With nobody writing, as on a disk that hangs, requests lose lines and no time, and the file says so.
    #[test]
    fn a_slow_disk_costs_lines_that_are_counted() {
        let path = std::env::temp_dir().join(format!("larder_recording_{}", std::process::id()));
        let (recorder, pen, messages) = Recorder::with_pen(File::create(&path).unwrap());
        (0..EVENTS_MAX + 5).for_each(|n| end(&recorder, n));
        assert_eq!(recorder.lines(), (0, 5));
        drop(recorder);
        pen.run(&messages);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], Line::Dropped { at: 0, lines: 5 });
        assert_eq!(lines[EVENTS_MAX], Line::End { at: EVENTS_MAX as u64 - 1, request: "r".into(), hit: 0 });
        assert_eq!(lines.len(), EVENTS_MAX + 1);
    }

    #[test]
    fn prompts_that_wait_are_bounded_together() {
        let (recorder, _pen, _messages) = Recorder::with_pen(File::create("/dev/null").unwrap());
        let chain: Arc<[ChunkHash]> = vec![ChunkHash::from_digest([1; 32]); CHUNKS_MAX / 2 + 1].into();
        let spec = larder_core::LookupSpec {
            request_id: &"r".into(),
            connection: larder_types::ConnectionId(1),
            model: &"m".into(),
            world_size: 1,
            worker_id: None,
            salt: &"".into(),
            chunk_hashes: &chain,
            readers: 1,
        };
        recorder.lookup(Time::ZERO, &spec, 1);
        assert_eq!(recorder.lines().1, 0);
        recorder.lookup(Time::ZERO, &spec, 1);
        assert_eq!(recorder.lines().1, 1);
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_nothing_else() {
        let (recorder, pen, messages) = Recorder::with_pen(File::create("/dev/full").unwrap());
        // More than fits into the buffer before it.
        (0..1000).for_each(|n| end(&recorder, n));
        let shared = recorder.shared.clone();
        drop(recorder);
        pen.run(&messages);
        let (written, dropped) =
            (shared.written.load(Ordering::Relaxed), shared.dropped.load(Ordering::Relaxed));
        assert!(written < 1000 && dropped > 0 && written + dropped >= 999, "{written} {dropped}");
    }
}
