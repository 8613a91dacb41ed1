//! `--lookup-hash-log-dir DIR`: one JSON line for each lookup, as LMCache writes them (`operations.md` 6.2).
//!
//! `larder simulate` and LMCache's `cache-simulator` read the directory. Element types have their plain names
//! (`bfloat16`): LMCache's own simulator does not understand the `torch.bfloat16` that LMCache writes. Lines carry
//! `cache_salt` besides, without which the prompts of tenants look like one another's. [`record`](crate::recording)
//! tells more, and in the core's order; this is for what exists already.
//!
//! A lookup costs what it takes to push a few shared pointers into a bounded queue; what does not fit is dropped and
//! counted. A thread writes. If the disk fails that is logged once, and tried again after a while.

mod files;

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use larder_core::LookupSpec;
use larder_types::Layout;
use larder_types::object::ChunkHash;
use serde::Serialize;

use self::files::Files;
use crate::config::LookupHashLogConfig;
use crate::observe::traces::UnixTime;

/// Lookups that may wait to be written.
const LOOKUPS_MAX: usize = 1 << 13;
/// Chunks that they may have together: 32 MiB of hashes, if nobody else had them too.
const CHUNKS_MAX: usize = 1 << 20;
/// How long a disk that has failed is left alone.
const RETRY: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum Message {
    Lookup(Lookup),
    /// The log ends here.
    Close,
}

/// A lookup to be written. What is large is shared, not copied.
#[derive(Debug)]
struct Lookup {
    at: UnixTime,
    request: Arc<str>,
    model: Arc<str>,
    salt: Arc<str>,
    tokens: u64,
    layouts: Vec<Layout>,
    chain: Arc<[ChunkHash]>,
}

/// A line, as LMCache has it.
#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    timestamp: f64,
    request_id: &'a str,
    model_name: &'a str,
    cache_salt: &'a str,
    chunk_size: u32,
    seq_len: u64,
    dtypes: Vec<&'static str>,
    shapes: Vec<&'a [u64]>,
    chunk_hashes: Vec<String>,
}

/// Takes lookups and hands them to the thread that writes them.
#[derive(Debug)]
pub struct LookupLog {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What lookups and the writing thread both count.
#[derive(Debug, Default)]
struct Shared {
    queued_chunks: AtomicUsize,
    written: AtomicU64,
    dropped: AtomicU64,
}

impl LookupLog {
    /// Makes the directory if it is not there, and begins to write.
    ///
    /// # Errors
    /// If the directory cannot be made, read or written.
    pub fn start(config: &LookupHashLogConfig, chunk_tokens: u32) -> io::Result<Self> {
        let mut files = Files::open(config.clone())?;
        // What cannot be written is known at the start.
        files.check(UnixTime::now())?;
        let (mut log, pen, messages) = Self::with_pen(files, chunk_tokens);
        let thread =
            std::thread::Builder::new().name("lookup-log".to_owned()).spawn(move || pen.run(&messages))?;
        log.thread = Mutex::new(Some(thread));
        Ok(log)
    }

    /// A log, and who is to write what it takes.
    fn with_pen(files: Files, chunk_tokens: u32) -> (Self, Pen, Receiver<Message>) {
        let (queue, messages) = sync_channel(LOOKUPS_MAX);
        let shared = Arc::new(Shared::default());
        let pen = Pen { files, chunk_tokens, shared: shared.clone(), failed: None };
        (Self { queue, shared, thread: Mutex::new(None) }, pen, messages)
    }

    /// A prompt of so many tokens is looked up; `layouts` are those of a chunk's objects, for one rank.
    pub(crate) fn lookup(&self, at: UnixTime, spec: &LookupSpec<'_>, tokens: u64, layouts: Vec<Layout>) {
        let chunks = spec.chunk_hashes.len();
        let before = self.shared.queued_chunks.fetch_add(chunks, Ordering::Relaxed);
        let lookup = Lookup {
            at,
            request: spec.request_id.clone(),
            model: spec.model.clone(),
            salt: spec.salt.clone(),
            tokens,
            layouts,
            chain: spec.chunk_hashes.clone(),
        };
        if before + chunks > CHUNKS_MAX || self.queue.try_send(Message::Lookup(lookup)).is_err() {
            self.shared.queued_chunks.fetch_sub(chunks, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines written and lines dropped.
    pub fn lines(&self) -> (u64, u64) {
        (self.shared.written.load(Ordering::Relaxed), self.shared.dropped.load(Ordering::Relaxed))
    }

    /// Writes what is waiting and ends. Takes as long as the disk does.
    pub fn close(&self) {
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = self.queue.send(Message::Close);
            let _ = thread.join();
        }
    }
}

impl Drop for LookupLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread that writes.
struct Pen {
    files: Files,
    chunk_tokens: u32,
    shared: Arc<Shared>,
    /// When the disk has failed last, if it has not been written since.
    failed: Option<UnixTime>,
}

impl Pen {
    /// Writes lookups until nobody can send any more.
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(Message::Lookup(lookup)) = messages.recv() {
            self.shared.queued_chunks.fetch_sub(lookup.chain.len(), Ordering::Relaxed);
            self.lookup(&lookup);
        }
    }

    fn lookup(&mut self, lookup: &Lookup) {
        let rests = self.failed.is_some_and(|failed| lookup.at.since(failed) < RETRY);
        let written = !rests && self.note(lookup.at, |pen| pen.files.write(lookup.at, &pen.line(lookup)?));
        let counter = if written { &self.shared.written } else { &self.shared.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Does something that may fail, and says so once each time that it begins and ends to.
    fn note(&mut self, at: UnixTime, what: impl FnOnce(&mut Self) -> io::Result<()>) -> bool {
        match what(self) {
            Ok(()) => {
                if self.failed.take().is_some() {
                    tracing::info!("--lookup-hash-log-dir: lookups are logged again");
                }
                true
            }
            Err(error) => {
                if self.failed.replace(at).is_none() {
                    tracing::warn!(%error, "--lookup-hash-log-dir: lookups cannot be logged; trying on");
                }
                false
            }
        }
    }

    fn line(&self, lookup: &Lookup) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&Line {
            timestamp: lookup.at.0 as f64 / 1e9,
            request_id: &lookup.request,
            model_name: &lookup.model,
            cache_salt: &lookup.salt,
            chunk_size: self.chunk_tokens,
            seq_len: lookup.tokens,
            dtypes: lookup.layouts.iter().map(|layout| layout.dtype().name()).collect(),
            shapes: lookup.layouts.iter().map(|layout| &layout.shape()[..]).collect(),
            chunk_hashes: lookup.chain.iter().map(|hash| format!("0x{hash}")).collect(),
        })?;
        line.push(b'\n');
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use larder_types::ConnectionId;
    use larder_types::dtype::DType;

    use super::*;

    fn config(dir: &Path) -> LookupHashLogConfig {
        LookupHashLogConfig {
            dir: dir.to_owned(),
            rotation_interval: Duration::from_secs(60),
            rotation_max_bytes: 1 << 20,
            max_files: 3,
        }
    }

    fn look_up(log: &LookupLog, at: u64, chunks: usize) {
        let chain: Arc<[ChunkHash]> = vec![ChunkHash::from_digest([0xab; 32]); chunks].into();
        let spec = LookupSpec {
            request_id: &"r".into(),
            connection: ConnectionId(1),
            model: &"m".into(),
            world_size: 1,
            worker_id: None,
            salt: &"s".into(),
            chunk_hashes: &chain,
            readers: 1,
        };
        let layout = Layout::new(&[2, 16, 12], DType::BFloat16).unwrap();
        log.lookup(UnixTime(at * 1_000_000_000), &spec, 37, vec![layout]);
    }

    #[test]
    fn a_line_is_what_lmcache_writes_with_plain_types_and_the_salt() {
        let dir = files::tests::Directory::new();
        let (log, pen, messages) = LookupLog::with_pen(Files::open(config(&dir.0)).unwrap(), 16);
        look_up(&log, 1_700_000_000, 2);
        let shared = log.shared.clone();
        drop(log);
        pen.run(&messages);
        let [file] = &dir.files()[..] else { panic!("{:?}", dir.files()) };
        let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let hash = format!("0x{}", "ab".repeat(32));
        let expected = serde_json::json!({
            "timestamp": 1_700_000_000.0, "request_id": "r", "model_name": "m", "cache_salt": "s",
            "chunk_size": 16, "seq_len": 37, "dtypes": ["bfloat16"], "shapes": [[2, 16, 12]],
            "chunk_hashes": [hash, hash],
        });
        assert_eq!(line, expected);
        assert_eq!(shared.written.load(Ordering::Relaxed), 1);
        assert_eq!(shared.queued_chunks.load(Ordering::Relaxed), 0);
    }

    /// With nobody writing, as on a disk that hangs, lookups lose lines and no time.
    #[test]
    fn what_waits_is_bounded_in_lookups_and_in_chunks() {
        let dir = files::tests::Directory::new();
        let (log, _pen, _messages) = LookupLog::with_pen(Files::open(config(&dir.0)).unwrap(), 16);
        look_up(&log, 1, CHUNKS_MAX);
        assert_eq!(log.lines(), (0, 0));
        look_up(&log, 1, 1);
        assert_eq!(log.lines(), (0, 1));
        let (log, _pen, _messages) = LookupLog::with_pen(Files::open(config(&dir.0)).unwrap(), 16);
        (0..LOOKUPS_MAX + 5).for_each(|_| look_up(&log, 1, 1));
        assert_eq!(log.lines(), (0, 5));
    }

    #[test]
    fn a_disk_that_fails_is_left_alone_and_then_tried_again() {
        let dir = files::tests::Directory::new();
        let (log, mut pen, messages) = LookupLog::with_pen(Files::open(config(&dir.0)).unwrap(), 16);
        std::fs::remove_dir_all(&dir.0).unwrap();
        let next = |pen: &mut Pen, at: u64| {
            look_up(&log, at, 1);
            let Message::Lookup(lookup) = messages.recv().unwrap() else { panic!("a lookup") };
            pen.lookup(&lookup);
            log.lines()
        };
        assert_eq!(next(&mut pen, 100), (0, 1));
        std::fs::create_dir_all(&dir.0).unwrap();
        assert_eq!(next(&mut pen, 129), (0, 2));
        assert_eq!(next(&mut pen, 130), (1, 2));
        assert_eq!((pen.failed, dir.files().len()), (None, 1));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_known_at_the_start() {
        for dir in ["/dev/null/logs", "/proc/1"] {
            assert!(LookupLog::start(&config(Path::new(dir)), 16).is_err(), "{dir}");
        }
    }
}
