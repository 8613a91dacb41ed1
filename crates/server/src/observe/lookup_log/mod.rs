//! `--lookup-hash-log-dir DIR`: one JSON line for each lookup, in LMCache's format.
//!
//! `larder simulate` and LMCache's `cache-simulator` read the directory. Element types have their plain names
//! (`bfloat16`): LMCache's own simulator does not understand the `torch.bfloat16` that LMCache writes. Lines also
//! carry `cache_salt`, without which prompts of different tenants look the same. [`record`](super::recorder) records
//! more, in the core's order.
//!
//! A lookup costs a push of a few reference-counted pointers into a bounded queue. If the disk fails that is logged
//! once, and writing is tried again after a while.

mod files;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use larder_types::Layout;
use larder_types::object::ChunkHash;
use serde::Serialize;

use self::files::Files;
use super::bounded_writer::{BoundedWriter, Item, Write};
use super::bus::Subscriber;
use super::event::{Looked, RequestEvent};
use super::traces::UnixTime;
use crate::config::LookupHashLogConfig;

/// Lookups that may wait to be written.
const LOOKUPS_MAX: usize = 1 << 13;
/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(30);

/// A lookup to be written. Large parts are reference-counted, not copied.
#[derive(Debug)]
struct Lookup {
    at: UnixTime,
    request: Arc<str>,
    model: Arc<str>,
    salt: Arc<str>,
    tokens: u64,
    layouts: Vec<Layout>,
    chunk_hashes: Arc<[ChunkHash]>,
}

impl Item for Lookup {
    fn chunks(&self) -> usize {
        self.chunk_hashes.len()
    }
}

/// A line, in LMCache's format.
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

/// The log of lookups.
#[derive(Debug)]
pub struct LookupLog {
    queue: BoundedWriter<Lookup>,
}

impl LookupLog {
    /// Makes the directory if it is missing, and begins to write.
    ///
    /// # Errors
    /// The directory cannot be made, read or written.
    pub fn start(config: &LookupHashLogConfig, chunk_tokens: u32) -> io::Result<Self> {
        let mut files = Files::open(config.clone())?;
        // A directory that cannot be written is an error at the start, not at the first lookup.
        files.check(UnixTime::now())?;
        let writer = LogWriter { files, chunk_tokens, failed: None };
        Ok(Self { queue: BoundedWriter::start("lookup-log", LOOKUPS_MAX, writer)? })
    }

    /// Lines written and lines dropped.
    pub fn lines(&self) -> (u64, u64) {
        self.queue.counts()
    }

    /// Writes what is waiting and ends. Takes as long as the disk does.
    pub fn close(&self) {
        self.queue.close();
    }

    fn push(&self, at: UnixTime, looked: &Looked<'_>) {
        self.queue.push(Lookup {
            at,
            request: looked.spec.request_id.clone(),
            model: looked.spec.model.clone(),
            salt: looked.spec.salt.clone(),
            tokens: looked.prompt_tokens,
            layouts: looked.layouts.clone(),
            chunk_hashes: looked.spec.chunk_hashes.clone(),
        });
    }
}

impl Subscriber for LookupLog {
    fn on_event(&self, event: &RequestEvent<'_>) {
        // As in LMCache, only lookups that search for something.
        if let RequestEvent::Looked(looked) = event
            && looked.is_served
            && !looked.spec.chunk_hashes.is_empty()
        {
            self.push(UnixTime::now(), looked);
        }
    }
}

/// Writes the files, on a thread of its own.
struct LogWriter {
    files: Files,
    chunk_tokens: u32,
    /// Time of the last failed write, until one succeeds.
    failed: Option<UnixTime>,
}

impl Write<Lookup> for LogWriter {
    fn write(&mut self, lookup: Lookup, _dropped: u64) -> bool {
        if self.failed.is_some_and(|failed| lookup.at.since(failed) < RETRY) {
            return false;
        }
        let written = self.line(&lookup).and_then(|line| self.files.write(lookup.at, &line));
        match &written {
            Ok(()) if self.failed.take().is_some() => {
                tracing::info!("--lookup-hash-log-dir: lookups are logged again");
            }
            Ok(()) => {}
            Err(error) => {
                if self.failed.replace(lookup.at).is_none() {
                    tracing::warn!(%error, "--lookup-hash-log-dir: lookups cannot be logged, retrying every 30 s");
                }
            }
        }
        written.is_ok()
    }
}

impl LogWriter {
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
            chunk_hashes: lookup.chunk_hashes.iter().map(|hash| format!("0x{hash}")).collect(),
        })?;
        line.push(b'\n');
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use larder_core::LookupSpec;
    use larder_types::dtype::DType;
    use larder_types::{ConnectionId, Time};

    use super::super::bounded_writer::Worker;
    use super::*;

    fn config(dir: &Path) -> LookupHashLogConfig {
        LookupHashLogConfig {
            dir: dir.to_owned(),
            rotation_interval: Duration::from_secs(60),
            rotation_max_bytes: 1 << 20,
            max_files: 3,
        }
    }

    fn log(dir: &Path) -> (LookupLog, Worker<Lookup, LogWriter>) {
        let writer = LogWriter { files: Files::open(config(dir)).unwrap(), chunk_tokens: 16, failed: None };
        let (queue, worker) = BoundedWriter::new(LOOKUPS_MAX, writer);
        (LookupLog { queue }, worker)
    }

    fn look_up(log: &LookupLog, at: u64, chunks: usize) {
        let chunk_hashes: Arc<[ChunkHash]> = vec![ChunkHash::from_digest([0xab; 32]); chunks].into();
        let spec = LookupSpec {
            request_id: &"r".into(),
            connection: ConnectionId(1),
            model: &"m".into(),
            world_size: 1,
            worker_id: None,
            salt: &"s".into(),
            chunk_hashes: &chunk_hashes,
            start: 0,
            readers: 1,
        };
        let layouts = vec![Layout::new(&[2, 16, 12], DType::BFloat16).unwrap()];
        let (now, hit, is_served, l1_chunks, prompt_tokens) = (Time::ZERO, None, true, 0, 37);
        let looked = Looked { now, spec: &spec, prompt_tokens, is_served, hit, l1_chunks, layouts };
        log.push(UnixTime(at * 1_000_000_000), &looked);
    }

    #[test]
    fn writes_lines_like_lmcache_with_plain_types_and_the_salt() {
        let dir = files::tests::Directory::new();
        let (log, mut worker) = log(&dir.0);
        look_up(&log, 1_700_000_000, 2);
        assert!(worker.step());
        let [file] = &dir.files()[..] else { panic!("{:?}", dir.files()) };
        let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let hash = format!("0x{}", "ab".repeat(32));
        let expected = serde_json::json!({
            "timestamp": 1_700_000_000.0, "request_id": "r", "model_name": "m", "cache_salt": "s",
            "chunk_size": 16, "seq_len": 37, "dtypes": ["bfloat16"], "shapes": [[2, 16, 12]],
            "chunk_hashes": [hash, hash],
        });
        assert_eq!(line, expected);
        assert_eq!(log.lines(), (1, 0));
    }

    #[test]
    fn retries_a_failed_disk_after_a_pause() {
        let dir = files::tests::Directory::new();
        let (log, mut worker) = log(&dir.0);
        std::fs::remove_dir_all(&dir.0).unwrap();
        let mut next = |at: u64| {
            look_up(&log, at, 1);
            assert!(worker.step());
            (log.lines(), worker.writer.failed.is_some())
        };
        assert_eq!(next(100), ((0, 1), true));
        std::fs::create_dir_all(&dir.0).unwrap();
        assert_eq!(next(129), ((0, 2), true));
        assert_eq!(next(130), ((1, 2), false));
        assert_eq!(dir.files().len(), 1);
    }

    #[test]
    fn unwritable_directory_is_an_error_at_the_start() {
        for dir in ["/dev/null/logs", "/proc/1"] {
            assert!(LookupLog::start(&config(Path::new(dir)), 16).is_err(), "{dir}");
        }
    }
}
