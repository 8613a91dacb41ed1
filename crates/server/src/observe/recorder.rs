//! `--record FILE`: writes down what the server was asked, for `larder simulate` to replay with other policies and
//! sizes.
//!
//! One line for each lookup, retrieve, store and end, in the order in which the core executed them; the format is
//! [`larder_lab::recording`]'s. A request costs a push of a few reference-counted pointers into a bounded queue, with
//! the core's lock held, so that the order is the core's. If the disk is too slow and the queue is full, events are
//! dropped and counted; the file says where. After a failed write the recording ends, with one line in the log.
//!
//! A server that is started with an existing file appends to it, behind a new header line. A new file is readable by this
//! server's user only.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use larder_core::TransferSpec;
use larder_lab::recording::{Header, Line, VERSION, Writer};
use larder_types::Time;
use larder_types::object::{ChunkHash, KvRank};

use super::bounded_writer::{BoundedWriter, Item, Write};
use super::bus::Subscriber;
use super::event::RequestEvent;
use crate::private_file;

/// Events that may wait to be written.
const EVENTS_MAX: usize = 1 << 14;

/// One line to be written. Prompts are reference-counted, not copied.
#[derive(Debug)]
struct Event {
    at: Time,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Model { model: Arc<str>, world_size: u32, chunk_bytes: u64 },
    Lookup { request: Arc<str>, model: Arc<str>, salt: Arc<str>, tokens: u64, chain: Arc<[ChunkHash]> },
    Store { request: Arc<str>, model: Arc<str>, salt: Arc<str>, start: u32, chain: Vec<ChunkHash> },
    Retrieve { request: Arc<str>, start: u32, end: u32 },
    End { request: Arc<str>, hit: u32 },
}

impl Item for Event {
    fn chunks(&self) -> usize {
        match &self.step {
            Step::Lookup { chain, .. } => chain.len(),
            Step::Store { chain, .. } => chain.len(),
            Step::Model { .. } | Step::Retrieve { .. } | Step::End { .. } => 0,
        }
    }
}

/// The recording. Subscribe it in core order.
#[derive(Debug)]
pub struct Recorder {
    queue: BoundedWriter<Event>,
}

impl Recorder {
    /// Opens the file and begins to write.
    ///
    /// # Errors
    /// The file cannot be opened, or its header line cannot be written.
    pub fn start(path: &Path, chunk_tokens: u32) -> io::Result<Self> {
        let mut file = private_file::append(path)?;
        write_line(&mut file, &Header { larder_recording: VERSION, chunk_tokens })?;
        Ok(Self { queue: BoundedWriter::start("record", EVENTS_MAX, RecordingWriter::new(file))? })
    }

    /// Lines written and lines dropped.
    pub fn lines(&self) -> (u64, u64) {
        self.queue.counts()
    }

    /// Writes what is waiting and closes the file. Takes as long as the disk does.
    pub fn close(&self) {
        self.queue.close();
    }
}

impl Subscriber for Recorder {
    fn on_event(&self, event: &RequestEvent<'_>) {
        let (at, step) = match event {
            RequestEvent::Registered { now, model, world_size, object_bytes } => {
                let chunk_bytes = object_bytes.saturating_mul(u64::from(*world_size));
                (*now, Step::Model { model: Arc::clone(model), world_size: *world_size, chunk_bytes })
            }
            RequestEvent::Looked(looked) => {
                let spec = looked.spec;
                let step = Step::Lookup {
                    request: spec.request_id.clone(),
                    model: spec.model.clone(),
                    salt: spec.salt.clone(),
                    tokens: looked.prompt_tokens,
                    chain: spec.chunk_hashes.clone(),
                };
                (looked.now, step)
            }
            RequestEvent::Stored { now, spec, .. } if is_first_worker(spec) => {
                let step = Step::Store {
                    request: spec.request_id.clone(),
                    model: spec.model.clone(),
                    salt: spec.salt.clone(),
                    start: spec.start,
                    chain: spec.chunk_hashes[..spec.end as usize].to_vec(),
                };
                (*now, step)
            }
            RequestEvent::Retrieved { now, spec, .. } if is_first_worker(spec) => {
                let (start, end) = (spec.start, spec.end);
                (*now, Step::Retrieve { request: spec.request_id.clone(), start, end })
            }
            RequestEvent::Ended { now, request_id, hit } => {
                (*now, Step::End { request: (*request_id).into(), hit: *hit })
            }
            _ => return,
        };
        self.queue.push(Event { at, step });
    }
}

/// Writes the file, on a thread of its own.
struct RecordingWriter {
    out: BufWriter<File>,
    chains: Writer,
    /// How many of the dropped lines are noted in the file.
    noted: u64,
    /// Time of the last event, in milliseconds.
    at: u64,
    has_failed: bool,
}

impl RecordingWriter {
    fn new(file: File) -> Self {
        Self { out: BufWriter::new(file), chains: Writer::new(), noted: 0, at: 0, has_failed: false }
    }

    /// Does something that may fail. After the first failure nothing is tried any more. False if it failed.
    fn attempt(&mut self, action: impl FnOnce(&mut Self) -> io::Result<()>) -> bool {
        if self.has_failed {
            return false;
        }
        if let Err(error) = action(self) {
            self.has_failed = true;
            tracing::warn!(%error, "--record: the file cannot be written, the recording ends here");
        }
        !self.has_failed
    }

    fn write_event(&mut self, event: Event, dropped: u64) -> io::Result<()> {
        let at = event.at.as_millis();
        self.at = at;
        self.note_dropped(dropped)?;
        let line = match event.step {
            Step::Model { model, world_size, chunk_bytes } => {
                Line::Model { at, model, world_size, chunk_bytes }
            }
            Step::Lookup { request, model, salt, tokens, chain } => {
                Line::Lookup { at, request, model, salt, tokens, chain: self.chains.chain(&chain) }
            }
            Step::Store { request, model, salt, start, chain } => {
                let end = chain.len() as u32;
                Line::Store { at, request, model, salt, start, end, chain: self.chains.chain(&chain) }
            }
            Step::Retrieve { request, start, end } => Line::Retrieve { at, request, start, end },
            Step::End { request, hit } => Line::End { at, request, hit },
        };
        write_line(&mut self.out, &line)
    }

    /// Notes in the file how many lines are missing there.
    fn note_dropped(&mut self, dropped: u64) -> io::Result<()> {
        if dropped > self.noted {
            write_line(&mut self.out, &Line::Dropped { at: self.at, lines: dropped - self.noted })?;
            self.noted = dropped;
        }
        Ok(())
    }
}

impl Write<Event> for RecordingWriter {
    fn write(&mut self, event: Event, dropped: u64) -> bool {
        self.attempt(|writer| writer.write_event(event, dropped))
    }

    fn flush(&mut self) {
        self.attempt(|writer| writer.out.flush());
    }

    fn finish(&mut self, dropped: u64) {
        self.attempt(|writer| {
            writer.note_dropped(dropped)?;
            writer.out.flush()
        });
    }
}

/// Whether this is the first of a model's workers. The others store and read the same.
pub(crate) fn is_first_worker(spec: &TransferSpec<'_>) -> bool {
    spec.rank == KvRank::new(spec.rank.world_size(), 0)
}

fn write_line(out: &mut impl io::Write, value: &impl serde::Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    out.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(file: File) -> (Recorder, super::super::bounded_writer::Worker<Event, RecordingWriter>) {
        let (queue, worker) = BoundedWriter::new(EVENTS_MAX, RecordingWriter::new(file));
        (Recorder { queue }, worker)
    }

    fn end(recorder: &Recorder, n: usize) {
        recorder.on_event(&RequestEvent::Ended { now: Time::from_millis(n as u64), request_id: "r", hit: 0 });
    }

    /// Without a worker, as on a disk that hangs.
    #[test]
    fn notes_in_the_file_how_many_lines_were_dropped() {
        let path = std::env::temp_dir().join(format!("larder_recording_{}", std::process::id()));
        let (recorder, worker) = recorder(File::create(&path).unwrap());
        (0..EVENTS_MAX + 5).for_each(|n| end(&recorder, n));
        assert_eq!(recorder.lines(), (0, 5));
        drop(recorder);
        worker.run();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], Line::Dropped { at: 0, lines: 5 });
        assert_eq!(lines[EVENTS_MAX], Line::End { at: EVENTS_MAX as u64 - 1, request: "r".into(), hit: 0 });
        assert_eq!(lines.len(), EVENTS_MAX + 1);
    }

    #[test]
    fn full_disk_ends_the_recording_only() {
        let (recorder, mut worker) = recorder(File::create("/dev/full").unwrap());
        // More than fits into the buffer before the file.
        (0..1000).for_each(|n| end(&recorder, n));
        (0..1000).for_each(|_| assert!(worker.step()));
        let (written, dropped) = recorder.lines();
        assert!(written < 1000 && dropped > 0 && written + dropped == 1000, "{written} {dropped}");
    }
}
